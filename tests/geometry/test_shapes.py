import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label, perimeter_crofton, regionprops
from skimage.morphology import convex_hull_image

from digipath.errors import SpecError
from digipath.geometry import shapes
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.geometry.regions import find_regions
from digipath.geometry.shapes import measure

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))
SCALE, MPP = 4.4088, 0.25 * 4.4088


def raster(values, downsample=SCALE):
    return Raster(values, Frame(values.shape[1], values.shape[0], downsample, 0.25 * downsample))


def ellipse(major_um, minor_um, mpp, *, degrees=30.0, offset=(0.3, 0.1)):
    """A mask of a planted ellipse, by the centres of its pixels."""
    side = math.ceil(major_um / mpp) + 6
    rows, columns = np.mgrid[:side, :side] + 0.5 - side / 2
    x, y = (columns - offset[0]) * mpp, (rows - offset[1]) * mpp
    angle = math.radians(degrees)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    inside = (2 * along / major_um) ** 2 + (2 * across / minor_um) ** 2 <= 1
    return Raster(inside, Frame(side, side, mpp / 0.25, mpp))


@settings(max_examples=60)
@given(masks, st.integers(0, 9), st.sampled_from([1, 5, 1 << 18]), st.sampled_from([4, 8]))
def test_the_measures_are_those_of_scikit_image(mask, seed, chunk, connectivity):
    heatmap = np.random.default_rng(seed).random(mask.shape, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_CHUNK_RUNS", chunk)
        found = measure(raster(mask), raster(heatmap), connectivity=connectivity)
    expected = regionprops(label(mask, connectivity=connectivity // 4), heatmap)
    expected.sort(key=lambda region: (-region.area, region.label))
    assert [shape.id for shape in found] == list(range(1, len(expected) + 1))
    for shape, one in zip(found, expected, strict=True):
        assert shape.box.bounds == (one.bbox[1], one.bbox[0], one.bbox[3], one.bbox[2])
        assert shape.area_um2 == pytest.approx(one.area * MPP**2)
        assert shape.perimeter_um == pytest.approx(perimeter_crofton(np.pad(one.image, 1), 4) * MPP)
        large, small = (
            max(0, value) + 1 / 12 for value in one.inertia_tensor_eigvals
        )  # pixels are squares, not points
        assert shape.major_axis_um == pytest.approx(4 * math.sqrt(large) * MPP)
        assert shape.minor_axis_um == pytest.approx(4 * math.sqrt(small) * MPP)
        assert shape.eccentricity == pytest.approx(math.sqrt(1 - small / large), abs=1e-6)
        assert shape.extent == pytest.approx(one.extent)
        if (
            min(one.image.shape) > 2 and np.linalg.matrix_rank(one.coords - one.coords[0]) > 1
        ):  # scikit-image has no lines
            hull = convex_hull_image(one.image, offset_coordinates=False)
            assert shape.solidity == pytest.approx(one.area / hull.sum())
        assert shape.equivalent_diameter_um == pytest.approx(one.equivalent_diameter_area * MPP)
        assert shape.centroid == pytest.approx([(part + 0.5) * SCALE for part in reversed(one.centroid)])
        assert shape.mean_probability == pytest.approx(one.intensity_mean)
        assert shape.max_probability == one.intensity_max
        if shape.eccentricity > 1e-3:  # of a circle any diameter is the longest
            assert math.cos(2 * math.radians(shape.orientation_deg) - (math.pi - 2 * one.orientation)) > 1 - 1e-6


@settings(max_examples=30)
@given(masks)
def test_with_four_neighbours_they_are_the_components_of_find_regions(mask):
    found, regions = measure(raster(mask), connectivity=4), find_regions(raster(mask))
    assert [(shape.id, shape.box) for shape in found] == [(region.id, region.box) for region in regions]


@pytest.mark.parametrize("mpp", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("minor_um", [100.0, 160.0, 200.0])
@pytest.mark.parametrize("degrees", [0.0, 22.5, 45.0, 117.0])
def test_a_planted_ellipse_has_the_measures_of_the_ellipse(mpp, minor_um, degrees):
    (shape,) = measure(ellipse(200.0, minor_um, mpp, degrees=degrees))
    h = ((200 - minor_um) / (200 + minor_um)) ** 2
    ramanujan = math.pi * (100 + minor_um / 2) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert shape.area_um2 == pytest.approx(math.pi * 50 * minor_um, rel=0.05)
    assert shape.perimeter_um == pytest.approx(ramanujan, rel=0.10)
    assert shape.major_axis_um == pytest.approx(200, rel=0.05)
    assert shape.minor_axis_um == pytest.approx(minor_um, rel=0.05)
    assert shape.solidity == 1
    if minor_um < 200:
        assert shape.eccentricity == pytest.approx(math.sqrt(1 - (minor_um / 200) ** 2), rel=0.05)


@pytest.mark.parametrize("mask", [[[1]], [[1, 1, 1]], [[1], [1]], [[1, 0], [0, 1]], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]])
def test_points_and_lines_are_their_own_hulls(mask):
    assert measure(raster(np.array(mask)))[0].solidity == 1


@settings(max_examples=40)
@given(st.floats(1, 30), st.floats(0.3, 1), st.floats(0, 180), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_what_is_convex_has_a_solidity_of_one_however_small(major, ratio, degrees, offset):
    mask = ellipse(major, ratio * major, 1.0, degrees=degrees, offset=offset)
    assert {shape.solidity for shape in measure(mask)} <= {1.0}


def test_a_ring_sector_fills_the_share_of_its_hull_that_it_should():
    rows, columns = np.mgrid[:300, :300] + 0.5
    radius = np.hypot(rows - 150, columns - 150)
    (shape,) = measure(raster((radius < 120) & (radius > 80) & (rows < 150)))
    assert shape.solidity == pytest.approx(1 - 80**2 / 120**2, rel=0.01)


def test_the_axis_runs_from_end_to_end_of_a_planted_ellipse_in_level0_pixels():
    mask = ellipse(400.0, 100.0, 2.0, degrees=30.0, offset=(0, 0))
    (shape,) = measure(mask)
    centre = mask.frame.width / 2 * mask.frame.downsample
    dx, dy = 200 / 0.25 * math.cos(math.radians(30)), 200 / 0.25 * math.sin(math.radians(30))
    assert shape.orientation_deg == pytest.approx(30, abs=1)
    np.testing.assert_allclose(shape.axis, [(centre - dx, centre - dy), (centre + dx, centre + dy)], atol=20)


@settings(max_examples=30)
@given(masks, st.integers(1, 50), st.integers(1, 50))
def test_moving_a_mask_changes_no_measure_but_its_place(mask, right, down):
    moved = np.pad(mask, ((down, 0), (right, 0)))
    for shape, one in zip(measure(raster(mask)), measure(raster(moved)), strict=True):
        assert one.perimeter_um == pytest.approx(shape.perimeter_um)
        assert one.major_axis_um == pytest.approx(shape.major_axis_um)
        assert (one.area_um2, one.solidity, one.extent) == (shape.area_um2, shape.solidity, shape.extent)
        assert one.centroid == pytest.approx((shape.centroid[0] + right * SCALE, shape.centroid[1] + down * SCALE))


def test_small_components_are_left_out_on_request():
    mask = raster(np.array([[1, 1, 0, 1], [1, 1, 0, 0]]))
    assert [shape.area_um2 for shape in measure(mask, min_area_mm2=2 * mask.frame.pixel_mm2)] == [4 * MPP**2]


def test_an_empty_mask_has_no_shapes():
    assert measure(raster(np.zeros((3, 4), bool)), raster(np.zeros((3, 4)))) == []


def test_other_neighbourhoods_are_refused():
    with pytest.raises(SpecError, match="4 or 8"):
        measure(raster(np.ones((2, 2), bool)), connectivity=6)


def test_memory_grows_with_the_runs_and_not_with_a_label_image():
    mask = np.zeros((3000, 3000), bool)
    mask[::100, ::100] = mask[1::100, ::100] = True
    frame = raster(mask)
    tracemalloc.start()
    assert len(measure(frame)) == 900
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * mask.nbytes  # a label image alone would be 4 times the mask, or 8
