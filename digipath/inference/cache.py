"""The user's cache: what took time to make and may be thrown away at any time."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["cache_folder", "fresh", "write_text"]


def cache_folder() -> Path:
    """Folder of digipath's cache; it need not exist.

    The environment variable DIGIPATH_CACHE, else `digipath` in the platform's own place: XDG_CACHE_HOME or ~/.cache,
    ~/Library/Caches on macOS, LOCALAPPDATA on Windows.
    """
    if chosen := os.environ.get("DIGIPATH_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "digipath"


@contextmanager
def fresh(folder: Path, *, usable: Callable[[Path], bool] = Path.is_dir) -> Iterator[Path]:
    """A new folder to fill, which stands under the name `folder` once all of it is on disk, and not before.

    Several processes may make the same entry at once: the first to finish wins, and the others' work is dropped.

    Args:
        folder: The entry.
        usable: Whether an entry that stands there by then is kept; one that is not is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield making
        for path in making.iterdir():
            _sync(path)
        if not folder.is_dir() or not usable(folder):
            _stand(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _stand(making: Path, folder: Path) -> None:
    """Give the finished folder its name; what had it is removed."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-old-", dir=folder.parent) as old:
        with suppress(FileNotFoundError):
            folder.rename(Path(old) / folder.name)
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker by a moment
                raise


def write_text(path: Path, text: str) -> None:
    """Write a small file whole: no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
