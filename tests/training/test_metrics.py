"""The streaming metrics against `evaluation/overlap.py`, on the same batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from digipath.errors import SpecError
from digipath.evaluation import overlap
from digipath.training.losses import FocalLoss, HybridLoss, PatchCrossEntropy, PixelCrossEntropy, enlarged
from digipath.training.metrics import Dice, IoU, MeanIoU, PatchAccuracy, TumorMeanIoU

rng = np.random.default_rng(0)


def image(lesion, ignored=0.2, side=8):
    """Labels of which about that share is lesion, and the lesion's probability, better than chance."""
    labels = (rng.random((side, side)) < lesion).astype("uint8")
    probability = np.clip(0.5 * rng.random((side, side)) + 0.4 * labels + 0.05, 0, 1).astype("float32")
    labels[rng.random((side, side)) < ignored] = 255
    return labels, probability


def batches():
    """Two batches: lesions of every size, images without, one wholly ignored, one all right, one empty and found so."""
    images = [image(lesion) for lesion in (0.5, 0.02, 0.9, 0.3, 0, 1)] + [image(0.5, ignored=1)]
    images += [(labels, (labels == 1).astype("float32")) for labels, _ in (image(0.4), image(0))]
    labels, values = (np.stack(part) for part in zip(*images, strict=True))
    return [(labels[:5], values[:5]), (labels[5:], values[5:])]


def counts(labels, values, threshold=0.5):
    return [overlap.Counts.of(v > threshold, one) for one, v in zip(labels, values, strict=True)]


def channels(values, kind):
    return values[..., None] if kind == "sigmoid" else np.stack([1 - values, values], -1)


REFERENCES = [
    (Dice, lambda images: overlap.dice(overlap.total(images))),
    (IoU, lambda images: overlap.iou(overlap.total(images))),
    (MeanIoU, lambda images: overlap.per_image(overlap.mean_iou, images).mean),
    (TumorMeanIoU, lambda images: overlap.per_image(overlap.tumor_mean_iou, images).mean),
]
KINDS = [kind for kind, _ in REFERENCES]


@pytest.mark.parametrize("threshold", [0.5, 0.7])
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("kind", "reference"), REFERENCES)
def test_streaming_metrics_agree_with_the_evaluation(kind, reference, form, threshold):
    metric, images = kind(threshold=threshold), []
    for labels, values in batches():
        metric.update_state(labels, channels(values, form))
        images += counts(labels, values, threshold)
    assert float(metric.result()) == pytest.approx(reference(images), rel=1e-6)
    metric.reset_state()
    assert float(metric.result()) == pytest.approx(reference([]), nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_same_traced_and_stateless(kind):
    [(labels, values), _] = batches()
    plain, traced, stateless = kind(), kind(), kind()
    plain.update_state(labels, channels(values, "softmax"))
    unknown = [tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((None, None, None, 2), tf.float32)]
    tf.function(lambda y, p: traced.update_state(y, p), input_signature=unknown)(labels, channels(values, "softmax"))
    state = stateless.stateless_update_state(list(stateless.variables), labels, channels(values, "softmax"))
    expected = float(plain.result())
    assert float(traced.result()) == pytest.approx(expected)
    assert float(stateless.stateless_result(state)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_prediction_is_compared_as_in_its_loss(kind):
    labels, _ = image(0.5, side=33)
    [_, coarse], [_, fifth] = image(0.5, side=8), image(0.5, side=5)
    labels, coarse, fifth = labels[None], channels(coarse[None], "softmax"), channels(fifth[None], "softmax")

    def of(like, labels, values):
        metric = kind(like=like)
        metric.update_state(labels, values)
        return float(metric.result())

    square, large = labels[:, :32, :32], keras.ops.convert_to_numpy(enlarged(coarse, rows=32))
    assert of(None, square, coarse) == of(HybridLoss(), square, coarse) == pytest.approx(of(None, square, large))
    assert of(FocalLoss(), square, coarse) == pytest.approx(of(None, square[:, 2::4, 2::4], coarse))
    assert of(PixelCrossEntropy(), labels, fifth) == pytest.approx(of(None, labels[:, ::8, ::8], fifth))
    with pytest.raises(SpecError, match="like=PixelCrossEntropy"):
        of(None, labels, fifth)


def test_of_three_classes_the_last_is_the_lesion():
    labels = np.array([[[0, 1, 2, 2]]])
    values = np.array([[[[1, 0, 0], [0.2, 0.2, 0.6], [0, 0.1, 0.9], [0.1, 0.5, 0.4]]]], "float32")
    metric = IoU()
    metric.update_state(labels, values)
    assert float(metric.result()) == pytest.approx(1 / 3)


def test_accuracy_of_patches():
    metric = PatchAccuracy()
    assert np.isnan(float(metric.result()))
    metric.update_state(np.array([0, 1, 1, 255]), np.array([[0.2], [0.7], [0.4], [0.9]], "float32"))
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(np.array([2]), np.array([[0.2, 0.3, 0.5]], "float32"))
    assert float(metric.result()) == pytest.approx(3 / 4)
    with pytest.raises(SpecError, match="take IoU or Dice"):
        metric.update_state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 2)))


def test_they_are_reported_in_training():
    [(labels, values), _] = batches()
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Rescaling(1.0), keras.layers.Conv2D(2, 1, activation="softmax")]
    )
    model.compile("sgd", HybridLoss(), metrics=[kind() for kind in KINDS], jit_compile=False)
    found = model.evaluate(values[..., None], labels, batch_size=2, verbose=0, return_dict=True)
    images = counts(labels, model.predict_on_batch(values[..., None])[..., 1])
    for kind, reference in REFERENCES:
        assert found[kind().name] == pytest.approx(reference(images), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("like", [None, PixelCrossEntropy(stride=4)])
def test_they_survive_serialisation(kind, like):
    metric = kind(threshold=0.3, ignored=7, like=like, name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is kind
    assert again.get_config() == metric.get_config()


def test_nonsense_is_refused():
    for nonsense in ({"threshold": 1.5}, {"like": PatchCrossEntropy()}, {"like": "mse"}):
        with pytest.raises(SpecError):
            IoU(**nonsense)
    with pytest.raises(SpecError, match="weighted_metrics"):
        IoU().update_state(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 2)), np.ones(1))
