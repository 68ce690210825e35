"""Small tables of text: CSV files of other programs, whatever parts their cells."""

import csv
import io
from pathlib import Path

from digipath.errors import ResultError

__all__ = ["read_rows", "read_text", "rows_of"]


def read_text(path: Path, *, what: str, limit: int) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        what: What it is called in an error, such as "a file of stages".
        limit: Bytes that it may have.

    Raises:
        ResultError: It is not there, is no text, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        text = data[:limit].decode("utf-8-sig", "strict" if len(data) <= limit else "ignore")
    except FileNotFoundError:
        raise ResultError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: the file cannot be read as text: {error}.") from error
    if len(data) > limit:
        raise ResultError(f"{path}: {what} has at most {limit // 2**20} MiB; this one has more.")
    return text


def read_rows(path: Path, *, what: str, limit: int) -> list[tuple[int, list[str]]]:
    """(line, cells) of the lines of a file that are not blank; see `read_text` and `rows_of`."""
    return rows_of(read_text(path, what=what, limit=limit), path)


def rows_of(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of the lines of a text that are not blank.

    Cells are parted by commas, semicolons or tabs, whatever the first line has most of.
    """
    head = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ResultError(f"{path}: the file is no table (line {reader.line_num}): {error}.") from error
    return [(line, cells) for line, cells in rows if any(cells)]
