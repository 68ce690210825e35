"""How well a mask fits the truth: counts of pixels that add up over strips, images and slides, and measures of them.

    counts = Counts.of(predicted, truth)            one image, or a strip of it
    dice(total(counts_of_images))                   pooled: every pixel weighs the same
    per_image(dice, counts_of_images, empty=1.0)    every image weighs the same

**Empty images.** Each measure is a fraction that can be 0 / 0; `empty` is its value then. Dice, IoU and F_beta are so
where neither truth nor prediction has a lesion: 1 unless told otherwise, for the two agree. Sensitivity is so without a
lesion, precision without a predicted one, specificity without anything else: NaN, as there is nothing to judge. Images
whose measure is NaN are left out of means, and counted (`Average.left_out`).

**Pixels left out** are counted too: `ignored` in the truth, and `uncovered` where the truth speaks and the prediction
does not. Many of these make any measure say less than it seems to.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from digipath.errors import SpecError

__all__ = [
    "Average",
    "Counts",
    "accuracy",
    "dice",
    "f_beta",
    "iou",
    "judged_and_kept",
    "mean_iou",
    "per_image",
    "precision",
    "sensitivity",
    "specificity",
    "total",
    "tumor_mean_iou",
]

NAN = math.nan

_FIELDS = ("tp", "fp", "fn", "tn", "ignored", "uncovered")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pixels of a mask against the truth; counts of disjoint parts add up: `top + bottom`.

    Attributes:
        tp: lesion, and predicted.
        fp: no lesion, but predicted.
        fn: lesion, but not predicted.
        tn: no lesion, and not predicted.
        ignored: left out, for the truth says so.
        uncovered: left out, for nothing was predicted there; not ignored in the truth.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    ignored: int = 0
    uncovered: int = 0

    def __post_init__(self):
        for name in _FIELDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise SpecError(f"{name} counts pixels, a whole number from 0 on, got {value!r}.")
            object.__setattr__(self, name, int(value))

    @classmethod
    def of(
        cls, predicted: np.ndarray, truth: np.ndarray, *, ignored: int = 255, counted: np.ndarray | None = None
    ) -> "Counts":
        """The counts of one image or part of one.

        Args:
            predicted: boolean mask, or 0 and 1.
            truth: of the same shape: boolean, or 0, 1 and `ignored`.
            ignored: value in the truth of pixels that are left out.
            counted: boolean mask of the pixels to count, for example a result's `covered`; by default all.

        Example:
            >>> Counts.of(np.array([1, 1, 0, 0]), np.array([1, 0, 255, 0]))
            Counts(tp=1, fp=1, fn=0, tn=1, ignored=1, uncovered=0)
        """
        predicted, truth = np.asarray(predicted), np.asarray(truth)
        judged, kept = judged_and_kept(predicted, truth, ignored, counted)
        lesion, found = _binary(truth, kept, "truth"), _binary(predicted, kept, "prediction")
        tp = int(np.count_nonzero(found & lesion))
        fp, fn = int(np.count_nonzero(found)) - tp, int(np.count_nonzero(lesion)) - tp
        all_kept, all_judged = int(np.count_nonzero(kept)), int(np.count_nonzero(judged))
        left_out = {"ignored": truth.size - all_judged, "uncovered": all_judged - all_kept}
        return cls(tp=tp, fp=fp, fn=fn, tn=all_kept - tp - fp - fn, **left_out)

    def __add__(self, other: "Counts") -> "Counts":
        if not isinstance(other, Counts):
            return NotImplemented
        return total((self, other))

    @property
    def pixels(self) -> int:
        """How many pixels were counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def lesion(self) -> int:
        """How many of them are lesion in truth."""
        return self.tp + self.fn

    @property
    def inverse(self) -> "Counts":
        """The counts of everything that is no lesion."""
        return replace(self, tp=self.tn, fp=self.fn, fn=self.fp, tn=self.tp)


def judged_and_kept(
    predicted: np.ndarray, truth: np.ndarray, ignored: int, counted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the pixels of which the truth says something, and of those of them that are counted."""
    counted = np.ones(truth.shape, bool) if counted is None else np.asarray(counted)
    if not predicted.shape == truth.shape == counted.shape or counted.dtype != bool:
        raise SpecError(
            "Prediction, truth and the boolean mask of what is counted have one shape, got "
            f"{predicted.shape}, {truth.shape} and {counted.shape} ({counted.dtype}). Bring them into one frame first."
        )
    judged = np.ones(truth.shape, bool) if truth.dtype == bool else truth != ignored
    return judged, judged & counted


def _binary(values: np.ndarray, kept: np.ndarray, name: str) -> np.ndarray:
    """The values as a boolean mask, False where they are not kept; anything else than 0 and 1 is refused."""
    if values.dtype != bool and (strange := np.setdiff1d(np.unique(values[kept]), (0, 1))).size:
        raise SpecError(
            f"A {name} holds 0 and 1 (and 'ignored' in the truth), got {strange[:5].tolist()}. Compare with the class "
            "that is meant: labels == 2; or with a threshold: heatmap > 0.5."
        )
    return values.astype(bool) & kept


def total(images: Iterable[Counts]) -> Counts:
    """The counts of all images together."""
    images = list(images)
    return Counts(**{name: sum(getattr(one, name) for one in images) for name in _FIELDS})


def dice(counts: Counts, *, empty: float = 1.0) -> float:
    """2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, empty)


def iou(counts: Counts, *, empty: float = 1.0) -> float:
    """TP / (TP + FP + FN), the Jaccard index."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn, empty)


def accuracy(counts: Counts, *, empty: float = NAN) -> float:
    """(TP + TN) / all."""
    return _ratio(counts.tp + counts.tn, counts.pixels, empty)


def sensitivity(counts: Counts, *, empty: float = NAN) -> float:
    """TP / (TP + FN), recall."""
    return _ratio(counts.tp, counts.tp + counts.fn, empty)


def specificity(counts: Counts, *, empty: float = NAN) -> float:
    """TN / (TN + FP)."""
    return _ratio(counts.tn, counts.tn + counts.fp, empty)


def precision(counts: Counts, *, empty: float = NAN) -> float:
    """TP / (TP + FP)."""
    return _ratio(counts.tp, counts.tp + counts.fp, empty)


def f_beta(counts: Counts, *, beta: float = 1.5, empty: float = 1.0) -> float:
    """(1 + β²) precision · recall / (β² precision + recall) (Le'Clerc Arrastia et al. 2021, Eq. 3, β = 1.5).

    Written as (1 + β²) TP / ((1 + β²) TP + β² FN + FP), which is 0 also where precision and recall both are.
    """
    if not beta > 0:
        raise SpecError(f"beta weighs recall against precision and is above 0, got {beta}. The paper has 1.5.")
    hits = (1 + beta**2) * counts.tp
    return _ratio(hits, hits + beta**2 * counts.fn + counts.fp, empty)


def mean_iou(counts: Counts, *, empty: float = NAN) -> float:
    """The mean of the IoUs of lesion and rest in one image (Guo et al. 2019, mIoU, whose formula is read so).

    A class that neither truth nor prediction has is left out; one that is predicted alone counts 0. `empty` is for an
    image without a counted pixel.
    """
    values = [iou(one, empty=NAN) for one in (counts, counts.inverse)]
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else empty


def tumor_mean_iou(counts: Counts, *, empty: float = NAN) -> float:
    """`mean_iou` of an image with a lesion in truth, and `empty` of one without (Guo et al. 2019, Tumor-mIoU)."""
    return mean_iou(counts) if counts.lesion else empty


@dataclass(frozen=True, kw_only=True)
class Average:
    """A measure over images, each of the same weight.

    Attributes:
        mean: over the images that have it; NaN where none has.
        std: standard deviation over them (of the images themselves: divided by their number).
        images: how many have it.
        left_out: how many do not.
    """

    mean: float
    std: float
    images: int
    left_out: int


def per_image(measure: Callable[..., float], images: Iterable[Counts], *, empty: float | None = None) -> Average:
    """The mean of a measure over images.

    Args:
        measure: one of this module's, or any function of `Counts`.
        images: counts of each image (or slide: its strips added up).
        empty: its value where it is 0 / 0, NaN to leave such images out; by default the measure's own.

    Example:
        >>> images = [Counts(tp=1, fp=1, tn=2), Counts(tn=4)]
        >>> per_image(iou, images).mean, per_image(iou, images, empty=math.nan).mean
        (0.75, 0.5)
    """
    values = [measure(counts) if empty is None else measure(counts, empty=empty) for counts in images]
    found = np.array([value for value in values if not math.isnan(value)])
    mean, std = (float(found.mean()), float(found.std())) if found.size else (NAN, NAN)
    return Average(mean=mean, std=std, images=found.size, left_out=len(values) - found.size)


def _ratio(part: float, whole: float, empty: float) -> float:
    return part / whole if whole else empty
