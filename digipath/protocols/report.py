"""What a protocol gives: scores with intervals, a row for each case, what was left out, and figures."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import digipath
from digipath.errors import ResultError
from digipath.evaluation.bootstrap import Interval, bootstrap
from digipath.io.strips import replacing
from digipath.protocols.figures import ReportFigure
from digipath.protocols.settings import EvaluationSettings

__all__ = ["Report", "Score", "Scorer"]


@dataclass(frozen=True)
class Score:
    """One number of a report.

    Attributes:
        name: What it is called.
        value: NaN where it is undefined.
        of: What it is of, such as "48 slides".
        meaning: One line that defines it.
        interval: From resampled cases; None where a score has none.
    """

    name: str
    value: float
    of: str
    meaning: str
    interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        interval = None if self.interval is None else asdict(self.interval)
        return asdict(self) | {"interval": interval}


@dataclass(frozen=True)
class Scorer:
    """Makes scores of cases, all with the same resamples.

    Attributes:
        settings: How many, and their seed.
        unit: What a case is, in the plural.
    """

    settings: EvaluationSettings
    unit: str = "slides"

    def __call__(self, name: str, statistic: Callable[[list], float], cases: Sequence, meaning: str) -> Score:
        """A score of cases with its interval; see `bootstrap`."""
        of = f"{len(cases)} {self.unit if len(cases) != 1 else self.unit.removesuffix('s')}"
        if not cases:
            return Score(name, math.nan, of, meaning)
        interval = bootstrap(statistic, cases, resamples=self.settings.resamples, seed=self.settings.seed)
        return Score(name, interval.value, of, meaning, interval)

    def mean(self, name: str, values: Sequence[float], meaning: str) -> Score:
        """The mean over the cases that have a value: those without are NaN, and neither drawn nor counted."""
        return self(name, lambda chosen: sum(chosen) / len(chosen), _known(values), meaning)


def _known(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if not math.isnan(value)]


@dataclass(frozen=True)
class Report:
    """The scores of a protocol.

    Attributes:
        protocol: Its name.
        scores: The challenge's own first.
        cases: A row of named values for each slide, patient or section.
        notes: What was left out, and why; one line each.
        settings: With which it was made.
        drawings: Figures by the name of their file, without its suffix.

    Example:
        >>> report = camelyon16("truth", "predictions")  # doctest: +SKIP
        >>> print(report.table())  # doctest: +SKIP
        >>> report.save("report")  # doctest: +SKIP
    """

    protocol: str
    scores: tuple[Score, ...]
    cases: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    settings: EvaluationSettings
    drawings: Mapping[str, ReportFigure] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The value of a score, by its name."""
        for score in self.scores:
            if score.name == name:
                return score.value
        raise ResultError(
            f"the scores of {self.protocol} are {', '.join(score.name for score in self.scores)}; got {name!r}."
        )

    def table(self) -> str:
        """The scores with their intervals, and the notes below them, as text."""
        head = ("score", "value", "95 % interval", "of")
        rows = [head, *(_row(score) for score in self.scores)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"protocol {self.protocol}", lines[0], "-" * len(lines[0]), *lines[1:], *notes])

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures, ready for JSON; what is undefined is None."""
        settings = {  # where the files lie is nobody else's business
            name: value.name if isinstance(value, Path) else value for name, value in asdict(self.settings).items()
        }
        return _plain(
            {
                "protocol": self.protocol,
                "digipath": digipath.__version__,
                "scores": [score.to_json() for score in self.scores],
                "notes": list(self.notes),
                "settings": {name: value for name, value in settings.items() if value is not None},
                "cases": [dict(row) for row in self.cases],
                "figures": {name: drawing.to_json() for name, drawing in self.drawings.items()},
            }
        )

    def figures(self) -> dict[str, bytes]:
        """PNG files by their names."""
        return {f"{name}.png": drawing.png() for name, drawing in self.drawings.items()}

    def save(self, folder: str | Path) -> Path:
        """Write `report.json`, `table.txt` and the figures into a folder, which is made; `report.json` comes last."""
        folder = Path(folder)
        texts = {"table.txt": self.table(), "report.json": json.dumps(self.to_json(), indent=2, allow_nan=False)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = self.figures() | {name: f"{text}\n".encode() for name, text in texts.items()}
            for name, data in files.items():
                with replacing(folder / name) as unfinished:
                    unfinished.write_bytes(data)
        except OSError as error:
            raise ResultError(
                f"a report is written to a folder, and {folder} cannot be: {error.strerror or error}."
            ) from error
        return folder


def _row(score: Score) -> tuple[str, str, str, str]:
    ends = "–"
    if score.interval is not None and not math.isnan(score.interval.low):
        ends = f"{score.interval.low:.4f} to {score.interval.high:.4f}"
        if score.interval.undefined:
            ends += f" ({score.interval.undefined} of {score.interval.resamples} undefined)"
    return score.name, "undefined" if math.isnan(score.value) else f"{score.value:.4f}", ends, score.of


def _plain(value: Any) -> Any:
    """The same in JSON's types; NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
