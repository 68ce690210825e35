"""Resampling whose weights come from absolute positions in a frame, so that a crop reads as it would in the whole.

Neither Pillow nor OpenCV can do this for any scale: Pillow takes the window in single precision, which moves the hard
edges of its box kernel, and OpenCV knows no window at all.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse

from digipath.errors import SpecError

__all__ = ["KERNELS", "AxisWeights", "apply_weights", "axis_weights", "shrink_whole", "support"]


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


# Source pixels that are weighted at once.
_BLOCK_PIXELS = 1 << 18
# Name to (function of the distance in pixels, radius). "box" is the exact mean over a pixel's area.
KERNELS = {"box": (None, 0.5), "bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0), "lanczos": (_lanczos, 3.0)}


@dataclass(frozen=True)
class AxisWeights:
    """What each of a run of pixels takes from a run of source pixels.

    Attributes:
        start: First source pixel; it may lie outside of the source.
        matrix: (pixels, source pixels) float32, sparse; each row sums to 1.
    """

    start: int
    matrix: sparse.csr_array

    @property
    def length(self) -> int:
        """Number of source pixels."""
        return self.matrix.shape[1]


def support(scale: float, kernel: str) -> float:
    """How far a pixel reaches from its centre, in source pixels."""
    if kernel not in KERNELS:
        raise SpecError(f"kernel is one of {', '.join(KERNELS)}, got {kernel!r}.")
    return KERNELS[kernel][1] * (scale if kernel == "box" else max(1.0, scale))


def axis_weights(first: int, count: int, scale: float, kernel: str) -> AxisWeights:
    """Weights of `count` pixels from position `first` of a frame, each `scale` source pixels wide."""
    index = np.arange(first, first + count, dtype=float)
    centre, radius = (index + 0.5) * scale, support(scale, kernel)
    low = np.floor(centre - radius + 1e-9).astype(np.int64)
    taps = int(np.ceil(2 * radius)) + 1
    source = low[:, None] + np.arange(taps)
    if kernel == "box":
        edges = index[:, None] * scale
        weights = np.minimum(source + 1, edges + scale) - np.maximum(source, edges)
    else:
        weights = KERNELS[kernel][0]((source + 0.5 - centre[:, None]) / max(1.0, scale))
    weights = np.where(np.abs(weights) > 1e-9, weights, 0.0)
    if kernel == "box":
        weights = np.maximum(weights, 0.0)
    weights /= weights.sum(1, keepdims=True)
    start = int(low[0])
    used = weights.any(0)
    length = int(source[:, used].max()) - start + 1
    keep = weights != 0
    pointers = np.concatenate([[0], np.cumsum(keep.sum(1))])
    columns = (source - start)[keep]
    return AxisWeights(start, sparse.csr_array((weights[keep].astype(np.float32), columns, pointers), (count, length)))


def apply_weights(pixels: np.ndarray, rows: AxisWeights, columns: AxisWeights) -> np.ndarray:
    """(rows, columns, 3) of the weighted source; uint8 comes back as uint8, float32 as float32."""
    count, width = rows.matrix.shape[0], pixels.shape[1]
    result = np.empty((count, columns.matrix.shape[0], 3), pixels.dtype)
    # In blocks that fit the cache: as one, this takes three times as long.
    step = max(1, int(_BLOCK_PIXELS / width * count / pixels.shape[0]))
    for first in range(0, count, step):
        weights = rows.matrix[first : first + step]
        start, stop = int(weights.indices.min()), int(weights.indices.max()) + 1
        source = pixels[start:stop].astype(np.float32, copy=False).reshape(stop - start, width * 3)
        values = _restrict(weights, start, stop) @ source
        values = columns.matrix @ cv2.transpose(values.reshape(-1, width, 3)).reshape(width, -1)
        values = cv2.transpose(values.reshape(len(values), -1, 3))
        result[first : first + step] = _to_uint8(values) if pixels.dtype == np.uint8 else values
    return result


def _restrict(weights: sparse.csr_array, start: int, stop: int) -> sparse.csr_array:
    """The same rows over the source pixels that they use."""
    return sparse.csr_array(
        (weights.data, weights.indices - start, weights.indptr), (weights.shape[0], stop - start), copy=False
    )


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded, and clipped where a kernel overshoots."""
    return cv2.convertScaleAbs(np.maximum(values, 0, out=values))


def shrink_whole(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each `factor` x `factor` block; the size must be a multiple of the factor."""
    height, width = pixels.shape[:2]
    return cv2.resize(pixels, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
