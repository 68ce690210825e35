"""Where the strips of a heatmap go: memory, HDF5, pyramidal TIFF.

A strip holds the probability of each class, then, where it was asked for, the variances of `UNCERTAINTY`. Probabilities
are float16 from here on, whatever way they go, so that files made from a stream, from memory or from other files are
the same bytes. Variances stay float32: sums and differences of them are used, and float16 has steps of 1e-4 at 0.25.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.inference.engine import Strip
from digipath.inference.predictor import UNCERTAINTY
from digipath.io.pyramid import PyramidWriter
from digipath.io.store import StoreWriter

__all__ = ["FULL_DEVIATION", "FileSink", "MemorySink", "Sink", "classes_of", "deviation", "strips_of"]

FULL_DEVIATION = 0.5
"""The largest standard deviation of a probability: half of the votes say 0, the others 1."""

_ROWS = 512


class Sink(Protocol):
    """Takes every strip of a heatmap, from top to bottom, inside its `with` block."""

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        ...


def classes_of(channels: tuple[str, ...]) -> tuple[str, ...]:
    """The classes among the channels of a predictor: all but the uncertainties at their end."""
    end = len(channels)
    while end > 1 and channels[end - 1] in UNCERTAINTY:
        end -= 1
    return tuple(channels[:end])


def deviation(variance: np.ndarray) -> np.ndarray:
    """The standard deviation, float32 in 0 to 0.5, of variances of a probability, which rounding may leave below 0."""
    return np.sqrt(np.clip(variance, 0, FULL_DEVIATION**2, dtype=np.float32))


class MemorySink:
    """Keeps a heatmap in memory, as the same numbers that HDF5 holds.

    Args:
        frame: The heatmap's.
        channels: The predictor's: classes, then uncertainties.

    Attributes:
        heatmap: Raster of the frame, one channel a class, float16.
        covered: Mask of what the heatmap says something about.
        uncertainty: Raster of the frame, float32 variances, one channel a kind; None without any.
    """

    def __init__(self, frame: Frame, channels: tuple[str, ...]):
        classes = classes_of(channels)
        kinds = tuple(channels[len(classes) :])
        self.heatmap = Raster(np.zeros((*frame.shape, len(classes)), np.float16), frame, classes)
        self.covered = Raster(np.zeros(frame.shape, bool), frame)
        self.uncertainty = Raster(np.zeros((*frame.shape, len(kinds)), np.float32), frame, kinds) if kinds else None

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        rows, classes = slice(strip.y, strip.y + len(strip.values)), len(self.heatmap.channels)
        self.heatmap.values[rows] = strip.values[..., :classes]
        self.covered.values[rows] = strip.covered
        if self.uncertainty is not None:
            self.uncertainty.values[rows] = strip.values[..., classes:]


class FileSink:
    """Writes a heatmap and what belongs to it into a folder: `result.h5`, exact, and TIFFs for other programs.

    `heatmap.tif` holds the probability of the last class, 0 to 1 as 0 to 255; of three or more classes, each one after
    the first, the background, has a `heatmap.<class>.tif`. `aleatoric.tif` and `epistemic.tif` hold the standard
    deviation of the last class's probability, 0 to 0.5 as 0 to 255, and say so; `result.h5` has the variances.

    Args:
        folder: An existing folder.
        frame: The heatmap's.
        channels: The predictor's: classes, then uncertainties.
        rasters: Small rasters that are complete already, such as the tissue, by name.
    """

    def __init__(self, folder: Path, frame: Frame, channels: tuple[str, ...], rasters: dict[str, Raster]):
        self.folder, self.frame, self.rasters = folder, frame, rasters
        self.classes = classes_of(channels)
        self.kinds = tuple(channels[len(self.classes) :])
        self._exit = ExitStack()

    def __enter__(self) -> "FileSink":
        with ExitStack() as stack:
            self.store = stack.enter_context(StoreWriter(self.folder / "result.h5"))
            self.store.add("heatmap", self.frame, channels=self.classes, dtype=np.float16)
            self.store.add("covered", self.frame, dtype=bool)
            if self.kinds:
                self.store.add("uncertainty", self.frame, channels=self.kinds, dtype=np.float32)
            self.heatmaps = {
                index: stack.enter_context(PyramidWriter(self.folder / name, self.frame, channels=(channel,)))
                for index, channel, name in heatmap_files(self.classes)
            }
            self.deviations = [stack.enter_context(self._deviation(kind)) for kind in self.kinds]
            self._exit = stack.pop_all()
        return self

    def _deviation(self, kind: str) -> PyramidWriter:
        """A picture that says what its grey levels are, also to those who only see the name of its channel."""
        description = {
            "values": f"{kind} standard deviation of the probability of {self.classes[-1]}",
            "value of 0": 0.0,
            "value of 255": FULL_DEVIATION,
        }
        channel = f"{kind} standard deviation, 0-255 is 0-{FULL_DEVIATION:g}"
        return PyramidWriter(self.folder / f"{kind}.tif", self.frame, channels=(channel,), description=description)

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        probability = strip.values[..., : len(self.classes)].astype(np.float16)
        self.store.write("heatmap", strip.y, probability)
        self.store.write("covered", strip.y, strip.covered)
        for index, picture in self.heatmaps.items():
            picture.write(strip.y, _bytes(probability[..., index].astype(np.float32)))
        if self.kinds:
            variance = strip.values[..., len(self.classes) :].astype(np.float32)
            self.store.write("uncertainty", strip.y, variance)
            for index, picture in enumerate(self.deviations):
                picture.write(strip.y, _bytes(deviation(variance[..., index]) / FULL_DEVIATION))

    def __exit__(self, *error) -> None:
        with self._exit:
            if error[0] is None:
                for name, raster in self.rasters.items():
                    values = raster.array()
                    self.store.add(name, raster.frame, channels=raster.channels, dtype=values.dtype)
                    self.store.write(name, 0, values)
            else:
                self._exit.pop_all().__exit__(*error)


def _bytes(values: np.ndarray) -> np.ndarray:
    """0 to 1 as 0 to 255."""
    return np.rint(values * 255).astype(np.uint8)


def heatmap_files(channels: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """(index, class, file name) of the classes that have a TIFF of their own: all but the background."""
    if len(channels) <= 2:
        return [(len(channels) - 1, channels[-1], "heatmap.tif")]
    # A bundle may come from a stranger: no name of a class leads out of the folder, and each makes a file on Windows.
    safe = [re.sub(r"[^\w -]", lambda sign: f"%{ord(sign[0]):02x}", name) for name in channels]
    return [(index, name, f"heatmap.{safe[index]}.tif") for index, name in enumerate(channels) if index]


def strips_of(heatmap: Raster, covered: Raster, uncertainty: Raster | None = None) -> Iterable[Strip]:
    """A finished heatmap as strips again, with its uncertainty behind the classes."""
    parts = [heatmap] if uncertainty is None else [heatmap, uncertainty]
    for box in heatmap.frame.rows(_ROWS):
        rows = slice(box.y, box.bottom)
        values = np.concatenate([np.asarray(part.values[rows], np.float32) for part in parts], -1)
        yield Strip(box.y, values, np.asarray(covered.values[rows]))
