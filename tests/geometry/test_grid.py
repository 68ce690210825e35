import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.grid import PatchGrid, bands


def grids():
    return st.builds(
        lambda width, height, patch, stride, margin: PatchGrid(
            Frame.level0(width, height, 1.0), (patch + 2 * margin,) * 2, (min(stride, patch),) * 2, margin
        ),
        st.integers(1, 200),
        st.integers(1, 200),
        st.integers(1, 64),
        st.integers(1, 64),
        st.integers(0, 8),
    )


@given(grids())
def test_the_described_parts_cover_the_frame_and_no_box_is_idle(grid):
    covered = np.zeros(grid.frame.shape, int)
    for box in grid:
        inside = box.shrink(grid.margin).intersect(grid.frame.box)
        assert inside.area
        covered[inside.slices()] += 1
    assert covered.min() >= 1
    assert len(list(grid)) == len(grid)


@given(grids())
def test_boxes_start_at_multiples_of_the_stride_and_none_is_moved(grid):
    for box in grid:
        assert (box.x + grid.margin) % grid.stride[0] == 0 and (box.y + grid.margin) % grid.stride[1] == 0
        assert (box.width, box.height) == grid.patch


@given(grids(), st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90))
def test_bands_hold_the_union_of_the_boxes_in_whole_cells_and_every_pixel_once(grid, seed, rows, widest):
    rng = np.random.default_rng(seed)
    kept = [box for box in grid if rng.random() < 0.4]
    pad, (width, height) = 600, grid.cell
    union, read = (np.zeros((grid.frame.height + 2 * pad, grid.frame.width + 2 * pad), int) for _ in range(2))
    for box in kept:
        whole = Box(box.x, box.y, -(-box.width // width) * width, -(-box.height // height) * height)
        assert whole.width - box.width < grid.stride[0] and whole.height - box.height < grid.stride[1]
        union[whole.shift(pad, pad).slices()] = 1
    bottom = -pad
    for band in bands(grid, kept, rows=rows, widest=widest):
        assert band.box.y >= bottom
        bottom = band.box.bottom
        for part in band.parts:
            assert part.intersect(band.box) == part
            read[part.shift(pad, pad).slices()] += 1
    np.testing.assert_array_equal(read, union)


def test_a_stride_that_would_lose_pixels_is_refused():
    with pytest.raises(SpecError, match="lost"):
        PatchGrid(Frame.level0(100, 100, 1.0), (64, 64), (64, 64), margin=1)
