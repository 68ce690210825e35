"""How much of a slide is above a threshold, told at once for any of them and exactly as the mask has it.

A heatmap is float16, and so has no more than 15,361 different values from 0 to 1. Counting once how often each of them
occurs among the covered pixels gives the number of pixels above every threshold there is.
"""

from dataclasses import dataclass

import numpy as np

from digipath.geometry.raster import Raster

__all__ = ["AboveThreshold", "count"]

_ROWS = 1024
_VALUES = int(np.float16(1).view(np.uint16)) + 1


@dataclass(frozen=True, eq=False)
class AboveThreshold:
    """The covered pixels of one class, by their probability.

    Attributes:
        counts: (15361,) pixels with each value from 0 to 1, in the order of float16.
        pixel_mm2: Area of one of them.
    """

    counts: np.ndarray
    pixel_mm2: float

    @property
    def covered_mm2(self) -> float:
        """Area of all covered pixels."""
        return float(self.counts.sum() * self.pixel_mm2)

    def mm2(self, threshold: float) -> float:
        """Area of the covered pixels above a threshold, the same number as `Segmentation.lesion_mm2` tells."""
        first = int(np.float16(min(max(threshold, 0), 1)).view(np.uint16)) + 1
        return float(int(self.counts[first:].sum()) * self.pixel_mm2)

    def share(self, threshold: float) -> float:
        """The same as a fraction of what is covered; 0 where nothing is."""
        return self.mm2(threshold) / self.covered_mm2 if self.covered_mm2 else 0.0


def count(probability: Raster, covered: Raster) -> AboveThreshold:
    """Count the values of a heatmap, strip by strip.

    Args:
        probability: A single layer of float16.
        covered: Mask in the same frame.
    """
    counts = np.zeros(_VALUES, np.int64)
    for box in probability.frame.rows(_ROWS):
        rows = slice(box.y, box.bottom)
        values = np.asarray(probability.values[rows], np.float16)[np.asarray(covered.values[rows], bool)]
        bits = np.abs(values).view(np.uint16)  # there may be a zero with a sign
        counts += np.bincount(np.minimum(bits, _VALUES - 1), minlength=_VALUES)
    return AboveThreshold(counts, probability.frame.pixel_mm2)
