"""The finished strips of a slide on their way: what a killed prediction goes on from.

Each strip is a file of its own, `<y>.npy`, and `journal.json` lists those that are finished, with what the run knew
when it finished the last. Both are written under a temporary name, flushed to the disk and renamed, the strip first:
whatever stops the program, and whenever, the list speaks of whole strips only. Nothing is ever appended to.
"""

import errno
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.inference.engine import Strip
from digipath.inference.sinks import classes_of
from digipath.io.strips import replacing

__all__ = ["FIRST_STAGE", "FORMAT_VERSION", "LIST", "Journal", "identity_in", "stored_dtype"]

FORMAT_VERSION = 1
_FORMAT = "digipath journal"
LIST = "journal.json"
"""The file of a journal that says which strips are finished."""

FIRST_STAGE = "first"
"""Where in a journal that of a cascade's first stage lies."""
_OURS = re.compile(r"\d+\.npy|\.(\d+\.npy|journal\.json)\.[0-9a-f]{12}\.part")
_ABSENT = object()
# What is answered where a folder cannot be flushed: by network disks, by Windows, and where one may enter but not list.
_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES}


class Journal:
    """A folder with the finished strips of one heatmap, from the first row on.

    A folder without `journal.json`, or with one that lists no strip, is begun anew; one that lists strips must be of
    the same heatmap. Files that a killed program left unlisted are deleted; files of others are left alone.

    Args:
        folder: Where the strips lie; made if it is not there.
        identity: What makes the strips what they are, in dicts and lists that JSON can hold: slide, networks, settings.
        frame: The heatmap's.
        channels: The heatmap's classes, then the channels of uncertainty, if there are any.

    Attributes:
        resumed: How many times a run went on from strips that were there, this time included.

    Raises:
        ResultError: The folder holds strips of something else, is damaged, or cannot be written.

    Example:
        >>> journal = Journal(Path("out/.journal"), identity, frame=frame, channels=classes)  # doctest: +SKIP
        >>> for strip in stream(slide, predictor, plan, first_row=journal.first_row):  # doctest: +SKIP
        ...     journal.write(strip, {"patches": tally.patches})
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, frame: Frame, channels: tuple[str, ...]):
        self.folder, self.frame, self.channels = Path(folder), frame, tuple(channels)
        self._identity = _plain({"identity": identity, "frame": asdict(frame), "channels": list(channels)})
        self._dtype = stored_dtype(self.channels)
        self._strips: list[list[int]] = []
        self._state: dict[str, Any] = {}
        self.resumed = 0
        self._open()

    @property
    def first_row(self) -> int:
        """The first row that is not finished; all rows above it are on the disk."""
        return sum(self._strips[-1][:2]) if self._strips else 0

    @property
    def complete(self) -> bool:
        """Whether every row is finished."""
        return self.first_row == self.frame.height

    @property
    def state(self) -> dict[str, Any]:
        """What was kept with the last strip; empty before the first."""
        return _plain(self._state)

    def write(self, strip: Strip, state: dict[str, Any]) -> None:
        """Keep the next strip; when this returns, it survives whatever happens to the program.

        Args:
            strip: Rows from `first_row` on, float32. Probabilities are rounded to float16 here, once and for all, as
                `result.h5` holds them; variances stay float32.
            state: What a run needs to go on after this strip, as JSON can hold it. Replaces the last strip's.
        """
        self._check(strip)
        rows = np.empty(strip.covered.shape, self._dtype)
        classes = self._dtype["heatmap"].shape[0]
        rows["heatmap"], rows["covered"] = strip.values[:, :, :classes], strip.covered
        if "uncertainty" in self._dtype.names:
            rows["uncertainty"] = strip.values[:, :, classes:]
        file = io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        strips = [*self._strips, [strip.y, len(rows), zlib.crc32(file.getbuffer())]]
        with self._telling():
            _keep(self.folder / f"{strip.y}.npy", file.getbuffer())
            self._keep_list(strips, _plain(state))
        self._strips, self._state = strips, _plain(state)

    def strips(self) -> Iterator[Strip]:
        """All finished strips from the first row on, as they were written but for the rounding; one in memory."""
        for y, rows, checksum in self._strips:
            yield self._read(y, rows, checksum)

    def remove(self) -> None:
        """Delete the folder, once the result beside it survives a power cut.

        The list goes first: a removal that is cut short leaves nothing to go on from.
        """
        try:
            _flush(self.folder.parent)
            (self.folder / LIST).unlink(missing_ok=True)
            _flush(self.folder)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise ResultError(
                f"{self.folder} is not needed any more, and cannot be deleted: {_reason(error)}. Delete it yourself."
            ) from error
        self._strips, self._state = [], {}

    def _open(self) -> None:
        with self._telling():
            self.folder.mkdir(parents=True, exist_ok=True)
            _flush(self.folder.parent)
        found = self._read_list()
        if found is not None and found["strips"]:
            self._compare(found)
            self._take(found)
            self.resumed = found["resumed"] + 1
        with self._telling():
            self._tidy()
            self._keep_list(self._strips, self._state)

    def _read_list(self) -> dict[str, Any] | None:
        path = self.folder / LIST
        try:
            found = json.loads(path.read_bytes())
            version = found["format_version"] if found["format"] == _FORMAT else None
            whole = {"strips", "state", "resumed", *self._identity} <= found.keys()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(path, _reason(error)) from error
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ResultError(
                f"{path} has format version {version}, and this digipath reads up to {FORMAT_VERSION}. Update digipath."
            )
        if version != FORMAT_VERSION or not whole:
            raise self._damaged(path, "it is no list of strips")
        return found

    def _compare(self, found: dict[str, Any]) -> None:
        """Refuse to go on from the strips of another slide, network or setting."""
        for name, now in self._identity.items():
            difference = _difference(found[name], now, "" if name == "identity" else name)
            if difference is not None:
                path, before, after = difference
                raise ResultError(
                    f"{self.folder} holds the beginning of another run: {path}: {_told(before)} in the journal, "
                    f"{_told(after)} now. Run with what is in the journal to go on, or delete that folder "
                    "(--overwrite) to begin anew."
                )

    def _take(self, found: dict[str, Any]) -> None:
        """Go on from these strips, having seen that they are whole: better now than when hours have been spent."""
        path = self.folder / LIST
        try:
            strips = [[int(number) for number in strip] for strip in found["strips"]]
            ends = [0, *(y + rows for y, rows, _ in strips)]
            fit = [y for y, _, _ in strips] == ends[:-1] and ends == sorted(set(ends)) and ends[-1] <= self.frame.height
            found["resumed"] + 0
        except (ValueError, TypeError) as error:
            raise self._damaged(path, _reason(error)) from error
        if not fit or not isinstance(found["state"], dict):
            raise self._damaged(path, "its strips do not follow each other")
        for y, _, checksum in strips:
            self._content(y, checksum)
        self._strips, self._state = strips, found["state"]

    def _content(self, y: int, checksum: int) -> bytes:
        """A strip's file, whole and as it was written."""
        path = self.folder / f"{y}.npy"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._damaged(path, _reason(error)) from error
        if zlib.crc32(content) != checksum:
            raise self._damaged(path, "its checksum is another")
        return content

    def _read(self, y: int, rows: int, checksum: int) -> Strip:
        path, content = self.folder / f"{y}.npy", self._content(y, checksum)
        try:
            values = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except ValueError as error:
            raise self._damaged(path, _reason(error)) from error
        if values.shape != (rows, self.frame.width) or values.dtype != self._dtype:
            raise self._damaged(path, f"it holds {values.shape} values of {values.dtype}")
        parts = [values[name].astype(np.float32) for name in self._dtype.names if name != "covered"]
        return Strip(y, np.concatenate(parts, -1), values["covered"].copy())

    def _check(self, strip: Strip) -> None:
        """Refuse what would make the rows on the disk something else than the heatmap's first rows."""
        count, width = len(strip.values), self.frame.width
        shapes = (count, width, len(self.channels)), (count, width)
        if (strip.values.shape, strip.covered.shape) != shapes:
            raise SpecError(
                f"a strip here holds (n, {width}, {len(self.channels)}) values and says where they are covered, "
                f"got {strip.values.shape} and {strip.covered.shape}."
            )
        if strip.values.dtype != np.float32 or strip.covered.dtype != bool:
            raise SpecError(f"a strip is float32 and bool, got {strip.values.dtype} and {strip.covered.dtype}.")
        if strip.y != self.first_row:
            raise SpecError(
                f"strips follow each other without gaps: the next starts at row {self.first_row}, "
                f"got one that starts at {strip.y}."
            )
        if not 0 < count <= self.frame.height - strip.y:
            raise SpecError(f"the heatmap has {self.frame.height} rows, got a strip of {count} from row {strip.y} on.")

    def _keep_list(self, strips: list[list[int]], state: dict[str, Any]) -> None:
        document = {"format": _FORMAT, "format_version": FORMAT_VERSION, **self._identity}
        document |= {"resumed": self.resumed, "strips": strips, "state": state}
        _keep(self.folder / LIST, json.dumps(document).encode())

    def _tidy(self) -> None:
        """Delete what a killed program left: temporary names, and strips that it did not come to list."""
        listed = {f"{strip[0]}.npy" for strip in self._strips}
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in listed:
                path.unlink(missing_ok=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResultError(
                f"{self.folder} keeps the finished strips of a slide, and row {self.first_row} of {self.frame.height} "
                f"cannot be written: {_reason(error)}. The rows above it are kept; mend that, for instance by freeing "
                "space on the disk, and the same call goes on from there."
            ) from error

    def _damaged(self, path: Path, reason: str) -> ResultError:
        return ResultError(
            f"{path} is damaged, so the run that it belongs to cannot be gone on with: {reason}. "
            f"Delete {self.folder} (--overwrite) to begin anew."
        )


def identity_in(folder: Path) -> dict[str, Any]:
    """What a folder's strips are, as `Journal` was told; of a cascade that got no further, those of its first stage.

    Empty where no journal can be gone on with.
    """
    for place in (Path(folder), Path(folder) / FIRST_STAGE):
        with suppress(OSError, ValueError, KeyError, TypeError):  # `Journal` says what is wrong with it
            found = json.loads((place / LIST).read_bytes())
            if found["strips"]:
                return dict(found["identity"])
    return {}


def stored_dtype(channels: tuple[str, ...]) -> np.dtype:
    """What is kept of a pixel."""
    classes = len(classes_of(channels))
    kinds = [("uncertainty", "<f4", (len(channels) - classes,))] if classes < len(channels) else []
    return np.dtype([("heatmap", "<f2", (classes,)), *kinds, ("covered", "?")])


def _keep(path: Path, content: bytes | memoryview) -> None:
    """Put a file in its place, whole, and so that a power cut does not undo it."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _plain(tree: Any) -> Any:
    """The same after a way through JSON: tuples are lists, keys are text."""
    return json.loads(json.dumps(tree))


def _difference(before: Any, now: Any, path: str) -> tuple[str, Any, Any] | None:
    """(path of keys, value before, value now) of the first difference of two trees, in the order of the second."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        parts = [(key, before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        parts = [(index, *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        return None if before == now else (path, before, now)
    found = (_difference(old, new, f"{path}.{key}" if path else str(key)) for key, old, new in parts)
    return next((difference for difference in found if difference is not None), None)


def _told(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
