import dataclasses
import json

import cv2
import numpy as np
import pytest

from digipath import ArraySlide, Segmentation, Segmenter
from digipath.errors import Cancelled, ResultError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import rasterize
from digipath.geometry.raster import Raster
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.models.spec import ModelSpec
from digipath.slides.slide import open_slide

SPEC = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=128)


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32)
    return np.stack([1 - values, values], -1)


def segmenter(function=darkness, spec=SPEC, **settings):
    return Segmenter(FunctionPredictor(function, spec), settings=InferenceSettings(**settings))


@pytest.fixture
def image():
    """Pink tissue with a dark ring and a dark square, on glass; not square, so that swapped axes show."""
    image = np.full((480, 700, 3), 244, np.uint8)
    cv2.ellipse(image, (360, 230), (300, 190), 0, 0, 360, (225, 150, 190), -1)
    cv2.circle(image, (250, 220), 70, (120, 60, 110), -1)
    cv2.circle(image, (250, 220), 30, (225, 150, 190), -1)
    cv2.rectangle(image, (450, 200), (519, 259), (120, 60, 110), -1)
    return image


@pytest.fixture
def result(image):
    return segmenter().predict(image, mpp=1.0, progress=False)


def test_lesions_are_found_where_they_are(result, image):
    truth = image[..., 2] < 128
    mask = result.mask().resample(ArraySlide(image, mpp=1.0).frame).array()
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.97
    assert result.status == "ok" and result.mask().area_mm2 == pytest.approx(truth.sum() / 1e6, rel=0.03)


def test_heatmap_channels_sum_to_one_where_covered_and_are_zero_elsewhere(result):
    sums = result.heatmap.array().astype(float).sum(-1)
    covered = result.covered.array()
    np.testing.assert_allclose(sums[covered], 1, atol=1e-3)
    assert not sums[~covered].any()


def test_labels_say_255_where_nothing_is_known(result):
    labels = result.labels().array()
    covered = result.covered.array()
    assert set(np.unique(labels[covered])) == {0, 1} and (labels[~covered] == 255).all()


def test_regions_and_annotations_agree_and_holes_are_kept(result):
    regions, annotations = result.regions(), result.annotations()
    assert len(regions) == len(annotations) == 2
    for region, annotation in zip(regions, annotations, strict=True):
        assert annotation.measurements["area mm2"] == region.area_mm2
        assert annotation.geometry.area * 1e-6 == pytest.approx(region.area_mm2, rel=1e-6)
    assert len(annotations[0].geometry.interiors) == 1
    assert [region.max_probability for region in regions] == [1, 1]


def test_memory_and_folder_hold_the_same(result, image, tmp_path):
    stored = segmenter().predict(image, mpp=1.0, out=tmp_path / "slide", progress=False)
    for name in ("heatmap", "covered", "tissue", "thumbnail"):
        np.testing.assert_array_equal(getattr(stored, name).array(), getattr(result, name).array())
    again = Segmentation.load(result.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.heatmap.array(), result.heatmap.array())
    assert again.info["areas"] == stored.info["areas"] == result.info["areas"]
    assert sorted(p.name for p in (tmp_path / "slide").iterdir()) == [
        "annotations.geojson",
        "annotations.xml",
        "heatmap.tif",
        "overview.png",
        "result.h5",
        "result.json",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved", "slide"]


def test_other_programs_see_the_same_lesions(result, tmp_path):
    folder = result.save(tmp_path / "slide")
    mask = result.mask()
    for annotations in (read_geojson(folder / "annotations.geojson"), read_asap(folder / "annotations.xml")):
        np.testing.assert_array_equal(rasterize(annotations, mask.frame).array(), mask.array())
    with open_slide(folder / "heatmap.tif", backend="openslide") as picture:
        assert picture.frame.mpp == pytest.approx(result.heatmap.frame.mpp, rel=1e-4)
        grey = picture.read(picture.frame.box, picture.frame)[..., 0] / 255
    np.testing.assert_allclose(grey, result.heatmap.array()[..., 1].astype(float), atol=1 / 255)


def test_a_record_tells_how_the_result_came_about(image, tmp_path):
    segmenter(overlap=0.25).predict(image, mpp=1.0, out=tmp_path / "slide", progress=False)
    info = json.loads((tmp_path / "slide" / "result.json").read_text())
    assert info["format_version"] == 1 and info["slide"]["mpp_source"] == "user"
    assert info["slide"]["width"] == 700 and info["slide"]["height"] == 480
    assert info["settings"]["overlap"] == 0.25 and info["versions"]["digipath"]
    assert info["areas"]["covered_mm2"] > info["areas"]["lesion_mm2"] > 0 and info["seconds"]["predicting"] >= 0


def test_no_tissue_is_a_result(tmp_path):
    blank = np.full((300, 400, 3), 245, np.uint8)
    result = segmenter().predict(blank, mpp=1.0, out=tmp_path / "blank", progress=False)
    assert result.status == "empty" and not result.regions() and "no tissue" in result.summary()
    assert "No tissue was found" in result.info["notes"][0] and "tissue=" in result.info["notes"][0]
    assert (tmp_path / "blank" / "overview.png").is_file()


def test_a_cancelled_run_leaves_nothing_and_keeps_what_was_there(image, tmp_path):
    out = tmp_path / "slide"
    segmenter().predict(image, mpp=1.0, out=out, progress=False)
    before = (out / "result.json").read_text()

    def stop(_):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        segmenter().predict(image, mpp=1.0, out=out, progress=stop)
    assert (out / "result.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["slide"]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_predicted(image, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "slide"):
        with pytest.raises(ResultError, match="is written to a folder"):
            segmenter(lambda _: pytest.fail("predicted")).predict(image, mpp=1.0, out=out, progress=False)


def test_a_folder_that_is_there_is_filled_from_inside_as_it_may_be_a_disk_of_its_own(image, tmp_path):
    out, seen = tmp_path / "slide", []
    out.mkdir()
    segmenter().predict(image, mpp=1.0, out=out, progress=lambda _: seen.extend(p.name for p in tmp_path.iterdir()))
    assert set(seen) == {"slide"} and all(path.is_file() for path in out.iterdir())


def test_files_of_other_classes_do_not_outlive_their_result(image, tmp_path):
    out = tmp_path / "slide"
    three = ModelSpec(architecture="three", classes=("other", "a", "b"), mpp=1.0, patch=128)
    segmenter(lambda p: np.full((*p.shape[:3], 3), 1 / 3), three).predict(image, mpp=1.0, out=out, progress=False)
    assert sorted(p.name for p in out.glob("*.tif")) == ["heatmap.a.tif", "heatmap.b.tif"]
    segmenter().predict(image, mpp=1.0, out=out, progress=False)
    assert sorted(p.name for p in out.glob("*.tif")) == ["heatmap.tif"]


def test_no_name_of_a_class_leads_out_of_the_folder(image, tmp_path):
    spec = ModelSpec(architecture="evil", classes=("other", "../../../x", "a/b", "tumör"), mpp=1.0, patch=128)
    evil = segmenter(lambda p: np.full((*p.shape[:3], 4), 1 / 4), spec)
    evil.predict(image, mpp=1.0, out=tmp_path / "slide", progress=False)
    assert sorted(p.name for p in (tmp_path / "slide").iterdir() if p.suffix == ".tif") == [
        "heatmap.%2e%2e%2f%2e%2e%2f%2e%2e%2fx.tif",
        "heatmap.a%2fb.tif",
        "heatmap.tumör.tif",
    ]
    assert all(path.is_file() for path in (tmp_path / "slide").iterdir())


@pytest.mark.parametrize("shape", [(480, 700), (48, 70), (60, 87), (960, 1400)])
def test_a_tissue_array_of_any_size_says_where_to_look(image, shape):
    mask = np.zeros(shape, np.uint8)
    mask[:, shape[1] // 2 :] = 1
    result = segmenter().predict(image, mpp=1.0, tissue=mask, progress=False)
    covered = result.covered.array()
    edge = covered.shape[1] // 2
    assert covered[:, edge + 4 :].all() and not covered[:, : edge - 4].any()
    assert len(result.regions()) == 1


def test_tissue_may_be_a_file_or_a_function(image, tmp_path):
    mask = np.zeros((480, 700), np.uint8)
    mask[:, 350:] = 255
    cv2.imwrite(str(tmp_path / "tissue.png"), mask)
    (tmp_path / "tissue.geojson").write_text(
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": '
        "[[[350, 0], [700, 0], [700, 480], [350, 480], [350, 0]]]}, "
        '"properties": {"classification": {"name": "tissue"}}}'
    )
    raster = Raster(mask, Frame.level0(700, 480, 1.0))
    for tissue in (tmp_path / "tissue.png", str(tmp_path / "tissue.geojson"), lambda slide: mask, raster):
        result = segmenter().predict(image, mpp=1.0, tissue=tissue, progress=False)
        assert result.tissue.area_mm2 == pytest.approx(350 * 480 / 1e6, rel=0.03)


def test_given_tissue_that_misses_the_slide_is_noted(image, tmp_path):
    (tmp_path / "far.geojson").write_text(
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
        "[[[70000, 0], [70100, 0], [70100, 90], [70000, 0]]]}}"
    )
    with pytest.warns(UserWarning, match=r"far\.geojson, and nothing of it"):
        result = segmenter().predict(image, mpp=1.0, tissue=tmp_path / "far.geojson", progress=False)
    assert result.status == "empty" and len(result.info["notes"]) == 1


def test_qupath_counts_from_the_corner_of_the_scanned_area(image, tmp_path):
    """A slide whose file tells `openslide.bounds-*`: what QuPath wrote for it, and what we write for QuPath."""
    slide = ArraySlide(image, mpp=1.0)
    slide.bounds = Box(100, 40, 500, 400)
    (tmp_path / "tissue.geojson").write_text(
        '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
        "[[[250, -40], [600, -40], [600, 440], [250, 440], [250, -40]]]}}"
    )
    result = segmenter().predict(slide, tissue=tmp_path / "tissue.geojson", out=tmp_path / "out", progress=False)
    assert result.tissue.bounding_box().x * result.tissue.frame.downsample == pytest.approx(350, abs=8)
    written = json.loads((tmp_path / "out" / "annotations.geojson").read_text())
    level0 = result.annotations()[0].geometry.bounds
    first = np.array(written["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(first.min(0), [level0[0] - 100, level0[1] - 40])
    again = read_geojson(tmp_path / "out" / "annotations.geojson")
    assert again[0].geometry.equals(result.annotations()[0].geometry)


def test_tissue_that_does_not_fit_is_refused(image, tmp_path):
    with pytest.raises(SpecError, match="equal aspect"):
        segmenter().predict(image, mpp=1.0, tissue=np.ones((700, 480), bool))
    with pytest.raises(SpecError, match="there is no"):
        segmenter().predict(image, mpp=1.0, tissue=tmp_path / "none.png")


def test_a_region_covers_exactly_that(image):
    result = segmenter().predict(image, mpp=1.0, region=(300, 100, 200, 150), progress=False)
    assert result.covered.bounding_box() == Box(150, 50, 100, 75)
    assert result.info["areas"]["uncovered_mm2"] == 0
    for wrong, why in (
        ((600, 100, 200, 150), "inside of the slide"),
        ((300, 100, 200), "four whole numbers"),
        ((300.5, 100, 200, 150), "four whole numbers"),
        ((301, 101, 1, 1), "heatmap pixel"),
    ):
        with pytest.raises(SpecError, match=why):
            segmenter(heatmap_mpp=8).predict(image, mpp=1.0, region=wrong)


def test_the_area_of_tissue_ends_where_what_was_asked_for_ends(image):
    areas = segmenter().predict(image, mpp=1.0, region=(300, 100, 200, 150), progress=False).info["areas"]
    assert areas["tissue_mm2"] == pytest.approx(200 * 150 / 1e6) == pytest.approx(areas["covered_mm2"])
    odd = np.full((31, 45, 3), 100, np.uint8)
    areas = segmenter().predict(odd, mpp=1.0, tissue=np.ones((4, 6), bool), progress=False).info["areas"]
    assert areas["tissue_mm2"] == pytest.approx(31 * 45 / 1e6)


def test_a_class_called_tissue_leaves_the_area_of_the_tissue_alone(image):
    named = ModelSpec(architecture="darkness", classes=("glass", "tissue"), mpp=1.0, patch=128)
    areas = segmenter(spec=named).predict(image, mpp=1.0, progress=False).info["areas"]
    others = segmenter().predict(image, mpp=1.0, progress=False).info["areas"]
    assert areas.pop("classes_mm2") == {"tissue": areas["lesion_mm2"]}
    assert others.pop("classes_mm2") == {"lesion": others["lesion_mm2"]}
    assert areas == others


def test_every_class_but_the_background_has_its_area_polygons_and_tiff(image, tmp_path):
    spec = ModelSpec(architecture="two", classes=("other", "dark", "pink"), mpp=1.0, patch=128)

    def classes(patches):
        dark = (patches[..., 2] < 128).astype(np.float32)
        pink = (patches[..., 1] < 200) * (1 - dark)
        return np.stack([1 - dark - pink, dark, pink], -1)

    result = segmenter(classes, spec=spec).predict(image, mpp=1.0, out=tmp_path / "out", progress=False)
    areas = result.info["areas"]["classes_mm2"]
    assert areas["dark"] == pytest.approx((image[..., 2] < 128).sum() / 1e6, rel=0.03) and areas["pink"] > areas["dark"]
    assert {one.name for one in read_geojson(tmp_path / "out" / "annotations.geojson")} == {"dark", "pink"}
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"heatmap.dark.tif", "heatmap.pink.tif"}


def test_an_array_without_resolution_is_refused(image):
    with pytest.raises(SpecError, match="mpp="):
        segmenter().predict(image)


def test_an_open_slide_keeps_its_resolution_and_another_is_refused(image):
    slide = ArraySlide(image, mpp=1.0)
    with pytest.raises(SpecError, match="open_slide"):
        segmenter().predict(slide, mpp=0.5)
    assert segmenter().predict(slide, mpp=1.0, progress=False).info["mpp"]["slide"] == 1.0


def test_pixels_that_are_not_bytes_are_refused(image):
    with pytest.raises(SpecError, match="uint8"):
        segmenter().predict(image / 255, mpp=1.0)


def test_a_slide_is_closed_by_who_opened_it(image, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr("digipath.slides._pyramid.PyramidSlide.close", lambda slide: closed.append(slide.name))
    cv2.imwrite(str(tmp_path / "one.png"), image)
    segmenter().predict(tmp_path / "one.png", mpp=1.0, progress=False)
    segmenter().plan(tmp_path / "one.png", mpp=1.0)
    assert closed == ["one", "one"]
    segmenter().predict(ArraySlide(image, mpp=1.0), progress=False)
    assert closed == ["one", "one"]


def test_what_is_no_bundle_is_refused_with_what_to_give():
    with pytest.raises(SpecError, match="Bundle\\(model"):
        Segmenter(darkness)


def test_settings_may_be_numbers_of_numpy(image, tmp_path):
    numbers = {"overlap": np.float32(0.5), "patch": np.int64(128), "threshold": np.float32(0.5), "batch": 2.0}
    region = Box(*np.array([300, 100, 200, 150]))
    segmenter(**numbers).predict(image, mpp=1.0, region=region, out=tmp_path / "slide", progress=False)
    assert Segmentation.load(tmp_path / "slide").info["settings"]["patch"] == 128


def test_a_result_too_large_for_memory_asks_for_a_folder(monkeypatch, image):
    monkeypatch.setattr("digipath.prepared._MEMORY", 1000)
    with pytest.raises(SpecError, match="out="):
        segmenter().predict(image, mpp=1.0, progress=False)


def test_all_tissue_lesion_raises_a_note(image):
    everywhere = segmenter(lambda p: np.broadcast_to(np.float32([0, 1]), (*p.shape[:3], 2)))
    with pytest.warns(UserWarning, match="95%"):
        result = everywhere.predict(image, mpp=1.0, progress=False)
    assert len(result.info["notes"]) == 1


def test_a_record_tells_the_stains_that_were_normalised(image, tmp_path):
    normal = segmenter(spec=dataclasses.replace(SPEC, stain="macenko"))
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 9, image.shape), 0, 255).astype(np.uint8)
    info = normal.predict(noisy, mpp=1.0, out=tmp_path / "one", progress=False).info
    assert info["bundle"]["spec"]["stain"] == "macenko" and len(info["stains"]["haematoxylin"]) == 3
    assert segmenter().predict(image, mpp=1.0, progress=False).info["stains"] is None


def test_a_threshold_means_the_same_as_any_kind_of_number(image):
    some = segmenter(lambda p: np.full((*p.shape[:3], 2), [0.3, 0.7]), threshold=0.9)
    just = some.predict(image, mpp=1.0, progress=False)
    assert not any(just.mask(kind(0.7)).area_mm2 for kind in (float, np.float64, np.float32))


def test_a_list_of_networks_is_their_mean(image):
    members = [FunctionPredictor(lambda p, v=v: np.full((*p.shape[:3], 2), [1 - v, v]), SPEC) for v in (0.2, 0.8)]
    result = Segmenter(members).predict(image, mpp=1.0, progress=False)
    np.testing.assert_allclose(result.heatmap.array()[result.covered.array()][:, 1].astype(float), 0.5, atol=1e-3)
    assert len(result.info["bundle"]["members"]) == 2


def test_thresholds_and_class_names_are_checked(result):
    assert result.mask(0.99).area_mm2 <= result.mask(0.01).area_mm2
    both = result.mask(name="other").area_mm2 + result.mask().area_mm2
    assert both == pytest.approx(result.covered.area_mm2, rel=0.01)
    for wrong in (50, "lesion", float("nan")):
        with pytest.raises(SpecError, match="0 to 1"):
            result.mask(wrong)
    with pytest.raises(SpecError, match="classes"):
        result.mask(name="tumour")


def test_broken_folders_are_clear_errors(result, tmp_path):
    with pytest.raises(ResultError, match="no complete result"):
        Segmentation.load(tmp_path)
    folder = result.save(tmp_path / "slide")
    (folder / "result.json").write_text('{"format_version": 99}')
    with pytest.raises(ResultError, match="newer digipath"):
        Segmentation.load(folder)
    (folder / "result.json").write_text("{")
    with pytest.raises(ResultError, match="damaged"):
        Segmentation.load(folder)


class Damaged(ArraySlide):
    """A slide in which one box cannot be read."""

    def read_covered(self, box, frame, *, kernel="box"):
        pixels, lost = super().read_covered(box, frame, kernel=kernel)
        hole = frame.box_in(box, self.frame).intersect(Box(300, 200, 60, 60))
        return pixels, [*lost, *([hole] if hole.area else [])]


def test_tissue_that_cannot_be_read_is_told_beside_the_lesion(image, tmp_path):
    with pytest.warns(UserWarning, match="could not be read"):
        result = segmenter().predict(Damaged(image, mpp=1.0), out=tmp_path / "slide", progress=False)
    areas = result.info["areas"]
    assert result.status == "incomplete" and areas["uncovered_mm2"] == pytest.approx(60 * 60 / 1e6)
    assert areas["covered_mm2"] + areas["uncovered_mm2"] == pytest.approx(areas["tissue_mm2"], rel=0.01)
    assert (
        not result.covered.crop(Box(150, 100, 30, 30)).any() and not result.mask(0.0).crop(Box(150, 100, 30, 30)).any()
    )
    lost = np.zeros((480, 700), bool)
    for x, y, width, height in result.info["unread"]:
        lost[y : y + height, x : x + width] = True
    assert lost[200:260, 300:360].all() and lost.sum() == 60 * 60
    assert "0.00 mm² of tissue not covered" in result.summary()


def test_a_loaded_result_lets_go_of_its_file(result, tmp_path):
    with Segmentation.load(result.save(tmp_path / "slide")) as stored:
        assert "lesion" in repr(stored)
    with pytest.raises(ResultError):
        stored.heatmap.array()


def test_a_notebook_shows_a_picture(result):
    assert result._repr_png_()[:4] == b"\x89PNG"
