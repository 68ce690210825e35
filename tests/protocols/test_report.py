import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from digipath.errors import ResultError, SpecError
from digipath.evaluation.calibration import Reliability
from digipath.protocols import EvaluationSettings
from digipath.protocols.figures import Band, ConfusionFigure, FrocFigure, ReliabilityFigure, RocFigure
from digipath.protocols.report import Report, Score, Scorer

X = (0.0, 0.5, 1.0)
FIGURES = {
    "froc": FrocFigure(
        "FROC", "image", (0.0, 1.0, 2.0), X, (0.25, 8.0), (0.1, 1.0), False, Band(X[1:], (0, 0), (1, 1))
    ),
    "steps": FrocFigure("FROC", "mm2", (0.0, 1.0, 2.0), X, (10.0, 300.0), (1.0, 1.0), True, None),
    "roc": RocFigure("AUC", X, X, Band(X, X, (1, 1, 1))),
    "confusion": ConfusionFigure("Counts", ("other", "lesion"), ((123_456_789_012, 5), (0, 0)), "pixels"),
    "reliability": ReliabilityFigure(
        "ECE", (Reliability(0, 0.5, 0.1, 0.2, 7), Reliability(0.5, 1, float("nan"), float("nan"), 0))
    ),
}


@pytest.fixture
def report():
    scorer = Scorer(EvaluationSettings(resamples=20))
    scores = (
        scorer.mean("a score", [0.5, 1.0, float("nan")], "a mean"),
        Score("another", float("nan"), "1 slide", "nothing to judge"),
    )
    cases = ({"slide": "a", "value": float("nan"), "count": np.int64(3)},)
    settings = EvaluationSettings(resamples=20, truth_values={0: "other", 255: None}, slides="/secret/place/slides")
    return Report("pixels", scores, cases, ("something was left out.",), settings, FIGURES)


def test_the_table_holds_scores_intervals_and_notes(report):
    lines = report.table().splitlines()
    assert lines[0] == "protocol pixels" and lines[1].split() == ["score", "value", "95", "%", "interval", "of"]
    assert lines[3].startswith("a score  0.7500     0.5000 to 1.0000  2 slides")
    assert lines[4].split() == ["another", "undefined", "–", "1", "slide"]
    assert lines[5] == "note: something was left out."


def test_values_go_by_their_names(report):
    assert report["a score"] == 0.75
    with pytest.raises(ResultError, match="a score, another; got 'b'"):
        report["b"]


def test_json_holds_everything_and_nothing_undefined(report):
    text = json.dumps(report.to_json(), allow_nan=False)
    known = json.loads(text)
    assert known["scores"][0]["interval"]["resamples"] == 20 and known["scores"][1]["value"] is None
    assert known["cases"] == [{"slide": "a", "value": None, "count": 3}]
    assert known["settings"]["truth_values"] == {"0": "other", "255": None}
    assert known["figures"]["confusion"]["matrix"][0] == [123_456_789_012, 5]
    assert set(known) == {"protocol", "digipath", "scores", "notes", "settings", "cases", "figures"}


def test_a_report_tells_names_of_folders_and_not_where_they_lie(report):
    assert "secret" not in json.dumps(report.to_json()) and report.to_json()["settings"]["slides"] == "slides"


def test_everything_is_written_and_replaces_what_was_there(report, tmp_path):
    folder, report = tmp_path / "new" / "report", replace(report, drawings={"roc": FIGURES["roc"]})
    assert report.save(folder) == folder
    picture = (folder / "roc.png").read_bytes()
    (folder / "report.json").write_text("old")
    report.save(folder)
    assert {path.name for path in folder.iterdir()} == {"report.json", "table.txt", "roc.png"}
    assert json.loads((folder / "report.json").read_text()) == report.to_json()
    assert (folder / "table.txt").read_text() == f"{report.table()}\n"
    assert (folder / "roc.png").read_bytes() == picture  # the same each time


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "roc"])
def test_every_figure_is_a_picture(name):
    with Image.open(io.BytesIO(FIGURES[name].png())) as image:
        assert image.format == "PNG" and min(image.size) > 500
        assert len(image.convert("RGB").resize((64, 64)).getcolors(4096)) > 10


def test_a_report_is_written_to_a_folder(report, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="a report is written to a folder"):
        report.save(tmp_path / "file")


def test_a_band_holds_the_middle_of_the_curves():
    x = np.array([0.0, 1.0])
    band = Band.of(x, [np.array([k / 100, 1.0]) for k in range(101)])
    assert band.low == pytest.approx((0.025, 1)) and band.high == pytest.approx((0.975, 1))
    assert Band.of(x, []) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"normal": "normal_*"},
        {"detections": "peaks"},
        {"threshold": 1.0},
        {"mpp": 0.0},
        {"compare_mpp": float("nan")},
        {"area_um2": -1.0},
        {"resamples": 0},
        {"resamples": 2.5},
    ],
    ids=str,
)
def test_settings_refuse_nonsense(wrong):
    with pytest.raises(SpecError):
        EvaluationSettings(**wrong)
