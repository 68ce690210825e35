import csv
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digipath.data.case import SPLITS
from digipath.data.cohort import Case, Cohort
from digipath.data.labels import label_source
from digipath.errors import CohortError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation
from digipath.geometry.raster import Raster
from digipath.io.geojson import write_geojson
from digipath.slides.array import ArraySlide


def image(path: Path, width=60, height=40, *, grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width) if grey else (height, width, 3), 200 * (not grey), np.uint8)).save(path)
    return path


def array(name="slide", width=60, height=40):
    return ArraySlide(np.full((height, width, 3), 200, np.uint8), mpp=0.5, name=name)


def square(name="tumour", left=5, size=20):
    return Annotation(name, shapely.box(left, 5, left + size, 25))


def test_a_case_is_named_after_its_slide_and_is_a_patient_of_its_own():
    case = Case(slide="folder/a.svs")
    assert (case.name, case.patient, case.slide) == ("a", "a", Path("folder/a.svs"))
    assert Case(slide=array("b"), patient=7).patient == "7"


def test_a_case_refuses_what_it_cannot_be():
    with pytest.raises(CohortError, match="only one of them"):
        Case(slide="a.svs", annotations="a.xml", mask="a.png")
    with pytest.raises(CohortError, match="file or an open slide"):
        Case(slide=None)
    with pytest.raises(CohortError, match="Annotation objects"):
        Case(slide="a.svs", annotations=[shapely.box(0, 0, 1, 1)])


def test_a_cohort_is_read_relative_to_its_file_with_empty_cells_as_none(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text("slide,annotations,label,patient,split,mpp\nslides/a.svs,a.xml,,P1,train,0.25\nb.svs,,other,,,\n")
    first, second = Cohort.read(path)
    assert first == Case(
        slide=tmp_path / "slides/a.svs", annotations=tmp_path / "a.xml", patient="P1", split="train", mpp=0.25
    )
    assert second == Case(slide=tmp_path / "b.svs", label="other")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_understood_as_spreadsheets_write_it(tmp_path, encoding, comma, end):
    rows = ['Slide , label,mpp,"patient"', "ä.svs,other,0.25,", "", "b.svs,lesion,,P 2", ",,,"]
    path = tmp_path / "cohort.csv"
    path.write_bytes(end.join(rows).replace(",", comma).encode(encoding))
    cohort = Cohort.read(path)
    assert [(c.slide.name, c.label, c.mpp, c.patient) for c in cohort] == [
        ("ä.svs", "other", 0.25, "ä"),
        ("b.svs", "lesion", None, "P 2"),
    ]


def test_a_table_with_semicolons_may_have_decimal_commas(tmp_path):
    (tmp_path / "c.csv").write_text("slide;mpp\na.svs;0,25\n")
    assert Cohort.read(tmp_path / "c.csv")[0].mpp == 0.25


def test_all_faults_of_a_table_are_told_at_once_with_their_lines(tmp_path):
    path = tmp_path / "cohort.csv"
    path.write_text(
        "slide,annotations,mask,split,mpp\na.svs,a.xml,a.png,train,\nb.svs,,,trian,\n\n,,,,0.25\nc.svs,,,val,-1\n"
        "d.svs,,,val,0.25,more\n"
    )
    with pytest.raises(CohortError) as caught:
        Cohort.read(path)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [f"line {n}" for n in (2, 3, 5, 6, 7)]
    assert "Did you mean 'train'?" in str(caught.value) and "5 faults" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"slide\n", "lists no case"),
        (b"slide,anotations\na,b\n", "'anotations'.*Did you mean 'annotations'"),
        (b"mask,label\na,b\n", "'slide' is missing"),
        (b"slide,slide\na,b\n", "comes twice"),
        (b"slide,label\n\xe4.svs,a\n", r"not UTF-8 \(line 2\)"),
    ],
)
def test_a_table_that_is_none_says_what_is_wrong(tmp_path, content, message):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(CohortError, match=message):
        Cohort.read(tmp_path / "c.csv")
    with pytest.raises(CohortError, match="no cohort file"):
        Cohort.read(tmp_path / "missing.csv")


words = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="/\\"), min_size=1, max_size=12)
words = words.filter(lambda text: text not in (".", ".."))
rows = st.fixed_dictionaries(
    {"slide": words, "name": words},
    optional={
        "annotations": words,
        "label": words,
        "patient": words,
        "split": st.sampled_from(SPLITS),
        "mpp": st.floats(0.05, 20),
    },
)


@settings(max_examples=50)
@given(rows=st.lists(rows, min_size=1, max_size=5), outside=st.booleans())
def test_what_is_written_is_read_again(tmp_path_factory, rows, outside):
    folder = tmp_path_factory.mktemp("cohort")
    where = Path("/elsewhere") if outside else folder / "slides"
    cases = [Case(**row | {key: where / row[key] for key in ("slide", "annotations") if key in row}) for row in rows]
    Cohort(cases).write(folder / "cohort.csv")
    assert Cohort.read(folder / "cohort.csv").cases == tuple(cases)
    assert ("/elsewhere" in (folder / "cohort.csv").read_text(encoding="utf-8")) == outside
    assert [each.name for each in folder.iterdir()] == ["cohort.csv"]


def test_what_lies_in_memory_cannot_be_written(tmp_path):
    with pytest.raises(CohortError, match=r"2 faults.*\n.*slide lies in memory.*\n.*annotations lies in memory"):
        Cohort([Case(slide=array(), annotations=(square(),))]).write(tmp_path / "cohort.csv")
    assert not list(tmp_path.iterdir())


def test_all_faults_of_a_cohort_are_told_at_once_with_the_names_of_cases(tmp_path):
    good, png = image(tmp_path / "good.png"), image(tmp_path / "wide.png", 80, 40, grey=True)
    (tmp_path / "broken.svs").write_bytes(b"no slide at all")
    (tmp_path / "broken.xml").write_text("<Nothing/>")
    write_geojson(tmp_path / "far.geojson", [square(left=5000)])
    cases = [
        Case(slide=good, name="well", label="other", mpp=0.5, patient="P1", split="train"),
        Case(slide=good, name="well", label="other", mpp=0.5, patient="P1", split="val"),
        Case(slide=tmp_path / "none.svs", name="gone", annotations=tmp_path / "none.xml"),
        Case(slide=tmp_path / "broken.svs", name="broken", label="other"),
        Case(slide=good, name="unscaled", label="other"),
        Case(slide=good, name="outlines", annotations=tmp_path / "broken.xml", mpp=0.5),
        Case(slide=good, name="far", annotations=tmp_path / "far.geojson", mpp=0.5),
        Case(slide=good, name="shape", mask=png, mpp=0.5),
        Case(slide=good, name="split", label="other", mpp=0.5, split="valid"),
        Case(slide=good, name="nothing", mpp=0.5),
        Case(slide=array("label"), label="tumor"),
        Case(slide=array("points"), annotations=(Annotation("note", shapely.Point(5, 5)),)),
        Case(slide=array("raster"), mask=Raster(np.zeros((9, 9), bool), Frame.level0(9, 9, 0.5))),
        Case(slide=array("two"), label="other", mpp=0.25),
    ]
    with pytest.warns(UserWarning, match=r"good\.png is the slide of 7 patients"):
        faults = Cohort(cases).check()
    expected = [
        "2 cases are called 'well'", "patient 'P1' is in 2 splits (train: well; val: well)",
        "case 'gone': there is no file", "case 'gone': there is no file",
        "case 'broken': slide broken.svs cannot be opened", "case 'unscaled':",
        "case 'outlines':", "case 'far': 1 of 1 annotations lie outside", "case 'shape': its mask is as large",
        "case 'split': split is one of", "case 'nothing': it has no annotations", "case 'label': its label says",
        "case 'points': none of its 1 annotations", "case 'raster': its mask is a raster of", "case 'two':",
    ]  # fmt: skip
    assert len(faults) == len(expected)
    for fault, beginning in zip(faults, expected, strict=True):
        assert fault.startswith(beginning)
    with pytest.warns(UserWarning), pytest.raises(CohortError, match="15 faults") as caught:
        Cohort(cases).require()
    assert caught.value.faults == tuple(faults)


def test_a_case_of_which_nothing_is_known_will_do_for_inference():
    cohort = Cohort([Case(slide=array())])
    assert cohort.check(inference=True) == [] and len(cohort.check()) == 1
    cohort.require(inference=True)
    assert Cohort([]).check() == ["the cohort has no case."]


def test_unknown_annotation_classes_are_a_fault_before_training():
    cohort = Cohort([Case(slide=array(), annotations=(square("Vein"),))], groups={"Tumor": "lesion"})
    assert "'Vein'" in cohort.check()[0]


def test_names_that_nobody_explained_are_told_though_each_case_has_only_one():
    cases = [Case(slide=array(name), annotations=(square(name),)) for name in ("metastases", "normal")]
    with pytest.warns(UserWarning, match=r"2 names all count as 'lesion': metastases .*, normal .*--group"):
        assert Cohort(cases).check() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Cohort(cases, groups={"metastases": "lesion", "normal": "other"}).check() == []
        assert Cohort(cases[:1]).check() == []


def test_who_is_held_back_for_the_test_stays_so_when_the_others_are_divided():
    cases = [Case(slide=array(f"{i}"), label="other", split="test" if i % 3 else "train") for i in range(12)]
    divided = Cohort(cases).split(0.5)
    assert [case.name for case in divided] == [case.name for case in cases]
    assert [case.split == "test" for case in divided] == [case.split == "test" for case in cases]
    assert len(divided.select(split="val")) == 2
    assert len(Cohort(cases).split(0.25, 0.25).select(split="test")) == 3


def test_an_annotation_that_overhangs_the_border_is_none():
    assert Cohort([Case(slide=array(), annotations=(square(left=45),))]).check() == []


def test_cases_are_chosen_by_split_patient_and_name():
    cohort = Cohort([Case(slide=f"{i}.svs", patient=f"p{i % 2}", split=SPLITS[i % 3]) for i in range(6)])
    assert [case.name for case in cohort.select(split="val")] == ["1", "4"]
    assert [case.name for case in cohort.select(patients=["p1"], split="val")] == ["1"]
    assert [case.name for case in cohort.select(names=["5"])] == ["5"]
    assert len(cohort.select(split="unheard")) == 0 and cohort.patients == ("p0", "p1")
    with pytest.raises(SpecError, match="collections"):
        cohort.select(names="5")


def test_splits_and_folds_look_at_tumour_wherever_it_is_told():
    cases = [
        Case(slide=array(f"a{i}"), annotations=(square(size=4 * i),))
        if i % 2
        else Case(slide=array(f"n{i}"), label="other")
        for i in range(1, 13)
    ]
    cohort = Cohort(cases)
    areas = cohort.tumour_areas
    assert areas[0] == pytest.approx(4 * 20 * 0.25e-6) and not areas[1::2].any()
    part = cohort.split(0.34, seed=3).select(split="val")
    assert len(part) == 4 and 1 <= sum(case.annotations is not None for case in part) <= 3
    folds = cohort.folds(3)
    assert folds.imbalance["cases"] == 1 and folds.imbalance["tumour_mm2"] < 1.3
    assert sum(row["tumour_mm2"] for row in folds.table) == pytest.approx(areas.sum())


def folder(root, names, *, index=None):
    for name in names:
        image(root / "images" / f"{name}.jpg")
        mask = np.zeros((40, 60), np.uint8)
        mask[:20] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    if index:
        (root / "index.csv").write_text(index)
    return root


INDEX = "name,case,class,split,share\na,1,cancer,train,0.5\nb,1,polyp,train,0.5\nc,2,normal,val,0.5\n"


def test_a_folder_with_an_index_is_a_cohort_of_lesions_in_one_call(tmp_path):
    cohort = Cohort.from_folder(folder(tmp_path, "abc", index=INDEX), mpp=1.1, lesion=["cancer"])
    assert cohort.check() == [] and cohort.classes == ("other", "lesion") and cohort.patients == ("1", "2")
    assert [(case.name, case.label, case.split, case.mpp) for case in cohort] == [
        ("a", "cancer", "train", 1.1),
        ("b", "polyp", "train", 1.1),
        ("c", "normal", "val", 1.1),
    ]
    frame = Frame.level0(60, 40, 1.1)
    shares = [label_source(case, cohort).read(frame.box, frame).mean() for case in cohort]
    assert shares == [0.5, 0, 0]


def test_a_folder_with_an_index_may_keep_every_class_apart(tmp_path):
    cohort = Cohort.from_folder(folder(tmp_path, "abc", index=INDEX), mpp=1.1)
    assert cohort.classes == ("other", "cancer", "normal", "polyp") and cohort.check() == []
    frame = Frame.level0(60, 40, 1.1)
    assert [set(label_source(case, cohort).read(frame.box, frame).ravel().tolist()) for case in cohort] == [
        {0, 1},
        {0, 3},
        {0, 2},
    ]


def test_a_folder_for_each_class_is_read_as_its_authors_lay_it_out(tmp_path):
    for kind, name in (("Polyp", "GT2001-1-400-001"), ("Polyp", "GT2001-1-400-002"), ("Normal", "GT2002-1-400-001")):
        image(tmp_path / kind / "image" / f"{name}.png")
        image(tmp_path / kind / "label" / f"{name}.png", grey=True)
    cohort = Cohort.from_folder(tmp_path, mpp=1.1, lesion=("Polyp",))
    assert [case.name for case in cohort] == [
        "Normal_GT2002-1-400-001",
        "Polyp_GT2001-1-400-001",
        "Polyp_GT2001-1-400-002",
    ]
    assert cohort.patients == ("2002", "2001") and cohort.check() == []


def test_plain_images_and_masks_pair_by_their_stems(tmp_path):
    cohort = Cohort.from_folder(folder(tmp_path, ("s1_a", "s1_b", "s2_a")), mpp=0.5, patient=r"^(s\d)")
    assert cohort.patients == ("s1", "s2") and cohort.check() == []
    assert cohort.tumour_areas == pytest.approx([20 * 60 * 0.25e-6] * 3)
    with pytest.raises(CohortError, match="no classes"):
        Cohort.from_folder(tmp_path, mpp=0.5, lesion=["cancer"])
    with pytest.raises(CohortError, match="finds no patient"):
        Cohort.from_folder(tmp_path, mpp=0.5, patient=r"^(x\d)")


def test_all_that_does_not_pair_in_a_folder_is_told_at_once(tmp_path):
    root = folder(tmp_path, "abc")
    (root / "masks" / "a.png").unlink()
    (root / "images" / "b.jpg").unlink()
    image(root / "images" / "c.png")
    with pytest.raises(CohortError) as caught:
        Cohort.from_folder(root, mpp=1.0)
    assert len(caught.value.faults) == 3
    with pytest.raises(CohortError, match="it holds neither"):
        Cohort.from_folder(tmp_path / "images", mpp=1.0)
    with pytest.raises(CohortError, match="no folder"):
        Cohort.from_folder(tmp_path / "none", mpp=1.0)


def test_an_unknown_lesion_suggests_the_nearest_class(tmp_path):
    folder(tmp_path, "abc", index=INDEX)
    with pytest.raises(CohortError, match="Did you mean 'cancer'"):
        Cohort.from_folder(tmp_path, mpp=1.0, lesion=["cancr"])


def test_the_colon_photographs_are_a_cohort_in_one_call(data):
    lesion = ("adenocarcinoma", "high-grade-in")
    cohort = Cohort.from_folder(data / "ebhi-seg", mpp=1.1, lesion=lesion)
    with (data / "ebhi-seg" / "index.csv").open() as file:
        patients = {row["case"] for row in csv.DictReader(file)}
    assert len(cohort) == 1780 and set(cohort.patients) == patients
    parts = [cohort.select(split=split) for split in ("train", "val")]
    assert sum(map(len, parts)) == len(cohort) and not set(parts[0].patients) & set(parts[1].patients)
    some = Cohort(cohort.cases[::60], groups=cohort.groups)
    assert some.check() == []
    areas = some.tumour_areas
    assert all((area > 0) == (case.label in lesion) for area, case in zip(areas, some, strict=True))


def test_a_cohort_needs_no_learning_framework():
    code = "import sys, digipath\ndigipath.Cohort\nassert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
