"""PASCAL VOC weights of DeepLabV3+: every tensor of the published layout arrives, and nothing else is taken."""

import h5py
import keras
import numpy as np
import pytest

from digipath.errors import BundleError
from digipath.models.backbones import to_unit_range
from digipath.models.blocks import Head
from digipath.models.deeplab import deeplab, load_voc_weights
from digipath.models.voc_weights import load_voc_encoder
from digipath.models.xception import aligned_xception

WIDTH = 0.02


def xception():
    image = keras.Input((None, None, 3), dtype="uint8")
    maps = aligned_xception(to_unit_range(image), width=WIDTH, output_stride=16)
    return keras.Model(image, maps, name="xception")


@pytest.fixture(scope="module")
def network():
    return deeplab(xception(), Head(classes=2), width=WIDTH)


def separable(name):
    """Layers of a separable convolution, as the published file calls them."""
    return {
        f"{name}_depthwise": "depthwise",
        f"{name}_depthwise_BN": "norm",
        f"{name}_pointwise": "conv",
        f"{name}_pointwise_BN": "norm",
    }


def published_layers():
    """The names of the published file and what each layer is, written down from its source, not from ours."""
    layers = {}
    for name in ("entry_flow_conv1_1", "entry_flow_conv1_2"):
        layers |= {name: "conv", f"{name}_BN": "norm"}
    blocks = [f"entry_flow_block{number}" for number in (1, 2, 3)]
    blocks += [f"middle_flow_unit_{number}" for number in range(1, 17)]
    blocks += ["exit_flow_block1", "exit_flow_block2"]
    for block in blocks:
        for number in (1, 2, 3):
            layers |= separable(f"{block}_separable_conv{number}")
        if block.startswith("entry") or block == "exit_flow_block1":
            layers |= {f"{block}_shortcut": "conv", f"{block}_shortcut_BN": "norm"}
    for name in ("image_pooling", "aspp0", "concat_projection", "feature_projection0"):
        layers |= {name: "conv", f"{name}_BN": "norm"}
    for name in ("aspp1", "aspp2", "aspp3", "decoder_conv0", "decoder_conv1"):
        layers |= separable(name)
    return layers


ROLES = {
    "conv": ["kernel"],
    "depthwise": ["depthwise_kernel"],
    "norm": ["gamma", "beta", "moving_mean", "moving_variance"],
}


def flat(model):
    layers = {}
    for layer in model.layers:
        layers |= flat(layer) if isinstance(layer, keras.Model) else {layer.name: layer}
    return layers


def write(path, model, *, without=None, more=None, root=""):
    """A file in the published layout with random values; returns them by layer."""
    rng = np.random.default_rng(0)
    own = flat(model)
    stored = {}
    for name, kind in published_layers().items():
        shapes = [weight.shape for weight in own[name].weights]
        stored[name] = {role: rng.random(shape, np.float32) for role, shape in zip(ROLES[kind], shapes, strict=True)}
    stored |= {"activation_1": {}, "logits_semantic": {"kernel": rng.random((1, 1, 8, 21)), "bias": rng.random(21)}}
    stored |= more or {}
    stored.pop(without, None)
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        top.attrs["layer_names"] = [name.encode() for name in stored]
        for name, weights in stored.items():
            group = top.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{role}:0".encode() for role in weights]
            for role, values in weights.items():
                group[f"{name}/{role}:0"] = values
    return stored


@pytest.mark.parametrize("root", ["", "model_weights"])
def test_every_tensor_of_the_published_layout_arrives(network, tmp_path, root):
    stored = write(tmp_path / "voc.h5", network, root=root)
    load_voc_weights(network, tmp_path / "voc.h5")
    own = flat(network)
    assert {name for name, layer in own.items() if layer.weights} - {"logits"} == set(published_layers())
    for name in published_layers():
        for weight, values in zip(own[name].weights, stored[name].values(), strict=True):
            np.testing.assert_array_equal(weight.numpy(), values, err_msg=weight.path)


def test_the_encoder_alone_takes_its_part_of_the_file(network, tmp_path):
    stored = write(tmp_path / "voc.h5", network)
    encoder = xception()
    load_voc_encoder(tmp_path / "voc.h5", encoder)
    kernel = encoder.get_layer("exit_flow_block2_separable_conv3_pointwise").kernel
    np.testing.assert_array_equal(kernel.numpy(), stored["exit_flow_block2_separable_conv3_pointwise"]["kernel"])


def test_imagenet_weights_of_the_aligned_xception_do_not_exist(network):
    with pytest.raises(BundleError, match=r"deeplabv3_xception_tf_dim_ordering_tf_kernels\.h5"):
        load_voc_encoder("imagenet", network)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"without": "aspp2_pointwise"}, "lacks aspp2_pointwise/kernel"),
        ({"more": {"aspp4_pointwise": {"kernel": np.zeros((1, 1, 8, 8))}}}, "has aspp4_pointwise/kernel besides"),
        ({"more": {"aspp0": {"kernel": np.zeros((1, 1, 8, 8))}}}, r"aspp0/kernel is .* \(1, 1, 8, 8\) in the file"),
        ({"more": {"aspp0": {"kernel": np.zeros(3, np.int64)}}}, "as numbers"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(network, tmp_path, change, says):
    before = network.get_weights()
    write(tmp_path / "voc.h5", network, **change)
    with pytest.raises(BundleError, match=says):
        load_voc_weights(network, tmp_path / "voc.h5")
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_numbers_that_are_not_finite_are_refused(network, tmp_path):
    shape = flat(network)["aspp0"].kernel.shape
    write(tmp_path / "voc.h5", network, more={"aspp0": {"kernel": np.full(shape, np.nan)}})
    with pytest.raises(BundleError, match="finite"):
        load_voc_weights(network, tmp_path / "voc.h5")


def test_links_into_other_files_are_not_followed(network, tmp_path):
    write(tmp_path / "voc.h5", network)
    (tmp_path / "voc.h5").rename(tmp_path / "other.h5")
    write(tmp_path / "voc.h5", network)
    with h5py.File(tmp_path / "voc.h5", "a") as file:
        del file["aspp0"]
        file["aspp0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "aspp0")
    with pytest.raises(BundleError, match="must hold aspp0"):
        load_voc_weights(network, tmp_path / "voc.h5")


@pytest.mark.parametrize("content", [None, b"", b"no HDF5 at all", "empty"])
def test_what_is_no_such_file_is_said(network, tmp_path, content):
    if content == "empty":
        h5py.File(tmp_path / "voc.h5", "w").close()
    elif content is not None:
        (tmp_path / "voc.h5").write_bytes(content)
    with pytest.raises(BundleError, match="start from chance"):
        load_voc_weights(network, tmp_path / "voc.h5")
