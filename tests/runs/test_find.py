from pathlib import Path

import pytest

from digipath.errors import CohortError, SpecError
from digipath.runs.find import find_slides
from digipath.runs.task import Task


@pytest.fixture
def folder(tmp_path):
    for name in ("one.svs", "two.tif", "notes.txt", "._one.svs", "more/one.svs"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(sources):
    return [task.folder.name for task in find_slides(sources, out="out")]


def table(folder, text):
    (folder / "slides.csv").write_text(text)
    return find_slides([folder / "slides.csv"], out="out", mpp=0.5)


def test_files_folders_and_patterns_are_understood(folder):
    assert names([folder / "one.svs"]) == ["one"]
    assert names([folder]) == names([str(folder / "*.t[!x]f"), str(folder / "one.svs")])[::-1] == ["one", "two"]


def test_a_slide_that_is_named_twice_comes_once(folder):
    assert names([folder, folder / "one.svs"]) == ["one", "two"]


def test_only_slides_of_one_name_get_longer_ones(folder):
    assert names([folder, folder / "more"]) == [f"{folder.name}_one.svs", "two", "more_one.svs"]
    (folder / "one.tif").write_bytes(b"")
    assert names([folder]) == ["one.svs", "one.tif", "two"]


def test_a_slide_does_not_get_the_place_of_the_runs_own_files(folder):
    (folder / "failures.svs").write_bytes(b"")
    assert names([folder / "failures.svs"]) == ["failures.svs"]


def test_upper_case_alone_makes_no_other_folder(folder):
    (folder / "more/ONE.tif").write_bytes(b"")
    assert names([folder / "one.svs", folder / "more/ONE.tif"]) == ["one.svs", "ONE.tif"]


def test_what_is_not_there_is_an_error_and_a_file_that_is_not_there_its_slides(folder):
    with pytest.raises(SpecError, match="no file matches"):
        names([str(folder / "*.ndpi")])
    with pytest.raises(SpecError, match="suffix"):
        (folder / "empty").mkdir()
        names([folder / "empty"])
    assert names(["none.svs"]) == ["none"]


def test_a_table_tells_name_mpp_tissue_and_region_of_each_slide(folder):
    found = table(folder, 'slide,name,mpp,tissue,region\none.svs,first,0.25,t.png,"1, 2,30,40"\nmore/one.svs,,,,\n')
    assert found == [
        Task(
            slide=folder / "one.svs", folder=Path("out/first"), mpp=0.25, tissue=folder / "t.png", region=(1, 2, 30, 40)
        ),
        Task(slide=folder / "more/one.svs", folder=Path("out/one"), mpp=0.5),
    ]


def test_two_regions_of_a_slide_are_two_tasks(folder):
    found = table(folder, "slide;name;region\none.svs;left;0 0 10 10\none.svs;right;10 0 10 10\n")
    assert [task.region for task in found] == [(0, 0, 10, 10), (10, 0, 10, 10)]
    with pytest.raises(SpecError, match="names in a CSV"):
        table(folder, "slide;region\none.svs;0 0 10 10\none.svs;10 0 10 10\n")


def test_a_cohort_for_training_is_a_table_of_slides(folder):
    found = table(folder, "name,slide,annotations,mask,label,patient,split,mpp\na,one.svs,x.xml,,,p,val,1\n")
    assert [(task.name, task.mpp) for task in found] == [("a", 1.0)]


def test_all_that_is_wrong_in_a_table_is_told_at_once(folder):
    rows = "slide,name,mpp,region\n,a,1,\none.svs,run.json,x,1;2;3\ntwo.tif,b/c,,\none.svs,d,,\ntwo.tif,D,,\n"
    with pytest.raises(CohortError) as error:
        table(folder, rows)
    lines = [fault.split(":")[0] for fault in error.value.faults]
    assert lines == ["line 2", "line 3", "line 3", "line 3", "line 4", "line 6"]


def test_a_column_that_is_not_known_is_told_with_the_nearest(folder):
    with pytest.raises(CohortError, match=r"'regions'.* 'region'"):
        table(folder, "slide,regions\none.svs,\n")
    with pytest.raises(CohortError, match="no slide"):
        table(folder, "slide\n")
