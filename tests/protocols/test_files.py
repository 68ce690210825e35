import pytest

from digipath.errors import ResultError
from digipath.protocols.files import chosen, find, listing
from digipath.protocols.matching import partners, slide_scores
from digipath.protocols.tables import read_columns, read_numbers

KINDS = ("mask", "outlines", "table", "result")


def names(found):
    return [(entry.name, entry.kind) for entry in found.entries]


def test_a_name_is_that_of_the_file_without_suffixes_and_endings(truth):
    files = ("a_mask.png", "b.TIF", "c.json.gz", "d_evaluation_mask.png", "e.csv", "_mask.png", "f.x.geojson")
    for name in files:
        (truth / name).touch()
    (truth / "g.svs").mkdir()
    assert sorted(names(find(truth, kinds=KINDS))) == [
        ("_mask", "mask"),
        ("a", "mask"),
        ("b", "mask"),
        ("c", "outlines"),
        ("d", "mask"),
        ("e", "table"),
        ("f.x", "outlines"),
        ("g.svs", "result"),
    ]


def test_hidden_files_and_those_of_a_run_are_not_seen_and_others_are_told(truth):
    for name in (".hidden.png", "run.json", "summary.csv", "notes.txt", "a.png", "b.csv"):
        (truth / name).touch()
    found = find(truth, kinds=("mask",))
    assert names(found) == [("a", "mask")] and found.passed_over == ("b.csv", "notes.txt")


def test_two_files_of_one_slide_are_refused(truth):
    (truth / "a.png").touch()
    (truth / "A_mask.tif").touch()
    with pytest.raises(ResultError, match=r"a.png and A_mask.tif|A_mask.tif and a.png"):
        find(truth, kinds=KINDS).by_name("mask")


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(ResultError, match="lie in folders"):
            find(tmp_path / name, kinds=KINDS)


def test_names_and_patterns_choose_whatever_their_capitals():
    assert chosen("Normal_001", ["normal_*"]) and chosen("Test_049", ["test_049"])
    assert not chosen("Tumor_001", ["normal_*", "tumor"])
    assert listing(list("abcdefghijklmn")) == "a, b, c, d, e, f, g, h, i, j and 4 more"


def test_slides_are_matched_and_what_has_no_partner_is_told(truth, predictions, quick):
    for name in ("tumor_1_mask.png", "tumor_2_mask.png", "tumor_3.xml"):
        (truth / name).touch()
    (truth / "reference.csv").write_text("Normal_1.tif,Normal,None,None\ntumor_1,Tumor,IDC,Macro\n")
    for name in ("Tumor_1.csv", "normal_1.csv", "normal_2.csv", "other.csv", "tumor_2.csv"):
        (predictions / name).touch()
    found = find(truth, kinds=KINDS, tables=("reference.csv",)), find(predictions, kinds=KINDS)
    matched = partners(*found, quick(normal=("normal_2", "normal_9"), exclude=("tumor_2",)))
    assert [(each.name, each.truth is None, each.prediction is None) for each in matched.slides] == [
        ("Normal_1", True, False),
        ("normal_2", True, False),
        ("normal_9", True, True),
        ("tumor_1", False, False),
        ("tumor_3", False, True),
    ]
    assert matched.missing == ["normal_9", "tumor_3"]
    assert "excluded: tumor_2" in matched.notes[0] and "no truth and do not count: other" in matched.notes[1]


def test_a_tumour_of_the_reference_needs_its_truth(truth, predictions, quick):
    (truth / "reference.csv").write_text("a,tumor\nb,normal\n")
    (predictions / "a.csv").touch()
    found = find(truth, kinds=KINDS, tables=("reference.csv",)), find(predictions, kinds=KINDS)
    with pytest.raises(ResultError, match="calls a tumour, and there is no such file"):
        partners(*found, quick())


@pytest.mark.parametrize("header", ["image,type,class", "image,class,type", "image,tumour,class,type"])
def test_of_several_columns_of_classes_that_of_normal_and_tumour_counts(truth, predictions, quick, header):
    cells = {"image": ("a", "b", "c"), "type": ("IDC", "None", ""), "class": ("Tumor", "NORMAL", "normal")}
    cells["tumour"] = ("1", "0", "0")
    lines = [",".join(cells[name][i] for name in header.split(",")) for i in range(3)]
    (truth / "reference.csv").write_text("\n".join([header, *lines]))
    (truth / "a.png").touch()
    found = find(truth, kinds=KINDS, tables=("reference.csv",)), find(predictions, kinds=KINDS)
    matched = partners(*found, quick())
    assert [(each.name, each.truth is None) for each in matched.slides] == [("a", False), ("b", True), ("c", True)]


@pytest.mark.parametrize("lines", ["a,normal,tumor\n", "a,IDC,malignant\n", "a,normal,\nb,,normal\n", ""])
def test_where_several_columns_of_classes_hold_normal_and_tumour_or_none_it_is_told(truth, predictions, quick, lines):
    (truth / "reference.csv").write_text(f"image,type,class\n{lines}")
    found = find(truth, kinds=KINDS, tables=("reference.csv",)), find(predictions, kinds=KINDS)
    with pytest.raises(ResultError, match=r"'class' comes several times: .*Keep one, that of normal, .*tumour\."):
        partners(*found, quick())


def test_a_slide_that_failed_when_predicted_is_not_left_out_in_silence(truth, predictions, quick):
    (truth / "a.png").touch()
    (predictions / "failures").mkdir()
    (predictions / "failures" / "a.txt").touch()
    found = find(truth, kinds=KINDS), find(predictions, kinds=KINDS)
    assert not found[1].entries
    with pytest.raises(ResultError, match="a failed when predicted"):
        partners(*found, quick())
    (predictions / "a.csv").touch()
    assert len(partners(found[0], find(predictions, kinds=KINDS), quick()).slides) == 1


def test_no_truth_at_all_is_refused(truth, predictions, quick):
    with pytest.raises(ResultError, match="it holds none"):
        partners(find(truth, kinds=KINDS), find(predictions, kinds=KINDS), quick())


def test_slide_scores_are_complete_and_probabilities(truth, predictions, quick):
    for name in ("a.png", "b.png"):
        (truth / name).touch()
        (predictions / name).touch()
    found = find(truth, kinds=KINDS), find(predictions, kinds=KINDS)
    matched, table = partners(*found, quick()), predictions / "scores.csv"
    table.write_text("name,probability\nA.tif,0.5\nb,1\n")
    assert slide_scores(matched, found[1], quick(slide_scores=table)) == {"a": 0.5, "b": 1.0}
    table.write_text("a,0.5\n")
    with pytest.raises(ResultError, match="missing are b"):
        slide_scores(matched, found[1], quick(slide_scores=table))
    assert slide_scores(matched, found[1], quick()) is None


def test_tables_go_by_the_names_of_their_columns_or_by_their_order(tmp_path):
    columns = {"slide": ("slide", "image"), "value": ("value",)}
    path = tmp_path / "t.csv"
    path.write_text("value;image;more\n1;a;x\n\n2;b;y\n")
    assert read_columns(path, columns) == [
        {"slide": "a", "value": "1", "line": "2"},
        {"slide": "b", "value": "2", "line": "4"},
    ]
    path.write_text("a,1\n")
    assert read_columns(path, columns) == [{"slide": "a", "value": "1", "line": "1"}]
    path.write_text("slide,image\n")
    with pytest.raises(ResultError, match="comes several times"):
        read_columns(path, columns)
    path.write_text("")
    with pytest.raises(ResultError, match="is empty"):
        read_columns(path, columns)


@pytest.mark.parametrize("line", ["a,2", "a,-1", "a,x", "a,nan", ",0.5", "a"])
def test_wrong_numbers_are_told_with_their_line(tmp_path, line):
    path = tmp_path / "t.csv"
    path.write_text(f"name,probability\nb,0.25\n{line}\n")
    with pytest.raises(ResultError, match=r"line 3: .*|comes once"):
        read_numbers(path, "probability", highest=1)


def test_a_slide_that_comes_twice_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,0.5\nA.tif,0.5\n")
    with pytest.raises(ResultError, match=r"line 2: 'A\.tif',0\.5 comes again"):
        read_numbers(path, "probability", highest=1)
