import base64
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.pyramid import RGB
from digipath.segmentation import Segmentation
from digipath.slides.array import ArraySlide
from digipath.viewer import tiles
from digipath.viewer.colours import coloured, legend, mask_colour, opacity
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf
from digipath.viewer.tiles import Tiling, layer_tile, slide_tile

CLASSES = ("other", "lesion", "necrosis")


def result(width=700, height=500, *, downsample=8.0, kinds=("aleatoric", "epistemic")):
    """A segmentation of random values; probabilities are many times exactly a threshold."""
    rng = np.random.default_rng(7)
    level0 = Frame.level0(width, height, 0.5)
    frame, coarse = level0.at(0.5 * downsample), level0.at(0.5 * 3 * downsample)
    values = np.float16(rng.integers(0, 11, (*frame.shape, len(CLASSES))) / 10)
    covered = rng.random(frame.shape) > 0.3
    variances = np.float32(rng.random((*frame.shape, len(kinds))) * 0.1)
    return Segmentation(
        Raster(values * covered[..., None], frame, CLASSES),
        Raster(covered, frame),
        Raster(rng.random(coarse.shape) > 0.2, coarse),
        Raster(np.full((*coarse.shape, 3), 200, np.uint8), coarse, RGB),
        info={
            "slide": {"name": "made", "path": None, "fingerprint": None, "origin": [0, 0]},
            "threshold": 0.4,
            "status": "ok",
            "areas": {"uncovered_mm2": 1.0},
            "region": None,
        },
        uncertainty=Raster(variances, frame, kinds),
    )


@pytest.fixture
def look():
    """A function of a segmentation that opens its view."""
    opened, shelf, held = Opened(), Shelf([]), []

    def view(segmentation):
        held.append(opened.view(shelf.hold(segmentation)))
        return held[-1].__enter__()

    yield view
    for each in held:
        each.__exit__(None, None, None)


def decoded(png):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)


def stitched(view, layer, z, **options):
    """(rows, columns, 4) of all tiles of a zoom, cut to its frame."""
    tiling = Tiling(*view.frame.slide_size)
    frame = tiling.frame(z, Frame.level0(tiling.width, tiling.height, 0.5))
    columns, rows = -(-frame.width // 256), -(-frame.height // 256)
    grid = [[decoded(layer_tile(view, layer, z, x, y, **options)) for x in range(columns)] for y in range(rows)]
    pixels = np.concatenate([np.concatenate(row, 1) for row in grid])
    inside = frame.box
    assert not pixels[inside.bottom :].any() and not pixels[:, inside.right :].any()
    return pixels[inside.slices()], frame


@pytest.mark.parametrize("downsample", [8.0, 7.3, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.4, 0.45, 0.7, 1.0, None])
def test_the_finest_tiles_put_together_are_the_mask_of_the_result(look, downsample, threshold):
    segmentation = result(downsample=downsample)
    view = look(segmentation)
    for channel, name in enumerate(CLASSES):
        pixels, frame = stitched(view, f"mask-{channel}", Tiling(700, 500).levels, threshold=threshold)
        expected = segmentation.mask(threshold, name=name).sample(frame.box, frame)
        np.testing.assert_array_equal(pixels[..., 3] == 255, expected)
        assert not pixels[..., 3][~expected].any()


@pytest.mark.parametrize("z", range(11))
def test_no_marked_pixel_vanishes_when_zoomed_out(look, z):
    segmentation = result()
    mask = segmentation.mask(0.9).array()
    pixels, frame = stitched(look(segmentation), "mask-2", z, threshold=0.9)
    marked = pixels[..., 3] > 0
    # A heatmap pixel on the slide's border may hold no centre of a finer one.
    seen = mask[: 500 // 8, : 700 // 8] if frame.downsample < 8 else mask
    for y, x in np.argwhere(seen):
        top, left, bottom, right = (int(edge * 8 / frame.downsample + 1e-9) for edge in (y, x, y + 1, x + 1))
        assert marked[top : max(top + 1, bottom), left : max(left + 1, right)].any()
    if frame.downsample >= 8:
        assert marked.sum() <= mask.sum()


def test_a_heatmap_has_the_colours_of_its_values_and_nothing_where_it_is_not_covered(look):
    segmentation = result()
    pixels, frame = stitched(look(segmentation), "probability-1", Tiling(700, 500).levels)
    values = segmentation.probability("lesion").sample(frame.box, frame)
    covered = segmentation.covered.sample(frame.box, frame)
    np.testing.assert_array_equal(pixels[..., 3], np.rint(covered * opacity("probability-1", values) * 255))
    np.testing.assert_array_equal(pixels[covered][:, :3], coloured("probability-1", values[covered]))


@pytest.mark.parametrize(("layer", "full"), [("probability-1", 1.0), ("total", 0.5)])
def test_little_is_clear_much_is_not_and_the_legend_shows_both(layer, full):
    values = np.linspace(0, full, 51)
    seen = opacity(layer, values)
    assert (seen[values <= 0.1 * full] == 0).all() and (seen[values >= 0.61 * full] == 1).all()
    assert (np.diff(seen) >= 0).all()
    stops, *_ = legend(layer)
    for value, colour in stops:
        part = float(opacity(layer, np.array([value]))[0])
        expected = (*coloured(layer, np.array([value]))[0], round(255 * part))
        assert np.abs(np.subtract(tuple(bytes.fromhex(colour[1:])), [int(one) for one in expected])).max() <= 1


@pytest.mark.parametrize("kind", ["aleatoric", "epistemic", "total"])
def test_uncertainties_are_standard_deviations(look, kind):
    segmentation = result()
    view = look(segmentation)
    pixels, frame = stitched(view, kind, Tiling(700, 500).levels)
    values = view.deviation(kind).array()
    expected = Raster(values, view.frame).sample(frame.box, frame)
    covered = segmentation.covered.sample(frame.box, frame)
    np.testing.assert_array_equal(pixels[covered][:, :3], coloured(kind, expected[covered]))


def test_tissue_and_what_of_it_is_not_covered_are_masks_of_their_own(look):
    segmentation = result()
    view = look(segmentation)
    pixels, frame = stitched(view, "tissue", Tiling(700, 500).levels)
    np.testing.assert_array_equal(pixels[..., 3] > 0, segmentation.tissue.sample(frame.box, frame))
    missing, _ = stitched(view, "uncovered", Tiling(700, 500).levels)
    expected = segmentation.uncovered.sample(frame.box, frame)
    assert not (missing[..., 3][~expected] > 0).any()
    assert 0.4 < (missing[..., 3][expected] > 0).mean() < 0.6  # striped


def drawn(tile):
    """(256, 256, 4): a picture that is whole, or one that is put into the corner of an SVG."""
    if not tile.startswith(b"<svg"):
        return np.dstack([decoded(tile)[..., :3], np.full((256, 256), 255, np.uint8)])
    [image] = ElementTree.fromstring(tile)
    inside = decoded(base64.b64decode(image.attrib["href"].partition(",")[2]))[..., :3]
    assert inside.shape[:2] == (int(image.attrib["height"]), int(image.attrib["width"]))
    result = np.zeros((256, 256, 4), np.uint8)
    result[: inside.shape[0], : inside.shape[1]] = np.dstack([inside, np.full(inside.shape[:2], 255, np.uint8)])
    return result


@pytest.mark.parametrize("z", [5, 8, 9, 10])
@pytest.mark.parametrize(("width", "height"), [(700, 500), (513, 1024)])
def test_tiles_of_a_slide_put_together_are_the_slide(width, height, z, monkeypatch):
    rng = np.random.default_rng(1)
    slide = ArraySlide(rng.integers(0, 255, (height, width, 3), np.uint8), mpp=0.5)
    monkeypatch.setattr(tiles, "_jpeg", lambda pixels: cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    tiling = Tiling(width, height)
    frame = tiling.frame(z, slide.frame)
    columns, rows = -(-frame.width // 256), -(-frame.height // 256)
    grid = [[drawn(slide_tile(slide, tiling, z, x, y)) for x in range(columns)] for y in range(rows)]
    pixels = np.concatenate([np.concatenate(row, 1) for row in grid])
    np.testing.assert_array_equal(pixels[: frame.height, : frame.width, :3], slide.read(frame.box, frame))
    there = np.zeros(pixels.shape[:2], np.uint8)
    there[: frame.height, : frame.width] = 255
    np.testing.assert_array_equal(pixels[:, :, 3], there)


def test_a_tile_is_a_jpeg_of_256_pixels_close_to_the_slide():
    shades = np.linspace(0, 255, 600).astype(np.uint8)
    slide = ArraySlide(np.broadcast_to(shades[None, :, None], (300, 600, 3)).copy(), mpp=0.5)
    tile = cv2.imdecode(np.frombuffer(slide_tile(slide, Tiling(600, 300), 10, 1, 0), np.uint8), cv2.IMREAD_COLOR)
    assert tile.shape == (256, 256, 3)
    assert np.abs(tile[:, :, 0].astype(int) - shades[None, 256:512]).max() <= 6


@pytest.mark.parametrize(
    ("z", "x", "y"),
    [(-1, 0, 0), (11, 0, 0), (10, -1, 0), (10, 3, 0), (10, 0, 2), (0, 1, 0), (10**30, 0, 0), (10, 10**30, 0)],
)
def test_what_is_no_tile_is_told(z, x, y):
    with pytest.raises(SpecError, match="zoom"):
        Tiling(700, 500).box(z, x, y)


@pytest.mark.parametrize(
    "layer", ["", "probability", "probability-3", "mask-9", "mask--1", "probability-x", "../slide"]
)
def test_what_is_no_layer_is_told(look, layer):
    with pytest.raises(SpecError, match="layers of this result"):
        layer_tile(look(result()), layer, 10, 0, 0)


@pytest.mark.parametrize("threshold", [float("nan"), -0.1, 1.1, float("inf")])
def test_what_is_no_threshold_is_told(look, threshold):
    with pytest.raises(SpecError, match="from 0 to 1"):
        layer_tile(look(result()), "mask-1", 10, 0, 0, threshold=threshold)


def test_the_zooms_are_those_of_deep_zoom():
    for width, height, levels in [(1, 1, 0), (2, 1, 1), (256, 256, 8), (257, 100, 9), (100_000, 80_000, 17)]:
        assert Tiling(width, height).levels == levels


def test_every_layer_has_a_legend(look):
    for layer in look(result()).layers:
        stops, label, _ = legend(layer)
        assert label and all(colour.startswith("#") and len(colour) in (7, 9) for _, colour in stops)
    values, _ = zip(*legend("total")[0], strict=True)
    assert values[0] == 0 and values[-1] == 0.5


def test_the_lesion_has_one_colour_however_many_classes_there_are():
    assert mask_colour("mask-1", 2) == mask_colour("mask-3", 4) != mask_colour("mask-2", 4)
