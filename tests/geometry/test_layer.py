import numpy as np
import pytest

from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster


@pytest.mark.parametrize(
    "key",
    [
        slice(2, 5),
        slice(None),
        slice(-3, None),
        ...,
        (slice(1, 4), slice(2, 6)),
        (slice(0, 0), slice(None)),
        (..., 3),
    ],
)
def test_a_layer_is_sliced_like_the_array_that_it_stands_for(key):
    values = np.arange(70).reshape(10, 7)
    layer = Layer(values.shape, values.dtype, lambda rows: values[rows])
    np.testing.assert_array_equal(layer[key], values[key])


def test_only_the_rows_that_are_looked_at_are_made():
    made = []

    def rows(chosen):
        made.append((chosen.start, chosen.stop))
        return np.ones((chosen.stop - chosen.start, 40), bool)

    raster = Raster(Layer((1000, 40), np.dtype(bool), rows), Frame.level0(40, 1000, 0.5))
    assert raster.crop(Box(10, 20, 5, 7)).all()
    assert made == [(20, 27)]
