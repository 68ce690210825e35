"""How well probabilities are frequencies: a reliability table and the expected calibration error, from counts that add.

    calibration = Calibration()                        one for a slide, or for all
    for probability, truth, covered in strips:
        calibration.add(probability, truth, counted=covered)
    calibration.ece, calibration.table
    sum(calibrations_of_slides, Calibration())         pooled

Pixels are sorted by the probability of the lesion into bins of equal width. A bin's confidence is the mean of its
probabilities, its accuracy the share of its pixels that are lesion in truth; where a network is calibrated the two
agree. Their mean distance, weighted by pixels, is the expected calibration error of a two-class problem (Naeini et al.,
AAAI 2015), with the 15 bins and the half-open intervals (low, high] of Guo et al., ICML 2017. The latter look at the
probability of the class that is predicted, here it is the lesion's: so the table runs from 0 to 1 and shows where
lesions are missed too.

Pixels weigh the same, and most of a slide is far from any lesion: the error of all tissue is small where that of
uncertain pixels is not. The table says both.
"""

import math
from typing import NamedTuple

import numpy as np

from digipath.errors import SpecError
from digipath.evaluation.overlap import judged_and_kept

__all__ = ["BINS", "Calibration", "Reliability"]

BINS = 15


class Reliability(NamedTuple):
    """One bin of a reliability diagram.

    Attributes:
        low: Its pixels have a probability above this (the first bin's: from 0 on),
        high: and of at most this.
        confidence: Mean probability, NaN without a pixel.
        accuracy: Share of pixels that are lesion in truth, NaN without a pixel.
        pixels: How many there are.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    pixels: int


class Calibration:
    """Counts of pixels by probability; those of strips and slides add up.

    Args:
        bins: How many bins of equal width.

    Attributes:
        pixels: (bins,) numbers of pixels.
        lesion: (bins,) how many of them are lesion in truth.
        probability: (bins,) sums of their probabilities.
        ignored: Pixels left out, for the truth says so.
        uncovered: Pixels left out, for nothing was predicted there.

    Example:
        >>> calibration = Calibration(bins=2)
        >>> calibration.add(np.array([0.1, 0.3, 0.9, 0.9]), np.array([0, 1, 1, 1]))
        >>> round(calibration.ece, 3)
        0.2
    """

    def __init__(self, *, bins: int = BINS):
        if isinstance(bins, bool) or not isinstance(bins, int) or not 1 <= bins <= 10_000:
            raise SpecError(f"bins is a whole number from 1 to 10,000, got {bins!r}. Papers take {BINS}.")
        self.bins = bins
        self.pixels = np.zeros(bins, np.int64)
        self.lesion = np.zeros(bins, np.int64)
        self.probability = np.zeros(bins)
        self.ignored = self.uncovered = 0

    def add(
        self, probability: np.ndarray, truth: np.ndarray, *, ignored: int = 255, counted: np.ndarray | None = None
    ) -> None:
        """Count one image or strip.

        Args:
            probability: Of the lesion, in [0, 1].
            truth: Of the same shape: boolean, or 0, 1 and `ignored`.
            ignored: Value in the truth of pixels that are left out.
            counted: Boolean mask of the pixels to count, for example a result's `covered`; by default all.
        """
        probability, truth = np.asarray(probability), np.asarray(truth)
        judged, kept = judged_and_kept(probability, truth, ignored, counted)
        values, lesion = probability[kept].astype(np.float64), truth[kept]
        _check(values, lesion)
        bins = np.maximum(np.ceil(values * self.bins).astype(np.intp) - 1, 0)
        self.pixels += np.bincount(bins, minlength=self.bins)
        self.lesion += np.bincount(bins[lesion == 1], minlength=self.bins)
        self.probability += np.bincount(bins, values, minlength=self.bins)
        self.ignored += int(np.count_nonzero(~judged))
        self.uncovered += int(np.count_nonzero(judged & ~kept))

    def __add__(self, other: "Calibration") -> "Calibration":
        if not isinstance(other, Calibration):
            return NotImplemented
        if other.bins != self.bins:
            raise SpecError(f"counts of the same bins add up, got {self.bins} and {other.bins} bins.")
        both = Calibration(bins=self.bins)
        for name in ("pixels", "lesion", "probability", "ignored", "uncovered"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    @property
    def ece(self) -> float:
        """The expected calibration error: 0 is calibrated; NaN where no pixel was counted."""
        pixels = int(self.pixels.sum())
        return float(np.abs(self.probability - self.lesion).sum() / pixels) if pixels else math.nan

    @property
    def table(self) -> list[Reliability]:
        """The reliability diagram, a row for each bin, also for those without a pixel."""
        rows = zip(self.pixels.tolist(), self.lesion.tolist(), self.probability.tolist(), strict=True)
        return [
            Reliability(
                place / self.bins,
                (place + 1) / self.bins,
                probability / pixels if pixels else math.nan,
                lesion / pixels if pixels else math.nan,
                pixels,
            )
            for place, (pixels, lesion, probability) in enumerate(rows)
        ]


def _check(probability: np.ndarray, lesion: np.ndarray) -> None:
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise SpecError(
            "probabilities lie between 0 and 1 where they are counted, got some from "
            f"{probability.min():g} to {probability.max():g}. Divide bytes by 255; leave out what is not covered."
        )
    if lesion.dtype != bool and not (fits := (lesion == 0) | (lesion == 1)).all():
        strange = np.unique(lesion[~fits])[:5].tolist()
        raise SpecError(f"A truth holds 0, 1 and 'ignored', got {strange}. Compare with the class meant: labels == 2.")
