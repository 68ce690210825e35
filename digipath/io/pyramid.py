"""A stream of strips as a tiled, pyramidal TIFF that OpenSlide, QuPath and ASAP open.

Every level is a page of the main chain, as OpenSlide and ASAP want it, and the first page names the coarser ones as its
SubIFDs too, as OME-TIFF wants it: through Bio-Formats QuPath then shows a pyramid with named channels. A channel is a
grey image of its own; of several, OpenSlide shows the first.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal
from xml.sax.saxutils import escape, quoteattr

import cv2
import defusedxml.ElementTree
import numpy as np
import tifffile

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.io._tiff import ASCII, HEADER, LONG, RATIONAL, SHORT, Page, write_pages
from digipath.io.strips import Bands, replacing

__all__ = ["RGB", "PyramidSettings", "PyramidWriter", "read_description", "write_pyramid"]

RGB = ("red", "green", "blue")
"""The channels of a colour image."""

_JPEG = 7
# The older of deflate's two numbers: every reader takes both, ASAP only this one.
_DEFLATE = 32946
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


@dataclass(frozen=True, kw_only=True)
class PyramidSettings:
    """How a pyramid is stored.

    Attributes:
        tile: Side of a tile in pixels, a multiple of 16.
        compression: "deflate", exact at level 0; or "jpeg", for pictures of tissue.
        quality: Of JPEG, 1 to 100.
        ome: Describe it as OME-TIFF. Without, QuPath shows one level without names, but ASAP opens the file with its
            own reader, which can colour it by value, instead of with OpenSlide.
    """

    tile: int = 256
    compression: Literal["deflate", "jpeg"] = "deflate"
    quality: int = 90
    ome: bool = True

    def __post_init__(self):
        if self.tile < 16 or self.tile % 16:
            raise SpecError(f"tile is a multiple of 16 pixels, got {self.tile}. Most programs expect 256 or 512.")
        if self.compression not in ("deflate", "jpeg"):
            raise SpecError(f'compression is "deflate" or "jpeg", got {self.compression!r}.')
        if not 1 <= self.quality <= 100:
            raise SpecError(f"quality is 1 to 100, got {self.quality}.")


_DEFAULT = PyramidSettings()


class PyramidWriter:
    """Writes strips as a pyramid; memory is one row of tiles a level, whatever the height.

    Leaving the `with` block finishes the file and gives it its name; an exception leaves nothing behind.

    Args:
        path: Where the file goes.
        frame: What the strips cover; its mpp becomes the resolution.
        channels: A name each. `RGB` makes a colour image; any others are shown as grey, 0 black, 255 white (for a
            probability: 0 and 1).
        description: Anything that JSON can hold, kept in the first page; `read_description` gives it back.
        settings: How it is stored.

    Example:
        >>> frame = Frame.level0(640, 480, mpp=2.0)
        >>> with PyramidWriter("heatmap.tif", frame, channels=("lesion",)) as writer:  # doctest: +SKIP
        ...     for y, rows in strips:  # (n, 640) uint8
        ...         writer.write(y, rows)
    """

    def __init__(
        self,
        path: str | Path,
        frame: Frame,
        *,
        channels: tuple[str, ...],
        description: Mapping | None = None,
        settings: PyramidSettings = _DEFAULT,
    ):
        if not channels or isinstance(channels, str):
            raise SpecError(f'channels are names, at least one, for example ("lesion",), got {channels!r}.')
        self.path, self.frame, self.channels, self.settings = Path(path), frame, tuple(channels), settings
        self._comment = json.dumps({"channels": self.channels, "description": dict(description or {})})
        self._colour = self.channels == RGB
        self._exit = ExitStack()
        self._file: BinaryIO | None = None
        self._levels: list[_Level] = []

    def __enter__(self) -> "PyramidWriter":
        with ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(replacing(self.path)).open("wb"))
            self._file.write(bytes(HEADER))
            self._exit = stack.pop_all()
        box = self.frame.box
        self._levels = [self._level(box, 0)]
        while max(box.width, box.height) > self.settings.tile:
            box = box.coarser(2)
            self._levels.append(self._level(box, len(self._levels)))
        return self

    def write(self, y: int, rows: np.ndarray) -> None:
        """Take the rows from `y` on: (n, width) or (n, width, channels) uint8; one channel may have either shape."""
        if self._file is None:
            raise SpecError("a pyramid takes strips inside its `with` block, got one outside of it.")
        rows = np.asarray(rows)
        self._add(0, y, rows[..., None] if rows.ndim == 2 and len(self.channels) == 1 else rows)

    def __exit__(self, kind, error, traceback) -> None:
        file, self._file = self._file, None
        if kind is not None:
            self._exit.__exit__(kind, error, traceback)
            return
        with self._exit:
            self._levels[0].bands.finish()
            write_pages(file, self._chain())

    def _level(self, box: Box, index: int) -> "_Level":
        bands = Bands(
            f"the pyramid {self.path.name}", (box.height, box.width, len(self.channels)), np.uint8, self.settings.tile
        )
        count = 1 if self._colour else len(self.channels)
        return _Level(bands, [Page(self._tags(box, index)) for _ in range(count)])

    def _add(self, index: int, y: int, rows: np.ndarray) -> None:
        level = self._levels[index]
        width = 3 if self._colour else 1
        for top, band in level.bands.add(y, rows):
            for number, page in enumerate(level.pages):
                for tile in _tiles(band[..., number * width : (number + 1) * width], self.settings.tile):
                    page.add(self._file, _encode(tile, self.settings))
            if index + 1 < len(self._levels):
                self._add(index + 1, top // 2, _halve(band))

    def _tags(self, box: Box, index: int) -> dict:
        """Fields of a page of level `index`, which has the size of `box`."""
        samples, jpeg = 3 if self._colour else 1, self.settings.compression == "jpeg"
        # Whole numbers for spacings such as 0.243, so that reading gives back the very mpp.
        mpp = Fraction(self.frame.mpp).limit_denominator(100_000) * 2**index
        resolution = [10_000 * mpp.denominator, mpp.numerator]
        tags = {
            254: (LONG, [1 if index else 0]),
            256: (LONG, [box.width]),
            257: (LONG, [box.height]),
            258: (SHORT, [8] * samples),
            259: (SHORT, [_JPEG if jpeg else _DEFLATE]),
            262: (SHORT, [(6 if jpeg else 2) if self._colour else 1]),
            277: (SHORT, [samples]),
            282: (RATIONAL, resolution),
            283: (RATIONAL, resolution),
            284: (SHORT, [1]),
            296: (SHORT, [3]),
            305: (ASCII, b"digipath"),
            322: (LONG, [self.settings.tile]),
            323: (LONG, [self.settings.tile]),
        }
        return tags | ({530: (SHORT, [2, 2])} if self._colour and jpeg else {})

    def _chain(self) -> list[Page]:
        """Every channel's finest page, then the first's coarser ones; those of the others hang on their channel alone.

        OpenSlide takes every coarser page of the chain for a level of the first, and Bio-Formats counts the others.
        """
        images = list(zip(*(level.pages for level in self._levels), strict=True))
        for page, *coarser in images:
            page.coarser = coarser
        chain = [*(pages[0] for pages in images), *images[0][1:]]
        text = _ome(self.frame, self.channels, self._comment) if self.settings.ome else self._comment
        chain[0].tags[270] = (ASCII, text.encode("ascii"))
        return chain


@dataclass(frozen=True)
class _Level:
    bands: Bands
    pages: list[Page]


def write_pyramid(
    path: str | Path,
    frame: Frame,
    strips: Iterable[tuple[int, np.ndarray]],
    *,
    channels: tuple[str, ...],
    settings: PyramidSettings = _DEFAULT,
) -> None:
    """Write all of `strips`, each `(y, rows)` in `frame`, as one pyramid."""
    with PyramidWriter(path, frame, channels=channels, settings=settings) as writer:
        for y, rows in strips:
            writer.write(y, rows)


def read_description(path: str | Path) -> dict:
    """What `PyramidWriter` was given as its description."""
    try:
        with tifffile.TiffFile(path) as file:
            text = file.pages[0].description
        if text.startswith("<"):
            text = defusedxml.ElementTree.fromstring(text).find(f".//{{{_OME}}}Description").text
        return json.loads(text)["description"]
    except (OSError, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ResultError(f"{path} is not a pyramid that digipath wrote: {error}. Predict the slide again.") from error


def _tiles(band: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Square tiles from left to right; those that overhang the border repeat its last pixel."""
    height, width = band.shape[:2]
    padded = np.pad(band, ((0, side - height), (0, -width % side), (0, 0)), "edge")
    for x in range(0, width, side):
        yield np.ascontiguousarray(padded[:, x : x + side])


def _encode(tile: np.ndarray, settings: PyramidSettings) -> bytes:
    if settings.compression == "deflate":
        return zlib.compress(tile, 6)
    picture = cv2.cvtColor(tile, cv2.COLOR_RGB2BGR) if tile.shape[2] == 3 else tile
    flags = [cv2.IMWRITE_JPEG_QUALITY, settings.quality]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", picture, flags)[1].tobytes()


def _halve(band: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; at an odd border, of those that are there."""
    height, width = band.shape[:2]
    even = np.pad(band, ((0, height % 2), (0, width % 2), (0, 0)), "edge").astype(np.uint16)
    return ((even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2] + 2) >> 2).astype(np.uint8)


def _ome(frame: Frame, channels: tuple[str, ...], comment: str) -> str:
    """OME-XML, from which Bio-Formats takes channels, spacing, and that SubIFDs are coarser levels."""
    names, samples = (["RGB"], 3) if channels == RGB else (channels, 1)
    lines = [
        f'<Channel ID="Channel:0:{i}" Name={quoteattr(name)} SamplesPerPixel="{samples}"/>'
        for i, name in enumerate(names)
    ]
    lines += [f'<TiffData FirstC="{i}" IFD="{i}" PlaneCount="1"/>' for i in range(len(names))]
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}"><Image ID="Image:0">'
        f"<Description>{escape(comment)}</Description>"
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" Interleaved="{str(samples == 3).lower()}" '
        f'SizeX="{frame.width}" SizeY="{frame.height}" SizeZ="1" SizeC="{len(channels)}" SizeT="1" '
        f'PhysicalSizeX="{frame.mpp}" PhysicalSizeY="{frame.mpp}">{"".join(lines)}</Pixels></Image></OME>'
    )
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")
