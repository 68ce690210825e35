"""OpenVINO: it gives what Keras gives, and needs TensorFlow once."""

import csv
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from digipath.errors import ResultError, SpecError
from digipath.inference.agreement import LARGEST
from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec

pytest.importorskip("openvino")

from digipath.inference import openvino_runtime as module
from digipath.inference.openvino_runtime import OpenVINOPredictor

rng = np.random.default_rng(3)
SPEC = ModelSpec(architecture="tiny", classes=("other", "lesion"), mpp=1.0, patch=64, temperature=0.8)


def network(*, side=None, kind="segmenter", outputs=1):
    """A small network with what exporting finds hard: up-sampling, a skip, several outputs."""
    import keras

    keras.utils.set_random_seed(1)
    patch = keras.Input((side, side, 3), dtype="uint8")
    x = skip = keras.layers.Rescaling(1 / 255)(patch)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    coarse = keras.layers.Conv2D(2, 1, activation="softmax")(x)
    if kind == "classifier":
        return keras.Model(patch, keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalMaxPooling2D()(x)))
    x = keras.layers.Concatenate()([keras.layers.UpSampling2D(interpolation="bilinear")(x), skip])
    fine = keras.layers.Conv2D(2, 3, padding="same", activation="softmax")(x)
    return keras.Model(patch, [coarse, fine][-outputs:])


def patches(count, height=64, width=64):
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIGIPATH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory


@pytest.fixture(scope="module")
def folder(cache):
    """A bundle on disk whose export is in the cache."""
    stored = Bundle(network(outputs=2), SPEC).save(cache.mktemp("bundle") / "tiny")
    OpenVINOPredictor(Bundle.load(stored)).prepare()
    return stored


@pytest.fixture
def no_export(monkeypatch):
    """Exporting is an error."""

    def exported(*_):
        raise AssertionError("the network was exported again")

    monkeypatch.setattr(module, "write_export", exported)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("model", "changes"),
    [({"kind": "classifier"}, {"kind": "classifier"}), ({"side": 64}, {"stain": "macenko"})],
)
def test_the_values_are_those_of_keras_whatever_the_batch(model, changes):
    bundle = Bundle(network(**model), ModelSpec(**(vars(SPEC) | changes)))
    ours, theirs, seen = OpenVINOPredictor(bundle, precision="float32"), KerasPredictor(bundle), patches(5)
    assert (ours.multiple, ours.channels) == (theirs.multiple, theirs.channels)
    expected = theirs(seen)
    for values in (ours(seen), np.concatenate([ours(seen[:1]), ours(seen[1:])])):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_every_patch_size_is_exported_for_itself(folder):
    bundle = Bundle.load(folder)
    ours, theirs = OpenVINOPredictor(bundle, precision="float32"), KerasPredictor(bundle)
    for height, width in ((64, 64), (32, 96), (64, 64)):
        seen = patches(2, height, width)
        np.testing.assert_allclose(ours(seen), theirs(seen), atol=1e-5)
    assert {path.name for path in ours._folder.iterdir() if path.is_dir()} >= {"64x64", "96x32"}


def test_a_patch_too_large_for_keras_is_exported_without_asking_it(folder, monkeypatch):
    monkeypatch.setattr(module, "_COMPARED", 64**2)
    bundle = Bundle.load(folder)
    ours, seen = OpenVINOPredictor(bundle, precision="float32"), patches(1, 128, 64)
    np.testing.assert_allclose(ours(seen), KerasPredictor(bundle)(seen), atol=1e-5)
    assert not (ours._folder / "64x128" / "probes.npz").exists() and (ours._folder / "64x64" / "probes.npz").exists()


@pytest.mark.usefixtures("cache")
def test_a_network_of_fixed_side_takes_only_that_side():
    one = OpenVINOPredictor(Bundle(network(side=64), SPEC))
    with pytest.raises(SpecError, match="64 x 64 pixels only, got 96 x 64"):
        one(patches(1, 64, 96))


@pytest.mark.usefixtures("no_export")
def test_what_is_in_the_cache_is_not_exported_again_nor_built(folder):
    bundle = Bundle.load(folder)
    assert OpenVINOPredictor(bundle)(patches(2)).shape == (2, 64, 64, 2)
    assert bundle._model is None


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "probes.npz", "meta.json", "version", "missing"])
def test_a_damaged_or_outdated_entry_is_not_used(folder, tmp_path, name):
    entry = shutil.copytree(OpenVINOPredictor(Bundle.load(folder))._folder / "64x64", tmp_path / "64x64")
    assert module._read_entry(entry) is not None
    if name == "version":
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps(meta | {"digipath": "0.0.1"}))
    elif name == "missing":
        (entry / "model.bin").unlink()
    else:
        content = (entry / name).read_bytes()
        (entry / name).write_bytes(content[: len(content) // 2] + bytes(8))
    assert module._read_entry(entry) is None


def test_an_entry_that_cannot_be_used_is_made_anew(folder):
    one, seen = OpenVINOPredictor(Bundle.load(folder), precision="float32"), patches(2)
    expected, entry = one(seen), one._folder / "64x64"
    (entry / "model.bin").write_bytes(b"")
    np.testing.assert_allclose(OpenVINOPredictor(Bundle.load(folder), precision="float32")(seen), expected, atol=1e-6)
    assert module._read_entry(entry) is not None


def test_without_a_place_for_the_cache_networks_run_all_the_same(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "file"))
    seen = patches(1)
    with pytest.warns(UserWarning, match="Set DIGIPATH_CACHE"):
        values = OpenVINOPredictor(Bundle.load(folder), precision="float32")(seen)
    np.testing.assert_allclose(values, KerasPredictor(Bundle.load(folder))(seen), atol=1e-5)


@pytest.mark.usefixtures("cache")
def test_an_export_that_gives_other_values_than_keras_is_refused_and_not_kept(monkeypatch):
    import keras

    bundle = Bundle(network(kind="classifier"), ModelSpec(**(vars(SPEC) | {"kind": "classifier"})))
    other = keras.models.clone_model(bundle.model)
    other.set_weights([values + 1 for values in bundle.model.get_weights()])
    right = module.converted
    monkeypatch.setattr(module, "converted", lambda one, size: right(Bundle(other, one.spec), size))
    bundle.model.layers[-1].set_weights([3 * values + 0.1 for values in bundle.model.layers[-1].get_weights()])
    one = OpenVINOPredictor(bundle)
    with pytest.raises(ResultError, match="other values through OpenVINO than through Keras"):
        one.prepare()
    assert not list(one._folder.iterdir())


@pytest.mark.usefixtures("cache")
def test_what_openvino_does_not_know_is_an_error_of_ours(monkeypatch):
    def fails(_):
        raise RuntimeError("no translation\n  for this operation")

    class Core:
        read_model = staticmethod(fails)

    monkeypatch.setattr(module, "_core", Core)
    with pytest.raises(ResultError, match="no translation for this operation Use runtime='keras'"):
        bundle = Bundle(network(side=64), ModelSpec(**(vars(SPEC) | {"threshold": 0.3})))
        OpenVINOPredictor(bundle, precision="float32").prepare()


def test_bfloat16_is_taken_where_it_changes_nothing_and_remembered(folder, monkeypatch):
    if not OpenVINOPredictor.has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    bundle = Bundle.load(folder)
    plain, asked = OpenVINOPredictor(bundle), OpenVINOPredictor(bundle, precision="bfloat16")
    change, seen = plain._change(), patches(3)
    assert 0 < change < 0.5 and f"{change:.2g}" in asked.runtime and "bfloat16" in asked.runtime
    assert 0 < np.abs(asked(seen) - OpenVINOPredictor(bundle, precision="float32")(seen)).max() < 0.1
    monkeypatch.setattr(module, "compiled", None)  # it is remembered, so nothing is computed
    monkeypatch.setattr(module, "LARGEST", 1.01 * change)
    assert OpenVINOPredictor(bundle).precision == "bfloat16"
    monkeypatch.setattr(module, "LARGEST", 0.99 * change)
    assert OpenVINOPredictor(bundle).precision == "float32" and "may change" in OpenVINOPredictor(bundle).runtime


def test_a_processor_without_bfloat16_computes_in_float32(folder, monkeypatch):
    monkeypatch.setattr(module, "_has_bfloat16", lambda: False)
    one = OpenVINOPredictor(Bundle.load(folder))
    assert one.precision == "float32" and one.runtime.endswith("(float32, CPU)")
    with pytest.raises(SpecError, match="does not compute in bfloat16"):
        OpenVINOPredictor(Bundle.load(folder), precision="bfloat16")
    with pytest.raises(SpecError, match="got precision='float64'"):
        OpenVINOPredictor(Bundle.load(folder), precision="float64")


WARM = """
import json, sys
import numpy as np
from digipath.inference.predictor import describe_runtime, predictor_of
from digipath.models.bundle import Bundle

patches = np.load(sys.argv[2])
one = predictor_of(Bundle.load(sys.argv[1]), precision="float32")
values = one(patches)
found = {"runtime": describe_runtime(one), "multiple": one.multiple, "hash": one.bundle.hash}
found["loaded"] = sorted({"keras", "tensorflow"} & set(sys.modules))

from digipath.inference.keras_runtime import KerasPredictor  # Keras on JAX, at two sizes in one process

keras = KerasPredictor(Bundle.load(sys.argv[1]))
small = keras(patches[:, :32, :32])
found["runtimes"] = describe_runtime(keras)
found["difference"] = float(abs(keras(patches) - values).max())
found["alone"] = float(abs(KerasPredictor(Bundle.load(sys.argv[1]))(patches[:, :32, :32]) - small).max())
print(json.dumps(found))
"""


def test_a_warm_cache_needs_no_tensorflow_and_jax_takes_two_sizes(folder, tmp_path):
    """One process for both, as starting one takes seconds."""
    pytest.importorskip("jax")
    np.save(tmp_path / "patches.npy", patches(2))
    command = [sys.executable, "-c", WARM, str(folder), str(tmp_path / "patches.npy")]
    environment = os.environ | {"KERAS_BACKEND": "jax", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loaded"] == [] and found["runtime"][0].startswith("openvino") and found["multiple"] == 32
    assert found["hash"] == Bundle.load(folder).hash
    assert "jax" in found["runtimes"][0] and found["difference"] < 1e-4 and found["alone"] == 0


COLD = """
import sys
import numpy as np
from digipath.inference.openvino_runtime import OpenVINOPredictor
from digipath.models.bundle import Bundle

values = OpenVINOPredictor(Bundle.load(sys.argv[1]), precision="float32")(np.zeros((1, 64, 64, 3), np.uint8))
print(values.shape, "tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_keras_on_jax_has_its_networks_exported_by_another_process(folder, tmp_path):
    pytest.importorskip("jax")
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "DIGIPATH_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", COLD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "(1, 64, 64, 2) False", done.stderr


def real_patches(data, side, count):
    """Patches and lesion masks of the EBHI-SEG val split."""
    folder = data / "ebhi-seg"
    with (folder / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"][:: -(-215 // count)]
    images, masks = [], []
    for row in rows:
        image, mask = (next((folder / kind).glob(f"{row['name']}.*")) for kind in ("images", "masks"))
        images.append(cv2.imread(str(image))[:side, :side, ::-1])
        lesion = row["class"] in ("adenocarcinoma", "high-grade-in")
        masks.append((cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)[:side, :side] > 127) & lesion)
    return np.stack(images), np.stack(masks)


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["colon-lesion-light", "colon-lesion-ds", "colon-patch-classifier"])
def test_on_real_patches_both_runtimes_agree_and_find_the_same(data, name):
    bundle = Bundle.builtin(name)
    seen, truth = real_patches(data, bundle.spec.patch, 72)
    ours, theirs = OpenVINOPredictor(bundle), KerasPredictor(bundle, precision="float32")
    found = []
    for one in (ours, theirs):
        values = np.concatenate([one(seen[k : k + 8]) for k in range(0, len(seen), 8)])
        found.append(values)
    assert np.abs(found[0] - found[1]).max() < LARGEST, ours.runtime
    step = bundle.spec.patch // found[0].shape[1]
    lesion = truth[:, step // 2 :: step, step // 2 :: step]
    dice = [2 * ((p := v[..., 1] > 0.5) & lesion).sum() / (p.sum() + lesion.sum()) for v in found]
    assert dice[0] == pytest.approx(dice[1], abs=1e-3) and dice[0] > 0.3


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_an_early_exit_has_an_export_of_its_own():
    bundle = Bundle.builtin("colon-lesion-ds").early_exit(1)
    key, seen = bundle.key, patches(2, 224, 224)
    values = OpenVINOPredictor(bundle, precision="float32")(seen)
    assert values.shape == (2, 28, 28, 2) and bundle.key == key != Bundle.builtin("colon-lesion-ds").key
    np.testing.assert_allclose(values, KerasPredictor(bundle)(seen), atol=1e-4)
