"""Pixels through OpenSlide: a level's own pixels, flattened, from any thread, also after a damaged tile."""

import threading
from pathlib import Path

import cv2
import numpy as np
import openslide

from digipath.errors import SlideError
from digipath.geometry.frame import Box
from digipath.slides._levels import ReadFailure, levels_of

__all__ = ["OpenSlideSource", "flatten"]

# A handle that raised is dead. A slide that kills this many is not worth more.
_MAX_REOPENINGS = 2000
# Further to the left and above than this no better aligned start of a read is looked for.
_REACH = 1024


class OpenSlideSource:
    """The levels of a file that OpenSlide opens."""

    backend = "openslide"
    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path):
        self._path = path
        self._handle = openslide.OpenSlide(path)
        self._lock = threading.Lock()
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
        handle = self._current()
        try:
            return self._read(handle, index, box)
        except openslide.OpenSlideError as error:
            failure = error
        self._retire(handle)
        # The second try has a handle of its own: other threads' reads shall not die of this region's damage.
        try:
            return self._read(self._open(), index, box, reach=0)
        except openslide.OpenSlideError as error:
            raise ReadFailure(str(error)) from failure

    def _read(self, handle: openslide.OpenSlide, index: int, box: Box, reach: int = _REACH) -> np.ndarray:
        x, skip_x = self._start(index, box.x, reach)
        y, skip_y = self._start(index, box.y, reach)
        image = handle.read_region((x, y), index, (box.width + skip_x, box.height + skip_y))
        return flatten(np.asarray(image), self._background)[skip_y:, skip_x:]

    def _start(self, index: int, position: int, reach: int) -> tuple[int, int]:
        """A level-0 position that is, as exactly as possible, a whole pixel of the level, and pixels to skip after it.

        OpenSlide takes level-0 positions and draws what falls between the pixels of a level blurred, by an amount
        that differs from read to read.
        """
        downsample = self._downsamples[index]
        if downsample == int(downsample):
            return position * int(downsample), 0
        candidates = np.arange(position, max(-1, position - reach - 1), -1)
        at_level0 = np.rint(candidates * downsample)
        error = np.abs(at_level0 / downsample - candidates)
        exact = np.flatnonzero(error < 1 / 512)
        best = int(exact[0]) if len(exact) else int(error.argmin())
        return int(at_level0[best]), best

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


def flatten(rgba: np.ndarray, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """RGB of (rows, columns, 4) RGBA (not premultiplied) over a colour."""
    rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    alpha = cv2.extractChannel(rgba, 3)
    if cv2.minMaxLoc(alpha)[0] == 255:
        return rgb
    share = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgb * share + np.float32(background) * (1 - share)).astype(np.uint8)


def _colour(text: str) -> tuple[int, int, int]:
    return tuple(int(text[i : i + 2], 16) for i in (0, 2, 4))
