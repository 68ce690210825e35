"""Intervals against what is known of them: the binomial and the normal distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from digipath.errors import ResultError, SpecError
from digipath.evaluation.agreement import STAGES, StagePair, confusion_of, kappa_of
from digipath.evaluation.bootstrap import bootstrap
from digipath.evaluation.overlap import Counts, dice, total

rng = np.random.default_rng(0)


def share(cases):
    return sum(cases) / len(cases)


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_of_a_share_is_that_of_the_binomial_distribution(level):
    found = bootstrap(share, [1] * 60 + [0] * 40, level=level)
    low, high = stats.binom.ppf([(1 - level) / 2, (1 + level) / 2], 100, 0.6) / 100
    assert found.value == 0.6 and (found.resamples, found.undefined, found.level) == (2000, 0, level)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = rng.normal(3, 2, 400)
    found = bootstrap(np.mean, values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_interval_and_its_ends_are_in_order(values, seed):
    found = bootstrap(np.median, values, resamples=30, seed=seed)
    assert found == bootstrap(np.median, values, resamples=30, seed=seed)
    assert min(values) <= found.low <= found.high <= max(values)


def test_another_seed_draws_otherwise_and_more_resamples_begin_with_the_same():
    drawn = {}
    for key, seed, resamples in (("a", 0, 20), ("b", 1, 20), ("more", 0, 50)):
        seen = drawn.setdefault(key, [])
        bootstrap(lambda cases, seen=seen: seen.append(tuple(cases)) or 0.0, range(9), seed=seed, resamples=resamples)
    assert drawn["a"] != drawn["b"] and drawn["more"][:21] == drawn["a"]
    assert drawn["a"][0] == tuple(range(9)) and all(len(each) == 9 for each in drawn["a"])


def test_without_variation_the_interval_is_a_point():
    found = bootstrap(share, [0.5] * 7)
    assert found.low == found.value == found.high == 0.5


def test_resamples_without_a_value_are_left_out_counted_and_told():
    pairs = [StagePair(str(n), stage, stage) for n, stage in enumerate((STAGES[0], STAGES[4]))]
    found = bootstrap(lambda some: kappa_of(confusion_of(some)), pairs, resamples=400)
    # Of two patients half of all resamples have one twice, and so one stage alone.
    assert found.undefined == pytest.approx(200, abs=40)
    assert found.value == found.low == found.high == 1
    assert f"400 resamples, {found.undefined} of them without a value" in str(found)


def test_a_statistic_that_refuses_resamples_is_undefined_there_and_raises_for_all_cases():
    def needs_a_lesion(cases):
        if not any(cases):
            raise ResultError("there is no lesion.")
        return 1.0

    assert 0 < bootstrap(needs_a_lesion, [1, 0], resamples=100).undefined < 100
    with pytest.raises(ResultError, match="no lesion"):
        bootstrap(needs_a_lesion, [0, 0])


def test_where_no_resample_has_a_value_there_is_no_interval():
    found = bootstrap(lambda cases: math.nan, [1, 2], resamples=10)
    assert math.isnan(found.low) and math.isnan(found.high) and found.undefined == 10


def test_a_pooled_measure_is_resampled_by_slides():
    slides = [Counts(tp=8, fp=2), Counts(tp=2, fn=2), Counts(fp=1, tn=5)]
    found = bootstrap(lambda some: dice(total(some)), slides)
    assert found.value == dice(total(slides)) and 0 <= found.low < found.value < found.high <= 1


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"resamples": 0}, "from 1 on"), ({"level": 95}, "0.95"), ({"resamples": 1.5}, "whole number")],
)
def test_nonsense_is_refused(wrong, match):
    with pytest.raises(SpecError, match=match):
        bootstrap(share, [1], **wrong)
    with pytest.raises(SpecError, match="at least one slide"):
        bootstrap(share, [])
