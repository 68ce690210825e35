"""From a cohort and a recipe to a bundle: whole, interrupted, refused."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from digipath.data.augment import RECIPES as AUGMENTATIONS
from digipath.data.cohort import Case, Cohort
from digipath.data.grids import AllTissue
from digipath.data.sampling import Images
from digipath.errors import CohortError, SpecError, TrainingError
from digipath.geometry.raster import Raster
from digipath.models.bundle import Bundle
from digipath.slides.array import ArraySlide
from digipath.training.crossval import train_folds
from digipath.training.recipes import recipe
from digipath.training.trainer import TrainSettings, bundle_of, patch_labels, train, work_folder

QUIET = TrainSettings(progress=False, threads=1)


def textures(*, images=8, side=64):
    """Images of which one half is stripes, the lesion, and the other noise; every fourth is for validation."""
    rng, cases = np.random.default_rng(0), []
    for number in range(images):
        image = rng.integers(90, 170, (side, side, 3), dtype=np.uint8)
        mask = np.zeros((side, side), bool)
        half = slice(side // 2) if number % 2 else slice(side // 2, None)
        image[:, half] = np.where(np.arange(side)[:, None, None] // 4 % 2, 40, 220)
        mask[:, half] = True
        slide = ArraySlide(image, mpp=1.0, name=f"image-{number}")
        split = "val" if number % 4 == 3 else "train"
        cases.append(Case(slide=slide, mask=Raster(mask, slide.frame), patient=f"p{number}", split=split))
    return Cohort(cases)


def small(name="colon-light", **changes):
    defaults = {
        "architecture": "unet-microdosimetry",
        "output_stride": 1,
        "patch": 64,
        "mpp": 1.0,
        "width": 0.06,
        "batch": 4,
        "epochs": 2,
        "rates": ((0, 5e-3),),
        "average": None,
        "sampling": Images(per_epoch=8),
        "augmentation": AUGMENTATIONS["microdosimetry"],
    }
    return dataclasses.replace(recipe(name), **(defaults | changes))


def test_a_recipe_becomes_a_bundle_with_its_history_and_its_recipe(tmp_path):
    bundle = train(textures(), small(epochs=3, keep=2), out=tmp_path / "bundle", settings=QUIET)
    assert bundle.spec.patch == 64 and bundle.spec.mpp == 1.0 and bundle.hash
    rows = list(csv.DictReader((tmp_path / "bundle/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert json.loads((tmp_path / "bundle/recipe.json").read_text())["sampling"]["kind"] == "Images"
    assert (tmp_path / "bundle/curves.png").read_bytes()[:4] == b"\x89PNG"
    best = max(rows, key=lambda row: float(row["val_dice"]))
    kept = sorted(path.name for path in (work_folder(tmp_path / "bundle") / "best").iterdir())
    assert len(kept) == 2 and any(f"{int(best['epoch']) + 1:03d}" in name for name in kept)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    one = small(epochs=3)

    class Stop(Exception):
        pass

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Stop

    whole = train(textures(), one, out=tmp_path / "whole", settings=QUIET)
    import digipath.training.trainer as trainer

    callbacks = trainer._callbacks
    trainer._callbacks = lambda *given, **named: [*callbacks(*given, **named), Killed()]
    try:
        with pytest.raises(Stop):
            train(textures(), one, out=tmp_path / "stopped", settings=QUIET)
    finally:
        trainer._callbacks = callbacks
    assert not (tmp_path / "stopped").exists()
    resumed = train(textures(), one, out=tmp_path / "stopped", settings=QUIET)
    for first, second in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=2e-3)


def test_a_finished_run_only_stores_its_bundle_again(tmp_path):
    first = train(textures(), small(epochs=1), out=tmp_path / "bundle", settings=QUIET).hash
    assert train(textures(), small(epochs=1), out=tmp_path / "bundle", settings=QUIET).hash == first


def test_another_recipe_does_not_go_on_with_a_run(tmp_path):
    train(textures(), small(epochs=1), out=tmp_path / "bundle", settings=QUIET)
    with pytest.raises(TrainingError, match="batch was 4 and is 8"):
        train(textures(), small(epochs=1, batch=8), out=tmp_path / "bundle", settings=QUIET)


def test_another_of_the_best_epochs_can_become_the_bundle(tmp_path):
    out = tmp_path / "bundle"
    train(textures(), small(epochs=2, keep=2), out=out, settings=QUIET)
    hashes = {bundle_of(epoch, out=out).hash for epoch in (1, 2)}
    assert len(hashes) == 2 and (out / "history.csv").is_file()
    with pytest.raises(TrainingError, match=r"\(1, 2\)|\(2, 1\)"):
        bundle_of(7, out=out)


def test_deep_supervision_trains_five_outputs_and_judges_the_last(tmp_path):
    one = small("bcc-resnet34-ds", architecture="bcc-unet-ds", monitor="iou", width=0.05)
    bundle = train(textures(), one, out=tmp_path / "bundle", settings=QUIET)
    assert len(bundle.model.outputs) == 5
    rows = list(csv.DictReader((tmp_path / "bundle/history.csv").open()))
    assert any(name.startswith("val_") and name.endswith("_iou") for name in rows[0])


def test_a_classifier_is_trained_on_the_middle_of_its_patches(tmp_path):
    one = small(
        "v3-dcnn-classifier",
        architecture="slim-inceptionv3",
        sampling=AllTissue(stride=32),
        monitor="accuracy",
        centre=16,
        width=0.05,
        patch=96,
    )
    bundle = train(textures(side=192, images=4), one, out=tmp_path / "bundle", settings=QUIET)
    assert bundle.spec.kind == "classifier"


def test_the_encoder_is_frozen_at_first_and_the_average_is_judged(tmp_path):
    train(textures(), small(freeze=1, epochs=2, architecture="bcc-unet"), out=tmp_path / "frozen", settings=QUIET)
    train(textures(), small(average=0.9, epochs=2), out=tmp_path / "averaged", settings=QUIET)


def test_patch_labels_come_from_the_middle():
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[0, 0, 0] = 1
    labels[1, 4, 4] = 1
    labels[2] = 255
    labels[3] = 255
    labels[3, 3, 3] = 0
    np.testing.assert_array_equal(patch_labels(labels, centre=4), [0, 1, 255, 0])


def test_folds_give_a_bundle_each_and_one_table(tmp_path):
    report = train_folds(textures(images=6), [small(epochs=1)], folds=3, out=tmp_path, settings=QUIET)
    assert [path.name for path in report.bundles] == ["fold-1", "fold-2", "fold-3"]
    assert all(Bundle.load(path).hash for path in report.bundles)
    rows = list(csv.DictReader((tmp_path / "folds.csv").open()))
    dice = np.array([float(row["dice"]) for row in rows])
    assert f"{dice.mean():.3f} ± {dice.std(ddof=1):.3f}" in report.table()


def test_what_cannot_be_trained_is_refused_before_anything_is_made(tmp_path):
    one = small()
    with pytest.raises(TrainingError, match=r"none of 'val'.*--val"):
        train(textures().select(split="train"), one, out=tmp_path / "a", settings=QUIET)
    broken = Cohort([*textures(), Case(slide=Path("missing.svs"), split="train", mask=Path("missing.png"))])
    with pytest.raises(CohortError, match=r"missing\.svs"):
        train(broken, one, out=tmp_path / "a", settings=QUIET)
    with pytest.raises(SpecError, match="at least 3"):
        train_folds(textures(), [one], folds=2, out=tmp_path / "a", settings=QUIET)
    with pytest.raises(SpecError, match="strategy"):
        TrainSettings(strategy="all")
    assert not (tmp_path / "a").exists()


def test_half_precision_leaves_the_policy_as_it_was(tmp_path):
    settings = dataclasses.replace(QUIET, mixed="bfloat16")
    bundle = train(textures(), small(epochs=1), out=tmp_path / "bundle", settings=settings)
    assert keras.config.dtype_policy().name == "float32" and bundle.model.dtype == "float32"


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_trainer import dataclasses, small, textures, QUIET, train
settings = dataclasses.replace(QUIET, strategy="mirrored")
train(textures(), small(epochs=3, freeze=1, architecture="bcc-unet"), out=Path({out!r}), settings=settings)
"""


@pytest.mark.slow
def test_two_devices_share_each_batch(tmp_path):
    code = MIRRORED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "bundle"))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    rows = list(csv.DictReader((tmp_path / "bundle/history.csv").open()))
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
