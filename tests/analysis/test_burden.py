import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from digipath.analysis import burden as module
from digipath.analysis.burden import BIOPSY, BurdenSettings, clean, tumour_burden
from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster

SLIDE = Frame.level0(24_000, 18_000, 0.5)  # 12 x 9 mm
NONE = BurdenSettings(close_um=0, open_um=0)
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12))


def raster(values, mpp=8.0):
    return Raster(np.asarray(values), Frame(values.shape[1], values.shape[0], mpp / 0.5, mpp))


def polygon_mask(polygons, mpp):
    return rasterize([Annotation("lesion", polygon) for polygon in polygons], SLIDE.at(mpp))


def nests(*planted):
    """Discs of (x, y, radius) in um, in level-0 pixels."""
    return [shapely.Point(2 * x, 2 * y).buffer(2 * radius, 64) for x, y, radius in planted]


@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_a_whole_tumour_planted_as_the_hull_of_its_nests_within_tissue_is_recovered(mpp):
    tissue = shapely.Polygon([(1000, 1000), (15_000, 500), (23_000, 17_000), (2000, 16_000)])
    planted = nests((2000, 1500, 500), (4000, 1600, 350), (5500, 4000, 400), (2500, 5000, 700), (7500, 6500, 300))
    planted = [nest.intersection(tissue) for nest in planted]
    whole = shapely.union_all(planted).convex_hull & tissue
    expected = 100 * shapely.union_all(planted).area / whole.area
    found = tumour_burden(polygon_mask(planted, mpp), polygon_mask([tissue], 8.0))
    assert found.percent == pytest.approx(expected, rel=0.02)
    assert found.raw_percent == pytest.approx(expected, rel=0.02)
    assert found.whole_mm2 == pytest.approx(whole.area * 0.25e-6, rel=0.02)


@settings(max_examples=30)
@given(masks, masks, st.sampled_from([NONE, BIOPSY, BurdenSettings()]))
def test_the_burden_is_never_above_100_percent(viable, tissue, chosen):
    frame, size = Frame.level0(960, 960, 1.0).at(80.0), (12, 12)
    viable, tissue = (
        Raster(np.pad(mask, [(0, size[0] - mask.shape[0]), (0, size[1] - mask.shape[1])]), frame)
        for mask in (viable, tissue)
    )
    found = tumour_burden(viable, tissue, chosen)
    assert 0 <= found.viable_mm2 <= found.whole_mm2 <= tissue.area_mm2 + 1e-12
    assert 0 <= found.percent <= 100
    assert (found.note != "") == (found.raw_percent is None) == (found.whole_mm2 == 0)


def test_a_shift_of_the_slide_changes_nothing():
    values = np.zeros((150, 200), bool)
    values[40:80, 30:70] = values[60:110, 100:150] = values[50, 90] = True
    tissue = np.zeros_like(values)
    tissue[30:120, 20:130] = True
    first = tumour_burden(raster(values), raster(tissue))
    moved = tumour_burden(raster(np.roll(values, (17, 23), (0, 1))), raster(np.roll(tissue, (17, 23), (0, 1))))
    assert (moved.viable_mm2, moved.whole_mm2, moved.raw_percent) == (
        first.viable_mm2,
        first.whole_mm2,
        first.raw_percent,
    )
    np.testing.assert_array_equal(moved.cleaned.values, np.roll(first.cleaned.values, (17, 23), (0, 1)))
    shifted = shapely.transform(first.hull.geometry, lambda points: points + np.array([23, 17]) * 16)
    assert shifted.equals(moved.hull.geometry)


@pytest.mark.parametrize("chosen", [BurdenSettings(), NONE, BurdenSettings(close_um=20, open_um=90)])
def test_strips_give_what_the_whole_gives(monkeypatch, chosen):
    values = np.random.default_rng(0).random((700, 40)) < 0.2
    values[100:400, 5:30] = True
    whole = clean(raster(values), chosen)
    monkeypatch.setattr(module, "_STRIP_PIXELS", 1)
    np.testing.assert_array_equal(clean(raster(values), chosen).values, whole.values)


def test_gaps_are_filled_and_specks_removed_by_their_size_in_um():
    values = np.zeros((100, 200), bool)
    values[20:80, 20:60] = values[20:80, 70:120] = True  # 80 um apart
    values[40:44, 160:164] = True  # 32 um
    cleaned = clean(raster(values)).values
    assert cleaned[30:70, 60:70].all()
    assert not cleaned[:, 130:].any()
    assert not clean(raster(values, 32.0)).values[30:70, 62:68].any()  # 320 um apart


def test_tumour_off_tissue_counts_for_the_variant_of_the_papers_code_alone():
    viable, tissue = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    viable[20:80, 20:80] = True
    tissue[20:80, 20:40] = True
    found = tumour_burden(raster(viable), raster(tissue), NONE)
    assert (found.percent, found.raw_percent) == (100, pytest.approx(300))


def test_without_a_whole_tumour_the_burden_is_zero_and_says_why():
    empty, tissue = raster(np.zeros((50, 50), bool)), raster(np.ones((50, 50), bool))
    speck = raster(np.eye(50, dtype=bool))
    block = np.zeros((50, 50), np.uint8)
    block[10:40, 10:40] = 1
    for viable, ground, word in ((empty, tissue, "no viable"), (speck, tissue, "left"), (raster(block), empty, "out")):
        found = tumour_burden(viable, ground)
        assert (found.percent, found.viable_mm2, found.whole_mm2, found.raw_percent) == (0, 0, 0, None)
        assert word in found.note


def test_the_hull_is_an_annotation_round_all_pixels_with_the_numbers():
    values = np.zeros((60, 80), bool)
    values[20:40, 10:50] = True
    found = tumour_burden(raster(values), raster(np.ones((60, 80), bool)), NONE)
    assert found.hull.geometry.bounds == (160, 320, 800, 640)
    assert found.hull.measurements["tumour burden %"] == 100


def test_what_is_no_mask_of_the_same_slide_is_refused():
    mask = raster(np.ones((9, 9), bool))
    with pytest.raises(SpecError, match="threshold"):
        tumour_burden(raster(np.ones((9, 9))), mask)
    with pytest.raises(SpecError, match="one slide"):
        tumour_burden(mask, raster(np.ones((9, 8), bool)))
    with pytest.raises(SpecError, match="0 leaves the step out"):
        BurdenSettings(open_um=-1)
