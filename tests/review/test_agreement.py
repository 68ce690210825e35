"""Agreement of reviewer and model."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

from digipath.errors import SpecError
from digipath.review.agreement import NOTHING, agreement, agreement_of, pooled
from digipath.review.review import Review

LABELS = ("a", "b", "c")
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_scores_are_those_of_scikit_learn(said):
    metrics = pytest.importorskip("sklearn.metrics")
    reviewer, model = zip(*said, strict=True)
    found = agreement_of(said, labels=LABELS, positive="a")
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(reviewer, model, labels=LABELS))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(reviewer, model))
    truth, positive = [one == "a" for one in reviewer], [one == "a" for one in model]
    if any(truth):
        assert found.sensitivity == pytest.approx(metrics.recall_score(truth, positive))
    if not all(truth):
        assert found.specificity == pytest.approx(metrics.recall_score(truth, positive, pos_label=False))
    assume(len({*reviewer, *model}) > 1)
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(reviewer, model))


def test_what_cannot_be_computed_is_nan():
    nobody = agreement_of([], labels=LABELS, positive="a")
    assert nobody.n == 0
    assert all(math.isnan(v) for v in (nobody.accuracy, nobody.kappa, nobody.sensitivity, nobody.specificity))
    always = agreement_of([("a", "a")] * 5, labels=LABELS, positive="a")
    assert (always.accuracy, always.sensitivity) == (1, 1)
    assert math.isnan(always.kappa)
    assert math.isnan(always.specificity)


def test_of_sections_the_answers_that_hold_are_compared(result, remake):
    review = Review.open(result, "Ada").confirm("section:1").reject("section:2").confirm("section:3")
    found = agreement(review, "section")
    assert found.labels == ("tumour section", "normal section")
    assert found.confusion.tolist() == [[2, 1], [0, 0]]
    assert (found.accuracy, found.sensitivity) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert agreement(Review.open(result, "Ben"), "section").n == 0
    remake(result, shift=3)
    assert agreement(review.reload(), "section").n == 0


def test_of_regions_a_rejected_one_is_too_much_and_a_drawn_one_beside_all_of_them_was_missed(result):
    review = Review.open(result, "Ada").confirm("region:1").reject("region:2").relabel("region:3", "in situ")
    review = review.draw([(700, 10), (750, 10), (750, 60)], "lesion", subject="drawn:" + "1" * 32)
    review = review.draw([(140, 390), (270, 390), (270, 520)], "lesion", subject="drawn:" + "2" * 32)  # on region 1
    found = agreement(review, "region")
    assert found.labels == ("lesion", "in situ", NOTHING)
    assert found.confusion.tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert found.sensitivity == 0.5
    assert math.isnan(found.specificity)


def test_slides_are_pooled_section_by_section(tmp_path, remake):
    reviews = [Review.open(remake(tmp_path / name), "Ada") for name in "ab"]
    reviews = [reviews[0].confirm("section:1").reject("section:2"), reviews[1].confirm("section:3")]
    assert pooled(reviews, "section").confusion.tolist() == [[2, 1], [0, 0]]
    assert pooled(reviews, "region").n == 0
    with pytest.raises(SpecError, match="0 reviews"):
        pooled([], "section")


def test_agreement_is_on_one_of_two_kinds(result):
    with pytest.raises(SpecError, match="kind='section' or kind='region'"):
        agreement(Review.open(result, "Ada"), "pixels")
