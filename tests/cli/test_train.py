"""`digipath train`, as somebody types it."""

import cv2
import numpy as np
import pytest

from digipath.cli import main
from digipath.models.bundle import Bundle

SMALL = {
    "architecture": "unet-microdosimetry",
    "output_stride": 1,
    "width": 0.06,
    "patch": 64,
    "batch": 4,
    "epochs": 1,
    "rates": "((0, 5e-3),)",
    "average": "None",
    "sampling.per_epoch": 8,
}


def settings(**changes):
    return [part for name, value in (SMALL | changes).items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images of noise, of which one half is stripes and marked."""
    root, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    for number in range(8):
        image = rng.integers(90, 170, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        image[:, :32] = np.where(np.arange(64)[:, None, None] // 4 % 2, 40, 220)
        mask[:, :32] = 255
        cv2.imwrite(str(root / f"images/{number}.png"), image)
        cv2.imwrite(str(root / f"masks/{number}.png"), mask)
    return root


def test_a_folder_becomes_a_bundle_in_one_command(folder, tmp_path, capsys):
    out = tmp_path / "bundle"
    arguments = ["train", str(folder), "--mpp", "1", "--val", "0.25", "--recipe", "colon-light", "-o", str(out), "-q"]
    assert main([*arguments, *settings()]) == 0
    printed = capsys.readouterr()
    assert Bundle.load(out).hash in printed.out and f"--bundle {out}" in printed.err
    assert main([*arguments, *settings(batch=8)]) == 1
    assert "batch was 4 and is 8" in capsys.readouterr().err


def test_the_recipes_are_listed(capsys):
    assert main(["train", "--list"]) == 0
    assert "bcc-resnet34-ds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COHORT"),
        (["cohort.csv", "--recipe", "bcc-unet"], "--out"),
        (["cohort.csv", "-o", "x"], "--recipe"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unt"], "mean 'bcc-unet'"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unet", "--set", "bacth=8"], "mean 'batch'"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unet", "--set", "batch"], "NAME=VALUE"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unet", "--recipe", "bcc-resnet34"], "--folds"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unet", "--mask-value", "a=lesion"], "--mask-value"),
        (["cohort.csv", "-o", "x", "--recipe", "bcc-unet", "--mpp", "0.5"], "--mpp is for a folder"),
        ([".", "-o", "x", "--recipe", "bcc-unet", "--classes", "a,b"], "--classes is for a CSV file"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_all_faults_of_a_cohort_come_on_one_line(tmp_path, capsys):
    (tmp_path / "cohort.csv").write_text("slide,label,split\none.svs,other,train\ntwo.svs,lesion,val\n")
    assert main(["train", str(tmp_path / "cohort.csv"), "--recipe", "bcc-unet", "-o", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert "one.svs" in error and "two.svs" in error and error.count("\n") == 1
