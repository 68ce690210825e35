"""Lymphocytes in tumour stroma: planted shapes whose areas are known by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
from scipy.spatial import Delaunay

from digipath.analysis import tils as module
from digipath.analysis.tils import BIOPSY, RESECTION, BulkSettings, labels_of, til_score, tumour_bulk
from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster

SLIDE = Frame.level0(24_000, 18_000, 0.5)  # 12 x 9 mm
rng = np.random.default_rng(0)


def drawn(planted, mpp=16.0):
    """Labels from (label, geometry in um), the later ones on top."""
    frame = SLIDE.at(mpp)
    values = np.zeros(frame.shape, np.uint8)
    for label, geometry in planted:
        inside = rasterize([Annotation("x", shapely.transform(geometry, lambda xy: 2 * xy))], frame)
        values[inside.array()] = label
    return Raster(values, frame)


def um2(annotation):
    return annotation.geometry.area / 4


def disc(x, y, radius):
    return shapely.Point(x, y).buffer(radius, 64)


@pytest.mark.parametrize("mpp", [8.0, 32.0])
def test_the_bulk_of_a_disc_is_the_disc_widened_by_250_um(mpp):
    found = tumour_bulk(drawn([(2, disc(6000, 4500, 4000)), (1, disc(6000, 4500, 2000))], mpp))
    assert um2(found) == pytest.approx(math.pi * 2250**2, rel=0.015)
    assert shapely.hausdorff_distance(found.geometry, disc(12_000, 9000, 4500)) < 2 * 40


def test_areas_density_and_score_are_those_worked_out_by_hand():
    # Stroma in the bulk is a ring from 2,000 to 2,250 um: pi * (2.25² - 2²) mm2; 300 of the cells lie in it.
    labels = drawn(
        [(7, shapely.box(0, 0, 12_000, 9000)), (2, disc(6000, 4500, 4000)), (1, disc(6000, 4500, 2000))], 8.0
    )
    angles = rng.uniform(0, 2 * math.pi, 600)
    radius = np.repeat([2120.0, 1000, 3000], [300, 200, 100])
    points = 2 * np.stack([6000 + radius * np.cos(angles), 4500 + radius * np.sin(angles)], 1)
    found = til_score(labels, points)
    assert (found.cells, found.cells_double, found.cells_elsewhere, found.note) == (300, 0, 300, "")
    assert found.tumour_mm2 == pytest.approx(math.pi * 4, rel=0.002)
    assert found.bulk_tumour_mm2 == found.tumour_mm2
    assert found.stroma_mm2 == pytest.approx(math.pi * (16 - 4), rel=0.002)
    assert found.bulk_mm2 == pytest.approx(um2(found.bulk) / 1e6, rel=0.001)
    assert found.bulk_stroma_mm2 == pytest.approx(found.bulk_mm2 - found.bulk_tumour_mm2, rel=1e-9)
    assert found.bulk_stroma_mm2 == pytest.approx(math.pi * (2.25**2 - 4), rel=0.06)
    assert found.density_per_mm2 == pytest.approx(300 / found.bulk_stroma_mm2)
    assert found.score == pytest.approx(100 * 300 * 64 / (found.bulk_stroma_mm2 * 1e6))
    assert found.bulk.measurements["TILs score"] == found.score


def test_a_bulk_drawn_by_hand_is_taken_as_it_is():
    labels = drawn([(6, shapely.box(0, 0, 12_000, 9000)), (1, shapely.box(1000, 1000, 2000, 2000))], 8.0)
    bulk = Annotation("bulk", shapely.box(2000, 2000, 6000, 4000))  # 2 x 1 mm, with 1 mm2 of tumour
    found = til_score(labels, [(5000, 3000), (3000, 3000), (7000, 3000)], bulk=bulk)
    assert (found.bulk_mm2, found.bulk_tumour_mm2, found.bulk_stroma_mm2) == pytest.approx((2, 1, 1))
    assert (found.cells, found.cells_elsewhere) == (1, 2)
    assert found.score == pytest.approx(100 * 64e-6)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 3.0, 8.0])
def test_areas_in_a_bulk_do_not_depend_on_the_resolution(mpp):
    frame = Frame.level0(2400, 1600, 0.5).at(mpp)  # 1,200 x 800 um
    values = np.full(frame.shape, 6, np.uint8)
    values[:, : round(400 / mpp)] = 1
    bulk = Annotation("bulk", disc(1200, 800, 700))
    found = til_score(Raster(values, frame), [(820, 800), (780, 800), (1880, 800), (1920, 800)], bulk=bulk)
    right = bulk.geometry.intersection(shapely.box(800, 0, 2400, 1600)).area / 4e6
    assert found.bulk_mm2 == pytest.approx(math.pi * 0.35**2, rel=0.01)
    assert found.bulk_stroma_mm2 == pytest.approx(right, rel=0.01)
    assert found.cells == 2


def test_specks_and_small_tumours_make_no_bulk():
    speck, small, large = (disc(3000, 3000, math.sqrt(mm2 * 1e6 / math.pi)) for mm2 in (0.004, 1.2, 1.7))
    assert tumour_bulk(drawn([(1, speck)])) is None
    assert tumour_bulk(drawn([(1, small)])) is None
    assert tumour_bulk(drawn([(1, small)]), BIOPSY) is not None
    assert tumour_bulk(drawn([(1, large)])) is not None


def test_a_strip_narrower_than_the_disc_is_no_bulk():
    strip = drawn([(1, shapely.box(1000, 1000, 9000, 1800))])  # 0.8 mm wide: a disc of 0.5 fits in, one of 1 does not
    assert tumour_bulk(strip) is None
    assert um2(tumour_bulk(strip, BIOPSY)) == pytest.approx(8e6 * 0.8 + 2 * 8800 * 250 + math.pi * 250**2, rel=0.05)


def test_the_hull_bridges_what_triangles_in_circles_of_457_um_reach_into_and_no_more():
    # Two blocks; the gap is crossed by triangles whose circles are as large as half of it and more.
    def hull(gap):
        blocks = [shapely.box(500, 500, 3500, 4500), shapely.box(3500 + gap, 500, 6500 + gap, 4500)]
        mask = drawn([(1, block) for block in blocks], 32.0).array() == 1
        return module._concave_hull(mask, 457.14 / 32)

    assert hull(800).geom_type == "Polygon"
    assert hull(1000).geom_type == "MultiPolygon"


def test_the_hull_is_that_of_triangles_between_all_pixels():
    frame = Frame.level0(70, 60, 1.0)
    shape = shapely.union_all([shapely.box(5, 5, 60, 18), shapely.box(5, 5, 18, 55), shapely.box(5, 42, 50, 55)])
    mask = rasterize([Annotation("x", shape), Annotation("x", shapely.Point(52, 30).buffer(6))], frame).array()
    for radius in (4.0, 14.2):
        corners = (points := np.argwhere(mask)[:, ::-1] + 0.5)[Delaunay(points).simplices]
        a, b, c = (np.hypot(*(corners[:, i] - corners[:, i - 1]).T) for i in range(3))
        area = shapely.area(shapely.polygons(corners))
        kept = (area > 0) & (a * b * c / (4 * np.maximum(area, 1e-9)) < radius)
        expected = shapely.coverage_union_all(shapely.polygons(corners[kept]))
        difference = shapely.symmetric_difference(module._concave_hull(mask, radius), expected).area
        assert difference < 0.01 * expected.area


def test_holes_of_the_bulk_are_filled_and_it_ends_at_the_slide():
    ring = disc(2000, 2000, 3000).difference(disc(2600, 2600, 900))
    found = tumour_bulk(drawn([(1, ring)])).geometry
    assert not found.interiors
    assert found.bounds[:2] == (0, 0)


def test_without_stroma_or_bulk_the_score_is_0_and_told():
    nothing = til_score(drawn([(2, disc(6000, 4500, 500))]), [(12_000, 9000)])
    assert (nothing.score, nothing.density_per_mm2, nothing.cells, nothing.bulk) == (0, 0, 0, None)
    assert nothing.note == "there is no tumour bulk"
    no_stroma = til_score(drawn([(1, disc(6000, 4500, 2000))]), np.zeros((0, 2)))
    assert (no_stroma.score, no_stroma.note) == (0, "there is no stroma in the tumour bulk")
    assert no_stroma.bulk_unseen_mm2 == pytest.approx(no_stroma.bulk_mm2 - no_stroma.bulk_tumour_mm2)


def test_a_score_above_100_is_not_clipped_and_told():
    labels = drawn([(2, shapely.box(1000, 1000, 1100, 1100))], 4.0)  # 0.01 mm2
    bulk = Annotation("bulk", shapely.box(0, 0, 4000, 4000))
    found = til_score(labels, rng.uniform(2010, 2190, (400, 2)), bulk=bulk)
    assert found.score == pytest.approx(100 * 400 * 64 / 10_000)
    assert "above 100" in found.note


def test_double_cells_count_once_in_the_order_of_points():
    labels = drawn([(2, shapely.box(0, 0, 4000, 4000))], 8.0)
    bulk = Annotation("bulk", shapely.box(0, 0, 8000, 8000))
    row = [(100 + 6 * i, 100) for i in range(5)]  # 3 um apart
    counts = {um: til_score(labels, row, bulk=bulk, min_distance_um=um).cells for um in (None, 3, 3.1, 6, 6.1, 12.1)}
    assert counts == {None: 5, 3: 5, 3.1: 3, 6: 3, 6.1: 2, 12.1: 1}
    again = til_score(labels, row * 3, bulk=bulk, min_distance_um=1)
    assert (again.cells, again.cells_double) == (5, 10)


def test_strips_change_nothing(monkeypatch):
    labels = drawn([(6, disc(6000, 4500, 4000)), (1, disc(5000, 4500, 1500)), (1, disc(8000, 4500, 1200))])
    points = rng.uniform((4000, 4000), (20_000, 14_000), (500, 2))
    whole = til_score(labels, points)
    monkeypatch.setattr(module, "_STRIP_PIXELS", 5000)
    cut = til_score(labels, points)
    assert cut.bulk.geometry.equals(whole.bulk.geometry)
    assert replace(cut, bulk=None) == replace(whole, bulk=None)


def test_a_heatmap_of_classes_gives_labels():
    frame = Frame.level0(4, 1, 8.0)
    values = np.array([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [np.nan, 0, 1]]], np.float32)
    heatmap = Raster(values, frame, ("other", "tumour", "stroma"))
    labels = labels_of(heatmap, tumour=("tumour",), stroma=("stroma",))
    assert labels.array().tolist() == [[7, 1, 2, 0]]
    covered = Raster(np.array([[1, 1, 0, 1]]), frame)
    assert labels_of(heatmap, tumour=("tumour",), stroma=("stroma",), covered=covered).array().tolist() == [
        [7, 1, 0, 0]
    ]
    with pytest.raises(SpecError, match="one or more of the heatmap's channels"):
        labels_of(heatmap, tumour=("cancer",), stroma=("stroma",))
    with pytest.raises(SpecError, match="as both"):
        labels_of(heatmap, tumour=("stroma",), stroma=("stroma",))


def test_what_is_no_label_no_point_and_no_setting_is_refused():
    labels = drawn([(1, disc(6000, 4500, 2000))])
    with pytest.raises(ResultError, match="lie on the slide"):
        til_score(labels, [(24_001, 5)])
    with pytest.raises(SpecError, match="got an array of shape"):
        til_score(labels, [(1, 2, 3)])
    with pytest.raises(SpecError, match="0 to 7"):
        til_score(Raster(labels.array() * 9, labels.frame), [])
    with pytest.raises(SpecError, match="whole numbers"):
        tumour_bulk(Raster(labels.array() / 7, labels.frame))
    with pytest.raises(SpecError, match="min_distance_um"):
        til_score(labels, [], min_distance_um=1000)
    for wrong in ({"alpha_per_um": 0}, {"disc_um": 10}, {"least_mm2": math.nan}, {"mpp": 0.1}):
        with pytest.raises(SpecError):
            BulkSettings(**wrong)
    assert pytest.approx(457.14, abs=0.01) == 1 / RESECTION.alpha_per_um
