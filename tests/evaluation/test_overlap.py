"""Overlap measures against scikit-learn, and by hand where it has no say."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from digipath.errors import SpecError
from digipath.evaluation.overlap import (
    Counts,
    accuracy,
    dice,
    f_beta,
    iou,
    mean_iou,
    per_image,
    precision,
    sensitivity,
    specificity,
    total,
    tumor_mean_iou,
)

rng = np.random.default_rng(0)
MEASURES = [dice, iou, accuracy, sensitivity, specificity, precision, f_beta, mean_iou]


def drawn(share=0.4, shape=(20, 30)):
    truth = (rng.random(shape) < share).astype("uint8")
    predicted = np.where(rng.random(shape) < 0.8, truth, 1 - truth)
    truth[rng.random(shape) < 0.1] = 255
    return predicted, truth


@pytest.mark.parametrize(
    ("measure", "reference"),
    [
        (dice, metrics.f1_score),
        (iou, metrics.jaccard_score),
        (accuracy, metrics.accuracy_score),
        (sensitivity, metrics.recall_score),
        (specificity, lambda truth, predicted: metrics.recall_score(truth, predicted, pos_label=0)),
        (precision, metrics.precision_score),
        (f_beta, lambda truth, predicted: metrics.fbeta_score(truth, predicted, beta=1.5)),
        (mean_iou, lambda truth, predicted: metrics.jaccard_score(truth, predicted, average="macro")),
        (tumor_mean_iou, lambda truth, predicted: metrics.jaccard_score(truth, predicted, average="macro")),
    ],
)
def test_measures_are_those_of_scikit_learn(measure, reference):
    predicted, truth = drawn()
    kept = truth != 255
    assert measure(Counts.of(predicted, truth)) == pytest.approx(reference(truth[kept], predicted[kept]))


def test_counts_are_the_confusion_matrix():
    predicted, truth = drawn()
    kept = truth != 255
    counts = Counts.of(predicted == 1, truth)
    assert [[counts.tn, counts.fp], [counts.fn, counts.tp]] == metrics.confusion_matrix(
        truth[kept], predicted[kept]
    ).tolist()
    assert counts.ignored == np.count_nonzero(~kept)
    assert counts.pixels + counts.ignored == truth.size


@given(rows=st.lists(st.integers(0, 20), max_size=4))
def test_counts_of_strips_add_up_to_those_of_the_image(rows):
    predicted, truth = drawn()
    edges = [0, *sorted(rows), 20]
    strips = [Counts.of(predicted[a:b], truth[a:b]) for a, b in itertools.pairwise(edges)]
    assert total(strips) == Counts.of(predicted, truth)


def test_what_is_not_covered_is_left_out_and_counted():
    predicted, truth = drawn()
    covered = rng.random(truth.shape) < 0.5
    counts = Counts.of(predicted, truth, counted=covered)
    inside = Counts.of(predicted[covered], truth[covered])
    assert replace(counts, ignored=0, uncovered=0) == replace(inside, ignored=0)
    assert counts.ignored == np.count_nonzero(truth == 255)
    assert counts.uncovered == np.count_nonzero(~covered & (truth != 255))
    assert counts.pixels + counts.ignored + counts.uncovered == truth.size


def test_two_empty_masks_agree_unless_told_otherwise():
    empty = Counts.of(np.zeros((2, 2)), np.zeros((2, 2)))
    assert dice(empty) == iou(empty) == f_beta(empty) == 1
    assert math.isnan(dice(empty, empty=math.nan))
    assert all(math.isnan(measure(empty)) for measure in (sensitivity, precision))
    assert accuracy(empty) == specificity(empty) == mean_iou(empty) == 1


def test_a_lesion_found_where_none_is_counts_nothing():
    counts = Counts.of(np.array([1, 0]), np.array([0, 0]))
    assert dice(counts) == iou(counts) == f_beta(counts) == precision(counts) == 0
    assert mean_iou(counts) == 1 / 4


def test_a_class_that_neither_has_is_left_out_of_the_mean():
    assert mean_iou(Counts(tn=4)) == 1
    assert mean_iou(Counts(tp=4)) == 1
    assert mean_iou(Counts(tp=1, fn=1)) == 1 / 4
    assert math.isnan(mean_iou(Counts(ignored=4)))


def test_tumor_mean_iou_is_of_images_with_a_lesion():
    images = [Counts(tp=1, fp=1, tn=2), Counts(fp=1, tn=3), Counts(tn=4)]
    assert per_image(mean_iou, images).mean == pytest.approx(((1 / 2 + 2 / 3) / 2 + (0 + 3 / 4) / 2 + 1) / 3)
    lesions = per_image(tumor_mean_iou, images)
    assert (lesions.mean, lesions.images, lesions.left_out) == (pytest.approx((1 / 2 + 2 / 3) / 2), 1, 2)


def test_pooled_and_per_image_by_hand():
    images = [Counts(tp=8, fp=2), Counts(tp=0, fn=2, tn=8), Counts(tn=10)]
    assert dice(total(images)) == pytest.approx(16 / 20)
    every, lesions = per_image(dice, images), per_image(dice, images, empty=math.nan)
    assert (every.mean, every.images, every.left_out) == (pytest.approx((16 / 18 + 0 + 1) / 3), 3, 0)
    assert (lesions.mean, lesions.images, lesions.left_out) == (pytest.approx(16 / 18 / 2), 2, 1)
    assert every.std == pytest.approx(np.std([16 / 18, 0, 1]))
    assert math.isnan(per_image(sensitivity, [Counts(tn=3)]).mean)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_measures_are_fractions_and_dice_follows_from_iou(values):
    counts = Counts(**dict(zip(("tp", "fp", "fn", "tn"), values, strict=True)))
    for measure in MEASURES:
        assert math.isnan(measure(counts)) or 0 <= measure(counts) <= 1
    assert dice(counts) == pytest.approx(2 * iou(counts) / (1 + iou(counts)))
    assert f_beta(counts, beta=1.0) == pytest.approx(dice(counts))


def test_nonsense_is_refused():
    with pytest.raises(SpecError, match="labels == 2"):
        Counts.of(np.array([0, 1]), np.array([0, 2]))
    with pytest.raises(SpecError, match=r"heatmap > 0\.5"):
        Counts.of(np.array([0.2, 0.7]), np.array([0, 1]))
    with pytest.raises(SpecError, match="one shape"):
        Counts.of(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(SpecError, match="one shape"):
        Counts.of(np.zeros(2), np.zeros(2), counted=np.ones(2))
    with pytest.raises(SpecError, match="from 0 on"):
        Counts(tp=-1)
    with pytest.raises(SpecError, match="beta"):
        f_beta(Counts(), beta=0)


def test_strange_values_are_allowed_where_nothing_is_counted():
    assert Counts.of(np.array([0, 9]), np.array([0, 255])).pixels == 1
