"""What may be seen: the slides and results under the files and folders that were given, and nothing beside them."""

import hashlib
import math
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from digipath.errors import DigipathError, ResolutionError, ResultError, SlideError, SpecError
from digipath.prepared import JOURNAL
from digipath.runs.find import SUFFIXES
from digipath.segmentation import Segmentation
from digipath.slides._fingerprint import fingerprint_file
from digipath.slides.slide import Slide, open_slide
from digipath.viewer import records
from digipath.viewer.records import JOURNALS, RECORD, VALUES

__all__ = ["Item", "Shelf", "open_shown", "stamp"]

_DEPTH = 4  # folders below one that was given
_THREADS = 8  # that look at slides for the first time
# In a folder, a plain image is more often a picture than a slide; given by itself it is one.
_WHOLE_SLIDES = frozenset(SUFFIXES) - {".png", ".jpg", ".jpeg", ".jp2"}
_READ = ("annotations.geojson", "review.json", "review.geojson")  # of a result's folder, beside its record
_PULSE = 5.0  # seconds from one version of what is on its way to the next: each is reduced anew
_LOOKS = 20_000  # that are kept
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
        return self._inside(Path(path)) is not None

    def _inside(self, path: Path) -> Path | None:
        """Where it is, links followed; None if that may not be seen."""
        path = path.resolve()
        known = path in self._files or any(folder == path or folder in path.parents for folder in self._folders)
        return path if known else None

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
        found = [("slide", path) for path in self._files if self.allows(path)]
        for folder in self._folders:
            if folder.is_dir() and self.allows(folder):
                found += self._below(folder, _DEPTH)
        places = {_id(str(path)): (kind, path) for kind, path in found if kind}
        slides: dict[int | None, list[Path]] = {}
        for kind, path in places.values():
            if kind == "slide":
                slides.setdefault(_size(path), []).append(path)
        with self._lock:
            self._known, self._slides = places, slides
            self.left_out = tuple(path for kind, path in found if not kind)
            if len(self._kept) > _LOOKS + 4 * len(places):  # mostly of what is there no more
                self._kept.clear()
        return places

    def _below(self, folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
        """(kind, path) of what lies in a folder that may be looked into; no kind for links that lead out."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return  # a folder that may not be listed shows nothing
        names = {entry.name for entry in found}
        if names & {RECORD, VALUES} or (JOURNAL in names and records.is_begun(folder)):
            yield "result", folder
            return
        for entry in found:
            kind, path = _kind_of(entry), Path(entry.path)
            if kind and entry.is_symlink() and not self.allows(path):
                yield "", path
            elif kind == "slide":
                yield "slide", path
            elif kind and depth:
                yield from self._below(path, depth - 1)

    def _item(self, kind: str, path: Path) -> Item:
        try:
            return self._slide(path) if kind == "slide" else self._result(path)
        except OSError as error:
            return _broken(kind, path, f"It cannot be read: {error.strerror}.")
        except DigipathError as error:
            return _broken(kind, path, str(error))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            return _broken(kind, path, f"{RECORD} is damaged ({type(error).__name__}: {error}). Predict it again.")

    def _slide(self, path: Path) -> Item:
        if not path.is_file():
            return _broken("slide", path, "It is no file.")
        version, (mpp, problem, _series) = self._look("probe", path, lambda: _probe(path, self._mpp))
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
        names = [name for name in (RECORD, VALUES, *_READ) if self._has(folder, name)]
        if RECORD in names:
            found = self._look("record", folder / RECORD, lambda: records.record(folder / RECORD))[1]
            files, status = [folder / RECORD, folder / VALUES], str(found["status"])
        else:
            files, status = [folder / name for name in JOURNALS if self._has(folder, name)], "running"
            if not files:
                raise ResultError(f"{folder} holds no complete result: there is no {RECORD}. Predict the slide again.")
            found = self._look("journal", files[-1], lambda: records.begun(files[-1]))[1]
        slide, problem = self._slide_of(found["slide"])
        version = _joined([stamp(path) for path in ([*files, slide] if slide else files)])
        return Item(
            id=_id(str(folder)),
            kind="result",
            name=folder.name,
            path=folder,
            slide_path=slide,
            status=status,
            info=found,
            problem=problem,
            areas=dict(found.get("areas", {})),
            changed=max(path.stat().st_mtime for path in files),
            version=self._slowly(folder, version) if status == "running" else version,
            mpp=found["slide"].get("mpp"),
        )

    def _has(self, folder: Path, name: str) -> bool:
        """Whether a folder that may be looked into has such a file, and not a link that leads out, or a pipe."""
        path = folder / name
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if (stat.S_ISLNK(found.st_mode) or "/" in name) and not self.allows(path):
            raise ResultError(f"{path.name} is a link that leads out of what was given; give {path.resolve()} too.")
        if not path.is_file():
            raise ResultError(f"{path} is no file. Move it away, or predict the slide again.")
        return True

    def _slowly(self, folder: Path, version: str) -> str:
        """The version of what is on its way, or for a few seconds the last one."""
        now, (before, since) = time.monotonic(), self._kept.get(("version", folder), ("", -math.inf))
        if version == before or now - since < _PULSE:
            return before
        self._kept["version", folder] = version, now
        return version

    def _slide_of(self, recorded: Mapping[str, Any]) -> tuple[Path | None, str]:
        """The slide of a result: where it was, or wherever a file of the same size and hash lies now."""
        name, fingerprint = recorded.get("name", "its slide"), recorded.get("fingerprint")
        if not fingerprint:
            return None, "It was made of an array, so that only the small picture is shown."
        before = Path(recorded["path"]) if recorded.get("path") else None
        own = None if before is None else self._inside(before)
        candidates = [own] if own is not None else []
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
            f"Its slide ({name}) is not among what was given; give {place} too. Until then its small picture is shown.",
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


def _kind_of(entry: os.DirEntry) -> str:
    """Whether it is a "slide" or a "folder", links followed; empty for anything else, and what is hidden."""
    try:
        if entry.name.startswith("."):
            return ""
        if entry.is_file():
            return "slide" if Path(entry.name).suffix.lower() in _WHOLE_SLIDES else ""
        return "folder" if entry.is_dir() else ""
    except OSError:  # such as a link to itself
        return ""


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
    """Bytes of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
