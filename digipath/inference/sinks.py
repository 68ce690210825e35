"""Where the strips of a heatmap go: memory, HDF5, pyramidal TIFF."""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.inference.engine import Strip
from digipath.io.pyramid import PyramidWriter
from digipath.io.store import StoreWriter

__all__ = ["FileSink", "MemorySink", "Sink", "strips_of"]

_ROWS = 512


class Sink(Protocol):
    """Takes every strip of a heatmap, from top to bottom, inside its `with` block."""

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        ...


class MemorySink:
    """Keeps a heatmap in memory, as the same float16 that HDF5 holds.

    Attributes:
        heatmap: Raster of the frame, one channel a class.
        covered: Mask of what the heatmap says something about.
    """

    def __init__(self, frame: Frame, channels: tuple[str, ...]):
        self.heatmap = Raster(np.zeros((*frame.shape, len(channels)), np.float16), frame, channels)
        self.covered = Raster(np.zeros(frame.shape, bool), frame)

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        rows = slice(strip.y, strip.y + len(strip.values))
        self.heatmap.values[rows] = strip.values
        self.covered.values[rows] = strip.covered


class FileSink:
    """Writes a heatmap and what belongs to it into a folder: `result.h5`, exact, and a TIFF for other programs.

    `heatmap.tif` holds the probability of the last class, 0 to 1 as 0 to 255; of three or more classes, each one after
    the first, the background, has a `heatmap.<class>.tif`.

    Args:
        folder: An existing folder.
        frame: The heatmap's.
        channels: The classes.
        rasters: Small rasters that are complete already, such as the tissue, by name.
    """

    def __init__(self, folder: Path, frame: Frame, channels: tuple[str, ...], rasters: dict[str, Raster]):
        self.folder, self.frame, self.channels, self.rasters = folder, frame, channels, rasters
        self._exit = ExitStack()

    def __enter__(self) -> "FileSink":
        with ExitStack() as stack:
            self.store = stack.enter_context(StoreWriter(self.folder / "result.h5"))
            self.store.add("heatmap", self.frame, channels=self.channels, dtype=np.float16)
            self.store.add("covered", self.frame, dtype=bool)
            self.pictures = {
                index: stack.enter_context(PyramidWriter(self.folder / name, self.frame, channels=(channel,)))
                for index, channel, name in heatmap_files(self.channels)
            }
            self._exit = stack.pop_all()
        return self

    def write(self, strip: Strip) -> None:
        """Take the next strip."""
        self.store.write("heatmap", strip.y, strip.values.astype(np.float16))
        self.store.write("covered", strip.y, strip.covered)
        for index, picture in self.pictures.items():
            picture.write(strip.y, np.rint(strip.values[:, :, index] * 255).astype(np.uint8))

    def __exit__(self, *error) -> None:
        with self._exit:
            if error[0] is None:
                for name, raster in self.rasters.items():
                    values = raster.array()
                    self.store.add(name, raster.frame, channels=raster.channels, dtype=values.dtype)
                    self.store.write(name, 0, values)
            else:
                self._exit.pop_all().__exit__(*error)


def heatmap_files(channels: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """(index, class, file name) of the classes that have a TIFF of their own: all but the background."""
    if len(channels) <= 2:
        return [(len(channels) - 1, channels[-1], "heatmap.tif")]
    # A bundle may come from a stranger: no name of a class leads out of the folder, and each makes a file on Windows.
    safe = [re.sub(r"[^\w -]", lambda sign: f"%{ord(sign[0]):02x}", name) for name in channels]
    return [(index, name, f"heatmap.{safe[index]}.tif") for index, name in enumerate(channels) if index]


def strips_of(heatmap: Raster, covered: Raster) -> Iterable[Strip]:
    """A finished heatmap as strips again."""
    for box in heatmap.frame.rows(_ROWS):
        rows = slice(box.y, box.bottom)
        yield Strip(box.y, np.asarray(heatmap.values[rows]), np.asarray(covered.values[rows]))
