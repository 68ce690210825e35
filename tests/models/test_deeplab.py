"""DeepLabV3+ and its aligned Xception: dilation instead of strides, rates, pooling of the image, any encoder."""

import functools

import keras
import numpy as np
import pytest

from digipath.errors import BundleError, SpecError
from digipath.models.backbones import encoder
from digipath.models.blocks import Head
from digipath.models.catalog import build
from digipath.models.deeplab import deeplab

WIDTH = 0.05
rng = np.random.default_rng(0)


@functools.cache
def xception(output_stride):
    """The aligned Xception, with the same weights whatever its output stride."""
    network, own = encoder("xception", width=WIDTH, output_stride=output_stride), np.random.default_rng(1)
    values = [own.normal(0, 0.5 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape) for weight in network.weights]
    network.set_weights([np.abs(1 + array) if array.ndim == 1 else 3 * array for array in values])
    return network


def called(model, images):
    """A network's outputs as arrays, without the time that tracing takes."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(images))


@pytest.fixture(scope="module")
def network():
    return build("deeplab-xception", width=WIDTH)


@pytest.mark.parametrize("output_stride", [16, pytest.param(8, marks=pytest.mark.slow)])
def test_a_dilated_encoder_sees_the_same_more_densely(output_stride):
    """The law of the algorithme a trous: at the coarse positions nothing changes, borders included."""
    images = rng.integers(0, 256, (1, 96, 64, 3), dtype=np.uint8)
    coarse, dense = called(xception(32), images)[-1], called(xception(output_stride), images)[-1]
    step = 32 // output_stride
    assert dense.shape[1:3] == (96 // output_stride, 64 // output_stride)
    assert coarse.std(axis=(1, 2)).max() > 0.02 * np.abs(coarse).max()
    np.testing.assert_allclose(dense[:, ::step, ::step], coarse, rtol=1e-3, atol=1e-4 * np.abs(coarse).max())


@pytest.mark.parametrize("output_stride", [32, 16, pytest.param(8, marks=pytest.mark.slow)])
def test_the_pyramid_halves_until_its_output_stride(output_stride):
    shapes = xception(output_stride).compute_output_shape((1, 64, 96, 3))
    expected = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    assert [shape[1:3] for shape in shapes] == [(64 // stride, 96 // stride) for stride in expected]


def test_full_width_has_the_published_parameters():
    """The count published for bonlime/keras-deeplab-v3-plus, Xception, 21 classes."""
    assert build("deeplab-xception", classes=21).count_params() == 41_258_213


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("deeplab-xception", (6, 12, 18)),
        ("deeplab-xception-os8", (12, 24, 36)),
        ("deeplab-mobilenetv2", (3, 6, 9)),
    ],
)
def test_the_rates_reach_as_far_at_every_stride(name, rates):
    model = build(name, width=WIDTH)
    found = [model.get_layer(f"aspp{number}_depthwise").dilation_rate for number in (1, 2, 3)]
    assert found == [(rate, rate) for rate in rates]
    assert model.compute_output_shape((1, 64, 96, 3)) == (1, 64, 96, 2)


def test_the_pooled_image_is_the_same_everywhere(network):
    both = [network.get_layer(f"image_pooling_{end}").output for end in ("broadcast", "activation")]
    pooled = keras.Model(network.input, both)
    found, mean = called(pooled, rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8))
    assert found.shape[:3] == (2, 4, 6) and mean.shape[:3] == (2, 1, 1)
    np.testing.assert_array_equal(found, np.broadcast_to(mean, found.shape))


def test_probabilities_come_at_the_input_size_from_logits_at_stride_4(network):
    images = rng.integers(0, 256, (1, 64, 32, 3), dtype=np.uint8)
    logits, values = called(keras.Model(network.input, [network.get_layer("logits").output, network.output]), images)
    assert logits.shape == (1, 16, 8, 2)
    assert values.shape == (1, 64, 32, 2) and values.dtype == np.float32
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)


def test_the_dilated_variant_is_the_xceptions_alone():
    with pytest.raises(SpecError, match="got 'deeplab-mobilenetv2-os8'"):
        build("deeplab-mobilenetv2-os8")


def test_an_encoder_without_a_map_at_stride_4_is_refused():
    image = keras.Input((None, None, 3), dtype="uint8")
    x = keras.layers.AveragePooling2D(8)(image)
    with pytest.raises(SpecError, match="got 8 and 8"):
        deeplab(keras.Model(image, [x, x]), Head())


def test_imagenet_weights_of_the_aligned_xception_do_not_exist():
    with pytest.raises(BundleError, match="PASCAL VOC"):
        build("deeplab-xception", width=WIDTH, weights="imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplab-xception", "deeplab-xception-os8"])
def test_full_width_segments_two_sizes(name):
    model = build(name)
    for rows, columns in [(128, 128), (64, 96)]:
        values = called(model, rng.integers(0, 256, (1, rows, columns, 3), dtype=np.uint8))
        assert values.shape == (1, rows, columns, 2)
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
