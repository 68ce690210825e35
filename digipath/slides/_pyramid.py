"""Reading any box in any frame from a pyramid of levels, whatever library decodes it."""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from digipath.errors import ResolutionError, SlideError, SpecError, UnreadableRegionError
from digipath.geometry.frame import Box, Frame, covering
from digipath.slides._fingerprint import fingerprint_file
from digipath.slides._levels import Level, Opening, ReadFailure, Source
from digipath.slides._resample import apply_weights, axis_weights, shrink_whole, support

__all__ = ["PyramidSlide"]

# No read may ask for more than this in one array.
_MAX_BYTES = 2 << 30
# Source pixels that are held at once while a coarser frame is made from them.
_CHUNK_PIXELS = 8 << 20
# Levels and frames within half a pixel of each other over the whole slide are the same.
_DRIFT = 0.5


@dataclass(frozen=True)
class _Plan:
    """How a frame is made from a level: by copying, by whole blocks, or by weights."""

    index: int
    level: Level
    scale_x: float
    scale_y: float
    whole: int
    kernel: str
    fill_edge: bool


@dataclass
class _Losses:
    """Level-0 boxes of one read that no level has."""

    boxes: list[Box] = field(default_factory=list)


class PyramidSlide:
    """A slide whose pixels come from a source; reads any box in any frame, from many threads."""

    def __init__(self, source: Source, opening: Opening):
        level = source.levels[0]
        self._source = source
        self._opening = opening
        self._lock = threading.Lock()
        self.frame = Frame.level0(level.width, level.height, opening.mpp)
        self.path, self.name, self.bounds = opening.path, opening.name, opening.bounds
        self.mpp_source = opening.mpp_source
        self.properties = MappingProxyType(dict(source.properties))
        self.repairs: list[Box] = []
        # (level, column, row) of stored tiles that could not be read; read again, they would only cost another handle.
        self._damaged: frozenset[tuple[int, int, int]] = frozenset()

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels that reads give: uint8, or float32 for an array of floating point."""
        return np.dtype(self._source.dtype)

    @property
    def backend(self) -> str:
        """The library that decodes the pixels."""
        return self._source.backend

    def levels(self) -> list[dict[str, float]]:
        """Size in pixels and downsample of every stored level, finest first; to be shown, not to address pixels."""
        return [
            {"width": each.width, "height": each.height, "downsample": each.downsample} for each in self._source.levels
        ]

    def is_enlarged(self, frame: Frame) -> bool:
        """Whether reads in `frame` invent detail between the slide's own pixels."""
        return frame.downsample < 1 and not _same_scale(frame.downsample, max(frame.width, frame.height))

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the pixels: size in bytes and a SHA-256 over size, head and tail of the file."""
        if self.path is None:
            raise SpecError(f"slide {self.name!r} has no file and so no fingerprint of one.")
        return fingerprint_file(self.path)

    def read(self, box: Box, frame: Frame, *, kernel: str = "box") -> np.ndarray:
        """The pixels of `box` in `frame`; see `Slide.read`."""
        pixels, lost = self.read_covered(box, frame, kernel=kernel)
        if lost:
            first = lost[0]
            raise UnreadableRegionError(
                f"slide {self.name!r} is damaged: {len(lost)} region(s), the first {first.width} x {first.height} px "
                f"at ({first.x}, {first.y}) of its finest level, can be read at no resolution.",
                boxes=lost,
            )
        return pixels

    def read_covered(self, box: Box, frame: Frame, *, kernel: str = "box") -> tuple[np.ndarray, list[Box]]:
        """What can be read of `box`, and the level-0 boxes that cannot; those are white."""
        plan = self._plan(frame, kernel)
        item = np.dtype(self._source.dtype).itemsize
        if box.area * 3 * item > _MAX_BYTES:
            raise SpecError(
                f"one read gives at most {_MAX_BYTES >> 30} GiB, got a box of {box.width} x {box.height} px: "
                "read it in rows (frame.rows), or at a coarser mpp."
            )
        inside, losses = box.intersect(frame.box), _Losses()
        parts = list(_chunks(inside, plan))
        if parts == [box]:
            return self._render(box, frame, plan, losses), losses.boxes
        pixels = np.full((box.height, box.width, 3), self._white, self._source.dtype)
        for part in parts:
            pixels[part.shift(-box.x, -box.y).slices()] = self._render(part, frame, plan, losses)
        return pixels, losses.boxes

    @property
    def _white(self) -> float:
        return 255 if self._source.dtype == np.uint8 else 1.0

    def _plan(self, frame: Frame, kernel: str) -> _Plan:
        support(1.0, kernel)
        if frame.slide_size != self.frame.slide_size:
            raise SpecError(
                f"a read's frame is one of this slide's own, of {self.frame.slide_size} level-0 pixels "
                f"(slide.frame.at(mpp)); got one of {frame.slide_size}."
            )
        if frame.downsample < 0.5 * (1 - 1e-6):
            raise ResolutionError(
                f"slide {self.name!r} has {self.frame.mpp:.4g} um/px and can be enlarged to {self.frame.mpp / 2:.4g} "
                f"at most, got {self.frame.mpp * frame.downsample:.4g}: choose a coarser mpp."
            )
        index = 0
        for candidate, level in enumerate(self._source.levels):
            side = max(level.width, level.height)
            if level.downsample <= frame.downsample or _same_scale(frame.downsample / level.downsample, side):
                index = candidate
        level = self._source.levels[index]
        scales = frame.downsample / level.downsample_x, frame.downsample / level.downsample_y
        whole = round(scales[0])
        if not (whole and all(_same_scale(scale / whole, max(level.width, level.height)) for scale in scales)):
            whole = 0
        if self.is_enlarged(frame):
            kernel = "bilinear"
        if whole > 1 and kernel != "box":
            whole = 0
        return _Plan(index, level, *scales, whole, kernel, not whole and kernel != "box")

    def _render(self, part: Box, frame: Frame, plan: _Plan, losses: _Losses) -> np.ndarray:
        """A box inside of the frame, small enough for its source to be held in memory."""
        if plan.whole:
            k = plan.whole
            source = self._fetch(plan, Box(part.x * k, part.y * k, part.width * k, part.height * k), losses)
            return shrink_whole(source, k) if k > 1 else source
        columns = axis_weights(part.x, part.width, plan.scale_x, plan.kernel)
        rows = axis_weights(part.y, part.height, plan.scale_y, plan.kernel)
        source = self._fetch(plan, Box(columns.start, rows.start, columns.length, rows.length), losses)
        pixels = apply_weights(source, rows, columns)
        return self._whiten_overhang(pixels, part, frame) if plan.fill_edge else pixels

    def _fetch(self, plan: _Plan, box: Box, losses: _Losses) -> np.ndarray:
        """A box in level pixels; outside of the slide white, or the slide's edge for kernels that reach across."""
        inside = _clamp(box, plan.level)
        pixels = self._read_level(plan.index, inside, losses)
        if inside == box:
            return pixels
        padded = _repeat_edge(pixels, inside, box)
        return padded if plan.fill_edge else self._whiten(padded, box, plan)

    def _whiten(self, pixels: np.ndarray, box: Box, plan: _Plan) -> np.ndarray:
        """Level pixels blended with white by the share of each that lies outside of the slide."""
        level = plan.level
        shares = []
        for first, count, stored, side, downsample in (
            (box.y, box.height, level.height, self.frame.height, level.downsample_y),
            (box.x, box.width, level.width, self.frame.width, level.downsample_x),
        ):
            index = np.arange(first, first + count)
            share = _inside_share(index, side / downsample)
            shares.append(np.where((index >= 0) & (index < stored), 1.0, share))
        return _blend_white(pixels, *shares, self._white)

    def _whiten_overhang(self, pixels: np.ndarray, part: Box, frame: Frame) -> np.ndarray:
        """Frame pixels blended with white by the share of each that lies outside of the slide."""
        rows = _inside_share(np.arange(part.y, part.bottom), self.frame.height / frame.downsample)
        columns = _inside_share(np.arange(part.x, part.right), self.frame.width / frame.downsample)
        return _blend_white(pixels, rows, columns, self._white)

    def _read_level(self, index: int, box: Box, losses: _Losses) -> np.ndarray:
        damaged = self._damaged
        if damaged and not damaged.isdisjoint(_tiles(index, self._source.levels[index], box)):
            return self._mend(index, box, losses)
        try:
            return self._source.read_level(index, box)
        except ReadFailure:
            return self._mend(index, box, losses)

    def _mend(self, index: int, box: Box, losses: _Losses) -> np.ndarray:
        """A box that failed as a whole: its readable tiles, and the others from a coarser level."""
        level = self._source.levels[index]
        halves = _halves(box, level.tile)
        if halves:
            parts = [self._read_level(index, half, losses) for half in halves]
            return np.concatenate(parts, axis=0 if halves[0].x == halves[1].x else 1)
        with self._lock:
            # A copy, so that other threads may look through the old one.
            self._damaged = self._damaged.union(_tiles(index, level, box))
        for coarser in range(index + 1, len(self._source.levels)):
            try:
                pixels = self._from_coarser(index, coarser, box)
            except ReadFailure:
                continue
            (_, column, row), (width, height) = next(_tiles(index, level, box)), level.tile
            self._note_repair(self._at_level0(level, Box(column * width, row * height, width, height)))
            return pixels
        losses.boxes.append(self._at_level0(level, box))
        return np.full((box.height, box.width, 3), self._white, self._source.dtype)

    def _at_level0(self, level: Level, box: Box) -> Box:
        x, y = level.downsample_x, level.downsample_y
        return covering(box.x * x, box.y * y, box.right * x, box.bottom * y).intersect(self.frame.box)

    def _note_repair(self, level0_box: Box) -> None:
        with self._lock:
            if level0_box not in self.repairs:
                self.repairs.append(level0_box)

    def _from_coarser(self, index: int, coarser: int, box: Box) -> np.ndarray:
        """A box of one level, enlarged from another."""
        fine, coarse = self._source.levels[index], self._source.levels[coarser]
        columns = axis_weights(box.x, box.width, fine.downsample_x / coarse.downsample_x, "bilinear")
        rows = axis_weights(box.y, box.height, fine.downsample_y / coarse.downsample_y, "bilinear")
        wanted = Box(columns.start, rows.start, columns.length, rows.length)
        inside = _clamp(wanted, coarse)
        pixels = self._source.read_level(coarser, inside)
        return apply_weights(_repeat_edge(pixels, inside, wanted), rows, columns)

    def close(self) -> None:
        """Free the file; reads afterwards fail."""
        self._source.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self):
        if self._opening.reopen is None:
            raise SlideError(f"slide {self.name!r} was not opened from a file and cannot be sent to another process.")
        return self._opening.reopen

    def __repr__(self) -> str:
        size = f"{self.frame.width} x {self.frame.height} px"
        return f"<{type(self).__name__} {self.name!r}, {size}, {self.frame.mpp:.4g} um/px ({self.mpp_source})>"


def _same_scale(ratio: float, side: int) -> bool:
    """Whether positions that differ by this ratio stay within half a pixel over `side` pixels."""
    return abs(ratio - 1) * side < _DRIFT


def _inside_share(index: np.ndarray, extent: float) -> np.ndarray:
    """Share of each pixel [i, i + 1) that lies inside [0, extent)."""
    return np.clip(np.minimum(index + 1, extent) - np.maximum(index, 0), 0.0, 1.0)


def _blend_white(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, white: float) -> np.ndarray:
    """Only the rows and columns that are partly white are touched."""
    if rows.min() >= 1 - 1e-9 and columns.min() >= 1 - 1e-9:
        return pixels
    y = int(np.flatnonzero(rows < 1 - 1e-9)[0]) if rows.min() < 1 - 1e-9 else len(rows)
    x = int(np.flatnonzero(columns < 1 - 1e-9)[0]) if columns.min() < 1 - 1e-9 else len(columns)
    for area in ((slice(y, None), slice(None)), (slice(0, y), slice(x, None))):
        if pixels[area].size:
            share = (rows[area[0], None] * columns[None, area[1]])[..., None]
            value = pixels[area] * share + white * (1 - share)
            pixels[area] = np.rint(value) if pixels.dtype == np.uint8 else value
    return pixels


def _clamp(box: Box, level: Level) -> Box:
    """The stored pixels that are nearest to a box: its own where it has some, else the level's border."""
    x, y = min(max(box.x, 0), level.width - 1), min(max(box.y, 0), level.height - 1)
    right, bottom = max(x + 1, min(box.right, level.width)), max(y + 1, min(box.bottom, level.height))
    return Box(x, y, right - x, bottom - y)


def _repeat_edge(pixels: np.ndarray, inside: Box, box: Box) -> np.ndarray:
    """The pixels of `inside`, continued by their border to cover `box`."""
    rows = np.clip(np.arange(box.y, box.bottom), inside.y, inside.bottom - 1) - inside.y
    columns = np.clip(np.arange(box.x, box.right), inside.x, inside.right - 1) - inside.x
    return pixels[rows][:, columns]


def _tiles(index: int, level: Level, box: Box) -> Iterator[tuple[int, int, int]]:
    """(level, column, row) of the stored tiles that a box touches."""
    width, height = level.tile
    for row in range(box.y // height, (box.bottom - 1) // height + 1):
        for column in range(box.x // width, (box.right - 1) // width + 1):
            yield index, column, row


def _halves(box: Box, tile: tuple[int, int]) -> list[Box]:
    """Two boxes that share a tile's edge, or none where the box is within one tile."""
    columns = (box.right - 1) // tile[0] - box.x // tile[0]
    rows = (box.bottom - 1) // tile[1] - box.y // tile[1]
    if columns >= rows and columns:
        cut = (box.x // tile[0] + (columns + 1) // 2) * tile[0]
        return [Box(box.x, box.y, cut - box.x, box.height), Box(cut, box.y, box.right - cut, box.height)]
    if rows:
        cut = (box.y // tile[1] + (rows + 1) // 2) * tile[1]
        return [Box(box.x, box.y, box.width, cut - box.y), Box(box.x, cut, box.width, box.bottom - cut)]
    return []


def _chunks(box: Box, plan: _Plan) -> Iterator[Box]:
    """Parts of a box whose source is small, cut across the longer side so that few stored tiles are decoded twice."""
    if not box.area:
        return
    width, height = box.width * plan.scale_x, box.height * plan.scale_y
    if plan.whole == 1 or width * height <= _CHUNK_PIXELS or box.area == 1:
        yield box
    elif (width >= height and box.width > 1) or box.height == 1:
        half = math.ceil(box.width / 2)
        yield from _chunks(Box(box.x, box.y, half, box.height), plan)
        yield from _chunks(Box(box.x + half, box.y, box.width - half, box.height), plan)
    else:
        half = math.ceil(box.height / 2)
        yield from _chunks(Box(box.x, box.y, box.width, half), plan)
        yield from _chunks(Box(box.x, box.y + half, box.width, box.height - half), plan)
