"""The slimmed-down Inception-v3, compared with that of keras.applications."""

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bundle import Bundle
from digipath.models.catalog import build, rebuild
from digipath.models.spec import ModelSpec

SPEC = ModelSpec(architecture="slim-inceptionv3", mpp=0.25, patch=299, kind="classifier")
PATCHES = np.random.default_rng(0).integers(0, 256, (2, 96, 75, 3), dtype=np.uint8)


def inception_v3():
    return keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(None, None, 3))


def maker(tensor):
    return tensor._keras_history.operation


def parts(tensor):
    """What a tensor is made of; concatenations of concatenations are one."""
    if not isinstance(maker(tensor), keras.layers.Concatenate):
        inputs = keras.tree.flatten(maker(tensor).input)
        return [] if isinstance(maker(inputs[0]), keras.layers.InputLayer | keras.layers.Rescaling) else inputs
    return [part for one in maker(tensor).input for part in ([one] if not joined(one) else parts(one))]


def joined(tensor):
    return isinstance(maker(tensor), keras.layers.Concatenate)


def pairs(mine, theirs, seen):
    """The layers with weights that make two tensors, walked backwards side by side."""
    if id(mine) in seen:
        return
    seen.add(id(mine))
    if maker(mine).weights:
        yield maker(mine), maker(theirs)
    for one, two in zip(parts(mine), parts(theirs), strict=True):
        yield from pairs(one, two, seen)


@pytest.mark.slow
def test_at_full_width_it_computes_what_inception_v3_does():
    full, theirs = build("slim-inceptionv3", width=1.0), inception_v3()
    body = keras.Model(full.input, full.get_layer("mixed10").output)
    matched = list(pairs(body.output, theirs.output, set()))
    assert len({id(layer) for layer, _ in matched}) == sum(bool(layer.weights) for layer in theirs.layers)
    for layer, other in matched:
        layer.set_weights(other.get_weights())
    expected = theirs.predict_on_batch(PATCHES / 127.5 - 1)
    np.testing.assert_allclose(body.predict_on_batch(PATCHES), expected, atol=1e-4 * expected.max())


def test_at_full_width_it_has_the_parameters_of_inception_v3_and_a_head():
    models = build("slim-inceptionv3", width=1.0), inception_v3()
    shapes = [sorted(tuple(weight.shape) for weight in model.weights) for model in models]
    assert shapes[0] == sorted([*shapes[1], (2048, 2), (2,)])


def test_a_tenth_of_the_filters_is_kept_unless_asked_otherwise():
    slim, theirs = build("slim-inceptionv3"), inception_v3()
    kept = sorted(layer.filters for layer in slim.layers if isinstance(layer, keras.layers.Conv2D))
    there = sorted(layer.filters for layer in theirs.layers if isinstance(layer, keras.layers.Conv2D))
    assert kept == [round(0.1 * filters) for filters in there]
    assert slim.count_params() == rebuild(SPEC).count_params() == 220_430


def test_any_size_in_and_one_value_a_class_out():
    model = rebuild(SPEC)
    output = keras.ops.convert_to_numpy(model(PATCHES))
    assert output.shape == (2, 2) and output.dtype == np.float32
    np.testing.assert_allclose(output.sum(-1), 1, atol=1e-5)
    assert model.compute_output_shape((7, 299, 299, 3)) == (7, 2)
    assert build("slim-inceptionv3", classes=5).output_shape == (None, 5)
    assert build("slim-inceptionv3", activation="sigmoid").output_shape == (None, 1)


def test_its_bundle_says_one_thing_of_a_patch(tmp_path):
    model = rebuild(SPEC)
    loaded = Bundle.load(Bundle(model, SPEC).save(tmp_path / "slim"))
    patches = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), dtype=np.uint8)
    values = KerasPredictor(loaded)(patches)
    assert values.shape == (2, 1, 1, 2)
    np.testing.assert_allclose(values[:, 0, 0], model.predict_on_batch(patches), atol=0.02)


def test_the_head_stays_in_float32_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert build("slim-inceptionv3").output.dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("asked", [{"output_stride": 2}, {"weights": "imagenet"}, {"encoder": "densenet121"}])
def test_what_it_cannot_do_is_refused(asked):
    with pytest.raises(SpecError, match="got"):
        build("slim-inceptionv3", **asked)
