"""Encoders: their pyramid, their scaling, and the weights they start from."""

import h5py
import keras
import numpy as np
import pytest

from digipath.errors import BundleError, SpecError
from digipath.models.backbones import BACKBONES, encoder

rng = np.random.default_rng(0)
LIGHT_FILE = "encoders/mobilenet_v2_0.35_224_imagenet_notop.weights.h5"


def scaled(name, images):
    """Input scaling as keras.applications documents it, in NumPy."""
    if name == "mobilenetv2":
        return images / 127.5 - 1.0
    return (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def randomised(model):
    """Gives batch normalisation statistics that matter, without the explosion of plain noise."""
    model.set_weights(
        [
            np.abs(1 + 0.1 * rng.normal(size=w.shape)) if w.ndim == 1 else rng.normal(size=w.shape) * np.std(w)
            for w in model.get_weights()
        ]
    )
    return model


BOTH = ["mobilenetv2", pytest.param("densenet121", marks=pytest.mark.slow)]


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


@pytest.mark.parametrize(
    ("name", "parameters"), [("mobilenetv2", 410_208), pytest.param("densenet121", 7_037_504, marks=pytest.mark.slow)]
)
def test_the_encoder_has_the_parameters_of_its_paper(name, parameters):
    assert encoder(name).count_params() == parameters


@pytest.mark.parametrize("name", BOTH)
def test_the_pyramid_halves_five_times(name):
    shapes = encoder(name).compute_output_shape((1, 64, 96, 3))
    assert [shape[1:3] for shape in shapes] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize("name", BOTH)
def test_the_encoder_is_that_of_keras_applications_behind_its_scaling(name):
    reference = randomised(BACKBONES[name].build())
    own = encoder(name)
    assert [w.path for w in own.weights] == [w.path for w in reference.weights]
    assert own.count_params() == reference.count_params()
    own.set_weights(reference.get_weights())
    images = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = reference.predict_on_batch(scaled(name, images).astype("float32"))
    found = own.predict_on_batch(images)[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("file", [pytest.param("notop.weights.h5", marks=pytest.mark.slow), "notop.h5"])
def test_weights_come_from_a_file_without_top(name, file, tmp_path):
    written = randomised(BACKBONES[name].build())
    write = written.save_weights if file.endswith(".weights.h5") else lambda path: write_as_published(written, path)
    write(tmp_path / file)
    for own, stored in zip(encoder(name, weights=tmp_path / file).get_weights(), written.get_weights(), strict=True):
        np.testing.assert_array_equal(own, stored)


def test_the_real_imagenet_weights_load(data):
    path = data / LIGHT_FILE
    kernel = encoder("mobilenetv2", weights=path).get_weights()[0]
    assert not np.array_equal(kernel, encoder("mobilenetv2").get_weights()[0])


def test_weights_of_another_network_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(BundleError, match="without its top"):
        encoder("mobilenetv2", weights=tmp_path / "other.weights.h5")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"none\.weights\.h5 is not there"):
        encoder("mobilenetv2", weights=tmp_path / "none.weights.h5")


@pytest.fixture
def no_connection(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", refuse)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "models"


def test_without_a_connection_the_error_says_what_to_put_where(no_connection):
    with pytest.raises(BundleError, match=r"Download https://.*densenet121_weights.*notop\.h5") as error:
        encoder("densenet121", weights="imagenet")
    assert str(no_connection) in str(error.value)


def test_imagenet_weights_that_were_put_there_are_used(no_connection):
    written = randomised(BACKBONES["mobilenetv2"].build())
    no_connection.mkdir()
    write_as_published(written, no_connection / BACKBONES["mobilenetv2"].imagenet_file)
    found = encoder("mobilenetv2", weights="imagenet").get_weights()
    np.testing.assert_array_equal(found[0], written.get_weights()[0])


def test_an_unknown_backbone_is_refused():
    with pytest.raises(SpecError, match="densenet121"):
        encoder("vgg61")
