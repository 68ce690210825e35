import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from digipath.geometry.discs import closed, near, opened

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14))
radii = st.sampled_from([0, 0.7, 1, 1.5, 2, 2.9, 5])


def disc(radius):
    size = int(radius)
    rows, columns = np.mgrid[-size : size + 1, -size : size + 1]
    return rows**2 + columns**2 <= radius**2


@settings(max_examples=40)
@given(masks, radii)
def test_it_is_what_scipy_says_with_a_disc(mask, radius):
    np.testing.assert_array_equal(near(mask, radius), ndimage.binary_dilation(mask, disc(radius)))
    wide = np.pad(mask, 12)
    np.testing.assert_array_equal(closed(mask, radius), ndimage.binary_closing(wide, disc(radius))[12:-12, 12:-12])
    wide = np.pad(mask, 12, "edge")
    np.testing.assert_array_equal(opened(mask, radius), ndimage.binary_opening(wide, disc(radius))[12:-12, 12:-12])


@settings(max_examples=40)
@given(masks, radii)
def test_closing_only_adds_opening_only_removes_and_twice_is_once_off_the_border(mask, radius):
    mask = np.pad(mask, 6)
    filled, cleared = closed(mask, radius), opened(mask, radius)
    assert (filled >= mask).all()
    assert (cleared <= mask).all()
    np.testing.assert_array_equal(opened(cleared, radius), cleared)


@pytest.mark.parametrize("change", [closed, opened])
def test_what_is_full_or_empty_stays_so_up_to_the_border(change):
    assert change(np.ones((9, 7), bool), 5).all()
    assert not change(np.zeros((9, 7), bool), 5).any()
