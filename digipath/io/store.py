"""Rasters in one HDF5 file, exact: written strip by strip, read where they are looked at.

Each raster is a data set, compressed in chunks, with its frame and channel names as attributes; any HDF5 program reads
it. Masks are HDF5's booleans.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.strips import Bands, replacing

__all__ = ["FORMAT_VERSION", "Store", "StoreWriter", "open_store", "read_rasters", "write_rasters"]

FORMAT_VERSION = 1
_FORMAT = "digipath rasters"
_CHUNK = 256
# The lowest level is as small as the highest within 5 % on heatmaps, and faster; a checksum finds flipped bits.
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


class StoreWriter:
    """Writes rasters strip by strip; memory is one row of chunks a raster, whatever the height.

    Leaving the `with` block checks that every raster is whole and gives the file its name; an exception leaves nothing
    behind.

    Args:
        path: Where the file goes.
        description: Anything that JSON can hold; `Store.description` gives it back.

    Example:
        >>> with StoreWriter("result.h5") as writer:  # doctest: +SKIP
        ...     writer.add("heatmap", frame, channels=("lesion",), dtype=np.float16)
        ...     writer.add("covered", frame, dtype=bool)
        ...     for y, rows, covered in strips:
        ...         writer.write("heatmap", y, rows)
        ...         writer.write("covered", y, covered)
    """

    def __init__(self, path: str | Path, *, description: Mapping | None = None):
        self.path = Path(path)
        self._description = json.dumps(dict(description or {}))
        self._exit = ExitStack()
        self._file: h5py.File | None = None
        self._disk: _Disk | None = None
        self._bands: dict[str, Bands] = {}

    def __enter__(self) -> "StoreWriter":
        with ExitStack() as stack:
            self._disk = stack.enter_context(_Disk(stack.enter_context(replacing(self.path)), "w+b"))
            stack.push(lambda kind, *_: self._disk.tell_error() if kind is None else None)
            self._file = stack.enter_context(h5py.File(self._disk, "w"))
            self._exit = stack.pop_all()
        self._file.attrs.update(format=_FORMAT, format_version=FORMAT_VERSION, description=self._description)
        return self

    def add(
        self, name: str, frame: Frame, *, channels: tuple[str, ...] = (), dtype: np.dtype | type = np.float16
    ) -> None:
        """Begin a raster; its strips follow by `write`."""
        if self._file is None:
            raise SpecError("a store takes rasters inside its `with` block, got one outside of it.")
        if not name or "/" in name or name in self._bands:
            raise SpecError(
                f"each raster of a store has its own name, without a slash, got {name!r} beside {list(self._bands)}."
            )
        shape = (*frame.shape, len(channels)) if channels else frame.shape
        chunk = tuple(min(_CHUNK, side) for side in frame.shape) + shape[2:]
        values = self._file.create_dataset(name, shape, dtype, chunks=chunk, **_STORAGE)
        values.attrs["channels"] = json.dumps(list(channels))
        values.attrs["frame"] = json.dumps(
            [frame.width, frame.height, frame.downsample, frame.mpp, list(frame.slide_size)]
        )
        self._bands[name] = Bands(f"the raster {name!r}", shape, dtype, chunk[0])

    def write(self, name: str, y: int, rows: np.ndarray) -> None:
        """Take the rows from `y` on of a raster: (n, width) or (n, width, channels) of its type."""
        if name not in self._bands:
            raise SpecError(f"the rasters begun by `add` are {list(self._bands)}, got a strip of {name!r}.")
        for top, band in self._bands[name].add(y, rows):
            self._file[name][top : top + len(band)] = band
            self._disk.tell_error()

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            self._exit.__exit__(kind, error, traceback)
        else:
            with self._exit:
                for bands in self._bands.values():
                    bands.finish()
        self._file = None


class _Disk(io.FileIO):
    """A file that keeps to itself that it cannot be written, until it is asked.

    HDF5 that hears of a full disk cannot close its file any more, and some time later ends the whole process.
    """

    error: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        """Write all of it, or nothing from the first error on."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while self.error is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size."""
        try:
            return size if self.error is not None else super().truncate(size)
        except OSError as error:
            self.error = error
            return size

    def tell_error(self) -> None:
        """Raise what was kept back."""
        if self.error is not None:
            raise self.error


@dataclass(frozen=True, eq=False)
class _Values:
    """A data set that is sliced like an array, and says when the file is damaged. Many threads may read."""

    dataset: h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def dtype(self) -> np.dtype:
        return self.dataset.dtype

    @property
    def ndim(self) -> int:
        return len(self.dataset.shape)

    def __len__(self) -> int:
        return self.dataset.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        if not self.dataset:
            raise ResultError("a raster's values are read while its file is open, and it was closed. Open it again.")
        try:
            return self.dataset[key]
        except OSError as error:
            raise _damaged(self.dataset.file.filename, error) from error

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[...], dtype)


class Store(Mapping[str, Raster]):
    """The rasters of a file by name; their values are read where they are sliced, until `close`."""

    def __init__(self, file: h5py.File, rasters: dict[str, Raster], description: dict[str, Any]):
        self._file, self._rasters, self.description = file, rasters, description

    def __getitem__(self, name: str) -> Raster:
        return self._rasters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rasters)

    def __len__(self) -> int:
        return len(self._rasters)

    def close(self) -> None:
        """Let go of the file; rasters not yet read can no longer be."""
        self._file.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_store(path: str | Path) -> Store:
    """Open the rasters of a file; nothing but their names and frames is read yet."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            _check_format(path, file.attrs.get("format"), int(file.attrs.get("format_version", 0)))
            rasters = {name: _raster(file[name]) for name in file}
            description = json.loads(file.attrs["description"])
        except FileNotFoundError as error:
            raise ResultError(f"{path} holds rasters, but does not exist. Predict the slide again.") from error
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise _damaged(path, error) from error
        stack.pop_all()
    return Store(file, rasters, description)


def write_rasters(path: str | Path, rasters: Mapping[str, Raster], *, description: Mapping | None = None) -> None:
    """Write whole rasters, which may themselves be read lazily, to one file."""
    with StoreWriter(path, description=description) as writer:
        for name, raster in rasters.items():
            writer.add(name, raster.frame, channels=raster.channels, dtype=raster.values.dtype)
            for box in raster.frame.rows(_CHUNK):
                writer.write(name, box.y, raster.values[box.y : box.bottom])


def read_rasters(path: str | Path) -> dict[str, Raster]:
    """All rasters of a file, in memory."""
    with open_store(path) as store:
        return {name: Raster(raster.array(), raster.frame, raster.channels) for name, raster in store.items()}


def _check_format(path: str | Path, name: str | None, version: int) -> None:
    if name != _FORMAT:
        raise ResultError(f"{path} is an HDF5 file, but not one of digipath's rasters. Give a result.h5.")
    if version > FORMAT_VERSION:
        raise ResultError(
            f"{path} has format version {version}, and this digipath reads up to {FORMAT_VERSION}. Update digipath."
        )


def _raster(dataset: h5py.Dataset) -> Raster:
    width, height, downsample, mpp, slide_size = json.loads(dataset.attrs["frame"])
    frame = Frame(width, height, downsample, mpp, tuple(slide_size))
    return Raster(_Values(dataset), frame, tuple(json.loads(dataset.attrs["channels"])))


def _damaged(path: str | Path, error: Exception) -> ResultError:
    return ResultError(f"{path} is damaged or not a digipath result: {error}. Predict the slide again.")
