import json

import numpy as np
import pytest
from PIL import Image

from digipath.cli import main
from digipath.protocols import PROTOCOLS, EvaluationSettings


@pytest.fixture
def folders(tmp_path):
    """Three of four lesion pixels found."""
    for name, mask in (("truth", [[1, 1], [1, 1]]), ("predictions", [[1, 1], [1, 0]])):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array(mask, np.uint8)).save(tmp_path / name / "a.png")
    return tmp_path


def evaluate(folder, protocol, *more):
    paths = ["--truth", folder / "truth", "--predictions", folder / "predictions"]
    return main(["evaluate", *map(str, (*paths, "--protocol", protocol, "--resamples", 20, *more))])


def test_it_prints_the_table_and_writes_the_report(folders, capsys):
    assert evaluate(folders, "pixels", "-o", folders / "report") == 0
    said = capsys.readouterr()
    report = PROTOCOLS["pixels"](folders / "truth", folders / "predictions", settings=EvaluationSettings(resamples=20))
    assert said.out == f"{report.table()}\n"
    assert "report.json, table.txt, confusion.png written to" in said.err
    assert {path.name for path in (folders / "report").iterdir()} == {"report.json", "table.txt", "confusion.png"}
    known = json.loads((folders / "report" / "report.json").read_text())
    assert known == report.to_json() and known["scores"][0]["value"] == 6 / 7


def test_without_a_folder_it_only_prints(folders, capsys):
    assert evaluate(folders, "digestpath") == 0
    assert "Dice (pooled)" in capsys.readouterr().out
    assert {path.name for path in folders.iterdir()} == {"truth", "predictions"}


def test_options_reach_the_protocol(folders):
    for name in ("truth", "predictions"):
        Image.fromarray(np.array([[2, 7], [2, 0]], np.uint8)).save(folders / name / "a.png")
    values = "0=other,2=lesion,7=ignore"
    options = ("--truth-values", values, "--prediction-values", values, "--seed", 3, "--exclude", "b", "c_*")
    assert evaluate(folders, "pixels", *options, "-o", folders / "report") == 0
    known = json.loads((folders / "report" / "report.json").read_text())
    assert known["cases"][0]["ignored"] == 1 and known["cases"][0]["tp"] == 2
    assert known["settings"]["seed"] == 3 and known["settings"]["exclude"] == ["b", "c_*"]


def test_what_fails_is_one_line(folders, capsys):
    (folders / "predictions" / "a.png").unlink()
    assert evaluate(folders, "pixels") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("digipath: error: ") and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("pixels", "--detections", "maxima"), "--detections says nothing to the protocol pixels"),
        (("camelyon17", "--class", "a"), "--class says nothing to the protocol camelyon17"),
        (("pixels", "--truth-values", "1"), "a class, or ignore, for each value"),
        (("pixels", "--truth-values", "a=b"), "VALUE=CLASS pairs"),
        (("pixels", "--threshold", "2"), "threshold is a probability"),
        (("camelyon18",), "invalid choice"),
    ],
    ids=str,
)
def test_wrong_usage_is_told(folders, capsys, options, fault):
    with pytest.raises(SystemExit) as ended:
        evaluate(folders, *options)
    assert ended.value.code == 2 and fault in capsys.readouterr().err


def test_every_protocol_can_be_chosen(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert f"{{{','.join(PROTOCOLS)}}}" in capsys.readouterr().out


def test_warnings_are_told_once(folders, capsys):
    (folders / "truth" / "a.png").unlink()
    square = [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [square]}}
        for name in ("tumour", "gland")
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (folders / "truth" / "a.geojson").write_text(text)
    assert evaluate(folders, "pixels") == 0
    assert capsys.readouterr().err.count("annotations of 2 classes (gland, tumour) all count as 'lesion'") == 1
