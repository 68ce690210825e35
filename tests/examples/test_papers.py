"""From cohorts to the papers' tables with the planted truth as heatmaps: what is planted comes out."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

PAPERS = Path(__file__).parents[2] / "examples" / "papers"


@pytest.fixture
def table(monkeypatch):
    """Runs a script on perfect heatmaps of few slides, and returns its figures."""
    monkeypatch.syspath_prepend(PAPERS)

    def run(name, *options):
        try:
            return import_module(name).main(["--perfect", "--quick", *options])
        finally:
            for loaded in ("planted", name):
                sys.modules.pop(loaded, None)

    return run


def test_classes_and_stages_come_out_exactly_and_the_burden_within_2_percent(table, capsys):
    found = table("digipathai")
    assert sorted(found["stages"].values()) == ["pN0", "pN0(i+)", "pN1", "pN1mi", "pN2"]
    assert found["right"] == {"rule": 1, "classifier": 1}
    assert all(kappa.value == 1 for kappa in found["kappa"].values())
    assert found["dice"].images.mean == 1
    for one in found["livers"]:
        assert one.jaccard == 1
        assert one.burden == pytest.approx(one.truth, rel=0.02)
    assert "cannot be compared" in capsys.readouterr().out


def test_every_section_is_told_right_by_every_block_of_a_perfect_decoder(table, capsys):
    found = table("bcc")
    rows = [*found["test"], *found["blocks"]]
    assert {row["f_beta"] for row in rows} == {1}
    assert {row["sections"] for row in rows} == {4}
    assert "cannot be compared" in capsys.readouterr().out


def test_a_cascade_of_perfect_stages_finds_every_lesion_and_every_pixel(table, capsys):
    rows = table("v3_dcnn")
    for name in ("segmenter alone", "cascade"):
        assert rows[name].auc.value == rows[name].plain.value == 1
        assert rows[name].ious.tumor_miou.mean == 1
    assert rows["classifier alone"].ious.tumor_miou.mean < 1
    assert "cannot be compared" in capsys.readouterr().out


def test_planted_tils_scores_come_out_within_2_percent(table, capsys):
    (slides,) = table("tiger").values()
    for one in slides:
        assert one.stroma.fp == one.stroma.fn == one.tumour.fp == one.tumour.fn == 0
        assert one.tils.score == pytest.approx(one.planted, rel=0.02)
    assert "cannot be compared" in capsys.readouterr().out


def test_folds_have_nearly_the_same_tumour_and_perfect_scores(table, capsys):
    found = table("microdosimetry")
    assert len(found["areas"]) == 8
    assert max(found["areas"]) < 2 * min(found["areas"])
    assert all(score.mean == 1 and score.sd == 0 for score in found["scores"].values())
    assert "cannot be compared" in capsys.readouterr().out


def test_doubt_lowers_the_scores(table):
    assert table("microdosimetry", "--noise", "3")["scores"]["dice"].mean < 1
