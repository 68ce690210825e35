"""Which pixel centres lie inside of polygons: exact, and in strips of bounded memory."""

from dataclasses import dataclass

import numpy as np
import shapely

from digipath.geometry.frame import Frame

__all__ = ["fill"]

# Vertices, pixels of a strip, and crossings of outlines with rows, that are worked on at once.
_VERTICES = 1 << 21
_STRIP_PIXELS = 1 << 22
_CROSSINGS = 1 << 21


def fill(polygons: np.ndarray, frame: Frame) -> np.ndarray:
    """(rows, columns) bool, True where the centre of a pixel lies in any of the polygons.

    Along each row of centres, an outline that is crossed into a polygon counts +1 and one that is crossed out of it -1;
    the running sum is the number of polygons that a centre lies in.

    Args:
        polygons: (n,) valid shapely Polygons, in level-0 pixels.
        frame: The frame to fill.
    """
    inside = np.zeros(frame.shape, bool)
    sizes = np.cumsum(shapely.get_num_coordinates(polygons))
    cuts = np.searchsorted(sizes, np.arange(_VERTICES, sizes[-1] if len(sizes) else 0, _VERTICES))
    for batch in np.split(polygons, np.unique(cuts)):
        edges = _edges(batch, frame)
        if not len(edges.first):
            continue
        top, end = int(edges.first.min()), int(edges.last.max())
        height = max(1, _STRIP_PIXELS // (frame.width + 1))
        for y in range(top, end, height):
            rows = min(height, end - y)
            inside[y : y + rows] |= _covered(edges, y, rows, frame.width)
    return inside


@dataclass(frozen=True)
class _Edges:
    """Edges of outlines that cross rows of pixel centres, in pixels of the frame.

    Attributes:
        first: First row that is crossed.
        last: Row behind the last.
        x: Where the upper end lies.
        y: Where the upper end lies.
        slope: Columns per row.
        step: 1 where crossing it to the right leads into a polygon, -1 where it leads out.
    """

    first: np.ndarray
    last: np.ndarray
    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray
    step: np.ndarray

    def take(self, index: np.ndarray) -> "_Edges":
        return _Edges(*(values[index] for values in vars(self).values()))


def _edges(polygons: np.ndarray, frame: Frame) -> _Edges:
    rings, owner = shapely.get_rings(polygons, return_index=True)
    exterior = np.ones(len(rings), bool)
    exterior[1:] = owner[1:] != owner[:-1]
    forward = shapely.is_ccw(rings) == exterior
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points /= frame.downsample
    pairs = np.flatnonzero(ring[1:] == ring[:-1])
    down = points[pairs + 1, 1] > points[pairs, 1]
    upper, lower = points[pairs + ~down], points[pairs + down]
    first, last = (np.clip(np.ceil(end[:, 1] - 0.5), 0, frame.height).astype(np.int64) for end in (upper, lower))
    run, rise = (lower - upper).T
    slope = np.divide(run, rise, out=np.zeros(len(pairs)), where=rise > 0)
    step = np.where(down != forward[ring[pairs]], 1, -1).astype(np.int32)
    return _Edges(first, last, upper[:, 0], upper[:, 1], slope, step).take(np.flatnonzero(last > first))


def _covered(edges: _Edges, y: int, rows: int, width: int) -> np.ndarray:
    """(rows, width) bool of the strip that begins at row `y`."""
    change = np.zeros(rows * (width + 1), np.int32)
    edges = edges.take(np.flatnonzero((edges.first < y + rows) & (edges.last > y)))
    first, last = np.maximum(edges.first, y), np.minimum(edges.last, y + rows)
    cuts = np.searchsorted(np.cumsum(last - first), np.arange(_CROSSINGS, int((last - first).sum()), _CROSSINGS))
    for part in np.split(np.arange(len(first)), cuts):
        counts = last[part] - first[part]
        edge = np.repeat(part, counts)
        row = np.arange(len(edge)) + np.repeat(first[part] - (np.cumsum(counts) - counts), counts)
        x = edges.x[edge] + (row + 0.5 - edges.y[edge]) * edges.slope[edge]
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.add.at(change, (row - y) * (width + 1) + column, edges.step[edge])
    change = change.reshape(rows, width + 1)
    np.cumsum(change, axis=1, out=change)
    return change[:, :width] > 0
