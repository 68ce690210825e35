"""From a cohort and a recipe to a bundle: whole, interrupted, refused."""

import csv
import dataclasses
import json
import os
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
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide
from digipath.training import crossval, trainer
from digipath.training.crossval import train_folds
from digipath.training.recipes import recipe
from digipath.training.record import RunFolder
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a bundle, from a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    train(textures(), small(epochs=3, keep=2), out=out, settings=QUIET)
    return out


def history(out):
    return list(csv.DictReader((out / "history.csv").open()))


def test_a_recipe_becomes_a_bundle_with_its_history_and_its_recipe(whole):
    spec = Bundle.load(whole).spec
    assert (spec.architecture, spec.patch, spec.mpp, spec.width) == ("unet-microdosimetry", 64, 1.0, 0.06)
    rows = history(whole)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"] and float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert json.loads((whole / "recipe.json").read_text())["sampling"]["kind"] == "Images"
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_best_epochs_are_kept_and_the_best_is_the_bundle(whole):
    ranked = sorted(history(whole), key=lambda row: -float(row["val_dice"]))
    kept = sorted(path.name[:10] for path in (work_folder(whole) / "best").iterdir())
    assert kept == sorted(f"epoch-{int(row['epoch']) + 1:04d}" for row in ranked[:2])
    best = Bundle.load(whole).hash
    other, first = (int(row["epoch"]) + 1 for row in (ranked[1], ranked[0]))
    assert bundle_of(other, out=whole).hash != best
    assert bundle_of(first, out=whole).hash == best and history(whole)
    with pytest.raises(TrainingError, match="one of those kept"):
        bundle_of(7, out=whole)


def test_a_finished_run_only_stores_its_bundle_again(whole):
    before = Bundle.load(whole).hash
    assert train(textures(), small(epochs=3, keep=2), out=whole, settings=QUIET).hash == before


def test_another_recipe_does_not_go_on_with_a_run(whole):
    with pytest.raises(TrainingError, match="batch was 4 and is 8"):
        train(textures(), small(epochs=3, keep=2, batch=8), out=whole, settings=QUIET)


class Stop(Exception):
    pass


def test_changed_labels_do_not_go_on_with_a_run(whole):
    cohort = textures()
    cases = [dataclasses.replace(case, mask=None, label="other") if case.split == "train" else case for case in cohort]
    with pytest.raises(TrainingError, match=r"truth was .*--fresh"):
        train(Cohort(cases), small(epochs=3, keep=2), out=whole, settings=QUIET)


@pytest.mark.parametrize("average", [None, pytest.param(0.9, marks=pytest.mark.slow)])
def test_an_epoch_that_was_recorded_but_not_kept_before_a_kill_is_kept_by_the_next_run(tmp_path, average):
    one = small(epochs=1, average=average)
    before = train(textures(), one, out=tmp_path / "bundle", settings=QUIET)
    (kept,) = (tmp_path / "bundle-training/best").iterdir()
    kept.unlink()
    after = train(textures(), one, out=tmp_path / "bundle", settings=QUIET)
    assert kept.is_file()
    for old, new in zip(before.model.get_weights(), after.model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    def stop(epoch, _):
        if epoch == 2:
            raise Stop

    def with_stop(*given, **named):
        return [*callbacks(*given, **named), keras.callbacks.LambdaCallback(on_epoch_begin=stop)]

    callbacks, out = trainer._callbacks, tmp_path / "bundle"
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_callbacks", with_stop)
        with pytest.raises(Stop):
            train(textures(), small(epochs=3, keep=2), out=out, settings=QUIET)
    assert not out.exists() and len(RunFolder(work_folder(out), _run(out)).rows) == 2
    resumed = train(textures(), small(epochs=3, keep=2), out=out, settings=QUIET)
    # Threads add up in another order each time, so that two whole runs differ by as much.
    assert float(history(out)[2]["loss"]) == pytest.approx(float(history(whole)[2]["loss"]), rel=0.05)
    for first, second in zip(Bundle.load(whole).model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=0.02)


def _run(out):
    return json.loads((work_folder(out) / "run.json").read_text())


def test_deep_supervision_trains_five_outputs_and_judges_the_last(tmp_path):
    one = small("bcc-resnet34-ds", architecture="bcc-unet-ds", monitor="iou", width=0.05)
    bundle = train(textures(), one, out=tmp_path / "bundle", settings=QUIET)
    assert len(bundle.model.outputs) == 5
    rows = history(tmp_path / "bundle")
    assert any(name.startswith("val_") and name.endswith("_iou") for name in rows[0])


@pytest.mark.slow
def test_a_classifier_is_trained_on_the_middle_of_its_patches(tmp_path):
    one = small(
        "v3-dcnn-classifier",
        architecture="slim-inceptionv3",
        sampling=AllTissue(stride=64),
        monitor="accuracy",
        centre=16,
        width=0.05,
        patch=96,
    )
    cases = []
    for number in range(2):
        made = SyntheticSlide(SyntheticSettings(width=400, height=400, mpp=1.0, lesions=1, seed=number))
        slide = ArraySlide(made.array(), mpp=1.0, name=f"made-{number}")
        cases.append(Case(slide=slide, annotations=made.annotations(), split=("train", "val")[number]))
    bundle = train(Cohort(cases), one, out=tmp_path / "bundle", settings=QUIET)
    assert bundle.spec.kind == "classifier"


def test_the_encoder_is_frozen_at_first_and_the_average_is_judged(tmp_path):
    one = small(freeze=1, average=0.9, epochs=2, architecture="bcc-unet", patience=1)
    train(textures(), one, out=tmp_path / "bundle", settings=QUIET)
    assert len(history(tmp_path / "bundle")) == 2


def test_patch_labels_come_from_the_middle():
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[0, 0, 0] = 1
    labels[1, 4, 4] = 1
    labels[2] = 255
    labels[3] = 255
    labels[3, 3, 3] = 0
    np.testing.assert_array_equal(patch_labels(labels, centre=4), [0, 1, 255, 0])


@pytest.mark.slow
def test_folds_give_a_bundle_each_and_one_table(tmp_path):
    report = train_folds(textures(images=6), [small(epochs=1)], folds=3, out=tmp_path, settings=QUIET)
    assert [path.name for path in report.bundles] == ["fold-1", "fold-2", "fold-3"]
    assert all(Bundle.load(path).hash for path in report.bundles)
    rows = list(csv.DictReader((tmp_path / "folds.csv").open()))
    dice = np.array([float(row["dice"]) for row in rows])
    assert f"{dice.mean():.3f} ± {dice.std(ddof=1):.3f}" in report.table()


def test_folds_leave_the_cases_of_the_test_alone(tmp_path, monkeypatch):
    seen = []

    def no_training(cohort, *_, **__):
        seen.extend(case.name for case in cohort)
        raise TrainingError("enough")

    monkeypatch.setattr(crossval, "train", no_training)
    cases = [dataclasses.replace(case, split="test") if i < 2 else case for i, case in enumerate(textures())]
    with pytest.raises(TrainingError, match="enough"):
        train_folds(Cohort(cases), [small()], folds=3, out=tmp_path, settings=QUIET)
    assert len(seen) == 4 and not {"image-0", "image-1"} & set(seen)


@pytest.mark.parametrize(("values", "stride"), [(41, 8), (12, 2), (9, 1)])
def test_a_value_is_judged_where_a_heatmap_shows_it(values, stride):
    ramp = np.tile(np.linspace(0, 1, values, dtype=np.float32), (3, 1))
    wide = crossval._enlarged(ramp, stride)
    assert wide.shape == (3 * stride, values * stride)
    np.testing.assert_allclose(wide[0].reshape(values, stride).mean(1)[1:-1], ramp[0, 1:-1], atol=1e-6)


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
    with pytest.raises(SpecError, match="threads is at least 1"):
        TrainSettings(threads=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_half_precision_leaves_the_policy_as_it_was(tmp_path):
    settings = dataclasses.replace(QUIET, mixed="bfloat16")
    bundle = train(textures(), small(epochs=1), out=tmp_path / "bundle", settings=settings)
    assert keras.config.dtype_policy().name == "float32" and bundle.model.dtype == "float32"


KILLED = """
import os, signal, sys
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, {tests!r})
from test_trainer import QUIET, keras, small, textures, train, trainer
def kill(epoch, _):
    if epoch == {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)
callbacks, killer = trainer._callbacks, keras.callbacks.LambdaCallback(on_epoch_begin=kill)
trainer._callbacks = lambda *given, **named: [*callbacks(*given, **named), killer]
one = small(epochs=3, freeze=1, architecture="bcc-unet", average=0.9)
print("hash", train(textures(), one, out={out!r}, settings=QUIET).hash)
"""


def run_killed(out, *, epoch):
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(out), epoch=epoch)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return ran.returncode, ran.stdout


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_random_numbers_to_the_same_weights(tmp_path):
    code, whole = run_killed(tmp_path / "whole", epoch=99)
    assert code == 0 and whole.startswith("hash")
    for epoch in (1, 2):
        assert run_killed(tmp_path / "killed", epoch=epoch)[0] == -9
    assert run_killed(tmp_path / "killed", epoch=99) == (0, whole)


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
    rows = history(tmp_path / "bundle")
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])


WITHOUT_TENSORFLOW = """
import sys
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked)
sys.path.insert(0, {tests!r})
from test_trainer import QUIET, small, textures, train
one = small(epochs=3, freeze=1, architecture="bcc-unet", average=0.9, patience=2)
train(textures(), one, out={out!r}, settings=QUIET)
"""


@pytest.mark.slow
def test_a_bundle_is_trained_where_there_is_no_tensorflow(tmp_path):
    pytest.importorskip("jax")
    code = WITHOUT_TENSORFLOW.format(tests=str(Path(__file__).parent), out=str(tmp_path / "bundle"))
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env=environment)
    assert len(history(tmp_path / "bundle")) == 3 and Bundle.load(tmp_path / "bundle").hash
