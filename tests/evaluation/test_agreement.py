"""CAMELYON17's kappa against scikit-learn, and its rules about rows by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from digipath.errors import ResultError, SpecError
from digipath.evaluation.agreement import STAGES, StagePair, confusion_of, kappa_of, pair_stages, quadratic_kappa

PLACES = range(len(STAGES))
patients = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(PLACES)), min_size=1, max_size=30)


def staged(places, spelt=str):
    return {f"patient_{number:03d}.zip": spelt(STAGES[place]) for number, place in enumerate(places)}


@pytest.mark.filterwarnings("ignore:.*cohen_kappa_score:UserWarning")
@settings(max_examples=60)
@given(patients)
def test_kappa_is_that_of_scikit_learn(pairs):
    truth, said = zip(*pairs, strict=True)
    expected = cohen_kappa_score(truth, said, labels=list(PLACES), weights="quadratic")
    assert quadratic_kappa(staged(truth), staged(said)) == pytest.approx(expected, nan_ok=True)
    found = confusion_of(pair_stages(staged(truth), staged(said)))
    np.testing.assert_array_equal(found, confusion_matrix(truth, said, labels=list(PLACES)))


@settings(max_examples=30)
@given(patients)
def test_kappa_is_at_most_one_and_one_for_the_reference_itself(pairs):
    truth, said = zip(*pairs, strict=True)
    kappa, perfect = quadratic_kappa(staged(truth), staged(said)), quadratic_kappa(staged(truth), staged(truth))
    assert math.isnan(kappa) or kappa <= 1
    assert math.isnan(perfect) if len(set(truth)) == 1 else perfect == 1


def test_kappa_of_a_shuffled_copy_is_near_zero():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 4000)
    assert abs(quadratic_kappa(staged(truth), staged(rng.permutation(truth)))) < 0.05


def test_kappa_by_hand():
    # One disagreement, of weight 1. Each of theirs with each of ours: 0 + 9 + 9, 9 + 0 + 0, 16 + 1 + 1; a third is 15.
    truth = {"a.zip": "pN0", "b.zip": "pN1", "c.zip": "pN2"}
    said = {"a.zip": "pN0", "b.zip": "pN1", "c.zip": "pN1"}
    assert quadratic_kappa(truth, said) == pytest.approx(1 - 1 / 15)


def test_where_all_have_one_stage_kappa_is_undefined():
    assert math.isnan(quadratic_kappa(staged([3, 3]), staged([3, 3])))
    assert quadratic_kappa(staged([3, 3]), staged([3, 4])) == 0


def test_rows_that_are_no_patients_are_passed_over_and_capitals_do_not_matter():
    truth, said = staged([0, 2, 4]), staged([0, 2, 3], spelt=str.upper)
    expected = quadratic_kappa(truth, said)
    assert expected == pytest.approx(cohen_kappa_score([0, 2, 4], [0, 2, 3], labels=list(PLACES), weights="quadratic"))
    slides = {"patient_000_node_0.tif": "negative", "patient_001_node_3.tif": "nonsense"}
    assert quadratic_kappa(truth | slides, said) == quadratic_kappa(truth, said | slides) == expected


def test_patients_of_the_submission_alone_do_not_count():
    extra = {"patient_900.zip": "pN2", "patient_901.zip": "nonsense"}
    assert quadratic_kappa(staged([0, 4]), staged([0, 4]) | extra) == 1


def test_pairs_are_spelt_as_stages_and_keep_the_order_of_the_reference():
    pairs = pair_stages({"b.zip": "PN0(I+)", "a.ZIP": " pn1MI "}, {"a.zip": "pn2", "b.zip": "pN0"})
    assert pairs == [StagePair("b.zip", "pN0(i+)", "pN0"), StagePair("a.zip", "pN1mi", "pN2")]


def test_all_missing_patients_are_named():
    with pytest.raises(ResultError, match=r"missing are 2: patient_001\.zip, patient_003\.zip"):
        quadratic_kappa(staged([0, 1, 2, 3]), {"patient_000.zip": "pN0", "patient_002.zip": "pN2"})


@pytest.mark.parametrize("whose", ["reference", "submission"])
def test_all_unknown_stages_are_named(whose):
    strange = staged([0, 1, 2]) | {"patient_000.zip": "pN3", "patient_002.zip": ""}
    pair = (strange, staged([0, 1, 2]))
    with pytest.raises(ResultError, match=rf"{whose} has patient_000\.zip: 'pn3', patient_002\.zip: ''"):
        quadratic_kappa(*(pair if whose == "reference" else reversed(pair)))


def test_a_reference_without_patients_and_patients_twice_are_refused():
    with pytest.raises(ResultError, match="none of its 1 names"):
        quadratic_kappa({"patient_000_node_0.tif": "macro"}, staged([0]))
    with pytest.raises(ResultError, match="capitals"):
        quadratic_kappa({"a.zip": "pN0", "A.ZIP": "pN1"}, {"a.zip": "pN0"})
    with pytest.raises(SpecError, match="square"):
        kappa_of(np.zeros((2, 3)))
