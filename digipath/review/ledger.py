"""The file `review.json`: read with suspicion, and only ever added to.

Whoever adds an event holds the operating system's lock on `.review.lock` (the system frees it when a process dies, so
that none is left behind by a crash), reads the file again, adds, writes all of it under a temporary name, forces that
to the disk and renames it. So two browsers, threads or processes cannot lose each other's answers, a file under its
name is whole, and an answer that was told to be saved is on the disk. A list of files, one for each event, would do
without a lock, but could not be handed on as one file.

A file that is damaged, of another slide or of a newer digipath is refused and left as it is.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from digipath.errors import ResultError, SpecError
from digipath.io.strips import replacing
from digipath.review.decisions import Event
from digipath.review.subjects import signature

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

__all__ = ["FORMAT_VERSION", "MAX_BYTES", "MAX_EVENTS", "NAME", "append", "encoded", "read_events"]

NAME = "review.json"

FORMAT_VERSION = 1

MAX_EVENTS = 20_000
"""Events in one file: a slide has some ten sections, and a thousand regions are many."""

MAX_BYTES = 64 * 2**20

_LOCK = ".review.lock"
_WAIT = 10.0
_POLL = 0.02


def read_events(folder: Path, slide: Mapping[str, Any]) -> tuple[Event, ...]:
    """All events of a folder in their order; none where there is no file.

    Args:
        folder: The result's.
        slide: Name and fingerprint, which have to be those of the file.

    Raises:
        ResultError: The file is damaged, too large, of another slide, or from a newer digipath.
    """
    path = folder / NAME
    found = signature(path)
    if not found:
        return ()
    of, events = _parsed(path, found)
    if of != json.dumps(slide, sort_keys=True):
        raise ResultError(
            f"{path} holds the review of another slide, {of[:120]}. Move it to where its result is, or elsewhere."
        )
    return events


@lru_cache(maxsize=8)  # what is in memory takes some ten times as much as on the disk
def _parsed(path: Path, found: tuple[int, ...]) -> tuple[str, tuple[Event, ...]]:
    if found[1] > MAX_BYTES:
        raise _damaged(path, f"it has {found[1] / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}")
    if not path.is_file():  # a pipe, or a device
        raise _damaged(path, "it is no file")
    try:
        document = json.loads(path.read_bytes())
        version, slide, events = (document[name] for name in ("format_version", "slide", "events"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, repr(error)[:200]) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ResultError(
            f"{path} has format {str(version)[:20]}, and this digipath reads up to {FORMAT_VERSION}. "
            "Install a newer digipath."
        )
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise _damaged(path, f"its events are a list of at most {MAX_EVENTS:,}")
    read = []
    for number, value in enumerate(events, 1):
        try:
            read.append(Event.from_json(value))
        except (SpecError, RecursionError) as error:
            raise _damaged(path, f"event {number}: {error}") from error
    if len({event.id for event in read}) < len(read):
        raise _damaged(path, "two of its events have the same id")
    return json.dumps(slide, sort_keys=True), tuple(read)


def _damaged(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{path} is no review as digipath writes it: {why}. It is left as it is; repair it, or move it away."
    )


def append(
    folder: Path,
    slide: Mapping[str, Any],
    make: Callable[[Sequence[Event]], Sequence[Event]],
    *,
    follow: Callable[[Sequence[Event]], None],
) -> tuple[Event, ...]:
    """Add events, and return all of them once they are on the disk.

    Args:
        folder: The result's.
        slide: Name and fingerprint.
        make: The new events, from all that are there at this moment.
        follow: Writes what is made of all events, while nobody else can add any.

    Raises:
        ResultError: The file cannot be read (it is not touched then), or not be written.
    """
    path = folder / NAME
    with _locked(folder):
        before = read_events(folder, slide)
        events = (*before, *make(before))
        if len(events) > MAX_EVENTS:
            raise ResultError(f"{path} holds at most {MAX_EVENTS:,} events, and is full. Move it away to begin anew.")
        content = encoded(slide, events)
        if len(content) > MAX_BYTES:
            raise ResultError(f"{path} has at most {MAX_BYTES // 2**20} MiB, and is full. Draw simpler outlines.")
        try:
            with replacing(path) as unfinished:
                unfinished.write_bytes(content)
            _force(folder)
            follow(events)
        except OSError as error:
            raise ResultError(f"{path} cannot be written, and the answer is not saved: {error}.") from error
        return events


def encoded(slide: Mapping[str, Any], events: Sequence[Event]) -> bytes:
    """The content of a file with these events."""
    document = {"format_version": FORMAT_VERSION, "slide": slide, "events": [one.to_json() for one in events]}
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def _force(folder: Path) -> None:
    """Put the new name on the disk too, where the system can."""
    if fcntl is None:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder's review, against other processes and other threads."""
    try:
        file = os.fdopen(_opened_here(folder / _LOCK), "a+b")
    except OSError as error:
        raise ResultError(f"a review is saved in {folder}, which cannot be written to: {error}.") from error
    with file:
        give_up = time.monotonic() + _WAIT
        while not _taken(file):
            if time.monotonic() > give_up:
                raise ResultError(
                    f"another program has been saving the review in {folder} for {_WAIT:.0f} s; the answer is not "
                    "saved. Give it again."
                )
            time.sleep(_POLL)
        try:
            yield
        finally:
            _free(file)


def _opened_here(path: Path) -> int:
    """Open a file of this folder, or make it, and not what a link of somebody else's leads to."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _taken(file: IO[bytes]) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise ResultError(
            f"the disk of {file.name} knows no locks, so no review can be saved there: {error}."
        ) from error
    return True


def _free(file: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
