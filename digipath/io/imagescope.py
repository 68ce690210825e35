"""Annotations as Aperio ImageScope reads and writes them: XML of layers and regions, with negative regions as holes.

QuPath does not read these files; for it, write GeoJSON.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.geometry.polygons import Annotation, cut_out
from digipath.io.documents import read_document, replacing, xml_events
from digipath.io.shapes import Shapes, number, warn_of_size

__all__ = ["read_imagescope", "write_imagescope"]

_OUTLINE, _RECTANGLE, _ELLIPSE, _ARROW, _RULER = "0", "1", "2", "3", "4"
_ELLIPSE_VERTICES = 128


@dataclass
class _Region:
    """One of ImageScope's regions, as an outline, a line or a point."""

    id: str
    kind: str
    points: np.ndarray
    negative: bool
    owner: str
    holes: list[np.ndarray] = field(default_factory=list)


def read_imagescope(path: str | os.PathLike) -> list[Annotation]:
    """The annotations of an ImageScope XML file.

    The class is the name of the layer, or "layer 1" where it has none; the color is the layer's. Outlines, rectangles
    and ellipses (of 128 vertices) become polygons; a ruler, and an arrow with a length, a line; an arrow without, and
    whatever else has one vertex, a point. A negative region that names its region in `InputRegionId` is a hole of that;
    any other is cut out of the larger polygons of its layer.

    Whatever is repaired or left out is counted in one warning.

    Raises:
        AnnotationError: The file is damaged, too large, or something else.
    """
    shapes = Shapes(path)
    layer: Element | None = None
    root = None
    regions: list[_Region] = []
    for event, element in xml_events(read_document(path), path):
        if root is None:
            root = element
            if root.tag != "Annotations":
                raise shapes.error(f"ImageScope's files begin with <Annotations>, this one with <{root.tag}>.")
        elif event == "start" and element.tag == "Annotation":
            layer, regions = element, []
        elif event == "end" and element.tag == "Region":
            regions.append(_region(element, shapes))
            element.clear()
        elif event == "end" and element.tag == "Annotation" and layer is not None:
            _add_layer(layer, regions, shapes)
            element.clear()
    shapes.warn()
    return shapes.annotations


def _region(element: Element, shapes: Shapes) -> _Region:
    points = shapes.vertices([[vertex.get(axis, "nan") for axis in "XY"] for vertex in element.iter("Vertex")])
    kind = element.get("Type", _OUTLINE)
    if kind == _ELLIPSE and len(points):
        points = _ellipse(points)
    elif kind == _RECTANGLE and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    negative = element.get("NegativeROA", "0") not in ("0", "")
    return _Region(element.get("Id", ""), kind, points, negative, element.get("InputRegionId", "0"))


def _ellipse(points: np.ndarray) -> np.ndarray:
    """Vertices on the ellipse that fits in the rectangle round these points."""
    low, high = points.min(0), points.max(0)
    angle = np.arange(_ELLIPSE_VERTICES) * (2 * np.pi / _ELLIPSE_VERTICES)
    return (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)


def _add_layer(layer: Element, regions: Sequence[_Region], shapes: Shapes) -> None:
    name = layer.get("Name") or f"layer {layer.get('Id', '')}".strip()
    color = _color(layer.get("LineColor", ""))
    owners = {region.id: region for region in regions if not region.negative and region.id}
    stray: list[BaseGeometry] = []
    for region in (region for region in regions if region.negative):
        if (owner := owners.get(region.owner)) is not None:
            owner.holes.append(region.points)
        elif (geometry := shapes.polygon(region.points)) is not None:
            stray.append(geometry)
    before = len(shapes.annotations)
    for region in regions:
        if not region.negative:
            shapes.add(name, _geometry(region, shapes), color)
    shapes.annotations[before:] = cut_out(shapes.annotations[before:], stray)


def _geometry(region: _Region, shapes: Shapes) -> BaseGeometry | None:
    points = region.points
    if not len(points):
        shapes.note("region without a vertex, left out")
        return None
    if region.kind in (_OUTLINE, _RECTANGLE, _ELLIPSE):
        return shapes.polygon(points, region.holes)
    if len(points) == 1 or (region.kind == _ARROW and (points == points[0]).all()):
        return shapely.Point(points[0])
    if region.kind not in (_ARROW, _RULER):
        shapes.note(f"region of the unknown type {region.kind}, read as a line")
    return shapes.line(points)


def _color(text: str) -> tuple[int, int, int] | None:
    """ImageScope counts red + 256 green + 65536 blue."""
    if not text.isdecimal() or not int(text) < 1 << 24:
        return None
    packed = int(text)
    return packed & 255, packed >> 8 & 255, packed >> 16


def write_imagescope(path: str | os.PathLike, annotations: Iterable[Annotation], *, mpp: float | None = None) -> None:
    """Write annotations so that ImageScope opens them, and `read_imagescope` gives them back.

    Positions keep their full precision. Annotations of one class and color are a layer; a hole is a negative region
    behind its polygon. A point is written as an arrow without a length and a line as a ruler; several polygons, lines
    or points in one annotation become several, and measurements are not written.

    Args:
        path: The file; gzip where it ends in .gz, which ImageScope does not open.
        annotations: In level-0 pixels.
        mpp: Micrometres per level-0 pixel, for ImageScope to state lengths and areas with.
    """
    annotations = list(annotations)
    warn_of_size(path, annotations)
    layers: dict[tuple, list[Annotation]] = {}
    for annotation in annotations:
        layers.setdefault((annotation.name, annotation.color), []).append(annotation)
    with replacing(path) as file:
        file.write(f"<Annotations{'' if mpp is None else f' MicronsPerPixel={quoteattr(repr(float(mpp)))}'}>\n")
        identity = 0
        for index, ((name, color), members) in enumerate(layers.items(), 1):
            line = "" if color is None else f' LineColor="{color[0] | color[1] << 8 | color[2] << 16}"'
            file.write(
                f'<Annotation Id="{index}" Name={quoteattr(name)} ReadOnly="0" Type="4"{line} Visible="1"><Regions>\n'
            )
            for part in shapely.get_parts([member.geometry for member in members]):
                rings = (part.exterior, *part.interiors) if part.geom_type == "Polygon" else (part,)
                for place, ring in enumerate(rings, 1):
                    owner = identity + 1 if place > 1 else 0
                    file.writelines(_elements(ring, part.geom_type, identity + place, owner))
                identity += len(rings)
            file.write("</Regions></Annotation>\n")
        file.write("</Annotations>\n")


def _elements(ring: BaseGeometry, kind: str, identity: int, owner: int) -> Iterable[str]:
    """The XML of an outline, a line or a point; `owner` is the region that it is a hole of, or 0."""
    points = shapely.get_coordinates(ring)
    if kind == "Polygon":
        points = points[:-1]
    elif kind == "Point":
        points = np.repeat(points, 2, axis=0)
    drawn = {"Polygon": _OUTLINE, "Point": _ARROW}.get(kind, _RULER)
    yield (
        f'<Region Id="{identity}" Type="{drawn}" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" Text="" '
        f'NegativeROA="{int(owner > 0)}" InputRegionId="{owner}" Analyze="1" DisplayId="{identity}"><Vertices>\n'
    )
    for x, y in points.tolist():
        yield f'<Vertex X="{number(x)}" Y="{number(y)}" Z="0"/>\n'
    yield "</Vertices></Region>\n"
