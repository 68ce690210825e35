"""How well tissue sections are told into those with tumour and those without, as in Le'Clerc Arrastia et al. 2021.

J. Le'Clerc Arrastia et al., "Deeply supervised UNet for semantic segmentation to assist dermatopathological assessment
of basal cell carcinoma" (Journal of Imaging 7, 2021): accuracy, sensitivity, specificity and F_1.5 over all sections of
all slides, every section of the same weight.

**Undefined scores.** Sensitivity is NaN without a tumour section, specificity without a normal one: there is nothing to
judge. F_beta is 1 where neither truth nor prediction has a tumour section, for the two agree, as in
`digipath.evaluation.overlap`; it is 0 where tumour sections are there and none is found. No section at all is an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from digipath.errors import SpecError
from digipath.evaluation.overlap import Counts, accuracy, f_beta, sensitivity, specificity

__all__ = ["SectionScores", "section_scores"]


@dataclass(frozen=True, kw_only=True)
class SectionScores:
    """What a classification of sections is worth.

    Attributes:
        counts: Sections instead of pixels: `tp` have tumour and are said to, and so on.
        beta: How much sensitivity weighs against precision in `f_beta`.
    """

    counts: Counts
    beta: float = 1.5

    @property
    def accuracy(self) -> float:
        """Share of sections that are told right."""
        return accuracy(self.counts)

    @property
    def sensitivity(self) -> float:
        """Share of tumour sections that are found; NaN without any."""
        return sensitivity(self.counts)

    @property
    def specificity(self) -> float:
        """Share of normal sections that are left in peace; NaN without any."""
        return specificity(self.counts)

    @property
    def f_beta(self) -> float:
        """(1 + β²) precision · recall / (β² precision + recall)."""
        return f_beta(self.counts, beta=self.beta)

    def row(self) -> dict[str, float | int | None]:
        """The four scores, None for NaN, and how many sections, false positives and false negatives; for a table."""
        scores = {name: getattr(self, name) for name in ("accuracy", "sensitivity", "specificity", "f_beta")}
        scores = {name: None if math.isnan(value) else value for name, value in scores.items()}
        return scores | {"sections": self.counts.pixels, "fp": self.counts.fp, "fn": self.counts.fn}


def section_scores(truth: Sequence[bool], predicted: Sequence[bool], *, beta: float = 1.5) -> SectionScores:
    """Compare sections with the truth.

    Args:
        truth: True for each section with tumour; of all slides together.
        predicted: Of the same sections in the same order.
        beta: Weight of sensitivity against precision; the paper has 1.5.

    Example:
        >>> section_scores([True, True, False, False], [True, False, False, False]).accuracy
        0.75
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.dtype != bool or predicted.dtype != bool or truth.shape != predicted.shape or truth.ndim != 1:
        raise SpecError(
            "Truth and prediction say True or False for each of the same sections, got "
            f"{truth.shape} {truth.dtype} and {predicted.shape} {predicted.dtype}. For names, write "
            "[name == 'Tumor' for name in names]."
        )
    if not truth.size:
        raise SpecError("Scores are of at least one section, got none. Check how sections are paired with their truth.")
    return SectionScores(counts=Counts.of(predicted, truth), beta=beta)
