import numpy as np
import pytest

from digipath.errors import ResultError
from digipath.geometry.frame import Box, Frame
from digipath.viewer.reduced import Means, Peaks

DOWNSAMPLES = [0.5, 1, 2, 3, 3.7, 4, 7.99, 8, 31, 64, 512]


def source(width, height, *, seed=0):
    rng = np.random.default_rng(seed)
    frame = Frame.level0(width, height, 1.0)
    return frame, rng.random((height, width)).astype(np.float16), rng.random((height, width)) > 0.6


def edges(count, scale, side):
    """Which source pixels each coarse one touches, and how much of each lies in it."""
    for k in range(count):
        left, right = k * scale, min((k + 1) * scale, side)
        index = np.arange(int(np.floor(left + 1e-6)), min(side, int(np.ceil(right - 1e-6))))
        yield index, np.minimum(index + 1, right) - np.maximum(index, left)


def by_hand(values, seen, frame):
    """(mean over what is seen, share seen, peak of what is seen), pixel by pixel."""
    height, width = values.shape
    values = values.astype(float)
    mean, share, peak = np.zeros(frame.shape), np.zeros(frame.shape), np.full(frame.shape, -1.0)
    for y, (rows, tall) in enumerate(edges(frame.height, frame.downsample, height)):
        for x, (columns, wide) in enumerate(edges(frame.width, frame.downsample, width)):
            part = np.ix_(rows, columns)
            weight = tall[:, None] * wide[None] * seen[part]
            share[y, x] = weight.sum() / frame.downsample**2
            mean[y, x] = (weight * values[part]).sum() / weight.sum() if weight.sum() else 0
            peak[y, x] = values[part][seen[part]].max(initial=-1)
    return mean, share, peak


@pytest.mark.parametrize("downsample", [1, 2, 3, 4, 8, 64, 512])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (101, 70), (1, 7)])
def test_means_are_those_of_the_pixels_that_count(width, height, downsample):
    frame, values, seen = source(width, height)
    means = Means(frame, lambda box: (values[box.slices()], seen[box.slices()]))
    coarse = frame.coarser(downsample)
    mean, share = means.read(coarse.box, coarse)
    expected = by_hand(values, seen, coarse)
    np.testing.assert_allclose(share, expected[1], atol=2e-3)
    np.testing.assert_allclose(mean, expected[0], atol=4e-3)


@pytest.mark.parametrize(("downsample", "tolerance"), [(1.5, 1e-3), (3.7, 1e-3), (7.99, 0.08), (31.0, 0.02)])
def test_means_of_pixels_that_cut_others_are_by_area(downsample, tolerance):
    frame, values, _ = source(101, 70)
    seen = np.ones(values.shape, bool)
    coarse = frame.at(downsample)
    mean, share = Means(frame, lambda box: (values[box.slices()], seen[box.slices()])).read(coarse.box, coarse)
    expected = by_hand(values, seen, coarse)
    inside = np.s_[:-2, :-2]  # at the border, what is not there does not count
    np.testing.assert_allclose(
        mean[inside], expected[0][inside], atol=tolerance
    )  # of coarse ones, blocks are cut as wholes
    np.testing.assert_allclose(share, expected[1], atol=0.1)


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (101, 70), (1, 7)])
def test_whatever_is_somewhere_in_a_pixel_is_seen_in_it(width, height, downsample):
    frame, values, seen = source(width, height)
    marked = np.where(seen, values, np.float16(-1))
    coarse = frame.at(float(downsample))
    peaks = Peaks(frame, lambda box: marked[box.slices()], nothing=-1).read(coarse.box, coarse)
    if downsample < 1:
        np.testing.assert_array_equal(peaks, marked.repeat(2, 0).repeat(2, 1)[: coarse.height, : coarse.width])
    else:
        expected = by_hand(values, seen, coarse)[2]
        assert (peaks >= expected - 1e-6).all()
        if downsample in (1, 2, 4, 8, 64, 512):
            np.testing.assert_array_equal(peaks, expected.astype(np.float16))


@pytest.mark.parametrize("downsample", [1, 4, 31])
def test_a_lone_pixel_is_marked_once_or_in_its_neighbours_and_nowhere_else(downsample):
    frame = Frame.level0(500, 400, 1.0)
    marked = np.zeros(frame.shape, np.uint8)
    marked[217, 333] = 1
    coarse = frame.at(float(downsample))
    peaks = Peaks(frame, lambda box: marked[box.slices()]).read(coarse.box, coarse)
    found = np.argwhere(peaks)
    assert 1 <= len(found) <= 4
    assert np.abs(found - np.array([217, 333]) // downsample).max() <= 1


@pytest.mark.parametrize("downsample", DOWNSAMPLES)
def test_a_box_reads_as_it_would_be_cut_from_the_whole(downsample):
    frame, values, seen = source(101, 70)
    marked = np.where(seen, values, np.float16(-1))
    means = Means(frame, lambda box: (values[box.slices()], seen[box.slices()]))
    peaks = Peaks(frame, lambda box: marked[box.slices()], nothing=-1)
    coarse = frame.at(float(downsample))
    whole = *means.read(coarse.box, coarse), peaks.read(coarse.box, coarse)
    box = Box(coarse.width // 3, coarse.height // 4, max(1, coarse.width // 2), max(1, coarse.height // 3))
    parts = *means.read(box, coarse), peaks.read(box, coarse)
    for part, all_of_it in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, all_of_it[box.slices()], atol=1e-6)


def test_outside_of_the_slide_there_is_nothing():
    frame, values, seen = source(40, 30)
    box = Box(35, 25, 50, 50)
    mean, share = Means(frame, lambda part: (values[part.slices()], seen[part.slices()])).read(box, frame)
    np.testing.assert_array_equal(share[:5, :5], seen[25:, 35:])
    assert not share[5:].any() and not share[:, 5:].any() and not mean[5:].any()
    peaks = Peaks(frame, lambda part: values[part.slices()], nothing=-1)
    assert (peaks.read(box, frame)[5:] == -1).all()
    assert (peaks.read(Box(4000, 4000, 3, 3), frame) == -1).all()


def test_the_file_is_read_in_strips_once_and_then_no_more():
    frame, values, seen = source(3000, 2500)
    read = []

    def counted(box):
        read.append(box.area)
        return values[box.slices()], seen[box.slices()]

    means, coarse = Means(frame, counted), frame.coarser(16)
    means.read(coarse.box, coarse)
    assert sum(read) == frame.box.area and max(read) <= 256 * frame.width
    means.read(frame.coarser(64).box, frame.coarser(64))
    assert sum(read) == frame.box.area


@pytest.mark.parametrize("downsample", [1, 2, 4, 8, 16, 64])
def test_a_very_large_raster_is_held_coarser_and_looks_the_same(downsample, monkeypatch):
    frame, values, seen = source(101, 70)
    marked, coarse = np.where(seen, values, np.float16(-1)), frame.at(float(downsample))

    def read():
        means = Means(frame, lambda box: (values[box.slices()], seen[box.slices()]))
        peaks = Peaks(frame, lambda box: marked[box.slices()], nothing=-1)
        return *means.read(coarse.box, coarse), peaks.read(coarse.box, coarse), means.held

    mean, share, peak, held = read()
    monkeypatch.setattr("digipath.viewer.reduced._HELD", 101 * 70 // 256)
    few = read()
    np.testing.assert_allclose(few[0], mean, atol=0.02)
    np.testing.assert_allclose(few[1], share, atol=0.02)
    np.testing.assert_array_equal(few[2], peak)
    assert few[3] < held / 4 if held else not few[3]


def test_what_no_memory_could_hold_is_refused_before_any_is_asked_for():
    frame = Frame.level0(10**9, 10**9, 1.0)
    with pytest.raises(ResultError, match="at most"):
        Peaks(frame, lambda box: np.zeros((box.height, box.width))).read(Box(0, 0, 256, 256), frame.at(1e6))
