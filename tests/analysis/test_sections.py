import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from digipath.analysis.sections import find_sections, section_tumour
from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster

MPP = 8.0


def raster(values, mpp=MPP):
    return Raster(np.asarray(values), Frame(values.shape[1], values.shape[0], mpp / 0.5, mpp))


def by_brute_force(mask, pixels):
    """Single linkage of the components by the distances of their pixels' squares."""
    labels, count = ndimage.label(mask)
    points = [np.argwhere(labels == one) for one in range(1, count + 1)]
    gaps = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            apart = np.maximum(np.abs(points[i][:, None] - points[j][None]) - 1, 0)
            gaps[i, j] = gaps[j, i] = np.sqrt((apart**2).sum(2)).min()
    groups = fcluster(linkage(squareform(gaps), "single"), pixels + 1e-9, "distance") if count > 1 else np.ones(count)
    return {frozenset(map(tuple, np.concatenate([points[i] for i in np.flatnonzero(groups == one)]))) for one in groups}


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, (16, 18), elements=st.sampled_from([True] + 12 * [False])),
    st.sampled_from([0, 1, 1.5, 2, 3.7, 5, 9]),
)
def test_fragments_are_joined_by_the_exact_distance_between_them(mask, pixels):
    found = find_sections(raster(mask), join_um=pixels * MPP, min_area_mm2=0)
    parts = {frozenset(map(tuple, np.argwhere(found.labels.values == one.id))) for one in found}
    assert parts == by_brute_force(mask, pixels)


@settings(max_examples=30, deadline=None)
@given(
    arrays(bool, (12, 12), elements=st.sampled_from([True, False, False])),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_a_shift_of_the_slide_changes_nothing_but_places(mask, by):
    tissue = np.pad(mask, [(0, 6), (0, 6)])
    first = find_sections(raster(tissue), join_um=20, min_area_mm2=0.0002)
    moved = find_sections(raster(np.roll(tissue, by, (0, 1))), join_um=20, min_area_mm2=0.0002)
    assert [one.box.shift(by[1] * 16, by[0] * 16) for one in first] == [one.box for one in moved]
    assert [one.area_mm2 for one in first] == [one.area_mm2 for one in moved]
    np.testing.assert_array_equal(np.roll(first.labels.values, by, (0, 1)), moved.labels.values)


def planted():
    """Two sections above, the left one lower and cracked; one below; a speck."""
    tissue = np.zeros((300, 400), bool)
    tissue[30:100, 20:90] = tissue[30:100, 95:150] = True
    tissue[10:80, 250:380] = True
    tissue[180:280, 50:350] = True
    tissue[140:144, 200:204] = True
    return tissue


def test_sections_are_read_row_by_row_and_know_their_places_and_areas():
    found = find_sections(raster(planted()))
    assert [one.id for one in found] == [1, 2, 3]
    assert [one.box for one in found] == [
        Box(320, 480, 2080, 1120),
        Box(4000, 160, 2080, 1120),
        Box(800, 2880, 4800, 1600),
    ]
    assert [one.fragments for one in found] == [2, 1, 1]
    assert found.items[0].area_mm2 == pytest.approx(70 * 125 * 64e-6)
    assert found.items[0].outline.area == pytest.approx(70 * 125 * 256)
    assert found.mask(2).area_mm2 == pytest.approx(found.items[1].area_mm2)
    assert found.labels.values[142, 202] == 0
    assert found.labels.values.dtype == np.uint8


def test_the_speck_is_a_section_when_it_may_be_and_cracks_part_sections_when_they_may():
    tissue = raster(planted())
    assert len(find_sections(tissue, min_area_mm2=0)) == 4
    assert len(find_sections(tissue, join_um=39)) == 4
    assert len(find_sections(tissue, join_um=40)) == 3
    assert len(find_sections(tissue, join_um=10_000)) == 1


def test_a_slide_without_tissue_has_no_section():
    found = find_sections(raster(np.zeros((9, 9), bool)))
    assert len(found) == 0
    assert section_tumour(found, raster(np.ones((9, 9), np.float32)), [0.5]) == []


@settings(max_examples=30, deadline=None)
@given(arrays(np.float16, (20, 24), elements=st.floats(0, 1, width=16)), st.sampled_from([4.0, 8.0]))
def test_tumour_falls_as_the_threshold_rises_and_is_what_thresholding_gives(values, mpp):
    tissue = np.ones((20, 24), bool)
    tissue[:, 11:13] = False
    sections = find_sections(raster(tissue), join_um=0, min_area_mm2=0)
    heatmap = raster(values.repeat(int(8 / mpp), 0).repeat(int(8 / mpp), 1), mpp)
    predictions = [0.1, 0.25, 0.5, 0.6, 0.9]
    for found in section_tumour(sections, heatmap, predictions):
        assert (np.diff(found.total_um2) <= 0).all()
        assert (np.diff(found.largest_um2) <= 0).all()
        for rank, prediction in enumerate(predictions):
            mask = heatmap.threshold(prediction).array() & sections.mask(found.section).resample(heatmap.frame).array()
            labels = ndimage.label(mask, np.ones((3, 3)))[0]
            largest = np.bincount(labels.ravel())[1:].max(initial=0)
            assert found.total_um2[rank] == pytest.approx(mask.sum() * mpp**2)
            assert found.largest_um2[rank] == pytest.approx(largest * mpp**2)


def test_what_was_not_predicted_is_no_tumour_and_debris_has_none():
    heatmap = np.full((300, 400), np.nan, np.float32)
    heatmap[140:144, 200:204] = heatmap[10:20, 250:260] = 1
    found = section_tumour(find_sections(raster(planted())), raster(heatmap), [0.0, 0.5, 1.0])
    assert [list(one.total_um2) for one in found] == [[0, 0, 0], [6400, 6400, 0], [0, 0, 0]]


def test_what_makes_no_sense_is_refused():
    sections = find_sections(raster(planted()))
    heatmap = raster(np.zeros((300, 400), np.float32))
    for predictions in ([], [0.5, 0.5], [0.5, 1.2], [-0.1]):
        with pytest.raises(SpecError, match="rising"):
            section_tumour(sections, heatmap, predictions)
    with pytest.raises(SpecError, match="floating"):
        section_tumour(sections, raster(np.zeros((300, 400), np.uint8)), [0.5])
    with pytest.raises(SpecError, match="one slide"):
        section_tumour(sections, raster(np.zeros((300, 401), np.float32)), [0.5])
    with pytest.raises(SpecError, match="join_um"):
        find_sections(raster(planted()), join_um=-1)
    with pytest.raises(SpecError, match="mask"):
        find_sections(heatmap)
