import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import ResolutionError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.slides import ArraySlide

NOISE = np.random.default_rng(0).integers(0, 256, (211, 307, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    mpp=st.floats(0.13, 6.0),
    kernel=st.sampled_from(["box", "bilinear", "bicubic", "lanczos"]),
    corner=st.tuples(st.floats(-0.2, 1), st.floats(-0.2, 1)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_reading_any_box_equals_cropping_a_read_of_the_whole_frame(mpp, kernel, corner, size):
    slide = ArraySlide(NOISE, mpp=0.25)
    frame = slide.frame.at(mpp)
    border = 30
    whole = slide.read(Box(-border, -border, frame.width + 2 * border, frame.height + 2 * border), frame, kernel=kernel)
    x, y = int(corner[0] * frame.width), int(corner[1] * frame.height)
    box = Box(max(x, -border), max(y, -border), *size).intersect(Box(-border, -border, *whole.shape[1::-1]))
    crop = whole[box.shift(border, border).slices()]
    assert np.abs(slide.read(box, frame, kernel=kernel).astype(int) - crop).max(initial=0) <= 1


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.75, 1.0, 1.75])
def test_a_whole_multiple_is_the_mean_of_blocks_with_white_outside(mpp):
    slide = ArraySlide(NOISE, mpp=0.25)
    frame, k = slide.frame.at(mpp), round(mpp / 0.25)
    padded = np.full((frame.height * k, frame.width * k, 3), 255.0)
    padded[: NOISE.shape[0], : NOISE.shape[1]] = NOISE
    mean = padded.reshape(frame.height, k, frame.width, k, 3).mean((1, 3))
    assert np.abs(slide.read(frame.box, frame) - mean).max() <= 0.51


@pytest.mark.parametrize("mpp", [0.253, 0.6, 1.07, 3.3])
def test_the_box_kernel_is_the_exact_mean_over_a_pixels_area_at_any_scale(mpp):
    slide = ArraySlide(np.repeat(NOISE[:1], 50, 0).astype(np.float32) / 255, mpp=0.25)
    frame, scale = slide.frame.at(mpp), mpp / 0.25
    row = np.concatenate([NOISE[0, :, 0] / 255, np.ones(40)])  # White to the right of the slide.
    integral = np.concatenate([[0], np.cumsum(row)])
    edges = np.arange(frame.width + 1) * scale
    expected = np.diff(np.interp(edges, np.arange(len(integral)), integral)) / scale
    got = slide.read(Box(0, 0, frame.width, 1), frame)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("kernel", ["box", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("mpp", [0.13, 0.17, 0.25, 0.26, 0.8, 2.3])
def test_a_plain_slide_is_plain_at_every_resolution_and_white_outside(mpp, kernel):
    slide = ArraySlide(np.full((83, 101, 3), 90, np.uint8), mpp=0.25)
    frame = slide.frame.at(mpp)
    inside = int(101 * 0.25 / mpp), int(83 * 0.25 / mpp)
    got = slide.read(Box(-5, -5, frame.width + 10, frame.height + 10), frame, kernel=kernel)
    assert (got[5 : 5 + inside[1], 5 : 5 + inside[0]] == 90).all()
    outside = np.ones(got.shape[:2], bool)
    outside[5 : 5 + frame.height, 5 : 5 + frame.width] = False
    assert (got[outside] == 255).all()


@pytest.mark.parametrize("mpp", [0.125, 0.2, 0.25, 0.3, 0.5, 1.0])
def test_a_square_stays_where_it_is(mpp):
    image = np.full((400, 600, 3), 255, np.uint8)
    image[100:180, 240:360] = 0
    slide = ArraySlide(image, mpp=0.25)
    frame = slide.frame.at(mpp)
    dark = 1 - slide.read(frame.box, frame)[..., 0] / 255.0
    x, y = np.arange(frame.width) + 0.5, np.arange(frame.height) + 0.5
    assert (dark.sum(0) @ x) / dark.sum() * frame.downsample == pytest.approx(300, abs=0.02)
    assert (dark.sum(1) @ y) / dark.sum() * frame.downsample == pytest.approx(140, abs=0.02)


def test_at_its_own_resolution_the_pixels_are_copied_and_not_shared():
    array = NOISE.copy()
    slide = ArraySlide(array, mpp=0.25)
    got = slide.read(slide.frame.box, slide.frame)
    np.testing.assert_array_equal(got, array)
    got[:] = 0
    np.testing.assert_array_equal(array, NOISE)


def test_enlarging_is_linear_noted_and_refused_beyond_twice():
    slide = ArraySlide(NOISE, mpp=0.5)
    twice = slide.frame.at(0.25)
    expected = cv2.resize(NOISE, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    assert np.abs(slide.read(twice.box, twice).astype(int) - expected).max() <= 1
    assert slide.is_enlarged(twice)
    assert not slide.is_enlarged(slide.frame)
    assert not slide.is_enlarged(slide.frame.at(0.4999))
    with pytest.raises(ResolutionError, match=r"0\.25"):
        slide.read(Box(0, 0, 4, 4), slide.frame.at(0.24))


def test_grey_is_repeated_and_transparency_is_flattened_on_white():
    grey = ArraySlide(NOISE[..., 0], mpp=1)
    np.testing.assert_array_equal(grey.read(grey.frame.box, grey.frame), NOISE[..., :1].repeat(3, 2))
    rgba = np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)])
    rgba[:50, :, 3] = 0
    rgba[50:60, :, 3] = 51
    slide = ArraySlide(rgba, mpp=1)
    got = slide.read(slide.frame.box, slide.frame)
    assert (got[:50] == 255).all()
    np.testing.assert_allclose(got[50:60], NOISE[50:60] * 0.2 + 255 * 0.8, atol=0.51)
    np.testing.assert_array_equal(got[60:], NOISE[60:])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.full((4, 4, 3), 200.0),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4)),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(SpecError, match="array"):
        ArraySlide(array, mpp=1)


@pytest.mark.parametrize("mpp", [0, -1, float("nan")])
def test_a_resolution_that_is_none_is_refused(mpp):
    with pytest.raises(SpecError, match="mpp"):
        ArraySlide(NOISE, mpp=mpp)


def test_reads_that_make_no_sense_are_refused():
    slide = ArraySlide(NOISE, mpp=1)
    with pytest.raises(SpecError, match="kernel"):
        slide.read(Box(0, 0, 2, 2), slide.frame, kernel="nearest")
    with pytest.raises(SpecError, match="this slide"):
        slide.read(Box(0, 0, 2, 2), Frame.level0(10, 10, 1.0))
    with pytest.raises(SpecError, match="2 GiB"):
        slide.read(Box(0, 0, 30_000, 30_000), slide.frame)


def test_an_empty_box_and_a_box_far_outside_can_be_read():
    slide = ArraySlide(NOISE, mpp=1)
    assert slide.read(Box(5, 5, 0, 7), slide.frame.at(2)).shape == (7, 0, 3)
    assert (slide.read(Box(9000, -900, 3, 4), slide.frame.at(2)) == 255).all()


def test_a_copy_from_another_process_reads_the_same():
    slide = ArraySlide(NOISE, mpp=0.25, name="noise")
    copy = pickle.loads(pickle.dumps(slide))
    assert (copy.name, copy.frame, copy.mpp_source) == ("noise", slide.frame, slide.mpp_source)
    np.testing.assert_array_equal(copy.read(slide.frame.box, slide.frame), NOISE)


def test_a_large_level_is_reduced_without_holding_more_than_a_part_of_it(monkeypatch):
    slide = ArraySlide(NOISE, mpp=0.25)
    frame = slide.frame.at(4.1)
    expected = slide.read(frame.box, frame)
    areas = []
    read_level = slide._source.read_level
    monkeypatch.setattr("digipath.slides._pyramid._CHUNK_PIXELS", 2000)
    monkeypatch.setattr(slide._source, "read_level", lambda i, box: areas.append(box.area) or read_level(i, box))
    np.testing.assert_array_equal(slide.read(frame.box, frame), expected)
    assert max(areas) < 3000
