"""Laws of feeding Keras."""

import keras
import numpy as np
import pytest

from digipath.data.augment import Strengths
from digipath.data.case import Case
from digipath.data.cohort import Cohort
from digipath.data.draws import Sampler
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import dataset, sequence
from digipath.slides.array import ArraySlide


@pytest.fixture(scope="module")
def batches() -> Batches:
    rng = np.random.default_rng(0)
    cohort = Cohort(
        [
            Case(slide=ArraySlide(rng.integers(0, 256, (40, 40, 3), np.uint8), mpp=1.0, name=name), label=name)
            for name in ("other", "lesion")
        ]
    )
    draws = np.column_stack([rng.integers(0, 2, 11), rng.integers(0, 24, (11, 2))])
    sampler = Sampler(mpp=1.0, patch=16, draw=lambda epoch: np.roll(draws, epoch, axis=0))
    return Batches(PatchSource(cohort, mpp=1.0, patch=16), sampler, batch=3, augment=Strengths(), seed=1, threads=3)


def assert_same(given, expected):
    given, expected = keras.tree.flatten(given), keras.tree.flatten(expected)
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_sequence_gives_the_batches_of_its_epoch_in_any_order(batches):
    made = sequence(batches, epoch=2)
    assert len(made) == 4
    for index in (0, 1, 2, 3, 2, 0, 3):
        assert_same(made[index], batches.make(2, index))
    with pytest.raises(IndexError, match="batches 0 to 3"):
        made[4]
    made.epoch = 3
    assert_same(made[0], batches.make(3, 0))
    made.close()
    assert_same(made[1], batches.make(3, 1))
    made.close()


def test_a_dataset_gives_what_a_sequence_gives(batches):
    pytest.importorskip("tensorflow")
    made, passes = sequence(batches, epoch=1), dataset(batches, epoch=1)
    for epoch in (1, 2):
        given = [(images.numpy(), labels.numpy()) for images, labels in passes]
        assert_same(given, [batches.make(epoch, number) for number in range(4)])
        assert_same(given, [made[number] for number in range(4)])
        made.epoch += 1
    made.close()


def test_several_outputs_get_the_same_labels(batches):
    pytest.importorskip("tensorflow")
    made = sequence(batches, targets=lambda labels: [labels] * 5)
    images, targets = made[0]
    assert len(targets) == 5
    assert_same(targets, [batches.make(0, 0)[1]] * 5)
    (other, given), *_ = dataset(batches, targets=lambda labels: [labels] * 5)
    assert_same((other.numpy(), [part.numpy() for part in given]), (images, targets))
    made.close()


def test_fit_sees_every_batch_of_every_epoch_once(batches):
    seen = []

    class Watched(keras.layers.Layer):
        def call(self, values):
            return keras.ops.mean(keras.ops.cast(values, "float32"), axis=(1, 2, 3))[:, None]

    def centre(labels):
        return labels[:, 8, 8]

    def noted(labels):
        seen.append(labels.copy())
        return centre(labels)

    model = keras.Sequential([keras.Input((16, 16, 3), dtype="uint8"), Watched(), keras.layers.Dense(1)])
    model.compile(loss="mse")
    made = sequence(batches, targets=noted)
    model.fit(made, epochs=2, shuffle=False, verbose=0, validation_data=sequence(batches, targets=centre))
    assert made.epoch == 2
    peeks = len(seen) - 8  # Keras looks at the first batches to learn their shapes
    assert_same(seen[peeks:], [batches.make(epoch, number)[1] for epoch in (0, 1) for number in range(4)])
    made.close()


def test_an_error_reaches_whoever_asks_for_the_batch(batches):
    def broken(labels):
        raise ValueError(f"no target for {labels.shape}")

    with pytest.raises(ValueError, match="no target for"):
        sequence(batches, targets=broken)[0]
