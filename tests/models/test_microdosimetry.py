"""The microdosimetry paper's UNet."""

import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.models.bundle import Bundle
from digipath.models.catalog import build, rebuild
from digipath.models.microdosimetry import DROPOUT
from digipath.models.spec import ModelSpec

PATCHES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def block(before, after):
    """Two 3x3 convolutions without bias, each with the four vectors of its batch normalisation."""
    return 9 * before * after + 4 * after + 9 * after * after + 4 * after


def test_every_parameter_is_accounted_for():
    contracting = block(3, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    transposed = sum(9 * 2 * after * after + after for after in (512, 256, 128, 64))
    expanding = transposed + sum(block(2 * after, after) for after in (512, 256, 128, 64))
    total = contracting + block(512, 1024) + expanding
    assert build("unet-microdosimetry", activation="sigmoid").count_params() == total + 64 + 1
    assert build("unet-microdosimetry").count_params() == total + 2 * (64 + 1)


def test_the_layers_come_in_the_appendix_s_order():
    model = build("unet-microdosimetry", width=0.125)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert [kinds.count(kind) for kind in ("MaxPooling2D", "Dropout", "Conv2DTranspose", "Concatenate")] == [4, 8, 4, 4]
    assert all(layer.rate == DROPOUT == 0.5 for layer in model.layers if type(layer).__name__ == "Dropout")
    for name, before in [
        ("down_1_1_conv", "down_0_dropout"),
        ("down_0_dropout", "down_0_pool"),
        ("bottom_1_conv", "down_3_dropout"),
        ("up_3_dropout", "up_3_transposed"),
        ("up_3_join", "up_3_dropout"),
        ("up_2_transposed", "up_3_2_relu"),
    ]:
        inputs = model.get_layer(name).input
        first = inputs[0] if isinstance(inputs, list) else inputs
        assert first is model.get_layer(before).output


def test_the_output_has_the_size_of_the_patch():
    model = build("unet-microdosimetry", activation="sigmoid", width=0.125)
    output = np.asarray(model(PATCHES))
    assert output.shape == (2, 64, 96, 1) and 0 <= output.min() <= output.max() <= 1
    assert model.compute_output_shape((1, 80, 48, 3)) == (1, 80, 48, 1)  # multiples of 16


def test_dropout_acts_in_training_alone():
    model = build("unet-microdosimetry", width=0.125)
    first, second = (np.asarray(model(PATCHES, training=False)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, np.asarray(model(PATCHES, training=True)))


def test_it_survives_storing(tmp_path):
    spec = ModelSpec(architecture="unet-microdosimetry", mpp=1.0, patch=64, activation="sigmoid", width=0.125)
    model = rebuild(spec)
    loaded = Bundle.load(Bundle(model, spec).save(tmp_path / "stored")).model
    np.testing.assert_allclose(loaded.predict_on_batch(PATCHES), model.predict_on_batch(PATCHES), atol=0.02)


@pytest.mark.parametrize("asked", [{"output_stride": 2}, {"weights": "imagenet"}, {"encoder": "densenet121"}])
def test_what_it_cannot_do_is_refused(asked):
    with pytest.raises(SpecError, match="got"):
        build("unet-microdosimetry", **asked)
