import os
import subprocess
import sys

import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.raster import Raster
from digipath.inference import keras_runtime as module
from digipath.inference.engine import stream
from digipath.inference.keras_runtime import KerasPredictor, fastest_precision
from digipath.inference.plan import plan
from digipath.inference.settings import InferenceSettings
from digipath.models.bundle import Bundle
from digipath.models.catalog import rebuild
from digipath.models.spec import ModelSpec
from digipath.slides.array import ArraySlide

rng = np.random.default_rng(5)


def spec(**changes):
    return ModelSpec(**({"architecture": "tiny", "classes": ("other", "lesion"), "mpp": 1.0, "patch": 64} | changes))


def network(side=None):
    import keras

    keras.utils.set_random_seed(0)
    patch = keras.Input((side, side, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(patch)
    x = keras.layers.Conv2D(4, 5, padding="same", activation="relu")(x)
    return keras.Model(patch, keras.layers.Conv2D(2, 1, activation="softmax")(x))


@pytest.fixture(scope="module")
def predictor():
    return KerasPredictor(Bundle(network(), spec()), batch=4)


def test_a_small_last_batch_gives_what_a_full_one_does(predictor):
    patches = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    whole = predictor(patches)
    assert whole.shape == (4, 64, 64, 2) and whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([predictor(patches[:3]), predictor(patches[3:])]), whole, atol=1e-5)
    with pytest.raises(SpecError, match="batch=5"):
        predictor(np.zeros((5, 64, 64, 3), np.uint8))


def test_small_batches_are_filled_up_to_the_largest_so_that_a_patch_size_is_traced_once(monkeypatch):
    shapes = []

    def traced(_):
        return lambda patches: shapes.append(patches.shape) or np.full((*patches.shape[:3], 2), 0.5)

    monkeypatch.setattr("digipath.inference.keras_runtime._traced", traced)
    one = KerasPredictor(Bundle(network(), spec()))
    for count in (4, 1, 3):
        assert len(one(np.zeros((count, 64, 64, 3), np.uint8))) == count
    one(np.zeros((1, 32, 64, 3), np.uint8))
    assert shapes == [(4, 64, 64, 3)] * 3 + [(1, 32, 64, 3)]


def test_batch_size_and_threads_change_nothing_with_a_network(predictor):
    slide = ArraySlide(rng.integers(0, 256, (300, 260, 3), np.uint8), mpp=0.7)
    tissue = Raster(np.ones(slide.frame.shape, bool), slide.frame)
    results = []
    for batch, threads in ((1, 1), (7, 4)):
        settings = InferenceSettings(batch=batch, threads=threads)
        one = KerasPredictor(predictor.bundle)
        planned = plan(slide.frame, one, tissue, settings=settings)
        results.append(np.concatenate([strip.values for strip in stream(slide, one, planned)]))
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_a_network_of_fixed_side_takes_only_that_side():
    assert KerasPredictor(Bundle(network(96), spec(patch=96))).multiple == 96
    assert KerasPredictor(Bundle(network(), spec(patch=96))).multiple == 32
    assert KerasPredictor(Bundle(network(), spec(patch=100))).multiple == 4
    with pytest.raises(SpecError, match="96 x 96 pixels only, got 192 x 96"):
        KerasPredictor(Bundle(network(96), spec(patch=96)))(np.zeros((1, 96, 192, 3), np.uint8))


def test_of_several_outputs_the_last_alone_is_computed():
    import keras

    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(self.name)
            return x

    model = network()
    coarse = Counted(name="coarse")(keras.layers.AveragePooling2D(2)(model.output))
    both = keras.Model(model.input, [coarse, Counted(name="fine")(model.output)])
    patches = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    one = KerasPredictor(Bundle(both, spec()))
    calls.clear()
    np.testing.assert_allclose(one(patches), model(patches), atol=1e-6)
    assert calls == ["fine"]


def test_a_classifier_gives_each_patch_of_a_slide_its_values():
    import keras

    patch = keras.Input((None, None, 3), dtype="uint8")
    bright = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(patch))
    head = keras.layers.Dense(2, activation="softmax", kernel_initializer="zeros")
    classifier = KerasPredictor(Bundle(keras.Model(patch, head(bright)), spec(kind="classifier")))
    head.set_weights([np.array([[0, 20.0], [0, 0], [0, 0]]), np.array([0, -10.0])])  # red above one half
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, 128:, 0] = 255
    slide = ArraySlide(pixels, mpp=1.0)
    tissue = Raster(np.ones(slide.frame.shape, bool), slide.frame)
    planned = plan(slide.frame, classifier, tissue, settings=InferenceSettings(overlap=0.0, heatmap_mpp=64.0))
    values = np.concatenate([strip.values for strip in stream(slide, classifier, planned)])
    np.testing.assert_allclose(values[..., 1], np.repeat([[0, 0, 1, 1]], 4, axis=0), atol=1e-4)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_in_another_precision_weights_and_output_stay_float32_and_values_near(predictor, precision):
    import keras

    patches, before = rng.integers(0, 256, (4, 64, 64, 3), np.uint8), keras.config.dtype_policy().name
    one = KerasPredictor(predictor.bundle, precision=precision)
    values = one(patches)
    assert values.dtype == np.float32 and f", {precision}, " in one.runtime
    assert 0 < np.abs(values - predictor(patches)).max() < 0.02
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert keras.config.dtype_policy().name == before
    assert predictor.bundle.model.layers[-1].dtype_policy.name == "float32"


@pytest.mark.slow
def test_a_catalogue_network_is_built_anew_in_another_precision():
    small = ModelSpec(architecture="bcc-unet", mpp=1.0, patch=64, width=0.125)
    bundle = Bundle(rebuild(small), small)
    patches = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    values = KerasPredictor(bundle, precision="bfloat16")(patches)
    assert 0 < np.abs(values - KerasPredictor(bundle)(patches)).max() < 0.05
    with pytest.raises(SpecError, match="got precision='int8'"):
        KerasPredictor(bundle, precision="int8")


@pytest.mark.parametrize(
    ("capability", "change", "expected"),
    [
        ("bfloat16", 4e-3, "bfloat16"),
        ("bfloat16", 6e-3, "float32"),
        ("float16", 1e-3, "float16"),
        ("float32", 0, "float32"),
    ],
)
def test_a_gpu_computes_in_its_fast_precision_where_that_changes_no_result(
    predictor, monkeypatch, capability, change, expected
):
    monkeypatch.setattr(module, "_precision_of_gpu", lambda: capability)
    monkeypatch.setattr(module, "possible_change", lambda *_: change)
    monkeypatch.setattr(module, "probes", lambda *_: np.zeros((1, 64, 64, 3), np.uint8))
    assert fastest_precision(predictor.bundle) == expected


def test_a_batch_that_does_not_fit_is_halved_and_its_values_are_the_same(predictor, monkeypatch):
    traced, sizes = module._traced, []

    def limited(model):
        forward = traced(model)

        def call(patches):
            sizes.append(len(patches))
            if len(patches) > 2:
                raise MemoryError
            return forward(patches)

        return call

    monkeypatch.setattr(module, "_traced", limited)
    one, patches = KerasPredictor(predictor.bundle), rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    with pytest.warns(UserWarning, match="does not fit into memory"):
        values = one(patches)
    expected = KerasPredictor.__call__(predictor, patches[:4]), KerasPredictor.__call__(predictor, patches[4:])
    np.testing.assert_allclose(values, np.concatenate(expected), atol=1e-5)
    one(patches[:3])
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]


REPLICAS = """
import numpy as np
import tensorflow as tf

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)

from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bundle import Bundle
from digipath.models.catalog import rebuild
from digipath.models.spec import ModelSpec

spec = ModelSpec(architecture="bcc-unet", mpp=1.0, patch=64, width=0.125)
bundle = Bundle(rebuild(spec), spec)
patches = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
names = [device.name for device in tf.config.list_logical_devices("CPU")]
both = KerasPredictor(bundle, devices=names)
values = both(patches)
assert len(names) == 2 and both.runtime.endswith("2 CPUs)"), both.runtime
print(abs(values - KerasPredictor(bundle)(patches)).max(), abs(both(patches[:1]) - values[:1]).max())
"""


@pytest.mark.slow
def test_replicas_share_a_batch_and_give_the_values_of_one():
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(float(value) < 1e-5 for value in done.stdout.split())


def test_tensorflow_greets_nobody():
    code = """
import numpy as np
from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.spec import ModelSpec

class Late:
    spec = ModelSpec(architecture="tiny", classes=("other", "lesion"), mpp=1.0, patch=32)

    @property
    def model(self):
        import keras

        patch = keras.Input((None, None, 3), dtype="uint8")
        scaled = keras.layers.Rescaling(1 / 255)(patch)
        return keras.Model(patch, keras.layers.Conv2D(2, 1, activation="softmax")(scaled))

KerasPredictor(Late())(np.zeros((1, 32, 32, 3), np.uint8))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == "" and done.stdout == ""


def test_a_gpu_is_not_taken_whole(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda device, on: grown.append((device, on)))
    module.gpus()
    assert grown == [("a", True), ("b", True)]
