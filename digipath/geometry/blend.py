"""Overlapping patches into finished strips.

Every pixel is the sum of weighted values divided by the sum of weights, whatever patches cover it. Rows above the patch
at hand can no longer change, so they are emitted and forgotten: memory is one patch height of the frame's width.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame

__all__ = ["blend", "block_means", "flat", "hann"]


def flat(width: int, height: int) -> np.ndarray:
    """Equal weights: the plain mean of overlapping patches, as in Khened et al. 2021. (height, width) float32."""
    return np.ones((height, width), np.float32)


def hann(width: int, height: int) -> np.ndarray:
    """Weights that fall smoothly towards a patch's border, where a network sees least. (height, width) float32."""
    columns, rows = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (width, height))
    return np.outer(rows, columns).astype(np.float32)


def block_means(values: np.ndarray, factor: int) -> np.ndarray:
    """The means of blocks of `factor` x `factor` values of (n, height, width, channels); the same values for 1."""
    if factor == 1:
        return values
    count, height, width, channels = values.shape
    blocks = values.reshape(count, height // factor, factor, width // factor, factor, channels)
    return blocks.mean((2, 4), dtype=np.float32)


def blend(
    frame: Frame, patches: Iterable[tuple[Box, np.ndarray]], weights: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Blend patches into strips that together hold every row of the frame, from top to bottom.

    Args:
        frame: What the strips cover.
        patches: (box, values) in the order of the boxes' upper edges; values are (height, width, channels), or
            (height, width). Boxes may overhang the frame.
        weights: (height, width) of a patch, above 0; see `flat` and `hann`.

    Yields:
        (y, rows): the index of the first row, and float32 rows (n, frame.width[, channels]). Pixels that no patch
        covers are NaN.

    Raises:
        SpecError: The boxes are not in order.
    """
    band = None
    for box, values in patches:
        if band is None:
            band = _Band(frame, weights, values.shape[2:])
        yield from band.finish(box.y)
        band.add(box, values)
    yield from (band or _Band(frame, weights, ())).finish(frame.height)


class _Band:
    """The rows that can still change."""

    def __init__(self, frame: Frame, weights: np.ndarray, channels: tuple[int, ...]):
        self.frame, self.y = frame, 0
        # One weight a channel, though all are equal: NumPy is slow along a short last axis that it has to repeat.
        column = weights.reshape(*weights.shape, *[1] * len(channels))
        self.weights = np.ascontiguousarray(np.broadcast_to(column, (*weights.shape, *channels)), np.float32)
        # float64: with 90 % overlap a hundred patches add up, and a constant must stay that constant.
        self.sums = np.zeros((len(weights), frame.width, *channels))
        self.totals = np.zeros_like(self.sums)

    def add(self, box: Box, values: np.ndarray):
        if box.y < self.y and self.y > 0:
            raise SpecError(f"patches are blended from top to bottom; one at row {box.y} came after row {self.y}.")
        inside = box.intersect(self.frame.box)
        source = inside.shift(-box.x, -box.y).slices()
        target = inside.shift(0, -self.y).slices()
        self.totals[target] += self.weights[source]
        self.sums[target] += values[source] * self.weights[source]

    def finish(self, y: int) -> Iterator[tuple[int, np.ndarray]]:
        """Emit the rows above `y` and move the band down to it."""
        y = min(y, self.frame.height)
        while self.y < y:
            count = min(y - self.y, len(self.totals))
            sums, totals = self.sums[:count], self.totals[:count]
            rows = np.full(sums.shape, np.nan, np.float32)
            np.divide(sums, totals, out=rows, where=totals > 0, casting="same_kind")
            yield self.y, rows
            for buffer in (self.sums, self.totals):
                buffer[:-count] = buffer[count:].copy()
                buffer[-count:] = 0
            self.y += count
