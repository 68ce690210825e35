"""Points on a slide, such as lymphocytes, from CSV files or from annotations of any program.

    x,y                 two columns, with or without a line of names
    probability,x,y     three, as `digipath.io.detections` writes them
    …,x,…,y,…           any columns, where the first line names x and y, and perhaps the probability

Everything is in level-0 pixels.
"""

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import shapely

from digipath.errors import AnnotationError, ResultError, SpecError
from digipath.geometry.detections import MAX_DETECTIONS
from digipath.io.annotations import read_annotations
from digipath.io.documents import head, read_document
from digipath.io.tables import rows_of

__all__ = ["read_points"]

MAX_BYTES = 256 * 2**20

_NAMES = {
    "x": ("x", "x coordinate", "x_coordinate", "x coord"),
    "y": ("y", "y coordinate", "y_coordinate", "y coord"),
    "probability": ("probability", "prob", "confidence", "score", "p"),
}
# Columns of a table without names, by their number.
_UNNAMED = {2: {"x": 0, "y": 1}, 3: {"probability": 0, "x": 1, "y": 2}}
_SHOWN = 5


def read_points(
    path: str | os.PathLike,
    *,
    min_probability: float | None = None,
    names: Collection[str] | None = None,
    origin: tuple[float, float] | None = None,
) -> np.ndarray:
    """The points of a file, (n, 2) float64 x and y in level-0 pixels.

    Whether it is a table or annotations (GeoJSON, ASAP or ImageScope XML, gzip or not) is told by its content. Points
    of a table with probabilities come with the most probable first, all others in the order of the file.

    Args:
        path: The file.
        min_probability: Points below it are left out; only for a table that tells probabilities.
        names: Classes of the annotations whose points are wanted; by default all.
        origin: What a GeoJSON file's positions count from: see `read_annotations`.

    Raises:
        ResultError: A table is damaged, or too large, or without probabilities though `min_probability` is given.
        AnnotationError: The file is missing; annotations are damaged, are not all points, or have none of the names.
    """
    if min_probability is not None and not 0 <= min_probability <= 1:
        raise SpecError(f"min_probability is 0 to 1, got {min_probability}.")
    if head(path, 64).lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1] not in (b"{", b"[", b"<"):
        if names is not None or origin is not None:
            raise SpecError(f"{path} is a table of points, which has no classes and no origin of its own.")
        return _of_table(Path(path), min_probability)
    if min_probability is not None:
        raise ResultError(f"{path}: annotations tell no probabilities. Leave out min_probability, or give a table.")
    return _of_annotations(path, names, origin)


def _of_annotations(
    path: str | os.PathLike, names: Collection[str] | None, origin: tuple[float, float] | None
) -> np.ndarray:
    annotations = read_annotations(path, origin=origin)
    if names is not None:
        known = {one.name for one in annotations}
        if missing := sorted(set(names) - known):
            raise AnnotationError(f"{path}: there is no class {', '.join(missing)}, but {', '.join(sorted(known))}.")
        annotations = [one for one in annotations if one.name in names]
    points = [one.geometry for one in annotations if one.geometry.geom_type in ("Point", "MultiPoint")]
    if others := len(annotations) - len(points):
        raise AnnotationError(
            f"{path}: {others} of {len(annotations)} annotations are outlines or lines, not points. "
            "Export cells as points, or choose the class of the points with names=."
        )
    return _checked(shapely.get_coordinates(points), path)


def _of_table(path: Path, least: float | None) -> np.ndarray:
    rows = _rows(path)
    if not rows:
        return np.zeros((0, 2))
    places = _places(rows[0][1])
    named = places is not None
    if places is None and (places := _UNNAMED.get(len(rows[0][1]))) is None:
        raise ResultError(
            f"{path}: a table of points has the columns x,y or probability,x,y, or a first line that names x and y; "
            f"got {','.join(rows[0][1])[:60]!r}."
        )
    if least is not None and "probability" not in places:
        raise ResultError(f"{path}: the table tells no probabilities. Leave out min_probability.")
    values = _numbers(rows[1:] if named else rows, places, path)
    if "probability" in places:
        values = values[values[:, 2] >= (least or 0.0)]
        values = values[np.argsort(-values[:, 2], kind="stable")]
    return _checked(values[:, :2], path)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of all lines that are not blank."""
    try:
        text = read_document(path, limit=MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultError(f"{path}: the file cannot be read as text: {error}.") from error
    return rows_of(text, path)


def _places(cells: Sequence[str]) -> dict[str, int] | None:
    """Columns of x, y and perhaps the probability, where the first line names them."""
    lower = [cell.lower() for cell in cells]
    found = {name: [i for i, cell in enumerate(lower) if cell in ways] for name, ways in _NAMES.items()}
    places = {name: columns[0] for name, columns in found.items() if len(columns) == 1}
    return places if {"x", "y"} <= places.keys() and all(len(columns) < 2 for columns in found.values()) else None


def _numbers(rows: Sequence[tuple[int, list[str]]], places: dict[str, int], path: Path) -> np.ndarray:
    """(n, 2 or 3) x, y and perhaps the probability."""
    order = [places[name] for name in _NAMES if name in places]
    values, faults = [], []
    for line, cells in rows:
        try:
            numbers = [float(cells[i]) for i in order]
        except (ValueError, IndexError):
            numbers = [math.nan]
        good = all(map(math.isfinite, numbers)) and min(numbers) >= 0 and (len(numbers) < 3 or numbers[2] <= 1)
        if good:
            values.append(numbers)
        else:
            faults.append(f"line {line}: {','.join(cells)[:60]!r}")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ResultError(
            f"{path}: a point is a place in level-0 pixels, not negative, and its probability, where there is one, is "
            f"0 to 1. Got {'; '.join(faults[:_SHOWN])}{more}."
        )
    return np.array(values, float).reshape(-1, len(order))


def _checked(points: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    if len(points) > MAX_DETECTIONS:
        raise ResultError(f"{path}: a slide has at most {MAX_DETECTIONS:,} points, got {len(points):,}.")
    return points
