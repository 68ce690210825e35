import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from digipath import InferenceSettings, Segmenter
from digipath.cli import main
from digipath.inference.predictor import FunctionPredictor
from digipath.models.spec import ModelSpec

SPEC = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=64)


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32)
    return np.stack([1 - values, values], -1)


@pytest.fixture
def slides(tmp_path):
    """A folder with a slide, an empty one, and a file that is none."""
    folder = tmp_path / "slides"
    folder.mkdir()
    image = np.full((200, 260, 3), 244, np.uint8)
    cv2.imwrite(str(folder / "empty.png"), image)
    cv2.circle(image, (100, 100), 60, (190, 150, 225), -1)
    cv2.rectangle(image, (80, 80), (110, 110), (110, 60, 120), -1)
    cv2.imwrite(str(folder / "one.png"), image)
    (folder / "bad.svs").write_bytes(b"no slide at all")
    return folder


@pytest.fixture
def predict(monkeypatch, tmp_path):
    """Runs `digipath predict` with a network that is a function, and returns the exit code."""

    def given(arguments):
        changes = {"overlap": arguments.overlap} if arguments.overlap is not None else {}
        return Segmenter(FunctionPredictor(darkness, SPEC), settings=InferenceSettings(**changes, batch=4))

    monkeypatch.setattr("digipath.cli.predict.make_segmenter", given)
    return lambda *arguments: main(["predict", *map(str, arguments), "-o", str(tmp_path / "out"), "--mpp", "1", "-q"])


def rows(out):
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_summary_says_how_every_slide_ended_and_the_same_command_goes_on(predict, slides, tmp_path, capsys):
    assert predict(slides) == 1
    out, err = capsys.readouterr()
    assert "3 slides: 1 ok, 1 empty, 1 failed" in err and "bad.svs" in err and "Traceback" not in err
    assert "mm² lesion" in out and "no tissue was found" in out
    found = rows(tmp_path / "out")
    assert {name: row["status"] for name, row in found.items()} == {"bad": "failed", "empty": "empty", "one": "ok"}
    assert float(found["one"]["lesion_mm2"]) > 0 and found["bad"]["reason"]
    assert predict(slides) == 1
    out, err = capsys.readouterr()
    assert "3 slides: 0 ok, 1 failed, 2 skipped" in err and out.count("done before") == 2


def test_other_settings_are_refused_until_they_are_to_replace(predict, slides, tmp_path, capsys):
    one = slides / "one.png"
    assert predict(one) == 0 and predict(one, "--overlap", "0.25") == 1
    assert "overlap was 0.5 and is 0.25" in capsys.readouterr().err
    assert predict(one, "--overlap", "0.25", "--overwrite") == 0
    assert json.loads((tmp_path / "out/one/result.json").read_text())["settings"]["overlap"] == 0.25


def test_the_first_failure_can_end_the_run(predict, slides, capsys):
    assert predict(slides, "--errors", "raise") == 1
    assert "3 slides: 0 ok, 1 failed, 2 not begun" in capsys.readouterr().err


def test_a_table_of_slides_is_an_input(predict, slides, tmp_path, capsys):
    table = slides / "slides.csv"
    table.write_text('slide,name,region\none.png,left,"0,0,130,200"\none.png,right,"130,0,130,200"\n')
    assert predict(table) == 0 and list(rows(tmp_path / "out")) == ["left", "right"]
    assert json.loads((tmp_path / "out/right/result.json").read_text())["region"] == [130, 0, 130, 200]
    table.write_text("slide,regoin\none.png,\n")
    assert predict(table) == 1 and "'region'" in capsys.readouterr().err


def test_a_time_limit_fails_the_slide(predict, slides, capsys):
    assert predict(slides / "one.png", "--time-limit", "1e-6") == 1
    assert "--time-limit" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_failure(predict, slides, capsys):
    assert predict(slides / "bad.svs", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_dry_run_has_a_line_a_pass(slides, tmp_path, capsys, monkeypatch):
    two = [FunctionPredictor(darkness, SPEC), FunctionPredictor(darkness, ModelSpec(**vars(SPEC) | {"mpp": 2.0}))]
    monkeypatch.setattr("digipath.cli.predict.make_segmenter", lambda _: Segmenter(two))
    assert main(["predict", str(slides / "one.png"), "--dry-run", "--mpp", "1", "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "pass 1 of 2" in lines[0] and "about" in lines[1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--time-limit", "0"],
        ["--workers", "2"],
        ["--errors", "ignore"],
        ["--augment", "upside-down"],
        ["--weight", "1", "--weight", "2"],
        ["--effort", "heroic"],
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(arguments, slides, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(slides / "one.png"), "-o", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_options_say_how_networks_are_applied(slides, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("digipath.segmenter.Segmenter.__init__", lambda _, *given, **named: seen.append((given, named)))
    monkeypatch.setattr("digipath.runs.local.run", lambda *_, **__: [])
    networks = ["--bundle", "a", "--bundle", "b", "--weight", "1", "--weight", "2", "--first-stage", "c"]
    how = ["--effort", "fast", "--overlap", "0.1", "--augment", "identity,flip", "--uncertainty", "--early-exit", "0"]
    where = ["--runtime", "keras", "--precision", "bfloat16"]
    main(["predict", str(slides / "one.png"), "-o", str(tmp_path), *networks, *how, *where])
    ((bundles,), named) = seen[0]
    assert [(one.first, one.second) for one in bundles] == [(["c"], "a"), (["c"], "b")]
    assert named["weights"] == [1.0, 2.0] and named["effort"] == "fast"
    assert named["settings"] == InferenceSettings(
        overlap=0.1,
        augmentations=("identity", "flip"),
        uncertainty=True,
        early_exit=0,
        runtime="keras",
        precision="bfloat16",
    )


STOPPED = """
import sys, time
import numpy as np
from digipath import InferenceSettings, ModelSpec, Segmenter
from digipath.cli import main, predict
from digipath.inference.predictor import FunctionPredictor

def slow(patches):
    time.sleep(0.2)
    return np.full((*patches.shape[:3], 2), 0.5, np.float32)

spec = ModelSpec(architecture="slow", classes=("other", "lesion"), mpp=1.0, patch=64)
predict.make_segmenter = lambda _: Segmenter(FunctionPredictor(slow, spec), settings=InferenceSettings(batch=1))
sys.exit(main(sys.argv[1:]))
"""


def test_a_terminated_run_keeps_its_journal_and_releases_its_lock(slides, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", STOPPED, "predict", str(slides / "one.png"), "-o", str(out), "--mpp", "1", "-q"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        until = time.monotonic() + 60
        while len(list(out.glob("one/.journal/*.npy"))) < 2 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command goes on" in err
    assert [path.name for path in Path(out / "one").iterdir()] == [".journal"]
    assert rows(out)["one"]["status"] == "waiting"
