"""A raster at the size of a picture, when it need not fit into memory at its own."""

from dataclasses import dataclass

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

__all__ = ["Condensed", "condense"]

_STRIP = 256  # rows read at a time, the height of the chunks that results are stored in


@dataclass(frozen=True)
class Condensed:
    """What the pixels of a frame hold of a raster's pixels; (rows, columns) float32 each.

    Attributes:
        mean: Mean over the part of a pixel that the mask holds; 0 where it holds none. Finer than the raster, values
            are interpolated between its pixels' centres.
        share: Share of a pixel that the mask holds, 0-1; exactly 0 where it touches none of it.
        peak: The largest value that a pixel touches; minus infinity where the mask holds none.
    """

    mean: np.ndarray
    share: np.ndarray
    peak: np.ndarray


def condense(raster: Raster, frame: Frame, *, mask: Raster | None = None) -> Condensed:
    """Bring a single layer to another frame of its slide, reading strips of it and keeping only what is needed.

    Whole blocks are reduced as they are read; the rest, at most twice the result in width and height, is resampled. So
    memory is a strip and a few times the result, where `Raster.resample` holds all values at once. What lies beside a
    pixel in a block that it cuts counts in part: by less than one pixel of `frame`, nothing is shifted.

    Args:
        raster: Numbers or a mask; lazy ones are read from top to bottom, once.
        frame: Where to; coarser or finer.
        mask: Which of the raster's pixels count, in its frame; without it, all.

    Raises:
        SpecError: The frames are of different slides, or the mask is in another frame than the raster.
    """
    source = raster.frame
    if source.slide_size != frame.slide_size or (mask and mask.frame != source):
        raise SpecError(
            f"a raster is condensed in frames of its own slide of {source.slide_size} level-0 pixels, under a mask of "
            f"its own shape {source.shape}; got a slide of {frame.slide_size}, a mask of {mask and mask.frame.shape}."
        )
    factor = max(1, int(frame.downsample / source.downsample + 1e-6))
    blocks = source.coarser(factor)
    sums, share = np.zeros(blocks.shape, np.float32), np.zeros(blocks.shape, np.float32)
    peak = np.full(blocks.shape, -np.inf, np.float32)
    for box in blocks.rows(max(1, _STRIP // factor)):
        rows, target = slice(box.y * factor, min(box.bottom * factor, source.height)), slice(box.y, box.bottom)
        seen = np.asarray(mask.values[rows]) != 0 if mask else np.ones((rows.stop - rows.start, source.width), bool)
        if seen.any():
            values = np.asarray(raster.values[rows]).astype(np.float32, copy=False)
            sums[target], share[target], peak[target] = _blocks(values, seen, factor)
    sums, share = (Raster(values, blocks).resample(frame).array() for values in (sums, share))
    peak = _touched(peak, frame, frame.scale_to(blocks))
    share[np.isneginf(peak)] = 0  # interpolation reaches half a pixel beyond the mask
    mean = np.divide(sums, share, out=np.zeros_like(sums), where=share > 1e-6)
    return Condensed(np.minimum(mean, peak.max(), where=share > 0, out=mean), share, peak)  # less what rounding adds


def _blocks(values: np.ndarray, seen: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of blocks: sum by area, share and maximum of what is seen. Those over the border repeat the last pixel."""
    if factor == 1:
        return (
            np.where(seen, values, np.float32(0)),
            seen.astype(np.float32),
            np.where(seen, values, np.float32(-np.inf)),
        )
    over = [(0, -side % factor) for side in values.shape]
    values, seen = np.pad(values, over, "edge"), np.pad(seen, over, "edge")
    sums = _each_block(np.add, np.where(seen, values, np.float32(0)), factor) / np.float32(factor**2)
    share = _each_block(np.add, seen.astype(np.float32), factor) / np.float32(factor**2)
    return sums, share, _each_block(np.maximum, np.where(seen, values, np.float32(-np.inf)), factor)


def _each_block(reduce: np.ufunc, values: np.ndarray, factor: int) -> np.ndarray:
    # Rows first: long runs of neighbours go fast, and leave little for the short sums along columns.
    rows = reduce.reduce(values.reshape(-1, factor, values.shape[1]), axis=1)
    return reduce.reduce(rows.reshape(len(rows), -1, factor), axis=2)


def _touched(values: np.ndarray, frame: Frame, scale: float) -> np.ndarray:
    """The largest of the values that each pixel of `frame` touches; a pixel is `scale`, below 2, of them wide."""
    for axis, size in enumerate(frame.shape):
        edges = np.arange(size + 1) * scale
        limit = values.shape[axis] - 1
        first = np.minimum((edges[:-1] + 1e-6).astype(int), limit)
        last = np.clip(np.ceil(edges[1:] - 1e-6).astype(int) - 1, first, limit)
        near, between, far = (values.take(index, axis) for index in (first, np.minimum(first + 1, last), last))
        values = np.maximum(np.maximum(near, between), far)
    return values
