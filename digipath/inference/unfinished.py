"""What a running prediction has finished so far, looked at from outside: by another thread, or another process."""

import io
import json
import stat
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.inference.journal import FIRST_STAGE, FORMAT_VERSION, LIST, stored_dtype
from digipath.inference.sinks import classes_of

__all__ = ["Finished", "finished"]

_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SpecError)
_MAX_LIST = 64 * 2**20  # bytes of a list of strips
_HEAD = 4096  # bytes of a strip's file before its values, at most


@dataclass(frozen=True)
class Finished:
    """What a prediction that is on its way, in this process or another, has finished by now.

    Attributes:
        frame: The heatmap's.
        channels: Its classes, then the kinds of uncertainty, if there are any.
        heatmap: Probabilities [row, column, class], float16, read where they are sliced; 0 where nothing is finished.
        covered: Mask of what the heatmap says something about; False where nothing is finished.
        uncertainty: Variances [row, column, kind], float32; None without any.
        rows: How many are finished, from the first on.
        version: Changes with every further strip.
        strips: (first row, rows, checksum) of each: those of a later look begin with these, if nothing began anew.
    """

    frame: Frame
    channels: tuple[str, ...]
    heatmap: Raster
    covered: Raster
    uncertainty: Raster | None
    rows: int
    version: str
    strips: tuple[tuple[int, int, int], ...] = ()


def finished(folder: str | Path) -> Finished | None:
    """What a journal holds by now, seen from outside: nothing is locked, mended or written.

    The journal may grow, end or begin anew meanwhile. A strip is whole, as it was listed, or not there at all: then its
    rows are 0 and not covered.

    Args:
        folder: The journal's, see `Journal`. While a cascade's second stage has finished nothing, its first is seen.

    Returns:
        None where no strip is finished.
    """
    for place in (Path(folder), Path(folder) / FIRST_STAGE):
        try:
            found = json.loads(_content(place / LIST, _MAX_LIST))
            if found["format_version"] == FORMAT_VERSION and found["strips"]:
                return _seen(place, found)
        except _DAMAGED:  # `Journal` says what is wrong with it
            continue
    return None


def _content(path: Path, most: int) -> bytes:
    """The bytes of a file; neither a pipe, which would never end, nor more than could be meant."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        raise ValueError(f"{path} is a file of at most {most} bytes")
    return path.read_bytes()


def _seen(folder: Path, found: dict[str, Any]) -> Finished:
    size = tuple(found["frame"]["slide_size"])
    frame, channels = Frame(**found["frame"] | {"slide_size": size}), tuple(found["channels"])
    strips = {int(y): (int(rows), int(checksum)) for y, rows, checksum in found["strips"]}
    dtype, classes = stored_dtype(channels), classes_of(channels)
    if not all(0 <= y < y + rows <= frame.height for y, (rows, _) in strips.items()):
        raise ValueError("strips lie on the heatmap")

    @lru_cache(maxsize=4)
    def read(y: int) -> np.ndarray | None:
        try:
            content = _content(folder / f"{y}.npy", _HEAD + strips[y][0] * frame.width * dtype.itemsize)
            whole = zlib.crc32(content) == strips[y][1]
            values = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False) if whole else None
        except (OSError, ValueError):
            return None
        fits = whole and values.shape == (strips[y][0], frame.width) and values.dtype == dtype
        return values if fits else None

    def part(name: str, names: tuple[str, ...] = ()) -> Raster:
        kind, shape = dtype[name].subdtype or (dtype[name], ())
        return Raster(_Rows((*frame.shape, *shape), kind, name, sorted(strips), read), frame, names)

    unsure = part("uncertainty", channels[len(classes) :]) if "uncertainty" in dtype.names else None
    last = max(strips)
    version = f"{folder.name}-{last}-{strips[last][1]:08x}"
    rows = last + strips[last][0]
    listed = tuple((y, *strips[y]) for y in sorted(strips))
    return Finished(frame, channels, part("heatmap", classes), part("covered"), unsure, rows, version, listed)


@dataclass(frozen=True)
class _Rows:
    """One part of the strips, sliced like an array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    name: str
    starts: list[int]
    read: Callable[[int], np.ndarray | None]

    def __getitem__(self, key) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(first, slice):
            return self[:][key]
        start, stop, step = first.indices(self.shape[0])
        result = np.zeros((max(0, stop - start), *self.shape[1:]), self.dtype)
        begin = max(0, bisect_right(self.starts, start) - 1)
        for y in self.starts[begin : bisect_left(self.starts, stop)]:
            if (values := self.read(y)) is not None:
                low, high = max(y, start), min(y + len(values), stop)
                result[low - start : max(low, high) - start] = values[self.name][low - y : max(low, high) - y]
        return result[(slice(None, None, step), *rest)]
