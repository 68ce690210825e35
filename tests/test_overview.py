import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from PIL import Image

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import Annotation, polygonize, rasterize
from digipath.geometry.raster import Raster
from digipath.overview import Picture, draw, paint, picture_frame, png

PINK = np.array([226, 170, 205], np.uint8)
INK = np.array([20, 20, 24], np.uint8)
RGB = ("red", "green", "blue")
SHAPES = [(224, 224), (1, 1), (60, 40), (40, 60), (90_000, 1_500), (1_500, 90_000), (40_000, 30_000), (31_111, 40_003)]


def picture_of(slide, *, pixels=300, finer=1, **changes):
    """A pink slide that is tissue all over, with a heatmap of 0."""
    level0 = Frame.level0(*slide, 0.5)
    frame = level0.at(0.5 * max(1, max(slide) / pixels))
    heat = level0.at(max(0.5, frame.mpp / finer))
    everything = Raster(np.ones(heat.shape, bool), heat)
    parts = {
        "thumbnail": Raster(np.full((*frame.shape, 3), PINK), frame, RGB),
        "heatmap": Raster(np.zeros(heat.shape, np.float16), heat),
        "covered": everything,
        "tissue": everything,
    }
    return Picture(**(parts | changes))


def with_heat(picture, values, covered=None, **changes):
    heat = picture.heatmap.frame
    covered = np.ones(heat.shape, bool) if covered is None else covered
    parts = {name: getattr(picture, name) for name in ("thumbnail", "tissue")}
    return Picture(**parts, heatmap=Raster(values.astype(np.float16), heat), covered=Raster(covered, heat), **changes)


def disk(frame, x, y, radius):
    """A mask of a circle, all in level-0 pixels."""
    rows, columns = np.indices(frame.shape) * frame.downsample + frame.downsample / 2
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def different(image, other):
    return (image != other).any(-1)


def place_of(part, page):
    """(x, y) at which the page shows exactly this."""
    match = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
    y, x = np.unravel_index(match.argmin(), match.shape)
    np.testing.assert_array_equal(page[y : y + part.shape[0], x : x + part.shape[1]], part)
    return x, y


@pytest.mark.parametrize("width", [400, 900, 1200])
@pytest.mark.parametrize("slide", SHAPES)
def test_the_page_is_as_wide_as_asked_and_the_slide_keeps_its_shape(slide, width):
    frame = picture_frame(Frame.level0(*slide, 0.5), width=width)
    assert frame.width <= width and frame.height <= 1.25 * width + 1
    assert frame.downsample >= 0.25
    for side, pixels in zip(slide, (frame.width, frame.height), strict=True):
        assert pixels == pytest.approx(side / frame.downsample, abs=1)
    page = draw(picture_of(slide), width=width)
    assert page.dtype == np.uint8 and page.shape[1:] == (width, 3)
    assert frame.height < len(page) < 1.25 * width + 0.6 * width


@pytest.mark.parametrize("slide", [(30_000, 20_000), (20_000, 30_000), (224, 224), (9_000, 700)])
def test_the_page_shows_what_paint_gives_and_words_stay_off_it(slide):
    picture = picture_of(slide, title="a slide " * 12, caption="figures " * 40)
    slide_part = paint(picture, picture_frame(picture.heatmap.frame, width=700), width=700)
    page = draw(picture, width=700)
    place_of(slide_part, page)
    assert (page[:5] == 255).all() and (page[-5:] == 255).all() and (page[:, -5:] == 255).all()


@pytest.mark.parametrize("slide", SHAPES)
@pytest.mark.parametrize("width", [400, 1200])
def test_the_scale_bar_is_as_long_as_a_round_length(slide, width):
    picture = picture_of(slide)
    mpp = picture_frame(picture.heatmap.frame, width=width).mpp
    ink = (draw(picture, width=width) == INK).all(-1)
    runs = [np.diff(np.flatnonzero(np.diff(np.pad(row, 1).astype(np.int8))))[::2] for row in ink]
    length = max(run.max() for run in runs if len(run)) * mpp
    rounds = [digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5)]
    assert min(abs(length - each) for each in rounds) <= 0.5 * mpp + 1e-6
    assert 0.07 * width * mpp < length < 0.45 * width * mpp


@pytest.mark.parametrize("finer", [0.4, 1, 2.7, 9])
def test_the_contour_and_heat_are_where_the_lesion_is_and_nowhere_else(finer):
    blank = picture_of((4000, 3000), pixels=150, finer=finer)
    frame = picture_frame(blank.heatmap.frame, width=500)
    lesion = with_heat(blank, disk(blank.heatmap.frame, 2400, 1100, 500))
    changed = different(paint(lesion, frame, width=500), paint(blank, frame, width=500))
    pixel = max(frame.downsample, blank.heatmap.frame.downsample)
    assert changed[disk(frame, 2400, 1100, 500 - pixel)].all()
    assert not changed[~disk(frame, 2400, 1100, 500 + 3 * pixel + 3 * frame.downsample)].any()
    dark = (paint(lesion, frame, width=500) < 90).all(-1)
    rows, columns = np.nonzero(dark)
    radius = np.hypot((columns + 0.5) * frame.downsample - 2400, (rows + 0.5) * frame.downsample - 1100)
    assert len(radius) > 50 and np.abs(radius - 500).max() < 1.5 * pixel + 2 * frame.downsample


def test_the_contour_stands_where_probabilities_cross_the_threshold():
    blank = picture_of((2000, 2000), pixels=400, finer=3)
    ramp = np.tile(np.linspace(0, 1, blank.heatmap.frame.width), (blank.heatmap.frame.height, 1))
    for threshold in (0.2, 0.5, 0.9):
        image = paint(with_heat(blank, ramp, threshold=threshold), blank.heatmap.frame.at(0.5 * 2000 / 300))
        darkest = image[150].sum(-1).argmin()
        assert darkest + 0.5 == pytest.approx(threshold * 300, abs=1)


def test_a_lesion_of_one_heatmap_pixel_is_seen_in_a_picture_thirty_times_coarser():
    blank = picture_of((3000, 3000), pixels=1500)
    heat = blank.heatmap.frame
    values = np.zeros(heat.shape)
    values[701, 433] = 0.9
    frame = heat.coarser(30)
    changed = different(paint(with_heat(blank, values), frame), paint(blank, frame))
    rows, columns = np.nonzero(changed)
    assert changed.sum() >= 9
    assert np.hypot(rows + 0.5 - 701.5 / 30, columns + 0.5 - 433.5 / 30).max() < 5


@pytest.mark.parametrize("mpp", [3.3, 10.0, 20.0, 41.0])
def test_nothing_is_coloured_where_nothing_was_predicted(mpp):
    blank = picture_of((2000, 1600), pixels=200)
    heat = blank.heatmap.frame
    covered = disk(heat, 900, 800, 420)
    frame = heat.at(mpp)
    picture = with_heat(blank, np.ones(heat.shape), covered, threshold=1.0)  # no contour: heat alone
    changed = different(paint(picture, frame), paint(blank, frame))
    boxes = [Box(x, row.y, 1, 1) for row in frame.rows(1) for x in range(frame.width)]
    touched = (Raster(covered, heat).coverage(boxes, frame).reshape(frame.shape) > 0).astype(np.uint8)
    if mpp > heat.mpp and mpp % heat.mpp:  # then neighbours share some pixels of the heatmap
        touched = cv2.dilate(touched, np.ones((3, 3), np.uint8))
    assert not changed[touched == 0].any()
    assert changed[disk(frame, 900, 800, 400 - 2 * frame.downsample)].all()


def test_a_pixel_that_was_predicted_in_part_is_coloured_in_part_and_is_lesion_from_the_half_on():
    blank = picture_of((3000, 2000), pixels=600)
    heat = blank.heatmap.frame
    frame = heat.coarser(10)
    for columns, end in [(303, 30), (307, 31)]:
        covered = np.tile(np.arange(heat.width) < columns, (heat.height, 1))
        plain = paint(with_heat(blank, np.ones(heat.shape), covered, threshold=1.0), frame)
        tint = plain[5].astype(float) - PINK
        np.testing.assert_allclose((tint[30] / tint[20])[1:], columns % 10 / 10, atol=0.06)  # red hardly changes
        line = different(paint(with_heat(blank, np.ones(heat.shape), covered), frame), plain)[5]
        assert np.mean(np.flatnonzero(line) + 0.5) == pytest.approx(end, abs=0.4)


def test_low_probabilities_leave_tissue_as_it_is():
    blank = picture_of((2000, 1600))
    frame = picture_frame(blank.heatmap.frame)
    low = with_heat(blank, np.full(blank.heatmap.frame.shape, 0.0999))
    np.testing.assert_array_equal(paint(low, frame), paint(blank, frame))


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.8, 1.0])
def test_the_colour_bar_has_the_colour_that_the_picture_has_over_such_tissue(probability):
    blank = picture_of((2000, 1600))
    picture = with_heat(blank, np.full(blank.heatmap.frame.shape, probability), threshold=0.55)
    frame = picture_frame(picture.heatmap.frame, width=800)
    painted = paint(picture, frame, width=800)
    shown = painted[frame.height // 2, frame.width // 2].astype(int)
    page = draw(picture, width=800).astype(int)
    x, y = place_of(painted, page.astype(np.uint8))
    page[y - 1 : y + frame.height + 1, x - 1 : x + frame.width + 1] = 255
    assert (np.abs(page - shown).max(-1) <= 2).any()


def test_unread_tissue_is_hatched_and_only_it():
    blank = picture_of((2000, 1600))
    heat = blank.heatmap.frame
    unread = disk(heat, 700, 800, 400)
    parts = {name: getattr(blank, name) for name in ("thumbnail", "heatmap", "tissue")}
    picture = Picture(**parts, covered=Raster(~unread, heat), unread=Raster(unread, heat))
    frame = picture_frame(heat)
    image, plain = paint(picture, frame), paint(blank, frame)
    inside, around = disk(frame, 700, 800, 380), disk(frame, 700, 800, 420)
    assert different(image, plain)[inside].all() and not different(image, plain)[~around].any()
    grey = image.mean(-1)
    assert (grey[inside] < 90).mean() > 0.1 and (grey[inside] > 210).mean() > 0.2
    row = grey[round(800 / frame.downsample)][inside[round(800 / frame.downsample)]]
    assert np.count_nonzero(np.diff((row < 128).astype(int)) == 1) > 10
    assert (draw(picture, width=500)[:, -180:] < 90).sum() > (draw(blank, width=500)[:, -180:] < 90).sum()  # in the key


def test_a_single_unread_pixel_is_seen():
    blank = picture_of((3000, 3000), pixels=1500)
    heat = blank.heatmap.frame
    unread = np.zeros(heat.shape, bool)
    unread[700, 800] = True
    parts = {name: getattr(blank, name) for name in ("thumbnail", "heatmap", "tissue")}
    picture = Picture(**parts, covered=Raster(~unread, heat), unread=Raster(unread, heat))
    assert different(paint(picture, heat.coarser(20)), paint(blank, heat.coarser(20))).sum() >= 4


def test_a_slide_without_tissue_is_drawn_as_it_is():
    blank = picture_of((2000, 1600))
    nothing = Raster(np.zeros(blank.heatmap.frame.shape, bool), blank.heatmap.frame)
    empty = Picture(thumbnail=blank.thumbnail, heatmap=blank.heatmap, covered=nothing, tissue=nothing, unread=nothing)
    assert (paint(empty, blank.heatmap.frame) == PINK).all()
    assert draw(empty).shape[1] == 1200


class Lazy:
    """Sliced in rows only, as a data set on disk; refuses to give everything at once."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        assert rows.stop - rows.start <= 256 < len(self.values)
        return self.values[rows]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lazy_rasters_of_any_precision_give_the_same_picture(dtype):
    blank = picture_of((8000, 6000), pixels=800)
    heat = blank.heatmap.frame
    values, covered = disk(heat, 3000, 2000, 900) * 0.75, disk(heat, 3500, 2500, 2500)
    parts = {"thumbnail": blank.thumbnail, "tissue": blank.tissue, "title": "s", "threshold": 0.5}
    arrays = [values.astype(dtype), covered, ~covered]
    eager = Picture(
        **parts, **dict(zip(("heatmap", "covered", "unread"), (Raster(a, heat) for a in arrays), strict=True))
    )
    lazy = Picture(
        **parts, **dict(zip(("heatmap", "covered", "unread"), (Raster(Lazy(a), heat) for a in arrays), strict=True))
    )
    first = draw(lazy, width=500)
    np.testing.assert_array_equal(first, draw(eager, width=500))
    np.testing.assert_array_equal(first, draw(lazy, width=500))


def test_png_gives_the_image_back_and_is_the_same_each_time():
    image = draw(picture_of((700, 500), title="slide"), width=400)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    assert png(image) == png(image)


def test_words_are_spelled_in_ascii_and_broken_rather_than_cut():
    strange, plain = (
        draw(picture_of((700, 500), title=title, caption=caption), width=400)
        for title, caption in [("Łódź µm² 中", "p ≥ 0.5 – é"), ("Lodz um2 ?", "p >= 0.5 - e")]
    )
    np.testing.assert_array_equal(strange, plain)
    short, long = (draw(picture_of((4000, 700), title=f"{'x' * n}.svs"), width=400) for n in (5, 300))
    assert len(long) > len(short) + 50 and (long[:, -8:] == 255).all()


@pytest.mark.parametrize("width", [399, 4097, 700.5])
def test_pages_too_narrow_for_the_words_or_absurdly_large_are_refused(width):
    with pytest.raises(SpecError, match="400 to 4,096"):
        draw(picture_of((700, 500)), width=width)


def test_what_does_not_belong_together_is_refused():
    picture = picture_of((700, 500))
    parts = {name: getattr(picture, name) for name in ("thumbnail", "heatmap", "covered", "tissue")}
    other = picture_of((701, 500))
    heat = picture.heatmap.frame
    for change, message in [
        ({"threshold": 50}, "probability"),
        ({"thumbnail": other.thumbnail}, "one slide"),
        ({"covered": picture.covered.resample(heat.at(7.0))}, "heatmap's frame"),
        ({"heatmap": Raster(np.zeros(heat.shape, np.uint8), heat)}, "floating-point"),
        ({"heatmap": Raster(np.zeros((*heat.shape, 1), np.float16), heat, ("lesion",))}, "channel"),
        ({"thumbnail": picture.heatmap}, "three channels"),
    ]:
        with pytest.raises(SpecError, match=message):
            Picture(**(parts | change))


def test_values_of_another_scale_are_painted_as_shares_of_the_full_one():
    blank = picture_of((2000, 1600))
    values = np.linspace(0, 1, blank.heatmap.frame.width) * np.ones((blank.heatmap.frame.height, 1))
    whole, half = with_heat(blank, values, threshold=0.5), with_heat(blank, values / 2, threshold=0.25, full=0.5)
    frame = picture_frame(blank.heatmap.frame, width=500)
    shown, other = (paint(picture, frame, width=500).astype(int) for picture in (whole, half))
    assert (np.abs(shown - other).max(-1) > 2).mean() < 0.01  # but for where the contour is cut
    with pytest.raises(SpecError, match=r"probability in \[0, 0.5\]"):
        with_heat(blank, values / 2, threshold=0.6, full=0.5)


def test_polygons_are_outlined_instead_of_what_exceeds_the_threshold_and_marks_are_numbered():
    blank = picture_of((2000, 1600), pixels=400, finer=3)
    heat, frame = blank.heatmap.frame, picture_frame(blank.heatmap.frame, width=700)
    mask = disk(heat, 500, 800, 300) | disk(heat, 1500, 800, 300)
    plain = paint(with_heat(blank, mask, outlined=[]), frame, width=700)
    every = paint(with_heat(blank, mask), frame, width=700)
    polygons = polygonize(Raster(mask, heat))
    both = paint(with_heat(blank, mask, outlined=polygons), frame, width=700)
    assert different(both, every).mean() < 0.3 * different(every, plain).mean()
    changed = different(paint(with_heat(blank, mask, outlined=polygons[:1]), frame, width=700), plain)
    assert changed[:, : frame.width // 2].any() and not changed[:, frame.width // 2 :].any()
    numbered = paint(with_heat(blank, mask, outlined=[], marks=[(1500, 800), (1999, 1)]), frame, width=700)
    rows, columns = np.nonzero(different(numbered, plain))
    near = np.hypot(columns * frame.downsample - 1500, rows * frame.downsample - 800) < 100
    corner = (columns * frame.downsample > 1850) & (rows * frame.downsample < 150)
    assert near.any() and corner.any() and (near | corner).all()


def test_dashes_lie_along_the_outline_alone_and_the_key_names_them_once():
    plain = picture_of((2000, 1500))
    hull = Annotation("whole tumour", shapely.Polygon([(300, 300), (1700, 400), (1500, 1300), (400, 1200)]))
    dashed = replace(plain, dashed=[hull, hull])
    frame = plain.heatmap.frame.at(1.0)
    changed = different(paint(dashed, frame), paint(plain, frame))
    near = shapely.transform(hull.geometry.exterior, lambda points: points / frame.downsample)
    assert not (
        changed & ~rasterize([Annotation("near", near.buffer(6))], Frame.level0(*frame.shape[::-1], 1)).array()
    ).any()
    along = np.array([near.interpolate(at).coords[0] for at in np.arange(0, near.length)]).astype(int)
    dark = paint(dashed, frame)[along[:, 1], along[:, 0]].max(1) < 100
    assert 0.4 < dark.mean() < 0.8
    once, twice = (draw(replace(plain, dashed=[hull] * count)) for count in (1, 2))
    assert once.shape == twice.shape
