"""Tumour contours and scores of folds: exact distances, measures by hand."""

import csv
import io
import math
import statistics

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from digipath.analysis.microdosimetry import (
    contour_rows,
    contours_csv,
    contours_of_mask,
    contours_of_polygons,
    fold_summary,
)
from digipath.errors import AnnotationError, ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, polygonize
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import measure

SLIDE = Frame.level0(2000, 1000, 0.5)
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=24))


def raster(mask, mpp=0.5, downsample=4):
    return Raster(mask, Frame(mask.shape[1], mask.shape[0], downsample, mpp))


def outlines(*geometries):
    return [Annotation("tumor", geometry) for geometry in geometries]


def distances(geometries):
    every = shapely.distance(geometries[:, None], geometries[None])
    np.fill_diagonal(every, np.inf)
    return every


def test_squares_have_the_measures_worked_out_by_hand():
    # A (20 x 20), B (10 x 10) 30 right of it and 40 below: sqrt(30² + 40²) = 50; C (4 x 4) 6 left of A.
    boxes = shapely.box(100, 100, 120, 120), shapely.box(150, 160, 160, 170), shapely.box(90, 100, 94, 104)
    a, b, c = contours_of_polygons(outlines(*boxes), SLIDE)
    assert (a.area_um2, a.perimeter_um, a.centroid) == (100, 40, (110, 110))
    assert a.equivalent_diameter_um == pytest.approx(2 * math.sqrt(100 / math.pi))
    assert (a.nearest_id, a.nearest_distance_um) == (c.id, 3)
    assert (b.nearest_id, b.nearest_distance_um) == (a.id, 25)
    assert (c.nearest_id, c.nearest_distance_um) == (a.id, 3)
    assert (c.centroid_nearest_id, c.centroid_distance_um) == (a.id, pytest.approx(math.sqrt(18**2 + 8**2) / 2))


@settings(max_examples=25, deadline=None)
@given(masks)
def test_distances_between_regions_of_a_mask_are_those_of_all_pairs(mask):
    found, shapes = contours_of_mask(raster(mask)), measure(raster(mask))
    whole = np.array([one.geometry for one in polygonize(raster(mask), connectivity=8)], object)
    assert [one.area_um2 for one in found] == [one.area_um2 for one in shapes]
    assert [one.area_um2 for one in found] == pytest.approx((shapely.area(whole) / 64).tolist())
    if len(found) < 2:
        assert all(one.nearest_distance_um is None for one in found)
        return
    every = distances(whole)
    assert [one.nearest_distance_um for one in found] == pytest.approx((every.min(1) / 8).tolist())
    assert [one.nearest_id for one in found] == (every.argmin(1) + 1).tolist()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 3, st.integers(1, 15), st.integers(3, 40)), min_size=2, max_size=14))
def test_distances_between_polygons_are_those_of_all_pairs_also_where_they_overlap(stars):
    shapes = []
    for x, y, turn, radius, points in stars:
        angles = turn + np.linspace(0, 2 * math.pi, points, endpoint=False)
        reach = radius * (1 - 0.5 * (np.arange(points) % 2))
        shapes.append(shapely.Polygon(np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1)))
    found = contours_of_polygons(outlines(*shapes), SLIDE)
    order = np.argsort(-shapely.area(shapes), kind="stable")
    every = distances(np.array(shapes, object)[order])
    assert [one.nearest_distance_um for one in found] == pytest.approx((every.min(1) / 2).tolist(), abs=1e-9)


def test_a_polygon_in_another_or_the_same_twice_is_0_apart_and_an_island_in_a_hole_is_not():
    big, small = shapely.box(0, 0, 100, 100), shapely.box(40, 40, 60, 60)
    assert [one.nearest_distance_um for one in contours_of_polygons(outlines(big, small), SLIDE)] == [0, 0]
    assert [one.nearest_distance_um for one in contours_of_polygons(outlines(big, big), SLIDE)] == [0, 0]
    around = big.difference(shapely.box(30, 30, 70, 70))
    assert [one.nearest_distance_um for one in contours_of_polygons(outlines(around, small), SLIDE)] == [5, 5]


def test_the_only_contour_has_no_neighbour_and_no_mask_no_contour():
    (one,) = contours_of_mask(raster(np.ones((3, 3), bool)))
    assert (one.nearest_id, one.nearest_distance_um, one.centroid_distance_um) == (None, None, None)
    assert contours_of_mask(raster(np.zeros((3, 3), bool))) == contours_of_polygons([], SLIDE) == []


def test_small_regions_are_no_neighbours():
    mask = np.zeros((10, 60), bool)
    mask[:8, :8] = mask[:8, 40:48] = mask[2, 12] = True
    assert contours_of_mask(raster(mask))[0].nearest_distance_um == 2
    assert [one.nearest_distance_um for one in contours_of_mask(raster(mask), min_area_mm2=1e-6)] == [16, 16]


def test_the_table_says_its_units_and_reads_back():
    found = contours_of_polygons(outlines(shapely.box(0, 0, 8, 8), shapely.box(20, 0, 24, 4)), SLIDE)
    rows = list(csv.DictReader(io.StringIO(contours_csv(found))))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == contour_rows(found)
    assert rows[0]["nearest_distance_um"] == "6.0"
    assert list(csv.DictReader(io.StringIO(contours_csv(found[:0])))) == []


def test_what_has_no_area_is_no_contour():
    with pytest.raises(AnnotationError, match="polygons with an area; of 2 annotations 1 are none"):
        contours_of_polygons([*outlines(shapely.box(0, 0, 8, 8)), Annotation("x", shapely.Point(1, 1))], SLIDE)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_folds_are_summed_up_by_mean_and_sample_deviation(scores):
    found = fold_summary([{"dice": score, "twice": 2 * score} for score in scores])
    assert list(found) == ["dice", "twice"]
    assert found["dice"].mean == pytest.approx(np.mean(scores))
    assert found["dice"].sd == pytest.approx(np.std(scores, ddof=1), abs=1e-12)
    assert found["twice"].folds == tuple(2 * score for score in scores)


def test_a_summary_is_written_as_in_the_paper():
    assert str(fold_summary([{"dice": 0.7}, {"dice": 0.8}])["dice"]) == f"0.750 ± {statistics.stdev((0.7, 0.8)):.3f}"


def test_folds_that_cannot_be_summed_up_are_refused():
    with pytest.raises(SpecError, match="at least two"):
        fold_summary([{"dice": 1.0}])
    with pytest.raises(SpecError, match="fold 2 and fold 1 differ in auc"):
        fold_summary([{"dice": 1.0}, {"dice": 1.0, "auc": 1.0}])
    with pytest.raises(ResultError, match="dice = nan in fold 2"):
        fold_summary([{"dice": 1.0}, {"dice": math.nan}])
