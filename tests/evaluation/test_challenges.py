"""Scores of challenges, each worked by hand, and the laws they follow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.evaluation.challenges import (
    PaipCase,
    digestpath_dice,
    paip_case,
    paip_task1,
    paip_task2,
    slide_ious,
    tiger_counts,
)
from digipath.evaluation.overlap import Counts, dice, total

fractions = st.floats(0, 1)
percentages = st.floats(0, 100)
cases = st.lists(st.builds(PaipCase, fractions, percentages, percentages), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("jaccard", "expected"),
    [(0.9, 0.9), (0.65, 0.65), (math.nextafter(0.65, 0), 0), (0.0, 0), (None, 0)],
)
def test_a_case_of_paip_counts_from_its_threshold_on(jaccard, expected):
    assert paip_case(jaccard) == expected


def test_paip_task_1_by_hand():
    found = paip_task1([PaipCase(0.9), PaipCase(0.65), PaipCase(0.5), PaipCase(0.2), PaipCase(None)])
    assert found.cases == (0.9, 0.65, 0, 0, 0) and found.missing == 1
    assert found.score == pytest.approx((0.9 + 0.65) / 5)
    assert found.median == 0
    assert found.soft == pytest.approx((0.9 + 0.65 + 0.5) / 5)


def test_paip_task_2_by_hand():
    found = paip_task2(
        [
            PaipCase(0.8, burden=70.0, truth=80.0),  # 0.8 * 0.9
            PaipCase(0.7, burden=40.0, truth=40.0),  # 0.7
            PaipCase(0.6, burden=50.0, truth=50.0),  # too little overlap, so that the burden does not matter
            PaipCase(0.9, burden=None, truth=30.0),  # missing
            PaipCase(None, burden=30.0, truth=30.0),  # no weight
            PaipCase(1.0, burden=180.0, truth=50.0),  # wrong by more than everything
        ]
    )
    assert found.cases == pytest.approx((0.72, 0.7, 0, 0, 0, 0)) and found.missing == 2
    assert found.score == pytest.approx(1.42 / 6) and found.median == 0


@settings(max_examples=40)
@given(cases)
def test_burden_never_scores_above_its_mask_and_the_truth_scores_the_same(some):
    first, second = paip_task1(some), paip_task2(some)
    assert 0 <= second.score <= first.score + 1e-12 and first.score <= first.soft + 1e-12 <= 1 + 1e-9
    perfect = [PaipCase(case.jaccard, case.truth, case.truth) for case in some]
    assert paip_task2(perfect).score == first.score


def test_a_perfect_method_scores_one():
    assert paip_task1([PaipCase(1.0)] * 3).score == paip_task2([PaipCase(1.0, 30.0, 30.0)] * 3).score == 1
    slides = [Counts(tp=4, tn=5), Counts(tn=5)]
    assert digestpath_dice(slides).images.mean == digestpath_dice(slides).lesions.mean == 1
    assert slide_ious(slides).miou.mean == slide_ious(slides).tumor_miou.mean == 1


def test_digestpath_by_hand():
    found = digestpath_dice([Counts(tp=8, fp=2, fn=2), Counts(fp=1, tn=9), Counts(tn=10), Counts(fn=3, tn=1)])
    assert (found.images.mean, found.images.images) == (pytest.approx((0.8 + 0 + 1 + 0) / 4), 4)
    assert (found.lesions.mean, found.lesions.left_out) == (pytest.approx(0.8 / 3), 1)
    assert found.pooled == pytest.approx(16 / (16 + 3 + 5))


def test_mean_ious_of_slides_by_hand():
    slides = [
        Counts(tp=6, fp=2, fn=2, tn=10),  # 6/10 and 10/14
        Counts(tn=8),  # normal and found so: tumour is left out, 1
        Counts(fp=2, tn=6),  # normal, with a tumour predicted: 0 and 6/8
        Counts(fn=4, tn=4),  # missed: 0 and 4/8
        Counts(ignored=5),  # nothing to judge
    ]
    found = slide_ious(slides)
    first = (0.6 + 10 / 14) / 2
    assert (found.miou.mean, found.miou.images, found.miou.left_out) == (
        pytest.approx((first + 1 + 0.375 + 0.25) / 4),
        4,
        1,
    )
    assert (found.tumor_miou.mean, found.tumor_miou.images) == (pytest.approx((first + 0.25) / 2), 2)


def test_tiger_by_hand():
    truth = np.array([[1, 1, 2, 6, 3, 0, 0, 7]])
    predicted = np.array([[1, 2, 6, 2, 1, 1, 2, 0]])
    tumour, stroma = tiger_counts(predicted, truth)
    assert tumour == Counts(tp=1, fp=1, fn=1, tn=3, ignored=2) and dice(tumour) == 0.5
    assert stroma == Counts(tp=2, fp=1, fn=0, tn=3, ignored=2) and dice(stroma) == 0.8
    halves = [tiger_counts(predicted[:, part], truth[:, part])[1] for part in (slice(0, 3), slice(3, 8))]
    assert total(halves) == stroma
    counted = np.array([[False] + [True] * 7])
    assert tiger_counts(predicted, truth, counted=counted)[0] == Counts(fp=1, fn=1, tn=3, ignored=2, uncovered=1)


def test_nonsense_is_refused():
    for wrong in ({"jaccard": 1.2}, {"jaccard": math.nan}, {"jaccard": 1, "burden": -1}, {"jaccard": 1, "truth": 101}):
        with pytest.raises(SpecError, match="from 0"):
            PaipCase(**wrong)
    with pytest.raises(SpecError, match="1 of 2 have none"):
        paip_task2([PaipCase(1.0, 5.0, 5.0), PaipCase(1.0, 5.0)])
    for score in (paip_task1, paip_task2):
        with pytest.raises(SpecError, match="there is none"):
            score([])
    with pytest.raises(SpecError, match="from 0 to 7"):
        tiger_counts(np.array([8]), np.array([1]))
    with pytest.raises(SpecError, match="whole labels"):
        tiger_counts(np.array([1.0]), np.array([1]))
