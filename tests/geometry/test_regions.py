import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label, regionprops

from digipath.errors import SpecError
from digipath.geometry import regions
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import polygonize
from digipath.geometry.raster import Raster
from digipath.geometry.regions import find_regions

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def raster(values, downsample=4.4088):
    return Raster(values, Frame(values.shape[1], values.shape[0], downsample, 0.25 * downsample))


@settings(deadline=None)
@given(masks, st.integers(0, 9), st.sampled_from([4, 1 << 20]))
def test_regions_are_those_of_scikit_image_with_four_neighbours(mask, seed, strip):
    heatmap = np.random.default_rng(seed).random(mask.shape, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_STRIP_PIXELS", strip)
        found = find_regions(raster(mask), raster(heatmap))
    expected = sorted(
        regionprops(label(mask, connectivity=1), heatmap), key=lambda region: (-region.area, region.label)
    )
    assert [region.id for region in found] == list(range(1, len(expected) + 1))
    for region, one in zip(found, expected, strict=True):
        assert region.box.bounds == (one.bbox[1], one.bbox[0], one.bbox[3], one.bbox[2])
        assert region.area_mm2 == pytest.approx(one.area * (0.25e-3 * 4.4088) ** 2)
        assert region.centroid == pytest.approx([(part + 0.5) * 4.4088 for part in reversed(one.centroid)])
        assert region.mean_probability == pytest.approx(one.intensity_mean)
        assert region.max_probability == one.intensity_max
        column, row = (int(part / 4.4088) for part in region.peak)
        assert heatmap[row, column] == one.intensity_max
        assert mask[row, column]


@settings(deadline=None)
@given(masks, st.integers(0, 4))
def test_regions_and_polygons_are_the_same_components_in_the_same_order(mask, smallest):
    mask = raster(mask)
    area = smallest * mask.frame.pixel_mm2 * 0.999
    found, outlined = find_regions(mask, min_area_mm2=area), polygonize(mask, min_area_mm2=area)
    assert len(found) == len(outlined)
    for region, annotation in zip(found, outlined, strict=True):
        assert region.area_mm2 == pytest.approx(annotation.geometry.area * 0.25e-3**2)
        assert annotation.geometry.bounds == pytest.approx([side * 4.4088 for side in region.box.bounds])


def test_without_a_heatmap_there_is_no_probability():
    (region,) = find_regions(raster(np.ones((2, 3), bool), 2.0))
    assert (region.mean_probability, region.max_probability, region.peak) == (None, None, None)
    assert region.centroid == (3.0, 2.0)


def test_the_peak_is_the_first_pixel_with_the_largest_value():
    (region,) = find_regions(raster(np.ones((2, 2), bool), 1.0), raster(np.array([[0.1, 0.9], [0.9, 0.2]]), 1.0))
    assert region.peak == (1.5, 0.5)


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.zeros((2, 3, 1))])
def test_a_heatmap_of_another_frame_or_with_channels_is_refused(values):
    frame = Frame(values.shape[1], values.shape[0], 1.0, 1.0)
    heatmap = Raster(values, frame, ("lesion",) if values.ndim == 3 else ())
    with pytest.raises(SpecError, match="resample"):
        find_regions(Raster(np.ones((2, 3), bool), Frame(3, 2, 1.0, 1.0)), heatmap)
