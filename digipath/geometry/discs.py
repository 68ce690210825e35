"""Morphology of masks with discs, whose radii need not be whole pixels: a pixel is within one when its centre is.

Everything follows from exact Euclidean distances, so time does not grow with the radius.
"""

import math

import cv2
import numpy as np

__all__ = ["closed", "near", "opened"]


def near(mask: np.ndarray, radius: float) -> np.ndarray:
    """(rows, columns) bool, pixels whose centres are at most `radius` pixels from that of a pixel of a boolean mask."""
    if radius < 1 or not mask.any() or mask.all():
        return mask
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole numbers; halfway to the next one, rounding does not matter.
    return distance <= math.sqrt(math.floor(radius**2 + 1e-6) + 0.5)


def closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """The mask and all that no disc beside it reaches; beyond the border is nothing, so nothing grows in from there."""
    margin = math.ceil(radius)
    grown = near(np.pad(mask, margin), radius)
    return _cut(~near(~grown, radius), margin)


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """All that discs within the mask reach; beyond the border it goes on as it ends, so nothing is eaten from there."""
    margin = 2 * math.ceil(radius)
    shrunk = ~near(~np.pad(mask, margin, "edge"), radius)
    return _cut(near(shrunk, radius), margin)


def _cut(values: np.ndarray, margin: int) -> np.ndarray:
    return values[margin : values.shape[0] - margin, margin : values.shape[1] - margin]
