"""One picture of a result: the slide, where lesion was found, and what was not read; with scale, colours and words.

Nothing but the finding is drawn over the slide. Low probabilities are transparent, so that normal tissue looks like
itself; the colours are OpenCV's viridis, whose lightness rises evenly and which is told apart by the colour-blind;
the contour is dark between white lines, so that it is seen on glass, on pink and on violet. Words and scales stand
beside or below, on white. The same picture shows other values than probabilities, such as their uncertainty.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from PIL import Image, ImageDraw
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from digipath.errors import SpecError
from digipath.geometry.condense import Condensed, condense
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster
from digipath.page import INK, WHITE, Style, column, flow, place, row

__all__ = ["Picture", "draw", "paint", "picture_frame", "png", "rise", "round_length"]

_ENLARGE = 4  # picture pixels per level-0 pixel at most: beyond that, blur only looks like detail
_TALL = 1.25  # height of the picture at most, in page widths
_OPACITY, _CLEAR, _FULL = 0.55, 0.1, 0.6  # strongest tint; probabilities where it begins and from which it is that
_FINE = 3  # outlines are drawn this much larger, then averaged down
_TISSUE = (80, 80, 88), 0.9  # colour and opacity
_VIRIDIS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].astype("f4")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the picture shows. All frames are of one slide; rasters may be lazy and are read in strips.

    Attributes:
        thumbnail: (rows, columns, 3) uint8 RGB; sharp when read in `picture_frame` or finer.
        heatmap: (rows, columns) floating-point probability of lesion, or other values, 0 to `full`.
        covered: Mask in the heatmap's frame: tissue, read and predicted. Nothing is coloured outside of it.
        tissue: Mask in any frame; its outline is drawn thinly.
        unread: Mask in the heatmap's frame of tissue that could not be read; hatched. None: everything was read.
        threshold: Lesion is above this value.
        title: Over the words, such as the slide's name.
        caption: The figures, such as "lesion 3.21 mm2 of 14.5 mm2 tissue (22 %)".
        label: What the colours stand for.
        quantity: What lies above the threshold inside of contours, in a word or two.
        full: The value of the last colour.
        outlined: Polygons whose outlines are drawn as contours instead of those of all that exceeds the threshold.
        marks: (x, y), in level-0 pixels, of places that are numbered from 1.
        dashed: Polygons whose outlines are drawn dashed, such as a whole tumour; the key has their names.
    """

    thumbnail: Raster
    heatmap: Raster
    covered: Raster
    tissue: Raster
    unread: Raster | None = None
    threshold: float = 0.5
    title: str = ""
    caption: str = ""
    label: str = "probability of lesion"
    quantity: str = "probability"
    full: float = 1.0
    outlined: Sequence[Annotation] | None = None
    marks: Sequence[tuple[float, float]] = ()
    dashed: Sequence[Annotation] = ()

    def __post_init__(self):
        if not 0 <= self.threshold <= self.full:
            raise SpecError(f"threshold is a {self.quantity} in [0, {self.full:g}], got {self.threshold}.")
        if self.thumbnail.values.dtype != np.uint8 or len(self.thumbnail.channels) != 3:
            raise SpecError(
                f"a thumbnail is uint8 with three channels, red, green and blue, "
                f"got {self.thumbnail.values.dtype} with {self.thumbnail.channels or 'none'}."
            )
        if self.heatmap.values.dtype.kind != "f" or self.heatmap.channels:
            raise SpecError(
                f"the heatmap is one layer of floating-point probabilities, got {self.heatmap.values.dtype} with "
                f"channels {self.heatmap.channels or 'none'}. For one of several channels, pass raster.channel(name)."
            )
        self._check_frames()

    def _check_frames(self):
        masks = [mask for mask in (self.covered, self.unread) if mask is not None]
        if any(mask.frame != self.heatmap.frame for mask in masks):
            raise SpecError(
                f"covered and unread lie in the heatmap's frame of {self.heatmap.frame.shape} (rows, columns), "
                f"got {[mask.frame.shape for mask in masks]}. raster.resample(frame) takes a mask there."
            )
        sizes = {raster.frame.slide_size for raster in (self.thumbnail, self.heatmap, self.tissue)}
        if len(sizes) > 1:
            raise SpecError(f"all frames of a picture are of one slide, got slides of {sorted(sizes)} level-0 pixels.")


def picture_frame(frame: Frame, *, width: int = 1200) -> Frame:
    """The frame in which `draw` shows the slide of `frame` on a page of `width` pixels.

    A slide that is much wider than tall fills the page; any other leaves a column at the right for the words, and is at
    most 1.25 page widths tall. A level-0 pixel is at most four pixels wide.
    """
    style = Style(width)
    beside, below = (_fitted(frame, room, width) for room in (style.room_beside, style.room_below))
    if frame.slide_size[0] < 1.1 * frame.slide_size[1] or below.width <= beside.width:
        return beside
    return below


def _fitted(frame: Frame, room: int, width: int) -> Frame:
    downsample = max(frame.slide_size[0] / room, frame.slide_size[1] / (_TALL * width), 1 / _ENLARGE)
    return frame.at(frame.mpp * downsample / frame.downsample)


def draw(picture: Picture, *, width: int = 1200) -> np.ndarray:
    """Draw the whole page: the slide's picture, title, caption, scale bar, colour bar and key.

    Args:
        picture: What is shown.
        width: Columns of the page, 400 to 4,096.

    Returns:
        (rows, width, 3) uint8 RGB.
    """
    style = Style(width)
    frame = picture_frame(picture.heatmap.frame, width=width)
    layers = _layers(picture, frame)
    slide = np.pad(_painted(picture, frame, layers, style), [(1, 1), (1, 1), (0, 0)], constant_values=208)
    bars = [_colour_bar(picture, layers, style), _scale_bar(frame.mpp, style), _key(picture, layers, style)]
    beside = frame.width <= style.room_beside
    room = min(width - frame.width - 3 * style.margin, 40 * style.em) if beside else style.room_below
    title, caption = style.text(picture.title, style.title, room), style.text(picture.caption, style.body, room)
    if beside:
        body = row([slide, column([title, caption, *bars], style.margin)], style.margin)
    else:
        body = column([title, slide, caption, flow(bars, room, 2 * style.margin)], style.margin)
    page = np.full((body.shape[0] + 2 * style.margin, width, 3), 255, np.uint8)
    place(page, body, style.margin - 1, style.margin)
    return page


def paint(picture: Picture, frame: Frame, *, width: int = 1200) -> np.ndarray:
    """Draw the slide with its findings in `frame`, without words.

    Args:
        picture: What is shown.
        frame: Any frame of the slide; the result, uint8 RGB, has its rows and columns.
        width: Columns of the page that it is for; lines are as thick as there.
    """
    return _painted(picture, frame, _layers(picture, frame), Style(width))


def png(image: np.ndarray) -> bytes:
    """The bytes of a PNG file of (rows, columns, 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Layers:
    """What is painted, reduced or enlarged to the picture's pixels; (rows, columns) float32 but for the slide."""

    slide: np.ndarray  # (rows, columns, 3) float32 RGB
    mean: np.ndarray  # value over the covered part of a pixel, as a share of the full one
    tint: np.ndarray  # opacity of the heat
    lesion: np.ndarray  # above 0.5 inside of lesions
    tissue: np.ndarray  # share of a pixel
    unread: np.ndarray  # bool

    def ground(self) -> np.ndarray:
        """Average colour of tissue, or white where there is none."""
        share = self.tissue[..., None]
        return (self.slide * share).sum((0, 1)) / share.sum() if share.sum() > 0 else np.full(3, 255, np.float32)


def _layers(picture: Picture, frame: Frame) -> _Layers:
    heat = condense(picture.heatmap, frame, mask=picture.covered)
    return _Layers(
        slide=_resized(picture.thumbnail, frame),
        mean=heat.mean / picture.full,
        tint=_opacity(heat.mean / picture.full) * heat.share,
        lesion=_lesion(heat, picture.threshold) if picture.outlined is None else _lesion(_filled(picture, frame), 0.5),
        tissue=condense(picture.tissue, frame).mean,
        unread=np.zeros(frame.shape, bool) if picture.unread is None else condense(picture.unread, frame).peak > 0,
    )


def _filled(picture: Picture, frame: Frame) -> Condensed:
    """Share of each pixel that lies in the polygons, from pixels of half its width: no finer, for the memory."""
    source = picture.heatmap.frame
    half = source.coarser(max(1, int(frame.downsample / source.downsample / 2)))
    return condense(rasterize(picture.outlined, half), frame)


def rise(share: np.ndarray) -> np.ndarray:
    """How strongly a value, as a share of the full one, is coloured, 0 to 1: not at all, ever more, then evenly."""
    ramp = np.clip((share - _CLEAR) / (_FULL - _CLEAR), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _opacity(probability: np.ndarray) -> np.ndarray:
    return _OPACITY * rise(probability)


def _lesion(heat: Condensed, threshold: float) -> np.ndarray:
    """A field that is above 0.5 in lesions.

    The contour follows the probabilities that are shown, so it cuts pixels where they cross the threshold. A lesion too
    small for any pixel's mean to exceed it, though some heatmap pixel does, is a dot: rather too large than lost.
    """
    covered = heat.share > 0.5
    field = np.clip(heat.mean - threshold + 0.5, 0, 1) * covered
    _, parts = cv2.connectedComponents((heat.peak > threshold).astype(np.uint8), connectivity=8)
    lost = (parts > 0) & ~np.isin(parts, parts[covered & (heat.mean > threshold)])
    dots = cv2.dilate(lost.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return np.where(dots > 0, np.float32(1), field.astype(np.float32))


def _resized(thumbnail: Raster, frame: Frame) -> np.ndarray:
    """The slide itself; Pillow's filters take fractional boxes, so that it lies exactly under the heatmap."""
    scale = frame.scale_to(thumbnail.frame)
    right, bottom = min(frame.width * scale, thumbnail.frame.width), min(frame.height * scale, thumbnail.frame.height)
    image = Image.fromarray(thumbnail.array())
    resized = image.resize((frame.width, frame.height), Image.Resampling.BICUBIC, box=(0, 0, right, bottom))
    return np.asarray(resized, np.float32)


def _painted(picture: Picture, frame: Frame, layers: _Layers, style: Style) -> np.ndarray:
    image = _tinted(layers.slide, layers.mean, layers.tint)
    image = _over(image, _outline(layers.tissue, style.line / 2), *_TISSUE)
    if layers.unread.any():
        image = _hatched(image, layers.unread, style)
    image = _bytes(_contoured(image, layers.lesion, style))
    for annotation in picture.dashed:
        image = _dashed(image, shapely.transform(annotation.geometry, lambda points: points / frame.downsample), style)
    return _numbered(image, picture, frame, style)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _contoured(image: np.ndarray, lesion: np.ndarray, style: Style) -> np.ndarray:
    rim, core = (_outline(lesion, style.line * part) for part in (2.6, 1.2))
    return _over(_over(image, rim, WHITE, 0.9), core, INK, 1)


def _dashed(image: np.ndarray, polygon: BaseGeometry, style: Style) -> np.ndarray:
    """Dashes along the outlines of a polygon in the picture's pixels: dark on white, as contours are."""
    image, dash = np.ascontiguousarray(image), 7 * style.line
    lines = [
        (shapely.get_coordinates(substring(ring, start, min(start + dash, ring.length))) * 16 - 8).round().astype("i4")
        for ring in shapely.get_rings(shapely.simplify(polygon, 0.5))
        for start in np.arange(0, ring.length, 1.7 * dash)
    ]
    for colour, part in ((WHITE, 2.6), (INK, 1.2)):
        cv2.polylines(image, lines, False, colour, max(1, round(style.line * part)), cv2.LINE_AA, shift=4)
    return image


def _numbered(image: np.ndarray, picture: Picture, frame: Frame, style: Style) -> np.ndarray:
    """Numbers over the marks, the first drawn last and so on top; at the border they are moved inside."""
    page = Image.fromarray(image)
    pen, rim = ImageDraw.Draw(page), round(style.line * 2)
    for number, mark in reversed(list(enumerate(picture.marks, 1))):
        left, top, right, bottom = pen.textbbox((0, 0), str(number), style.title, "mm", stroke_width=rim)
        x, y = (part / frame.downsample for part in mark)
        at = min(max(x, -left), frame.width - right), min(max(y, -top), frame.height - bottom)
        pen.text(at, str(number), INK, style.title, "mm", stroke_width=rim, stroke_fill=WHITE)
    return np.asarray(page)


def _tinted(image: np.ndarray, probability: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colour the tissue's greys, not its colours: yellow over violet would be brown, and so a matter of the stain."""
    colours = _VIRIDIS[np.clip(probability * 255 + 0.5, 0, 255).astype(int)]
    greys, opacity = (image @ _LUMA)[..., None], opacity[..., None].astype(np.float32)
    image = image + (greys - image) * (opacity / np.float32(_OPACITY))
    return image + (colours - image) * opacity


def _over(image: np.ndarray, alpha: np.ndarray, colour: tuple[int, int, int], opacity: float) -> np.ndarray:
    return image + (np.array(colour, np.float32) - image) * (alpha * np.float32(opacity))[..., None]


def _outline(field: np.ndarray, thickness: float) -> np.ndarray:
    """Opacity, 0-1, of an anti-aliased line of this many pixels along the border of `field` > 0.5."""
    inside = (cv2.resize(field, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)
    size = max(3, round(thickness * _FINE) // 2 * 2 + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    ring = cv2.dilate(inside, kernel) - cv2.erode(inside, kernel)
    return cv2.resize(ring.astype(np.float32), field.shape[::-1], interpolation=cv2.INTER_AREA)


def _hatched(image: np.ndarray, mask: np.ndarray, style: Style) -> np.ndarray:
    """Paler, under slanting lines, with an outline: known by its pattern, not by its colour."""
    (rows, columns), period = np.indices(mask.shape, sparse=True), 5 * style.line
    across = np.abs((columns + rows) % period - period / 2)
    mask, lines = mask.astype(np.float32), np.clip(0.5 + 0.8 * style.line - across, 0, 1).astype(np.float32)
    image = _over(_over(image, mask, WHITE, 0.55), mask * lines, INK, 0.85)
    return _over(image, _outline(mask, style.line), INK, 0.85)


def _scale_bar(mpp: float, style: Style) -> np.ndarray:
    length = round_length(11 * style.em * mpp)
    bar = np.full((round(0.35 * style.em), round(length / mpp), 3), INK, np.uint8)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    return column([bar, style.text(label, style.body, 10**6)], round(0.3 * style.em))


def round_length(longest: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is at most `longest`, as scale bars are long."""
    power = math.floor(math.log10(longest))
    lengths = (digit * 10.0**exponent for exponent in (power - 1, power) for digit in (1, 2, 5))
    return max(length for length in lengths if length <= longest)


def _colour_bar(picture: Picture, layers: _Layers, style: Style) -> np.ndarray:
    """The colours as the picture shows them over tissue of its average colour, with the threshold marked."""
    width, height, line = 13 * style.em, round(0.9 * style.em), style.line
    probability = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    bar = _tinted(np.full((height, width, 3), layers.ground(), np.float32), probability, _opacity(probability))
    bar = np.pad(bar, [(round(3 * line), round(3 * line)), (0, 0), (0, 0)], constant_values=255)
    x = picture.threshold / picture.full * (width - 1)
    away = np.abs(np.arange(width) - x)[None, :]
    for half, colour in ((1.9 * line, WHITE), (0.8 * line, INK)):
        bar = _over(bar, np.repeat(np.clip(half + 0.5 - away, 0, 1), len(bar), 0), colour, 1)
    scale = _ticks((f"{picture.threshold:.2f}", f"{picture.full:g}"), x, width, style)
    title = style.text(picture.label, style.body, width)
    return column([title, _bytes(bar), scale], 0)


def _ticks(numbers: tuple[str, str], x: float, width: int, style: Style) -> np.ndarray:
    """The ends, 0 and full, and the threshold under its mark; an end's number gives way to it."""
    threshold, full = numbers
    names = {name: style.text(name, style.body, width) for name in ("0", full, threshold)}
    taken = names[threshold].shape[1]
    left = round(min(max(0, x - taken / 2), width - taken))
    result = np.full((len(names["0"]), width, 3), 255, np.uint8)
    if left > 2 * names["0"].shape[1]:
        place(result, names["0"], 0, 0)
    if left + taken < width - 2 * names[full].shape[1]:
        place(result, names[full], width - names[full].shape[1], 0)
    place(result, names[threshold], left, 0)
    return result


def _key(picture: Picture, layers: _Layers, style: Style) -> np.ndarray:
    """What the lines and the hatching mean, each drawn as in the picture."""
    height, width, edge = round(1.4 * style.em), 2 * style.em, style.em // 4
    ground = np.full((height, width, 3), layers.ground(), np.float32)
    inside = np.pad(np.ones((height - 2 * edge, width - 2 * edge), np.float32), edge)
    heat = _tinted(ground, inside, inside * _OPACITY)
    entries = [
        (_contoured(heat, inside, style), f"{picture.quantity} > {picture.threshold:.2f}"),
        (_over(ground * 0 + 255, _outline(inside, style.line / 2), *_TISSUE), "tissue"),
    ]
    if layers.unread.any():
        entries.append((_hatched(ground, inside > 0, style), "unread tissue"))
    around = shapely.box(edge, edge, width - edge, height - edge)
    blank = np.full((height, width, 3), 255, np.uint8)
    entries += [(_dashed(blank.copy(), around, style), n) for n in dict.fromkeys(a.name for a in picture.dashed)]
    names = (style.text(name, style.body, 12 * style.em) for _, name in entries)
    rows = [row([_bytes(swatch), name], style.em // 2) for (swatch, _), name in zip(entries, names, strict=True)]
    return column(rows, style.em // 3)
