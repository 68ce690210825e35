"""Small CSV tables of slides: names with numbers or words, with or without a line of column names."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from digipath.errors import ResultError
from digipath.io.tables import read_rows

__all__ = ["bare", "read_columns", "read_numbers", "said"]

MAX_BYTES = 64 * 2**20

_SHOWN = 5
_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".png", ".jpg", ".jpeg", ".csv")
_YES = ("1", "1.0", "true", "yes", "tumor", "tumour", "positive", "lesion", "tumor section", "tumour section")
_NO = ("0", "0.0", "false", "no", "normal", "negative", "other", "normal section")


def read_columns(
    path: Path, columns: Mapping[str, Sequence[str]], *, words: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns; "line" is each row's line.

    Args:
        path: A CSV file with commas, semicolons or tabs.
        columns: Name to all ways in which the first line may write it. Where that does not name the first of them, all
            columns are taken in this order, and the first line is a row like the others.
        words: What a column holds, by its name and in small letters. Where the first line names several such columns,
            it is the one that holds nothing else.

    Raises:
        ResultError: The file is no table, or a column comes several times.
    """
    rows = read_rows(path, what="a table", limit=MAX_BYTES)
    if not rows:
        raise ResultError(f"{path} is empty. Its lines are {','.join(columns)}.")
    header = [cell.lower() for cell in rows[0][1]]
    places = {name: [i for i, cell in enumerate(header) if cell in ways] for name, ways in columns.items()}
    if next(iter(places.values())):
        rows, words = rows[1:], words or {}
        places = {name: _holding(found, rows, words.get(name)) for name, found in places.items()}
        if twice := [name for name, found in places.items() if len(found) > 1]:
            of = f", that of {', '.join(words[twice[0]])}" if twice[0] in words else ""
            raise ResultError(
                f"{path}: each column comes once, and {twice[0]!r} comes several times: {header}. Keep one{of}."
            )
        order = {name: found[0] for name, found in places.items() if found}
    else:
        order = {name: i for i, name in enumerate(columns)}
    return [
        {name: cells[i] for name, i in order.items() if i < len(cells) and cells[i]} | {"line": str(line)}
        for line, cells in rows
    ]


def _holding(found: list[int], rows: list[tuple[int, list[str]]], words: Sequence[str] | None) -> list[int]:
    """Of several columns the one that holds these words alone; all of them where not exactly one does."""
    if len(found) < 2 or words is None or not rows:
        return found
    fitting = [i for i in found if all(i < len(cells) and cells[i].lower() in words for _, cells in rows)]
    return fitting if len(fitting) == 1 else found


def read_numbers(path: Path, what: str, *, ways: Sequence[str] = (), highest: float = math.inf) -> dict[str, float]:
    """A number for each slide, by its bare name in small letters.

    Args:
        path: Lines `name,number`.
        what: What the numbers are, the name of their column.
        ways: Other names that the column may have.
        highest: They lie between 0 and this.
    """
    rows = read_columns(path, {"name": ("name", "slide", "image", "case", "file", "wsi_id"), what: (what, *ways)})
    result, faults = {}, []
    for row in rows:
        try:
            value = float(row.get(what, ""))
        except ValueError:
            value = math.nan
        name = bare(row.get("name", "")).casefold()
        if not (name and 0 <= value <= highest and value < math.inf) or name in result:
            again = " comes again" if name in result else ""
            faults.append(f"line {row['line']}: {row.get('name', '')!r},{row.get(what, '')}{again}")
        result[name] = value
    if faults:
        most = f"from 0 to {highest:g}" if highest < math.inf else "of at least 0"
        raise ResultError(
            f"{path}: each line is name,{what}: a slide that comes once and a number {most}. Got "
            f"{'; '.join(faults[:_SHOWN])}{f'; and {len(faults) - _SHOWN} more' if len(faults) > _SHOWN else ''}."
        )
    return result


def bare(name: str) -> str:
    """A slide's name without folders, of Windows too, and without a suffix of images.

    Example:
        >>> bare("slides/Tumor_001.TIF"), bare("case.7")
        ('Tumor_001', 'case.7')
    """
    name = re.split(r"[\\/]", name)[-1]
    suffix = next((end for end in _SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def said(row: Mapping[str, str], column: str, *, path: Path) -> bool:
    """Yes or no in a cell; 1.0 and 0.0 are what pandas writes of 1 and 0 in a column with gaps."""
    value = row.get(column, "").lower()
    if value not in (*_YES, *_NO):
        raise ResultError(
            f"{path}, line {row['line']}: {column} says whether there is tumour, one of {', '.join((*_YES, *_NO))}; "
            f"got {row.get(column, '')!r}."
        )
    return value in _YES
