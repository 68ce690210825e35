"""Values for every pixel of a frame: a tissue mask, a heatmap, labels, an uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame, covering

__all__ = ["Raster"]

_ROWS = 1024  # of a lazy raster, looked at at once


@dataclass(frozen=True)
class Raster:
    """Per-pixel values tied to the frame that they cover.

    Attributes:
        values: (rows, columns) or (rows, columns, channels); a NumPy array, or anything of that shape that is sliced
            like one, such as an HDF5 data set, and so is read only where it is looked at.
        frame: The frame; its (height, width) is the shape of `values`.
        channels: A name for each channel, or none for a single layer.
    """

    values: Any
    frame: Frame
    channels: tuple[str, ...] = ()

    def __post_init__(self):
        if tuple(self.values.shape[:2]) != self.frame.shape:
            raise SpecError(
                f"a raster's values cover its frame of {self.frame.height} rows and {self.frame.width} columns, "
                f"got {self.values.shape[0]} rows and {self.values.shape[1]} columns."
            )
        expected = (len(self.channels),) if self.channels else ()
        if tuple(self.values.shape[2:]) != expected:
            raise SpecError(
                f"a raster with channels {self.channels or 'none'} has values of shape "
                f"{(*self.frame.shape, *expected)}, got {tuple(self.values.shape)}."
            )

    def array(self) -> np.ndarray:
        """All values in memory."""
        return np.asarray(self.values[...])

    def channel(self, name: str) -> "Raster":
        """One channel by name, as a raster of its own."""
        if name not in self.channels:
            raise SpecError(f"the channels are {', '.join(self.channels) or 'none'}, got {name!r}.")
        return Raster(np.asarray(self.values[..., self.channels.index(name)]), self.frame)

    def crop(self, box: Box) -> np.ndarray:
        """The values inside `box`, which is in this raster's frame; pixels outside of the frame are 0."""
        inside = box.intersect(self.frame.box)
        result = np.zeros((box.height, box.width, *self.values.shape[2:]), self.values.dtype)
        if inside.area:
            result[inside.shift(-box.x, -box.y).slices()] = self.values[inside.slices()]
        return result

    def threshold(self, value: float) -> "Raster":
        """A mask of the pixels above `value`."""
        return Raster(self.array() > value, self.frame)

    @property
    def area_mm2(self) -> float:
        """Area of the non-zero pixels of a mask, in mm2."""
        count = sum(np.count_nonzero(self.values[box.y : box.bottom]) for box in self.frame.rows(_ROWS))
        return float(count * self.frame.pixel_mm2)

    def resample(self, frame: Frame) -> "Raster":
        """The same values in another frame of the same slide.

        Masks and labels (boolean or integer) take the value under each new pixel's centre. Other values are averaged
        over the new pixel's area when it is coarser, and interpolated linearly between centres when it is finer.
        """
        if frame.slide_size != self.frame.slide_size:
            raise SpecError(
                f"a raster is resampled to a frame of its own slide of {self.frame.slide_size} level-0 pixels, "
                f"got one of {frame.slide_size}."
            )
        values, scale = self.array(), frame.scale_to(self.frame)
        if values.dtype.kind in "biu":
            return Raster(self.sample(frame.box, frame), frame, self.channels)
        for axis, size in enumerate(frame.shape):
            values = _resample_axis(values, size, scale, axis)
        return Raster(values, frame, self.channels)

    def sample(self, box: Box, frame: Frame) -> np.ndarray:
        """The values under the centres of the pixels of `box`, which lies inside of `frame`."""
        scale = frame.scale_to(self.frame)
        rows = _centres(box.y, box.height, scale, self.frame.height)
        columns = _centres(box.x, box.width, scale, self.frame.width)
        if not box.area:
            return np.zeros((box.height, box.width, *self.values.shape[2:]), self.values.dtype)
        needed = self.values[rows[0] : rows[-1] + 1]
        return needed[(rows - rows[0])[:, None], columns[None, :]]

    @cached_property
    def _integral(self) -> np.ndarray:
        mask = np.ascontiguousarray(self.array() != 0, np.uint8)
        return cv2.integral(mask, sdepth=cv2.CV_32S if mask.size < 2**31 else cv2.CV_64F)

    def coverage(self, boxes: Sequence[Box], frame: Frame) -> np.ndarray:
        """Share of each box's area that is non-zero in this mask.

        Args:
            boxes: Rectangles in `frame`; what lies outside of the slide counts as 0.
            frame: The frame of the boxes, which need not be this raster's.

        Returns:
            (n,) float64 in [0, 1]; exact areas, also where a box cuts through this raster's pixels.
        """
        if not len(boxes):
            return np.zeros(0)
        bounds = np.array([box.bounds for box in boxes], float) * frame.scale_to(self.frame)
        left, top, right, bottom = bounds.T
        total = self._sum_to(right, bottom) - self._sum_to(left, bottom) - self._sum_to(right, top)
        total += self._sum_to(left, top)
        area = (right - left) * (bottom - top)
        return np.clip(np.divide(total, area, out=np.zeros(len(boxes)), where=area > 0), 0, 1)

    def _sum_to(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Area of the mask left of and above each point; the integral image is bilinear within a pixel."""
        table = self._integral
        x, y = np.clip(x, 0, self.frame.width), np.clip(y, 0, self.frame.height)
        column = np.minimum(x.astype(int), self.frame.width - 1)
        row = np.minimum(y.astype(int), self.frame.height - 1)
        dx, dy = x - column, y - row
        upper = table[row, column] * (1 - dx) + table[row, column + 1] * dx
        lower = table[row + 1, column] * (1 - dx) + table[row + 1, column + 1] * dx
        return upper * (1 - dy) + lower * dy

    def bounding_box(self) -> Box:
        """The smallest box, in this raster's frame, that holds every non-zero pixel; empty for an empty mask."""
        mask = self.array() != 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return Box(0, 0, 0, 0)
        return covering(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def _centres(start: int, count: int, scale: float, limit: int) -> np.ndarray:
    """Index of the pixel under the centre of each of `count` pixels that are `scale` times as large."""
    return np.clip(((np.arange(start, start + count) + 0.5) * scale).astype(int), 0, limit - 1)


def _resample_axis(values: np.ndarray, count: int, scale: float, axis: int) -> np.ndarray:
    """Area mean along one axis for scale >= 1, linear interpolation between centres below."""
    values = np.moveaxis(values.astype(np.float32, copy=False), axis, 0)
    if scale < 1:
        position = np.clip((np.arange(count) + 0.5) * scale - 0.5, 0, len(values) - 1)
        index = np.minimum(position.astype(int), max(0, len(values) - 2))
        share = (position - index).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
        upper = values[np.minimum(index + 1, len(values) - 1)]
        result = values[index] * (1 - share) + upper * share
    else:
        edges = np.clip(np.arange(count + 1) * scale, 0, len(values))
        sums = np.concatenate([np.zeros_like(values[:1], float), np.cumsum(values, 0, dtype=float)])
        index = np.minimum(edges.astype(int), len(values) - 1)
        share = (edges - index).reshape(-1, *[1] * (values.ndim - 1))
        at_edges = sums[index] * (1 - share) + sums[index + 1] * share
        width = np.maximum(np.diff(edges), 1e-12).reshape(share[1:].shape)
        result = (np.diff(at_edges, axis=0) / width).astype(np.float32)
    return np.moveaxis(result, 0, axis)
