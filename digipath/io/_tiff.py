"""The directories of a TIFF file, written behind its tiles.

tifffile pulls tiles, page after page, so a pyramid made from a stream would need every coarser level spooled to a file
of its own. Here tiles of any page go to disk as they are finished, and only where they lie is remembered.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO

import numpy as np

__all__ = ["ASCII", "HEADER", "LONG", "RATIONAL", "SHORT", "Page", "write_pages"]

HEADER = 16
"""Bytes kept free at the start of the file: room for the header of either kind of TIFF."""
ASCII, SHORT, LONG, RATIONAL = 2, 3, 4, 5
"""Field types."""
_OFFSET = -1  # LONG in a classic TIFF, LONG8 in a BigTIFF.
_TYPES = {SHORT: "<u2", LONG: "<u4", RATIONAL: "<u4", 16: "<u8"}
_NEW_SUBFILE_TYPE, _TILE_OFFSETS, _TILE_BYTE_COUNTS, _SUB_IFDS = 254, 324, 325, 330


@dataclass(eq=False)
class Page:
    """One image of the file.

    Attributes:
        tags: Field number to (type, values); a RATIONAL as numerator, denominator. Tiles are added from the below.
        offsets: Where each tile starts in the file, in reading order.
        counts: Bytes of each tile.
        coarser: The same image at lower resolutions.
    """

    tags: dict[int, tuple[int, Sequence[int] | bytes]]
    offsets: array = field(default_factory=lambda: array("Q"))
    counts: array = field(default_factory=lambda: array("Q"))
    coarser: list["Page"] = field(default_factory=list)

    def add(self, file: BinaryIO, tile: bytes) -> None:
        """Write the next tile at the end of `file`."""
        self.offsets.append(file.tell())
        self.counts.append(file.write(tile))


def write_pages(file: BinaryIO, chain: Sequence[Page], *, classic_limit: int = 2**32) -> None:
    """Append the directories of a chain of pages and of their coarser ones, then the header that leads to them.

    A file of less than `classic_limit` bytes becomes a classic TIFF, which every program reads, a larger one a BigTIFF.
    """
    pages = [*chain, *(coarser for page in chain for coarser in page.coarser if coarser not in chain)]
    following = dict(pairwise(chain))
    end = file.tell() + -file.tell() % 8
    for big in (False, True):
        starts = dict(zip(pages, _starts(pages, end, big), strict=True))
        size = starts[pages[-1]] + len(_directory(pages[-1], starts, None, big))
        if size < classic_limit:
            break
    file.write(bytes(end - file.tell()))
    for page in pages:
        file.write(_directory(page, starts, following.get(page), big))
    file.seek(0)
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, end) if big else struct.pack("<2sHI", b"II", 42, end))


def _starts(pages: Sequence[Page], end: int, big: bool) -> Iterator[int]:
    unknown = dict.fromkeys(pages, 0)
    for page in pages:
        yield end
        end += len(_directory(page, unknown | {page: end}, None, big))


def _directory(page: Page, starts: dict[Page, int], following: Page | None, big: bool) -> bytes:
    """The page's fields at `starts[page]`, and behind them the values too long for the table itself."""
    count_format, entry_format, offset_format = ("<Q", "<HHQ", "<Q") if big else ("<H", "<HHI", "<I")
    room = struct.calcsize(offset_format)
    tags = page.tags | {_TILE_OFFSETS: (_OFFSET, page.offsets), _TILE_BYTE_COUNTS: (_OFFSET, page.counts)}
    if page.coarser:
        tags[_SUB_IFDS] = (_OFFSET, [starts[coarser] for coarser in page.coarser])
    table = struct.calcsize(count_format) + len(tags) * (struct.calcsize(entry_format) + room) + room
    entries, values = struct.pack(count_format, len(tags)), b""
    for number, (kind, content) in sorted(tags.items()):
        if kind == _OFFSET:
            kind = 16 if big else LONG
        packed = content + b"\0" if kind == ASCII else np.asarray(content).astype(_TYPES[kind]).tobytes()
        length = len(packed) if kind == ASCII else len(content) // (2 if kind == RATIONAL else 1)
        entries += struct.pack(entry_format, number, kind, length)
        if len(packed) > room:
            entries += struct.pack(offset_format, (starts[page] + table + len(values)) % 2 ** (8 * room))
            values += packed + bytes(-len(packed) % 8)
        else:
            entries += packed.ljust(room, b"\0")
    directory = entries + struct.pack(offset_format, starts[following] if following else 0) + values
    return directory + bytes(-len(directory) % 8)
