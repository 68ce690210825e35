"""What a slide's backends have in common: levels, what decodes them, and how a slide was opened."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from digipath.geometry.frame import Box

__all__ = ["Level", "Opening", "ReadFailure", "Source", "levels_of"]


class ReadFailure(Exception):
    """A source could not decode a region."""


@dataclass(frozen=True, slots=True)
class Level:
    """One stored resolution of a slide.

    Attributes:
        width: Stored columns.
        height: Stored rows.
        downsample_x: Level-0 pixels per pixel of this level along a row.
        downsample_y: The same along a column.
        tile: (width, height) of what is decoded as one, and so is damaged as one.
    """

    width: int
    height: int
    downsample_x: float
    downsample_y: float
    tile: tuple[int, int] = (256, 256)

    @property
    def box(self) -> Box:
        """All stored pixels."""
        return Box(0, 0, self.width, self.height)

    @property
    def downsample(self) -> float:
        """The coarser of both axes."""
        return max(self.downsample_x, self.downsample_y)


def levels_of(sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int]] = ()) -> tuple[Level, ...]:
    """Levels with the downsample that made them.

    A level whose size is that of a whole-number reduction, rounded either way, is one: a stored 37 x 31 of 300 x 250
    pixels has pixels of exactly 8 x 8, and not of 8.108 x 8.065. Where several would do, as for 195 x 156 of 100,000 x
    80,000, it is the power of two. Any other has the ratio of the sizes, per axis.
    """
    width0, height0 = sizes[0]
    levels = []
    for index, (width, height) in enumerate(sizes):
        tile = tiles[index] if index < len(tiles) else (256, 256)
        ratio = max(1.0, (width0 / width + height0 / height) / 2)
        candidates = 2 ** round(math.log2(ratio)), round(ratio)
        fits = [n for n in candidates if abs(width * n - width0) < n and abs(height * n - height0) < n]
        if fits:
            levels.append(Level(width, height, float(fits[0]), float(fits[0]), tile))
        else:
            levels.append(Level(width, height, width0 / width, height0 / height, tile))
    return tuple(levels)


class Source(Protocol):
    """What decodes pixels; thread-safe."""

    backend: str
    levels: tuple[Level, ...]
    dtype: np.dtype
    properties: Mapping[str, str]

    def read_level(self, index: int, box: Box) -> np.ndarray:
        """Give (rows, columns, 3) of a box inside a level, in that level's pixels, or raise ReadFailure."""

    def close(self) -> None:
        """Free what is held; reads that are under way finish."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a slide was opened: what cannot be told from its pixels.

    Attributes:
        mpp: Micrometres per level-0 pixel.
        mpp_source: Where that number comes from.
        path: The file, or None for an array.
        name: The file's stem, or the name of an array.
        bounds: Scanned area in level-0 pixels, where the file tells it.
        reopen: A function and its arguments that open the same slide again, for pickling.
    """

    mpp: float
    mpp_source: str
    path: Path | None = None
    name: str = "array"
    bounds: Box | None = None
    reopen: tuple[Callable[..., Any], tuple] | None = None
