"""Published weights in safetensors: what is taken, what is set aside, and what is refused.

The files are written here from names and shapes that torchvision, timm and segmentation_models.pytorch give their
tensors; outputs were compared with those libraries when this was written (1e-4 in probabilities).
"""

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from digipath.errors import BundleError
from digipath.models import torch_weights
from digipath.models.backbones import encoder
from digipath.models.catalog import build
from digipath.models.torch_weights import load_encoder, load_network

rng = np.random.default_rng(0)
WIDTH = 0.125
KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def resnet34_names():
    """Every tensor of torchvision's ResNet-34 as (name of the module, is it a convolution), by the paper's table."""
    yield from [("conv1", True), ("bn1", False)]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            for number in (1, 2):
                yield f"layer{stage}.{block}.conv{number}", True
                yield f"layer{stage}.{block}.bn{number}", False
            if stage > 1 and block == 0:
                yield from [(f"layer{stage}.0.downsample.0", True), (f"layer{stage}.0.downsample.1", False)]


def resnet34_tensors(width=WIDTH):
    """Random tensors under torchvision's names, in its order of axes; the channels are read off the names."""
    tensors, base = {}, int(64 * width)
    for name, convolution in resnet34_names():
        stage = int(name[5]) if name.startswith("layer") else 1
        after = base * 2 ** (stage - 1)
        first = name.endswith("0.conv1") and name.startswith("layer") and ".0." in name and stage > 1
        before = after // 2 if first or name.endswith("downsample.0") else after
        if convolution:
            size = 7 if name == "conv1" else 1 if name.endswith("downsample.0") else 3
            shape = (after, 3 if name == "conv1" else before, size, size)
            tensors[f"{name}.weight"] = rng.normal(size=shape).astype("float32")
        else:
            for kind in KINDS.values():
                tensors[f"{name}.{kind}"] = rng.uniform(0.5, 1.5, after).astype("float32")
            tensors[f"{name}.num_batches_tracked"] = np.array(7)
    return tensors


def classifier():
    return {"fc.weight": np.zeros((10, 64), "float32"), "fc.bias": np.zeros(10, "float32")}


def network_names(model):
    """A network's weights under the names of segmentation_models.pytorch, worked out from the layers' own."""
    tensors, inner = (
        {},
        {weight.path for layer in model.layers if layer.name in ("resnet34",) for weight in layer.weights},
    )
    for weight in model.weights:
        layer, kind = weight.path.split("/")
        values = rng.uniform(0.5, 1.5, weight.shape).astype("float32")
        if weight.path in inner:
            layer = "encoder." + next(n for n, _ in resnet34_names() if n.replace(".", "_") == layer)
        elif layer == "logits":
            layer = "segmentation_head.0"
        else:
            layer = layer.replace("_", ".").replace("seg.blocks", "seg_blocks").replace("skip.conv", "skip_conv")
        kind = {"kernel": "weight"}.get(kind, KINDS.get(kind, kind))
        tensors[f"{layer}.{kind}"] = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values
    return {name: np.ascontiguousarray(values) for name, values in tensors.items()}


@pytest.fixture(scope="module")
def own():
    return encoder("resnet34", width=WIDTH)


@pytest.fixture
def written(tmp_path):
    def write(tensors, name="weights.safetensors"):
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return write


def test_every_tensor_of_a_published_encoder_finds_its_place(written):
    tensors = resnet34_tensors()
    own = encoder("resnet34", width=WIDTH, weights=written(tensors | classifier()))
    found = {weight.path: weight.numpy() for weight in own.weights}
    assert len(found) == sum(not name.endswith("num_batches_tracked") for name in tensors) == 36 + 36 * 4
    np.testing.assert_array_equal(
        found["layer2_0_downsample_0/kernel"], tensors["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    )
    for ours, theirs in KINDS.items():
        np.testing.assert_array_equal(found[f"layer4_2_bn2/{ours}"], tensors[f"layer4.2.bn2.{theirs}"])


def test_vgg_takes_both_names_of_its_classifier(written):
    own = encoder("vgg16", width=WIDTH)
    tensors = {}
    for number, layer in enumerate(layer for layer in own.layers if isinstance(layer, keras.layers.Conv2D)):
        place = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)[number]  # torchvision's features, pooling among them
        kernel = rng.normal(size=layer.kernel.shape).astype("float32")
        tensors[f"features.{place}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"features.{place}.bias"] = rng.normal(size=layer.bias.shape).astype("float32")
    for top in ("classifier.6", "pre_logits.fc1", "head.fc"):
        path = written(tensors | {f"{top}.weight": np.zeros((2, 2), "float32"), f"{top}.bias": np.zeros(2, "float32")})
        found = encoder("vgg16", width=WIDTH, weights=path)
        np.testing.assert_array_equal(found.get_layer("features_28").bias, tensors["features.28.bias"])


@pytest.mark.parametrize("name", ["unet-resnet34", "fpn-resnet34"])
def test_a_whole_network_loads_and_predicts_as_the_one_that_it_was_copied_from(name, written):
    plain = build(name, width=WIDTH)
    tensors = network_names(plain)
    load_network(written(tensors), plain)
    loaded = build(name, width=WIDTH, weights=written(tensors))
    for first, second in zip(plain.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    kernel = tensors["segmentation_head.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded.get_layer("logits").kernel, kernel)


def test_a_whole_network_is_no_encoder(own, written):
    path = written(network_names(build("unet-resnet34", width=WIDTH)))
    with pytest.raises(BundleError, match="whole network"):
        load_encoder(path, own)


def test_classes_must_match(written):
    path = written(network_names(build("unet-resnet34", width=WIDTH, classes=3)))
    with pytest.raises(BundleError, match="Check classes"):
        build("unet-resnet34", width=WIDTH, weights=path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda tensors: tensors.pop("layer1.0.conv1.weight"), "lacks layer1_0_conv1/kernel"),
        (
            lambda tensors: tensors.update({"layer5.0.conv1.weight": np.zeros(3, "float32")}),
            "has layer5.0.conv1.weight",
        ),
        (
            lambda tensors: tensors.update({"layer1.0_conv1.weight": np.zeros((8, 8, 3, 3), "float32")}),
            "has layer1.0.conv1.weight, layer1.0_conv1.weight for one",
        ),
        (lambda tensors: tensors.update({"conv1.bias": np.zeros(8, "float32")}), "has conv1.bias"),
        (lambda tensors: tensors.update({"bn1.weight": np.zeros(9, "float32")}), r"bn1.weight is \(9,\)"),
        (lambda tensors: tensors.update({"bn1.weight": np.zeros(8, "int64")}), "is I64"),
        (lambda tensors: tensors.update({"bn1.weight": np.full(8, np.nan, "float32")}), "must hold numbers"),
    ],
)
def test_every_tensor_is_accounted_for(own, written, damage, says):
    tensors = resnet34_tensors()
    damage(tensors)
    before = own.get_weights()
    with pytest.raises(BundleError, match=says):
        load_encoder(written(tensors), own)
    assert all(map(np.array_equal, before, own.get_weights()))


def test_float16_is_taken(own, written):
    tensors = {name: values.astype("float16") for name, values in resnet34_tensors().items()}
    load_encoder(written(tensors), own)


def test_pickled_files_and_missing_ones_are_refused(own, tmp_path):
    with pytest.raises(BundleError, match="pickled files can run code"):
        load_encoder(tmp_path / "resnet34.pth", own)
    with pytest.raises(BundleError, match="not there"):
        load_encoder(tmp_path / "resnet34.safetensors", own)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "vgg16.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BundleError, match="damaged"):
        encoder("vgg16", width=WIDTH, weights=tmp_path / "vgg16.safetensors")


def test_size_is_looked_at_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "vgg16.safetensors").write_bytes(b"\xff" * 64)
    monkeypatch.setattr(torch_weights, "LARGEST", 63)
    with pytest.raises(BundleError, match="must not exceed 63"):
        encoder("vgg16", width=WIDTH, weights=tmp_path / "vgg16.safetensors")


def test_imagenet_says_what_to_download():
    with pytest.raises(BundleError, match=r"vgg16\.tv_in1k"):
        encoder("vgg16", width=WIDTH, weights="imagenet")
