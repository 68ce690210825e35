"""The hybrid loss against the paper's equations in NumPy."""

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.training.losses import HybridLoss, enlarged

rng = np.random.default_rng(0)


def drawn(classes=2, side=6):
    labels = rng.integers(0, classes, (3, side, side)).astype("uint8")
    values = rng.random((3, side, side, classes)).astype("float32") + 0.05
    return labels, values / values.sum(-1, keepdims=True)


def by_hand(labels, probabilities, epsilon=1.0):
    """Eq. 1 to 3 over the labels that are not 255, one pixel at a time."""
    counted = labels != 255
    entropy = -np.mean([np.log(p[label]) for label, p in zip(labels[counted], probabilities[counted], strict=True)])
    dice = []
    for number in range(probabilities.shape[-1]):
        truth, found = (labels[counted] == number).astype(float), probabilities[counted][:, number].astype(float)
        dice.append(1 - (2 * (truth * found).sum() + epsilon) / ((truth**2).sum() + (found**2).sum() + epsilon))
    return 0.5 * entropy + 0.25 * dice[0] + 0.25 * np.mean(dice[1:])


@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_is_that_of_the_paper(classes):
    labels, probabilities = drawn(classes)
    assert float(HybridLoss()(labels, probabilities)) == pytest.approx(by_hand(labels, probabilities), rel=1e-5)


def test_ignored_pixels_count_nowhere():
    labels, probabilities = drawn()
    labels[0, :3] = 255
    loss = float(HybridLoss()(labels, probabilities))
    assert loss == pytest.approx(by_hand(labels, probabilities), rel=1e-5)
    probabilities[0, :3] = [0.01, 0.99]
    assert float(HybridLoss()(labels, probabilities)) == pytest.approx(loss, rel=1e-6)


def test_nothing_counted_is_a_finite_loss():
    assert np.isfinite(float(HybridLoss()(np.full((1, 4, 4), 255, "uint8"), drawn(side=4)[1][:1])))


def test_labels_with_a_channel_are_refused_and_not_broadcast():
    labels, probabilities = drawn()
    with pytest.raises(SpecError, match=r"labels\[\.\.\., 0\]"):
        HybridLoss()(labels[:1, ..., None], probabilities[:1])


def test_the_truth_itself_costs_nothing():
    labels, _ = drawn()
    assert float(HybridLoss()(labels, np.eye(2, dtype="float32")[labels])) == pytest.approx(0, abs=1e-6)


def test_one_channel_is_the_probability_of_the_second_class():
    labels, probabilities = drawn()
    both, one = (float(HybridLoss()(labels, values)) for values in (probabilities, probabilities[..., 1:]))
    assert both == pytest.approx(one, rel=1e-5)


def test_smaller_predictions_are_enlarged():
    labels, probabilities = drawn(side=8)
    coarse = probabilities[:, ::2, ::2]
    large = keras.ops.convert_to_numpy(enlarged(coarse, rows=8))
    assert large.shape == probabilities.shape
    assert float(HybridLoss()(labels, coarse)) == pytest.approx(by_hand(labels, large), rel=1e-4)


def test_enlarging_keeps_a_constant_and_the_middle():
    np.testing.assert_allclose(enlarged(np.full((1, 3, 3, 2), 0.3, "float32"), rows=12), 0.3, rtol=1e-6)
    ramp = np.arange(4, dtype="float32")[None, None, :, None] * np.ones((1, 4, 1, 1), "float32")
    np.testing.assert_allclose(np.asarray(enlarged(ramp, rows=8)).mean(), ramp.mean(), rtol=1e-6)


def test_the_loss_survives_serialisation():
    loss = HybridLoss(ignored=7, epsilon=0.5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
