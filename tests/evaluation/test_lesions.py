"""Lesions against scipy and scikit-image step by step as the organisers do it, and by hand."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure

from digipath.errors import ResultError, SpecError
from digipath.evaluation.lesions import (
    CAMELYON16,
    LesionRule,
    lesion_frame,
    lesions_from_mask,
    lesions_from_polygons,
)
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster
from digipath.io.annotations import read_annotations


def level5(mask):
    """A mask whose pixels are those of level 5 of a CAMELYON16 slide."""
    height, width = mask.shape
    return Raster(mask, Frame.level0(32 * width, 32 * height, 0.243).coarser(32))


def by_organisers(mask):
    """Labels and isolated tumour cells, with full-size distances and regionprops."""
    distances = ndimage.distance_transform_edt(255 - 255 * mask.astype(int))
    filled = ndimage.binary_fill_holes(distances < 75 / (0.243 * pow(2, 5) * 2))
    labels = measure.label(filled, connectivity=2)
    properties = measure.regionprops(labels)
    itc = {p.label for p in properties if p.axis_major_length < 275 / (0.243 * pow(2, 5))}
    return labels, itc, [p.axis_major_length for p in properties]


def blobs(seed, size):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random(size), rng.uniform(0.5, 4))
    return noise > np.quantile(noise, rng.uniform(0.6, 0.995))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 90), st.integers(1, 120)))
def test_labels_and_isolated_tumour_cells_are_those_of_scipy_and_scikit_image(seed, size):
    mask = blobs(seed, size)
    lesions = lesions_from_mask(level5(mask))
    if not mask.any():
        assert len(lesions) == 0
        return
    labels, itc, axes = by_organisers(mask)
    np.testing.assert_array_equal(lesions.labels.array(), labels)
    assert lesions.itc == itc
    np.testing.assert_allclose(lesions.axes_um, np.array(axes) * 7.776, rtol=1e-9)
    assert lesions.to_find == len(axes) - len(itc)


def test_numbers_of_the_rule_are_those_of_the_organisers():
    assert CAMELYON16.grow_pixels == pytest.approx(4.8225, abs=1e-4)  # 75 / (0.243 * 32 * 2)
    assert CAMELYON16.itc_pixels == pytest.approx(35.3652, abs=1e-4)  # 275 / (0.243 * 32)


@pytest.mark.parametrize(("gap", "count"), [(8, 1), (9, 2)])
def test_a_gap_is_bridged_up_to_four_pixels_from_each_side(gap, count):
    # Both sides grow by the whole pixels below 4.82, 4 each: 8 empty pixels between (70 um) are closed, 9 are not.
    mask = np.zeros((30, 60), bool)
    mask[10:20, 5:15] = mask[10:20, 15 + gap : 30 + gap] = True
    assert len(lesions_from_mask(level5(mask))) == count


@pytest.mark.parametrize(("shift", "inside"), [((4, 2), True), ((3, 3), True), ((4, 3), False), ((5, 0), False)])
def test_growth_is_by_a_disc_not_by_a_square(shift, inside):
    # 4² + 2² = 20 and 3² + 3² = 18 are below 4.8225² = 23.26; 4² + 3² = 25 and 5² = 25 are not.
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    labels = lesions_from_mask(level5(mask)).labels.array()
    assert bool(labels[10 + shift[0], 10 + shift[1]]) is inside


def test_holes_are_filled_unless_they_open_to_the_edge():
    ring = np.zeros((60, 60), bool)
    ring[10:50, 10:50], ring[14:46, 14:46] = True, False
    assert lesions_from_mask(level5(ring)).labels.array()[30, 30] == 1
    bay = np.roll(ring, -14, axis=0)  # its upper side has left the image: rows 0 to 31 of the hole are open
    bay[46:] = False
    assert lesions_from_mask(level5(bay)).labels.array()[5, 30] == 0


@pytest.mark.parametrize(("length", "pixels", "itc"), [(23, 34.3901, {1}), (24, 35.5405, set())])
def test_isolated_tumour_cells_are_told_by_the_major_axis_of_the_grown_lesion(length, pixels, itc):
    # A line of one row and L columns grows by 4, 4, 4, 3, 2 beyond each end in the rows 0, ±1, ±2, ±3, ±4 away from it
    # (floor of sqrt(23.26 - d²)): 5 rows of L + 8 pixels, 2 of L + 6 and 2 of L + 4. n pixels in a row have a variance
    # of (n² - 1) / 12. For L = 23: (5 · 31 · 80 + 2 · 29 · 70 + 2 · 27 · 60.667) / (5 · 31 + 2 · 29 + 2 · 27)
    # = 19736 / 267 = 73.918, an axis of 4 sqrt(73.918) = 34.39, below 35.37. For L = 24: 21789 / 276, 35.54, above.
    mask = np.zeros((30, 80), bool)
    mask[15, 20 : 20 + length] = True
    lesions = lesions_from_mask(level5(mask))
    assert lesions.axes_um[0] / 7.776 == pytest.approx(pixels, abs=1e-4)
    assert lesions.itc == itc


def test_a_mask_without_tumour_has_no_lesion():
    lesions = lesions_from_mask(level5(np.zeros((9, 7), bool)))
    assert len(lesions) == lesions.to_find == 0
    assert (lesions.at([[0, 0], [32 * 7 - 1, 32 * 9 - 1]]) == 0).all()


def test_a_position_is_looked_up_in_the_pixel_it_lies_in():
    mask = np.zeros((40, 50), bool)
    mask[20, 30] = True
    lesions = lesions_from_mask(level5(mask))
    # The dot grows to columns 26 to 34: level-0 columns 832 to 1119.
    assert lesions.at([[831.9, 640], [832, 640], [1119.9, 671.9], [1120, 640]]).tolist() == [0, 1, 1, 0]


def test_a_mask_of_level_five_that_ends_before_its_slide_is_taken_as_it_is():
    mask = blobs(3, (40, 50))
    frame = Frame(50, 40, 32, 32 * 0.243, (32 * 50 + 31, 32 * 40 + 1))
    lesions, expected = lesions_from_mask(Raster(mask, frame)), lesions_from_mask(level5(mask))
    np.testing.assert_array_equal(lesions.labels.array(), expected.labels.array())
    assert (lesions.itc, lesions.axes_um) == (expected.itc, expected.axes_um)
    # What lies on the slide beyond the last pixels belongs to them.
    places = [(1630, y) for y in range(0, 1281, 40)]
    nearest = [(1599, min(y, 1279)) for _, y in places]
    assert lesions.at(places).tolist() == expected.at(nearest).tolist()
    assert 0 < np.count_nonzero(lesions.at(places)) < len(places)
    with pytest.raises(ResultError, match="1631 x 1281 level-0 pixels"):
        lesions.at([(1632, 5)])


@pytest.mark.parametrize("place", [(-1, 5), (5, -0.5), (32 * 50, 5), (5, 32 * 40)])
def test_a_position_outside_of_the_slide_is_refused(place):
    with pytest.raises(ResultError, match="1600 x 1280 level-0 pixels"):
        lesions_from_mask(level5(np.zeros((40, 50), bool))).at([(3, 3), place])


def test_a_mask_at_any_resolution_gives_the_lesions_under_the_centres_of_level_five():
    coarse = blobs(3, (40, 60))
    expected = lesions_from_mask(level5(coarse))
    for factor in (1, 4, 16):
        fine = np.kron(coarse, np.ones((32 // factor, 32 // factor), np.uint8)) * 255
        raster = Raster(fine, Frame.level0(32 * 60, 32 * 40, 0.243).coarser(factor))
        lesions = lesions_from_mask(raster)
        np.testing.assert_array_equal(lesions.labels.array(), expected.labels.array())
        assert lesions.itc == expected.itc


def test_polygons_and_their_mask_have_the_same_lesions():
    slide = Frame.level0(6400, 6400, 0.243)
    shapes = [Annotation("tumor", shapely.Point(x, y).buffer(r)) for x, y, r in [(900, 900, 60), (4000, 3000, 1500)]]
    lesions = lesions_from_polygons(shapes, slide)
    assert (len(lesions), lesions.itc) == (2, frozenset({1}))
    # A disc of radius r level-0 pixels has a major axis of 2 r 0.243 um, grown by 2 x 37.5 um at the most.
    assert lesions.axes_um[1] == pytest.approx(2 * 1500 * 0.243 + 75, rel=0.02)


@pytest.mark.parametrize(("mpp", "downsample"), [(0.243, 32), (0.226, 32), (0.25, 32), (0.5, 15.552), (7.776, 1)])
def test_slides_at_full_resolution_are_looked_at_in_pixels_of_32_and_others_in_micrometres(mpp, downsample):
    frame = lesion_frame(Frame.level0(10_000, 8_000, mpp).coarser(4))
    assert frame.downsample == pytest.approx(downsample)


def test_a_rule_of_ones_own_changes_growth_and_isolated_tumour_cells():
    mask = np.zeros((20, 20), bool)
    mask[4, 4] = mask[5, 5] = mask[9, 9] = True
    lesions = lesions_from_mask(level5(mask), rule=LesionRule(bridge_um=0, itc_um=0))
    assert (len(lesions), lesions.itc) == (2, frozenset())  # corners touch: one lesion
    np.testing.assert_array_equal(lesions.labels.array() > 0, mask)


@pytest.mark.parametrize("values", [np.eye(4) / 2, np.array([[0, 1], [2, 255]])])
def test_a_mask_of_several_values_is_refused(values):
    with pytest.raises(SpecError, match="a truth mask"):
        lesions_from_mask(level5(values))


@pytest.mark.parametrize("wrong", [{"mpp": 0}, {"bridge_um": -1}, {"itc_um": float("nan")}, {"bridge_um": 1e9}])
def test_a_rule_without_sense_is_refused(wrong):
    with pytest.raises(SpecError, match="lesion rule"):
        LesionRule(**wrong)


def read_truth(path):
    annotations = read_annotations(path)
    bounds = np.array([annotation.geometry.bounds for annotation in annotations])
    width, height = (int(side) + 3000 for side in bounds[:, 2:].max(0))
    return annotations, Frame.level0(width, height, 0.243)


@pytest.mark.parametrize("name", ["Tumor_083", "Tumor_097"])
def test_real_lesions_are_those_of_scipy_and_scikit_image(data, name):
    annotations, slide = read_truth(data / f"annotations/camelyon16-polygons/{name}.json")
    lesions = lesions_from_polygons(annotations, slide)
    labels, itc, _ = by_organisers(rasterize(annotations, slide.coarser(32)).array())
    np.testing.assert_array_equal(lesions.labels.array(), labels)
    assert lesions.itc == itc


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Tumor_:UserWarning")
def test_every_real_file_has_lesions(data):
    counts = []
    for path in sorted((data / "annotations/camelyon16-polygons").glob("*.json")):
        lesions = lesions_from_polygons(*read_truth(path))
        assert len(lesions) == lesions.labels.array().max() > 0, path.name
        counts.append((len(lesions), len(lesions.itc)))
    # 55 slides have 487 lesions, of which 234 are isolated tumour cells.
    assert (len(counts), *np.sum(counts, 0)) == (55, 487, 234)
