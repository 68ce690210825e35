"""Which slides a user means, by files, folders, patterns and tables, and where the result of each goes."""

import glob
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digipath.data import cohort_files
from digipath.errors import CohortError, SlideError, SpecError
from digipath.runs.record import FAILURES, FOLDER, RECORD, SUMMARY
from digipath.runs.task import Task
from digipath.slides.slide import describe

__all__ = ["COLUMNS", "SUFFIXES", "find_slides"]

COLUMNS = ("slide", "name", "mpp", "tissue", "region")
"""Columns of a table of slides; those of a cohort for training may stand there too."""

SUFFIXES = (
    *(".bif", ".czi", ".dcm", ".jp2", ".jpeg", ".jpg", ".mrxs", ".ndpi", ".png", ".qptiff", ".scn", ".svs", ".svslide"),
    *(".tif", ".tiff", ".vms", ".vmu"),
)
"""By which a slide is known in a folder; a file that is named is opened whatever its suffix."""

_TABLES = (".csv", ".tsv")
# Of a run's own files: no slide's result may lie there. Upper and lower case are one on some disks.
_TAKEN = frozenset(name.casefold() for name in (RECORD, SUMMARY, FAILURES, FOLDER))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A slide that was found; `name` and the rest where a table gives them."""

    slide: Path
    name: str | None = None
    mpp: float | None = None
    tissue: Path | None = None
    region: tuple[int, int, int, int] | None = None


def find_slides(
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    mpp: float | None = None,
    tissue: str | Path | None = None,
    region: tuple[int, int, int, int] | None = None,
) -> list[Task]:
    """The slides that are meant, each once, in order.

    Of a DICOM slide that is spread over several files one is taken, and a warning says so.

    Args:
        sources: Slides, folders of slides, patterns such as "*.svs", and CSV files with the columns slide and, where
            need be, name (of the result's folder), mpp, tissue and region ("x,y,width,height"). Paths in a CSV file are
            relative to it.
        out: Folder of the run; each result goes to a folder in it.
        mpp: Of all slides for which no table tells it: see `Task`.
        tissue: Likewise.
        region: Likewise.

    Raises:
        SpecError: Nothing was found, or two slides would have one folder.
        CohortError: Something is wrong in a CSV file; all of it is told at once.
    """
    found = dict.fromkeys(one for source in sources for one in _found(str(source)))  # once each, in order
    found = _one_per_series(list(found))
    names = _names(found, Path(out))
    default = Task(slide=Path(), folder=Path(), mpp=mpp, tissue=None if tissue is None else Path(tissue), region=region)
    return [
        replace(
            default,
            slide=one.slide,
            folder=Path(out) / name,
            **{key: value for key in ("mpp", "tissue", "region") if (value := getattr(one, key)) is not None},
        )
        for one, name in zip(found, names, strict=True)
    ]


def _found(source: str) -> Iterator[_Found]:
    path = Path(source)
    if path.is_dir():
        # macOS leaves files such as "._one.svs" beside the slides of a disk that it has seen.
        seen = (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        matches = sorted(p for p in seen if p.suffix.lower() in SUFFIXES)
        if not matches:
            raise SpecError(f"the folder {source} holds no file with a slide's suffix ({' '.join(SUFFIXES)}).")
    elif path.exists() or not glob.has_magic(source):
        matches = [path]
    else:
        matches = [Path(p) for p in sorted(glob.glob(source))]  # noqa: PTH207 - absolute patterns too
        if not matches:
            raise SpecError(f"no file matches {source}.")
    for match in matches:
        if match.suffix.lower() in _TABLES:
            yield from _read_table(match)
        else:
            yield _Found(slide=match)


def _read_table(path: Path) -> list[_Found]:
    faults: list[str] = []
    found: list[_Found] = []
    lines: dict[str, int] = {}
    ignored = [name for name in cohort_files.COLUMNS if name not in COLUMNS]
    for line, row in cohort_files.read_table(path, columns=COLUMNS, ignored=ignored, faults=faults):
        wrong = cohort_files.common_faults(row) + _faults(row)
        if (name := row.get("name", "").casefold()) in lines:
            wrong.append(f"the name {row['name']!r} is that of line {lines[name]} too.")
        if name:
            lines.setdefault(name, line)
        faults.extend(f"line {line}: {fault}" for fault in wrong)
        if not wrong:
            found.append(_of_row(row, path.parent))
    if faults:
        raise CohortError(cohort_files.listed(f"{path} is no table of slides yet", faults), faults=faults)
    if not found:
        raise CohortError(f"{path} lists no slide: below the line of column names comes a line for each.")
    return found


def _faults(row: dict[str, str]) -> list[str]:
    faults, name = [], row.get("name", "")
    if set(name) & set("/\\") or name.startswith(".") or name.casefold() in _TAKEN or not name.isprintable():
        faults.append(f"name is that of a folder, and not {', '.join(sorted(_TAKEN))}; got {name!r}.")
    if "region" in row and _region(row["region"]) is None:
        faults.append(f'region is four whole numbers "x,y,width,height" of level-0 pixels, got {row["region"]!r}.')
    return faults


def _of_row(row: dict[str, str], folder: Path) -> _Found:
    return _Found(
        slide=folder / row["slide"],
        name=row.get("name"),
        mpp=float(row["mpp"]) if "mpp" in row else None,
        tissue=folder / row["tissue"] if "tissue" in row else None,
        region=_region(row["region"]) if "region" in row else None,
    )


def _region(text: str) -> tuple[int, int, int, int] | None:
    parts = [part for part in re.split(r"[\s,;]+", text.strip("()[] ")) if part]
    return tuple(map(int, parts)) if len(parts) == 4 and all(part.isdecimal() for part in parts) else None


def _one_per_series(found: list[_Found]) -> list[_Found]:
    """Leave out the further files of a DICOM slide that is spread over several."""
    if sum(one.slide.suffix.lower() == ".dcm" for one in found) < 2:
        return found
    seen: dict[str, Path] = {}
    kept = []
    for one in found:
        first = seen.setdefault(_series(one.slide), one.slide)
        if first == one.slide:
            kept.append(one)
        else:
            warnings.warn(f"{one.slide} is of the same slide as {first}", stacklevel=3)
    return kept


def _series(path: Path) -> str:
    """What the files of one slide have in common; a path for what is no readable DICOM file."""
    try:
        return describe(path)["properties"]["dicom.SeriesInstanceUID"] if path.suffix.lower() == ".dcm" else str(path)
    except (SlideError, KeyError):
        return str(path)


_LONGER: tuple[Callable[[Path], str], ...] = (
    lambda path: path.stem,
    lambda path: path.name,
    lambda path: f"{path.resolve().parent.name}_{path.name}",
)


def _names(found: list[_Found], out: Path) -> list[str]:
    """A folder's name for each slide; those that would share one get longer ones, so that none replaces another."""
    steps = [0] * len(found)
    while True:
        names = [one.name or _LONGER[step](one.slide) for one, step in zip(found, steps, strict=True)]
        counts = Counter(name.casefold() for name in names)
        clashing = [n for n, name in enumerate(names) if counts[name.casefold()] > 1 or name.casefold() in _TAKEN]
        if not clashing:
            return names
        open_ones = [n for n in clashing if found[n].name is None and steps[n] + 1 < len(_LONGER)]
        if not open_ones:
            raise SpecError(
                f"two slides would both be written to {out / names[clashing[0]]}; give them names in a CSV file, or "
                "run them one by one, each with its own -o."
            )
        for n in open_ones:
            steps[n] += 1
