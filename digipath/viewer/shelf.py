"""What may be seen: the slides and results under the files and folders that were given, and nothing beside them."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from digipath.errors import DigipathError, ResolutionError, ResultError, SlideError, SpecError
from digipath.prepared import JOURNAL
from digipath.result_folder import read_info
from digipath.runs.find import SUFFIXES
from digipath.segmentation import Segmentation
from digipath.slides._fingerprint import fingerprint_file
from digipath.slides.slide import Slide, open_slide

__all__ = ["Item", "Shelf", "open_shown", "stamp"]

_DEPTH = 4  # folders below one that was given
_THREADS = 8  # that look at slides for the first time
# In a folder, a plain image is more often a picture than a slide; given by itself it is one.
_WHOLE_SLIDES = frozenset(SUFFIXES) - {".png", ".jpg", ".jpeg", ".jp2"}
_RECORD, _VALUES = "result.json", "result.h5"
_loading = threading.Lock()  # what OpenSlide does not open is often one large picture: one at a time in memory


@dataclass(frozen=True, kw_only=True)
class Item:
    """A slide or a result that may be looked at, as it was found at one moment.

    Attributes:
        id: What names it in a URL: 12 hexadecimal digits, the same as long as it lies where it lies.
        kind: "slide" or "result".
        name: Of the slide's file or of the result's folder.
        path: The file or the folder; of what lies in memory, its name.
        slide_path: The slide of a result, if it may be opened; None where there is only the result's thumbnail.
        status: "slide" (of a slide that can be opened), "running", "ok", "incomplete", "empty" or "broken".
        info: What `result.json` holds; empty for a slide.
        problem: What is wrong, and what to do about it: of a broken item, or why a result has no slide.
        areas: The result's areas in mm2.
        changed: When, in seconds since 1970.
        version: Changes whenever one of its files does.
        mpp: Micrometres per pixel with which the slide has to be opened; None takes the file's own.
        held: A result and perhaps its slide, of what lies in memory.
    """

    id: str
    kind: str
    name: str
    path: Path
    slide_path: Path | None = None
    status: str
    info: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    areas: Mapping[str, Any] = field(default_factory=dict)
    changed: float = 0.0
    version: str = ""
    mpp: float | None = None
    held: tuple[Segmentation, Slide | None] | None = None

    @property
    def has_slide(self) -> bool:
        """Whether there are pixels to zoom into."""
        return self.slide_path is not None or (self.held is not None and self.held[1] is not None)


class Shelf:
    """The slides and results that lie where it was told to look; found anew whenever they are listed.

    Args:
        sources: Slides, result folders, and folders that are searched for both, four folders deep.
        out: Where new results will lie; they may be seen too, and it need not be there yet.
        mpp: Micrometres per pixel of slides whose file says nothing plausible.

    Attributes:
        left_out: Links to slides and folders outside of what was given, as of the last listing; they are not followed.

    Raises:
        SpecError: A source is not there.
    """

    def __init__(self, sources: Sequence[str | Path], *, out: str | Path | None = None, mpp: float | None = None):
        paths = [Path(source).resolve() for source in sources]
        for path in paths:
            if not path.exists():
                raise SpecError(f"what is to be seen is a slide, a result or a folder, and there is no {path}.")
        self.out = None if out is None else Path(out).resolve()
        self._files = [path for path in paths if not path.is_dir()]
        self._folders = [path for path in paths if path.is_dir()] + ([self.out] if self.out else [])
        self.left_out: tuple[Path, ...] = ()
        self._mpp = mpp
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Path]] = {}
        self._slides: dict[int | None, list[Path]] = {}  # by size in bytes
        self._held: dict[str, Item] = {}
        self._kept: dict[tuple[str, Path], tuple[str, Any]] = {}

    def items(self) -> list[Item]:
        """Everything that is there now, by name."""
        places = self._scan()
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda place: self._item(*place), places.values()))
        with self._lock:
            found += self._held.values()
        return sorted(_one_per_series(found, self._kept), key=lambda item: (item.name.casefold(), item.id))

    def get(self, id: str) -> Item:
        """One of them, as it is now.

        Raises:
            SpecError: There is none of that name, or not any more.
        """
        with self._lock:
            if id in self._held:
                return self._held[id]
            place = self._known.get(id)
        if place is None or not place[1].exists() or not self.allows(place[1]):
            place = self._scan().get(id)
        if place is None:
            raise SpecError(
                f"there is nothing to be seen under {id[:20]!r}; it may have been moved. Go back to the list."
            )
        return self._item(*place)

    def allows(self, path: str | Path) -> bool:
        """Whether a file or folder, links followed, is one that was given or lies in one."""
        path = Path(path).resolve()
        return path in self._files or any(path.is_relative_to(folder) for folder in self._folders)

    def hold(self, result: Segmentation, slide: Slide | None = None) -> Item:
        """Let a result in memory be seen, and its slide, which have to stay open."""
        name, info = result.info["slide"]["name"], result.info
        with self._lock:
            id = _id(f"held {len(self._held)} {name}")
            item = Item(
                id=id,
                kind="result",
                name=name,
                path=Path(name),
                status=info["status"],
                info=info,
                areas=info["areas"],
                problem="" if slide else "Its slide was not given, so that only the small picture is shown.",
                version=id,
                held=(result, slide),
            )
            self._held[id] = item
        return item

    def _scan(self) -> dict[str, tuple[str, Path]]:
        """(kind, path) of everything that is there, by id."""
        found = [("slide", path) for path in self._files]
        for folder in self._folders:
            if folder.is_dir():
                found += self._below(folder, _DEPTH)
        inside = [(kind, path) for kind, path in found if self.allows(path)]
        places = {_id(str(path)): (kind, path) for kind, path in inside}
        slides: dict[int | None, list[Path]] = {}
        for kind, path in places.values():
            if kind == "slide":
                slides.setdefault(_size(path), []).append(path)
        with self._lock:
            self._known, self._slides = places, slides
            self.left_out = tuple(path for kind, path in found if not self.allows(path))
        return places

    def _below(self, folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
        if (folder / _RECORD).exists() or (folder / JOURNAL / "journal.json").exists():
            yield "result", folder
            return
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            return  # a folder that may not be listed shows nothing
        for entry in found:
            path = Path(entry.path)
            if entry.is_file() and path.suffix.lower() in _WHOLE_SLIDES:
                yield "slide", path
            elif entry.is_dir() and not self.allows(path):
                yield "folder", path
            elif depth and entry.is_dir():
                yield from self._below(path, depth - 1)

    def _item(self, kind: str, path: Path) -> Item:
        try:
            return self._slide(path) if kind == "slide" else self._result(path)
        except OSError as error:
            return _broken(kind, path, f"It cannot be read: {error.strerror}.")
        except DigipathError as error:
            return _broken(kind, path, str(error))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            return _broken(kind, path, f"{_RECORD} is damaged ({type(error).__name__}: {error}). Predict it again.")

    def _slide(self, path: Path) -> Item:
        version, _ = self._look("probe", path, lambda: _probe(path, self._mpp))
        mpp, problem, _series = self._kept["probe", path][1]
        if problem:
            return replace(_broken("slide", path, problem), version=version)
        return Item(
            id=_id(str(path)),
            kind="slide",
            name=path.name,
            path=path,
            slide_path=path,
            status="slide",
            changed=path.stat().st_mtime,
            version=version,
            mpp=mpp,
        )

    def _result(self, folder: Path) -> Item:
        record, values, journal = folder / _RECORD, folder / _VALUES, folder / JOURNAL / "journal.json"
        running = not record.exists()
        for path in (journal,) if running else (record, values):
            if not self.allows(path):
                raise ResultError(f"{path.name} is a link that leads out of what was given; give {path.resolve()} too.")
        if running:
            _, found = self._look("journal", journal, lambda: {"slide": _identity(journal).get("slide", {})})
            files, status, areas = [journal], "running", {}
        else:
            _, found = self._look("record", record, lambda: read_info(record))
            files, status, areas = [record, values], str(found["status"]), dict(found["areas"])
        slide, problem = self._slide_of(dict(found["slide"]))
        return Item(
            id=_id(str(folder)),
            kind="result",
            name=folder.name,
            path=folder,
            slide_path=slide,
            status=status,
            info=found,
            problem=problem,
            areas=areas,
            changed=files[0].stat().st_mtime,
            version=_joined([stamp(path) for path in ([*files, slide] if slide else files)]),
            mpp=found["slide"].get("mpp"),
        )

    def _slide_of(self, recorded: Mapping[str, Any]) -> tuple[Path | None, str]:
        """The slide of a result: where it was, or wherever a file of the same size and hash lies now."""
        name, fingerprint = recorded.get("name", "its slide"), recorded.get("fingerprint")
        if not fingerprint:
            return None, "It was made of an array, so that only the small picture is shown."
        before = Path(recorded["path"]) if recorded.get("path") else None
        candidates = [before] if before is not None and self.allows(before) else []
        with self._lock:
            candidates += self._slides.get(fingerprint["bytes"], [])
        for path in dict.fromkeys(candidates):
            if _size(path) == fingerprint["bytes"]:
                _, seen = self._look("fingerprint", path, lambda path=path: fingerprint_file(path))
                if seen == fingerprint:
                    return path.resolve(), ""
        place = "the slide or its folder" if before is None else str(before)
        return (
            None,
            f"The slide {name} is not among what was given; give {place} too. Until then its small picture is shown.",
        )

    def _look(self, what: str, path: Path, look) -> tuple[str, Any]:
        """(stamp, what was seen in a file), looked at again only if the file has changed."""
        now = stamp(path)
        kept = self._kept.get((what, path))
        if kept is None or kept[0] != now:
            kept = self._kept[what, path] = now, look()
        return kept


def _probe(path: Path, mpp: float | None) -> tuple[float | None, str, str]:
    """(the mpp to open it with, why it cannot be opened, what files of one slide have in common)."""
    try:
        with open_shown(path) as slide:
            return None, "", slide.properties.get("dicom.SeriesInstanceUID", "")
    except ResolutionError as error:
        return (mpp, "", "") if mpp is not None else (None, str(error), "")
    except SlideError as error:
        return None, str(error), ""


def open_shown(path: Path, *, mpp: float | None = None) -> Slide:
    """Open a slide to be looked at: by OpenSlide, or where it cannot, by whoever can.

    OpenSlide keeps the stored tiles that it decoded last, so that neighbouring tiles of a map, which seldom lie as the
    stored ones do, are quicker than from fastslide, and much quicker on a busy machine (`benchmarks/viewer.py`).
    """
    try:
        return open_slide(path, mpp=mpp, backend="openslide")
    except ResolutionError:
        raise
    except SlideError:
        with _loading:
            return open_slide(path, mpp=mpp)


def _one_per_series(items: list[Item], kept: Mapping) -> list[Item]:
    """Leave out the further files of a DICOM slide that is spread over several."""
    seen, result = set(), []
    for item in items:
        _, (*_, series) = kept.get(("probe", item.path), ("", ("",)))
        if not series or series not in seen:
            result.append(item)
        if series:
            seen.add(series)
    return result


def _identity(journal: Path) -> dict[str, Any]:
    """What a journal is of; empty before it says so."""
    try:
        found = json.loads(journal.read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _broken(kind: str, path: Path, problem: str) -> Item:
    return Item(id=_id(str(path)), kind=kind, name=path.name, path=path, status="broken", problem=problem)


def _id(place: str) -> str:
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def stamp(path: Path) -> str:
    """What changes when a file does: its time, size and place on the disk."""
    found = path.stat()
    return _joined([found.st_mtime_ns, found.st_size, found.st_ino])


def _joined(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
