"""From a heatmap to detections: its peaks, or the peak of each region."""

import heapq
from dataclasses import dataclass, field

import numpy as np

from digipath.errors import ResultError, SpecError
from digipath.geometry.detections import MAX_DETECTIONS, Detection
from digipath.geometry.frame import Box
from digipath.geometry.raster import Raster
from digipath.geometry.regions import find_regions

__all__ = ["RADIUS_UM", "Detection", "detections_by_maxima", "detections_by_region"]

# 24 pixels of level 5 (0.243 um x 32), as in DigiPathAI's nms.py (Khened et al. 2021).
RADIUS_UM = 24 * 0.243 * 32


def detections_by_maxima(
    heatmap: Raster, *, threshold: float = 0.5, radius_um: float = RADIUS_UM, covered: Raster | None = None
) -> list[Detection]:
    """Peaks: the highest pixel, then the highest outside of a square around it, and so on above the threshold.

    As in DigiPathAI (Khened et al. 2021). Of pixels of the same value the first in reading order is taken. The image is
    never searched as a whole: each block of it remembers its own highest pixel, and looks for another one only when
    that one falls into a square.

    Args:
        heatmap: A single layer of probabilities.
        threshold: Pixels above it are looked at.
        radius_um: Half the side of the square in which nothing else is detected, from centre to centre.
        covered: Mask in the heatmap's frame; nothing is detected where it is 0.

    Returns:
        Detections at centres of pixels in level-0 pixels, the most probable first.
    """
    _check(heatmap, threshold, covered)
    if not radius_um >= 0:
        raise SpecError(f"radius_um is a number of micrometres of at least 0, got {radius_um}.")
    radius = int(min(radius_um / heatmap.frame.mpp, max(heatmap.frame.shape)) + 1e-6)
    blocks = _Blocks(radius, min(512, max(64, 2 * radius + 1)))
    blocks.fill(heatmap, threshold, covered)
    scale, found = heatmap.frame.downsample, []
    while (peak := blocks.pop()) is not None:
        value, row, column = peak
        found.append(Detection(value, (column + 0.5) * scale, (row + 0.5) * scale))
        if len(found) > MAX_DETECTIONS:
            raise ResultError(
                f"a heatmap has at most {MAX_DETECTIONS:,} detections, got more at threshold {threshold} and "
                f"{radius_um} um. Raise the threshold or the radius."
            )
    return found


def detections_by_region(
    heatmap: Raster, *, threshold: float = 0.5, min_area_mm2: float = 0.0, covered: Raster | None = None
) -> list[Detection]:
    """One for each region of `find_regions` above the threshold, with its maximum and where that is.

    Args:
        heatmap: A single layer of probabilities.
        threshold: Pixels above it make regions.
        min_area_mm2: Smaller regions are left out.
        covered: Mask in the heatmap's frame; nothing is detected where it is 0.

    Returns:
        Detections at centres of pixels in level-0 pixels, the most probable first.
    """
    _check(heatmap, threshold, covered)
    mask = np.zeros(heatmap.frame.shape, bool)
    for box in _rows(heatmap, 1024):
        mask[box.slices()] = _hot(heatmap, box, threshold, covered) > 0
    regions = find_regions(Raster(mask, heatmap.frame), heatmap, min_area_mm2=min_area_mm2)
    found = [Detection(r.max_probability, *r.peak) for r in regions if r.peak is not None]
    return sorted(found, key=lambda detection: -detection.probability)


def _check(heatmap: Raster, threshold: float, covered: Raster | None) -> None:
    if heatmap.channels or np.dtype(heatmap.values.dtype).kind != "f":
        raise SpecError(
            "a heatmap to detect in is a single layer of probabilities, got "
            f"{f'the channels {heatmap.channels}' if heatmap.channels else heatmap.values.dtype}. "
            "Take one layer with .channel(name); divide bytes by 255."
        )
    if not 0 <= threshold < 1:
        raise SpecError(f"threshold is a probability of at least 0 and below 1, got {threshold}.")
    if covered is not None and (covered.frame != heatmap.frame or covered.channels):
        raise SpecError(f"covered is a mask in the heatmap's frame, {heatmap.frame}, got {covered.frame}.")


def _rows(heatmap: Raster, height: int) -> list[Box]:
    """Strips of the pixels whose centre lies on the slide."""
    on = heatmap.frame.on_slide
    return [Box(0, y, on.width, min(height, on.height - y)) for y in range(0, on.height, height)]


def _hot(heatmap: Raster, box: Box, threshold: float, covered: Raster | None) -> np.ndarray:
    """The values above the threshold where covered, and 0 elsewhere, also for NaN.

    They are compared as they are stored, as masks are: NumPy rounds a Python number to float16 for a heatmap of that,
    so that a pixel of 0.3 is not above 0.3.
    """
    stored = heatmap.crop(box)
    hot, values = stored > float(threshold), stored.astype(np.float32)
    if covered is not None:
        hot &= covered.crop(box) != 0
    values[~hot] = 0
    return values


@dataclass
class _Blocks:
    """The pixels above the threshold in squares of `size`, with the highest of each in one heap."""

    radius: int
    size: int
    values: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    peaks: list[tuple] = field(default_factory=list)

    def fill(self, heatmap: Raster, threshold: float, covered: Raster | None) -> None:
        for i, box in enumerate(_rows(heatmap, self.size)):
            rows = _hot(heatmap, box, threshold, covered)
            for j in np.unique(np.flatnonzero(rows.any(0)) // self.size).tolist():
                self.values[i, j] = rows[:, j * self.size : (j + 1) * self.size].copy()
                self._remember(i, j)

    def _remember(self, i: int, j: int) -> None:
        block = self.values[i, j]
        row, column = divmod(int(block.argmax()), block.shape[1])
        value = float(block[row, column])
        if value > 0:
            heapq.heappush(self.peaks, (-value, i * self.size + row, j * self.size + column, i, j))
        else:
            del self.values[i, j]

    def pop(self) -> tuple[float, int, int] | None:
        """The highest pixel that is left, as (value, row, column); the square around it is taken away."""
        while self.peaks:
            negative, row, column, i, j = heapq.heappop(self.peaks)
            alive = self.values[i, j][row - i * self.size, column - j * self.size] > 0
            if alive:
                self._clear(row, column)
            self._remember(i, j)
            if alive:
                return -negative, row, column
        return None

    def _clear(self, row: int, column: int) -> None:
        top, left = max(0, row - self.radius), max(0, column - self.radius)
        for i in range(top // self.size, (row + self.radius) // self.size + 1):
            for j in range(left // self.size, (column + self.radius) // self.size + 1):
                if (block := self.values.get((i, j))) is not None:
                    y, x = i * self.size, j * self.size
                    rows = slice(max(0, top - y), row + self.radius + 1 - y)
                    block[rows, max(0, left - x) : column + self.radius + 1 - x] = 0
