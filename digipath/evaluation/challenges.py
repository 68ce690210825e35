"""Scores of challenges and papers on top of counts: PAIP 2019, DigestPath 2019, TIGER, and mIoU over slides.

What is marked [nv] is a reading: the source that would settle it is a picture, or was not at hand.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from digipath.errors import SpecError
from digipath.evaluation.overlap import Average, Counts, dice, mean_iou, per_image, total, tumor_mean_iou

__all__ = [
    "TIGER_STROMA",
    "TIGER_TUMOUR",
    "DigestPathDice",
    "PaipCase",
    "PaipScore",
    "SlideIous",
    "digestpath_dice",
    "paip_case",
    "paip_task1",
    "paip_task2",
    "slide_ious",
    "tiger_counts",
]

# paip2019.grand-challenge.org/Evaluation: below it a case counts nothing; and the one of the second tie-breaker.
_PAIP_HARD, _PAIP_SOFT = 0.65, 0.35

# Labels of tiger.grand-challenge.org: 1 invasive tumour; 2 tumour-associated and 6 inflamed stroma; 0 is not annotated.
TIGER_TUMOUR, TIGER_STROMA = (1,), (2, 6)
_TIGER_LABELS, _TIGER_IGNORED = 7, 0


@dataclass(frozen=True)
class PaipCase:
    """One slide of PAIP 2019.

    Attributes:
        jaccard: Jaccard index of viable tumour, `overlap.iou` of the slide's counts; None where its mask is missing.
        burden: Predicted viable tumour in percent of the whole tumour; None where it is missing.
        truth: True percentage.
    """

    jaccard: float | None
    burden: float | None = None
    truth: float | None = None

    def __post_init__(self):
        for name, most in (("jaccard", 1), ("burden", math.inf), ("truth", 100)):
            value = getattr(self, name)
            if value is not None and not (0 <= value <= most and value < math.inf):
                raise SpecError(
                    f"{name} is {'a fraction from 0 to 1' if most == 1 else 'a percentage from 0 on'}, or None where "
                    f"there is none, got {value}."
                )


@dataclass(frozen=True)
class PaipScore:
    """A score of a task, and what decides between equals.

    Attributes:
        score: Mean over all cases, by which methods are ranked.
        median: Median over all cases, the first tie-breaker.
        soft: Task 1: mean with 0.35 in place of 0.65, the second tie-breaker; NaN in task 2.
        cases: Of each case, in their order.
        missing: How many cases lack a prediction; they count 0.
    """

    score: float
    median: float
    soft: float
    cases: tuple[float, ...]
    missing: int


def paip_case(jaccard: float | None, *, threshold: float = _PAIP_HARD) -> float:
    """PAIP's score of a mask: the Jaccard index where it is at least the threshold; otherwise, and where missing, 0."""
    return jaccard if jaccard is not None and jaccard >= threshold else 0.0


def paip_task1(cases: Sequence[PaipCase]) -> PaipScore:
    """PAIP 2019, segmentation of viable tumour: the mean of JI · HT(JI; 0.65), and 0 for a missing case.

    The page adds later that submissions with a missing case are not scored at all; `missing` says whether there are.
    Masks have the slide's level-0 shape, and where they are compared is up to who counts.

    Example:
        >>> paip_task1([PaipCase(0.8), PaipCase(0.64), PaipCase(None)]).cases
        (0.8, 0.0, 0.0)
    """
    _some(cases)
    scores = [paip_case(case.jaccard) for case in cases]
    soft = statistics.fmean(paip_case(case.jaccard, threshold=_PAIP_SOFT) for case in cases)
    return _paip_score(scores, soft, sum(case.jaccard is None for case in cases))


def paip_task2(cases: Sequence[PaipCase]) -> PaipScore:
    """PAIP 2019, viable tumour burden: the mean of (1 - |predicted - true| / 100), each times its case's task-1 score.

    [nv] The page gives the formula as a picture. It says "reversed absolute errors" and that "each Task1 case score is
    used as a weight for each Task2 case score"; Khened et al. 2021 speak of the "average of products of absolute
    accuracy and corresponding Task 1 score". So it is read that the weight is the thresholded Jaccard index, and that
    the sum is divided by the number of cases and not by that of weights. Also of our own: a burden above 100 %, which
    some methods give, may be wrong by more than 100 and counts 0 then, not less.

    Example:
        >>> round(paip_task2([PaipCase(0.8, burden=60, truth=50), PaipCase(0.6, burden=50, truth=50)]).score, 4)
        0.36
    """
    _some(cases)
    if without := sum(case.truth is None for case in cases):
        raise SpecError(f"each case of task 2 has a true burden in percent; {without} of {len(cases)} have none.")
    scores = [
        0.0 if case.burden is None else paip_case(case.jaccard) * max(0.0, 1 - abs(case.burden - case.truth) / 100)
        for case in cases
    ]
    return _paip_score(scores, math.nan, sum(case.jaccard is None or case.burden is None for case in cases))


def _paip_score(scores: list[float], soft: float, missing: int) -> PaipScore:
    return PaipScore(statistics.fmean(scores), statistics.median(scores), soft, tuple(scores), missing)


def _some(cases: Sequence) -> None:
    if not cases:
        raise SpecError("a score is a mean over cases, and there is none. Give each case, also those that are missing.")


@dataclass(frozen=True)
class DigestPathDice:
    """Every reading of a Dice coefficient over images; name the one that is reported.

    Attributes:
        images: Each image weighs the same, and one without a lesion in truth and prediction counts 1.
        lesions: The same without such images, which `lesions.left_out` counts.
        pooled: Of all pixels of all images together.
    """

    images: Average
    lesions: Average
    pooled: float


def digestpath_dice(images: Iterable[Counts]) -> DigestPathDice:
    """DigestPath 2019, task 2, segmentation.

    [nv] Whether the organisers average over images or pool pixels, and what an image without any lesion counts, was not
    at hand; all readings are given. Teams are ranked by the average of their ranks in Dice and in the AUC of slides.

    Example:
        >>> found = digestpath_dice([Counts(tp=1, fp=2, tn=1), Counts(tn=4)])
        >>> found.images.mean, found.lesions.mean, found.lesions.left_out, found.pooled
        (0.75, 0.5, 1, 0.5)
    """
    images = list(images)
    return DigestPathDice(per_image(dice, images), per_image(dice, images, empty=math.nan), dice(total(images)))


@dataclass(frozen=True)
class SlideIous:
    """mIoU and Tumor-mIoU of Guo et al. 2019.

    Attributes:
        miou: Over all slides.
        tumor_miou: Over slides with a tumour in truth.
    """

    miou: Average
    tumor_miou: Average


def slide_ious(slides: Iterable[Counts]) -> SlideIous:
    """The mean over slides of each slide's mean of the IoUs of tumour and normal tissue.

    [nv] The paper's formula did not survive; it is read so: of a slide a class that neither truth nor prediction has is
    left out, one that is predicted alone counts 0. Slides without a counted pixel are left out and counted.

    Example:
        >>> found = slide_ious([Counts(tp=1, fp=1, tn=1, fn=1), Counts(tn=4)])
        >>> round(found.miou.mean, 4), round(found.tumor_miou.mean, 4)
        (0.6667, 0.3333)
    """
    slides = list(slides)
    return SlideIous(per_image(mean_iou, slides), per_image(tumor_mean_iou, slides))


def tiger_counts(
    predicted: np.ndarray, truth: np.ndarray, *, counted: np.ndarray | None = None
) -> tuple[Counts, Counts]:
    """TIGER's segmentation: the counts of tumour (label 1) and of stroma (labels 2 and 6), each against all the rest.

    As in the organisers' `eval_segm.py`: pixels that are 0 in truth are not annotated and left out. Counts add up over
    regions of interest at 0.5 um per pixel; the two scores are `dice` of the sums.

    Args:
        predicted: Labels, of any shape; 0 is none of the classes.
        truth: Labels from 0 to 7, of the same shape.
        counted: Boolean mask of the pixels to count; by default all.

    Returns:
        Counts of tumour and of stroma.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    for name, labels in (("prediction", predicted), ("truth", truth)):
        if labels.dtype.kind not in "ui" or (labels.size and not 0 <= labels.min() <= labels.max() <= _TIGER_LABELS):
            raise SpecError(f"a {name} holds whole labels from 0 to {_TIGER_LABELS}, got {labels.dtype}.")
    counts = []
    for wanted in (TIGER_TUMOUR, TIGER_STROMA):
        labels = np.where(truth == _TIGER_IGNORED, 255, np.isin(truth, wanted)).astype(np.uint8)
        counts.append(Counts.of(np.isin(predicted, wanted), labels, counted=counted))
    return counts[0], counts[1]
