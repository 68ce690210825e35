import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage, stats

from digipath.analysis.features import FEATURES, lesion_features
from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import measure

MPP = 2.0
probabilities = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(0, 1, width=16)
)


def raster(values, mpp=MPP):
    return Raster(values, Frame(values.shape[1], values.shape[0], mpp / 0.25, mpp))


def discs(*planted, side=300, value=1.0):
    """A heatmap with discs of (x, y, radius) in pixels."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    heatmap = np.zeros((side, side), np.float32)
    for x, y, radius in planted:
        heatmap[np.hypot(columns - x, rows - y) <= radius] = value
    return heatmap


def test_there_are_the_32_features_of_the_table_each_with_its_unit():
    assert len(FEATURES) == len(set(FEATURES)) == 32
    for name in ("area", "perimeter", "eccentricity", "extent", "solidity"):
        assert sum(feature.startswith(f"{name}_") for feature in FEATURES) == 5
    assert {"area_variance_um4", "perimeter_mean_um", "tumour_area_um2", "extent_kurtosis"} < set(FEATURES)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_without_a_region_every_feature_is_zero(level):
    features = lesion_features(raster(np.full((20, 30), level)))
    assert tuple(features) == FEATURES
    assert set(features.values()) == {0.0}


def test_below_90_percent_only_the_features_of_50_percent_are_more_than_zero():
    features = lesion_features(raster(discs((100, 100, 50), value=0.7)))
    assert {name for name, value in features.items() if value} == {name for name in FEATURES if "_at_50_" in name}


def test_thresholds_include_90_percent_and_exclude_50_percent():
    for dtype in (np.float16, np.float32, np.float64):
        assert lesion_features(raster(np.full((4, 4), 0.9, dtype)))["region_count"] == 1
    assert lesion_features(raster(np.full((4, 4), 0.5)))["largest_region_area_at_50_um2"] == 0


def test_one_disc_has_its_own_measures_and_no_spread():
    features = lesion_features(raster(discs((150, 150, 100))))
    assert features["largest_region_major_axis_um"] == pytest.approx(400, rel=0.01)
    assert features["largest_region_major_axis_at_50_um"] == features["largest_region_major_axis_um"]
    assert features["area_max_um2"] == features["area_mean_um2"] == features["tumour_area_um2"]
    assert features["area_max_um2"] == pytest.approx(math.pi * 200**2, rel=0.01)
    assert features["perimeter_mean_um"] == pytest.approx(2 * math.pi * 200, rel=0.02)
    assert features["tumour_tissue_ratio"] == pytest.approx(math.pi * 100**2 / 300**2, rel=0.01)
    assert (features["region_count"], features["mean_probability"]) == (1, 1)
    spread = [name for name in FEATURES if name.split("_")[1] in ("variance", "skewness", "kurtosis")]
    assert len(spread) == 15
    assert {features[name] for name in spread} == {0.0}


def test_equal_regions_have_no_spread_though_they_lie_elsewhere():
    features = lesion_features(raster(discs((50, 50, 20), (150, 150, 20), (250, 50, 20))))
    assert features["region_count"] == 3
    assert (features["eccentricity_skewness"], features["area_kurtosis"]) == (0, 0)


@settings(max_examples=40)
@given(probabilities)
def test_statistics_are_those_of_scipy_over_the_regions(values):
    features = lesion_features(raster(values))
    shapes = measure(raster(values >= 0.9), raster(values))
    assert features["region_count"] == len(shapes)
    if shapes:
        assert features["mean_probability"] == pytest.approx(np.mean([shape.mean_probability for shape in shapes]))
    for name, unit in [("area", "_um2"), ("perimeter", "_um"), ("eccentricity", ""), ("extent", ""), ("solidity", "")]:
        of = np.array([getattr(shape, name + unit) for shape in shapes])
        squared = {"_um2": "_um4", "_um": "_um2", "": ""}[unit]
        found = [features[f"{name}_{one}"] for one in (f"max{unit}", f"mean{unit}", f"variance{squared}")]
        assert found == pytest.approx([of.max(), of.mean(), of.var()] if len(of) else [0, 0, 0], abs=1e-12)
        if len(of) > 1 and np.ptp(of) > 1e-6:
            expected = [stats.skew(of), stats.kurtosis(of)]
            assert [features[f"{name}_skewness"], features[f"{name}_kurtosis"]] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40)
@given(probabilities)
def test_a_heatmap_and_its_doubled_pixels_have_the_same_areas(values):
    once, twice = (
        lesion_features(raster(v, mpp)) for v, mpp in ((values, 4.0), (values.repeat(2, 0).repeat(2, 1), 2.0))
    )
    for name in FEATURES:
        if name.startswith(("area", "extent", "tumour", "region", "mean")) or "area_at_50" in name:
            assert twice[name] == pytest.approx(once[name], abs=1e-5)


@pytest.mark.parametrize("mpp", [1.0, 2.0, 4.0])
def test_planted_lesions_have_their_features_at_every_resolution(mpp):
    side, planted = round(1200 / mpp), [(300, 300, 200), (900, 300, 100), (600, 900, 150)]
    features = lesion_features(raster(discs(*(np.array(planted) / mpp), side=side), mpp))
    areas = [math.pi * radius**2 for *_, radius in planted]
    assert features["area_max_um2"] == pytest.approx(max(areas), rel=0.05)
    assert features["area_mean_um2"] == pytest.approx(np.mean(areas), rel=0.05)
    assert features["area_variance_um4"] == pytest.approx(np.var(areas), rel=0.10)
    assert features["perimeter_max_um"] == pytest.approx(400 * math.pi, rel=0.10)
    assert features["largest_region_major_axis_um"] == pytest.approx(400, rel=0.05)
    assert features["solidity_mean"] == pytest.approx(1, rel=0.05)


def test_the_axis_is_that_of_the_region_of_the_largest_area():
    heatmap = discs((100, 100, 60))
    heatmap[280:284, 10:290] = 1
    assert lesion_features(raster(heatmap))["largest_region_major_axis_um"] == pytest.approx(240, rel=0.01)


def test_only_what_is_covered_counts_in_tumour_and_tissue():
    heatmap, covered = discs((50, 150, 30), (250, 150, 30)), np.zeros((300, 300), bool)
    covered[:, :150] = True
    tissue = raster(np.ones((150, 150), np.uint8), 2 * MPP)  # coarser, and all of the slide
    features = lesion_features(raster(heatmap), tissue=tissue, covered=raster(covered))
    assert features["region_count"] == 1
    assert features["tumour_tissue_ratio"] == pytest.approx(math.pi * 30**2 / (300 * 150), rel=0.01)
    alone = lesion_features(raster(heatmap), covered=raster(covered))
    assert alone["tumour_tissue_ratio"] == features["tumour_tissue_ratio"]


def test_without_tissue_the_ratio_is_zero():
    features = lesion_features(raster(np.ones((9, 9))), tissue=raster(np.zeros((9, 9), bool)))
    assert (features["tumour_tissue_ratio"], features["region_count"]) == (0, 1)


def test_pixels_that_touch_at_a_corner_are_one_region():
    values = np.eye(4)
    assert lesion_features(raster(values))["region_count"] == ndimage.label(values, np.ones((3, 3)))[1] == 1


def test_what_is_no_probability_or_lies_elsewhere_is_refused():
    with pytest.raises(SpecError, match=r"\.channel\(name\)"):
        lesion_features(Raster(np.ones((3, 3, 1)), raster(np.ones((3, 3))).frame, ("tumour",)))
    with pytest.raises(SpecError, match="uint8"):
        lesion_features(raster(np.ones((3, 3), np.uint8)))
    with pytest.raises(SpecError, match="covered is in the heatmap's frame"):
        lesion_features(raster(np.ones((3, 3))), covered=raster(np.ones((4, 3), bool)))
    with pytest.raises(SpecError, match="one slide"):
        lesion_features(raster(np.ones((3, 3))), tissue=raster(np.ones((9, 3), bool)))
