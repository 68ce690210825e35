"""Annotations as GeoJSON, as QuPath reads and writes it, and as `{"positive": …, "negative": …}` truth.

QuPath 0.2 to 0.6 is read: a FeatureCollection, one Feature, or a list of either; a class as `{"name", "colorRGB"}`,
`{"name", "color"}`, `{"names": […]}` or a text; measurements as a list or an object; objects below others. Features are
written for QuPath 0.4 and later.

QuPath shows a slide that has `openslide.bounds-*` from the corner of these bounds, and counts its pixels from there. So
`write_geojson` subtracts that corner, its `origin`, and notes it in the file, from where `read_geojson` adds it again.
"""

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.geometry.polygons import Annotation, cut_out
from digipath.io.documents import json_of, read_document, replacing
from digipath.io.shapes import UNNAMED, Shapes, rgb_of, warn_of_size

__all__ = ["read_geojson", "write_geojson"]

_GEOMETRIES = (
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
)


def read_geojson(path: str | os.PathLike, *, origin: tuple[float, float] | None = None) -> list[Annotation]:
    """The annotations of a GeoJSON file, or of `{"positive": […], "negative": […]}`; either may be gzip.

    A feature's class is its QuPath classification ("Tumor: Positive" for a derived one), else its name, else "unnamed".
    The name of a classified object becomes the text measurement "name". A nucleus inside of a cell is left out.

    Of positive and negative outlines, the positive ones become polygons named "tumor", with the negative ones cut out:
    rasterized, they are the truth mask. What the negative outlines hold is not kept apart.

    Whatever is repaired or left out is counted in one warning.

    Args:
        path: The file.
        origin: (x, y) in level-0 pixels that is added to all positions of a file that does not say so itself, as one
            of `write_geojson` does: the corner of `openslide.bounds-*` for a file that QuPath wrote for such a slide.

    Raises:
        AnnotationError: The file is damaged, too large, or something else.
    """
    document = json_of(read_document(path), path)
    shapes = Shapes(path)
    if isinstance(document, dict) and {"positive", "negative"} & document.keys():
        _read_truth(document, shapes, origin or (0.0, 0.0))
    else:
        _read_features(document, shapes, _origin_of(document, shapes) or origin or (0.0, 0.0))
    shapes.warn()
    return shapes.annotations


def _read_truth(document: dict, shapes: Shapes, origin: tuple[float, float]) -> None:
    exclusions: list[BaseGeometry] = []
    for key in ("negative", "positive"):
        for outline in _list(document.get(key, []), shapes):
            values = outline.get("vertices") if isinstance(outline, dict) else outline
            geometry = shapes.polygon(shapes.vertices(values, origin))
            if key == "positive":
                shapes.add("tumor", geometry)
            elif geometry is not None:
                exclusions.append(geometry)
    shapes.annotations = cut_out(shapes.annotations, exclusions)


def _origin_of(document: Any, shapes: Shapes) -> tuple[float, float] | None:
    noted = document.get("digipath") if isinstance(document, dict) else None
    if not isinstance(noted, dict) or "origin" not in noted:
        return None
    x, y = shapes.vertices([noted["origin"]])[0].tolist()
    return x, y


def _read_features(document: Any, shapes: Shapes, origin: tuple[float, float]) -> None:
    for feature in _features(document, shapes):
        geometry, properties = feature.get("geometry"), feature.get("properties") or {}
        if "nucleusGeometry" in feature:
            shapes.note("nucleus of a cell, left out")
        if geometry is None:
            shapes.note("feature without a geometry, left out")
            continue
        name, color, measurements = _described(properties, shapes)
        for part in _geometries(geometry, shapes, origin):
            shapes.add(name, part, color, measurements)


def _features(document: Any, shapes: Shapes) -> Iterator[dict]:
    """All features in their order, those below others after these."""
    waiting = [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif not isinstance(item, dict):
            raise shapes.error(f"a feature is a JSON object, got {type(item).__name__}.")
        elif item.get("type") == "FeatureCollection" or "features" in item:
            waiting.extend(reversed(_list(item.get("features", []), shapes)))
        elif item.get("type") in _GEOMETRIES and "geometry" not in item:
            yield {"geometry": item}
        elif item.get("type") == "Feature" or "geometry" in item:
            properties = item.get("properties") or {}
            if not isinstance(properties, dict):
                raise shapes.error(f"a feature's properties are a JSON object, got {type(properties).__name__}.")
            waiting.extend(reversed(_list(properties.get("childObjects") or properties.get("children") or [], shapes)))
            yield item
        else:
            raise shapes.error(
                "the file is JSON but not GeoJSON: there is a FeatureCollection, a Feature or a list of these, got an "
                f"object of type {item.get('type')!r} with {', '.join(map(repr, list(item)[:5])) or 'nothing'}."
            )


def _list(value: Any, shapes: Shapes) -> list:
    if not isinstance(value, list):
        raise shapes.error(f"a list is needed here, got {type(value).__name__}.")
    return value


def _described(properties: dict, shapes: Shapes) -> tuple[str, tuple[int, int, int] | None, dict[str, float | str]]:
    """Class name, color and measurements of a feature."""
    group = properties.get("classification")
    group = {"name": group} if isinstance(group, str) else group if isinstance(group, dict) else {}
    names = group.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) else str(group.get("name") or "")
    own = str(properties.get("name") or "")
    color = _color(group.get("color", group.get("colorRGB"))) or _color(
        properties.get("color", properties.get("colorRGB"))
    )
    measurements = _measurements(properties, shapes)
    if name and own:
        measurements["name"] = own
    return name or own or UNNAMED, color, measurements


def _color(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return rgb_of(value)
    if (
        isinstance(value, list)
        and len(value) in (3, 4)
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    ):
        return tuple(value[:3])
    return None


def _measurements(properties: dict, shapes: Shapes) -> dict[str, float | str]:
    values = properties.get("measurements") or {}
    if isinstance(values, list):
        values = {str(v.get("name")): v.get("value") for v in values if isinstance(v, dict)}
    numbers = {}
    for name, value in (values if isinstance(values, dict) else {}).items():
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
            numbers[name] = float(value)
        else:
            shapes.note("measurement that is not a finite number, left out")
    texts = properties.get("metadata")
    texts = texts if isinstance(texts, dict) else {}
    return numbers | {name: text for name, text in texts.items() if isinstance(text, str)}


def _geometries(geometry: Any, shapes: Shapes, origin: tuple[float, float]) -> Iterator[BaseGeometry | None]:
    """What a GeoJSON geometry holds: one geometry, or those of a collection; None for what has no extent."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in _GEOMETRIES:
        raise shapes.error(f"a geometry is one of {', '.join(_GEOMETRIES)}, got {kind or type(geometry).__name__}.")
    if kind == "GeometryCollection":
        for part in _list(geometry.get("geometries", []), shapes):
            if isinstance(part, dict) and part.get("type") == "GeometryCollection":
                raise shapes.error("a collection of geometries holds no further collection.")
            yield from _geometries(part, shapes, origin)
        return
    values = geometry.get("coordinates")
    if not isinstance(values, list):
        raise shapes.error(f"a {kind} has a list of coordinates, got {type(values).__name__}.")
    if not values:
        shapes.note("empty geometry, left out")
    else:
        yield _build(kind, values, shapes, origin)


def _build(kind: str, values: list, shapes: Shapes, origin: tuple[float, float]) -> BaseGeometry | None:
    match kind:
        case "Point":
            return shapely.Point(shapes.vertices([values], origin)[0])
        case "MultiPoint":
            return shapely.MultiPoint(shapes.vertices(values, origin))
        case "LineString":
            return shapes.line(shapes.vertices(values, origin))
        case "MultiLineString":
            lines = [line for part in values if (line := shapes.line(shapes.vertices(part, origin))) is not None]
            return shapely.MultiLineString(lines) if lines else None
        case "Polygon":
            return _polygon(values, shapes, origin)
        case _:
            parts = [part for rings in values if (part := _polygon(rings, shapes, origin)) is not None]
            return shapes.valid(shapely.MultiPolygon(shapely.get_parts(parts))) if parts else None


def _polygon(values: Any, shapes: Shapes, origin: tuple[float, float]) -> BaseGeometry | None:
    rings = [shapes.vertices(ring, origin) for ring in _list(values, shapes)]
    for ring in rings:
        if len(ring) and (ring[0] != ring[-1]).any():
            shapes.note("outline that was not closed, closed")
    return shapes.polygon(rings[0], rings[1:]) if rings else None


def write_geojson(
    path: str | os.PathLike, annotations: Iterable[Annotation], *, origin: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write annotations so that QuPath opens them, and `read_geojson` gives them back.

    Positions keep their full precision. The ids of the features depend on nothing but the annotations. Numbers become
    measurements and texts metadata, but for the text "name", which becomes the name of the object.

    Args:
        path: The file; gzip where it ends in .gz, which QuPath opens too.
        annotations: In level-0 pixels.
        origin: (x, y) in level-0 pixels that is subtracted from all positions, and noted: `openslide.bounds-x` and
            `-y` of a slide that has these, else (0, 0).
    """
    annotations = list(annotations)
    warn_of_size(path, annotations)
    x, y = (float(part) for part in origin)
    seen: dict[bytes, int] = {}
    with replacing(path) as file:
        file.write('{"type":"FeatureCollection","digipath":' + _dumps({"origin": [x, y]}) + ',"features":[')
        for index, annotation in enumerate(annotations):
            file.write(",\n" if index else "\n")
            file.write(_dumps(_feature(annotation, np.array([x, y]), seen)))
        file.write("\n]}\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _feature(annotation: Annotation, origin: np.ndarray, seen: dict[bytes, int]) -> dict:
    properties: dict[str, Any] = {"objectType": "annotation"}
    texts = {name: value for name, value in annotation.measurements.items() if isinstance(value, str)}
    if "name" in texts:
        properties["name"] = texts.pop("name")
    # QuPath takes a class with its color, or the name alone; an object without a color is an error to it.
    properties["classification"] = (
        annotation.name if annotation.color is None else {"name": annotation.name, "color": list(annotation.color)}
    )
    numbers = {name: value for name, value in annotation.measurements.items() if not isinstance(value, str)}
    properties |= ({"measurements": numbers} if numbers else {}) | ({"metadata": texts} if texts else {})
    geometry = _geometry(annotation.geometry, origin)
    return {"type": "Feature", "id": _id(annotation, seen), "geometry": geometry, "properties": properties}


def _id(annotation: Annotation, seen: dict[bytes, int]) -> str:
    """A UUID made from class and geometry, and from a count where these repeat."""
    content = annotation.name.encode() + b"\0" + shapely.to_wkb(annotation.geometry, byte_order=1)
    digest = hashlib.sha256(content).digest()
    repeats = seen[digest] = seen.get(digest, -1) + 1
    if repeats:
        digest = hashlib.sha256(digest + repeats.to_bytes(8, "big")).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def _geometry(geometry: BaseGeometry, origin: np.ndarray) -> Mapping[str, Any]:
    kind = geometry.geom_type
    parts: Any = [_coordinates(part, origin) for part in shapely.get_parts(geometry)]
    return {"type": kind, "coordinates": parts if kind.startswith("Multi") else parts[0]}


def _coordinates(part: BaseGeometry, origin: np.ndarray) -> list:
    if part.geom_type == "Polygon":
        return [_positions(ring, origin) for ring in (part.exterior, *part.interiors)]
    positions = _positions(part, origin)
    return positions[0] if part.geom_type == "Point" else positions


def _positions(part: BaseGeometry, origin: np.ndarray) -> list:
    """Positions as lists; whole numbers are written without a fraction."""
    points = shapely.get_coordinates(part) - origin
    return (points.astype(np.int64) if (points == np.round(points)).all() else points).tolist()
