"""The tiles that a map is put together from: of the slide as JPEG, of what lies over it as PNG with transparency.

Tile zoom z has frames of 2**(levels - z) level-0 pixels a pixel, as in Deep Zoom; every tile has 256 x 256 pixels, also
at the border, beyond which all are transparent. JPEG knows no transparency, and PNG of tissue takes five times as long
and as many bytes; so there a tile of the slide is SVG, with as much of a JPEG as lies on the slide.
"""

import base64
import math
from dataclasses import dataclass

import cv2
import numpy as np

from digipath.errors import SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.slides.slide import Slide
from digipath.viewer.colours import coloured, mask_colour, opacity, stripes
from digipath.viewer.opened import View
from digipath.viewer.shelf import Item

__all__ = ["QUALITY", "SIDE", "Tiling", "layer_tile", "media_type", "shrunk", "slide_tile", "thumbnail", "tile_url"]

SIDE = 256
"""Pixels of a tile along each side."""

QUALITY = 80
"""Of JPEG, 1 to 100."""

_THUMBNAIL = 320
_OVERHANGING = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" viewBox="0 0 {side} {side}">'
    '<image width="{width}" height="{height}" preserveAspectRatio="none" '
    'href="data:image/jpeg;base64,{content}"/></svg>'
)
_KINDS = {b"\x89PNG": "image/png", b"<svg": "image/svg+xml"}
# Of pictures and of masks, a third quicker than the default, and no larger.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
_LOST = (200, 200, 204)
_MASKS = ("mask", "tissue", "uncovered")


@dataclass(frozen=True)
class Tiling:
    """How a slide of `width` x `height` level-0 pixels is cut into tiles, at zooms from 0 to `levels`."""

    width: int
    height: int

    @property
    def levels(self) -> int:
        """The finest zoom, which is level 0; at zoom 0 the slide is one pixel."""
        return math.ceil(math.log2(max(self.width, self.height)))

    def downsample(self, z: int) -> int:
        """Level-0 pixels per pixel of a zoom."""
        if not 0 <= z <= self.levels:
            raise SpecError(f"zooms of this slide are 0 to {self.levels}, got {_short(z)}.")
        return 2 ** (self.levels - z)

    def frame(self, z: int, level0: Frame) -> Frame:
        """The frame of a zoom, of a slide whose level 0 is `level0`."""
        return level0.coarser(self.downsample(z))

    def box(self, z: int, x: int, y: int) -> Box:
        """A tile's box in the frame of its zoom; it may overhang it at the right and below.

        Raises:
            SpecError: There is no such tile.
        """
        factor = self.downsample(z) * SIDE
        columns, rows = -(-self.width // factor), -(-self.height // factor)
        if not (0 <= x < columns and 0 <= y < rows):
            raise SpecError(f"zoom {z} has {columns} x {rows} tiles, got ({_short(x)}, {_short(y)}).")
        return Box(x * SIDE, y * SIDE, SIDE, SIDE)


def slide_tile(slide: Slide, tiling: Tiling, z: int, x: int, y: int) -> bytes:
    """One tile of a slide, as JPEG, or as SVG where it overhangs the slide; what cannot be read is grey stripes."""
    box, frame = tiling.box(z, x, y), tiling.frame(z, slide.frame)
    pixels, lost = slide.read_covered(box, frame)
    for level0_box in lost:
        part = slide.frame.box_in(level0_box, frame).intersect(box).shift(-box.x, -box.y)
        pixels[part.slices()][stripes(SIDE)[part.slices()]] = _LOST
    inside = box.intersect(frame.box).shift(-box.x, -box.y)
    if inside.area == box.area:
        return _jpeg(pixels)
    content = base64.b64encode(_jpeg(np.ascontiguousarray(pixels[inside.slices()]))).decode()
    return _OVERHANGING.format(side=SIDE, width=inside.width, height=inside.height, content=content).encode()


def media_type(tile: bytes) -> str:
    """Of a tile: "image/jpeg", "image/png" or "image/svg+xml"."""
    return next((kind for start, kind in _KINDS.items() if tile.startswith(start)), "image/jpeg")


def layer_tile(view: View, layer: str, z: int, x: int, y: int, *, threshold: float | None = None) -> bytes:
    """One tile of a layer over the slide, as PNG with transparency.

    Where tiles are finer than the heatmap, a pixel shows what the heatmap holds under its centre; so a mask at zoom
    `levels` is `Segmentation.mask(threshold)`, exactly. Where they are coarser, a heatmap is averaged over what is
    covered, and a mask marks every pixel in which anything is marked: no lesion vanishes.

    Args:
        view: The result.
        layer: "probability-<k>", "mask-<k>" of the class of index k, "aleatoric", "epistemic", "total", "tissue" or
            "uncovered".
        z: Zoom, see `Tiling`.
        x: Column of the tile.
        y: Row of the tile.
        threshold: Of "mask-<k>", from 0 to 1; None takes the result's own.

    Raises:
        SpecError: There is no such layer or tile, or the threshold is none.
    """
    tiling = Tiling(*view.frame.slide_size)
    box = tiling.box(z, x, y)
    frame = tiling.frame(z, Frame.level0(tiling.width, tiling.height, view.frame.mpp / view.frame.downsample))
    masked = layer.partition("-")[0] in _MASKS
    pixels = _mask(view, layer, box, frame, threshold) if masked else _heat(view, layer, box, frame)
    inside = box.intersect(frame.box).shift(-box.x, -box.y)
    pixels[inside.bottom :], pixels[:, inside.right :] = 0, 0
    return _png(pixels)


def thumbnail(slide: Slide) -> bytes:
    """The whole slide, small, as JPEG."""
    side = max(slide.frame.width, slide.frame.height)
    frame = slide.frame.at(slide.frame.mpp * max(1.0, side / _THUMBNAIL))
    return _jpeg(slide.read_covered(frame.box, frame)[0])


def shrunk(pixels: np.ndarray) -> bytes:
    """A picture, small, as JPEG."""
    scale = min(1.0, _THUMBNAIL / max(pixels.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    return _jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def tile_url(item: Item, layer: str, *, prefix: str, version: str, threshold: float | None = None) -> str:
    """The URL of a layer's tiles, with {z}, {x} and {y} to be filled in; it changes when a tile would."""
    ending = "" if threshold is None else f"&t={float(threshold)!r}"
    return f"{prefix}tiles/{item.id}/{layer}/{{z}}/{{x}}/{{y}}?v={version}{ending}"


def _heat(view: View, layer: str, box: Box, frame: Frame) -> np.ndarray:
    means, shares = view.means(layer).read(box, frame)
    seen = np.rint(shares * opacity(layer, means) * 255).astype(np.uint8)
    return np.dstack([coloured(layer, means), seen])


def _mask(view: View, layer: str, box: Box, frame: Frame, threshold: float | None) -> np.ndarray:
    peaks = view.peaks(layer).read(box, frame)
    if layer.startswith("mask"):
        threshold = view.threshold if threshold is None else float(threshold)
        if not 0 <= threshold <= 1:  # nor is "not a number"
            raise SpecError(f"a threshold is a probability from 0 to 1, got {threshold!r}.")
        marked = peaks > threshold
    else:
        marked = peaks > 0
    if layer == "uncovered":
        marked = marked & stripes(SIDE)
    pixels = np.zeros((*marked.shape, 4), np.uint8)
    pixels[marked] = (*mask_colour(layer, len(view.classes)), 255)
    return pixels


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _jpeg(pixels: np.ndarray) -> bytes:
    pixels = cv2.cvtColor(_bytes(pixels), cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    if not done:
        raise SlideError(f"a tile of {pixels.shape} could not be written as JPEG.")
    return content.tobytes()


def _png(pixels: np.ndarray) -> bytes:
    _, content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), _PNG)
    return content.tobytes()


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**9 else "a number of more than nine digits"
