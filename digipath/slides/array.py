"""An array as a slide: for plain images, for pixels that are made in memory, and for tests."""

import math
from pathlib import Path

import cv2
import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.slides._levels import Opening, levels_of
from digipath.slides._openslide import flatten
from digipath.slides._pyramid import PyramidSlide

__all__ = ["ArraySlide"]


class ArraySlide(PyramidSlide):
    """A slide of one level whose pixels are an array; the array is not copied.

    Args:
        array: (rows, columns, 3) RGB, (rows, columns, 4) RGBA or (rows, columns) grey in uint8; or RGB in floating
            point within [0, 1], which reads give back as float32. Memory maps are read where they are looked at.
        mpp: Micrometres per pixel.
        name: What the slide is called in results.
        path: The file that the array came from, if any.

    Example:
        >>> slide = ArraySlide(np.full((40, 60, 3), 200, np.uint8), mpp=0.5)
        >>> slide.read(Box(0, 0, 4, 3), slide.frame.at(1.0)).shape
        (3, 4, 3)
    """

    def __init__(self, array: np.ndarray, *, mpp: float, name: str = "array", path: Path | None = None):
        if not (math.isfinite(mpp) and mpp > 0):
            raise SpecError(f"mpp is a finite number of micrometres per pixel above 0, got {mpp}.")
        path = None if path is None else Path(path)
        super().__init__(ArraySource(array), Opening(mpp=float(mpp), mpp_source="user", path=path, name=name))

    @classmethod
    def opened(cls, source: "ArraySource", opening: Opening) -> "ArraySlide":
        """A slide of an image file."""
        slide = cls.__new__(cls)
        PyramidSlide.__init__(slide, source, opening)
        return slide

    def __reduce__(self):
        if self._opening.reopen is not None:
            return self._opening.reopen
        return _restore, (np.asarray(self._source.array), self.frame.mpp, self.name, self.path)


def _restore(array: np.ndarray, mpp: float, name: str, path: Path | None) -> ArraySlide:
    return ArraySlide(array, mpp=mpp, name=name, path=path)


class ArraySource:
    """An array's pixels as the only level of a pyramid."""

    def __init__(self, array: np.ndarray, *, backend: str = "array", properties: dict[str, str] | None = None):
        shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
        pixels = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        if not pixels or min(shape[:2]) < 1 or not (dtype == np.uint8 or dtype.kind == "f"):
            raise SpecError(
                "an array as a slide is (rows, columns, 3) RGB, (rows, columns, 4) RGBA or (rows, columns) grey, "
                f"uint8, got {dtype} of shape {shape}."
            )
        if dtype.kind == "f":
            _check_range(array)
        self.array, self.backend, self.properties = array, backend, properties or {}
        self.dtype = np.dtype(np.uint8 if dtype == np.uint8 else np.float32)
        self.levels = levels_of([(shape[1], shape[0])])

    def read_level(self, index: int, box: Box) -> np.ndarray:  # noqa: ARG002 - there is one level
        """(rows, columns, 3) of a box, as a copy."""
        region = np.array(self.array[box.slices()], self.dtype, order="C")
        if region.ndim == 2:
            return cv2.cvtColor(region, cv2.COLOR_GRAY2RGB)
        return flatten(region) if region.shape[2] == 4 else region

    def close(self) -> None:
        """Nothing is held but the array."""


def _check_range(array: np.ndarray) -> None:
    if array.ndim != 3 or array.shape[2] != 3:
        raise SpecError(f"an array of floating point is RGB, (rows, columns, 3), got shape {array.shape}.")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise SpecError(
            f"an array of floating point lies within [0, 1], got {low:.4g} to {high:.4g}. For 0 to 255, use uint8."
        )
