"""What a person can be asked about one result: its sections and its regions, as the model left them in the folder.

Subjects are named "section:<id>", by the id in `result.json`, and "region:<number>", by the place (from 1) among the
polygons of the model's classes in `annotations.geojson`; hulls, boxes of sections and uncertain areas are not counted.
What a reviewer draws is "drawn:<uuid>" and lives in `digipath.review.decisions`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from digipath.errors import ResultError
from digipath.io.geojson import read_geojson
from digipath.result_folder import read_info

__all__ = ["Asked", "Subject", "ask", "signature"]

_FILES = ("result.json", "annotations.geojson")


@dataclass(frozen=True, eq=False)
class Subject:
    """One thing that the model said something of.

    Attributes:
        id: "section:<id>" or "region:<number>".
        label: What the model calls it.
        geometry: Where it is, in level-0 pixels; of a section its box.
        measurements: What the model's files say of it.
    """

    id: str
    label: str
    geometry: BaseGeometry
    measurements: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """One of section and region."""
        return self.id.partition(":")[0]

    @cached_property
    def place(self) -> str:
        """A hash of where it is: an answer is about this place, and goes stale when the result has another there."""
        return hashlib.sha256(self.kind.encode() + shapely.to_wkb(self.geometry, byte_order=1)).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Asked:
    """Everything that can be asked about one result.

    Attributes:
        subjects: By id, sections first, each kind in the order of the model's files.
        slide: Name and fingerprint of the slide.
        origin: (x, y) in level-0 pixels from where QuPath counts.
        size: (width, height) of the slide in level-0 pixels.
        positive: The class that the result is about, such as "lesion".
    """

    subjects: Mapping[str, Subject]
    slide: Mapping[str, Any]
    origin: tuple[float, float]
    size: tuple[int, int]
    positive: str

    def of_kind(self, kind: str) -> list[Subject]:
        """The sections, or the regions."""
        return [one for one in self.subjects.values() if one.kind == kind]

    def labels(self, kind: str) -> tuple[str, ...]:
        """The labels that are known for a kind: those of the model, and the two classes of sections."""
        known = ("tumour section", "normal section") if kind == "section" else (self.positive,)
        return tuple(dict.fromkeys((*known, *(one.label for one in self.of_kind(kind)))))


def ask(folder: str | Path) -> Asked:
    """What can be asked about the result in a folder; read anew whenever its files have changed.

    Raises:
        ResultError: There is no complete result, or its record is damaged.
        AnnotationError: Its polygons are damaged.
    """
    folder = Path(folder).resolve()
    return _ask(folder, tuple(signature(folder / name) for name in _FILES))


def signature(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=8)
def _ask(folder: Path, _signatures: tuple) -> Asked:
    path = folder / "result.json"
    info = read_info(path)
    try:
        slide, analysis = info["slide"], info.get("analysis") or {}
        classes = list(info["areas"]["classes_mm2"])
        about = {name: slide.get(name) for name in ("name", "fingerprint")}
        sections = [_section(row) for row in (analysis.get("sections") or {}).get("items", ())]
        origin, size = tuple(map(float, slide["origin"])), (int(slide["width"]), int(slide["height"]))
        positive = analysis.get("class") or classes[-1]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ResultError(f"{path} is damaged: {error!r}. Predict the slide again.") from error
    found = [*sections, *_regions(folder / "annotations.geojson", {positive, *classes})]
    return Asked({one.id: one for one in found}, about, origin, size, positive)


def _section(row: Mapping[str, Any]) -> Subject:
    x, y = row["x"], row["y"]
    box = shapely.box(x, y, x + row["width"], y + row["height"])
    numbers = {name: float(row[name]) for name in ("tissue_mm2", "tumour_um2", "largest_um2") if name in row}
    return Subject(f"section:{int(row['section'])}", str(row["class"]), box, numbers)


def _regions(path: Path, classes: set[str]) -> list[Subject]:
    if not path.exists():
        return []
    if not path.is_file():
        raise ResultError(f"{path} is no file. Move it away, and analyse the result again.")
    chosen = [one for one in read_geojson(path) if one.has_area and one.name in classes]
    return [Subject(f"region:{n}", one.name, one.geometry, one.measurements) for n, one in enumerate(chosen, 1)]
