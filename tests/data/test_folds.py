import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.data.cohort import Case, Cohort
from digipath.data.folds import assign_folds, assign_splits
from digipath.errors import CohortError, SpecError

single = st.lists(st.floats(0, 100), min_size=2, max_size=40)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def cohorts(draw):
    """Patients and areas of cases, some patients with several."""
    owner = draw(st.lists(st.integers(0, 12), min_size=8, max_size=50))
    areas = draw(st.lists(st.floats(0, 100), min_size=len(owner), max_size=len(owner)))
    return [f"p{number}" for number in owner], np.array(areas)


def unevenness(fold, areas, k):
    return float(np.var(np.bincount(fold, weights=areas, minlength=k)))


@settings(max_examples=50)
@given(cohort=cohorts(), k=st.integers(2, 6), seed=seeds)
def test_folds_are_a_partition_that_divides_no_patient_and_leaves_no_fold_empty(cohort, k, seed):
    patients, areas = cohort
    if len(set(patients)) < k:
        with pytest.raises(CohortError, match="never divided"):
            assign_folds(patients, areas, k=k, seed=seed)
        return
    fold = assign_folds(patients, areas, k=k, seed=seed)
    assert sorted(set(fold.tolist())) == list(range(k))
    assert len({(patient, number) for patient, number in zip(patients, fold, strict=True)}) == len(set(patients))
    np.testing.assert_array_equal(fold, assign_folds(patients, areas, k=k, seed=seed))


@settings(max_examples=50)
@given(areas=single, k=st.integers(2, 8), seed=seeds)
def test_with_one_case_a_patient_folds_differ_by_one_case_at_most(areas, k, seed):
    k = min(k, len(areas))
    fold = assign_folds([str(i) for i in range(len(areas))], np.array(areas), k=k, seed=seed)
    assert np.ptp(np.bincount(fold, minlength=k)) <= 1


@settings(max_examples=50)
@given(areas=single, k=st.integers(2, 8), seed=seeds)
def test_tumour_is_spread_no_worse_than_at_random(areas, k, seed):
    k, areas = min(k, len(areas)), np.array(areas)
    fold = assign_folds([str(i) for i in range(len(areas))], areas, k=k, seed=seed)
    rng = np.random.default_rng(seed)
    random = [unevenness(rng.permutation(fold), areas, k) for _ in range(30)]
    assert unevenness(fold, areas, k) <= np.mean(random) * (1 + 1e-9) + 1e-9


@settings(max_examples=30)
@given(cohort=cohorts(), k=st.integers(2, 4), seed=seeds)
def test_no_single_move_of_a_patient_would_even_the_cases_out(cohort, k, seed):
    patients, areas = cohort
    names = sorted(set(patients))
    if len(names) < k:
        return
    fold = assign_folds(patients, areas, k=k, seed=seed)
    counts, mean = np.bincount(fold, minlength=k), len(patients) / k

    def beyond(counts):
        return (np.maximum(0, np.maximum(np.floor(mean) - counts, counts - np.ceil(mean))) ** 2).sum()

    for name in names:
        size, home = patients.count(name), fold[patients.index(name)]
        for other in range(k):
            moved = counts.copy()
            moved[home] -= size
            moved[other] += size
            if other != home and moved.min() > 0:
                assert beyond(moved) >= beyond(counts)


def test_lesions_of_very_different_size_come_out_even():
    rng = np.random.default_rng(0)
    areas = rng.lognormal(0, 1.2, 80)
    fold = assign_folds([str(i) for i in range(80)], areas, k=8, seed=0)
    sums = np.bincount(fold, weights=areas)
    assert sums.max() / sums.min() < 1.01 and set(np.bincount(fold)) == {10}


@settings(max_examples=50)
@given(cohort=cohorts(), val=st.floats(0.05, 0.4), test=st.floats(0, 0.4), seed=seeds)
def test_a_split_divides_no_patient_and_leaves_no_part_empty(cohort, val, test, seed):
    patients, areas = cohort
    test = 0.0 if test < 0.05 else test
    wanted = {"train", "val"} | ({"test"} if test else set())
    if len(set(patients)) < len(wanted):
        return
    chosen = assign_splits(patients, areas > 50, shares=(val, test), seed=seed)
    assert set(chosen) == wanted
    assert len(set(zip(patients, chosen, strict=True))) == len(set(patients))
    assert chosen == assign_splits(patients, areas > 50, shares=(val, test), seed=seed)


@settings(max_examples=50)
@given(tumour=st.lists(st.booleans(), min_size=10, max_size=80), val=st.floats(0.1, 0.5), seed=seeds)
def test_each_split_has_its_share_of_cases_with_and_without_tumour(tumour, val, seed):
    chosen = np.array(assign_splits([str(i) for i in range(len(tumour))], tumour, shares=(val, 0.0), seed=seed))
    tumour = np.array(tumour)
    assert abs((chosen == "val").sum() - val * len(tumour)) <= 1
    assert abs((chosen[tumour] == "val").sum() - val * tumour.sum()) <= 1
    assert abs((chosen[~tumour] == "val").sum() - val * (~tumour).sum()) <= 1.5


def cohort(count=12):
    return Cohort(
        [Case(slide=f"{i}.svs", label="lesion" if i % 3 else "other", patient=f"p{i // 2}") for i in range(count)]
    )


def test_folds_give_what_is_learnt_from_and_what_is_judged():
    whole = cohort()
    folds = whole.folds(3, balance="cases")
    names = []
    for train, val in folds:
        assert {case.split for case in train} == {"train"} and {case.split for case in val} == {"val"}
        assert not set(train.patients) & set(val.patients)
        assert len(train) + len(val) == len(whole)
        names += [case.name for case in val]
    assert sorted(names) == sorted(case.name for case in whole)
    assert [row["cases"] for row in folds.table] == [4, 4, 4] and folds.imbalance == {"cases": 1.0}
    assert "largest over smallest" in str(folds) and len(folds.folds) == 3
    with pytest.raises(SpecError, match="numbered from 0 to 2"):
        folds.fold(3)


def test_a_split_that_cannot_be_is_an_error():
    with pytest.raises(SpecError, match="leave some for training"):
        cohort().split(0.6, 0.5)
    with pytest.raises(CohortError, match="2 patients, got 1"):
        cohort(2).split(0.5)
    with pytest.raises(SpecError, match="balance"):
        cohort().folds(3, balance="area")


def test_a_split_is_reproducible_and_another_seed_gives_another():
    whole = cohort(40)
    first, again, other = (whole.split(0.3, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [case.name for case in first] == [case.name for case in whole]
