"""Cohorts as files: a CSV table of cases, and folders of images with masks."""

import csv
import io
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digipath.data.case import SPLITS, Case
from digipath.data.classes import nearest
from digipath.errors import CohortError
from digipath.io.strips import replacing

__all__ = [
    "COLUMNS",
    "FolderCases",
    "common_faults",
    "grouped",
    "listed",
    "read_csv",
    "read_folder",
    "read_table",
    "write_csv",
]

COLUMNS = ("name", "slide", "annotations", "mask", "label", "patient", "split", "mpp")
_SHOWN = 50
# EBHI-SEG names its images after the examined specimen: GT2001837-1-400-001 (Shi et al. 2023).
_EBHI = r"(?:^|_)GT(\d+)-"


def listed(what: str, faults: Sequence[str]) -> str:
    """One message of many faults, a line each."""
    shown = [f"  - {fault}" for fault in faults[:_SHOWN]]
    more = [f"  ... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return "\n".join([f"{what}; {len(faults)} fault{'s' * (len(faults) > 1)}:", *shown, *more])


def read_csv(path: str | os.PathLike) -> list[Case]:
    """The cases of a CSV file; see `Cohort.read`."""
    path, faults, cases = Path(path), [], []
    for line, row in read_table(path, columns=COLUMNS, faults=faults):
        found = _row_faults(row)
        faults.extend(f"line {line}: {fault}" for fault in found)
        if not found:
            cases.append(_case(row, path.parent))
    if faults:
        raise CohortError(listed(f"{path} is no cohort yet", faults), faults=faults)
    if not cases:
        raise CohortError(f"{path} lists no case: below the line of column names comes a line for each.")
    return cases


def read_table(
    path: Path, *, columns: Sequence[str], faults: list[str], ignored: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells by column) of a table with a row for each slide; cells that are empty are left out.

    Commas, semicolons and tabs are understood, and UTF-8 with or without a mark; a decimal comma in mpp too, where it
    does not part cells.

    Args:
        path: A CSV file.
        columns: Names that its first line may hold; "slide" is one of them, and it must.
        faults: Gets a line for whatever is wrong in a row; of a row with a fault nothing else may come.
        ignored: Further names that the first line may hold, without their cells.

    Raises:
        CohortError: The file cannot be read, or its first line names no known columns.
    """
    rows, comma = _rows(path)
    names = _columns(path, rows[0][1], (*columns, *ignored))
    for line, cells in rows[1:]:
        if len(cells) > len(names) and any(cells[len(names) :]):
            faults.append(f"line {line}: there are {len(cells)} cells under {len(names)} columns; quote commas.")
            continue
        row = {name: cell for name, cell in zip(names, cells, strict=False) if cell and name not in ignored}
        if comma != "," and "mpp" in row:
            row["mpp"] = row["mpp"].replace(",", ".")
        yield line, row


def common_faults(row: dict[str, str]) -> list[str]:
    """What is wrong with the slide and its mpp in a row of any table of slides."""
    faults = [] if "slide" in row else ["the cell 'slide' is empty."]
    if "mpp" in row:
        try:
            fits = 0 < float(row["mpp"]) < math.inf
        except ValueError:
            fits = False
        if not fits:
            faults.append(f"mpp is a number of micrometres per pixel such as 0.25, got {row['mpp']!r}.")
    return faults


def _rows(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """(line, cells) of all lines that are not blank, and the sign that parts cells."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CohortError(f"there is no cohort file {path}.") from None
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CohortError(f"{path} is not UTF-8 (line {line}). Save it as 'CSV UTF-8'.") from error
    head = next((line for line in text.splitlines() if line.strip()), "")
    comma = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise CohortError(f"{path} is no CSV file (line {reader.line_num}): {error}.") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise CohortError(f"{path} is empty. Its first line names columns: {','.join(COLUMNS)}.")
    return rows, comma


def _columns(path: Path, header: list[str], known: Sequence[str]) -> list[str]:
    while header and not header[-1]:
        header = header[:-1]
    columns = [name.lower() for name in header]
    faults = [
        f"line 1: there is no column {name!r}; they are {', '.join(known)}.{nearest(name.lower(), known)}"
        for name in header
        if name.lower() not in known
    ]
    faults += [f"line 1: the column {name!r} comes twice." for name in known if columns.count(name) > 1]
    if "slide" not in columns:
        faults.append("line 1: the column 'slide' is missing; it names the file of each case.")
    if faults:
        raise CohortError(listed(f"{path} is no cohort yet", faults), faults=faults)
    return columns


def _row_faults(row: dict[str, str]) -> list[str]:
    faults = common_faults(row)
    if "annotations" in row and "mask" in row:
        faults.append("annotations and mask are given; only one can say what the pixels are.")
    if "split" in row and row["split"] not in SPLITS:
        faults.append(f"split is one of {', '.join(SPLITS)}, got {row['split']!r}.{nearest(row['split'], SPLITS)}")
    return faults


def _case(row: dict[str, str], folder: Path) -> Case:
    paths = {name: folder / row[name] for name in ("slide", "annotations", "mask") if name in row}
    texts = {name: row[name] for name in ("name", "label", "patient", "split") if name in row}
    return Case(**paths, **texts, mpp=float(row["mpp"]) if "mpp" in row else None)


def write_csv(path: str | os.PathLike, cases: Sequence[Case]) -> None:
    """Write cases as a CSV file; whole, or not at all."""
    path = Path(path)
    faults = [
        f"case {case.name!r}: its {what} lies in memory; save it as a file and name that."
        for case in cases
        for what in ("slide", "annotations", "mask")
        if not isinstance(getattr(case, what), Path | None)
    ]
    if faults:
        raise CohortError(listed("a CSV file holds paths", faults), faults=faults)
    if not path.parent.is_dir():
        raise CohortError(f"{path}: there is no folder {path.parent} to write to. Make it first.")
    with replacing(path) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in cases:
            writer.writerow([_cell(getattr(case, column), path.parent) for column in COLUMNS])


def _cell(value: str | float | Path | None, folder: Path) -> str:
    if isinstance(value, Path):
        value, folder = value.absolute(), folder.absolute()
        return value.relative_to(folder).as_posix() if value.is_relative_to(folder) else str(value)
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class FolderCases:
    """Images and masks that were found in a folder, each labelled with its class where there are classes."""

    root: Path
    cases: tuple[Case, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the alphabet."""
        return tuple(sorted({case.label for case in self.cases if case.label is not None}))


def grouped(found: FolderCases, *, lesion: Collection[str] | None) -> tuple[list[Case], tuple[str, ...], dict | None]:
    """Cases, classes and groups of a cohort: two classes where `lesion` names those that are, else one for each."""
    if isinstance(lesion, str):
        lesion = (lesion,)
    if not found.classes:
        if lesion is not None:
            raise CohortError(f"{found.root} has no classes, so its masks mark lesions already; leave lesion out.")
        return list(found.cases), ("other", "lesion"), None
    if lesion is None:
        if "other" in found.classes:
            raise CohortError(f"{found.root}: 'other' is what no mask covers; give the class of this name another one.")
        return list(found.cases), ("other", *found.classes), None
    unknown = [name for name in lesion if name not in found.classes]
    if unknown or not lesion:
        raise CohortError(
            f"lesion names some of the classes {', '.join(found.classes)}; got {', '.join(unknown) or 'none'}."
            f"{nearest(unknown[0], found.classes) if unknown else ''}"
        )
    cases = [case if case.label in lesion else replace(case, mask=None) for case in found.cases]
    return cases, ("other", "lesion"), {name: "lesion" if name in lesion else "other" for name in found.classes}


def read_folder(root: str | os.PathLike, *, mpp: float | None, patient: str | None) -> FolderCases:
    """The images of a folder and their masks; see `Cohort.from_folder`."""
    root, faults = Path(root), []
    if not root.is_dir():
        raise CohortError(f"there is no folder {root}.")
    kinds = sorted(each.name for each in root.iterdir() if (each / "image").is_dir() and (each / "label").is_dir())
    if (root / "images").is_dir() and (root / "masks").is_dir():
        index = _index(root / "index.csv", faults) if (root / "index.csv").is_file() else None
        rows = _paired(root / "images", root / "masks", faults, index)
    elif kinds:
        rows = [
            row | {"class": kind, "name": f"{kind}_{row['name']}"}
            for kind in kinds
            for row in _paired(root / kind / "image", root / kind / "label", faults, None)
        ]
    else:
        raise CohortError(
            f"{root} holds either images/ and masks/ (and perhaps index.csv), or a folder for each class with image/ "
            "and label/ in it; it holds neither. For other layouts write a CSV file: Cohort.read."
        )
    if not rows and not faults:
        faults.append("there is no image in it.")
    cases = [_image_case(row, mpp, patient, faults) for row in rows]
    if faults:
        raise CohortError(listed(f"{root} is no cohort yet", faults), faults=faults)
    return FolderCases(root, tuple(cases))


def _paired(images: Path, masks: Path, faults: list[str], index: list[dict] | None) -> list[dict]:
    """A row with name, slide and mask for each image: of those that the index lists, where there is one."""
    slides, labels = _stems(images, faults), _stems(masks, faults)
    listed_rows = [{"name": name} for name in sorted(slides.keys() | labels.keys())] if index is None else index
    rows = []
    for row in listed_rows:
        name = row["name"]
        for found, folder in ((slides, images), (labels, masks)):
            if name not in found:
                faults.append(f"there is no {name}.* in {folder}; an image and its mask have the same stem.")
        if name in slides and name in labels:
            rows.append(row | {"slide": slides[name], "mask": labels[name]})
    return rows


def _stems(folder: Path, faults: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.name == "Thumbs.db":
            continue
        if path.stem in found:
            faults.append(f"{path.name} and {found[path.stem].name} in {folder} have one stem; keep one.")
        found[path.stem] = path
    return found


def _index(path: Path, faults: list[str]) -> list[dict]:
    """The rows of an index: name, and perhaps case, class and split; further columns do not matter."""
    lines, _ = _rows(path)
    columns = [name.lower() for name in lines[0][1]]
    if "name" not in columns:
        raise CohortError(f"{path} has the columns name, case, class and split; got {', '.join(columns)}.")
    rows = []
    for line, cells in lines[1:]:
        row = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
        if "name" not in row:
            faults.append(f"{path.name}, line {line}: the cell 'name' is empty.")
            continue
        if row.get("split", "train") not in SPLITS:
            faults.append(f"{path.name}, line {line}: split is one of {', '.join(SPLITS)}, got {row['split']!r}.")
        rows.append(row)
    return rows


def _image_case(row: dict, mpp: float | None, patient: str | None, faults: list[str]) -> Case:
    match = re.search(_EBHI if patient is None else patient, row["name"])
    if match is None and patient is not None and "case" not in row:
        faults.append(f"patient={patient!r} finds no patient in the name {row['name']!r}.")
    owner = row.get("case") or (match.group(1) if match else "")
    kept = {name: row[name] for name in ("name", "slide", "mask", "split") if name in row}
    return Case(**kept, label=row.get("class"), patient=owner, mpp=mpp)
