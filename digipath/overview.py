"""One picture of a result: the slide, where lesion was found, and what was not read; with scale, colours and words.

Nothing but the finding is drawn over the slide. Low probabilities are transparent, so that normal tissue looks like
itself; the colours are OpenCV's viridis, whose lightness rises evenly and which is told apart by the colour-blind;
the contour is dark between white lines, so that it is seen on glass, on pink and on violet. Words and scales stand
beside or below, on white, in ASCII: the font that Pillow carries along has no more.
"""

import io
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from digipath.errors import SpecError
from digipath.geometry.condense import Condensed, condense
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

__all__ = ["Picture", "draw", "paint", "picture_frame", "png"]

_WIDTHS = 400, 4096
_ENLARGE = 4  # picture pixels per level-0 pixel at most: beyond that, blur only looks like detail
_TALL = 1.25  # height of the picture at most, in page widths
_OPACITY, _CLEAR, _FULL = 0.55, 0.1, 0.6  # strongest tint; probabilities where it begins and from which it is that
_FINE = 3  # outlines are drawn this much larger, then averaged down
_INK, _WHITE, _TISSUE = (20, 20, 24), (255, 255, 255), ((80, 80, 88), 0.9)  # colours; the last with an opacity
_SPELLED = str.maketrans("μ×øØłŁ‐‑‒–—−", "uxoOlL------") | str.maketrans({"≥": ">=", "≤": "<=", "ß": "ss"})
_VIRIDIS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].astype("f4")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the picture shows. All frames are of one slide; rasters may be lazy and are read in strips.

    Attributes:
        thumbnail: (rows, columns, 3) uint8 RGB; sharp when read in `picture_frame` or finer.
        heatmap: (rows, columns) floating-point probability of lesion, 0-1.
        covered: Mask in the heatmap's frame: tissue, read and predicted. Nothing is coloured outside of it.
        tissue: Mask in any frame; its outline is drawn thinly.
        unread: Mask in the heatmap's frame of tissue that could not be read; hatched. None: everything was read.
        threshold: Lesion is above this probability.
        title: Over the words, such as the slide's name.
        caption: The figures, such as "lesion 3.21 mm2 of 14.5 mm2 tissue (22 %)".
        label: What the colours stand for.
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

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise SpecError(f"threshold is a probability in [0, 1], got {self.threshold}.")
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
    style = _Style(width)
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
    style = _Style(width)
    frame = picture_frame(picture.heatmap.frame, width=width)
    layers = _layers(picture, frame)
    slide = np.pad(_painted(layers, style), [(1, 1), (1, 1), (0, 0)], constant_values=208)
    bars = [_colour_bar(picture, layers, style), _scale_bar(frame.mpp, style), _key(picture, layers, style)]
    beside = frame.width <= style.room_beside
    room = min(width - frame.width - 3 * style.margin, 40 * style.em) if beside else style.room_below
    title, caption = style.text(picture.title, style.title, room), style.text(picture.caption, style.body, room)
    if beside:
        body = _row([slide, _column([title, caption, *bars], style.margin)], style.margin)
    else:
        body = _column([title, slide, caption, _flow(bars, room, 2 * style.margin)], style.margin)
    page = np.full((body.shape[0] + 2 * style.margin, width, 3), 255, np.uint8)
    _place(page, body, style.margin - 1, style.margin)
    return page


def paint(picture: Picture, frame: Frame, *, width: int = 1200) -> np.ndarray:
    """Draw the slide with its findings in `frame`, without words.

    Args:
        picture: What is shown.
        frame: Any frame of the slide; the result, uint8 RGB, has its rows and columns.
        width: Columns of the page that it is for; lines are as thick as there.
    """
    return _painted(_layers(picture, frame), _Style(width))


def png(image: np.ndarray) -> bytes:
    """The bytes of a PNG file of (rows, columns, 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class _Layers:
    """What is painted, reduced or enlarged to the picture's pixels; (rows, columns) float32 but for the slide."""

    slide: np.ndarray  # (rows, columns, 3) float32 RGB
    mean: np.ndarray  # probability over the covered part of a pixel
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
        mean=heat.mean,
        tint=_opacity(heat.mean) * heat.share,
        lesion=_lesion(heat, picture.threshold),
        tissue=condense(picture.tissue, frame).mean,
        unread=np.zeros(frame.shape, bool) if picture.unread is None else condense(picture.unread, frame).peak > 0,
    )


def _opacity(probability: np.ndarray) -> np.ndarray:
    """How strongly a probability colours the tissue: not at all, rising smoothly, then evenly."""
    ramp = np.clip((probability - _CLEAR) / (_FULL - _CLEAR), 0, 1)
    return _OPACITY * ramp * ramp * (3 - 2 * ramp)


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


def _painted(layers: _Layers, style: "_Style") -> np.ndarray:
    image = _tinted(layers.slide, layers.mean, layers.tint)
    image = _over(image, _outline(layers.tissue, style.line / 2), *_TISSUE)
    if layers.unread.any():
        image = _hatched(image, layers.unread, style)
    return _bytes(_contoured(image, layers.lesion, style))


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _contoured(image: np.ndarray, lesion: np.ndarray, style: "_Style") -> np.ndarray:
    rim, core = (_outline(lesion, style.line * part) for part in (2.6, 1.2))
    return _over(_over(image, rim, _WHITE, 0.9), core, _INK, 1)


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


def _hatched(image: np.ndarray, mask: np.ndarray, style: "_Style") -> np.ndarray:
    """Paler, under slanting lines, with an outline: known by its pattern, not by its colour."""
    (rows, columns), period = np.indices(mask.shape, sparse=True), 5 * style.line
    across = np.abs((columns + rows) % period - period / 2)
    mask, lines = mask.astype(np.float32), np.clip(0.5 + 0.8 * style.line - across, 0, 1).astype(np.float32)
    image = _over(_over(image, mask, _WHITE, 0.55), mask * lines, _INK, 0.85)
    return _over(image, _outline(mask, style.line), _INK, 0.85)


class _Style:
    """Sizes in pixels, all in proportion to the page, and the two fonts."""

    def __init__(self, width: int):
        if not (_WIDTHS[0] <= width <= _WIDTHS[1] and width == int(width)):
            limits = f"{_WIDTHS[0]} to {_WIDTHS[1]:,}"
            raise SpecError(f"width is {limits} pixels, got {width}. For more detail, open the heatmap over the slide.")
        self.em = max(11, round(width / 66))
        self.line = max(1.0, width / 800)
        self.margin = round(1.4 * self.em)
        self.room_below = width - 2 * self.margin
        self.room_beside = width - 3 * self.margin - 17 * self.em
        self.body, self.title = ImageFont.load_default(self.em), ImageFont.load_default(round(1.25 * self.em))

    def text(self, text: str, font: ImageFont.FreeTypeFont, width: int) -> np.ndarray:
        """Lines of text, broken to fit `width`; nothing is cut off."""
        lines = list(_lines(_ascii(text), font, width)) if text.strip() else []
        pitch = round(1.3 * font.size)
        columns = max((math.ceil(font.getlength(line)) for line in lines), default=0)
        image = Image.new("RGB", (columns + 1, pitch * len(lines)), _WHITE)
        pen = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            pen.text((0, number * pitch), line, fill=_INK, font=font)
        return np.asarray(image)


def _ascii(text: str) -> str:
    """The same without accents and exponents; what has no likeness in ASCII is a question mark."""
    plain = unicodedata.normalize("NFKD", text).translate(_SPELLED)
    return "".join(sign if sign.isascii() else "?" for sign in plain if not unicodedata.combining(sign))


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterable[str]:
    """Break between words, and inside of a word, such as a file name, that is wider than the line."""
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) > width:
                yield from [line] if line else []
                *parts, joined = _broken(word, font, width)
                yield from parts
            line = joined
        yield line


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> Iterable[str]:
    while len(word) > 1 and font.getlength(word) > width:
        fits = max(1, sum(font.getlength(word[:end]) <= width for end in range(1, len(word))))
        at = max(word.rfind(sign, fits // 2, fits) for sign in "_-.") + 1 or fits
        yield word[:at]
        word = word[at:]
    yield word


def _scale_bar(mpp: float, style: _Style) -> np.ndarray:
    length = _round_length(11 * style.em * mpp)
    bar = np.full((round(0.35 * style.em), round(length / mpp), 3), _INK, np.uint8)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    return _column([bar, style.text(label, style.body, 10**6)], round(0.3 * style.em))


def _round_length(longest: float) -> float:
    """The largest of 1, 2, 5, 10, ... that is at most `longest`."""
    power = math.floor(math.log10(longest))
    lengths = (digit * 10.0**exponent for exponent in (power - 1, power) for digit in (1, 2, 5))
    return max(length for length in lengths if length <= longest)


def _colour_bar(picture: Picture, layers: _Layers, style: _Style) -> np.ndarray:
    """The colours as the picture shows them over tissue of its average colour, with the threshold marked."""
    width, height, line = 13 * style.em, round(0.9 * style.em), style.line
    probability = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    bar = _tinted(np.full((height, width, 3), layers.ground(), np.float32), probability, _opacity(probability))
    bar = np.pad(bar, [(round(3 * line), round(3 * line)), (0, 0), (0, 0)], constant_values=255)
    away = np.abs(np.arange(width) - picture.threshold * (width - 1))[None, :]
    for half, colour in ((1.9 * line, _WHITE), (0.8 * line, _INK)):
        bar = _over(bar, np.repeat(np.clip(half + 0.5 - away, 0, 1), len(bar), 0), colour, 1)
    scale = _ticks(f"{picture.threshold:.2f}", picture.threshold * (width - 1), width, style)
    title = style.text(picture.label, style.body, width)
    return _column([title, _bytes(bar), scale], 0)


def _ticks(threshold: str, x: float, width: int, style: _Style) -> np.ndarray:
    """0, 1 and the threshold under its mark; an end's number gives way to it."""
    names = {name: style.text(name, style.body, width) for name in ("0", "1", threshold)}
    taken = names[threshold].shape[1]
    left = round(min(max(0, x - taken / 2), width - taken))
    result = np.full((len(names["0"]), width, 3), 255, np.uint8)
    if left > 2 * names["0"].shape[1]:
        _place(result, names["0"], 0, 0)
    if left + taken < width - 2 * names["1"].shape[1]:
        _place(result, names["1"], width - names["1"].shape[1], 0)
    _place(result, names[threshold], left, 0)
    return result


def _key(picture: Picture, layers: _Layers, style: _Style) -> np.ndarray:
    """What the lines and the hatching mean, each drawn as in the picture."""
    height, width, edge = round(1.4 * style.em), 2 * style.em, style.em // 4
    ground = np.full((height, width, 3), layers.ground(), np.float32)
    inside = np.pad(np.ones((height - 2 * edge, width - 2 * edge), np.float32), edge)
    heat = _tinted(ground, inside, inside * _OPACITY)
    entries = [
        (_contoured(heat, inside, style), f"probability > {picture.threshold:.2f}"),
        (_over(ground * 0 + 255, _outline(inside, style.line / 2), *_TISSUE), "tissue"),
    ]
    if layers.unread.any():
        entries.append((_hatched(ground, inside > 0, style), "unread tissue"))
    names = (style.text(name, style.body, 12 * style.em) for _, name in entries)
    rows = [_row([_bytes(swatch), name], style.em // 2) for (swatch, _), name in zip(entries, names, strict=True)]
    return _column(rows, style.em // 3)


def _column(images: list[np.ndarray], gap: int) -> np.ndarray:
    """Images under one another on white, flush left; empty ones take no room."""
    images = [image for image in images if len(image)]
    height = sum(len(image) for image in images) + gap * (len(images) - 1)
    page, y = np.full((height, max(image.shape[1] for image in images), 3), 255, np.uint8), 0
    for image in images:
        _place(page, image, 0, y)
        y += len(image) + gap
    return page


def _row(images: list[np.ndarray], gap: int) -> np.ndarray:
    """Images beside one another on white, from the top."""
    return _column([image.swapaxes(0, 1) for image in images], gap).swapaxes(0, 1)


def _flow(images: list[np.ndarray], room: int, gap: int) -> np.ndarray:
    """Images beside one another where they fit, else in further rows."""
    rows: list[list[np.ndarray]] = [[]]
    for image in images:
        if rows[-1] and sum(other.shape[1] + gap for other in rows[-1]) + image.shape[1] > room:
            rows.append([])
        rows[-1].append(image)
    return _column([_row(row, gap) for row in rows], gap)


def _place(page: np.ndarray, image: np.ndarray, x: int, y: int) -> None:
    page[y : y + image.shape[0], x : x + image.shape[1]] = image
