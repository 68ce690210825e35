"""From vertices in a file to annotations: what is odd is mended or left out, and counted in one warning a file."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.errors import AnnotationError
from digipath.geometry.polygons import MAX_COORDINATE, Annotation, repair

__all__ = ["MAX_ANNOTATIONS", "MAX_VERTICES", "UNNAMED", "Shapes", "hex_of", "number", "rgb_of", "warn_of_size"]

MAX_VERTICES = 5_000_000
MAX_ANNOTATIONS = 1_000_000

# The class of an annotation that a file gives none.
UNNAMED = "unnamed"


class Shapes:
    """Collects the annotations of one file, and what had to be done about them."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.annotations: list[Annotation] = []
        self._notes: Counter[str] = Counter()
        self._vertices = 0

    def note(self, what: str) -> None:
        """Count something that the warning will mention."""
        self._notes[what] += 1

    def error(self, message: str) -> AnnotationError:
        """An error that names the file and how far reading came."""
        return AnnotationError(f"{self.path}: after {len(self.annotations)} annotations: {message}")

    def vertices(self, values: Any, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """(n, 2) checked positions, with `offset` added, from a list of (x, y) or (x, y, z)."""
        try:
            points = np.asarray(values, float)
        except (TypeError, ValueError, OverflowError):
            raise self.error("positions are lists of two numbers, and one is not. Export the file again.") from None
        if points.shape == (0,):
            return np.zeros((0, 2))
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise self.error(f"positions are lists of two numbers, got an array of shape {points.shape}.")
        points = points[:, :2] + offset if any(offset) else points[:, :2]
        if not np.abs(points).max() <= MAX_COORDINATE:
            wrong = points[~(np.abs(points).max(1) <= MAX_COORDINATE)][0].tolist()
            raise self.error(f"positions are finite and within {MAX_COORDINATE:.0e} pixels of the origin, got {wrong}.")
        self._vertices += len(points)
        if self._vertices > MAX_VERTICES:
            raise self.error(f"a file has at most {MAX_VERTICES:,} vertices, and this one has more.")
        return points

    def ring(self, points: np.ndarray) -> np.ndarray | None:
        """The points of an outline, or None (and a note) where they enclose nothing."""
        if len(points) > 1 and (points[0] == points[-1]).all():
            points = points[:-1]
        if len(points) < 3:
            self.note("outline of fewer than 3 vertices, left out")
            return None
        return points

    def polygon(self, shell: np.ndarray, holes: Sequence[np.ndarray] = ()) -> BaseGeometry | None:
        """A valid Polygon, or MultiPolygon where it had to be repaired; None (and a note) where it has no area."""
        if (shell := self.ring(shell)) is None:
            return None
        inner = [ring for hole in holes if (ring := self.ring(hole)) is not None]
        return self.valid(shapely.Polygon(shell, inner))

    def valid(self, geometry: BaseGeometry) -> BaseGeometry | None:
        """The same area as a valid geometry, or None (and a note) where there is none."""
        if geometry.is_valid:
            return geometry
        mended = repair(geometry)
        self.note("polygon without an area, left out" if mended is None else "self-crossing polygon, repaired")
        return mended

    def line(self, points: np.ndarray) -> BaseGeometry | None:
        """A LineString, or None (and a note) where there are fewer than 2 points."""
        if len(points) < 2:
            self.note("line of fewer than 2 vertices, left out")
            return None
        return shapely.LineString(points)

    def add(
        self,
        name: str,
        geometry: BaseGeometry | None,
        color: tuple[int, int, int] | None = None,
        measurements: Mapping[str, float | str] | None = None,
    ) -> None:
        """Keep an annotation; a geometry of None, which has been noted, is passed over."""
        if geometry is None:
            return
        if len(self.annotations) >= MAX_ANNOTATIONS:
            raise self.error(f"a file has at most {MAX_ANNOTATIONS:,} annotations, and this one has more.")
        name = "".join(sign if sign.isprintable() else " " for sign in name).strip() or UNNAMED
        self.annotations.append(Annotation(name, geometry, color, measurements or {}))

    def warn(self) -> None:
        """Say in one warning what has been noted."""
        if self._notes:
            notes = "; ".join(f"{count} x {what}" for what, count in self._notes.items())
            warnings.warn(f"{self.path}: {notes}.", stacklevel=3)


def warn_of_size(path: str | os.PathLike, annotations: Sequence[Annotation]) -> None:
    """Say before writing when a file will be larger than what is accepted when it is read."""
    vertices = int(shapely.get_num_coordinates([annotation.geometry for annotation in annotations]).sum())
    if vertices > MAX_VERTICES or len(annotations) > MAX_ANNOTATIONS:
        message = (
            f"{path}: {len(annotations):,} annotations of {vertices:,} vertices are written, more than the "
            f"{MAX_ANNOTATIONS:,} of {MAX_VERTICES:,} that are read. Give polygonize simplify_um= or min_area_mm2=."
        )
        warnings.warn(message, stacklevel=3)


def number(value: float) -> str:
    """The shortest text that reads as exactly this number."""
    return str(int(value)) if value == int(value) else repr(float(value))


def hex_of(color: tuple[int, int, int]) -> str:
    """A color as #RRGGBB."""
    return "#{:02X}{:02X}{:02X}".format(*color)


def rgb_of(packed: int) -> tuple[int, int, int]:
    """(red, green, blue) of a color packed as 0xAARRGGBB, signed or not."""
    return packed >> 16 & 255, packed >> 8 & 255, packed & 255
