import pytest

from digipath.errors import ResultError
from digipath.evaluation.sections import section_scores
from digipath.protocols import sections

TRUTH = "slide,section,truth\na,1,1\na,2,1\na,3,0\nb,1,normal\nb,2,tumour\nb,3,false\n"
SAID = "slide,section,predicted\na,1,1\na,2,0\na,3,1\nb,1,normal section\nb,2,tumour section\nb,3,0\nc,1,1\n"


@pytest.fixture
def tables(truth, predictions, put):
    put.table(truth / "t.csv", TRUTH)
    put.table(predictions / "p.csv", SAID)
    return truth / "t.csv", predictions / "p.csv"


def test_scores_are_those_worked_by_hand(tables, quick):
    report = sections(*tables, settings=quick())
    # Two found, one missed, one of three normal ones said to have tumour.
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["sensitivity"] == report["specificity"] == pytest.approx(2 / 3)
    assert report["F1.5"] == pytest.approx(3.25 * 2 / (3.25 * 2 + 2.25 + 1))
    truth, said = [True, True, False, False, True, False], [True, False, True, False, True, False]
    assert report["F1.5"] == section_scores(truth, said).f_beta
    assert report.drawings["confusion"].matrix == ((2, 1), (1, 2))
    assert report.notes == ("1 sections have no truth and do not count: c 1.",)
    assert report.cases[1] == {"slide": "a", "section": "2", "truth": True, "predicted": False}


def test_numbers_as_pandas_writes_them_beside_gaps_are_yes_and_no(tables, put, quick):
    expected = sections(*tables, settings=quick()).cases
    put.table(tables[0], TRUTH.replace(",1\n", ",1.0\n").replace(",0\n", ",0.0\n"))
    assert sections(*tables, settings=quick()).cases == expected
    for other in ("0.5", "2.0", "1.00", "nan", "1e0", ""):
        put.table(tables[0], TRUTH.replace("false", other))
        with pytest.raises(ResultError, match=r"line 7.*whether there is tumour"):
            sections(*tables, settings=quick())


def test_areas_are_held_against_a_threshold(tables, put, quick):
    areas = "slide,section,largest_um2\na,1,2560\na,2,2559\na,3,9000\nb,1,0\nb,2,3000\nb,3,12.5\n"
    put.table(tables[1], areas)
    report = sections(*tables, settings=quick(area_um2=2560))
    assert report.drawings["confusion"].matrix == ((2, 1), (1, 2))
    with pytest.raises(ResultError, match=r"area_um2, --area-um2"):
        sections(*tables, settings=quick())
    for area in ("small", "nan", "-1", ""):
        put.table(tables[1], areas.replace("12.5", area))
        with pytest.raises(ResultError, match="line 7"):
            sections(*tables, settings=quick(area_um2=2560))


def test_names_of_slides_may_come_with_folders_and_suffixes(tables, put, quick):
    expected = sections(*tables, settings=quick()).cases
    put.table(tables[1], SAID.replace("a,", "C:\\slides\\a.svs,").replace("b,", "/slides/b.TIF,"))
    assert sections(*tables, settings=quick()).cases == expected


def test_one_file_may_hold_both(tables, put, quick):
    put.table(tables[0], "slide,section,truth,predicted\na,1,1,1\na,2,0,0\n")
    report = sections(tables[0], tables[0], settings=quick())
    assert report["accuracy"] == 1 and report.notes == ()


def test_a_missing_section_is_an_error(tables, put, quick):
    put.table(tables[1], "slide,section,predicted\na,1,1\na,2,0\na,3,1\n")
    with pytest.raises(ResultError, match="3 are missing: b 1, b 2, b 3"):
        sections(*tables, settings=quick())
    assert len(sections(*tables, settings=quick(exclude=("b",))).cases) == 3


@pytest.mark.parametrize(
    ("line", "fault"),
    [("a,1,1", "line 8: .*comes again"), ("a,,1", "line 8: .*lacks"), ("d,1,maybe", "line 8: truth says")],
    ids=["again", "without a section", "neither"],
)
def test_wrong_lines_are_told(tables, put, quick, line, fault):
    put.table(tables[0], f"{TRUTH}{line}\n")
    with pytest.raises(ResultError, match=fault):
        sections(*tables, settings=quick())
