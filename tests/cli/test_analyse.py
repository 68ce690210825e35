import json

import cv2
import numpy as np
import pytest

from digipath import Segmenter
from digipath.cli import main
from digipath.inference.predictor import FunctionPredictor
from digipath.io.geojson import read_geojson
from digipath.models.spec import ModelSpec


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32)
    return np.stack([1 - values, values], -1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A result of two sections of tissue, the left one with a dark square."""
    image = np.full((160, 400, 3), 244, np.uint8)
    cv2.ellipse(image, (95, 80), (85, 60), 0, 0, 360, (225, 150, 190), -1)
    cv2.ellipse(image, (305, 80), (85, 60), 0, 0, 360, (225, 150, 190), -1)
    cv2.rectangle(image, (60, 60), (99, 99), (120, 60, 110), -1)
    spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=8.0, patch=64)
    folder = tmp_path_factory.mktemp("made") / "a slide"
    Segmenter(FunctionPredictor(darkness, spec)).predict(image, mpp=8.0, progress=False, out=folder)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.report_pictures._WIDE", 300)  # pictures small enough to be quick
    monkeypatch.setattr("digipath.segmentation.draw", lambda picture, width: np.zeros((1, 1, 3), np.uint8))
    target = tmp_path / made.name
    target.mkdir()
    for path in made.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def analysis(folder):
    return json.loads((folder / "result.json").read_text())["analysis"]


def test_without_flags_all_is_concluded_and_put_beside_the_result(folder, capsys):
    before = json.loads((folder / "result.json").read_text())
    assert main(["analyse", str(folder), "--join", "100"]) == 0
    after = json.loads((folder / "result.json").read_text())
    found = after.pop("analysis")
    assert after == before and {"lesions", "features", "burden", "sections"} <= found.keys()
    assert found["lesions"]["slide_class"] == "micro"
    assert [one["class"] for one in found["sections"]["items"]] == ["tumour section", "normal section"]
    out = capsys.readouterr().out
    assert "slide class micro" in out and "1 of 2 sections" in out and "note: The thresholds of sections" in out
    names = [one.name for one in read_geojson(folder / "annotations.geojson")]
    assert sorted(names) == ["lesion", "normal section", "tumour section", "whole tumour"]
    assert (folder / "report.html").is_file()
    assert not list(folder.glob(".*"))


def test_flags_choose_and_a_second_analysis_takes_the_place_of_the_first(folder):
    assert main(["analyse", str(folder), "--lesions", "--sections", "--no-report"]) == 0
    (folder / "report.html").write_text("of the first")
    assert main(["analyse", str(folder), "--burden", "--close", "8", "--open", "0", "--no-report"]) == 0
    found = analysis(folder)
    assert "burden" in found and not {"lesions", "features", "sections"} & found.keys()
    assert found["burden"]["cleaning"] == {"close_um": 8.0, "open_um": 0.0}
    assert not (folder / "report.html").exists()
    assert sorted(one.name for one in read_geojson(folder / "annotations.geojson")) == ["lesion", "whole tumour"]


@pytest.mark.parametrize(
    ("text", "expected"), [("bcc-unet", (0.45, 8960.0)), ("0.7,1e9", (0.7, 1e9))], ids=["published", "given"]
)
def test_thresholds_of_sections_are_published_or_given(folder, text, expected):
    assert main(["analyse", str(folder), "--sections", "--section-thresholds", text, "--no-report"]) == 0
    found = analysis(folder)["sections"]
    assert (found["thresholds"]["prediction"], found["thresholds"]["area_um2"]) == expected
    assert (found["items"][0]["class"] == "tumour section") == (expected[1] < 1e9)
    assert not analysis(folder)["notes"]


@pytest.mark.parametrize(
    "options", [("--section-thresholds", "bcc"), ("--open", "-1"), ("--min-lesion", "-1")], ids=lambda one: one[0]
)
def test_options_that_make_no_sense_are_wrong_usage(folder, options):
    with pytest.raises(SystemExit) as stopped:
        main(["analyse", str(folder), *options])
    assert stopped.value.code == 2


def test_lymphocytes_and_contours_are_asked_for_by_themselves(folder, tmp_path):
    points = tmp_path / "cells.csv"
    points.write_text("x,y\n80,80\n300,80\n")
    options = ("--contours", "--tils", str(points), "--tumour", "lesion", "--stroma", "other", "--biopsy")
    assert main(["analyse", str(folder), *options]) == 0
    found = analysis(folder)
    assert found["tils"]["cells_elsewhere"] == 2 and found["tils"]["note"] == "there is no tumour bulk"
    assert found["contours"]["count"] == 1 and "lesions" not in found
    assert (folder / "contours.csv").is_file() and "there is no tumour bulk" in (folder / "report.html").read_text()


@pytest.mark.parametrize("options", [("--tils", "cells.csv"), ("--tils", "a", "--tumour", "lesion")])
def test_lymphocytes_need_to_know_their_tissue(folder, options):
    with pytest.raises(SystemExit) as stopped:
        main(["analyse", str(folder), *options])
    assert stopped.value.code == 2


def test_a_folder_that_is_no_result_does_not_stop_the_others(folder, tmp_path, capsys):
    assert main(["analyse", str(tmp_path / "none"), str(folder), "--lesions", "--no-report"]) == 1
    out, err = capsys.readouterr()
    assert "no complete result" in err and "Traceback" not in err and "slide class micro" in out


def test_a_report_goes_where_it_is_told(folder, tmp_path, capsys):
    assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    assert "was not analysed" in (tmp_path / "page.html").read_text()
    assert main(["report", str(folder)]) == 0 and (folder / "report.html").is_file()
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "no complete result" in capsys.readouterr().err


def test_what_a_run_leaves_beside_its_results_is_passed_over(folder, capsys):
    beside = [folder.parent / name for name in ("run.json", "summary.csv", "failures")]
    beside[0].touch(), beside[1].touch(), beside[2].mkdir()
    assert main(["analyse", *map(str, [*beside, folder]), "--lesions", "--no-report"]) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        main(["analyse", str(beside[0])])
    assert "name the result folders beside it" in capsys.readouterr().err
