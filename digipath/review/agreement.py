"""How well the model agrees with a reviewer, who is taken for the truth.

Of sections: the label of each one that was answered. Of regions: each one that was answered, and what the reviewer drew
where the model has no region at all: that was missed. A region that was rejected, and what the model missed, is
"nothing" to one of the two. Nobody says "nothing" twice, so regions have no specificity, and their kappa is of those
that both call something.

Kappa is Cohen's, without weights (J. Cohen, "A coefficient of agreement for nominal scales", Educational and
Psychological Measurement 20, 1960). What cannot be computed is NaN: kappa where both always say one and the same label,
sensitivity without anything of the positive label, specificity without anything else, everything without answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from digipath.errors import SpecError
from digipath.review.decisions import Answer
from digipath.review.export import holds
from digipath.review.review import Review

__all__ = ["NOTHING", "Agreement", "agreement", "agreement_of", "kappa_of", "pooled"]

NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Agreement:
    """Reviewer against model.

    Attributes:
        labels: In the order of rows and columns.
        confusion: (labels, labels) counts; rows are the reviewer's labels, columns the model's.
        positive: The label that sensitivity is of; `labels` need not have it.
    """

    labels: tuple[str, ...]
    confusion: np.ndarray
    positive: str

    @property
    def n(self) -> int:
        """How many were compared."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share on which the two agree."""
        return _share(int(np.trace(self.confusion)), self.n)

    @property
    def kappa(self) -> float:
        """Cohen's: 1 is perfect, 0 is what chance would give; of what both call something."""
        called = np.array([label != NOTHING for label in self.labels], bool)
        return kappa_of(self.confusion[called][:, called])

    @property
    def sensitivity(self) -> float:
        """Of what is positive to the reviewer, the share that is to the model."""
        is_positive = np.array([label == self.positive for label in self.labels], bool)
        return _share(int(self.confusion[is_positive][:, is_positive].sum()), int(self.confusion[is_positive].sum()))

    @property
    def specificity(self) -> float:
        """Of what is not positive to the reviewer, the share that is not to the model either; NaN for regions."""
        other = np.array([label != self.positive for label in self.labels], bool)
        if NOTHING in self.labels:
            return math.nan
        return _share(int(self.confusion[other][:, other].sum()), int(self.confusion[other].sum()))


def agreement(review: Review, kind: str, *, blind: bool = False) -> Agreement:
    """Compare a reviewer's own answers with the model, sections or regions.

    Args:
        review: The reviewer's.
        kind: "section" or "region".
        blind: Whether to count only what was answered before the model's answer was shown.
    """
    return pooled([review], kind, blind=blind)


def pooled(reviews: Sequence[Review], kind: str, *, blind: bool = False) -> Agreement:
    """The same over several slides, each section or region of the same weight, as the bcc paper counts its 1,962.

    Args:
        reviews: One or more, of models of one and the same class.
        kind: "section" or "region".
        blind: Whether to count only what was answered before the model's answer was shown.
    """
    positives = {one.asked.positive for one in reviews}
    if kind not in ("section", "region") or len(positives) != 1:
        raise SpecError(
            "agreement is on kind='section' or kind='region', of results that are about one class; got "
            f"{kind!r} and {len(reviews)} reviews about {', '.join(sorted(positives)) or 'nothing'}."
        )
    pairs = [pair for one in reviews for pair in _pairs(one, kind, blind)]
    known = [label for one in reviews for label in one.asked.labels(kind)]
    if kind == "section":
        return agreement_of(pairs, labels=known, positive="tumour section")
    called = [label for label, _ in pairs if label != NOTHING]
    return agreement_of(pairs, labels=(*known, *called, NOTHING), positive=positives.pop())


def _pairs(review: Review, kind: str, blind: bool) -> list[tuple[str, str]]:
    """(reviewer's label, model's label) of the answers that hold, and of what the model missed."""
    answers = review.blind_answers if blind else review.answers
    found = [(answers[one.id], one.label) for one in review.asked.of_kind(kind) if one.id in answers]
    pairs = [(answer.label or NOTHING, label) for answer, label in found if holds(answer, review.asked)]
    return pairs + ([(label, NOTHING) for label in _missed(review, answers)] if kind == "region" else [])


def agreement_of(pairs: Sequence[tuple[str, str]], *, labels: Sequence[str], positive: str) -> Agreement:
    """Count (reviewer's label, model's label); labels that are not among the known ones are put behind them."""
    labels = tuple(dict.fromkeys([*labels, *(label for pair in pairs for label in pair)]))
    places = {label: place for place, label in enumerate(labels)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    for reviewer, model in pairs:
        confusion[places[reviewer], places[model]] += 1
    return Agreement(labels, confusion, positive)


def kappa_of(confusion: np.ndarray) -> float:
    """Cohen's kappa without weights; NaN where both always say one and the same label, or nothing was compared.

    Example:
        >>> kappa_of(np.array([[20, 5], [10, 15]]))
        0.4
    """
    matrix = np.asarray(confusion, np.int64)
    cases, agreed = int(matrix.sum()), int(np.trace(matrix))
    by_chance = int((matrix.sum(0) * matrix.sum(1)).sum())
    return (cases * agreed - by_chance) / (cases**2 - by_chance) if cases**2 != by_chance else math.nan


def _missed(review: Review, answers: Mapping[str, Answer]) -> list[str]:
    """Labels of what the reviewer drew where the model has no region."""
    drawn = [one for one in answers.values() if one.outline is not None]
    if not drawn:
        return []
    tree = shapely.STRtree([one.geometry for one in review.asked.of_kind("region")])
    outlines = [shapely.make_valid(shapely.Polygon(one.outline)) for one in drawn]
    return [one.label for one, shape in zip(drawn, outlines, strict=True) if not len(tree.query(shape, "intersects"))]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
