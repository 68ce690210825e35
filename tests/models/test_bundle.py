"""Bundles: stored, loaded, and refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from digipath.errors import BundleError
from digipath.models.bundle import Bundle, builtin_names, last_output
from digipath.models.catalog import build, rebuild
from digipath.models.spec import ModelSpec

SPEC = ModelSpec(architecture="unet-mobilenetv2", mpp=1.1, patch=64, output_stride=2, width=0.25)
OWN = ModelSpec(architecture="mine", mpp=0.5, patch=32)
PATCHES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def own_model(*middle, patch=32, channels=2):
    image = keras.Input((patch, patch, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    for layer in middle:
        x = layer(x)
    return keras.Model(image, keras.layers.Conv2D(channels, 1, activation="softmax")(x), name="mine")


@pytest.fixture(scope="module")
def trained():
    """A light network whose batch normalisation has small variances, as training leaves behind."""
    model = rebuild(SPEC)
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(weight * 1e-7)
    return model


@pytest.fixture(scope="module")
def stored(trained, tmp_path_factory):
    return Bundle(trained, SPEC).save(tmp_path_factory.mktemp("stored") / "light")


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of the bundle, which a test may damage: storing builds the network each time."""
    return shutil.copytree(stored, tmp_path / "light")


def test_a_loaded_bundle_is_stored_bit_for_bit_as_it_was(folder, tmp_path):
    again = Bundle.load(folder)
    _ = again.model
    again.save(tmp_path / "again")
    for name in ("spec.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_kernels_are_rounded_to_float16_and_all_else_is_kept(trained, folder):
    loaded = {weight.path: weight.numpy() for weight in Bundle.load(folder).model.weights}
    for weight in trained.weights:
        values = weight.numpy()
        expected = values.astype(np.float16) if weight.path.endswith("kernel") else values
        np.testing.assert_array_equal(loaded[weight.path], expected)
    assert {values.dtype.name for values in load_file(folder / "weights.safetensors").values()} == {
        "float16",
        "float32",
    }


@pytest.mark.slow  # that it is stored bit for bit as it was tells most of it
def test_the_stored_file_predicts_the_same_every_time(folder):
    first, second = (Bundle.load(folder).model.predict_on_batch(PATCHES) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_hash_is_that_of_spec_and_weights_before_and_after_storing(trained, folder):
    stored, loaded = Bundle.load(folder).hash, Bundle.load(folder)
    _ = loaded.model
    assert Bundle(trained, SPEC).hash == stored == loaded.hash and len(stored) == 12
    assert Bundle(trained, dataclasses.replace(SPEC, threshold=0.4)).hash != stored
    tensors = load_file(folder / "weights.safetensors")
    tensors["logits/bias"] = tensors["logits/bias"] + 1
    save_file(tensors, folder / "weights.safetensors")
    assert Bundle.load(folder).hash != stored


def test_a_bundle_has_the_name_of_its_folder(trained, folder):
    assert (Bundle.load(folder).name, Bundle.load(folder).folder) == ("light", folder)
    assert (Bundle(trained, SPEC).name, Bundle(trained, SPEC).folder) == ("unet-mobilenetv2", None)


def test_storing_replaces_a_bundle_and_keeps_its_model_card(trained, folder):
    (folder / "README.md").write_text("card")
    Bundle(trained, dataclasses.replace(SPEC, threshold=0.3)).save(folder)
    assert Bundle.load(folder).spec.threshold == 0.3
    assert (folder / "README.md").read_text() == "card"
    assert [path.name for path in folder.parent.iterdir()] == ["light"]


def test_storing_never_replaces_what_is_no_bundle(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="no bundle"):
        Bundle(trained, SPEC).save(tmp_path)


def test_a_failed_storing_leaves_nothing_behind(tmp_path):
    other = Bundle(own_model(keras.layers.AveragePooling2D(2), patch=64), SPEC)
    with pytest.raises(BundleError, match="another architecture name"):
        other.save(tmp_path / "other")
    assert not list(tmp_path.iterdir())


def test_diverged_weights_are_refused(tmp_path):
    model = rebuild(SPEC)
    kernel = next(weight for weight in model.weights if weight.path == "logits/kernel")
    kernel.assign(kernel * 0 + 1e6)
    with pytest.raises(BundleError, match="diverged"):
        Bundle(model, SPEC).save(tmp_path / "light")
    bias = next(weight for weight in model.weights if weight.path == "logits/bias")
    kernel.assign(kernel * 0)
    bias.assign(bias + np.nan)
    with pytest.raises(BundleError, match="logits/bias must hold finite numbers"):
        Bundle(model, SPEC).save(tmp_path / "light")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda tensors: tensors.pop("logits/kernel"), "lacks logits/kernel"),
        (lambda tensors: tensors.update(extra=np.zeros(3, np.float32)), "has extra besides"),
        (lambda tensors: tensors.update({"logits/bias": np.zeros(5, np.float32)}), r"logits/bias is \(2,\)"),
        (lambda tensors: tensors.update({"logits/bias": np.zeros(2, np.int64)}), "float32 alone"),
    ],
)
def test_every_tensor_is_accounted_for(folder, damage, says):
    tensors = load_file(folder / "weights.safetensors")
    damage(tensors)
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(BundleError, match=says):
        _ = Bundle.load(folder).model


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, None])
def test_a_damaged_file_is_refused(folder, content):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(BundleError, match="damaged"):
        _ = Bundle.load(folder).model


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 99}, "Update digipath"),
        ({"architecture": "unheard_of"}, "is one of"),
        ({"width": 0.5}, "shapes"),
        ({"output_stride": 1}, "lacks"),
    ],
)
def test_a_specification_that_does_not_fit_is_refused(folder, change, says):
    entries = json.loads((folder / "spec.json").read_text()) | change
    (folder / "spec.json").write_text(json.dumps(entries))
    with pytest.raises(Exception, match=says) as error:
        _ = Bundle.load(folder).model
    assert type(error.value).__name__ in ("BundleError", "SpecError")


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"spec\.json"):
        Bundle.load(tmp_path)
    (tmp_path / "spec.json").write_text(OWN.to_json())
    with pytest.raises(BundleError, match="neither"):
        Bundle.load(tmp_path)
    (tmp_path / "spec.json").write_text("x" * 2_000_000)
    with pytest.raises(BundleError, match="short"):
        Bundle.load(tmp_path)


def test_whole_models_in_hdf5_are_refused(tmp_path):
    own_model().save(tmp_path / "model.h5")
    (tmp_path / "spec.json").write_text(OWN.to_json())
    with pytest.raises(BundleError, match="HDF5"):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match="is a folder"):
        Bundle.load(tmp_path / "model.h5")
    with pytest.raises(BundleError, match="Leave out"):
        Bundle(own_model(), OWN).save(tmp_path / "new.h5")


def test_a_network_of_ones_own_survives_storing(tmp_path):
    model = own_model(keras.layers.Conv2D(4, 3, padding="same", activation="relu"))
    bundle = Bundle(model, OWN)
    loaded = Bundle.load(bundle.save(tmp_path / "own"))
    patches = PATCHES[:, :32, :32]
    np.testing.assert_array_equal(loaded.model.predict_on_batch(patches), model.predict_on_batch(patches))
    assert loaded.hash == bundle.hash


def test_lambda_layers_are_refused_on_storing_and_on_loading(tmp_path):
    model = own_model(keras.layers.TimeDistributed(keras.layers.Lambda(lambda x: x * 2)))
    with pytest.raises(BundleError, match="Lambda"):
        Bundle(model, OWN).save(tmp_path / "own")
    (tmp_path / "smuggled").mkdir()
    model.save(tmp_path / "smuggled" / "model.keras")
    (tmp_path / "smuggled" / "spec.json").write_text(OWN.to_json())
    with pytest.raises(BundleError, match="Lambda"):
        _ = Bundle.load(tmp_path / "smuggled").model


def test_a_class_that_nobody_registered_is_named(tmp_path):
    folder = Bundle(own_model(keras.layers.ReLU()), OWN).save(tmp_path / "own")
    with zipfile.ZipFile(folder / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    layer = next(entry for entry in config["config"]["layers"] if entry["class_name"] == "ReLU")
    layer |= {"class_name": "Popen", "module": "subprocess", "registered_name": "Popen"}
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        for name, part in (parts | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, part)
    with pytest.raises(BundleError, match="Popen of subprocess"):
        _ = Bundle.load(folder).model


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_keras_file_is_refused(tmp_path, content):
    folder = Bundle(own_model(), OWN).save(tmp_path / "own")
    (folder / "model.keras").write_bytes(content)
    with pytest.raises(BundleError, match="Keras' format"):
        _ = Bundle.load(folder).model


@pytest.mark.parametrize(
    "config",
    ["[" * 100_000, '{"class_name": ["x"], "config": {}}', '{"class_name": "x", "config": {}, "module": 5}'],
)
def test_a_configuration_made_to_break_the_reader_is_refused(tmp_path, config):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", config)
    (tmp_path / "spec.json").write_text(OWN.to_json())
    with pytest.raises(BundleError, match="Save it again"):
        _ = Bundle.load(tmp_path).model


@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99)])  # encrypted; unknown compression
def test_a_keras_file_that_cannot_be_unpacked_is_refused(tmp_path, local, central, value):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    content = bytearray(path.read_bytes())
    content[local] = content[content.index(b"PK\x01\x02") + central] = value
    path.write_bytes(content)
    (tmp_path / "spec.json").write_text(OWN.to_json())
    with pytest.raises(BundleError, match="Keras' format"):
        _ = Bundle.load(tmp_path).model


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (own_model(channels=3), {}),
        (own_model(keras.layers.AveragePooling2D(2)), {}),
        (own_model(), {"output_stride": 2}),
        (own_model(), {"kind": "classifier"}),
        (own_model(), {"activation": "sigmoid"}),
        (own_model(patch=48), {}),
    ],
)
def test_a_network_that_does_not_fit_its_specification_is_refused(model, change):
    with pytest.raises(BundleError):
        Bundle(model, dataclasses.replace(OWN, **change))


def test_a_classifier_fits():
    image = keras.Input((32, 32, 3), dtype="uint8")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
    assert Bundle(model, dataclasses.replace(OWN, kind="classifier")).spec.kind == "classifier"


def test_open_takes_what_a_user_has(trained, folder):
    bundle = Bundle(trained, SPEC)
    assert Bundle.open(bundle) is bundle
    assert Bundle.open(folder).spec == Bundle.open(str(folder)).spec == SPEC
    with pytest.raises(BundleError, match="neither"):
        Bundle.open("no-such-bundle")
    with pytest.raises(BundleError, match="built-in"):
        Bundle.builtin("no-such-bundle")


def test_the_built_in_bundle_is_the_default():
    assert Bundle.open().name == Bundle.builtin().name
    assert Bundle.open().name in builtin_names()
    assert Bundle.open(Bundle.open().name).hash == Bundle.builtin().hash


def test_loading_imports_no_tensorflow_until_the_network_is_used(folder):
    code = (
        "import sys; from digipath.models.bundle import Bundle; "
        f"bundle = Bundle.load({str(folder)!r}); bundle.spec, bundle.name; "
        "heavy = [name for name in ('keras', 'tensorflow') if name in sys.modules]; "
        "bundle.model; sys.exit(bool(heavy) or 'keras' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bundle_needs_nothing_but_its_folder(folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    before = build("unet-mobilenetv2", output_stride=2, width=0.25).predict_on_batch(PATCHES)
    assert not np.allclose(Bundle.load(moved).model.predict_on_batch(PATCHES), before)


def supervised_model():
    """Two outputs of sides 16 and 32 for patches of 32, as deep supervision has."""
    image = keras.Input((None, None, 3), dtype="uint8")
    fine = keras.layers.Rescaling(1 / 255)(image)
    coarse = keras.layers.AveragePooling2D(2)(fine)
    outputs = [
        keras.layers.Conv2D(2, 1, activation="softmax", name=name)(x)
        for name, x in (("coarse", coarse), ("fine", fine))
    ]
    return keras.Model(image, outputs)


def test_of_several_outputs_the_last_is_judged_and_applied(tmp_path):
    model, patches = supervised_model(), PATCHES[:, :32, :32]
    loaded = Bundle.load(Bundle(model, OWN).save(tmp_path / "own")).model
    assert len(loaded.outputs) == 2
    np.testing.assert_array_equal(last_output(loaded)(patches), model(patches)[-1])
    assert "coarse" not in [layer.name for layer in last_output(loaded).layers]
    with pytest.raises(BundleError, match=r"this network returns \(1, 32, 32, 2\)"):
        Bundle(model, dataclasses.replace(OWN, output_stride=2))


def test_a_network_of_ones_own_may_have_any_name():
    assert Bundle(own_model(), dataclasses.replace(OWN, architecture="mine-ds")).name == "mine-ds"


def test_a_network_of_one_output_is_applied_as_it_is():
    model = own_model()
    assert last_output(model) is model


def test_the_trainers_files_lie_beside_the_specification(trained, folder):
    weights = (folder / "weights.safetensors").read_bytes()
    before = Bundle.load(folder).hash
    Bundle(trained, SPEC).save(folder, extra={"recipe.json": "{}", "history.csv": "epoch\n0\n"})
    assert (folder / "recipe.json").read_text() == "{}" and (folder / "history.csv").read_text() == "epoch\n0\n"
    assert Bundle.load(folder).hash == before and (folder / "weights.safetensors").read_bytes() == weights
    Bundle(trained, SPEC).save(folder)
    assert (folder / "recipe.json").read_text() == "{}"
    Bundle(trained, SPEC).save(folder, extra={"recipe.json": "{1}"})
    assert (folder / "recipe.json").read_text() == "{1}" and (folder / "history.csv").is_file()


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "../recipe.json", "a/b.txt", "", ".."])
def test_the_trainers_files_never_replace_the_bundles_own(trained, tmp_path, name):
    with pytest.raises(BundleError, match="plain names"):
        Bundle(trained, SPEC).save(tmp_path / "light", extra={name: "text"})
    assert not list(tmp_path.iterdir())


def test_folders_beside_a_bundle_stay_when_it_is_replaced(trained, folder):
    (folder / "checkpoints" / "deep").mkdir(parents=True)
    (folder / "checkpoints" / "deep" / "epoch.txt").write_text("7")
    Bundle(trained, dataclasses.replace(SPEC, threshold=0.3)).save(folder)
    assert (folder / "checkpoints" / "deep" / "epoch.txt").read_text() == "7"
    assert [path.name for path in folder.parent.iterdir()] == ["light"]


def test_the_key_of_a_network_of_ones_own_tells_layers_apart_that_have_no_weights(tmp_path):
    bundles = [Bundle(own_model(layer), OWN) for layer in (keras.layers.ReLU(), keras.layers.MaxPooling2D(1))]
    bundles[1].model.set_weights(bundles[0].model.get_weights())
    for number, bundle in enumerate(tuple(bundles)):
        bundles.append(Bundle.load(bundle.save(tmp_path / str(number))))
        assert bundles[-1]._model is None and bundles[-1].sides is None and bundle.sides == (32, 32)
    assert bundles[0].hash == bundles[1].hash and len({bundle.key for bundle in bundles}) == 4
    assert Bundle.load(tmp_path / "0").key == bundles[2].key
