"""Which file belongs to which slide: by name, of truth and predictions, and whatever has no partner is told.

A name is that of the file without its suffixes and without an ending such as `_mask`; capitals do not matter, for the
challenges' own files differ in them: `Tumor_001.csv` is of `tumor_001_evaluation_mask.png`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from digipath.errors import ResultError

__all__ = ["FAILURES", "KINDS", "Entry", "Found", "chosen", "find", "listing"]

KINDS = {
    "mask": (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg"),
    "outlines": (".xml", ".geojson", ".json"),
    "table": (".csv",),
    "result": (),  # a folder
}

_ENDINGS = ("_evaluation_mask", "_mask", "_truth", "_labels", "_prediction")
# What digipath writes beside results; this folder has a file for each slide that failed.
FAILURES = "failures"
_OURS = ("run.json", "summary.csv", FAILURES)
_SHOWN = 10


@dataclass(frozen=True)
class Entry:
    """One file, or one result folder.

    Attributes:
        name: Of the slide, as it is written there.
        kind: One of `KINDS`.
        path: The file or folder.
    """

    name: str
    kind: str
    path: Path

    @property
    def key(self) -> str:
        """The name by which it is matched."""
        return self.name.casefold()


@dataclass(frozen=True)
class Found:
    """What lies in a folder of truth or predictions.

    Attributes:
        root: The folder.
        entries: In the order of their names.
        tables: Files by their names in small letters, such as "reference.csv", that are about several slides.
        passed_over: Names of files of other kinds.
    """

    root: Path
    entries: tuple[Entry, ...]
    tables: Mapping[str, Path]
    passed_over: tuple[str, ...]

    def by_name(self, *kinds: str) -> dict[str, Entry]:
        """The one entry of each slide, of these kinds.

        Raises:
            ResultError: A slide has several.
        """
        result: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.kind not in kinds:
                continue
            if entry.key in result:
                raise ResultError(
                    f"a slide has one file in {self.root}; {result[entry.key].path.name} and {entry.path.name} are "
                    "both of the same name. Keep one."
                )
            result[entry.key] = entry
        return result


def find(root: Path, *, kinds: Collection[str], tables: Collection[str] = ()) -> Found:
    """What of these kinds lies in a folder, not below it; hidden files and what digipath writes of a run are not seen.

    Args:
        root: The folder.
        kinds: Some of `KINDS`.
        tables: Names of files about several slides.
    """
    root = Path(root)
    if not root.is_dir():
        what = "it is a file" if root.exists() else "there is no such folder"
        raise ResultError(f"{root}: truth and predictions lie in folders, a file for each slide; {what}.")
    entries, found, passed = [], {}, []
    for path in sorted(root.iterdir(), key=lambda path: path.name.casefold()):
        if path.name.startswith(".") or path.name in _OURS:
            continue
        if path.name.lower() in tables:
            found[path.name.lower()] = path
        elif (kind := _kind(path)) in kinds:
            entries.append(Entry(_name(path, kind), kind, path))
        else:
            passed.append(path.name)
    return Found(root, tuple(entries), found, tuple(passed))


def _kind(path: Path) -> str | None:
    if path.is_dir():
        return "result"
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    return next((kind for kind, suffixes in KINDS.items() if suffix.lower() in suffixes), None)


def _name(path: Path, kind: str) -> str:
    if kind == "result":
        return path.name
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    ending = next((ending for ending in _ENDINGS if stem.lower().endswith(ending) and len(stem) > len(ending)), "")
    return stem[: len(stem) - len(ending)]


def chosen(name: str, patterns: Iterable[str]) -> bool:
    """Whether a slide is one of these names or patterns; capitals do not matter."""
    return any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in patterns)


def listing(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
