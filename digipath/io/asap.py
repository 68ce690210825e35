"""Annotations as ASAP, the viewer of the CAMELYON challenges, reads and writes them: XML of dots, outlines and groups.

ASAP knows no holes. A hole is written as an outline of its own, in a group below that of its polygon, such as "lesion
hole" below "lesion": it is drawn where it is, can be edited, and ASAP's own masks leave it out when that group comes
last and gets the label 0. The group has an attribute that says so, and the outline's name, "lesion 3 hole 1", says
which polygon it belongs to; both survive when ASAP saves the file. (A bridge from outline to hole would look like one
polygon but draw lines through the tissue.)
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.geometry.polygons import Annotation, cut_out
from digipath.io.documents import read_document, replacing, xml_events
from digipath.io.shapes import UNNAMED, Shapes, hex_of, number, warn_of_size

__all__ = ["read_asap", "write_asap"]

# What ASAP gives an annotation and a group that nobody has colored.
_DEFAULT_COLORS = ("#F4FA58", "#64FE2E")
_HOLES = "digipath.holes"


@dataclass
class _Group:
    """One of ASAP's groups."""

    parent: str = ""
    color: str = ""
    holes: bool = False


@dataclass
class _Outline:
    """One of ASAP's annotations."""

    name: str
    kind: str
    group: str
    color: str
    points: np.ndarray
    holes: list[np.ndarray] = field(default_factory=list)


def read_asap(path: str | os.PathLike) -> list[Annotation]:
    """The annotations of an ASAP XML file.

    The class is the group; without one the name, unless that is the "Annotation 3" that ASAP gives by itself, which
    becomes "unnamed". Polygons, splines (through their vertices, as ASAP fills them) and rectangles become polygons, a
    dot a point, a point set several points, a measurement a line.

    Outlines in a group called "Exclusion", and in "_2" beside "_0" or "_1" as in CAMELYON16, are cut out of the
    polygons of the other groups, so that rasterized these are the truth mask. Whatever is repaired or left out is
    counted in one warning.

    Raises:
        AnnotationError: The file is damaged, too large, or something else.
    """
    shapes = Shapes(path)
    outlines, groups = _parse(path, shapes)
    outlines, stray = _gather_holes(outlines, groups)
    names = {outline.group for outline in outlines}
    exclusions = {name for name in names if name.casefold() in ("exclusion", "exclusions")}
    if {"_0", "_1"} & names:
        exclusions |= {"_2"}
    excluded: list[BaseGeometry] = []
    for outline in outlines:
        geometry = _geometry(outline, shapes)
        if outline.group in exclusions and outline.kind in ("Polygon", "Spline", "Rectangle"):
            excluded.extend([] if geometry is None else [geometry])
        else:
            shapes.add(_class(outline), geometry, _color(outline, groups))
    excluded.extend(geometry for hole in stray if (geometry := _geometry(hole, shapes)) is not None)
    shapes.annotations = cut_out(shapes.annotations, excluded)
    shapes.warn()
    return shapes.annotations


def _parse(path: str | os.PathLike, shapes: Shapes) -> tuple[list[_Outline], dict[str, _Group]]:
    outlines, groups, root = [], {}, None
    for event, element in xml_events(read_document(path), path):
        if root is None:
            root = element
            if root.tag != "ASAP_Annotations":
                raise shapes.error(f"ASAP's files begin with <ASAP_Annotations>, this one with <{root.tag}>.")
        elif event == "end" and element.tag == "Annotation":
            outlines.append(_outline(element, shapes))
            element.clear()
        elif event == "end" and element.tag == "Group":
            holes = any(_HOLES in attribute.attrib for attribute in element.iter("Attribute"))
            parent = element.get("PartOfGroup", "None")
            groups[element.get("Name", "")] = _Group(parent, element.get("Color", ""), holes)
    return outlines, groups


def _outline(element: Element, shapes: Shapes) -> _Outline:
    vertices = list(element.iter("Coordinate"))
    try:
        order = [int(vertex.get("Order", "")) for vertex in vertices]
    except ValueError:
        order = list(range(len(vertices)))
    # Some systems write a comma for the point.
    values = [[vertex.get(axis, "nan").replace(",", ".") for axis in "XY"] for vertex in vertices]
    points = shapes.vertices(values)[np.argsort(order, kind="stable")]
    group = element.get("PartOfGroup", "None")
    kind = element.get("Type", "None")
    return _Outline(element.get("Name", ""), kind, "" if group == "None" else group, element.get("Color", ""), points)


def _gather_holes(outlines: list[_Outline], groups: dict[str, _Group]) -> tuple[list[_Outline], list[_Outline]]:
    """The outlines that are no holes, each with its own; and the holes whose outline is not there any more."""
    owners = {outline.name: outline for outline in outlines if not groups.get(outline.group, _Group()).holes}
    stray = []
    for outline in outlines:
        group = groups.get(outline.group, _Group())
        if group.holes:
            owner = owners.get(re.sub(r" hole \d+$", "", outline.name))
            if owner is not None and owner.group == group.parent:
                owner.holes.append(outline.points)
            else:
                stray.append(outline)
    return [outline for outline in outlines if not groups.get(outline.group, _Group()).holes], stray


def _geometry(outline: _Outline, shapes: Shapes) -> BaseGeometry | None:
    match outline.kind:
        case "Dot" | "PointSet" if not len(outline.points):
            shapes.note("annotation without a position, left out")
            return None
        case "Dot":
            return shapely.Point(outline.points[0])
        case "PointSet":
            return shapely.MultiPoint(outline.points)
        case "Measurement":
            return shapes.line(outline.points)
        case "Polygon" | "Spline" | "Rectangle":
            return shapes.polygon(outline.points, outline.holes)
        case _:
            shapes.note(f"annotation of the unknown type {outline.kind!r}, left out")
            return None


def _class(outline: _Outline) -> str:
    if outline.group:
        return outline.group
    return UNNAMED if re.fullmatch(r"Annotation \d+", outline.name) else outline.name


def _color(outline: _Outline, groups: dict[str, _Group]) -> tuple[int, int, int] | None:
    """The annotation's own color where somebody chose one, else its group's."""
    for color in (outline.color, groups.get(outline.group, _Group()).color):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", color) and color.upper() not in _DEFAULT_COLORS:
            return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
    return None


def write_asap(path: str | os.PathLike, annotations: Iterable[Annotation]) -> None:
    """Write annotations so that ASAP opens them, and `read_asap` gives them back.

    Positions keep their full precision. Each class is a group; the holes of a class are a group below it. Several
    polygons or lines in one annotation become several annotations, and measurements are not written. A line is written
    as a measurement, of which ASAP draws the straight line from its first vertex to its last.

    Args:
        path: The file; gzip where it ends in .gz, which ASAP does not open.
        annotations: In level-0 pixels.
    """
    annotations = list(annotations)
    warn_of_size(path, annotations)
    colors: dict[str, str] = {}
    for annotation in annotations:
        colors.setdefault(annotation.name, hex_of(annotation.color) if annotation.color else _DEFAULT_COLORS[1])
    holes = _hole_groups(annotations)
    with replacing(path) as file:
        file.write('<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>\n')
        written = 0
        for annotation in annotations:
            for part in _parts(annotation.geometry):
                file.writelines(_elements(part, annotation, written, holes))
                written += 1
        file.write("</Annotations>\n<AnnotationGroups>\n")
        for name, color in colors.items():
            file.write(f'<Group Name={quoteattr(name)} PartOfGroup="None" Color="{color}"><Attributes/></Group>\n')
        for name, group in holes.items():
            file.write(
                f'<Group Name={quoteattr(group)} PartOfGroup={quoteattr(name)} Color="#000000">'
                f'<Attributes><Attribute {_HOLES}="1"/></Attributes></Group>\n'
            )
        file.write("</AnnotationGroups>\n</ASAP_Annotations>\n")


def _hole_groups(annotations: Sequence[Annotation]) -> dict[str, str]:
    """For each class with holes the name of their group, which no class has."""
    names = {annotation.name for annotation in annotations}
    groups = {}
    for annotation in annotations:
        if annotation.has_area and any(len(part.interiors) for part in _parts(annotation.geometry)):
            group = f"{annotation.name} hole"
            while group in names:
                group += "s"
            groups[annotation.name] = group
    return groups


def _parts(geometry: BaseGeometry) -> Sequence[BaseGeometry]:
    return [geometry] if geometry.geom_type == "MultiPoint" else list(shapely.get_parts(geometry))


def _elements(part: BaseGeometry, annotation: Annotation, index: int, holes: dict[str, str]) -> Iterable[str]:
    """The XML of one polygon and its holes, of a line, or of points."""
    kind = {"Point": "Dot", "MultiPoint": "PointSet", "LineString": "Measurement"}.get(part.geom_type, "Polygon")
    name = f"{annotation.name} {index}"
    color = hex_of(annotation.color) if annotation.color else _DEFAULT_COLORS[0]
    rings = [part.exterior, *part.interiors] if kind == "Polygon" else [part]
    for place, ring in enumerate(rings):
        own, group = (f"{name} hole {place}", holes[annotation.name]) if place else (name, annotation.name)
        yield f'<Annotation Name={quoteattr(own)} Type="{kind}" PartOfGroup={quoteattr(group)} Color="{color}">\n'
        yield "<Coordinates>\n"
        points = shapely.get_coordinates(ring)
        for order, (x, y) in enumerate((points[:-1] if kind == "Polygon" else points).tolist()):
            yield f'<Coordinate Order="{order}" X="{number(x)}" Y="{number(y)}"/>\n'
        yield "</Coordinates></Annotation>\n"
