import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame

sides = st.integers(1, 100_000)
factors = st.floats(0.3, 60)


@given(sides, sides, factors)
def test_a_frame_covers_its_slide_with_less_than_one_pixel_to_spare(width, height, factor):
    frame = Frame.level0(width, height, 0.25).at(0.25 * factor)
    for side, pixels in ((width, frame.width), (height, frame.height)):
        assert pixels * frame.downsample >= side * (1 - 1e-6) - 1e-5 * frame.downsample
        assert (pixels - 1) * frame.downsample < side


@given(sides, st.integers(1, 40), factors)
def test_going_coarser_in_two_ways_gives_the_same_frame(width, factor, mpp):
    slide = Frame.level0(width, width, 1.0)
    one, other = slide.at(mpp).coarser(factor), slide.at(mpp * factor)
    assert one.mpp == pytest.approx(other.mpp) and one.shape == other.shape


@given(st.integers(50, 5000), factors)
def test_the_pixels_on_a_slide_are_as_wide_as_the_slide_to_half_a_pixel(side, factor):
    frame = Frame.level0(side, side, 1.0).at(factor)
    assert abs(frame.on_slide.width * frame.downsample - side) <= frame.downsample / 2 * (1 + 1e-5)
    assert frame.on_slide.intersect(frame.box) == frame.on_slide


def test_resolution_is_one_multiplication_without_half_pixels():
    slide = Frame.level0(1000, 800, 0.25)
    coarse = slide.at(2.0)
    assert coarse.shape == (100, 125) and coarse.downsample == 8
    assert coarse.bounds_in(Box(1, 2, 3, 4), slide) == (8, 16, 32, 48)
    assert slide.box_in(Box(7, 8, 2, 8), coarse) == Box(0, 1, 2, 1)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 60), st.integers(1, 9))
def test_a_coarser_box_covers_the_finer_one_and_no_cell_more(x, y, side, factor):
    box, coarse = Box(x, y, side, side), Box(x, y, side, side).coarser(factor)
    assert coarse.x * factor <= x < (coarse.x + 1) * factor
    assert coarse.bottom * factor >= box.bottom > (coarse.bottom - 1) * factor or side == 0


def test_boxes_intersect_shift_and_shrink():
    assert Box(0, 0, 10, 10).intersect(Box(5, -5, 10, 10)) == Box(5, 0, 5, 5)
    assert Box(0, 0, 4, 4).intersect(Box(9, 9, 2, 2)).area == 0
    assert Box(0, 0, 10, 8).shrink(2).shift(1, 1) == Box(3, 3, 6, 4)


def test_nonsense_is_refused():
    for make in (
        lambda: Box(0, 0, -1, 1),
        lambda: Frame(0, 5, 1, 1),
        lambda: Frame(5, 5, 1, np.nan),
        lambda: Frame.level0(5, 5, 1).at(0),
        lambda: Frame.level0(5, 5, 1).coarser(0),
    ):
        with pytest.raises(SpecError):
            make()
