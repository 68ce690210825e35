"""Soft Dice, focal and cross-entropy losses against plain NumPy, loops over pixels, and figures worked by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from digipath.errors import SpecError
from digipath.training.losses import FocalLoss, HybridLoss, PatchCrossEntropy, PixelCrossEntropy, SoftDiceLoss

rng = np.random.default_rng(0)
PIXEL_LOSSES = [HybridLoss(), SoftDiceLoss(), FocalLoss(), PixelCrossEntropy(stride=1)]


def name(loss):
    return loss.name


def drawn(classes=2, rows=6, columns=4, images=3):
    """Labels with ignored pixels, and probabilities."""
    labels = rng.integers(0, classes, (images, rows, columns)).astype("uint8")
    labels[rng.random(labels.shape) < 0.2] = 255
    values = rng.random((*labels.shape, classes)).astype("float32") + 0.05
    return labels, values / values.sum(-1, keepdims=True)


def over_pixels(labels, probabilities, cost):
    """The mean of `cost` of the true class' probability over counted pixels, one at a time."""
    pairs = zip(labels.ravel(), probabilities.reshape(labels.size, -1), strict=True)
    return np.mean([cost(float(p[label])) for label, p in pairs if label < 255])


def gradient(loss, labels, probabilities):
    values = tf.Variable(probabilities)
    with tf.GradientTape() as tape:
        cost = loss(labels, values)
    return tape.gradient(cost, values).numpy()


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_soft_dice_is_that_of_the_appendix(epsilon):
    labels, probabilities = drawn()
    a, b = (labels == 1).astype(float), np.where(labels < 255, probabilities[..., 1].astype(float), 0)
    dice = (2 * (a * b).sum() + epsilon) / (a.sum() + b.sum() + epsilon)
    assert float(SoftDiceLoss(epsilon=epsilon)(labels, probabilities)) == pytest.approx(1 - dice, rel=1e-5)


def test_soft_dice_by_hand():
    """Truth 1 1 0 0, prediction 0.5 1 0.5 0: 2 · 1.5 / (2 + 2) = 3/4, and 4/5 with an epsilon of 1."""
    labels, lesion = np.array([[[1, 1, 0, 0]]]), np.array([[[0.5, 1, 0.5, 0]]], "float32")
    one_channel = lesion[..., None]
    assert float(SoftDiceLoss(epsilon=1e-7)(labels, one_channel)) == pytest.approx(1 / 4, rel=1e-5)
    assert float(SoftDiceLoss()(labels, np.stack([1 - lesion, lesion], -1))) == pytest.approx(1 / 5, rel=1e-5)


def test_soft_dice_runs_over_the_batch_and_not_over_images():
    labels, lesion = np.array([[[1]], [[0]]]), np.array([[[[1.0]]], [[[0.5]]]], "float32")
    assert float(SoftDiceLoss(epsilon=1e-7)(labels, lesion)) == pytest.approx(1 - 2 / 2.5, rel=1e-5)


@pytest.mark.parametrize("epsilon", [1.0, 1e-7])
def test_two_empty_masks_have_a_dice_of_one(epsilon):
    assert float(SoftDiceLoss(epsilon=epsilon)(np.zeros((2, 3, 3)), np.zeros((2, 3, 3, 1), "float32"))) == 0


def test_soft_dice_of_more_classes_is_the_mean_over_all_but_the_first():
    labels, probabilities = drawn(classes=3)
    each = []
    for k in (1, 2):
        a, b = labels == k, np.where(labels < 255, probabilities[..., k].astype(float), 0)
        each.append(1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1))
    assert float(SoftDiceLoss()(labels, probabilities)) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_the_mean_over_counted_pixels(gamma, classes):
    labels, probabilities = drawn(classes)
    hand = over_pixels(labels, probabilities, lambda p: -((1 - p) ** gamma) * np.log(p))
    assert float(FocalLoss(gamma=gamma)(labels, probabilities)) == pytest.approx(hand, rel=1e-5)


def test_focal_loss_by_hand_and_without_class_weight():
    """(1 - 1/2)² ln 2 for either class: Keras' own would give a quarter of it."""
    half = np.full((1, 1, 2, 2), 0.5, "float32")
    assert float(FocalLoss()(np.array([[[0, 1]]]), half)) == pytest.approx(0.25 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4, 16])
def test_focal_loss_samples_the_labels_at_the_middle_of_each_cell(factor):
    labels, _ = drawn(rows=32, columns=16)
    _, probabilities = drawn(rows=32 // factor, columns=16 // factor)
    middle = np.empty(probabilities.shape[:3], int)
    for image, y, x in np.ndindex(middle.shape):
        middle[image, y, x] = labels[image, y * factor + factor // 2, x * factor + factor // 2]
    hand = over_pixels(middle, probabilities, lambda p: -((1 - p) ** 2) * np.log(p))
    assert float(FocalLoss()(labels, probabilities)) == pytest.approx(hand, rel=1e-5)


@pytest.mark.parametrize("side", [321, 320, 313, 8, 1])
def test_pixel_cross_entropy_samples_every_eighth_pixel_from_the_first(side):
    labels, _ = drawn(rows=side, columns=24, images=1)
    rows = -(-side // 8)
    _, probabilities = drawn(rows=rows, columns=3, images=1)
    labels[0, 0, 0] = 1
    sampled = np.array([[[labels[0, 8 * y, 8 * x] for x in range(3)] for y in range(rows)]])
    hand = over_pixels(sampled, probabilities, lambda p: -np.log(p))
    assert float(PixelCrossEntropy()(labels, probabilities)) == pytest.approx(hand, rel=1e-5)


def test_321_pixels_go_with_41_values_and_nothing_else():
    labels = np.zeros((1, 321, 321))
    assert np.isfinite(float(PixelCrossEntropy()(labels, np.full((1, 41, 41, 2), 0.5, "float32"))))
    with pytest.raises(SpecError, match=r"ceil\(side / 8\)"):
        PixelCrossEntropy()(labels, np.full((1, 40, 40, 2), 0.5, "float32"))


def test_patch_cross_entropy_is_the_mean_over_counted_patches():
    labels, values = np.array([0, 1, 255, 1]), np.array([0.2, 0.7, 0.9, 0.4], "float32")
    hand = -np.mean(np.log([0.8, 0.7, 0.4]))
    assert float(PatchCrossEntropy()(labels, values[:, None])) == pytest.approx(hand, rel=1e-5)
    assert float(PatchCrossEntropy()(labels, np.stack([1 - values, values], -1))) == pytest.approx(hand, rel=1e-5)


@pytest.mark.parametrize("loss", [SoftDiceLoss(), FocalLoss(), PixelCrossEntropy(stride=1)], ids=name)
def test_one_channel_is_the_probability_of_class_1(loss):
    labels, probabilities = drawn()
    assert float(loss(labels, probabilities)) == pytest.approx(float(loss(labels, probabilities[..., 1:])), rel=1e-5)


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=name)
def test_ignored_pixels_have_no_gradient_and_the_others_have_that_of_finite_differences(loss):
    labels, probabilities = drawn(rows=3, columns=2, images=2)
    labels[0, 0, 0] = 1
    found = gradient(loss, labels, probabilities)
    assert (found[labels == 255] == 0).all()
    for place in [(0, 0, 0, 1), (1, 2, 1, 0), (0, 1, 1, 1)]:
        step = np.zeros_like(probabilities)
        step[place] = 1e-3
        slope = (float(loss(labels, probabilities + step)) - float(loss(labels, probabilities - step))) / 2e-3
        assert found[place] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=name)
def test_a_batch_of_ignored_pixels_costs_nothing_and_moves_nothing(loss):
    labels, probabilities = np.full((2, 4, 4), 255, "uint8"), drawn(rows=4, images=2)[1]
    assert float(loss(labels, probabilities)) == pytest.approx(0, abs=1e-6)
    assert (gradient(loss, labels, probabilities) == 0).all()
    assert float(PatchCrossEntropy()(labels[:, 0, 0], probabilities[:, 0, 0])) == 0


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=name)
def test_certain_and_wrong_is_a_finite_loss_with_a_finite_gradient(loss):
    labels = np.array([[[0, 1], [1, 0]]])
    wrong = 1 - np.eye(2, dtype="float32")[labels]
    assert np.isfinite(float(loss(labels, wrong)))
    assert np.isfinite(gradient(loss, labels, wrong)).all()
    assert np.isfinite(gradient(loss, labels, 1 - wrong)).all()


@pytest.mark.parametrize("loss", [FocalLoss(), PixelCrossEntropy(stride=1)], ids=name)
def test_images_can_be_weighted(loss):
    labels, probabilities = drawn(images=2)
    labels[labels == 255] = 0
    each = [float(loss(labels[k : k + 1], probabilities[k : k + 1])) for k in range(2)]
    weighted = float(loss(labels, probabilities, np.array([3.0, 1.0])))
    assert weighted == pytest.approx((3 * each[0] + each[1]) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=name)
def test_losses_trace_where_the_graph_does_not_know_the_sizes(loss):
    labels, probabilities = drawn()
    unknown = [tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((None, None, None, 2), tf.float32)]
    traced = tf.function(lambda labels, probabilities: loss(labels, probabilities), input_signature=unknown)
    assert float(traced(labels, probabilities)) == pytest.approx(float(loss(labels, probabilities)), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        SoftDiceLoss(ignored=7, epsilon=0.5),
        FocalLoss(gamma=1.5, ignored=7, name="focal"),
        PixelCrossEntropy(stride=4, ignored=7),
        PatchCrossEntropy(ignored=7),
    ],
    ids=name,
)
def test_losses_survive_serialisation(loss):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize("loss", PIXEL_LOSSES, ids=name)
def test_labels_with_a_channel_are_refused_and_not_broadcast(loss):
    labels, probabilities = drawn()
    with pytest.raises(SpecError, match=r"labels\[\.\.\., 0\]"):
        loss(labels[..., None], probabilities)


@pytest.mark.parametrize("loss", [HybridLoss(), SoftDiceLoss(), FocalLoss()], ids=name)
def test_sizes_that_do_not_go_together_are_refused(loss):
    for rows, columns in [(41, 41), (160, 321), (642, 642)]:
        with pytest.raises(SpecError, match="one whole factor"):
            loss(np.zeros((1, 321, 321)), np.zeros((1, rows, columns, 2), "float32"))


def test_labels_of_patches_are_not_pixels():
    with pytest.raises(SpecError, match="PixelCrossEntropy"):
        PatchCrossEntropy()(np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 2), "float32"))


def test_nonsense_is_refused_at_birth():
    for make in (lambda: SoftDiceLoss(epsilon=0), lambda: FocalLoss(gamma=-1), lambda: PixelCrossEntropy(stride=0)):
        with pytest.raises(SpecError):
            make()
