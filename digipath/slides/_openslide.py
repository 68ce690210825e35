"""Pixels through OpenSlide: a level's own pixels, flattened, from any thread, also after a damaged tile."""

import ctypes
import math
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
from openslide import lowlevel

from digipath.errors import SlideError
from digipath.geometry.frame import Box
from digipath.slides._levels import ReadFailure, levels_of

__all__ = ["OpenSlideSource", "flatten", "stored_level"]

# A handle that raised is dead. A slide that kills this many is not worth more.
_MAX_REOPENINGS = 10_000
# A level of an odd downsample is kept in memory up to this size: 48 MB.
_KEPT_PIXELS = 16 << 20
# Side of the squares in which a larger one is read.
_SQUARE = 128
_MOST = 1 << 28  # pixels of a level that is read at once
_SAME = 0.01  # by which a level's downsample may differ from the one that is looked for


# openslide-python's own read converts twice on the way to an array, which costs 30 % of the time; what is below it is
# not public, so that it may be missing one day.
_READ: Callable | None = getattr(lowlevel, "_read_region", None)
_PIXELS = ctypes.POINTER(ctypes.c_uint32)


class OpenSlideSource:
    """The levels of a file that OpenSlide opens."""

    backend = "openslide"
    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path):
        self._path = path
        self._handle = openslide.OpenSlide(path)
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._whole: dict[int, np.ndarray | None] = {}
        self._closed = False
        self._reopenings = 0
        self.properties = dict(self._handle.properties)
        self._downsamples = self._handle.level_downsamples
        self.levels = levels_of(self._handle.level_dimensions, [self._tile(i) for i in range(len(self._downsamples))])
        self._background = _colour(self.properties.get("openslide.background-color", "FFFFFF"))

    def _tile(self, index: int) -> tuple[int, int]:
        """(width, height) of what is decoded as one, but not less than 64: NDPI's strips are 8 rows high."""
        sides = (self.properties.get(f"openslide.level[{index}].tile-{side}", 256) for side in ("width", "height"))
        return tuple(max(64, int(side)) for side in sides)

    def read_level(self, index: int, box: Box) -> np.ndarray:
        """(rows, columns, 3) uint8 of a box inside a level, in that level's pixels."""
        kept = self._kept(index)
        return self.read_directly(index, box) if kept is None else kept[box.slices()].copy()

    def _kept(self, index: int) -> np.ndarray | None:
        """A small level of an odd downsample, read once from its corner, where OpenSlide draws it without blur."""
        level = self.levels[index].box
        if self._is_whole(index) or level.area > _KEPT_PIXELS:
            return None
        with self._keeping:
            if index not in self._whole:
                handle = self._current()
                try:
                    self._whole[index] = self._region(handle, index, level)
                except openslide.OpenSlideError:
                    self._retire(handle)
                    self._whole[index] = None
            return self._whole[index]

    def read_directly(self, index: int, box: Box) -> np.ndarray:
        """The same without keeping a level, and so blurred a little where its downsample is odd."""
        handle = self._current()
        try:
            return self._read(handle, index, box)
        except openslide.OpenSlideError as error:
            failure = error
        self._retire(handle)
        # The second try has a handle of its own: other threads' reads shall not die of this region's damage.
        try:
            return self._read(self._open(), index, box)
        except openslide.OpenSlideError as error:
            raise ReadFailure(str(error)) from failure

    def _read(self, handle: openslide.OpenSlide, index: int, box: Box) -> np.ndarray:
        """A box through level-0 positions, which are whole numbers, so that those of a level may not be.

        What falls between its pixels, OpenSlide draws blurred, by up to half a level-0 pixel. A level that is 4.0001
        times as coarse is read in squares that lie fixed in it, so that a pixel is the same in every read.
        """
        if self._is_whole(index):
            return self._region(handle, index, box)
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        for y in range(box.y // _SQUARE * _SQUARE, box.bottom, _SQUARE):
            for x in range(box.x // _SQUARE * _SQUARE, box.right, _SQUARE):
                square = Box(x, y, _SQUARE, _SQUARE).intersect(self.levels[index].box)
                part = square.intersect(box)
                region = self._region(handle, index, square)
                pixels[part.shift(-box.x, -box.y).slices()] = region[part.shift(-x, -y).slices()]
        return pixels

    def _is_whole(self, index: int) -> bool:
        return self._downsamples[index] == int(self._downsamples[index])

    def _region(self, handle: openslide.OpenSlide, index: int, box: Box) -> np.ndarray:
        position = round(box.x * self._downsamples[index]), round(box.y * self._downsamples[index])
        if _READ is None:
            return flatten(np.asarray(handle.read_region(position, index, (box.width, box.height))), self._background)
        bgra = np.empty((box.height, box.width, 4), np.uint8)
        _READ(handle._osr, bgra.ctypes.data_as(_PIXELS), *position, index, box.width, box.height)
        return _flatten_premultiplied(bgra, self._background)

    def _current(self) -> openslide.OpenSlide:
        with self._lock:
            if self._closed:
                raise SlideError(f"slide {self._path.name} is closed: open it again to read from it.")
            if self._handle is None:
                self._handle = self._open()
            return self._handle

    def _retire(self, handle: openslide.OpenSlide) -> None:
        """Forget a dead handle; it is freed when the last read on it has ended."""
        with self._lock:
            if self._handle is handle:
                self._handle = None

    def _open(self) -> openslide.OpenSlide:
        self._reopenings += 1
        if self._reopenings > _MAX_REOPENINGS:
            raise ReadFailure(f"{self._path.name} was re-opened {_MAX_REOPENINGS} times")
        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            raise ReadFailure(str(error)) from error

    def close(self) -> None:
        """Free the handle once the reads that use it have ended."""
        with self._lock:
            self._closed, self._handle = True, None
        self._whole = {}


def stored_level(path: Path, downsample: float) -> np.ndarray | None:
    """All of the coarser level that has this downsample within 1 %, or None where OpenSlide finds none.

    Returns:
        (rows, columns, 4) uint8 RGBA of its own pixels as they are stored; 0 where nothing is.

    Raises:
        SlideError: It is damaged.
    """
    try:
        with openslide.OpenSlide(path) as pyramid:
            ratios = np.divide(pyramid.level_downsamples, downsample)
            found = [index for index, ratio in enumerate(ratios) if index and abs(ratio - 1) <= _SAME]
            if not found or math.prod(pyramid.level_dimensions[found[0]]) > _MOST:
                return None
            # From its corner, so that nothing falls between pixels.
            return np.asarray(pyramid.read_region((0, 0), found[0], pyramid.level_dimensions[found[0]]))
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path.name} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from error


def flatten(rgba: np.ndarray, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """RGB of (rows, columns, 4) RGBA (not premultiplied) over a colour."""
    rgb, alpha = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), cv2.extractChannel(rgba, 3)
    if cv2.minMaxLoc(alpha)[0] == 255:
        return rgb
    share = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgb * share + np.float32(background) * (1 - share)).astype(np.uint8)


def _flatten_premultiplied(bgra: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """RGB of (rows, columns, 4) as OpenSlide draws it, over a colour."""
    rgb, alpha = cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB), cv2.extractChannel(bgra, 3)
    if cv2.minMaxLoc(alpha)[0] == 255:
        return rgb
    rest = (255 - alpha)[..., None].astype(np.float32) / 255
    return np.clip(np.rint(rgb + np.float32(background) * rest), 0, 255).astype(np.uint8)


def _colour(text: str) -> tuple[int, int, int]:
    return tuple(int(text[i : i + 2], 16) for i in (0, 2, 4))
