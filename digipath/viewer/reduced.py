"""Heatmaps and masks at any coarseness: copies that are halved again and again, made once, from what is read lazily.

What is finer than a quarter of the raster's size is read from the file where it is looked at; a quarter and smaller is
held in memory, a twelfth of the raster's pixels in all. Of rasters of more than a thousand million pixels less is held,
and a tile reads more.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from digipath.errors import ResultError
from digipath.geometry.frame import Box, Frame

__all__ = ["Growth", "Means", "Peaks"]

_HELD = 1 << 26  # pixels of the finest level that is held; what is finer is made from the file, for each tile
_FIRST, _LAST = 2, 4  # which level that may be: more than 4,096 x 4,096 values are not read for a tile
_STRIP = 256  # rows read at a time, the height of the chunks that results are stored in
_NOISE = 1e-9


@dataclass(frozen=True)
class Growth:
    """How far a raster is that is made from the top: below, nothing counts.

    Attributes:
        rows: That are there.
        same: Of these, how many are those of `before`.
        before: Its copies at an earlier moment; None where there are none.
    """

    rows: int
    same: int = 0
    before: "Means | Peaks | None" = None

    def todo(self, frame: Frame) -> range:
        """First rows, of the finest level that is held, of the strips that are not known from before."""
        first = _first(frame)
        known = self.same // _STRIP if self.before is not None and self.before.held else 0
        return range(known * (_STRIP >> first), -(-self.rows >> first), _STRIP >> first)


@dataclass
class Means:
    """Mean values of a raster that says something about a part of its pixels only.

    Attributes:
        frame: The raster's.
        source: Gives (values, where they count) of a box inside of the frame.
        growth: Of a raster that is not whole yet.
    """

    frame: Frame
    source: Callable[[Box], tuple[np.ndarray, np.ndarray]]
    growth: Growth | None = None
    _held: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box: Box, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """What the pixels of a box hold, in any frame of the same slide.

        Args:
            box: In `frame`; it may lie partly or wholly outside.
            frame: Coarser than the raster, pixels are averaged by area; finer, each takes the value under its centre.

        Returns:
            (mean over what counts, share of the pixel that counts), (rows, columns) float32 each; 0 outside.
        """
        level, scale = _level(frame, self.frame)
        rows, columns = (_taps(*side, scale) for side in ((box.y, box.height), (box.x, box.width)))
        part = _spanned(rows, columns, self._size(level))
        if not part.area:
            return np.zeros((box.height, box.width), np.float32), np.zeros((box.height, box.width), np.float32)
        means, shares = self._read_level(level, part)
        shares = shares.astype(np.float32)
        sums = _weighted(_weighted(means.astype(np.float32) * shares, rows, part.y, 0), columns, part.x, 1)
        shares = _weighted(_weighted(shares, rows, part.y, 0), columns, part.x, 1)
        return np.divide(sums, shares, out=np.zeros_like(sums), where=shares > 1e-6), shares

    @property
    def held(self) -> int:
        """Bytes of memory that the copies take."""
        return sum(means.nbytes + shares.nbytes for means, shares in self._held)

    def _size(self, level: int) -> tuple[int, int]:
        return _size(self.frame, level)

    def _read_level(self, level: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """(means, shares) of a box inside of a level."""
        if not level:
            values, seen = self.source(box)
            return np.asarray(values, np.float32), np.asarray(seen, np.float32)
        with self._lock:
            if not self._held:
                self._held = list(self._halved())
        means, shares = self._held[level - _first(self.frame)]
        return means[box.slices()], shares[box.slices()]

    def _halved(self):
        first = _first(self.frame)
        width, height = self._size(first)
        means, shares = np.zeros((height, width), np.float16), np.zeros((height, width), np.float16)
        growth, self.growth = self.growth or Growth(self.frame.height), None  # what was before is not held for ever
        todo = growth.todo(self.frame)
        if todo.start:
            before = growth.before._held[0]
            means[: todo.start], shares[: todo.start] = (part[: todo.start] for part in before)
        for y in todo:
            box = Box(0, y, width, min(_STRIP >> first, height - y))
            fine = self._read_level(0, _finer(box, self.frame))
            means[box.slices()], shares[box.slices()] = _mean_of_blocks(*fine, 2**first)
        for _ in range(_levels(self.frame)):
            yield means, shares
            means, shares = (
                part.astype(np.float16)
                for part in _mean_of_blocks(means.astype(np.float32), shares.astype(np.float32), 2)
            )


@dataclass
class Peaks:
    """Largest values of a raster: whatever is somewhere in a pixel is seen in it, however coarse the pixel.

    Attributes:
        frame: The raster's.
        source: Gives the values of a box inside of the frame.
        nothing: The value outside of the slide; none is smaller.
        growth: Of a raster that is not whole yet.
    """

    frame: Frame
    source: Callable[[Box], np.ndarray]
    nothing: float = 0
    growth: Growth | None = None
    _held: list[np.ndarray] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """The largest value that each pixel of a box touches; finer than the raster, the value under its centre.

        Args:
            box: In `frame`; it may lie partly or wholly outside.
            frame: Any frame of the same slide.

        Returns:
            (rows, columns) of the raster's type; `nothing` outside of it.
        """
        level, scale = _level(frame, self.frame)
        rows, columns = (_taps(*side, scale) for side in ((box.y, box.height), (box.x, box.width)))
        part = _spanned(rows, columns, _size(self.frame, level))
        if not part.area:
            return np.full((box.height, box.width), self.nothing, self.source(Box(0, 0, 1, 1)).dtype)
        values = self._read_level(level, part)
        return _largest(_largest(values, rows, part.y, 0, self.nothing), columns, part.x, 1, self.nothing)

    @property
    def held(self) -> int:
        """Bytes of memory that the copies take."""
        return sum(values.nbytes for values in self._held)

    def _read_level(self, level: int, box: Box) -> np.ndarray:
        if not level:
            return np.asarray(self.source(box))
        with self._lock:
            if not self._held:
                self._held = list(self._halved())
        return self._held[level - _first(self.frame)][box.slices()]

    def _halved(self):
        first = _first(self.frame)
        width, height = _size(self.frame, first)
        values = np.full((height, width), self.nothing, self.source(Box(0, 0, 1, 1)).dtype)
        growth, self.growth = self.growth or Growth(self.frame.height), None
        todo = growth.todo(self.frame)
        if todo.start:
            values[: todo.start] = growth.before._held[0][: todo.start]
        for y in todo:
            box = Box(0, y, width, min(_STRIP >> first, height - y))
            fine = self._read_level(0, _finer(box, self.frame))
            values[box.slices()] = _peak_of_blocks(fine, 2**first, self.nothing)
        for _ in range(_levels(self.frame)):
            yield values
            values = _peak_of_blocks(values, 2, self.nothing)


def _levels(frame: Frame) -> int:
    """How many levels are held, or less: the last is one pixel, also for a tile in which the whole slide is one."""
    return math.ceil(math.log2(max(frame.width, frame.height))) + 2


def _first(frame: Frame) -> int:
    """The finest level that is held.

    Raises:
        ResultError: It would be too large, which the heatmap of no slide is.
    """
    fitting = (level for level in range(_FIRST, _LAST + 1) if frame.box.area >> 2 * level <= _HELD)
    first = next(fitting, None)
    if first is None:
        raise ResultError(
            f"a layer of at most {_HELD << 2 * _LAST:,} pixels is shown, and this one says that it has {frame.width:,} "
            f"x {frame.height:,}."
        )
    return first


def _size(frame: Frame, level: int) -> tuple[int, int]:
    return max(1, -(-frame.width // 2**level)), max(1, -(-frame.height // 2**level))


def _level(frame: Frame, own: Frame) -> tuple[int, float]:
    """The coarsest level that is as fine as `frame`, and how many of its pixels one of `frame` is wide.

    Of the raster's own pixels that is below 4, or 16 where it is very large, and below 2 of any level's that is held.
    """
    scale, first = frame.scale_to(own), _first(own)
    level = min(math.floor(math.log2(scale) + _NOISE), first + _levels(own) - 1)
    level = 0 if level < first else level
    return level, scale / 2**level


def _finer(box: Box, own: Frame) -> Box:
    """The raster's pixels in a box of the first level."""
    factor = 2 ** _first(own)
    return Box(box.x * factor, box.y * factor, box.width * factor, box.height * factor).intersect(own.box)


@dataclass(frozen=True)
class _Taps:
    """Which source pixels each of a run of pixels touches, and with which share of it: [tap, pixel] each."""

    index: np.ndarray
    share: np.ndarray


def _taps(first: int, count: int, scale: float) -> _Taps:
    pixels = np.arange(first, first + count)
    if scale < 1 - _NOISE:
        centres = np.floor((pixels + 0.5) * scale).astype(int)
        return _Taps(centres[None], np.ones((1, count), np.float32))
    left, right = pixels * scale, (pixels + 1) * scale
    index = np.floor(left + 1e-6).astype(int) + np.arange(math.ceil(scale - 1e-6) + 1)[:, None]
    share = np.clip(np.minimum(index + 1, right) - np.maximum(index, left), 0, None) / scale
    share[share < 1e-6] = 0
    return _Taps(index, share.astype(np.float32))


def _spanned(rows: _Taps, columns: _Taps, size: tuple[int, int]) -> Box:
    """The box of a level of this size that the taps reach."""
    sides = []
    for taps in (columns, rows):
        touched = taps.index[taps.share > 0]
        sides.append((int(touched.min()), int(touched.max()) + 1))
    (left, right), (top, bottom) = sides
    return Box(left, top, right - left, bottom - top).intersect(Box(0, 0, *size))


def _picked(values: np.ndarray, taps: _Taps, start: int, axis: int):
    """For each tap: the values along an axis, and the share with which they count, 0 outside."""
    length = values.shape[axis]
    for index, share in zip(taps.index - start, taps.share, strict=True):
        inside = (index >= 0) & (index < length)
        if (share * inside).any():
            yield values.take(np.clip(index, 0, length - 1), axis), np.where(inside, share, np.float32(0))


def _weighted(values: np.ndarray, taps: _Taps, start: int, axis: int) -> np.ndarray:
    shape = list(values.shape)
    shape[axis] = taps.index.shape[1]
    result = np.zeros(shape, np.float32)
    for part, share in _picked(values, taps, start, axis):
        result += part * (share[:, None] if axis == 0 else share[None])
    return result


def _largest(values: np.ndarray, taps: _Taps, start: int, axis: int, nothing: float) -> np.ndarray:
    shape = list(values.shape)
    shape[axis] = taps.index.shape[1]
    result = np.full(shape, nothing, values.dtype)
    for part, share in _picked(values, taps, start, axis):
        counts = share > 0
        np.maximum(result, part, out=result, where=counts[:, None] if axis == 0 else counts[None])
    return result


def _mean_of_blocks(values: np.ndarray, shares: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Of blocks: mean by share, and share; what lies over the border does not count."""
    if factor == 1:
        return values, shares
    sums, shares = (_summed(part, factor) / np.float32(factor**2) for part in (values * shares, shares))
    return np.divide(sums, shares, out=np.zeros_like(sums), where=shares > 0), shares


def _summed(values: np.ndarray, factor: int) -> np.ndarray:
    values = np.pad(values, [(0, -side % factor) for side in values.shape])
    rows = values.reshape(-1, factor, values.shape[1]).sum(1)
    return rows.reshape(len(rows), -1, factor).sum(2)


def _peak_of_blocks(values: np.ndarray, factor: int, nothing: float) -> np.ndarray:
    if factor == 1:
        return values
    values = np.pad(values, [(0, -side % factor) for side in values.shape], constant_values=nothing)
    rows = values.reshape(-1, factor, values.shape[1]).max(1)
    return rows.reshape(len(rows), -1, factor).max(2)
