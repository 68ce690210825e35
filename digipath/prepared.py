"""A slide on its way through a segmenter: open, looked at and planned; then streamed, journalled and put together."""

import glob
import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from digipath import __version__
from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Box
from digipath.geometry.raster import Raster
from digipath.inference.cascade import Coarse, filled, refined
from digipath.inference.engine import Pass, Progress, Strip
from digipath.inference.journal import FIRST_STAGE, Journal, identity_in
from digipath.inference.passes import stream_passes
from digipath.inference.program import Program
from digipath.inference.sinks import FileSink, MemorySink
from digipath.io.pyramid import RGB
from digipath.io.store import open_store
from digipath.networks import Networks
from digipath.provenance import describe_slide
from digipath.record import complete, describe_pass, record
from digipath.result_folder import staged, writing
from digipath.segmentation import Segmentation
from digipath.slides.slide import Slide
from digipath.tissue_source import FoundTissue

__all__ = ["JOURNAL", "Prepared"]

JOURNAL = ".journal"
"""Where in a result's folder the finished strips lie until it is complete."""

# What a result may take in memory; beyond, it goes to disk.
_MEMORY = 2 * 2**30
_THUMBNAIL = 1600
# Settings that change nothing about a strip.
_FREE = ("threshold", "threads", "batch", "max_unread")
_REST = "blending and writing"

Report = Callable[[Progress], None] | None


@dataclass
class Prepared:
    """A slide that is open, looked at and planned; its first patches are being read. `Segmenter.predict` takes it.

    Attributes:
        slide: The open slide.
        owned: Whether closing this closes the slide.
        tissue: Where to look, and why there.
        region: Only this box, in level-0 pixels; None for the whole slide.
        networks: As they were named.
        program: As they are put together.
        first: The pass of a cascade's first stage; None without.
        passes: The passes that make the heatmap; of a cascade, until the first stage is done, with every patch.
        effort: The name of the settings, if they have one.
        seconds: What took how long.
        resumed: How many times this slide was gone on with.
    """

    slide: Slide
    owned: bool
    tissue: FoundTissue
    region: Box | None
    networks: Networks
    program: Program
    first: Pass | None
    passes: tuple[Pass, ...]
    effort: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    resumed: int = 0
    _repaired: list[Box] = field(default_factory=list)

    def __enter__(self) -> "Prepared":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead, and close the slide if it was opened for this."""
        for _, one in self.stages:
            one.close()
        if self.owned:
            self.slide.close()

    @property
    def stages(self) -> list[tuple[str, Pass]]:
        """All passes, each with the stage that it is of: "first" and "second" of a cascade, else "only"."""
        if self.first is None:
            return [("only", one) for one in self.passes]
        return [("first", self.first), *(("second", one) for one in self.passes)]

    @property
    def repaired(self) -> list[Box]:
        """Level-0 boxes that were read from a coarser level, also before this run was gone on with."""
        return list(dict.fromkeys([*self._repaired, *self.slide.repairs]))

    @cached_property
    def thumbnail(self) -> Raster:
        """The slide, small, in RGB."""
        frame = self.slide.frame.at(self.slide.frame.mpp * max(1.0, max(self.slide.frame.shape) / _THUMBNAIL))
        return Raster(self.slide.read_covered(frame.box, frame)[0], frame, RGB)

    @property
    def patches(self) -> int:
        """How many patches there are to predict; of a cascade at most."""
        return sum(len(one.plan.boxes) for _, one in self.stages)

    def begin(self) -> None:
        """Read the thumbnail, and the first patches in the background."""
        begin, _ = time.perf_counter(), self.thumbnail
        self.seconds["preparing"] += time.perf_counter() - begin
        for one in self.passes if self.first is None else (self.first,):
            one.begin(self.slide)

    def in_memory(self, report: Report) -> Segmentation:
        """Segment the slide, keeping everything in memory."""
        channels, chosen = self.program.channels, self.passes[0].plan
        needed = chosen.memory(2 * len(channels) - len(self.program.spec.classes))  # a variance has twice the bytes
        if needed > _MEMORY:
            raise SpecError(
                f"a result of up to {_MEMORY / 2**30:g} GiB is kept in memory, and this one takes "
                f"{needed / 2**30:.1f}. Give out= a folder, or a coarser heatmap_mpp."
            )
        coarse = None
        if self.first is not None:
            coarse = self._coarse(self._timed(stream_passes(self.slide, [self.first], progress=report)))
        sink = MemorySink(chosen.heatmap_frame, channels)
        for strip in self._timed(self._strips(coarse, report, 0)):
            sink.write(strip)
        parts = (sink.heatmap, sink.covered, chosen.tissue, self.thumbnail)
        return complete(Segmentation(*parts, info=record(self), uncertainty=sink.uncertainty), self)

    def to_folder(self, folder: Path, report: Report) -> Segmentation:
        """Segment the slide into a folder, going on from what an earlier run has journalled there."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._look_at(folder / JOURNAL)
        chosen, channels = self.passes[0].plan, self.program.channels
        with _journal(folder / JOURNAL, self._identity(), chosen.heatmap_frame, channels) as journal:
            coarse = self._journalled_coarse(journal, report)
            self.resumed = max(self.resumed, journal.resumed)
            self._go_on(self.passes, journal.state)
            if not journal.complete:
                for strip in self._timed(self._strips(coarse, report, journal.first_row)):
                    journal.write(strip, self._state(self.passes))
            self._assemble(folder, journal)
        return Segmentation.load(folder)

    def _journalled_coarse(self, journal: Journal, report: Report) -> Coarse | None:
        """What the first stage of a cascade found, in a journal inside of the second's."""
        if self.first is None:
            return None
        frame, stage = self.first.plan.heatmap_frame, [self.first]
        kept = Journal(journal.folder / FIRST_STAGE, self._identity(), frame=frame, channels=self.program.channels)
        self.resumed = kept.resumed
        self._go_on(stage, kept.state)
        if not kept.complete:
            strips = stream_passes(self.slide, stage, progress=report, first_row=kept.first_row)
            for strip in self._timed(strips):
                kept.write(strip, self._state(stage))
        return self._coarse(kept.strips())

    def _coarse(self, strips: Iterator[Strip]) -> Coarse:
        """The first stage's values; the second's plans lose what it does not call for."""
        frame, settings = self.first.plan.heatmap_frame, self.program.settings
        parts = list(strips)
        # float16, as a journal holds them: a candidate is one on every way.
        values = np.concatenate([part.values for part in parts])
        classes = len(self.program.spec.classes)
        values[:, :, :classes] = values[:, :, :classes].astype(np.float16)
        coarse = Coarse.of(
            Raster(values, frame, self.program.channels),
            Raster(np.concatenate([part.covered for part in parts]), frame),
            classes - 1,
            settings.candidate,
        )
        for one in self.passes:
            one.plan = refined(one.plan, coarse.candidates)
        return coarse

    def _strips(self, coarse: Coarse | None, report: Report, first_row: int) -> Iterator[Strip]:
        complete = coarse and partial(filled, coarse=coarse)
        return stream_passes(self.slide, self.passes, progress=report, first_row=first_row, complete=complete)

    def _timed(self, strips: Iterator[Strip]) -> Iterator[Strip]:
        """The same strips, while the clock runs."""
        before, begin, known = self.seconds.get(_REST, 0.0), time.perf_counter(), sum(self._network_seconds())

        def look() -> None:
            waiting, predicting = self._network_seconds()
            rest = before + time.perf_counter() - begin - (waiting + predicting - known)
            self.seconds |= {"waiting for pixels": waiting, "predicting": predicting, _REST: rest}

        for strip in strips:
            look()
            yield strip
        look()

    def _network_seconds(self) -> tuple[float, float]:
        tallies = [one.tally for _, one in self.stages]
        return sum(tally.waiting for tally in tallies), sum(tally.predicting for tally in tallies)

    def _assemble(self, folder: Path, journal: Journal) -> None:
        """HDF5, TIFFs and everything drawn from them, out of the finished strips."""
        rasters = {"tissue": self.passes[0].plan.tissue, "thumbnail": self.thumbnail}
        for left in folder.glob(f".{glob.escape(folder.name)}.*.part"):  # by a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        with _telling(folder), staged(folder) as place:
            with FileSink(place, journal.frame, journal.channels, rasters) as sink:
                for strip in journal.strips():
                    sink.write(strip)
            with open_store(place / "result.h5") as store:
                parts = (store[name] for name in ("heatmap", "covered", *rasters))
                made = Segmentation(*parts, info=record(self), uncertainty=store.get("uncertainty"))
                complete(made, self).write_products(place)

    def _identity(self) -> dict[str, Any]:
        """What makes a strip what it is: a run that differs in any of it cannot go on from it."""
        settings = {name: value for name, value in asdict(self.program.settings).items() if name not in _FREE}
        mask = np.packbits(self.tissue.mask.array())
        slide = describe_slide(self.slide)
        return {
            "digipath": __version__,
            "slide": {name: value for name, value in slide.items() if name not in ("path", "name")}
            | {"looks": hashlib.sha256(self.thumbnail.array().tobytes()).hexdigest()[:16]},
            "networks": self.networks.describe(),
            "strangers": self.networks.strangers,
            "settings": settings,
            "passes": [describe_pass(stage, one) for stage, one in self.stages],
            "tissue": {
                "frame": asdict(self.tissue.mask.frame),
                "mask": hashlib.sha256(mask.tobytes()).hexdigest()[:16],
            },
            "region": self.region and asdict(self.region),
        }

    def _look_at(self, journal: Path) -> None:
        """Take a journal's batches, as a trial may find others each time; forget one of networks that nobody knows."""
        found = identity_in(journal)
        before, now = found.get("strangers"), self.networks.strangers
        if before and now and before != now:
            warnings.warn(
                f"{self.slide.name}: what an earlier run had finished is predicted again, because a network that is no "
                "Bundle cannot be recognised.",
                stacklevel=4,
            )
            shutil.rmtree(journal)
            return
        passes = found.get("passes", [])
        if self.program.settings.batch is None and len(passes) == len(self.stages):
            for (_, one), known in zip(self.stages, passes, strict=True):
                if one.plan.batch != known["batch"]:
                    one.plan = replace(one.plan, batch=int(known["batch"]))

    def _state(self, passes: list[Pass] | tuple[Pass, ...]) -> dict[str, Any]:
        """What a run that goes on from here has to know."""
        boxes = [[box.x, box.y, box.width, box.height] for box in self.repaired]
        return {"passes": [one.tally.state for one in passes], "repaired": boxes, "seconds": self.seconds}

    def _go_on(self, passes: list[Pass] | tuple[Pass, ...], state: dict[str, Any]) -> None:
        """Take over what an earlier run knew with its last finished strip."""
        if not state:
            return
        for one, known in zip(passes, state["passes"], strict=True):
            one.tally.resume(known)
        self._repaired = [Box(*box) for box in state["repaired"]]
        self.seconds = {**state["seconds"], "preparing": self.seconds["preparing"]}


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Tell in one line why a result cannot be put together, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ResultError(
            f"{folder}: the slide is predicted, and its result cannot be written: {reason}. The heatmap is kept in "
            f"{JOURNAL}; mend that, for instance by freeing space on the disk, and the same call goes on from there."
        ) from error


@contextmanager
def _journal(folder: Path, identity: dict[str, Any], frame: Any, channels: tuple[str, ...]) -> Iterator[Journal]:
    """A journal that is deleted at the end, and also on an exception, where nothing is in it yet."""
    journal = Journal(folder, identity, frame=frame, channels=channels)
    try:
        yield journal
    except BaseException:
        if not journal.first_row and not (folder / FIRST_STAGE / "0.npy").exists():
            journal.remove()
            with suppress(OSError):  # it holds something else
                folder.parent.rmdir()
        raise
    journal.remove()
