import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from digipath.errors import SpecError
from digipath.geometry import components
from digipath.geometry.components import find_runs
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def raster(mask):
    return Raster(mask, Frame(mask.shape[1], mask.shape[0], 4.0, 1.0))


def labels_of(runs):
    labels = np.zeros((runs.frame.height, runs.stride), int)
    for start, stop, component in zip(runs.starts, runs.stops, runs.component, strict=True):
        labels.ravel()[start:stop] = component + 1
    return labels[:, :-1]


@settings(deadline=None)
@given(masks, st.sampled_from([4, 1 << 20]))
def test_components_are_those_of_scipy_with_four_neighbours_whatever_the_strips(mask, strip):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_STRIP_PIXELS", strip)
        runs = find_runs(raster(mask))
    expected, count = ndimage.label(mask)
    np.testing.assert_array_equal(labels_of(runs), expected)  # numbered in reading order, as SciPy does
    np.testing.assert_array_equal(runs.pixels, np.bincount(expected.ravel(), minlength=count + 1)[1:])


def test_components_are_ordered_by_area_and_then_by_reading():
    runs = find_runs(raster(np.array([[1, 0, 1, 0, 1], [0, 0, 1, 0, 1], [1, 0, 0, 0, 1]])))
    assert runs.by_area().tolist() == [2, 1, 0, 3]
    assert runs.by_area(min_area_mm2=2e-6).tolist() == [2, 1]


def test_a_raster_with_channels_is_no_mask():
    frame = Frame(2, 2, 1.0, 1.0)
    with pytest.raises(SpecError, match="channel"):
        find_runs(Raster(np.ones((2, 2, 1)), frame, ("lesion",)))
