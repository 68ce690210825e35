"""The one test that every network of the catalogue passes, and what holds for some of them."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.models.backbones import BACKBONES
from digipath.models.bundle import Bundle, last_output
from digipath.models.catalog import architectures, build, canonical, known, rebuild
from digipath.models.spec import ModelSpec
from digipath.training.losses import HybridLoss, PatchCrossEntropy

rng = np.random.default_rng(0)


# Parameters at full width with two classes, from sources that are not ours: the totals that libraries publish, and the
# papers' decoders summed by hand.


def unit(before, after, kernel=3):
    """A convolution without bias, and the four vectors of its batch normalisation."""
    return kernel**2 * before * after + 4 * after


def between(x, skips, filters):
    """The digipathai decoder: a unit before and one after each skip; a head of 1x1."""
    total = 2 * filters[-1] + 2
    for skip, after in zip((*skips, 0), filters, strict=True):
        total += unit(x, after) + unit(after + skip, after)
        x = after
    return total


def doubled(x, skips, filters):
    """The bcc decoder: two units after each skip; no head."""
    total = 0
    for skip, after in zip((*skips, 0), filters, strict=True):
        total += unit(x + skip, after) + unit(after, after)
        x = after
    return total


def ronneberger(filters):
    """The UNet of 2015 with batch normalisation and 3x3 transposed convolutions; a head of 1x1."""
    pairs = [*zip((3, *filters), filters, strict=False)]
    total = sum(unit(before, after) + unit(after, after) for before, after in pairs) + 2 * filters[0] + 2
    return total + sum(
        9 * low * high + low + unit(2 * low, low) + unit(low, low) for low, high in itertools.pairwise(filters)
    )


PAPER, BCC = (320, 256, 128, 96, 64), (512, 256, 128, 64, 32)
BCC_ENCODER = unit(3, 64, 7) + sum(unit(n, 2 * n) + unit(2 * n, 2 * n) for n in (64, 128, 256, 512))
BCC_UNET = BCC_ENCODER + doubled(1024, (512, 256, 128, 64), BCC)
# segmentation_models.pytorch's own counts, trainable and with one class; then the statistics of batch normalisation
UNET_RESNET34 = 24_436_369 + 2 * (8_512 + 992)
UNET_VGG16 = 23_748_241 + 2 * (1_024 + 992)
FPN_RESNET34 = 23_155_393 + 2 * 8_512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What `check_model` compares with.

    `parameters` are those at `full` width; `width`, `stride` and `side` of the input are what is trained.
    """

    parameters: int
    full: float = 1.0
    width: float = 0.125
    stride: int = 1
    side: int = 64
    steps: int = 30
    rate: float = 5e-3

    def spec(self, name):
        kind = "classifier" if name == "slim-inceptionv3" else "segmenter"
        stride = self.stride
        return ModelSpec(architecture=name, mpp=1.0, patch=self.side, output_stride=stride, width=self.width, kind=kind)


EXPECTED = {
    # torchvision's ResNet-101 without its classes, the statistics of its batch normalisation, and two 1x1 filters
    "atrous-resnet101": Expected(parameters=42_500_160 + 105_344 + 2 * 2_049, stride=8),
    # the tiger UNet on ResNet-34 has the same blocks; a head of 1x1 for 3x3
    "bcc-resnet34": Expected(parameters=UNET_RESNET34 - 145 + 34, stride=2),
    "bcc-resnet34-ds": Expected(parameters=UNET_RESNET34 - 145 + 34 + 2 * (256 + 128 + 64 + 32 + 4)),
    "bcc-resnet34-linear": Expected(parameters=UNET_RESNET34 - 145 + 34 + 2 * (256 + 128 + 64 + 32 + 4) + 5),
    "bcc-unet": Expected(parameters=BCC_UNET + 2 * 33, stride=2),
    "bcc-unet-ds": Expected(parameters=BCC_UNET + 2 * (sum(BCC) + 5)),
    "bcc-unet-linear": Expected(parameters=BCC_UNET + 2 * (sum(BCC) + 5) + 5),
    # the Keras port of the published network has 41,258,213 with 21 classes
    "deeplab-xception": Expected(parameters=41_258_213 - 19 * 257),
    "deeplab-xception-os8": Expected(parameters=41_258_213 - 19 * 257),
    "fpn-resnet34": Expected(parameters=FPN_RESNET34 + 129, stride=4),
    # keras.applications' Inception-v3 without its classes
    "slim-inceptionv3": Expected(parameters=21_802_784 + 2 * 2_049, width=0.1, side=96, rate=1e-3),
    # keras.applications' encoders without their classes, and the paper's decoder
    "unet-densenet121": Expected(parameters=7_037_504 + between(1024, (1024, 512, 256, 64), PAPER), stride=2, steps=25),
    "unet-inceptionresnetv2": Expected(
        parameters=54_336_736 + between(1536, (1088, 320, 192, 64), PAPER), stride=2, steps=25
    ),
    "unet-microdosimetry": Expected(parameters=ronneberger((64, 128, 256, 512, 1024)), steps=60),
    "unet-mobilenetv2": Expected(
        parameters=410_208 + unit(1280, 128, 1) + between(128, (192, 96, 48, 48), (128, 96, 64, 24, 16)),
        width=0.25,
        stride=2,
    ),
    "unet-resnet34": Expected(parameters=UNET_RESNET34 + 145, stride=2),
    "unet-vgg16": Expected(parameters=UNET_VGG16 + 145, stride=2, rate=1e-3, steps=60),
}
PLAIN = ("bcc-unet",)  # the others take many seconds each


def every(*, plain):
    return [name if name in plain else pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED]


def two_textures(count, patch):
    """Patches of which one half is stripes, the lesion, and the other noise; and their labels."""
    images = rng.integers(90, 170, (count, patch, patch, 3), dtype=np.uint8)
    labels = np.zeros((count, patch, patch), np.uint8)
    for number in range(count):
        half = slice(patch // 2) if number % 2 else slice(patch // 2, None)
        images[number, :, half] = np.where(np.arange(patch)[:, None, None] // 4 % 2, 40, 220)
        labels[number, :, half] = 1
    return images, labels


def two_patches_of_each_class(count, patch):
    """Patches that are noise or, every second of them, stripes; and their classes."""
    images, _ = two_textures(count, patch)
    images[1::2] = np.where(np.arange(patch)[:, None, None] // 4 % 2, 40, 220)
    images[::2] = rng.integers(90, 170, images[::2].shape, dtype=np.uint8)
    return images, np.arange(count) % 2


def check_full_width(name, expected):
    """Has its parameters and output shape, at full width and the network's own stride; nothing is allocated."""
    with keras.StatelessScope():
        model = build(name, width=expected.full)
    assert model.count_params() == expected.parameters
    assert canonical(name) == model.name == name and known(name)
    assert len({weight.path for weight in model.weights}) == len(model.weights)
    if name == "slim-inceptionv3":
        assert last_output(model).compute_output_shape((1, 299, 299, 3)) == (1, 2)
    else:
        stride = 8 if name == "atrous-resnet101" else 1
        assert last_output(model).compute_output_shape((1, 64, 96, 3)) == (1, 64 // stride, 96 // stride, 2)


def check_sizes(model, spec):
    """Takes two sizes, and gives as many probabilities as its stride says; they sum to one."""
    for rows, columns in [(spec.patch, spec.patch), (128, 96)]:
        values = keras.ops.convert_to_numpy(model(rng.integers(0, 255, (1, rows, columns, 3), dtype=np.uint8)))
        expected = (1, rows // spec.output_stride, columns // spec.output_stride, 2)
        assert values.shape == (expected if spec.kind == "segmenter" else (1, 2)) and values.dtype == np.float32
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)


def backbone_of(model):
    """The encoder's layers; of a network without one, all but the head."""
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return inner or [layer for layer in model.layers if layer.weights and layer.name != "logits"]


def train(model, data, *, steps, rate, eagerly=False):
    """The losses of some training steps, and which weights of the backbone and which others the first one changed."""
    loss = [PatchCrossEntropy() if data[1][0].ndim == 1 else HybridLoss() for _ in model.outputs]
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, run_eagerly=eagerly, jit_compile=False)
    within = {weight.path for layer in backbone_of(model) for weight in layer.weights}
    before, losses = {weight.path: weight.numpy() for weight in model.weights}, []
    for step in range(steps):
        model.reset_metrics()  # Keras 3.12 tells the mean of all steps so far
        losses.append(np.ravel(model.train_on_batch(*data))[0] / len(model.outputs))
        if step == 0:
            changed = {one.path for one in model.weights if not np.array_equal(one.numpy(), before[one.path])}
    return losses, changed & within, changed - within


def check_learning(model, data, expected):
    """A frozen backbone stays as it is, batch statistics included; unfrozen it learns the patches by heart."""
    for layer in backbone_of(model):
        layer.trainable = False
    for layer in model.layers:
        if layer.name == "logits":  # else a hundred layers without batch statistics saturate it: no gradient
            layer.kernel.assign(0 * layer.kernel)
    _, within, others = train(model, data, steps=1, rate=1e-4, eagerly=True)
    assert not within and others
    for layer in backbone_of(model):
        layer.trainable = True
    losses, within, _ = train(model, data, steps=expected.steps, rate=expected.rate)
    assert any(path.endswith("kernel") for path in within)
    assert losses[-1] < 0.1 < losses[0]


def check_model(name, expected, folder):
    """Takes two sizes, freezes and unfreezes, overfits four patches, and survives storing, at small width."""
    keras.utils.set_random_seed(0)
    spec = expected.spec(name)
    model = rebuild(spec)
    last = last_output(model)
    check_sizes(last, spec)
    make = two_patches_of_each_class if spec.kind == "classifier" else two_textures
    images, labels = make(4, spec.patch)
    check_learning(model, (images, [labels] * len(model.outputs)), expected)
    loaded = last_output(Bundle.load(Bundle(model, spec).save(folder / name)).model)
    np.testing.assert_allclose(loaded.predict_on_batch(images), last.predict_on_batch(images), atol=0.02)


def test_every_architecture_is_checked_here():
    assert architectures() == tuple(sorted(EXPECTED))


@pytest.mark.parametrize("name", every(plain=("atrous-resnet101", "unet-mobilenetv2")))
def test_a_network_has_the_parameters_of_its_source_at_full_width(name):
    check_full_width(name, EXPECTED[name])


@pytest.mark.parametrize("name", every(plain=PLAIN))
def test_a_network_passes_the_check(name, tmp_path):
    check_model(name, EXPECTED[name], tmp_path)


def trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("unet-vgg16", 23_748_241), ("unet-resnet34", 24_436_369), ("fpn-resnet34", 23_155_393)],
)
def test_trainable_parameters_with_one_class_are_those_of_the_papers_library(name, parameters):
    with keras.StatelessScope():
        assert trainable(build(name, classes=1, activation="sigmoid")) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_full_width_predicts(name):
    side = 299 if name == "slim-inceptionv3" else 64
    model = last_output(build(name, width=EXPECTED[name].full))
    values = model.predict_on_batch(rng.integers(0, 255, (1, side, side, 3), dtype=np.uint8))
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)


ON_JAX = """
import sys
class NoTensorFlow:  # None in sys.modules would not do: Keras takes the name's presence there for a loaded TensorFlow
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("no TensorFlow here")
sys.meta_path.insert(0, NoTensorFlow())
import keras, numpy as np
from digipath.models.catalog import build
assert keras.backend.backend() == "jax"
for name in sys.argv[1:]:
    model = build(name, width=0.1)
    images = np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), dtype=np.uint8)
    values = np.asarray(keras.tree.flatten(model(images))[-1])
    assert np.allclose(values.sum(-1), 1, atol=1e-5), name
    print(name, values.shape)
"""


@pytest.mark.slow
def test_every_network_predicts_on_jax():
    pytest.importorskip("jax")
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", ON_JAX, *EXPECTED]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert len(ran.stdout.splitlines()) == len(EXPECTED)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_the_decoder_stops_at_the_output_stride(stride):
    model = build("unet", encoder="unet", output_stride=stride, width=0.125)
    assert model.compute_output_shape((1, 64, 96, 3)) == (1, 64 // stride, 96 // stride, 2)


@pytest.mark.parametrize("name", ["unet-unet", "unet-vgg16", "fpn-vgg16"])
def test_a_sigmoid_has_one_channel_and_more_classes_have_theirs(name):
    assert build(name, activation="sigmoid", width=0.125).output_shape[-1] == 1
    assert build(name, activation="sigmoid", classes=1, width=0.125).output_shape[-1] == 1
    assert build(name, classes=5, width=0.125).output_shape[-1] == 5


@pytest.mark.parametrize("name", every(plain=("unet-vgg16",)))
def test_the_head_stays_in_float32_under_mixed_precision(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with keras.StatelessScope():
            outputs = build(name, width=0.125).outputs
        assert {output.dtype for output in outputs} == {"float32"}
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
        {"name": "unet", "encoder": 121},
        {"name": "unet"},
        {"name": "unet-mobilenetv2", "classes": 3, "activation": "sigmoid"},
        {"name": "unet-mobilenetv2", "activation": "tanh"},
        {"name": "unet-mobilenetv2", "output_stride": 3},
        {"name": "deeplab-xception", "output_stride": 8},
        {"name": "unet-mobilenetv2", "width": 0},
    ],
)
def test_what_cannot_be_built_is_refused(asked):
    with pytest.raises(SpecError, match="got"):
        build(asked.pop("name"), **asked)


@pytest.mark.parametrize("name", ["unet-microdosimetry", "atrous-resnet101", "slim-inceptionv3"])
def test_a_whole_network_takes_no_encoder(name):
    with pytest.raises(SpecError, match=f"'{name}' is a whole network and takes no encoder"):
        build(name, encoder="vgg16")


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


def test_an_encoder_is_given_in_the_name_or_apart():
    apart = build("unet", encoder="vgg16", width=0.125)
    assert apart.name == "unet-vgg16" == canonical("unet", encoder="vgg16")
    assert apart.count_params() == build("unet-vgg16", width=0.125).count_params()
    assert canonical("bcc-ds", encoder="vgg16") == "bcc-vgg16-ds"


@pytest.mark.slow
@pytest.mark.parametrize("encoder", BACKBONES)
@pytest.mark.parametrize("family", ["bcc", "deeplab", "fpn", "unet"])
def test_any_encoder_goes_with_any_decoder(family, encoder):
    with keras.StatelessScope():
        model = build(family, encoder=encoder, width=0.125)
    assert model.compute_output_shape((1, 64, 96, 3)) == (1, 64, 96, 2)
    assert len({weight.path for weight in model.weights}) == len(model.weights)


def test_sides_that_do_not_fit_are_named():
    model = build("unet-unet", width=0.125)
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
