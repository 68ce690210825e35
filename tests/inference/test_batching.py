"""Batches: halved where memory is short, found by trial where that pays."""

from pathlib import Path

import numpy as np
import pytest

from digipath.inference import batching
from digipath.inference.batching import BackOff, find_batch, ran_out_of_memory, rule, without_trials


class ResourceExhaustedError(Exception):
    """As TensorFlow calls it."""


def patches(count, side=2):
    return np.arange(count * side * side * 3, dtype=np.uint8).reshape(count, side, side, 3)


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize(
    "error", [ResourceExhaustedError(), MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 4 GiB"), None]
)
@pytest.mark.filterwarnings("ignore:a batch of")
def test_halving_a_batch_that_does_not_fit_changes_no_value_and_no_order(fits, error):
    def forward(batch):
        if len(batch) > fits and error is not None:
            raise error
        return batch.astype(np.float32)

    several = BackOff(forward)
    for count in (7, 1, 16, 0):
        np.testing.assert_array_equal(several(patches(count)), patches(count))


def test_what_did_not_fit_is_not_tried_again_and_is_told_once():
    tried = []

    def forward(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            raise MemoryError
        return batch

    several = BackOff(forward)
    with pytest.warns(UserWarning, match="8 patches of 2 x 2 pixels does not fit into memory") as told:
        several(patches(8))
        several(patches(8))
        several(patches(8, side=4))
    assert tried == [8, 4, 2, 2, 2, 2] + [2] * 4 + [8, 4, 2, 2, 2, 2] and len(told) == 1


@pytest.mark.filterwarnings("ignore:a batch of")
def test_what_no_smaller_batch_mends_is_raised():
    def forward(batch):
        raise MemoryError if len(batch) else ValueError

    with pytest.raises(MemoryError):
        BackOff(forward)(patches(4))
    with pytest.raises(ValueError, match=r"^$"):
        BackOff(forward)(patches(0))


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shapes differ"), KeyError("x")])
def test_other_errors_are_not_taken_for_a_lack_of_memory(error):
    assert not ran_out_of_memory(error)


class Timed:
    """A predictor whose time a batch takes is made up: a fixed part, and one for each patch."""

    def __init__(self, clock, *, fixed, fits=10**9, key="k"):
        self.clock, self.fixed, self.fits, self.key, self.runtime = clock, fixed, fits, key, "made up"
        self.sizes = []
        self._parts = BackOff(self._forward)

    def _forward(self, batch):
        if len(batch) > self.fits:
            raise MemoryError
        self.clock[0] += self.fixed + len(batch)
        return batch

    def __call__(self, batch):
        self.sizes.append(len(batch))
        return self._parts(batch)


@pytest.fixture
def clock(monkeypatch, tmp_path):
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path))
    now = [0.0]
    monkeypatch.setattr(batching.time, "perf_counter", lambda: now[0])
    return now


def test_few_patches_are_not_worth_a_trial(clock):
    predictor = Timed(clock, fixed=100)
    assert find_batch(predictor, (256, 256), boxes=100) == rule((256, 256)) == 8 and not predictor.sizes


def test_the_batch_grows_for_as_long_as_that_is_faster(clock):
    assert find_batch(Timed(clock, fixed=0.01), (256, 256), boxes=10**6) == 8
    assert find_batch(Timed(clock, fixed=4, key="other"), (256, 256), boxes=10**6) == 64


def test_no_batch_is_found_that_does_not_fit_or_exceeds_the_limit(clock):
    assert find_batch(Timed(clock, fixed=1000, fits=20), (256, 256), boxes=10**6) == 16
    assert find_batch(Timed(clock, fixed=1000, key="other"), (256, 256), boxes=10**6, limit=2**21) == 32
    assert find_batch(Timed(clock, fixed=0, key="large"), (4096, 4096), boxes=10**6) == 1


def test_what_was_found_is_remembered_for_network_patch_and_device(clock, tmp_path):
    first = find_batch(Timed(clock, fixed=4), (256, 256), boxes=10**6)
    again = Timed(clock, fixed=1000)
    assert find_batch(again, (256, 256), boxes=10) == first and not again.sizes
    for record in tmp_path.rglob("*.json"):
        record.write_text("[]")
    assert find_batch(again, (256, 256), boxes=10**6) > first


@pytest.mark.parametrize("unlinks", [True, False])
def test_a_trial_that_ends_the_process_is_not_begun_again_but_a_stopped_one_is(clock, monkeypatch, unlinks):
    class Ends(Timed):
        def _forward(self, batch):
            if len(batch) > 20:
                raise KeyboardInterrupt
            return super()._forward(batch)

    if not unlinks:  # as when the system ends the process at once
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        find_batch(Ends(clock, fixed=1000), (256, 256), boxes=10**6)
    again = Timed(clock, fixed=4)
    assert find_batch(again, (256, 256), boxes=10**6) == (64 if unlinks else 8) and bool(again.sizes) == unlinks


def test_a_predictor_without_a_key_is_tried_and_not_remembered(clock, tmp_path):
    assert find_batch(Timed(clock, fixed=4, key=None), (256, 256), boxes=10**6) == 64
    assert not list(tmp_path.iterdir())


def test_nothing_is_tried_while_another_thread_uses_the_network():
    def refuse(_):
        raise AssertionError("it is in use")

    with without_trials():
        assert find_batch(refuse, (64, 64), boxes=10**9) == rule((64, 64))
