"""Scale bars and areas: what the page tells is what is so."""

import math

import numpy as np
import pytest

pytest.importorskip("dash")

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.segmentation import Segmentation
from digipath.viewer.areas import count
from digipath.viewer.measures import length, scale_bar


@pytest.mark.parametrize("mpp", [0.2499, 0.5, 1.0, 8.03])
@pytest.mark.parametrize("zoom", [-9, -4, -1, 0, 1, 2.5, 3])
def test_a_scale_bar_is_a_round_length_and_as_long_as_it_says(mpp, zoom):
    um, pixels = scale_bar(mpp, zoom, longest=140)
    assert pixels * mpp / 2**zoom == pytest.approx(um)  # at zoom 0 a pixel of the screen is one of the slide
    assert 140 / 2.5 < pixels <= 140
    digit = um / 10 ** math.floor(math.log10(um) + 1e-9)
    assert min(abs(digit - one) for one in (1, 2, 5)) < 1e-9


def test_lengths_are_in_millimetres_from_one_on():
    assert [length(um) for um in (0.5, 50, 1000, 20000)] == ["0.5 µm", "50 µm", "1 mm", "20 mm"]


def test_areas_above_a_threshold_are_those_of_the_mask_whatever_the_threshold(library):
    with Segmentation.load(library / "results" / "slide") as result:
        found = count(result.probability(), result.covered)
        on_the_edge = {float(value) for value in np.unique(result.probability().array())[::400]}
        for threshold in (0, 0.001, 0.1, 1 / 3, 0.5, 0.75, 0.9999, 1, *on_the_edge):
            assert found.mm2(threshold) == result.lesion_mm2(threshold), threshold
        assert found.covered_mm2 == result.covered.area_mm2
        assert found.share(0.5) == result.lesion_mm2(0.5) / result.covered.area_mm2


def test_a_zero_with_a_sign_is_no_more_than_zero_and_what_is_not_covered_does_not_count():
    frame = Frame.level0(4, 1, 10.0)
    values = np.array([[-0.0, 0.0, 1.0, 0.7]], np.float16)
    found = count(Raster(values, frame), Raster(np.array([[True, True, True, False]]), frame))
    assert found.mm2(0) == frame.pixel_mm2
    assert found.covered_mm2 == pytest.approx(3 * frame.pixel_mm2)
    assert count(Raster(values, frame), Raster(np.zeros((1, 4), bool), frame)).share(0.5) == 0
