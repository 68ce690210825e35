"""The overlapping boxes that cover a frame; the only place where strides are counted."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame

__all__ = ["PatchGrid", "ReadBand", "bands"]


@dataclass(frozen=True)
class PatchGrid:
    """Row-ordered boxes that cover a frame.

    Boxes start at multiples of the stride, less the margin; the last of a row or column overhangs the border, so that
    every box has the same size and none is moved. Without its margin, a box describes `patch - 2 * margin` pixels.

    Attributes:
        frame: What is covered.
        patch: (width, height) of each box, in pixels of the frame.
        stride: (x, y) distance between neighbours; at most the described size.
        margin: Border of a box, in pixels, that its values do not describe.
    """

    frame: Frame
    patch: tuple[int, int]
    stride: tuple[int, int]
    margin: int = 0

    def __post_init__(self):
        for side, step in zip(self.patch, self.stride, strict=True):
            if not 1 <= step <= side - 2 * self.margin:
                raise SpecError(
                    f"a stride is at least 1 and at most the patch without its margins, "
                    f"{side - 2 * self.margin} pixels, or pixels between patches would be lost; got {step}."
                )

    @property
    def columns(self) -> int:
        """Number of boxes in a row."""
        return self._count(self.frame.width, 0)

    @property
    def rows(self) -> int:
        """Number of rows of boxes."""
        return self._count(self.frame.height, 1)

    def _count(self, side: int, axis: int) -> int:
        described = self.patch[axis] - 2 * self.margin
        return 1 + max(0, math.ceil((side - described) / self.stride[axis]))

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Box]:
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.box(row, column)

    def box(self, row: int, column: int) -> Box:
        """The box at this place of the grid."""
        x, y = column * self.stride[0] - self.margin, row * self.stride[1] - self.margin
        return Box(x, y, *self.patch)

    @property
    def cell(self) -> tuple[int, int]:
        """(width, height) of the cells, counted from the first box, in which the grid is read; each box starts one.

        A box is a whole number of cells where side and stride have a divisor that is not tiny; else its last cells
        overhang it by less than half a stride.
        """
        width, height = (_cell(side, step) for side, step in zip(self.patch, self.stride, strict=True))
        return width, height


def _cell(side: int, step: int) -> int:
    exact = math.gcd(side, step)
    if exact * 16 >= step:
        return exact
    # A slide has 25,000 x 25,000 cells of 4 px: reading a few pixels more is cheaper than keeping count of these.
    return next(part for part in range(-(-step // 4), step + 1) if step % part == 0)


@dataclass(frozen=True)
class ReadBand:
    """Full rows of a frame that are read together, and the rectangles of them that are needed.

    Attributes:
        box: From the leftmost needed pixel to the rightmost.
        parts: Disjoint rectangles, in pixels of the frame, that make up what is needed.
    """

    box: Box
    parts: tuple[Box, ...]


def bands(grid: PatchGrid, boxes: list[Box], *, rows: int, widest: int) -> Iterator[ReadBand]:
    """The union of boxes of a grid as horizontal bands, from top to bottom, every pixel exactly once.

    Args:
        grid: The grid that the boxes are of.
        boxes: Some of its boxes.
        rows: Height that a band should have; it is rounded to whole cells of the grid.
        widest: No part is wider than this, rounded to whole cells, so that threads can share a band.

    Yields:
        Bands with at least one part.
    """
    width, height = grid.cell
    needed = _needed_cells(grid, boxes)
    step, run = max(1, rows // height), max(1, widest // width)
    for first in range(0, needed.shape[0], step):
        cells = needed[first : first + step]
        if not cells.any():
            continue
        parts = [
            Box(x * width - grid.margin, (first + y) * height - grid.margin, w * width, h * height)
            for x, y, w, h in _rectangles(cells, run)
        ]
        left, right = min(part.x for part in parts), max(part.right for part in parts)
        top = first * height - grid.margin
        yield ReadBand(Box(left, top, right - left, len(cells) * height), tuple(parts))


def _needed_cells(grid: PatchGrid, boxes: list[Box]) -> np.ndarray:
    """(rows, columns) bool, true for each cell that some box holds."""
    (width, height), (last_x, last_y) = grid.cell, grid.box(grid.rows - 1, grid.columns - 1).bounds[2:]
    across, down = -(-grid.patch[0] // width), -(-grid.patch[1] // height)
    needed = np.zeros((-(-(last_y + grid.margin) // height), -(-(last_x + grid.margin) // width)), bool)
    for box in boxes:
        x, y = (box.x + grid.margin) // width, (box.y + grid.margin) // height
        needed[y : y + down, x : x + across] = True
    return needed


def _rectangles(cells: np.ndarray, widest: int) -> Iterator[tuple[int, int, int, int]]:
    """Disjoint (x, y, width, height) that make up a mask: runs of equal columns, cut where a column has gaps."""
    changes = np.flatnonzero((cells[:, 1:] != cells[:, :-1]).any(0)) + 1
    starts = [0, *changes.tolist(), cells.shape[1]]
    for x0, x1 in itertools.pairwise(starts):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cells[:, x0].astype(np.int8), [0]])))
        for x in range(x0, x1, widest):
            for y, bottom in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield x, y, min(widest, x1 - x), bottom - y
