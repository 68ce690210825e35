"""Detections as CAMELYON16's organisers read them: lines `probability,x,y` in level-0 pixels, without a header."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

from digipath.errors import ResultError
from digipath.geometry.detections import MAX_DETECTIONS, Detection, detection_array
from digipath.io.strips import replacing
from digipath.io.tables import read_text

__all__ = ["read_detections", "write_detections"]

MAX_BYTES = 128 * 2**20

# The organisers' page names the columns in words; others write a line of names, in one order or another.
_NAMES = {
    "probability": ("probability", "prob", "confidence", "score", "p"),
    "x": ("x", "x coordinate", "x_coordinate", "x coord"),
    "y": ("y", "y coordinate", "y_coordinate", "y coord"),
}
_SHOWN = 5


def read_detections(path: str | os.PathLike) -> list[Detection]:
    """The detections of a CSV file, in its order; none for an empty file.

    A first line of names is allowed, and then says the order of the columns. Blank lines are passed over.

    Raises:
        ResultError: The file is missing or too large, or lines are not three numbers, of which the first is a
            probability and the others are not negative; the first such lines are told by number.
    """
    order, detections, faults = (0, 1, 2), [], []
    text = read_text(Path(path), what="a file of detections", limit=MAX_BYTES)
    for number, line in enumerate(text.splitlines(), 1):
        fields = [part.strip().strip('"') for part in line.split(",")]
        if number == 1 and (named := _order(fields)) is not None:
            order = named
        elif line.strip() and (found := _detection(fields, order)) is not None:
            detections.append(found)
        elif line.strip():
            faults.append(f"line {number}: {line.strip()[:60]!r}")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ResultError(
            f"{path}: each line is probability,x,y: a probability from 0 to 1 and a place in level-0 pixels, not "
            f"negative. Got {'; '.join(faults[:_SHOWN])}{more}."
        )
    if len(detections) > MAX_DETECTIONS:
        raise ResultError(f"{path}: a file has at most {MAX_DETECTIONS:,} detections, got {len(detections):,}.")
    return detections


def _order(fields: list[str]) -> tuple[int, int, int] | None:
    """Columns of probability, x and y where the fields name them."""
    lower = [field.lower() for field in fields]
    places = [[i for i, field in enumerate(lower) if field in names] for names in _NAMES.values()]
    if len(fields) != 3 or any(len(place) != 1 for place in places):
        return None
    probability, x, y = (place[0] for place in places)
    return probability, x, y


def _detection(fields: list[str], order: tuple[int, int, int]) -> Detection | None:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    if len(values) != 3:
        return None
    probability, x, y = (values[i] for i in order)
    return Detection(probability, x, y) if 0 <= probability <= 1 and 0 <= x < math.inf and 0 <= y < math.inf else None


def write_detections(path: str | os.PathLike, detections: Iterable[Detection], *, header: bool = False) -> None:
    """A CSV file that the organisers' program reads.

    Positions are written as the whole pixel that they lie in, for that program reads whole numbers; probabilities are
    read back exactly.

    Args:
        path: The file; its folder is made.
        detections: In level-0 pixels.
        header: Begin with the line probability,x,y, at which the organisers' program fails.
    """
    values = detection_array(detections)
    if (values[:, 1:] < 0).any():
        x, y = values[(values[:, 1:] < 0).any(1)][0, 1:]
        raise ResultError(f"{path}: detections lie on the slide, at positions of at least 0, got ({x:g}, {y:g}).")
    with replacing(Path(path)) as unfinished, unfinished.open("x", encoding="utf-8", newline="\n") as file:
        if header:
            file.write("probability,x,y\n")
        file.writelines(f"{probability!r},{int(x)},{int(y)}\n" for probability, x, y in values.tolist())
