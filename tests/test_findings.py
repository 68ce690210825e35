import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from digipath import Segmenter
from digipath.analysis.burden import BurdenSettings
from digipath.analysis.features import FEATURES
from digipath.analysis.thresholds import SectionThresholds
from digipath.errors import ResultError, SpecError
from digipath.evidence import AnalysisSettings, Evidence, TilSettings
from digipath.findings import analyse
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import Annotation, polygonize, rasterize
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import measure
from digipath.inference.predictor import FunctionPredictor
from digipath.io.geojson import read_geojson
from digipath.models.spec import ModelSpec
from digipath.report import write_report
from digipath.segmentation import Segmentation

LESIONS = AnalysisSettings(burden=False, sections=False)
BURDEN = AnalysisSettings(lesions=False, sections=False)
SECTIONS = AnalysisSettings(lesions=False, burden=False, join_um=100.0)


def ellipse(centre_um, length_um, *, turn=30.0, width_um=None):
    disc = shapely.Point(0, 0).buffer(0.5, 64)
    flat = shapely.affinity.scale(disc, length_um, length_um * 0.6 if width_um is None else width_um)
    return shapely.affinity.translate(shapely.affinity.rotate(flat, turn), *centre_um)


def mask(shapes_um, frame):
    scale = frame.downsample / frame.mpp
    return rasterize([Annotation("lesion", shapely.transform(one, lambda um: um * scale)) for one in shapes_um], frame)


def evidence(viable, *, tissue=None, covered=None, **more):
    """The truth as probabilities."""
    frame, everywhere = viable.frame, np.ones(viable.frame.shape, bool)
    return Evidence(
        heatmap=Raster(viable.array().astype(np.float16), frame),
        covered=Raster(everywhere, frame) if covered is None else covered,
        tissue=Raster(everywhere, frame) if tissue is None else tissue,
        threshold=0.5,
        **more,
    )


def result_of(viable, *, classes=("other", "lesion"), status="ok", region=None, uncovered=0.0, name="slide"):
    frame = viable.frame
    values = np.zeros((*frame.shape, len(classes)), np.float16)
    values[..., -1] = viable.array()
    values[..., 0] = 1 - values[..., -1]
    everywhere = Raster(np.ones(frame.shape, bool), frame)
    covered = frame.shape[0] * frame.shape[1] * frame.pixel_mm2
    info = {
        "format_version": 1,
        "slide": {"name": name, "path": None, "origin": [0, 0]},
        "threshold": 0.5,
        "status": status,
        "region": region,
        "areas": {"lesion_mm2": viable.area_mm2, "covered_mm2": covered, "uncovered_mm2": uncovered},
    }
    picture = Raster(np.full((*frame.shape, 3), 240, np.uint8), frame, ("red", "green", "blue"))
    return Segmentation(Raster(values, frame, tuple(classes)), everywhere, everywhere, picture, info)


PLANTED = {"negative": (), "itc": (100,), "micro": (100, 1000), "macro": (100, 1000, 3000)}


@pytest.mark.parametrize(
    ("expected", "mpp"), [("negative", 2.0), ("itc", 2.0), ("itc", 7.3), ("micro", 2.0), ("micro", 7.3), ("macro", 7.3)]
)
def test_planted_lesions_of_a_perfect_heatmap_give_the_class_of_the_slide(expected, mpp):
    lengths = PLANTED[expected]
    size = (4400, 2600) if 3000 in lengths else (1700, 1000)
    places = {100: (150, 150), 1000: (900, 480), 3000: (2700, 1500)}
    shapes = [ellipse(places[length], length) for length in lengths]
    found = analyse(evidence(mask(shapes, Frame.level0(*(int(side / mpp) for side in size), mpp))), LESIONS)
    assert found.slide_class == expected
    axes = sorted(shape.major_axis_um for shape in found.lesions)
    np.testing.assert_allclose(axes, lengths, rtol=0.05)
    sizes = [item["size"] for item in found.to_json()["lesions"]["items"]]
    assert sizes == ["macro", "micro", "itc"][3 - len(lengths) :]


@pytest.mark.parametrize(("length", "expected"), [(100, "itc"), (1000, "micro"), (3000, "macro")])
def test_the_whole_pipeline_recovers_the_class_of_a_slide(length, expected):
    mpp, width = 10.0, int(length / 10 * 1.25) + 60
    image = np.full((int(width * 0.8), width, 3), 244, np.uint8)
    middle = width // 2, int(width * 0.4)
    cv2.ellipse(image, middle, (width // 2 - 8, int(width * 0.4) - 6), 0, 0, 360, (225, 150, 190), -1)
    cv2.ellipse(image, (middle, (length / mpp, length / mpp * 0.5), 20.0), (120, 60, 110), -1)

    def darkness(patches):
        values = (patches[..., 2] < 128).astype(np.float32)
        return np.stack([1 - values, values], -1)

    spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=mpp, patch=64)
    result = Segmenter(FunctionPredictor(darkness, spec)).predict(image, mpp=mpp, progress=False)
    found = result.analyse(AnalysisSettings(sections=False))
    assert found.slide_class == expected
    drawn = measure(Raster(image[..., 2] < 128, Frame.level0(*image.shape[1::-1], mpp)))  # a pixel more than asked for
    assert found.largest_axis_um == pytest.approx(drawn[0].major_axis_um, rel=0.01)
    assert drawn[0].major_axis_um == pytest.approx(length, abs=2 * mpp)


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_tumour_planted_as_the_hull_of_its_nests_has_its_burden_within_2_percent(seed):
    random, frame = np.random.default_rng(seed), Frame.level0(520, 440, 8.0)
    tissue_um = ellipse((2080, 1760), 3900, turn=10, width_um=3100)
    nests = []
    while len(nests) < 12:
        radius = random.uniform(160, 280)
        nest = shapely.Point(random.uniform(600, 3600), random.uniform(500, 3000)).buffer(radius)
        if tissue_um.contains(nest) and all(nest.distance(other) > 220 for other in nests):
            nests.append(nest)
    whole = shapely.convex_hull(shapely.union_all(nests)) & tissue_um
    truth = 100 * sum(nest.area for nest in nests) / whole.area
    tissue = mask([tissue_um], frame)
    found = analyse(evidence(mask(nests, frame), tissue=tissue, covered=tissue), BURDEN)
    assert found.burden.percent == pytest.approx(truth, rel=0.02)
    assert found.burden.whole_mm2 == pytest.approx(whole.area / 1e6, rel=0.02)
    hull = shapely.Polygon(found.to_json()["burden"]["hull"])
    assert hull.area * 64 == pytest.approx(shapely.convex_hull(shapely.union_all(nests)).area, rel=0.02)


def test_sections_are_judged_by_given_thresholds_and_only_where_they_were_seen():
    frame = Frame.level0(320, 100, 8.0)
    tissue = np.zeros(frame.shape, bool)
    for left in (10, 110, 210):
        tissue[20:80, left : left + 80] = True
    viable, covered = np.zeros(frame.shape, bool), tissue.copy()
    viable[40:50, 30:40] = viable[40:50, 130:134] = True
    covered[:, 200:] = False  # the third section, of which nothing is known
    covered[20:50, 110:200] &= np.arange(110, 200) < 190
    covered[50:80, 110:200] = False
    look = evidence(Raster(viable & covered, frame), tissue=Raster(tissue, frame), covered=Raster(covered, frame))
    limits = SectionThresholds(0.5, 5000.0)
    found = analyse(look, AnalysisSettings(lesions=False, burden=False, join_um=100.0, section_thresholds=limits))
    assert [one.name for one in found.sections] == ["tumour section", "normal section"]
    assert found.seen_shares == pytest.approx((1.0, 0.5))
    assert found.notes == (
        "1 section was not looked at and not judged.",
        "Of section 2 not everything was seen.",
    )
    rows = found.to_json()["sections"]
    assert rows["thresholds"] == {"prediction": 0.5, "area_um2": 5000.0, "source": "given"}
    assert [row["seen_share"] for row in rows["items"]] == pytest.approx([1.0, 0.5])
    own = analyse(look, SECTIONS)  # any pixel
    assert [one.tumour for one in own.sections] == [True, True] and "not fitted" in own.notes[0]


def test_without_a_lesion_or_without_anything_seen_conclusions_are_defined_and_told():
    frame = Frame.level0(60, 40, 8.0)
    nothing = Raster(np.zeros(frame.shape, bool), frame)
    none = analyse(evidence(nothing))
    assert (none.slide_class, none.burden.percent, len(none.lesions)) == ("negative", 0.0, 0)
    assert set(none.features) == set(FEATURES) and not any(none.features.values())
    assert any("burden is 0 % because there is no viable tumour" in note for note in none.notes)
    blank = analyse(evidence(nothing, tissue=nothing, covered=nothing))
    assert blank.slide_class is None and blank.sections == () and "no class" in blank.notes[0]
    for found in (none, blank):
        json.dumps(found.to_json(), allow_nan=False)
        assert "tumour burden 0.0 % (there is no viable tumour)" in found.summary()


def test_of_several_classes_the_lesion_has_to_be_named():
    frame = Frame.level0(40, 30, 8.0)
    viable = Raster(np.indices(frame.shape).sum(0) < 20, frame)
    result = result_of(viable, classes=("stroma", "normal", "tumour"))
    with pytest.raises(SpecError, match=r"stroma, normal, tumour.*name="):
        result.analyse()
    with pytest.raises(SpecError, match="classes of this result"):
        result.analyse(AnalysisSettings(name="lesion"))
    assert result.analyse(AnalysisSettings(name="tumour")).lesions[0].area_um2 == pytest.approx(viable.area_mm2 * 1e6)
    assert not result.analyse(AnalysisSettings(name="normal")).lesions


def test_lymphocytes_are_scored_in_the_stroma_of_a_result_of_several_classes(tmp_path):
    frame = Frame.level0(120, 100, 32.0)
    values = np.zeros((*frame.shape, 3), np.float16)
    values[..., 2] = 1
    values[20:80, 20:60, 2], values[20:80, 20:60, 0] = 0, 1
    values[20:80, 60:70, 2], values[20:80, 60:70, 1] = 0, 1
    result = result_of(Raster(np.zeros(frame.shape, bool), frame), classes=("tumour", "stroma", "rest"))
    result = replace(result, heatmap=Raster(values, frame, ("tumour", "stroma", "rest")))
    tils = TilSettings(points=[(62.5, 40.5), (63.5, 50.5), (5.5, 5.5)], tumour=("tumour",), stroma=("stroma",))
    found = result.analyse(AnalysisSettings(burden=False, sections=False, tils=tils))
    assert found.evidence.name == "tumour"  # the only one that the lymphocytes are of
    assert (found.tils.cells, found.tils.cells_elsewhere) == (2, 1) and found.tils.score > 0
    told = found.to_json()["tils"]
    assert told["cells"] == 2 and len(told["bulk"]) >= 1 and json.dumps(told, allow_nan=False)
    assert {one.name for one in found.annotations()} == {"tumour", "tumour bulk"}
    assert "TIL score" in found.summary()
    page = write_report(result, tmp_path / "page.html", findings=found).read_text()
    assert "Lymphocytes elsewhere" in page and "tumour bulk" in page
    with pytest.raises(SpecError, match="channels tumour, stroma, rest"):
        result.analyse(AnalysisSettings(tils=replace(tils, stroma=("stromal",))))


def test_contours_tell_how_far_lesions_are_from_each_other(saved):
    result, folder = saved
    found = result.analyse(AnalysisSettings(contours=True, burden=False, sections=False), folder=folder)
    first, second = found.to_json()["contours"]["items"]
    assert first["nearest_id"] == 2 and second["nearest_distance_um"] == first["nearest_distance_um"]
    assert first["nearest_distance_um"] == pytest.approx(8 * math.hypot(20, 10))
    assert [one.id for one in found.contours] == [shape.id for shape in found.lesions]
    assert [one.area_um2 for one in found.contours] == [shape.area_um2 for shape in found.lesions]
    assert (folder / "contours.csv").read_text().count("\n") == 3
    result.analyse(LESIONS, folder=folder)
    assert not (folder / "contours.csv").exists()


def test_what_was_not_covered_or_not_asked_for_is_told():
    frame = Frame.level0(40, 30, 8.0)
    result = result_of(Raster(np.zeros(frame.shape, bool), frame), uncovered=0.5, region=[0, 0, 10, 10])
    notes = result.analyse(LESIONS).notes
    assert "0.50 mm2 of tissue is not covered" in notes[0] and "Only a region" in notes[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lesions": False, "burden": False, "sections": False}, "got none"),
        ({"min_lesion_mm2": math.nan}, "min_lesion_mm2"),
        ({"section_thresholds": "bcc"}, "bcc-unet"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(SpecError, match=said):
        AnalysisSettings(**options)


@settings(max_examples=40)
@given(arrays.arrays(bool, (7, 9)), st.sampled_from([0.0, 2e-6]))
def test_polygons_of_lesions_are_those_that_were_measured(values, least):
    where = Raster(values, Frame(9, 7, 2.0, 1.0))
    shapes = measure(where, min_area_mm2=least)
    polygons = polygonize(where, min_area_mm2=least, connectivity=8)
    assert [one.geometry.area / 4 for one in polygons] == pytest.approx([shape.area_um2 for shape in shapes])
    for one, shape in zip(polygons, shapes, strict=True):
        centre = one.geometry.centroid
        assert one.geometry.is_valid and (centre.x, centre.y) == pytest.approx(shape.centroid)
    if not least:
        np.testing.assert_array_equal(rasterize(polygons, where.frame).array(), values)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.segmentation.draw", lambda picture, width: np.zeros((1, 1, 3), np.uint8))
    frame = Frame.level0(100, 60, 8.0)
    viable = np.zeros(frame.shape, bool)
    viable[10:30, 10:40] = viable[40:45, 60:65] = viable[45, 65] = True  # the last touches at a corner
    result = result_of(Raster(viable, frame))
    return result, result.save(tmp_path / "slide")


def test_a_folder_takes_the_findings_and_keeps_the_rest(saved):
    result, folder = saved
    before = json.loads((folder / "result.json").read_text())
    with Segmentation.load(folder) as loaded:
        found = loaded.analyse(folder=folder)
    after = json.loads((folder / "result.json").read_text())
    assert after.pop("analysis") == json.loads(json.dumps(found.to_json())) and after == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    polygons = {one.name: one for one in reversed(read_geojson(folder / "annotations.geojson"))}
    assert set(polygons) == {"lesion", "whole tumour", "tumour section"}
    lesion, shape = polygons["lesion"], found.lesions[0]
    assert lesion.measurements["major axis um"] == pytest.approx(shape.major_axis_um)
    assert lesion.measurements["solidity"] == pytest.approx(1.0) and lesion.measurements["size"] == "micro"
    assert polygons["whole tumour"].measurements["tumour burden %"] == pytest.approx(found.burden.percent)
    again = Segmentation.load(folder)
    assert again.info["analysis"]["lesions"]["slide_class"] == "micro"
    second = again.save(folder.parent / "copy")  # polygons and record of a copy say the same: nothing is analysed
    assert "analysis" not in json.loads((second / "result.json").read_text())
    assert {one.name for one in read_geojson(second / "annotations.geojson")} == {"lesion"}
    result.analyse(BURDEN, folder=folder)  # the same result in memory
    assert "lesions" not in json.loads((folder / "result.json").read_text())["analysis"]


def test_what_stops_the_writing_leaves_the_folder_as_it_was(saved, monkeypatch):
    result, folder = saved
    before = (folder / "result.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("digipath.result_folder.write_geojson", full)
    with pytest.raises(ResultError, match="No space left"):
        result.analyse(folder=folder)
    assert (folder / "result.json").read_bytes() == before


def test_findings_do_not_go_into_the_folder_of_another_result(saved, tmp_path):
    result, folder = saved
    other = result_of(Raster(np.zeros((30, 40), bool), Frame.level0(40, 30, 8.0)), name="another")
    with pytest.raises(ResultError, match="holds another one"):
        other.analyse(folder=folder)
    with pytest.raises(ResultError, match="no complete result"):
        result.analyse(folder=tmp_path)
    assert "analysis" not in json.loads((folder / "result.json").read_text())


def test_small_lesions_may_be_left_out_of_class_and_polygons():
    frame = Frame.level0(200, 100, 8.0)
    shapes = [ellipse((300, 300), 400), ellipse((1200, 400), 60)]
    look = evidence(mask(shapes, frame))
    every = analyse(look, LESIONS)
    large = analyse(look, AnalysisSettings(burden=False, sections=False, min_lesion_mm2=0.01))
    assert (len(every.lesions), len(large.lesions), len(large.annotations())) == (2, 1, 1)
    assert "below 0.01 mm2" in large.notes[0]
    cleaned = AnalysisSettings(lesions=False, sections=False, cleaning=BurdenSettings(close_um=0, open_um=0))
    assert analyse(look, cleaned).burden.cleaned.area_mm2 == pytest.approx(look.mask.area_mm2)


def test_the_box_of_a_section_is_in_level_0_pixels():
    frame = Frame(100, 50, 4.0, 8.0)
    tissue = np.zeros(frame.shape, bool)
    tissue[5:40, 10:80] = True
    found = analyse(evidence(Raster(tissue, frame), tissue=Raster(tissue, frame)), SECTIONS)
    row = found.to_json()["sections"]["items"][0]
    assert Box(row["x"], row["y"], row["width"], row["height"]) == Box(40, 20, 280, 140)
