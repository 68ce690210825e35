from digipath.cli import main
from digipath.io.stages import read_stages, write_stages

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
