"""Outlines of connected components along pixel edges, from their runs.

A mask's outlines turn at corners. Every corner has one vertical and one horizontal line, and lines pair corners that
follow each other in a column or in a row; so two sorts link all corners of all outlines at once. Where two pixels touch
at a corner, two outlines meet there. They are led round the mask's pixels where these belong to different components,
and round the background's where they belong to one: an outline then never visits a point twice, and the polygons are
valid.
"""

from array import array

import numpy as np
import shapely

from digipath.geometry.components import Runs

__all__ = ["trace"]


def trace(runs: Runs, components: np.ndarray) -> np.ndarray:
    """(n,) shapely Polygons with holes, in level-0 pixels, of the n components asked for, in their order."""
    corners = _Corners(runs)
    tails, heads, successor = corners.link()
    order, lengths = _walk(successor)
    ring_component = corners.component[tails[order[np.cumsum(lengths) - lengths]]] if len(order) else np.zeros(0, int)
    rank = np.full(len(runs.pixels) + 1, -1)
    rank[components] = np.arange(len(components))
    wanted = rank[ring_component] >= 0
    order, lengths = order[np.repeat(wanted, lengths)], lengths[wanted]
    vertices = np.stack([tails[order], heads[order]], 1).ravel()
    y, x = np.divmod(corners.address[vertices], runs.stride)
    positions = np.stack([x, y], 1) * runs.frame.downsample
    rings = shapely.linearrings(positions, indices=np.repeat(np.arange(len(lengths)), 2 * lengths))
    return _assemble(rings, rank[ring_component[wanted]])


class _Corners:
    """Every corner of every outline; where two outlines meet, there are two at one place.

    Attributes:
        address: Place of each, row * stride + column of the pixel whose upper left corner it is.
        below: Whether the vertical line at the corner leads down.
        right: Where two corners are at one place: whether the horizontal line leads right.
        starts: Whether the vertical line has the mask on its right, being the start of runs.
        component: The component whose outline it belongs to.
    """

    def __init__(self, runs: Runs):
        self.stride, self.rows = runs.stride, runs.frame.height + 1
        edge = np.stack([runs.starts, runs.stops], 1).ravel()  # unit vertical edges, sorted by address
        starts = np.tile([True, False], len(runs.starts))
        component = np.repeat(runs.component, 2)
        under = np.searchsorted(edge, edge + runs.stride)
        continued = edge[np.minimum(under, len(edge) - 1)] == edge + runs.stride if len(edge) else np.zeros(0, bool)
        upper, lower = np.flatnonzero(continued), under[continued]
        meets = starts[upper] != starts[lower]  # a start above a stop: two pixels touch at a corner
        upper, lower = upper[meets], lower[meets]
        ends, begins = ~continued, np.ones(len(edge), bool)
        begins[under[continued]] = False
        ends[upper] = begins[lower] = True
        right = np.zeros((2, len(edge)), bool)
        right[0, upper] = starts[upper] ^ (component[upper] == component[lower])
        right[1, lower] = ~right[0, upper]
        ends, begins = np.flatnonzero(ends), np.flatnonzero(begins)
        self.address = np.concatenate([edge[ends] + runs.stride, edge[begins]])
        self.below = np.repeat([False, True], [len(ends), len(begins)])
        self.right = np.concatenate([right[0, ends], right[1, begins]])
        self.starts = np.concatenate([starts[ends], starts[begins]])
        self.component = np.concatenate([component[ends], component[begins]])

    def link(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corners where each vertical line begins and ends, and the vertical line that follows it round the outline.

        Outlines turn with x to the right and y down so that the mask is on the right of who walks along.
        """
        row, column = np.divmod(self.address, self.stride)
        in_column = np.argsort((column * self.rows + row) * 2 + self.below)
        top, bottom = in_column[0::2], in_column[1::2]
        tails = np.where(self.starts[top], bottom, top)
        heads = np.where(self.starts[top], top, bottom)
        in_row = np.argsort(self.address * 2 + self.right).reshape(-1, 2)
        across = np.empty(len(self.address), np.int64)
        across[in_row] = in_row[:, ::-1]
        line = np.empty(len(self.address), np.int64)
        line[tails] = line[heads] = np.arange(len(tails))
        return tails, heads, line[across[heads]]


def _walk(successor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All elements ordered so that each cycle stands in one piece, and the lengths of the cycles."""
    follow, seen = memoryview(successor), bytearray(len(successor))
    order, lengths = array("q"), array("q")
    for first in range(len(seen)):
        if seen[first]:
            continue
        at, before = first, len(order)
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = follow[at]
        lengths.append(len(order) - before)
    return np.array(order, np.int64), np.array(lengths, np.int64)


def _assemble(rings: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Polygons in order of rank: of the rings of one rank the one that turns forward is the shell, others are holes."""
    order = np.lexsort((~shapely.is_ccw(rings), rank))
    return shapely.polygons(rings[order], indices=rank[order])
