"""A mask as horizontal runs of pixels, and which runs hang together.

Everything about connected components is worked out on the runs: a mask is read once, in strips, and no label image of
four bytes per pixel is made.

Components are 4-connected unless told otherwise: pixels that share an edge belong together, pixels that only touch at a
corner do not. A polygon's interior must be connected, so two pixels that touch at a corner cannot be one valid polygon;
with 4-connected components each component is exactly one valid polygon, and regions and polygons count the same things.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

__all__ = ["Runs", "find_runs", "touching"]

# Pixels of a mask that are looked at at once.
_STRIP_PIXELS = 1 << 23


@dataclass(frozen=True)
class Runs:
    """Every horizontal run of a mask's pixels, in reading order.

    A pixel is addressed by `row * stride + column`, where `stride` is the width plus 1, so that the end of one row is
    never the start of the next.

    Attributes:
        frame: The mask's frame.
        starts: (n,) int64, address of each run's first pixel.
        stops: (n,) int64, address behind each run's last pixel.
        component: (n,) integers, the component each run belongs to, numbered from 0 in reading order of first pixels.
        pixels: (components,) int64, the area of each component in pixels.
    """

    frame: Frame
    starts: np.ndarray
    stops: np.ndarray
    component: np.ndarray
    pixels: np.ndarray

    @property
    def stride(self) -> int:
        """Difference between the addresses of a pixel and of the one below it."""
        return self.frame.width + 1

    def by_area(self, *, min_area_mm2: float = 0.0) -> np.ndarray:
        """Components of at least that area, the largest first, equal ones in reading order."""
        order = np.argsort(-self.pixels, kind="stable")
        return order[self.pixels[order] * self.frame.pixel_mm2 >= min_area_mm2]


def find_runs(mask: Raster, *, connectivity: int = 4) -> Runs:
    """The runs of the non-zero pixels of a single-layer mask, and their connected components.

    Args:
        mask: A single-layer raster.
        connectivity: 4, or 8 for components in which pixels may touch at a corner only.
    """
    if connectivity not in (4, 8):
        raise SpecError(f"pixels are connected to 4 or 8 neighbours, got connectivity={connectivity!r}.")
    if mask.channels:
        raise SpecError(
            f"a mask has a single layer, got the channels {', '.join(mask.channels)}. Take one with .channel(name)."
        )
    stride = mask.frame.width + 1
    edges = [_edges(mask.crop(box), box.y * stride) for box in mask.frame.rows(max(1, _STRIP_PIXELS // stride))]
    starts, stops = np.concatenate(edges).reshape(-1, 2).T
    starts, stops = np.ascontiguousarray(starts), np.ascontiguousarray(stops)
    component = _label(starts, stops, stride, connectivity)
    pixels = np.bincount(component, weights=stops - starts).astype(np.int64)
    return Runs(mask.frame, starts, stops, component, pixels)


def _edges(values: np.ndarray, address: int) -> np.ndarray:
    """Addresses where runs start and stop, alternating; `address` is that of the first pixel."""
    rows, width = values.shape
    padded = np.zeros(rows * (width + 1) + 1, bool)  # one pixel of background before all, and one behind each row
    padded[1:].reshape(rows, width + 1)[:, :width] = values != 0
    return np.flatnonzero(padded[1:] != padded[:-1]) + address


def touching(starts: np.ndarray, stops: np.ndarray, stride: int, *, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """(above, below): every two runs in neighbouring rows that share a column, or for 8 that touch at a corner too."""
    sides = ("right", "left") if connectivity == 4 else ("left", "right")
    first = np.searchsorted(stops, starts + stride, sides[0])
    counts = np.maximum(np.searchsorted(starts, stops + stride, sides[1]) - first, 0)
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(len(above)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return above, below


def _label(starts: np.ndarray, stops: np.ndarray, stride: int, connectivity: int) -> np.ndarray:
    """Component of each run."""
    pairs = touching(starts, stops, stride, connectivity=connectivity)
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(starts),) * 2)
    return connected_components(graph, directed=False)[1]
