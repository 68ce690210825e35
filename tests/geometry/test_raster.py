import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster

rng = np.random.default_rng(3)


def mask_at(downsample):
    frame = Frame.level0(57 * 8, 101 * 8, 0.25).coarser(downsample)
    return Raster(rng.random(frame.shape) > 0.5, frame)


def test_coverage_is_the_exact_share_of_a_box_also_through_pixels_and_over_borders():
    mask = mask_at(8)
    level0 = np.pad(np.kron(mask.values, np.ones((8, 8))), 64)
    boxes = [Box(3, 5, 17, 40), Box(-5, -5, 20, 30), Box(440, 790, 40, 40), Box(9, 9, 0, 4), Box(16, 16, 8, 8)]
    expected = [level0[box.shift(64, 64).slices()].mean() if box.area else 0 for box in boxes]
    got = mask.coverage(boxes, Frame.level0(57 * 8, 101 * 8, 0.25))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_resampling_to_a_coarser_frame_is_the_area_mean():
    values = Raster(rng.random((100, 60), "float32"), Frame.level0(60, 100, 1.0))
    coarse = values.resample(values.frame.coarser(2)).array()
    np.testing.assert_allclose(coarse, values.values.reshape(50, 2, 30, 2).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("mpp", [0.5, 0.9, 1.0, 1.7, 13.0])
def test_resampling_keeps_constants_and_does_not_shift_a_ramp(mpp):
    frame = Frame.level0(130, 90, 1.0)
    ramp = np.broadcast_to(np.arange(130, dtype="float32") + 0.5, frame.shape)
    other = Raster(ramp, frame).resample(frame.at(mpp)).array()
    centres = np.minimum((np.arange(other.shape[1]) + 0.5) * mpp, 130)
    np.testing.assert_allclose(other[0, 1:-2], centres[1:-2], atol=0.13)  # a ramp of steps
    np.testing.assert_allclose(Raster(np.full(frame.shape, 0.3), frame).resample(frame.at(mpp)).array(), 0.3, 1e-6)


def test_masks_take_the_value_under_the_centre():
    mask = mask_at(8)
    fine = mask.resample(Frame.level0(57 * 8, 101 * 8, 0.25))
    np.testing.assert_array_equal(fine.values, np.kron(mask.values, np.ones((8, 8), bool)))
    np.testing.assert_array_equal(fine.resample(mask.frame).values, mask.values)
    box = Box(11, 500, 90, 21)
    np.testing.assert_array_equal(mask.sample(box, fine.frame), fine.values[box.slices()])


def test_cropping_over_the_border_gives_zeros_there():
    raster = Raster(np.ones((4, 6, 2)), Frame.level0(6, 4, 1.0), ("a", "b"))
    crop = raster.crop(Box(-2, 2, 5, 5))
    assert crop.shape == (5, 5, 2) and crop.sum() == 2 * 3 * 2 and crop[:2, 2:].all()


def test_areas_and_bounding_boxes_worked_by_hand():
    values = np.zeros((10, 20), bool)
    values[2:4, 5:15] = True
    raster = Raster(values, Frame.level0(20, 10, 500.0))
    assert raster.area_mm2 == pytest.approx(20 * 0.25)
    assert raster.bounding_box() == Box(5, 2, 10, 2)
    assert Raster(~values & False, raster.frame).bounding_box().area == 0


def test_shapes_that_do_not_fit_are_refused():
    frame = Frame.level0(6, 4, 1.0)
    with pytest.raises(SpecError, match="rows"):
        Raster(np.ones((6, 4)), frame)
    with pytest.raises(SpecError, match="channels"):
        Raster(np.ones((4, 6, 3)), frame, ("a", "b"))
    with pytest.raises(SpecError, match="channels are a"):
        Raster(np.ones((4, 6, 1)), frame, ("a",)).channel("b")
    with pytest.raises(SpecError, match="own slide"):
        Raster(np.ones((4, 6)), frame).resample(Frame.level0(7, 4, 1.0))
