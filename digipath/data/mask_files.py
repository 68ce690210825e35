"""Label masks as image files: their size at once, their values where they are looked at."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from digipath.errors import CohortError
from digipath.geometry.frame import Box
from digipath.slides.slide import Slide, open_slide

__all__ = ["MAX_PIXELS", "MaskFile", "open_mask", "reduction"]

# A mask of up to 80 million pixels is held in memory, 80 MB as labels; larger ones are read from a tiled TIFF.
MAX_PIXELS = 80_000_000
_NEARLY_GREY = 24  # levels by which a JPEG's three channels may differ
_LOSSLESS = (1, 5, 8, 32773, 32946, 50000)  # TIFF: none, LZW, deflate, PackBits, deflate, Zstandard
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class MaskFile:
    """An image file of labels.

    Attributes:
        path: The file.
        size: (width, height) in pixels.
        lossy: Whether its values are only near to what was saved, as in a JPEG.
        is_large: Whether it is too large to be held in memory, and so read box by box.
    """

    path: Path
    size: tuple[int, int]
    lossy: bool
    is_large: bool

    def load(self) -> np.ndarray:
        """(rows, columns) of all its values; the indices of an image with a palette."""
        try:
            with Image.open(self.path) as image:
                values = np.asarray(image)
        except (*_DAMAGE, Image.DecompressionBombError) as error:
            raise CohortError(f"mask {self.path} cannot be read: {_line(error)}.") from error
        return _one_channel(values, self)

    def open_tiles(self) -> "MaskTiles":
        """Its values box by box."""
        return MaskTiles(self)


class MaskTiles:
    """The values of a tiled TIFF's finest level, read where they are looked at; 0 where a tile is not stored."""

    def __init__(self, file: MaskFile):
        self._file, self._lock = file, Lock()
        self._slide: Slide | None = None
        self._absent = _Absent.of(file.path)

    def read(self, box: Box) -> np.ndarray:
        """(rows, columns) uint8 of a box inside of the mask."""
        with self._lock:
            if self._slide is None:
                self._slide = open_slide(self._file.path, mpp=1.0)
        values = _one_channel(self._slide.read(box, self._slide.frame), self._file)
        return self._absent.cleared(values, box)

    def close(self) -> None:
        """Free the file; the next read opens it again."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
            self._slide = None


def open_mask(path: Path) -> MaskFile:
    """What a mask file is, from its head alone.

    Raises:
        CohortError: It is missing, no image, or too large for its kind of file.
    """
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in _TIFF
        size, lossy, tiled = _tiff(path) if is_tiff else _image(path)
    except FileNotFoundError:
        raise CohortError(f"there is no mask file {path}.") from None
    except UnidentifiedImageError:
        raise CohortError(f"mask {path} is no image; a mask is a PNG, JPEG or TIFF file, or a Raster.") from None
    except Image.DecompressionBombError as error:
        raise CohortError(f"mask {path} is too large: {_line(error)}. {_ADVICE}") from error
    except (*_DAMAGE, tifffile.TiffFileError) as error:
        raise CohortError(f"mask {path} cannot be read: {_line(error)}.") from error
    is_large = size[0] * size[1] > MAX_PIXELS
    if is_large and not tiled:
        raise CohortError(
            f"mask {path} has {size[0]} x {size[1]} px; one that is no tiled TIFF of 8 bits is held in memory and may "
            f"have {MAX_PIXELS // 10**6} million. {_ADVICE}"
        )
    return MaskFile(path, size, lossy, is_large)


_ADVICE = "Save it as a tiled TIFF of 8-bit grey (vips tiffsave IN OUT --tile), or its outlines as GeoJSON."


def _image(path: Path) -> tuple[tuple[int, int], bool, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return image.size, image.format in ("JPEG", "MPO", "JPEG2000", "WEBP"), False


def _tiff(path: Path) -> tuple[tuple[int, int], bool, bool]:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        tiled = page.is_tiled and page.dtype == np.uint8 and page.photometric != 3
        return (page.imagewidth, page.imagelength), page.compression not in _LOSSLESS, tiled


@dataclass(frozen=True)
class _Absent:
    """The tiles of the finest level that are not stored: programs leave out what is background, a slide is white there.

    Attributes:
        tiles: (rows, columns) of tiles, true for those.
        side: (width, height) of a tile in pixels.
    """

    tiles: np.ndarray
    side: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "_Absent":
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if not page.is_tiled:
                return cls(np.zeros((0, 0), bool), (1, 1))
            across, down = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
            counts = np.array(page.databytecounts[: across * down]).reshape(down, across)
            return cls(counts == 0, (page.tilewidth, page.tilelength))

    def cleared(self, values: np.ndarray, box: Box) -> np.ndarray:
        """The values of a box, 0 in these tiles."""
        width, height = self.side
        left, top = max(0, box.x // width), max(0, box.y // height)
        found = np.argwhere(self.tiles[top : -(-box.bottom // height), left : -(-box.right // width)])
        if len(found):
            values = values.copy()
        for row, column in found.tolist():
            tile = Box((left + column) * width, (top + row) * height, width, height).intersect(box)
            values[tile.shift(-box.x, -box.y).slices()] = 0
        return values


def _one_channel(values: np.ndarray, file: MaskFile) -> np.ndarray:
    """(rows, columns); colours must be grey, and opacity does not count."""
    if values.ndim == 2:
        return values
    if values.shape[2] < 3:
        return values[..., 0]
    red, green, blue = (np.ascontiguousarray(values[..., channel]) for channel in range(3))
    # Not values.max(-1): along an axis of three NumPy needs ten times as long.
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if spread.max(initial=0) > (_NEARLY_GREY if file.lossy else 0):
        raise CohortError(
            f"mask {file.path} has colours; a mask holds one number a pixel. Save it as grey, one value for each class."
        )
    return red


def reduction(size: tuple[int, int], slide_size: tuple[int, int], *, case: str) -> tuple[float, float]:
    """Level-0 pixels per pixel of a mask along x and y.

    A mask covers its slide: multiplied by one number, whole or not, its sides are those of the slide within one of its
    own pixels.

    Raises:
        CohortError: There is no such number.
    """
    (width, height), (columns, rows) = slide_size, size
    whole = round(max(width / columns, height / rows))
    if whole >= 1 and abs(columns * whole - width) < whole and abs(rows * whole - height) < whole:
        return float(whole), float(whole)
    low, high = _factors(columns, width), _factors(rows, height)
    if columns <= width and rows <= height and max(low[0], high[0]) < min(low[1], high[1]):
        return width / columns, height / rows
    raise CohortError(
        f"case {case!r}: its mask is as large as the slide, {width} x {height} px (width x height), or its reduction "
        f"at equal aspect; got {columns} x {rows}. Resize it with nearest neighbours, or turn it if it is transposed."
    )


def _factors(count: int, side: int) -> tuple[float, float]:
    """The numbers between which `count` pixels come within one of them to `side` level-0 pixels."""
    return side / (count + 1), side / (count - 1) if count > 1 else float("inf")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
