"""Pixels through fastslide (an extra), several times as fast as OpenSlide, and guarded where it is less sound.

fastslide 0.8 never returns from a region with a damaged JPEG tile, shows what it cannot decode as a slide of one
pixel, and leaves coarse levels of some formats out. So every read has a time limit, and OpenSlide, where it opens the
same file, gives the metadata, the other levels, the regions that fail, and a few pixels to compare with.
"""

import importlib.util
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from digipath.errors import SlideError
from digipath.geometry.frame import Box
from digipath.slides._levels import ReadFailure, levels_of
from digipath.slides._openslide import OpenSlideSource

__all__ = ["FastSlideSource", "fastest", "is_installed"]

# A read that takes longer never ends: the measured rate is over 200 million pixels a second.
_SECONDS, _SECONDS_PER_MEGAPIXEL = 10.0, 1.0
# An image smaller than this is not a slide but one that could not be understood.
_MIN_SIDE = 8
# Side of the squares that are compared with OpenSlide, and by how many grey levels decoders may differ there on
# average, in brightness and in colour: fastslide does not smooth the colours of subsampled JPEG, OpenSlide does, and
# draws levels of odd downsamples a little blurred.
_PROBE, _BRIGHTNESS, _COLOUR = 48, 4.0, 10.0


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("fastslide") is not None


class FastSlideSource:
    """The levels of a file, read by fastslide where it has them and by OpenSlide elsewhere."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, fallback: OpenSlideSource | None = None):
        if not is_installed():
            raise SlideError("backend fastslide is an extra that is not installed: pip install 'digipath[fastslide]'.")
        import fastslide

        self._path, self._fallback = path, fallback
        try:
            self._handle = fastslide.FastSlide.from_file_path(str(path))
        except RuntimeError as error:
            raise SlideError(f"fastslide cannot open {path.name}: {_line(error)}") from error
        self._hung = False
        sizes = [tuple(size) for size in self._handle.level_dimensions]
        self._check(sizes)
        if fallback is None:
            self.levels, self.properties = levels_of(sizes), _properties(self._handle)
            self._native = {index: index for index in range(len(sizes))}
        else:
            self.levels, self.properties = fallback.levels, fallback.properties
            self._native = {
                index: sizes.index((level.width, level.height))
                for index, level in enumerate(self.levels)
                if (level.width, level.height) in sizes
            }
            self._native = {index: native for index, native in self._native.items() if self._agrees(index)}
        if 0 not in self._native:
            raise SlideError(f"fastslide and OpenSlide do not agree on the pixels of {path.name}.")

    @property
    def backend(self) -> str:
        """What decodes the pixels: fastslide, until it hangs."""
        return "openslide" if self._hung and self._fallback else "fastslide"

    def _check(self, sizes: list[tuple[int, int]]) -> None:
        name, handle = self._path.name, self._handle
        if not sizes:
            raise SlideError(f"{name} holds no picture that fastslide can find.")
        if min(sizes[0]) < _MIN_SIDE:
            raise SlideError(f"{name} is {sizes[0][0]} x {sizes[0][1]} px for fastslide, which is no slide.")
        if str(handle.dtype) != "uint8" or handle.num_channels != 3:
            raise SlideError(
                f"{name} has {handle.num_channels} channel(s) of {handle.dtype}; a slide is 8-bit RGB. "
                "Export it as RGB."
            )
        level0 = self._fallback.levels[0] if self._fallback else None
        if level0 and sizes[0] != (level0.width, level0.height):
            raise SlideError(f"fastslide and OpenSlide do not agree on the size of {name}.")

    def _agrees(self, index: int) -> bool:
        """Whether both readers give the same pixels at a few places of a level, its far corner among them."""
        level = self.levels[index]
        width, height = min(_PROBE, level.width), min(_PROBE, level.height)
        corner = Box(level.width - width, level.height - height, width, height)
        for share in (0.3, 0.5, 1.0):
            box = Box(int(corner.x * share), int(corner.y * share), width, height)
            try:
                # OpenSlide first: it says so where a file is damaged, and then fastslide is not asked.
                expected, got = self._fallback.read_directly(index, box), self._read(index, box)
            except ReadFailure:
                return False
            grey = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (expected, got))
            if cv2.absdiff(*grey).mean() > _BRIGHTNESS or cv2.absdiff(expected, got).mean() > _COLOUR:
                return False
        return True

    def read_level(self, index: int, box: Box) -> np.ndarray:
        """(rows, columns, 3) uint8 of a box inside a level, in that level's pixels."""
        if index in self._native and not (self._hung and self._fallback):
            try:
                return self._read(index, box)
            except ReadFailure:
                if self._fallback is None:
                    raise
        return self._fallback.read_level(index, box)

    def _read(self, index: int, box: Box) -> np.ndarray:
        handle, native = self._handle, self._native[index]
        if handle is None:
            raise SlideError(f"slide {self._path.name} is closed: open it again to read from it.")

        def region() -> np.ndarray:
            pixels = handle.read_region((box.x, box.y), native, (box.width, box.height)).numpy()
            if pixels.shape != (box.height, box.width, 3):
                raise RuntimeError(f"gave pixels of shape {pixels.shape}")
            return pixels

        try:
            return _within(_SECONDS + _SECONDS_PER_MEGAPIXEL * box.area / 1e6, region)
        except TimeoutError as error:
            self._hung = True
            raise ReadFailure(f"fastslide did not return from {box} of level {index}") from error
        except RuntimeError as error:
            raise ReadFailure(_line(error)) from error

    def close(self) -> None:
        """Free both readers once the reads that use them have ended."""
        self._handle = None
        if self._fallback is not None:
            self._fallback.close()


def fastest(path: Path, fallback: OpenSlideSource | None) -> FastSlideSource | OpenSlideSource | None:
    """The faster of both readers that can be trusted with this file."""
    try:
        return FastSlideSource(path, fallback)
    except SlideError:
        return fallback


def _within(seconds: float, call: Callable[[], np.ndarray]) -> np.ndarray:
    """The result of a call, or TimeoutError; the call then goes on in a thread that does not keep Python alive."""
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except RuntimeError as error:
            outcome.put((None, error))

    threading.Thread(target=run, name="fastslide read", daemon=True).start()
    try:
        pixels, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return pixels


def _properties(handle) -> dict[str, str]:
    """What fastslide says of a file, as text; a resolution of 0 means that it knows none."""
    properties = {str(key): str(value) for key, value in dict(handle.properties).items()}
    if min(handle.mpp) > 0:
        properties["fastslide.mpp-x"], properties["fastslide.mpp-y"] = map(str, handle.mpp)
    return properties


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
