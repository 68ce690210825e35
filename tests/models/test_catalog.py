"""The one test that every network of the catalogue passes, and what holds for some of them."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.models.bundle import Bundle, last_output
from digipath.models.catalog import architectures, build, rebuild
from digipath.models.spec import ModelSpec
from digipath.training.losses import HybridLoss

rng = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What `check_model` compares with; `parameters` at width 1 and output stride 1, counted by hand."""

    parameters: int
    width: float = 0.25
    patch: int = 64
    steps: int = 30
    output_stride: int = 2


def two_textures(count, patch):
    """Patches of which one half is stripes, the lesion, and the other noise; and their labels."""
    images = rng.integers(90, 170, (count, patch, patch, 3), dtype=np.uint8)
    labels = np.zeros((count, patch, patch), np.uint8)
    for number in range(count):
        half = slice(patch // 2) if number % 2 else slice(patch // 2, None)
        images[number, :, half] = np.where(np.arange(patch)[:, None, None] // 4 % 2, 40, 220)
        labels[number, :, half] = 1
    return images, labels


def check_model(name, expected, folder):
    """Builds, has its parameters, accepts two sizes, sums to one, overfits a few patches, survives storing."""
    assert build(name).count_params() == expected.parameters
    keras.utils.set_random_seed(0)
    stride = expected.output_stride
    spec = ModelSpec(architecture=name, mpp=1.0, patch=expected.patch, output_stride=stride, width=expected.width)
    model = rebuild(spec)
    last, outputs = last_output(model), len(model.outputs)
    for rows, columns in [(expected.patch, expected.patch), (96, 32)]:
        values = keras.ops.convert_to_numpy(last(rng.integers(0, 255, (1, rows, columns, 3), dtype=np.uint8)))
        assert values.shape == (1, rows // stride, columns // stride, 2) and values.dtype == np.float32
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    images, labels = two_textures(4, expected.patch)
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss=[HybridLoss() for _ in model.outputs], jit_compile=False)
    losses = [np.ravel(model.train_on_batch(images, [labels] * outputs))[0] / outputs for _ in range(expected.steps)]
    assert losses[-1] < 0.1 < losses[0]
    loaded = last_output(Bundle.load(Bundle(model, spec).save(folder / name)).model)
    np.testing.assert_allclose(loaded.predict_on_batch(images), last.predict_on_batch(images), atol=0.02)


def test_the_light_unet_passes_the_check(tmp_path):
    check_model("unet-mobilenetv2", Expected(parameters=1_524_738), tmp_path)


@pytest.mark.slow
def test_the_papers_unet_passes_the_check(tmp_path):
    check_model("unet-densenet121", Expected(parameters=17_449_410, steps=25), tmp_path)


def test_the_bcc_papers_own_unet_passes_the_check(tmp_path):
    check_model("bcc-unet", Expected(parameters=31_395_074, width=0.125), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bcc-unet-ds", 31_397_002),
        ("bcc-unet-linear", 31_397_007),
        ("bcc-resnet34", 24_455_266),  # trainable: the tiger UNet's 24,436,369 with 1x1 for 3x3 and two classes for one
        ("bcc-resnet34-ds", 24_456_234),
        ("bcc-resnet34-linear", 24_456_239),
    ],
)
def test_its_other_networks_pass_the_check(name, parameters, tmp_path):
    check_model(name, Expected(parameters=parameters, width=0.125), tmp_path)


@pytest.mark.slow
def test_the_microdosimetry_papers_unet_passes_the_check(tmp_path):
    check_model(
        "unet-microdosimetry", Expected(parameters=34_531_074, width=0.125, output_stride=1, steps=60), tmp_path
    )


def test_every_architecture_is_checked_here():
    assert architectures() == (
        "atrous-resnet101",
        "bcc-resnet34",
        "bcc-resnet34-ds",
        "bcc-resnet34-linear",
        "bcc-unet",
        "bcc-unet-ds",
        "bcc-unet-linear",
        "deeplab-xception",
        "deeplab-xception-os8",
        "fpn-resnet34",
        "slim-inceptionv3",
        "unet-densenet121",
        "unet-inceptionresnetv2",
        "unet-microdosimetry",
        "unet-mobilenetv2",
        "unet-resnet34",
        "unet-vgg16",
    )


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_the_decoder_stops_at_the_output_stride(stride):
    model = build("unet-mobilenetv2", output_stride=stride, width=0.25)
    assert model.compute_output_shape((1, 64, 96, 3)) == (1, 64 // stride, 96 // stride, 2)


def test_a_sigmoid_has_one_channel_and_more_classes_have_theirs():
    assert build("unet-mobilenetv2", activation="sigmoid", width=0.25).output_shape[-1] == 1
    assert build("unet-mobilenetv2", classes=5, width=0.25).output_shape[-1] == 5


def test_the_head_stays_in_float32_under_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert build("unet-mobilenetv2", width=0.25).output.dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "mobilnet_unet"},
        {"name": "unet-mobilenetv2", "classes": 1},
        {"name": "unet-mobilenetv2", "encoder": "mobilenetv2"},
        {"name": "unet-mobilenetv2", "encoder": "densenet121"},
        {"name": "unet-mobilenetv2-ds"},
        {"name": "unet", "encoder": "densenet"},
        {"name": "unet"},
        {"name": "unet-mobilenetv2", "classes": 3, "activation": "sigmoid"},
        {"name": "unet-mobilenetv2", "activation": "tanh"},
        {"name": "unet-mobilenetv2", "output_stride": 3},
        {"name": "unet-mobilenetv2", "width": 0},
    ],
)
def test_what_cannot_be_built_is_refused(asked):
    with pytest.raises(SpecError, match="got"):
        build(asked.pop("name"), **asked)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match="mean 'unet-densenet121'"):
        build("unet-densnet")


def test_names_and_paths_do_not_depend_on_what_was_built_before():
    first = build("unet-mobilenetv2", width=0.25)
    keras.applications.MobileNetV2(alpha=0.35, weights=None, include_top=False, input_shape=(64, 64, 3))
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3), keras.layers.ZeroPadding2D()])
    second = build("unet-mobilenetv2", width=0.25)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert [weight.path for weight in first.weights] == [weight.path for weight in second.weights]
    inner = [[layer.name for layer in model.get_layer("mobilenetv2").layers] for model in (first, second)]
    assert inner[0] == inner[1]


def test_paths_of_weights_are_unique():
    paths = [weight.path for weight in build("unet-mobilenetv2", width=0.25).weights]
    assert len(set(paths)) == len(paths)


def test_an_encoder_is_given_in_the_name_or_apart():
    apart = build("unet", encoder="mobilenetv2", width=0.25)
    assert apart.name == "unet-mobilenetv2"
    assert apart.count_params() == build("unet-mobilenetv2", width=0.25).count_params()


def test_one_channel_is_a_sigmoid_of_one_class():
    assert build("unet-mobilenetv2", classes=1, activation="sigmoid", width=0.25).output_shape[-1] == 1


def test_sides_that_do_not_fit_are_named():
    model = build("unet-mobilenetv2", width=0.25)
    with pytest.raises(ValueError, match=r"expected shape=\(None, a multiple of 32, a multiple of 32, 3\), found"):
        model.predict_on_batch(np.zeros((1, 64, 50, 3), np.uint8))


@pytest.mark.slow
def test_names_are_the_same_in_another_process():
    code = (
        "import keras; keras.layers.ZeroPadding2D(); from digipath.models.catalog import build; "
        "print(' '.join(layer.name for layer in build('unet-densenet121', width=0.1).get_layer('densenet121').layers))"
    )
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = [layer.name for layer in build("unet-densenet121", width=0.1).get_layer("densenet121").layers]
    assert names == here
