"""Stages of patients and classes of slides as CAMELYON17's organisers write them: lines `patient,stage`.

One line for each patient, `patient_000.zip,pN1`, and below it one for each of the patient's slides,
`patient_000_node_0.tif,macro` (camelyon17.grand-challenge.org/Evaluation). A table of slides alone with their classes
is read as well. What stages and classes there are is not known here: see `digipath.evaluation.agreement` and
`digipath.analysis.staging`.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from digipath.errors import ResultError
from digipath.io.strips import replacing
from digipath.io.tables import read_rows

__all__ = ["read_stages", "write_stages"]

MAX_BYTES = 64 * 2**20

_NAMES = ("patient", "slide", "name", "image", "file")
_VALUES = ("stage", "class", "slide_class", "label")
_SHOWN = 5


def read_stages(path: str | os.PathLike) -> dict[str, str]:
    """Stage or class by name, in the order of the file, as they are spelt there.

    The first line names the columns: patient, slide, name, image or file, and stage, class, slide_class or label;
    further columns are passed over. Without such a line there are two columns. Commas, semicolons and tabs part them.

    Raises:
        ResultError: The file is missing, too large or no table, a line has no name or value, or a name comes twice;
            the first such lines are told by number.
    """
    path = Path(path)
    rows = read_rows(path, what="a file of stages", limit=MAX_BYTES)
    columns = [cell.lower() for cell in rows[0][1]] if rows else []
    named = [_place(columns, names) for names in (_NAMES, _VALUES)]
    if None not in named:
        rows = rows[1:]
    found, faults = {}, []
    for line, cells in rows:
        pair = _pair(cells, named if None not in named else None)
        if pair is None:
            faults.append(f"line {line}: {','.join(cells)[:60]!r}")
        elif pair[0] in found:
            faults.append(f"line {line}: {pair[0]!r} comes again")
        else:
            found[pair[0]] = pair[1]
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ResultError(
            f"{path}: each line is patient,stage: a name that comes once, such as patient_000.zip or "
            f"patient_000_node_0.tif, and its stage or class. Got {'; '.join(faults[:_SHOWN])}{more}."
        )
    return found


def _place(columns: list[str], names: tuple[str, ...]) -> int | None:
    """Where the one column is that has one of these names."""
    places = [place for place, column in enumerate(columns) if column in names]
    return places[0] if len(places) == 1 else None


def _pair(cells: list[str], places: list[int] | None) -> tuple[str, str] | None:
    if places is None and len(cells) != 2:
        return None
    name, value = (cells[place] if place < len(cells) else "" for place in places or (0, 1))
    return (name, value) if name and value else None


def write_stages(path: str | os.PathLike, stages: Mapping[str, str]) -> None:
    """The file that the organisers read: `patient,stage`, then a line for each name, in the order given.

    Lines end as in their own files, with a carriage return and a line feed. What is written is read back the same.

    Args:
        path: The file; its folder is made.
        stages: Stage or class by name.
    """
    if blank := [name for name, value in stages.items() if not (name.strip() and value.strip())]:
        raise ResultError(
            f"{path}: each name has a stage or class, got none for {', '.join(map(repr, blank[:_SHOWN]))}."
        )
    with replacing(Path(path)) as unfinished, unfinished.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "stage"))
        writer.writerows(stages.items())
