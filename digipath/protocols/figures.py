"""Pictures of a report: FROC, ROC, confusion matrix and reliability diagram, each from numbers that JSON holds as well.

Bands are what 95 % of the resampled cases' curves stay within, at each place of the axis by itself.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from digipath.evaluation.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Band", "ConfusionFigure", "FrocFigure", "ReliabilityFigure", "ReportFigure", "RocFigure"]

_BLUE, _GREY, _INK, _ORANGE = "#1f6390", "#8a8f98", "#1c1e22", "#d97a2b"
_DPI = 150


@dataclass(frozen=True)
class Band:
    """Between which curves of resamples run.

    Attributes:
        x: Places on the axis.
        low: Lower end at each.
        high: Upper end.
    """

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, x: np.ndarray, curves: Sequence[np.ndarray], *, level: float = 0.95) -> "Band | None":
        """What the middle of the curves' values covers, each curve of a value for every `x`; None without curves."""
        if not len(curves):
            return None
        low, high = np.percentile(np.array(curves), (50 * (1 - level), 50 * (1 + level)), axis=0)
        return cls(tuple(x.tolist()), tuple(low.tolist()), tuple(high.tolist()))


class ReportFigure(Protocol):
    """A picture, and the numbers in it."""

    def png(self) -> bytes:
        """The picture, a PNG file."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        ...


@dataclass(frozen=True)
class FrocFigure:
    """Sensitivity over false positives per `unit`, on a logarithmic axis around the points of the score."""

    title: str
    unit: str
    fps: tuple[float, ...]
    sensitivities: tuple[float, ...]
    points: tuple[float, ...]
    at_points: tuple[float, ...]
    steps: bool
    band: Band | None

    def png(self) -> bytes:
        """See ReportFigure."""
        figure, axis = _page(self.title)
        low, high = self.points[0] / 2, self.points[-1] * 2
        grid = np.geomspace(low, high, 400)
        fps, found = np.array(self.fps), np.array(self.sensitivities)
        at = found[np.searchsorted(fps, grid, "right") - 1] if self.steps else np.interp(grid, fps, found)
        _fill(axis, self.band)
        axis.plot(grid, at, color=_BLUE, lw=2, label="all cases")
        axis.plot(self.points, self.at_points, "o", color=_ORANGE, ms=6, zorder=3, label="points of the score")
        axis.set_xscale("log", base=2)
        axis.set_xlim(low, high)
        axis.set_ylim(-0.02, 1.02)
        axis.set_xticks(self.points, [_fraction(point) for point in self.points])
        axis.minorticks_off()
        axis.set_xlabel(f"false positives per {self.unit}")
        axis.set_ylabel("sensitivity")
        axis.legend(loc="best", frameon=False)
        return _png(figure)

    def to_json(self) -> dict[str, Any]:
        """See ReportFigure."""
        return asdict(self)


@dataclass(frozen=True)
class RocFigure:
    """Sensitivity over 1 - specificity of slides."""

    title: str
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    band: Band | None

    def png(self) -> bytes:
        """See ReportFigure."""
        figure, axis = _page(self.title, size=(5.4, 5.2))
        axis.plot((0, 1), (0, 1), "--", color=_GREY, lw=1, label="chance")
        _fill(axis, self.band)
        axis.plot(self.fpr, self.tpr, color=_BLUE, lw=2, label="all cases")
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.set_aspect("equal")
        axis.set_xlabel("1 − specificity")
        axis.set_ylabel("sensitivity")
        axis.legend(loc="lower right", frameon=False)
        return _png(figure)

    def to_json(self) -> dict[str, Any]:
        """See ReportFigure."""
        return asdict(self)


@dataclass(frozen=True)
class ConfusionFigure:
    """How many of each true class are said to be of which; rows are the truth's."""

    title: str
    labels: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    what: str

    def png(self) -> bytes:
        """See ReportFigure."""
        side = 2.6 + 0.85 * len(self.labels)
        figure, axis = _page(self.title, size=(max(side, 4.6), max(side - 0.4, 4.0)))
        counts = np.array(self.matrix, float)
        rows = counts.sum(1, keepdims=True)
        shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            text = f"{_number(self.matrix[row][column])}\n{share:.1%}" if share else "0"
            axis.text(column, row, text, ha="center", va="center", color="white" if share > 0.55 else _INK, fontsize=9)
        places = range(len(self.labels))
        axis.set_xticks(places, self.labels)
        axis.set_yticks(places, self.labels)
        axis.tick_params(length=0)
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("predicted")
        axis.set_ylabel(f"truth ({self.what}, share of the row)")
        return _png(figure)

    def to_json(self) -> dict[str, Any]:
        """See ReportFigure."""
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityFigure:
    """What share of the pixels of a probability is lesion, and how many pixels there are."""

    title: str
    rows: tuple[Reliability, ...]

    def png(self) -> bytes:
        """See ReportFigure."""
        figure = _figure(self.title, (5.6, 6.0))
        axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        low, width = (np.array([part(row) for row in self.rows]) for part in (_low, _width))
        accuracy = np.nan_to_num([row.accuracy for row in self.rows])
        axis.bar(
            low, accuracy, width, align="edge", color=_BLUE, alpha=0.75, edgecolor="white", label="share of lesion"
        )
        known = [row for row in self.rows if row.pixels]
        x, y = [row.confidence for row in known], [row.accuracy for row in known]
        axis.plot((0, 1), (0, 1), "--", color=_GREY, lw=1, label="calibrated")
        axis.plot(x, y, "o", color=_ORANGE, ms=5, label="at the mean probability")
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlim(0, 1)
        axis.set_ylabel("share of pixels that are lesion")
        axis.legend(loc="upper left", frameon=False)
        below.bar(low, [row.pixels for row in self.rows], width, align="edge", color=_GREY, edgecolor="white")
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
        below.set_ylabel("pixels")
        below.set_xlabel("probability of lesion")
        for each in (axis, below):
            _dress(each)
        return _png(figure)

    def to_json(self) -> dict[str, Any]:
        """See ReportFigure."""
        return {"title": self.title, "rows": [row._asdict() for row in self.rows]}


def _low(row: Reliability) -> float:
    return row.low


def _width(row: Reliability) -> float:
    return row.high - row.low


def _figure(title: str, size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=_INK, wrap=True)
    return figure


def _page(title: str, *, size: tuple[float, float] = (6.4, 4.6)) -> "tuple[Figure, Axes]":
    figure = _figure(title, size)
    axis = figure.subplots()
    _dress(axis)
    return figure, axis


def _dress(axis: "Axes") -> None:
    axis.grid(color="#e4e6ea", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_GREY)
    axis.tick_params(colors=_INK, labelsize=9)


def _fill(axis: "Axes", band: Band | None) -> None:
    if band is not None:
        axis.fill_between(band.x, band.low, band.high, color=_BLUE, alpha=0.18, lw=0, label="95 % of resamples")


def _fraction(value: float) -> str:
    return f"1/{round(1 / value)}" if value < 1 else f"{value:g}"


def _number(count: int) -> str:
    """Short for large counts, such as of pixels."""
    for size, unit in ((10**9, "G"), (10**6, "M")):
        if count >= 10 * size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,}"


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI, metadata={"Software": None})
    return picture.getvalue()
