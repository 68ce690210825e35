import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.condense import condense
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

rng = np.random.default_rng(8)
LEVEL0 = Frame.level0(331, 517, 1.0)
FINER_AND_COARSER = [0.3, 0.8, 1.0, 1.9, 2.0, 3.7, 8.0, 60.0, 900.0]


class Recorded:
    """Sliced like an array; remembers which rows were asked for."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.asked = values, values.shape, values.dtype, []

    def __getitem__(self, rows):
        self.asked.append((rows.start, rows.stop))
        return self.values[rows]


def random_mask(share=0.7):
    return Raster(rng.random(LEVEL0.shape) < share, LEVEL0)


@pytest.mark.parametrize("mpp", FINER_AND_COARSER)
def test_a_constant_under_any_mask_stays_that_constant(mpp):
    mask = random_mask()
    values = Raster(np.where(mask.values, np.float16(0.3), np.float16(np.nan)), LEVEL0)
    got = condense(values, LEVEL0.at(mpp), mask=mask)
    seen = got.share > 0
    np.testing.assert_allclose(got.mean[seen], np.float16(0.3), rtol=1e-5)
    assert got.mean.max() <= np.float16(0.3)  # rounding may not lift it over a threshold of that value
    np.testing.assert_allclose(got.peak[seen], np.float16(0.3))
    assert np.isneginf(got.peak[~seen]).all() and not got.mean[~seen].any()


@pytest.mark.parametrize("mpp", FINER_AND_COARSER)
def test_without_a_mask_every_pixel_is_whole_also_over_the_border(mpp):
    got = condense(Raster(np.ones(LEVEL0.shape, bool), LEVEL0), LEVEL0.at(mpp))
    for values in (got.mean, got.share, got.peak):
        np.testing.assert_allclose(values, 1, rtol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 7, 40])
def test_whole_factors_give_mean_share_and_maximum_of_what_the_mask_holds(factor):
    values, mask = rng.random((280, 560), "float32"), rng.random((280, 560)) < 0.6
    frame = Frame.level0(560, 280, 0.5)
    got = condense(Raster(values, frame), frame.coarser(factor), mask=Raster(mask, frame))
    masked = np.ma.array(values, mask=~mask).reshape(280 // factor, factor, 560 // factor, factor)
    np.testing.assert_allclose(got.mean, masked.mean((1, 3)).filled(0), atol=1e-6)
    np.testing.assert_allclose(got.share, 1 - masked.mask.mean((1, 3)), atol=1e-6)
    np.testing.assert_array_equal(got.peak, masked.max((1, 3)).filled(-np.inf))


@pytest.mark.parametrize("mpp", FINER_AND_COARSER)
def test_no_pixel_is_lost_from_the_peaks(mpp):
    frame = LEVEL0.at(mpp)
    for x, y in [(0, 0), (330, 516), (100, 256), (207, 31)]:
        values = np.zeros(LEVEL0.shape, np.float32)
        values[y, x] = 1
        peak = condense(Raster(values, LEVEL0), frame).peak
        rows, columns = np.nonzero(peak == 1)
        assert len(rows)
        reach = max(2, 2 * mpp)  # a block's maximum holds for the whole block
        assert (np.abs((rows + 0.5) * mpp - y - 0.5) <= reach).all()
        assert (np.abs((columns + 0.5) * mpp - x - 0.5) <= reach).all()


@pytest.mark.parametrize("mpp", [0.4, 1.3, 2.6, 7.9, 31.0])
def test_nothing_is_shifted(mpp):
    smooth = np.add.outer(np.sin(np.arange(517) / 60), np.cos(np.arange(331) / 45)).astype(np.float32)
    got, frame = condense(Raster(smooth, LEVEL0), LEVEL0.at(mpp)).mean, LEVEL0.at(mpp)
    y, x = ((np.arange(side) + 0.5) * mpp - 0.5 for side in frame.shape)
    expected = np.add.outer(np.sin(y / 60), np.cos(x / 45))
    np.testing.assert_allclose(got[1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.01 + (mpp / 150) ** 2)


def test_strips_are_read_from_top_to_bottom_once_and_give_the_same():
    values, mask = rng.random((3000, 40)).astype(np.float16), rng.random((3000, 40)) < 0.5
    frame = Frame.level0(40, 3000, 1.0)
    lazy, lazy_mask = Recorded(values), Recorded(mask)
    got = condense(Raster(lazy, frame), frame.at(7.3), mask=Raster(lazy_mask, frame))
    whole = condense(Raster(values, frame), frame.at(7.3), mask=Raster(mask, frame))
    for name in ("mean", "share", "peak"):
        np.testing.assert_array_equal(getattr(got, name), getattr(whole, name))
    for asked in (lazy.asked, lazy_mask.asked):
        assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])] and asked[-1][1] == 3000
        assert max(stop - start for start, stop in asked) <= 256


def test_values_under_an_empty_strip_of_the_mask_are_not_read():
    frame, mask = Frame.level0(9, 2000, 1.0), np.zeros((2000, 9), bool)
    mask[1999] = True
    lazy = Recorded(np.ones((2000, 9), np.float16))
    condense(Raster(lazy, frame), frame, mask=Raster(mask, frame))
    assert len(lazy.asked) == 1


def test_another_slide_and_a_mask_of_another_frame_are_refused():
    raster = random_mask()
    with pytest.raises(SpecError, match="own slide"):
        condense(raster, Frame.level0(330, 517, 1.0))
    with pytest.raises(SpecError, match="own shape"):
        condense(raster, LEVEL0.at(4.0), mask=raster.resample(LEVEL0.at(2.0)))
