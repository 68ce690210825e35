import numpy as np
import pytest

from digipath.cli import main
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.stages import read_stages, write_stages
from digipath.segmentation import Segmentation

SLIDES = {f"patient_{patient:03d}_node_{node}.tif": "negative" for patient in (1, 2) for node in range(5)}


def test_the_organisers_slides_give_the_organisers_file(data, tmp_path, capsys):
    theirs = data / "annotations/camelyon17/stage_labels_first50.csv"
    assert main(["stage", str(theirs), "-o", str(tmp_path / "ours.csv")]) == 0
    assert (tmp_path / "ours.csv").read_bytes() == theirs.read_bytes()
    out = capsys.readouterr().out
    assert "50 patients (" in out and "50 lines with stages of patients (.zip) were passed over" in out


def test_slides_of_several_files_are_staged_together(tmp_path, capsys):
    slides = SLIDES | {"patient_002_node_3.tif": "macro"}
    for name, rows in (("a", list(slides.items())[:7]), ("b", list(slides.items())[7:])):
        (tmp_path / f"{name}.csv").write_text("slide,class\n" + "".join(f"{one},{text}\n" for one, text in rows))
    out = tmp_path / "submission.csv"
    assert main(["stage", str(tmp_path / "b.csv"), str(tmp_path / "a.csv"), "-o", str(out)]) == 0
    found = read_stages(out)
    assert (found["patient_001.zip"], found["patient_002.zip"]) == ("pN0", "pN1")
    assert list(found)[6:8] == ["patient_002.zip", "patient_002_node_0.tif"]
    assert "2 patients (1 pN0, 1 pN1)" in capsys.readouterr().out


def test_missing_nodes_are_one_line_that_names_them(tmp_path, capsys):
    slides = dict(SLIDES)
    del slides["patient_001_node_4.tif"], slides["patient_002_node_0.tif"]
    write_stages(tmp_path / "a.csv", slides)
    assert main(["stage", str(tmp_path / "a.csv"), "-o", str(tmp_path / "b.csv")]) == 1
    assert "missing are 2: patient_001_node_4, patient_002_node_0" in capsys.readouterr().err
    assert not (tmp_path / "b.csv").exists()


def test_a_file_is_not_replaced_by_what_is_made_of_it_and_slides_are_given_once(tmp_path, capsys):
    path = tmp_path / "a.csv"
    write_stages(path, SLIDES)
    before = path.read_bytes()
    assert main(["stage", str(path), "-o", str(path)]) == 1
    assert "-o" in capsys.readouterr().err and path.read_bytes() == before
    assert main(["stage", str(path), str(path), "-o", str(tmp_path / "b.csv")]) == 1
    assert "give each slide once" in capsys.readouterr().err


def save(folder, lengths, *, mpp=20.0, status="ok", seen=True, classes=("other", "lesion")):
    """A result with bars of these lengths in um, at a probability of 0.75, each 3 pixels high."""
    frame = Frame.level0(140, 8 * len(lengths) + 8, mpp)
    heatmap = np.zeros((*frame.shape, len(classes)), np.float16)
    for row, length in enumerate(lengths):
        heatmap[8 * row + 4 : 8 * row + 7, 5 : 5 + round(length / mpp), 1] = 0.75
    everything = Raster(np.full(frame.shape, seen), frame)
    info = {
        "format_version": 1,
        "slide": {"name": folder.name, "origin": [0, 0]},
        "threshold": 0.5,
        "status": status,
        "region": None,
        "areas": {"lesion_mm2": 0.0, "covered_mm2": 1.0, "uncovered_mm2": 0.0},
    }
    picture = Raster(np.full((*frame.shape, 3), 240, np.uint8), frame, ("red", "green", "blue"))
    Segmentation(Raster(heatmap, frame, classes), everything, everything, picture, info).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    lengths = [(), (140,), (100, 700), (2600,), (100,)]
    status = ["ok", "ok", "ok", "ok", "incomplete"]
    return [save(root / f"patient_004_node_{node}", bars, status=status[node]) for node, bars in enumerate(lengths)]


def test_results_are_classed_by_their_longest_lesion(results, tmp_path, capsys):
    out = tmp_path / "submission.csv"
    assert main(["stage", *results, "-o", str(out)]) == 0
    assert list(read_stages(out).values()) == ["pN1", "negative", "itc", "micro", "macro", "itc"]
    told = capsys.readouterr().err
    assert "patient_004_node_4: the result is incomplete" in told and told.count("digipath:") == 1


def test_a_threshold_above_all_probabilities_leaves_no_lesion(results, tmp_path):
    assert main(["stage", *results, "-o", str(tmp_path / "a.csv"), "--threshold", "0.8"]) == 0
    assert read_stages(tmp_path / "a.csv")["patient_004.zip"] == "pN0"


def test_specks_may_be_left_out(results, tmp_path):
    # Bars of 100 um have 0.006 mm2, that of 140 um has 0.0084.
    assert main(["stage", *results, "-o", str(tmp_path / "a.csv"), "--min-lesion", "0.007"]) == 0
    assert list(read_stages(tmp_path / "a.csv").values())[1:] == ["negative", "itc", "micro", "macro", "negative"]


def test_a_slide_of_which_nothing_was_seen_has_no_class(results, tmp_path, capsys):
    unseen = save(tmp_path / "patient_004_node_4", (), status="empty", seen=False)
    assert main(["stage", *results[:4], unseen, "-o", str(tmp_path / "a.csv")]) == 1
    assert "nothing of the slide was seen" in capsys.readouterr().err and not (tmp_path / "a.csv").exists()


def test_of_several_classes_the_lesion_is_named(results, tmp_path, capsys):
    several = save(tmp_path / "patient_004_node_4", (700,), classes=("other", "tumour", "stroma"))
    assert main(["stage", *results[:4], several, "-o", str(tmp_path / "a.csv")]) == 1
    assert "--class" in capsys.readouterr().err


def test_a_folder_that_is_no_result_is_told(tmp_path, capsys):
    assert main(["stage", str(tmp_path), "-o", str(tmp_path / "a.csv")]) == 1
    assert "no complete result" in capsys.readouterr().err
