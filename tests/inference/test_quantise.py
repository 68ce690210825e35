"""The network in int8: made once, read from the bundle's folder, and refused where it does not belong."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from digipath.errors import BundleError, SpecError
from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bundle import Bundle
from digipath.models.catalog import rebuild
from digipath.models.spec import ModelSpec

pytest.importorskip("openvino")

from digipath.inference import quantise as module
from digipath.inference.openvino_runtime import OpenVINOPredictor
from digipath.inference.quantise import quantise

SPEC = ModelSpec(architecture="bcc-unet", mpp=1.0, patch=64, width=0.125, output_stride=4)
PATCHES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A bundle with its network in "int8", which here is the network as it is: what NNCF does is NNCF's."""
    import keras

    keras.utils.set_random_seed(2)
    folder = Bundle(rebuild(SPEC), SPEC).save(tmp_path_factory.mktemp("bundles") / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "in_int8", lambda model, _: model)
        patch.setattr(module, "made_with", lambda: {"nncf": "0", "openvino": "0"})
        quantise(Bundle.load(folder), PATCHES, note="as it was")
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(stored, tmp_path / "small")


def test_it_is_read_from_the_bundle_for_patches_of_any_size_without_building_the_network(folder):
    bundle = Bundle.load(folder)
    one = OpenVINOPredictor(bundle, precision="int8")
    assert re.search(r"\(int8, CPU; network [0-9a-f]{8}; as it was\)$", one.runtime) and one.multiple == 32
    rows = np.concatenate([PATCHES, PATCHES[:, :32]], axis=1)
    values = [one(patches) for patches in (PATCHES, rows)]
    assert bundle._model is None
    for patches, found in zip((PATCHES, rows), values, strict=True):
        np.testing.assert_allclose(found, KerasPredictor(bundle)(patches), atol=1e-5)


@pytest.mark.parametrize("damage", ["int8.bin", "int8.xml", "missing", "weights", "names", "long"])
def test_what_is_damaged_or_of_other_weights_is_refused(folder, damage):
    about = json.loads((folder / "int8.json").read_text())
    if damage == "weights":
        (folder / "int8.json").write_text(json.dumps(about | {"key": "0" * 32}))
    elif damage == "names":
        (folder / "int8.json").write_text(json.dumps(about | {"files": {"../spec.json": "0" * 64}}))
    elif damage == "long":
        (folder / "int8.json").write_text(json.dumps(about) + " " * 2_000_000)
    elif damage == "missing":
        (folder / "int8.bin").unlink()
    else:
        (folder / damage).write_bytes(b"")
    with pytest.raises(BundleError, match="other weights" if damage == "weights" else "damaged"):
        OpenVINOPredictor(Bundle.load(folder), precision="int8")(PATCHES)


def test_a_bundle_without_it_says_so(folder):
    (folder / "int8.json").unlink()
    with pytest.raises(SpecError, match="has no network in int8"):
        OpenVINOPredictor(Bundle.load(folder), precision="int8")


def test_what_cannot_be_quantised_is_refused(folder):
    with pytest.raises(SpecError, match=r"\(n, 64, 64, 3\) uint8, got \(3, 32, 64, 3\)"):
        quantise(Bundle.load(folder), PATCHES[:, :32])
    with pytest.raises(SpecError, match="Save it first"):
        quantise(Bundle(rebuild(SPEC), SPEC), PATCHES)


@pytest.mark.slow
def test_nncf_makes_a_network_that_says_nearly_the_same(folder):
    pytest.importorskip("nncf")
    bundle = Bundle.load(folder)
    assert quantise(bundle, PATCHES, note="tried") == folder / "int8.json"
    values = OpenVINOPredictor(Bundle.load(folder), precision="int8")(PATCHES)
    assert 0 < np.abs(values - KerasPredictor(bundle)(PATCHES)).max() < 0.2
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["int8.bin", "int8.json", "int8.xml", "spec.json", "weights.safetensors"]
    )


@pytest.mark.parametrize("name", ["colon-lesion-light", "colon-lesion-ds"])
def test_the_built_in_networks_in_int8_belong_to_their_weights(name):
    one = OpenVINOPredictor(Bundle.builtin(name), precision="int8")
    assert "(int8, CPU; network " in one.runtime and "Dice on EBHI-SEG val" in one.runtime
    about = json.loads((one.bundle.folder / "int8.json").read_text())
    assert about["dice_float32"] - about["dice_int8"] < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colon-lesion-light", "colon-lesion-ds"])
def test_on_real_images_int8_finds_what_float32_finds(data, name):
    root, bundle, found = data / "ebhi-seg", Bundle.builtin(name), {}
    with (root / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    images = np.stack([cv2.imread(str(root / "images" / f"{row['name']}.jpg"))[..., ::-1] for row in rows])
    masks = np.stack([cv2.imread(str(root / "masks" / f"{row['name']}.png"), cv2.IMREAD_GRAYSCALE) for row in rows])
    lesion = np.array([row["class"] in ("adenocarcinoma", "high-grade-in") for row in rows])
    for precision in ("float32", "int8"):
        one = OpenVINOPredictor(bundle, precision=precision)
        values = np.concatenate([one(images[k : k + 8]) for k in range(0, len(images), 8)])[..., 1]
        step = images.shape[1] // values.shape[1]
        truth = (masks > 127)[:, ::step, ::step] & lesion[:, None, None]
        positive = values > bundle.spec.threshold
        found[precision] = 2 * (positive & truth).sum() / (positive.sum() + truth.sum())
    assert found["float32"] - found["int8"] < 0.005 and found["float32"] > 0.8
