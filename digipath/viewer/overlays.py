"""Outlines over the slide as GeoJSON of the map: regions, sections, uncertain regions and the whole tumour.

A position (x, y) in level-0 pixels is (longitude, latitude) = (x, -y) on the map. Of regions the largest are drawn, and
of very many vertices fewer; both is told beside them.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.geometry.polygons import Annotation
from digipath.io.geojson import read_geojson
from digipath.review.subjects import Subject, ask
from digipath.uncertainty import UNCERTAIN, Uncertainty
from digipath.viewer import colours, measures
from digipath.viewer.desk import Desk
from digipath.viewer.scene import Scene

__all__ = ["LARGEST", "Drawn", "Outline", "Outlines", "collection", "drawn", "flight", "key", "outlines"]

LARGEST = 2000
"""How many regions are drawn."""

_VERTICES = 100_000  # of all that is drawn in one layer: more make a browser wait
_COARSEST = 512.0  # level-0 pixels that a border may be off, if need be

_SECTIONS = {"tumour section": "#d1495b", "normal section": "#3d8f5f"}
_REGION, _DOUBT, _WHOLE, _PLAIN = "#e23d50", "#f59e0b", "#4c6ef5", "#8a8f98"
_TITLES = ("number", "rank", "name")  # which the title tells already
_UNITS = {"um": "µm", "mm": "mm", "um2": "µm²", "mm2": "mm²", "deg": "°", "percent": "%"}
_LISTED = 100  # uncertain regions, as in a result's folder
_AROUND = 0.35  # of its own size, what is seen around a region that is flown to
_LEAST_UM = 120  # of what is seen at least


@dataclass(frozen=True, eq=False)
class Outline:
    """Something on the slide that has a border.

    Attributes:
        subject: What it is called in a review, such as "region:3"; of what is not reviewed, "doubt:1" or "outline:1".
        name: Its class.
        geometry: In level-0 pixels.
        measurements: Numbers and texts.
    """

    subject: str
    name: str
    geometry: BaseGeometry
    measurements: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The last part of its subject."""
        return int(self.subject.rpartition(":")[2])

    @property
    def place(self) -> str:
        """A hash of where it is: what is noted of it does not pass to another one of its number."""
        return hashlib.sha256(shapely.to_wkb(self.geometry, byte_order=1)).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Outlines:
    """All outlines of a result, each kind in the order of its files."""

    regions: tuple[Outline, ...] = ()
    sections: tuple[Outline, ...] = ()
    doubts: tuple[Outline, ...] = ()
    outlines: tuple[Outline, ...] = ()

    def find(self, subject: str) -> Outline | None:
        """The one of that name."""
        every = (*self.regions, *self.sections, *self.doubts, *self.outlines)
        return next((one for one in every if one.subject == subject), None)


def outlines(desk: Desk, scene: Scene) -> Outlines:
    """The outlines of a result; where the answer is withheld, the sections alone and without what was said of them."""
    if not scene.finished:
        return Outlines()
    found = desk.memory.get(("outlines", scene.item.id, scene.version), lambda: _held(scene) or _read(scene))
    if scene.hidden:
        plain = [Outline(one.subject, f"section {one.number}", one.geometry) for one in found.sections]
        return Outlines(sections=tuple(plain))
    return found


def _read(scene: Scene) -> Outlines:
    asked = ask(scene.item.path)
    path, analysis = scene.item.path / "annotations.geojson", scene.item.info.get("analysis") or {}
    more = "uncertain_mm2" in scene.item.areas or {"burden", "tils"} & analysis.keys()
    others = [one for one in read_geojson(path) if one.has_area] if more and path.exists() else []
    return Outlines(
        regions=_named(asked.of_kind("region")),
        sections=_named(asked.of_kind("section")),
        doubts=_numbered("doubt", [one for one in others if one.name == UNCERTAIN]),
        outlines=_numbered("outline", [one for one in others if one.name in ("whole tumour", "tumour bulk")]),
    )


def _held(scene: Scene) -> Outlines | None:
    """Of a result in memory, worked out now; None for one in a folder."""
    if scene.item.held is None:
        return None
    result = scene.item.held[0]
    polygons = [one for name in result.classes[1:] or result.classes for one in result.annotations(name=name)]
    doubts = Uncertainty(result.uncertainty, result.covered).annotations(_LISTED) if result.uncertainty else []
    return Outlines(regions=_numbered("region", polygons), doubts=_numbered("doubt", doubts))


def _named(subjects: Iterable[Subject]) -> tuple[Outline, ...]:
    return tuple(Outline(one.id, one.label, one.geometry, one.measurements) for one in subjects)


def _numbered(kind: str, annotations: Iterable[Annotation]) -> tuple[Outline, ...]:
    return tuple(
        Outline(f"{kind}:{n}", one.name, one.geometry, one.measurements) for n, one in enumerate(annotations, 1)
    )


@dataclass(frozen=True, eq=False)
class Drawn:
    """What of some outlines is drawn.

    Attributes:
        outlines: The largest, largest first: smaller ones lie above, so that each can be pointed at.
        geometries: Theirs, as they are drawn.
        tolerance: In level-0 pixels, how far a drawn border is from the true one at most; 0 where they are the same.
    """

    outlines: Sequence[Outline]
    geometries: np.ndarray
    tolerance: float


def drawn(chosen: Iterable[Outline]) -> Drawn:
    """The largest outlines, with fewer vertices where there are too many for a browser; told, so never silent."""
    ordered = sorted(chosen, key=lambda one: -one.geometry.area)[:LARGEST]
    exact = np.array([one.geometry for one in ordered], object)
    shapes, tolerance = exact, 0.0
    while shapely.get_num_coordinates(shapes).sum() > _VERTICES and tolerance < _COARSEST:
        tolerance = 2 * tolerance or 1.0
        shapes = shapely.simplify(exact, tolerance)
    return Drawn(ordered, shapes, tolerance)


def collection(chosen: Iterable[Outline], classes: Sequence[str] = ()) -> dict[str, Any]:
    """GeoJSON for the map of what is drawn of some outlines.

    Args:
        chosen: The outlines.
        classes: Of the heatmap: regions of several have the colours of their masks.
    """
    found = drawn(chosen)
    features = [_feature(one, shape, classes) for one, shape in zip(found.outlines, found.geometries, strict=True)]
    return {"type": "FeatureCollection", "features": features}


def _feature(one: Outline, shape: BaseGeometry, classes: Sequence[str]) -> dict[str, Any]:
    flipped = shapely.transform(shape, lambda points: points * np.array([1, -1]))
    properties = {"subject": one.subject, "name": one.name, "color": _colour(one, classes), "told": _told(one)}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(flipped), "properties": properties}


def key(layer: str, classes: Sequence[str]) -> dict[str, str]:
    """The CSS colours that outlines of a layer have, by what they stand for.

    Example:
        >>> key("sections", ())
        {'tumour': '#d1495b', 'normal': '#3d8f5f'}
    """
    match layer:
        case "sections":
            return {name.removesuffix(" section"): colour for name, colour in _SECTIONS.items()}
        case "regions":
            sought = classes[:0:-1]
            return {name: _of_class(name, classes) for name in sought} if len(sought) > 1 else {"": _REGION}
    return {"": _DOUBT if layer == "doubts" else _WHOLE}


def _of_class(name: str, classes: Sequence[str]) -> str:
    if len(classes) < 3 or name not in classes:
        return _REGION
    return "#{:02x}{:02x}{:02x}".format(*colours.mask_colour(f"mask-{classes.index(name)}", len(classes)))


def _colour(one: Outline, classes: Sequence[str]) -> str:
    match one.subject.partition(":")[0]:
        case "section":
            return _SECTIONS.get(one.name, _PLAIN)
        case "region":
            return _of_class(one.name, classes)
        case "doubt":
            return _DOUBT
    return _WHOLE


def _told(one: Outline) -> str:
    """What is shown under the pointer: name, and a measurement a line."""
    kind = {"region": "Region", "section": "Section", "doubt": "Uncertain region"}.get(one.subject.partition(":")[0])
    title = f"{kind} {one.number}" if kind else one.name
    lines = [title] if one.name.lower() == title.lower() or not kind else [f"{title}: {one.name}"]
    told = {name: value for name, value in one.measurements.items() if name not in _TITLES}
    return "\n".join([*lines, *(_quantity(name, value) for name, value in told.items())])


def _quantity(name: str, value: float | str) -> str:
    """A measurement with its unit, as it is printed."""
    what, _, unit = name.replace("_", " ").rpartition(" ")
    if isinstance(value, str) or unit not in _UNITS:
        return f"{name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:,.4g}'}"
    if unit == "mm2":
        return f"{what}: {measures.area(value)}"
    space = "" if unit in ("deg", "percent") else " "
    return f"{what}: {value:,.4g}{space}{_UNITS[unit]}"


def flight(scene: Scene, one: Outline) -> dict[str, Any]:
    """Where the map goes to show an outline, with what is around it; for `Output("map", "viewport")`.

    Leaflet then flies to bounds; it has been tried that this moves the map again after it was dragged away.
    """
    left, top, right, bottom = one.geometry.bounds
    least = _LEAST_UM / scene.mpp
    wide = max((right - left) * (1 + 2 * _AROUND), least) / 2
    high = max((bottom - top) * (1 + 2 * _AROUND), least) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return {"bounds": [[-(y + high), x - wide], [-(y - high), x + wide]], "transition": "flyToBounds"}
