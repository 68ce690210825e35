"""What an analysis looks at, and what it is asked: rasters of one slide with a threshold, and settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from digipath.analysis.burden import BurdenSettings
from digipath.analysis.thresholds import PRESETS, SectionThresholds
from digipath.analysis.tils import RESECTION, BulkSettings
from digipath.errors import SpecError
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster

__all__ = ["AnalysisSettings", "Evidence", "TilSettings", "lesion_class"]


@dataclass(frozen=True, kw_only=True)
class TilSettings:
    """Where lymphocytes are, and which classes of a result are tumour and stroma.

    Attributes:
        points: (n, 2) x and y of lymphocytes in level-0 pixels, the surest first; `digipath.io.points` reads them.
        tumour: Classes that are invasive tumour.
        stroma: Classes that are tumour-associated or inflamed stroma.
        bulk: How the tumour bulk is made out.
    """

    points: Sequence[tuple[float, float]] | np.ndarray
    tumour: tuple[str, ...]
    stroma: tuple[str, ...]
    bulk: BulkSettings = RESECTION


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """What is concluded from a result, and how.

    Attributes:
        lesions: Measure each lesion, class the slide by the longest, and work out the 32 features.
        burden: Work out how much of the whole tumour is viable.
        sections: Tell tissue sections with tumour from those without.
        contours: List how far each lesion is from the nearest other one.
        tils: Score lymphocytes in tumour stroma; None does not.
        name: The class that is lesion, or viable tumour; None takes the last of a result of up to two
            classes, or the only tumour of `tils`.
        threshold: Probability above which a pixel is lesion; None takes the result's own.
        min_lesion_mm2: Lesions of less area are left out of the lesions and of the slide's class.
        cleaning: How viable tumour is cleaned for the burden.
        section_thresholds: When a section has tumour: thresholds, or the name of one of `PRESETS`; None takes any pixel
            above `threshold`, which no one has fitted, and says so.
        join_um: Fragments of tissue at most this far apart are one section.
        min_section_mm2: Sections with less tissue are left out as debris.
    """

    lesions: bool = True
    burden: bool = True
    sections: bool = True
    contours: bool = False
    tils: TilSettings | None = None
    name: str | None = None
    threshold: float | None = None
    min_lesion_mm2: float = 0.0
    cleaning: BurdenSettings = field(default_factory=BurdenSettings)
    section_thresholds: SectionThresholds | str | None = None
    join_um: float = 250.0
    min_section_mm2: float = 0.05

    def __post_init__(self):
        if not (self.lesions or self.burden or self.sections or self.contours or self.tils):
            raise SpecError("an analysis is of lesions, burden, sections, contours or tils, got none. Ask for one.")
        if not 0 <= self.min_lesion_mm2 < math.inf:
            raise SpecError(f"min_lesion_mm2 is a finite area of at least 0 mm2, got {self.min_lesion_mm2}.")
        if isinstance(self.section_thresholds, str) and self.section_thresholds not in PRESETS:
            raise SpecError(
                f"published thresholds of sections are {', '.join(PRESETS)}, got {self.section_thresholds!r}. "
                "Others are SectionThresholds(prediction, area_um2)."
            )

    def thresholds(self, own: float) -> tuple[SectionThresholds, str]:
        """The thresholds of sections, and where they come from, of a result with a threshold of its own."""
        chosen = self.section_thresholds
        if isinstance(chosen, str):
            return PRESETS[chosen], f"published for {chosen}"
        if chosen is None:
            return SectionThresholds(own, 0.0), "not fitted: any lesion pixel counts"
        return chosen, "given"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What an analysis looks at; all frames are of one slide, and rasters may be lazy.

    Attributes:
        heatmap: Single-layer probabilities of one class.
        covered: Mask in the heatmap's frame of what it says something about.
        tissue: Mask in any frame.
        threshold: Probability above which a pixel is lesion.
        name: The class.
        classes: The whole heatmap with its named channels; only lymphocytes need it.
        reservations: What a reader of any conclusion has to know, such as that a part was not read; a sentence each.
    """

    heatmap: Raster
    covered: Raster
    tissue: Raster
    threshold: float
    name: str = "lesion"
    classes: Raster | None = None
    reservations: tuple[str, ...] = ()

    @property
    def mask(self) -> Raster:
        """The covered pixels above the threshold, made where they are looked at."""

        def rows(chosen: slice) -> np.ndarray:
            above = np.asarray(self.heatmap.values[chosen]) > self.threshold
            return above & (np.asarray(self.covered.values[chosen]) != 0)

        return Raster(Layer(self.heatmap.frame.shape, np.dtype(bool), rows), self.heatmap.frame)


def lesion_class(classes: Sequence[str], settings: AnalysisSettings) -> str:
    """Which class of a result is analysed.

    Raises:
        SpecError: There are several, and none of them was named.
    """
    name = settings.name
    if name is None and settings.tils is not None and len(settings.tils.tumour) == 1:
        name = settings.tils.tumour[0]
    if name is None and len(classes) > 2:
        raise SpecError(
            f"an analysis is of one class, and this result has {', '.join(classes)}. Say which is the lesion with "
            "name= (--class)."
        )
    if name is not None and name not in classes:
        raise SpecError(f"the classes of this result are {', '.join(classes)}, got {name!r}.")
    return name or classes[-1]
