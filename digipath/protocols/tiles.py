"""Large truth masks, read a row of tiles at a time, and the coarser levels that they store.

As a slide such a mask would be read in colours, and resampled; as the grey tiles that it is, it takes a tenth of the
time. What is no grey tiled TIFF without loss is read as elsewhere.
"""

import os
import struct
import zlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile

from digipath.data.mask_files import MaskFile
from digipath.errors import ResultError
from digipath.slides._openslide import stored_level

__all__ = ["TiledMask", "is_grey_tiles", "level_values"]

_KEPT = 3  # rows of tiles
_GREY = (0, 1)  # TIFF: white is zero, black is zero
_COLOURS = (2, 6)  # TIFF: RGB, YCbCr
_DAMAGE = (tifffile.TiffFileError, OSError, ValueError, LookupError, TypeError, RuntimeError, zlib.error, struct.error)


def is_grey_tiles(mask: MaskFile) -> bool:
    """Whether a large mask can be read as `TiledMask`."""
    if not mask.is_large or mask.lossy:
        return False
    with tifffile.TiffFile(mask.path) as file:
        page = file.pages[0]
        return page.samplesperpixel == 1 and page.photometric in _GREY and page.dtype == np.uint8


def level_values(mask: MaskFile, downsample: float) -> np.ndarray | None:
    """The values of the level that a pyramidal mask stores at this downsample, within 1 %.

    Returns:
        (rows, columns) uint8, or None where there is no such level, or it holds colours.
    """
    try:
        with tifffile.TiffFile(mask.path) as file:
            page = file.pages[0]
            # OpenSlide would show the colours of a palette.
            plain = page.bitspersample == 8 and page.photometric in (*_GREY, *_COLOURS)
    except tifffile.TiffFileError:
        return None
    level = stored_level(mask.path, downsample) if plain else None
    if level is None:
        return None
    red, green, blue = (np.ascontiguousarray(level[..., channel]) for channel in range(3))
    return red if mask.lossy or (np.array_equal(red, green) and np.array_equal(red, blue)) else None


class TiledMask:
    """The values of a mask, sliced like an array; many threads may.

    Args:
        path: A grey tiled TIFF of 8 bits.

    Attributes:
        shape: (rows, columns).
        dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: str | os.PathLike):
        self._path, self._lock = Path(path), Lock()
        self._file = tifffile.TiffFile(self._path)
        self._page = self._file.pages[0]
        self.shape = (self._page.imagelength, self._page.imagewidth)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, columns = key
        top, bottom, _ = rows.indices(self.shape[0])
        height = self._page.tilelength
        parts = []
        for number in range(top // height, -(-bottom // height)):
            band, first = self._band(number), number * height
            parts.append(band[max(0, top - first) : bottom - first, columns])
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), self.dtype)[:, columns]

    def close(self) -> None:
        """Free the file."""
        with self._lock:
            self._kept.clear()
            self._file.close()

    def _band(self, number: int) -> np.ndarray:
        """All tiles beside one another of a row of tiles."""
        with self._lock:
            if number not in self._kept:
                try:
                    self._kept[number] = self._read(number)
                except _DAMAGE as error:
                    line = " ".join(str(error).split())[:200].rstrip(".")
                    raise ResultError(f"mask {self._path} is damaged: {line}. Copy or export it again.") from error
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return self._kept[number]

    def _read(self, number: int) -> np.ndarray:
        page, (rows, columns) = self._page, self.shape
        height, width = page.tilelength, page.tilewidth
        across = -(-columns // width)
        band = np.zeros((min(height, rows - number * height), columns), np.uint8)
        for tile in range(across):
            index = number * across + tile
            size = page.databytecounts[index]
            if not size:  # a tile that is not stored is all 0
                continue
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(size)
            values, _, _ = page.decode(data, index, jpegtables=None)
            part = band[:, tile * width : (tile + 1) * width]
            part[:] = values[0, : part.shape[0], : part.shape[1], 0]
        return band if page.photometric else 255 - band
