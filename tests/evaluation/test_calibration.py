"""Calibration against scikit-learn's curve, and the error by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from digipath.errors import SpecError
from digipath.evaluation.calibration import Calibration

rng = np.random.default_rng(0)
VALUES = rng.random((40, 30))
TRUTH = (rng.random(VALUES.shape) < VALUES**2).astype("uint8")
TRUTH[rng.random(VALUES.shape) < 0.1] = 255


def counted(values, truth, **options):
    calibration = Calibration(**options)
    calibration.add(values, truth)
    return calibration


@pytest.mark.parametrize("bins", [1, 5, 15, 400])
def test_the_table_is_that_of_scikit_learn(bins):
    kept = TRUTH != 255
    calibration = counted(VALUES, TRUTH, bins=bins)
    accuracy, confidence = calibration_curve(TRUTH[kept], VALUES[kept], n_bins=bins)
    rows = [row for row in calibration.table if row.pixels]
    np.testing.assert_allclose([row.accuracy for row in rows], accuracy)
    np.testing.assert_allclose([row.confidence for row in rows], confidence)
    assert all(row.low < row.confidence <= row.high for row in rows)
    weights = np.array([row.pixels for row in rows]) / kept.sum()
    assert calibration.ece == pytest.approx((weights * np.abs(accuracy - confidence)).sum())
    assert len(calibration.table) == bins and calibration.pixels.sum() == kept.sum()


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), max_size=4))
def test_counts_of_strips_add_up_to_those_of_the_image(rows):
    parts, strips = Calibration(), Calibration()
    for a, b in itertools.pairwise([0, *sorted(rows), 40]):
        parts = parts + counted(VALUES[a:b], TRUTH[a:b])
        strips.add(VALUES[a:b], TRUTH[a:b])
    whole = counted(VALUES, TRUTH)
    for found in (parts, strips):
        np.testing.assert_array_equal(found.pixels, whole.pixels)
        np.testing.assert_array_equal(found.lesion, whole.lesion)
        assert found.ece == pytest.approx(whole.ece) and found.ignored == whole.ignored


def test_the_error_by_hand():
    # (0, 1/2]: confidence 0.2, accuracy 1/2; (1/2, 1]: confidence 0.9, accuracy 1. So 0.3 / 2 + 0.1 / 2.
    calibration = counted(np.array([0.1, 0.3, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2)
    assert calibration.ece == pytest.approx(0.2)
    assert [row[2:] for row in calibration.table] == [pytest.approx((0.2, 0.5, 2)), pytest.approx((0.9, 1, 2))]


def test_certainty_that_is_right_is_calibrated_and_that_is_wrong_is_not():
    truth = TRUTH == 1
    assert counted(truth.astype("float32"), truth).ece == 0
    assert counted(1.0 - truth, truth).ece == 1


def test_frequencies_that_are_the_probabilities_are_calibrated():
    values = rng.random(60_000).astype("float16")
    assert counted(values, rng.random(60_000) < values).ece < 0.01
    assert counted(values / 2, rng.random(60_000) < values).ece == pytest.approx(0.25, abs=0.01)


def test_edges_belong_to_the_bin_below():
    assert counted(np.array([0, 0.25, 0.5, 0.75, 1]), np.zeros(5, bool), bins=4).pixels.tolist() == [2, 1, 1, 1]


def test_what_is_ignored_or_not_covered_is_left_out_and_counted_whatever_it_holds():
    covered = rng.random(VALUES.shape) < 0.5
    values = np.where(covered, VALUES, np.nan)
    calibration = Calibration()
    calibration.add(values, TRUTH, counted=covered)
    assert calibration.ece == counted(VALUES[covered], TRUTH[covered]).ece
    assert calibration.ignored == np.count_nonzero(TRUTH == 255)
    assert calibration.uncovered == np.count_nonzero(~covered & (TRUTH != 255))


def test_without_a_pixel_the_error_is_undefined():
    empty = Calibration(bins=3)
    assert math.isnan(empty.ece) and all(math.isnan(row.accuracy) for row in empty.table)


def test_nonsense_is_refused():
    with pytest.raises(SpecError, match="between 0 and 1"):
        counted(np.array([0.5, np.nan]), np.array([0, 1]))
    with pytest.raises(SpecError, match="by 255"):
        counted(np.array([0, 200]), np.array([0, 1]))
    with pytest.raises(SpecError, match=r"got \[2\]"):
        counted(np.array([0.5, 0.5]), np.array([0, 2]))
    with pytest.raises(SpecError, match="one shape"):
        counted(np.zeros(2), np.zeros(3))
    with pytest.raises(SpecError, match="5 and 15 bins"):
        Calibration(bins=5) + Calibration()
    with pytest.raises(SpecError, match="whole number"):
        Calibration(bins=0)
