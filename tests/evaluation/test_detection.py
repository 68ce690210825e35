"""Detections from heatmaps against the loop that they stand for, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from digipath.errors import ResultError, SpecError
from digipath.evaluation import detection as module
from digipath.evaluation.detection import RADIUS_UM, Detection, detections_by_maxima, detections_by_region
from digipath.geometry.frame import Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster


def heatmap_of(values, mpp=1.0):
    height, width = values.shape
    return Raster(np.asarray(values, np.float32), Frame.level0(width, height, mpp))


def one_at_a_time(values, threshold, radius):
    """The loop of DigiPathAI's nms.py over the whole image."""
    values, found = np.array(values, np.float32), []
    while values.max() > np.float32(threshold):
        row, column = np.unravel_index(values.argmax(), values.shape)
        found.append((float(values[row, column]), column + 0.5, row + 0.5))
        values[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = 0
    return found


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 200), st.integers(1, 150)),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.3, 0.5, 0.95]),
    st.booleans(),
)
def test_maxima_are_those_of_a_search_of_the_whole_image_each_time(seed, size, radius, threshold, plateaus):
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.random(size), 2)
    values = (values - values.min()) / max(np.ptp(values), 1e-9)
    values = np.round(values, 1) if plateaus else values
    if radius < 3:
        values = values * (rng.random(size) < 0.05)  # else the slow loop has thousands to find
    found = detections_by_maxima(heatmap_of(values), threshold=threshold, radius_um=radius)
    assert [tuple(one) for one in found] == one_at_a_time(values, threshold, radius)


def test_maxima_keep_their_distance_and_are_above_the_threshold():
    values = ndimage.gaussian_filter(np.random.default_rng(1).random((300, 300)), 3)
    values /= values.max()
    found = np.array(detections_by_maxima(heatmap_of(values, 2.0), threshold=0.9, radius_um=20))
    assert (found[:, 0] > 0.9).all() and (np.diff(found[:, 0]) <= 0).all()
    apart = np.abs(found[:, None, 1:] - found[:, 1:]).max(-1) + 100 * np.eye(len(found))
    assert apart.min() > 10  # 20 um at 2 um per pixel


def test_the_radius_is_24_pixels_of_level_five():
    assert abs(RADIUS_UM - 186.62) < 0.01
    values = np.zeros((1, 60))
    values[0, [5, 29, 30]] = 0.9, 0.8, 0.7  # 24 pixels away is suppressed, 25 are not
    raster = Raster(values.astype("float32"), Frame.level0(60 * 32, 32, 0.243).coarser(32))
    # Centres are at (i + 0.5) 32: 5.5 x 32 = 176, 30.5 x 32 = 976.
    assert detections_by_maxima(raster) == [(pytest.approx(0.9), 176, 16), (pytest.approx(0.7), 976, 16)]


def test_regions_have_one_detection_each_at_their_maximum():
    values = np.zeros((6, 9))
    values[1, 1:4] = 0.6, 0.8, 0.7
    values[4, 5:8] = 0.51, 0.55, 0.95
    values[0, 8] = 0.5  # not above the threshold
    assert detections_by_region(heatmap_of(values)) == [
        (pytest.approx(0.95), 7.5, 4.5),
        (pytest.approx(0.8), 2.5, 1.5),
    ]
    assert detections_by_region(heatmap_of(values), min_area_mm2=4e-6) == []


@pytest.mark.parametrize("detect", [detections_by_maxima, detections_by_region])
def test_nothing_is_detected_where_it_is_not_covered_or_not_a_number(detect):
    values = np.full((20, 20), np.nan)
    values[3, 4], values[15, 15] = 0.9, 0.8
    covered = np.ones((20, 20), bool)
    covered[3, 4] = False
    heatmap = heatmap_of(values)
    assert detect(heatmap, covered=Raster(covered, heatmap.frame)) == [(pytest.approx(0.8), 15.5, 15.5)]
    assert detect(heatmap_of(np.zeros((4, 5)))) == []


@pytest.mark.parametrize("detect", [detections_by_maxima, detections_by_region])
def test_heatmaps_that_are_read_in_parts_have_the_same_detections(detect):
    heatmap = heatmap_of(ndimage.gaussian_filter(np.random.default_rng(2).random((200, 130)), 2))
    level = float(np.quantile(heatmap.values, 0.9))
    lazy = Layer(heatmap.frame.shape, np.dtype("float32"), lambda rows: heatmap.values[rows])
    assert detect(Raster(lazy, heatmap.frame), threshold=level) == detect(heatmap, threshold=level) != []


@pytest.mark.parametrize("detect", [detections_by_maxima, detections_by_region])
def test_detections_lie_on_the_slide_also_where_pixels_overhang_it(detect):
    frame = Frame.level0(70, 70, 0.243).coarser(32)  # 3 x 3 pixels, of which the last begin at 64 and are centred at 80
    values = np.full((3, 3), 0.6, np.float32)
    values[2, 2] = 0.9
    found = detect(Raster(values, frame))
    assert found and all(x < 70 and y < 70 for _, x, y in found)


@pytest.mark.parametrize("detect", [detections_by_maxima, detections_by_region])
@pytest.mark.parametrize("threshold", [0.3, np.float32(0.3), np.float64(0.3)])
def test_what_a_mask_of_float16_leaves_out_at_its_threshold_is_not_detected(detect, threshold):
    # 0.3 in float16 is 0.30005, and the next number 0.30029.
    values = np.array([[0.3, 0, 0, 0, 0.3003]], np.float16)
    assert float(values[0, 0]) > 0.3
    found = detect(Raster(values, Frame.level0(5, 1, 1.0)), threshold=threshold)
    assert (values > float(threshold)).sum() == len(found) == 1 and found[0].x == 4.5


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(SpecError, match="threshold"):
        detections_by_maxima(heatmap_of(np.zeros((3, 3))), threshold=threshold)


def test_bytes_other_frames_and_negative_radii_are_refused():
    frame = Frame.level0(3, 3, 1.0)
    with pytest.raises(SpecError, match="divide bytes by 255"):
        detections_by_maxima(Raster(np.zeros((3, 3), np.uint8), frame))
    with pytest.raises(SpecError, match="covered"):
        covered = Raster(np.ones((2, 2), bool), frame.coarser(2))
        detections_by_region(heatmap_of(np.zeros((3, 3))), covered=covered)
    with pytest.raises(SpecError, match="radius_um"):
        detections_by_maxima(heatmap_of(np.zeros((3, 3))), radius_um=-1)


def test_more_detections_than_are_sensible_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_DETECTIONS", 10)
    with pytest.raises(ResultError, match="Raise the threshold or the radius"):
        detections_by_maxima(heatmap_of(np.ones((9, 9))), radius_um=0)


def test_a_detection_is_probability_x_and_y():
    assert Detection(0.5, 1, 2) == Detection(probability=0.5, x=1, y=2)
