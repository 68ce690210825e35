"""Sections that are judged: rows of a table, annotations for QuPath; and the search for thresholds as a picture."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from digipath.analysis.sections import Section, Sections, section_tumour
from digipath.analysis.thresholds import Fit, SectionThresholds
from digipath.geometry.polygons import Annotation
from digipath.geometry.raster import Raster

__all__ = ["JudgedSection", "draw_grid", "judge_sections"]

_COLORS = {"tumour section": (200, 0, 0), "normal section": (0, 130, 60)}  # red and green as in the paper's Figure 2


@dataclass(frozen=True)
class JudgedSection:
    """A section, its tumour and what follows from it.

    Attributes:
        section: The section.
        tumour_um2: Area of all that is above the prediction threshold.
        largest_um2: Area of the largest region of it, which is held against the area threshold.
        tumour: Whether the section has tumour.
    """

    section: Section
    tumour_um2: float
    largest_um2: float
    tumour: bool

    @property
    def name(self) -> str:
        """Its class."""
        return "tumour section" if self.tumour else "normal section"

    def row(self) -> dict[str, float | int | str]:
        """For a table; the box in level-0 pixels."""
        box = self.section.box
        place = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
        areas = {"tissue_mm2": self.section.area_mm2, "tumour_um2": self.tumour_um2, "largest_um2": self.largest_um2}
        return {"section": self.section.id, "class": self.name} | place | areas

    def annotation(self) -> Annotation:
        """Its box, as the paper draws it, with the areas as measurements."""
        section = self.section
        measurements = {
            "name": f"section {section.id}",
            "tissue mm2": section.area_mm2,
            "tumour um2": self.tumour_um2,
            "largest tumour region um2": self.largest_um2,
        }
        return Annotation(self.name, shapely.box(*section.box.bounds), _COLORS[self.name], measurements)


def judge_sections(sections: Sections, heatmap: Raster, thresholds: SectionThresholds) -> list[JudgedSection]:
    """Tell the sections of a slide with tumour from those without.

    Args:
        sections: Of `find_sections`.
        heatmap: Single-layer probabilities of tumour, at any resolution.
        thresholds: Fitted, or one of `PRESETS`.
    """
    judged = []
    for section, found in zip(sections, section_tumour(sections, heatmap, [thresholds.prediction]), strict=True):
        total, largest = float(found.total_um2[0]), float(found.largest_um2[0])
        judged.append(JudgedSection(section, total, largest, thresholds.met_by(largest)))
    return judged


def draw_grid(fit: Fit, *, title: str = "") -> bytes:
    """Draw F_beta at every pair of thresholds, with an outline round the best ones and a ring at the chosen one.

    Colours tell scores apart that are at most 0.2 below the best; all others have that of the lowest.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    rows, columns = fit.grid.shape
    top = float(fit.grid.max())
    low = max(float(fit.grid.min()), top - 0.2)
    image = axis.imshow(fit.grid, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=top)
    _outline_best(axis, fit.grid >= top - 1e-12)
    row = int(abs(fit.predictions - fit.best.prediction).argmin())
    column = int(abs(fit.areas_um2 - fit.best.area_um2).argmin())
    label = f"prediction > {fit.best.prediction:g}, area ≥ {fit.best.area_um2:,.0f} µm²"
    for color, thickness in (("white", 4), ("black", 2)):
        axis.plot(column, row, "o", markersize=12, fillstyle="none", color=color, markeredgewidth=thickness)
    for ticks, values, count in ((axis.set_xticks, fit.areas_um2, columns), (axis.set_yticks, fit.predictions, rows)):
        chosen = range(0, count, -(-count // 10))
        ticks(list(chosen), [f"{values[index]:,g}" for index in chosen])
    axis.set_xlabel("tumour-area threshold, µm²")
    axis.set_ylabel("prediction threshold")
    extend = "min" if fit.grid.min() < low else "neither"
    figure.colorbar(image, ax=axis, label=f"F at β = {fit.scores.beta:g}", extend=extend)
    axis.set_title("\n".join(filter(None, (title, f"{label}: F = {fit.scores.f_beta:.3f}"))), fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def _outline_best(axis: Any, best: np.ndarray) -> None:
    """A line along every edge between a best cell and another, or the border."""
    padded = np.pad(best, 1)
    for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        axis.plot([x - 0.5, x + 0.5], [y - 0.5, y - 0.5], color="crimson", linewidth=2)
    for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        axis.plot([x - 0.5, x - 0.5], [y - 0.5, y + 0.5], color="crimson", linewidth=2)
