"""Strips `(y, rows)`, finished rows from top to bottom, on their way into a file."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from digipath.errors import SpecError

__all__ = ["Bands", "replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end, or removed on any exception.

    So a file under its final name is whole, whatever stops the program that writes it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Bands:
    """Contiguous strips of any height in, bands of one height out.

    Args:
        name: What is written, for messages.
        shape: (rows, columns) or (rows, columns, channels) of the whole.
        dtype: Type of every value.
        height: Rows of a band; the last may have fewer.
    """

    def __init__(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type, height: int):
        self.name, self.shape, self.dtype, self.height = name, tuple(shape), np.dtype(dtype), height
        self.rows_received = 0
        self._band = np.zeros((min(height, shape[0]), *shape[1:]), self.dtype)

    def add(self, y: int, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take one strip; yield each band `(y, rows)` that it completes, valid until the next one.

        The strip is checked at once, and taken as the bands are drawn.
        """
        rows = np.asarray(rows)
        self._check(y, rows)
        return self._cut(rows)

    def finish(self) -> None:
        """Refuse to end before the last row."""
        if self.rows_received != self.shape[0]:
            raise SpecError(
                f"{self.name} has {self.shape[0]} rows, and only {self.rows_received} were written. "
                f"Write the strip that starts at row {self.rows_received} and those after it."
            )

    def _check(self, y: int, rows: np.ndarray) -> None:
        if rows.ndim != len(self.shape) or rows.shape[1:] != self.shape[1:]:
            raise SpecError(f"strips of {self.name} have shape (n, {_numbers(self.shape[1:])}), got {rows.shape}.")
        if rows.dtype != self.dtype:
            raise SpecError(f"strips of {self.name} are {self.dtype}, got {rows.dtype}. Convert them before writing.")
        if y != self.rows_received:
            raise SpecError(
                f"strips of {self.name} follow each other without gaps: the next starts at row "
                f"{self.rows_received}, got one that starts at {y}."
            )
        if y + len(rows) > self.shape[0]:
            raise SpecError(f"{self.name} has {self.shape[0]} rows, got a strip of rows {y} to {y + len(rows)}.")

    def _cut(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        taken = 0
        while taken < len(rows):
            inside = self.rows_received % self.height
            count = min(self.height - inside, len(rows) - taken)
            self._band[inside : inside + count] = rows[taken : taken + count]
            taken += count
            self.rows_received += count
            if self.rows_received % self.height == 0 or self.rows_received == self.shape[0]:
                yield self.rows_received - inside - count, self._band[: inside + count]


def _numbers(shape: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in shape)
