"""ResNet and VGG encoders: their parameters, their arithmetic, and what dilation and odd sizes do."""

import math

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.models.backbones import encoder
from digipath.models.blocks import conv_norm
from digipath.models.catalog import build
from digipath.models.resnet import _block, _Stage

rng = np.random.default_rng(0)


def noise(*shape):
    return rng.normal(size=shape).astype("float32")


def convolved(x, kernel, *, stride=1, dilation=1):
    """A convolution with symmetric zero padding, by hand."""
    size, pad = kernel.shape[0], dilation * (kernel.shape[0] - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (math.ceil(side / stride) for side in x.shape[1:3])
    total = np.zeros((len(x), rows, columns, kernel.shape[3]), np.float64)
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            part = padded[:, top : top + stride * (rows - 1) + 1 : stride]
            part = part[:, :, left : left + stride * (columns - 1) + 1 : stride]
            total += part @ kernel[i, j]
    return total


def normalised(x, gamma, beta, mean, variance):
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def randomised(model):
    """Values that matter everywhere, batch statistics included."""
    for weight in model.weights:
        positive = weight.path.endswith(("moving_variance", "gamma"))
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else 0.3 * noise(*weight.shape))
    return {weight.path: weight.numpy() for weight in model.weights}


def statistics(weights, name):
    return [weights[f"{name}/{kind}"] for kind in ("gamma", "beta", "moving_mean", "moving_variance")]


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_pads_alike_on_both_sides(stride, dilation):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, conv_norm(image, 4, stride=stride, dilation=dilation))
    weights, x = randomised(model), noise(1, 8, 9, 3)
    expected = normalised(
        convolved(x, weights["conv/kernel"], stride=stride, dilation=dilation), *statistics(weights, "bn")
    )
    np.testing.assert_allclose(model.predict_on_batch(x), expected, atol=1e-5)


@pytest.mark.parametrize(("stride", "dilation", "first_dilation"), [(2, 1, 1), (1, 4, 2)])
def test_a_bottleneck_is_the_published_one(stride, dilation, first_dilation):
    stage = _Stage(
        name="layer3",
        blocks=1,
        channels=8,
        expansion=4,
        stride=stride,
        dilation=dilation,
        first_dilation=first_dilation,
    )
    image = keras.Input((None, None, 6))
    model = keras.Model(image, _block(image, stage, 0))
    weights, x = randomised(model), noise(1, 10, 8, 6)

    def step(x, number, **move):
        x = convolved(x, weights[f"layer3_0_conv{number}/kernel"], **move)
        return normalised(x, *statistics(weights, f"layer3_0_bn{number}"))

    y = np.maximum(step(x, 1), 0)
    y = np.maximum(step(y, 2, stride=stride, dilation=first_dilation), 0)
    y = step(y, 3)
    shortcut = convolved(x, weights["layer3_0_downsample_0/kernel"], stride=stride)
    expected = np.maximum(y + normalised(shortcut, *statistics(weights, "layer3_0_downsample_1")), 0)
    np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=1e-4, atol=1e-4)


# torchvision's own counts without the classifier; ResNet-50's are 25,557,032 - 2,049,000 of it.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet34", 21_284_672),
        pytest.param("resnet50", 23_508_032, marks=pytest.mark.slow),
        pytest.param("resnet101", 42_500_160, marks=pytest.mark.slow),
        ("vgg16", 14_714_688),
    ],
)
def test_the_encoder_has_the_trainable_parameters_of_torchvisions(name, parameters):
    with keras.StatelessScope():
        network = encoder(name)
    assert sum(math.prod(weight.shape) for weight in network.trainable_weights) == parameters


@pytest.mark.parametrize("name", ["resnet34", "vgg16"])
def test_the_pyramid_halves_five_times(name):
    shapes = encoder(name, width=0.125).compute_output_shape((1, 64, 96, 3))
    assert [shape[1:3] for shape in shapes] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize(("stride", "dilations"), [(32, (1, 1)), (16, (1, 2)), (8, (2, 4))])
def test_beyond_the_output_stride_convolutions_dilate(stride, dilations):
    network = encoder("resnet34", width=0.125, output_stride=stride)
    shapes = network.compute_output_shape((1, 64, 64, 3))
    assert [64 // shape[1] for shape in shapes] == [min(s, stride) for s in (2, 4, 8, 16, 32)]
    last = [network.get_layer(f"layer{number}_1_conv2").dilation_rate[0] for number in (3, 4)]
    assert tuple(last) == dilations


def test_an_output_stride_that_an_encoder_lacks_is_refused():
    with pytest.raises(SpecError, match="output_stride of vgg16"):
        encoder("vgg16", output_stride=8)


def test_the_atrous_network_takes_any_size_and_rounds_up():
    model = build("atrous-resnet101", width=0.125)
    for side in (64, 65, 71, 72, 321):
        assert model.compute_output_shape((1, side, 64, 3)) == (1, math.ceil(side / 8), 8, 2)


def test_an_output_of_the_atrous_network_is_centred_on_pixel_eight_times_its_place():
    """Seen in a mirror, an image of side 8 n + 1 gives the mirrored output: its first pixel and its last are alike."""
    model = encoder("resnet34", width=0.125, output_stride=8)
    for weight in model.weights:
        if weight.path.endswith("kernel"):  # symmetric kernels: only the placing of pixels can break the mirror
            values = weight.numpy()
            weight.assign((values + values[:, ::-1]) / 2)
    image = rng.integers(0, 256, (1, 57, 57, 3), dtype=np.uint8)
    output, mirrored = (model.predict_on_batch(one)[-1] for one in (image, image[:, :, ::-1]))
    np.testing.assert_allclose(mirrored, output[:, :, ::-1], atol=1e-4 * np.abs(output).max())
