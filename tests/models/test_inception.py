"""Inception encoders: those of keras.applications, but with maps that halve and names of their own."""

import h5py
import keras
import numpy as np
import pytest

from digipath.models.backbones import BACKBONES, encoder
from digipath.models.catalog import build

INCEPTIONS = ["inceptionv3", "inceptionresnetv2"]
# Without top: what keras.applications documents for the whole, less its 1,000 classes on 2,048 and 1,536 channels.
PARAMETERS = {"inceptionv3": 23_851_784 - 2_049_000, "inceptionresnetv2": 55_873_736 - 1_537_000}


@pytest.fixture(scope="module")
def pair(request):
    """A name, and the network of keras.applications with random values."""
    name = request.param
    reference = BACKBONES[name].build()
    rng = np.random.default_rng(0)
    reference.set_weights([0.05 + 0.1 * rng.random(weight.shape, np.float32) for weight in reference.weights])
    return name, reference


@pytest.mark.parametrize("name", ["inceptionv3", pytest.param("inceptionresnetv2", marks=pytest.mark.slow)])
def test_maps_halve_and_parameters_are_those_published(name):
    own = encoder(name)
    assert own.count_params() == PARAMETERS[name]
    shapes = own.compute_output_shape((1, 64, 96, 3))
    assert [shape[1:3] for shape in shapes] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]


def write_as_published(model, path):
    """Writes weights in the layout of the files that keras.applications publishes."""
    layers = [layer for layer in model.layers if layer.weights]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("pair", INCEPTIONS, indirect=True)
def test_the_encoder_is_that_of_keras_applications(pair, tmp_path):
    name, reference = pair
    write_as_published(reference, tmp_path / "notop.h5")
    own = encoder(name, weights=tmp_path / "notop.h5")
    check_that_every_layer_has_its_weights(own, reference)
    check_that_the_first_map_agrees_inside(own, reference)


def check_that_every_layer_has_its_weights(own, reference):
    """Layer by layer along both graphs, joined by what each layer is fed with and not by the order of weights."""
    ours, theirs = own.outputs[-1], reference.outputs[-1]
    waiting, seen = [(ours._keras_history.operation, theirs._keras_history.operation)], set()
    while waiting:
        mine, its = waiting.pop()
        if mine.name in seen or mine.name == "scale":
            continue
        seen.add(mine.name)
        assert type(mine) is type(its)
        for left, right in zip(mine.weights, its.weights, strict=True):
            np.testing.assert_array_equal(left.numpy(), right.numpy(), err_msg=left.path)
        parents = zip(mine._inbound_nodes[0].parent_nodes, its._inbound_nodes[0].parent_nodes, strict=True)
        waiting += [(left.operation, right.operation) for left, right in parents]
    assert {layer.name for layer in own.layers if layer.weights} <= seen


def check_that_the_first_map_agrees_inside(own, reference):
    """The stem's three convolutions: the second is padded here and not there, hence the shift by one."""
    images = np.random.default_rng(1).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    first = next(layer for layer in reference.layers if isinstance(layer, keras.layers.MaxPooling2D)).input
    expected = keras.Model(reference.input, first).predict_on_batch(images / 127.5 - 1.0)
    found = keras.Model(own.input, own.outputs[0]).predict_on_batch(images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found[:, 2:-3, 2:-3], expected[:, 1:-1, 1:-1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pair", INCEPTIONS, indirect=True)
def test_names_count_from_one_whatever_was_built_before(pair, tmp_path):
    name, reference = pair
    reference.save_weights(tmp_path / "notop.weights.h5")
    first, second = encoder(name), encoder(name, weights=tmp_path / "notop.weights.h5")
    assert [weight.path for weight in first.weights] == [weight.path for weight in second.weights]
    assert len({weight.path for weight in first.weights}) == len(first.weights)
    assert first.weights[0].path == "conv2d_1/kernel"
    check_that_every_layer_has_its_weights(second, reference)


@pytest.mark.slow
def test_the_papers_unet_segments_two_sizes_at_full_width():
    model = build("unet-inceptionresnetv2")
    for rows, columns in [(128, 128), (64, 96)]:
        images = np.random.default_rng(0).integers(0, 256, (1, rows, columns, 3), dtype=np.uint8)
        values = keras.ops.convert_to_numpy(model(images))
        assert values.shape == (1, rows, columns, 2)
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
