import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.geometry.blend import blend, flat, hann
from digipath.geometry.frame import Box, Frame
from digipath.geometry.grid import PatchGrid


def whole(strips):
    strips = list(strips)
    assert [y for y, _ in strips] == np.cumsum([0, *[len(rows) for _, rows in strips[:-1]]]).tolist()
    return np.concatenate([rows for _, rows in strips])


def cut(image, box):
    padded = np.pad(image, [(200, 200), (200, 200), *[(0, 0)] * (image.ndim - 2)])
    return padded[box.shift(200, 200).slices()]


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(4, 64), st.floats(0.1, 1), st.sampled_from([flat, hann]))
def test_cutting_and_blending_gives_the_image_back(width, height, patch, step, window):
    image = np.random.default_rng(0).random((height, width, 2), "float32")
    grid = PatchGrid(Frame.level0(width, height, 1.0), (patch, patch), (max(1, int(patch * step)),) * 2)
    result = whole(blend(grid.frame, ((box, cut(image, box)) for box in grid), window(patch, patch)))
    np.testing.assert_allclose(result, image, atol=1e-6)


def test_pixels_without_a_patch_are_nan_and_every_row_is_emitted():
    frame = Frame.level0(40, 90, 1.0)
    boxes = [Box(8, 30, 16, 16), Box(16, 30, 16, 16), Box(0, 70, 16, 16)]
    result = whole(blend(frame, ((box, np.ones((16, 16))) for box in boxes), flat(16, 16)))
    assert result.shape == frame.shape
    expected = np.full(frame.shape, np.nan)
    for box in boxes:
        expected[box.slices()] = 1
    np.testing.assert_array_equal(result, expected)


def test_no_patches_give_only_nan():
    assert np.isnan(whole(blend(Frame.level0(5, 50, 1.0), [], flat(16, 16)))).all()


def test_overlaps_are_weighted_means_worked_by_hand():
    frame = Frame.level0(3, 1, 1.0)
    weights = np.array([[1.0, 3.0]], np.float32)
    patches = [(Box(0, 0, 2, 1), np.array([[1.0, 1.0]])), (Box(1, 0, 2, 1), np.array([[5.0, 7.0]]))]
    np.testing.assert_allclose(whole(blend(frame, patches, weights)), [[1, (3 * 1 + 1 * 5) / 4, 7]])


def test_patches_out_of_order_are_refused():
    patches = [(Box(0, y, 8, 8), np.ones((8, 8))) for y in (0, 8, 4)]
    with pytest.raises(SpecError, match="top to bottom"):
        list(blend(Frame.level0(8, 40, 1.0), patches, flat(8, 8)))
