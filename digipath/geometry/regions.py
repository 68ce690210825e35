"""What a mask is made of: connected components with area, place and probability."""

from dataclasses import dataclass

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.components import Runs, find_runs
from digipath.geometry.frame import Box
from digipath.geometry.raster import Raster

__all__ = ["Region", "Scores", "boxes_of", "centroids_of", "find_regions", "scores_of"]

_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True)
class Region:
    """One 4-connected component of a mask.

    Attributes:
        id: Rank by area, from 1 for the largest.
        box: The smallest box around it, in the mask's frame.
        area_mm2: Area from its number of pixels, holes not included.
        centroid: (x, y) of its centre of gravity, in level-0 pixels; it may lie outside of the region.
        mean_probability: Mean of the heatmap over its pixels, None without a heatmap.
        max_probability: Largest value of the heatmap in it, None without a heatmap.
        peak: (x, y) of the centre of the pixel with that value, the first in reading order, in level-0 pixels.
    """

    id: int
    box: Box
    area_mm2: float
    centroid: tuple[float, float]
    mean_probability: float | None = None
    max_probability: float | None = None
    peak: tuple[float, float] | None = None


def find_regions(mask: Raster, heatmap: Raster | None = None, *, min_area_mm2: float = 0.0) -> list[Region]:
    """The 4-connected components of a mask, the largest first, equal ones in reading order.

    Pixels that only touch at a corner are different regions. `digipath.geometry.polygons.polygonize` returns the same
    components in the same order.

    Args:
        mask: A single-layer raster; its non-zero pixels are looked at.
        heatmap: Single-layer probabilities in the mask's frame, or None.
        min_area_mm2: Smaller regions are left out.
    """
    runs = find_runs(mask)
    boxes, centroids = boxes_of(runs), centroids_of(runs) * mask.frame.downsample
    scores = scores_of(runs, heatmap) if heatmap is not None else None
    return [
        Region(
            rank,
            Box(*(int(side) for side in boxes[component])),
            float(runs.pixels[component] * mask.frame.pixel_mm2),
            (float(centroids[component, 0]), float(centroids[component, 1])),
            *(scores.of(component) if scores else ()),
        )
        for rank, component in enumerate(runs.by_area(min_area_mm2=min_area_mm2), 1)
    ]


def boxes_of(runs: Runs) -> np.ndarray:
    """(components, 4) x, y, width and height."""
    row, start = np.divmod(runs.starts, runs.stride)
    stop = runs.stops - row * runs.stride
    low = np.full((len(runs.pixels), 2), np.iinfo(np.int64).max)
    high = np.zeros((len(runs.pixels), 2), np.int64)
    np.minimum.at(low, runs.component, np.stack([start, row], 1))
    np.maximum.at(high, runs.component, np.stack([stop, row + 1], 1))
    return np.concatenate([low, high - low], 1)


def centroids_of(runs: Runs) -> np.ndarray:
    """(components, 2) x and y, in pixels of the frame."""
    row, start = np.divmod(runs.starts, runs.stride)
    length = runs.stops - runs.starts
    moments = (length * (start + length / 2), length * (row + 0.5))
    sums = [np.bincount(runs.component, weights=moment, minlength=len(runs.pixels)) for moment in moments]
    return np.stack(sums, 1) / np.maximum(runs.pixels, 1)[:, None]


@dataclass(frozen=True)
class Scores:
    """What a heatmap says in each component.

    Attributes:
        mean: (components,) mean over its pixels.
        largest: (components,) its maximum.
        peak: (components, 2) level-0 (x, y) of the centre of the first pixel that has it.
    """

    mean: np.ndarray
    largest: np.ndarray
    peak: np.ndarray

    def of(self, component: int) -> tuple[float, float, tuple[float, float]]:
        """Mean, maximum and place of one component."""
        x, y = self.peak[component]
        return float(self.mean[component]), float(self.largest[component]), (float(x), float(y))


def scores_of(runs: Runs, heatmap: Raster) -> Scores:
    """Mean, maximum and its place of a heatmap in each component."""
    if heatmap.frame != runs.frame or heatmap.channels:
        raise SpecError(
            "a heatmap is a single layer in the frame of the mask, got "
            f"{heatmap.frame}{f' with channels {heatmap.channels}' if heatmap.channels else ''} for {runs.frame}. "
            "Take one layer with .channel(name) and bring it there with .resample(mask.frame)."
        )
    total = np.zeros(len(runs.pixels))
    largest = np.full(len(runs.pixels), -np.inf)
    address = np.zeros(len(runs.pixels), np.int64)
    for box in runs.frame.rows(max(1, _STRIP_PIXELS // runs.stride)):
        first, last = np.searchsorted(runs.starts, [box.y * runs.stride, box.bottom * runs.stride])
        if first == last:
            continue
        component, start = runs.component[first:last], box.y * runs.stride
        values = np.zeros((box.height, runs.stride))
        values[:, :-1] = heatmap.crop(box)
        bounds = np.stack([runs.starts[first:last], runs.stops[first:last]], 1).ravel() - start
        np.add.at(total, component, np.add.reduceat(values.ravel(), bounds)[::2])
        peaks = np.maximum.reduceat(values.ravel(), bounds)[::2]
        for run in _higher(peaks, component, largest):
            inside = values.ravel()[bounds[2 * run] : bounds[2 * run + 1]]
            largest[component[run]] = peaks[run]
            address[component[run]] = start + bounds[2 * run] + inside.argmax()
    row, column = np.divmod(address, runs.stride)
    peak = (np.stack([column, row], 1) + 0.5) * runs.frame.downsample
    return Scores(total / np.maximum(runs.pixels, 1), largest, peak)


def _higher(peaks: np.ndarray, component: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """For each component, the first run with its highest peak, where that is above what is known so far."""
    order = np.lexsort((np.arange(len(peaks)), -peaks, component))
    first = np.ones(len(order), bool)
    first[1:] = component[order][1:] != component[order][:-1]
    best = order[first]
    return best[peaks[best] > largest[component[best]]]
