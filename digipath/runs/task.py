"""A slide to be segmented, how a run goes about its slides, and how a slide ended."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from digipath.errors import SpecError

__all__ = ["AREAS", "DONE", "STATUSES", "Outcome", "Report", "RunSettings", "Task"]

AREAS = ("lesion_mm2", "tissue_mm2", "covered_mm2", "uncovered_mm2")
"""Areas that an outcome tells; of the lesion, that of the last class."""

DONE = ("ok", "incomplete", "empty")
"""The ways of ending that leave a result."""

STATUSES = (*DONE, "failed", "skipped", "locked")
"""All ways in which a slide can end: "skipped" was done before, "locked" is in the hands of another process."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A slide and the folder of its result: all that a process on another machine has to be told.

    Attributes:
        slide: The file, as it was given.
        folder: Where its result goes; the last part of it is the slide's name in the run.
        mpp: Micrometres per pixel at level 0, for a slide that does not say.
        tissue: A mask image, GeoJSON or ASAP file; None finds the tissue.
        region: Only this box (x, y, width, height), in level-0 pixels.
    """

    slide: Path
    folder: Path
    mpp: float | None = None
    tissue: Path | None = None
    region: tuple[int, int, int, int] | None = None

    @property
    def name(self) -> str:
        """What the slide is called in the run."""
        return self.folder.name

    def to_json(self) -> dict[str, Any]:
        """The task as JSON can hold it."""
        paths = {
            name: value and str(value) for name in ("slide", "folder", "tissue") for value in [getattr(self, name)]
        }
        return paths | {"mpp": self.mpp, "region": list(self.region) if self.region else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Task":
        """The task that `to_json` told of."""
        paths = {name: values[name] and Path(values[name]) for name in ("slide", "folder", "tissue")}
        return cls(**paths, mpp=values["mpp"], region=tuple(values["region"]) if values["region"] else None)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run goes about its slides.

    Attributes:
        overwrite: Replace results, also those of other settings, instead of skipping or refusing them.
        began: With `overwrite`, what was written since this moment (seconds since 1970, by the clock of the results'
            disk) is the run's own and is kept; so a run that was stopped goes on. None replaces everything.
        errors: "skip" goes on after a slide that failed, "raise" stops at the first.
        time_limit: Seconds that a slide may take; None sets no limit. It is looked at after every batch.
        expiry: Seconds without a heartbeat after which a lock belongs to nobody.
        heartbeat: Seconds from one heartbeat to the next.
        wait: Seconds to wait for a slide that another process has, before it counts as locked.
    """

    overwrite: bool = False
    began: float | None = None
    errors: str = "skip"
    time_limit: float | None = None
    expiry: float = 300.0
    heartbeat: float = 15.0
    wait: float = 0.0

    def __post_init__(self):
        if self.errors not in ("skip", "raise"):
            raise SpecError(f'errors is "skip" or "raise", got {self.errors!r}. Choose one of them.')
        for name in ("time_limit", "expiry", "heartbeat"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpecError(f"{name} is a number of seconds above 0, got {value}. Give a longer time.")
        if not (math.isfinite(self.wait) and self.wait >= 0):
            raise SpecError(f"wait is a number of seconds from 0, got {self.wait}. 0 does not wait.")
        if self.expiry < 3 * self.heartbeat * (1 - 1e-9):
            raise SpecError(
                f"a lock expires after at least three heartbeats, got an expiry of {self.expiry:g} s and a heartbeat "
                f"every {self.heartbeat:g} s. Give expiry={3 * self.heartbeat:g} or more."
            )

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunSettings":
        """The settings that `to_json` told of."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a slide ended.

    Attributes:
        name: What the slide is called in the run: its result folder's name.
        slide: The file, as it was given.
        status: One of `STATUSES`.
        reason: One line: why it failed, who has it, or why it was skipped; else empty.
        areas: lesion_mm2, tissue_mm2, covered_mm2 and uncovered_mm2, where there is a result.
        seconds: That the slide took in this run.
        notes: What a reader of the numbers should know before believing them.
        summary: `Segmentation.summary()`, where this run made the result.
        traceback: Of what failed; else empty.
    """

    name: str
    slide: str
    status: str
    reason: str = ""
    areas: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    summary: str = ""
    traceback: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise SpecError(f"a slide's status is one of {', '.join(STATUSES)}, got {self.status!r}.")
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON can hold it."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outcome":
        """The outcome that `to_json` told of; entries of a newer digipath are left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Report:
    """Who is told how a run goes; both are called in the process that began the run.

    Attributes:
        finished: Called with the `Outcome` of each slide as it ends.
        progress: Called with a `Task`, the patches that are done and their total after a batch.
    """

    finished: Callable[[Outcome], None] | None = None
    progress: Callable[[Task, int, int], None] | None = None
