"""The feature pyramid network, and the enlargement that it needs."""

import keras
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from digipath.models.blocks import Head
from digipath.models.catalog import build
from digipath.models.fpn import AlignedUpSampling2D, fpn

rng = np.random.default_rng(0)


def between_corners(x, factor):
    """Linear interpolation at positions from the first pixel's centre to the last one's, by SciPy."""
    rows, columns = (np.linspace(0, side - 1, side * factor) for side in x.shape[:2])
    return np.stack(
        [
            map_coordinates(x[..., channel], np.meshgrid(rows, columns, indexing="ij"), order=1)
            for channel in range(x.shape[-1])
        ],
        axis=-1,
    )


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 7), (1, 5)])
def test_enlarging_keeps_the_corners_and_is_linear_between(factor, rows, columns):
    x = rng.normal(size=(rows, columns, 3)).astype("float32")
    layer = AlignedUpSampling2D(factor)
    found = keras.ops.convert_to_numpy(layer(x[None]))[0]
    assert found.shape == layer.compute_output_shape((1, rows, columns, 3))[1:]
    np.testing.assert_allclose(found, between_corners(x, factor), atol=1e-5)
    np.testing.assert_allclose(found[[0, -1]][:, [0, -1]], x[[0, -1]][:, [0, -1]], atol=1e-6)


def test_enlarging_takes_sizes_unknown_when_traced():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("sizes are always known when JAX traces")
    layer = AlignedUpSampling2D(2)
    traced = tensorflow.function(layer.call, input_signature=[tensorflow.TensorSpec((None, None, None, 2))])
    x = rng.normal(size=(1, 5, 3, 2)).astype("float32")
    np.testing.assert_allclose(traced(x)[0], between_corners(x[0], 2), atol=1e-5)


def test_a_network_with_it_survives_keras_own_storing(tmp_path):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, AlignedUpSampling2D(2, name="enlarge")(image))
    model.save(tmp_path / "model.keras")
    x = rng.normal(size=(1, 4, 4, 3)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(x), model.predict_on_batch(x))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_head_is_enlarged_to_the_output_stride(stride):
    model = build("fpn-resnet34", output_stride=stride, width=0.125)
    assert model.compute_output_shape((1, 64, 96, 3)) == (1, 64 // stride, 96 // stride, 2)


def test_at_width_one_it_has_the_channels_of_its_paper():
    with keras.StatelessScope():
        model = build("fpn-vgg16")
    laterals = [model.get_layer(name).filters for name in ("decoder_p5", "decoder_p2_skip_conv")]
    norm = model.get_layer("decoder_seg_blocks_0_block_2_block_1")
    assert (laterals, norm.groups, norm.input.shape[-1]) == ([256, 256], 32, 128)


def test_any_encoder_of_ones_own_will_do():
    """Five maps by stride are all that the decoder asks for."""
    image = keras.Input((None, None, 3), dtype="uint8")
    x, maps = keras.layers.Rescaling(1 / 255)(image), []
    for _ in range(5):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(x)
        maps.append(x)
    model = fpn(keras.Model(image, maps), Head(classes=3), width=0.125, name="mine")
    values = model.predict_on_batch(np.zeros((1, 64, 32, 3), np.uint8))
    assert values.shape == (1, 64, 32, 3)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
