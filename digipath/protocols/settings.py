"""How the files of a protocol are to be read, and how its scores are drawn again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from digipath.errors import SpecError

__all__ = ["DETECTIONS", "EvaluationSettings"]

DETECTIONS = ("maxima", "regions")

_TUPLES = ("normal", "exclude")
_PATHS = ("slides", "slide_scores")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the files do not say themselves; every protocol takes the same settings and looks at those that it knows.

    Attributes:
        threshold: A heatmap's pixel is lesion above it; None takes that of each result.
        class_name: Class of the heatmap; None takes the last, the lesion of two classes.
        detections: How a heatmap becomes detections: "maxima" (peaks, one each 187 um) or "regions" (one each).
        normal: Names of slides without any lesion, or patterns such as "normal_*"; their truth needs no file.
        exclude: Names or patterns of slides that do not count, such as "test_049".
        truth_values: What the values of truth masks mean, value to class name, None to ignore them; without it masks
            hold 0 and 1, or 0 and 255. The classes are "other" and "lesion".
        prediction_values: The same of predicted masks.
        slides: Folder of the slides, from which size and um per pixel are taken where results do not tell them.
        slide_scores: CSV of a probability for each slide, `name,probability`, in place of the heatmap's highest.
        mpp: Micrometres per level-0 pixel, where neither result, slide nor mask tells it.
        compare_mpp: Micrometres per pixel at which masks are compared; None takes the pixels of the truth's mask.
        truth_downsample: Level-0 pixels along the side of a pixel of the truth's masks, where files do not tell it.
        area_um2: A section is tumour from so much tumour on, where predictions are areas.
        resamples: How many times cases are drawn again for intervals.
        seed: The same seed draws the same.
    """

    threshold: float | None = None
    class_name: str | None = None
    detections: str = "maxima"
    normal: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    truth_values: Mapping[int, str | None] | None = None
    prediction_values: Mapping[int, str | None] | None = None
    slides: Path | None = None
    slide_scores: Path | None = None
    mpp: float | None = None
    compare_mpp: float | None = None
    truth_downsample: float | None = None
    area_um2: float | None = None
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self):
        for name in _TUPLES:
            given = getattr(self, name)
            if isinstance(given, str):
                raise SpecError(f"{name} is a tuple of names or patterns, got the text {given!r}. Write ({given!r},).")
            object.__setattr__(self, name, tuple(given))
        for name in _PATHS:
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(given))
        if self.detections not in DETECTIONS:
            raise SpecError(f"detections is one of {', '.join(DETECTIONS)}, got {self.detections!r}.")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise SpecError(f"threshold is a probability of at least 0 and below 1, got {self.threshold}.")
        for name in ("mpp", "compare_mpp", "truth_downsample", "area_um2"):
            given = getattr(self, name)
            if given is not None and not (0 < given < math.inf):
                raise SpecError(f"{name} is a finite number above 0, got {given}.")
        if isinstance(self.resamples, bool) or not isinstance(self.resamples, int) or self.resamples < 1:
            raise SpecError(f"resamples is a whole number from 1 on, got {self.resamples!r}. Papers take 2,000.")
