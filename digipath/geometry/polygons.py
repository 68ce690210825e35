"""Annotations, and the two-way street between masks and polygons.

Contours run along the edges of pixels and keep their holes; a pixel is inside of a polygon when its centre is. So a
mask that is polygonized and rasterized in the same frame is the same mask.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from digipath.errors import AnnotationError, SpecError
from digipath.geometry.components import Runs, find_runs
from digipath.geometry.contours import trace
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.geometry.scanline import fill

__all__ = ["MAX_COORDINATE", "Annotation", "cut_out", "polygonize", "rasterize", "rasterize_labels", "repair"]

# Level-0 pixels. The largest slides have about a million along a side; beyond this a file is damaged.
MAX_COORDINATE = 1e8

_KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString")
_AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class Annotation:
    """A class name and a geometry.

    Attributes:
        name: The class, such as "lesion".
        geometry: A shapely polygon with holes, point or line, or several of one of these, in level-0 pixels (x, y).
        color: (red, green, blue) of 0 to 255, or None.
        measurements: Numbers, which QuPath shows as measurements, and texts.
    """

    name: str
    geometry: BaseGeometry
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self):
        if not (isinstance(self.name, str) and self.name and self.name.isprintable()):
            raise AnnotationError(f"an annotation is named by its class in printable characters, got {self.name!r}.")
        object.__setattr__(self, "geometry", _checked(self.geometry))
        if self.color is not None:
            object.__setattr__(self, "color", tuple(int(part) for part in self.color))
            if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
                raise AnnotationError(f"a color is (red, green, blue), each 0 to 255, or None, got {self.color}.")
        values = {k: v if isinstance(v, str) else float(v) for k, v in self.measurements.items()}
        if bad := [name for name, value in values.items() if not isinstance(value, str) and not np.isfinite(value)]:
            raise AnnotationError(
                f"measurements are finite numbers or text, got {bad[0]}={values[bad[0]]}. Leave it out."
            )
        object.__setattr__(self, "measurements", values)

    @property
    def has_area(self) -> bool:
        """Whether it is a polygon, or several, and so covers pixels."""
        return self.geometry.geom_type in _AREAS


def _checked(geometry: BaseGeometry) -> BaseGeometry:
    kind = getattr(geometry, "geom_type", type(geometry).__name__)
    if kind not in _KINDS or geometry.is_empty:
        raise AnnotationError(
            f"an annotation's geometry is one of {', '.join(_KINDS)} and not empty, got "
            f"{'an empty ' if kind in _KINDS else ''}{kind}. Make one annotation of each part."
        )
    coordinates = shapely.get_coordinates(geometry)
    if not (coordinates.min() >= -MAX_COORDINATE and coordinates.max() <= MAX_COORDINATE):
        within = np.abs(coordinates).max(1) <= MAX_COORDINATE
        raise AnnotationError(
            f"coordinates are level-0 pixels within {MAX_COORDINATE:.0e} of the origin, got a {kind} with "
            f"{coordinates[~within][0].tolist()}. Check its unit, and whether its source is damaged."
        )
    return shapely.force_2d(geometry) if geometry.has_z else geometry


def repair(geometry: BaseGeometry) -> BaseGeometry | None:
    """A valid Polygon or MultiPolygon of what an invalid one covers; None where no area is left.

    What a self-crossing outline goes round is inside, also where it goes round twice: an outline drawn by hand crosses
    itself by accident, and the sliver at its end is not meant as a hole.
    """
    parts = shapely.get_parts(shapely.make_valid(geometry, method="structure", keep_collapsed=False))
    parts = [
        part for piece in parts for part in shapely.get_parts(piece) if part.geom_type == "Polygon" and part.area > 0
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def cut_out(annotations: Sequence[Annotation], exclusions: Sequence[BaseGeometry]) -> list[Annotation]:
    """The annotations without the excluded areas, as `{"positive": …, "negative": …}` truth is meant.

    An exclusion is cut from every polygon that it overlaps and that is larger than it; a smaller polygon inside of an
    exclusion is an island and stays. Points and lines stay. What is cut away wholly is left out.

    Args:
        annotations: In level-0 pixels.
        exclusions: Valid polygons, in level-0 pixels.
    """
    if not len(exclusions):
        return list(annotations)
    tree, sizes = shapely.STRtree(exclusions), shapely.area(exclusions)
    kept = []
    for annotation in annotations:
        geometry = annotation.geometry
        if annotation.has_area:
            geometry = geometry if geometry.is_valid else repair(geometry)
        if annotation.has_area and geometry is not None:
            hits = tree.query(geometry, predicate="intersects")
            hits = hits[sizes[hits] < geometry.area]
            if len(hits):
                geometry = repair(shapely.difference(geometry, shapely.union_all(tree.geometries[hits])))
        if geometry is not None:
            kept.append(Annotation(annotation.name, geometry, annotation.color, annotation.measurements))
    return kept


def rasterize(annotations: Iterable[Annotation], frame: Frame) -> Raster:
    """A mask of what the annotations' polygons cover together; a pixel is in when its centre is.

    A centre exactly on an outline belongs to one side only (left and upper outlines are in, right and lower ones out),
    so that neighbours share no pixel. Points and lines cover nothing; one warning counts them.

    Args:
        annotations: In level-0 pixels; names do not matter.
        frame: The frame of the mask; what lies outside of it is cropped.

    Returns:
        A boolean raster.

    Example:
        >>> square = Annotation("lesion", shapely.box(0, 0, 8, 4))
        >>> rasterize([square], Frame.level0(10, 10, 0.5)).array().sum()
        np.int64(32)
    """
    annotations = list(annotations)
    _warn_of_uncovering(annotations)
    return Raster(fill(_polygons(annotations), frame), frame)


def rasterize_labels(
    annotations: Iterable[Annotation], frame: Frame, *, classes: Sequence[str], uncovered: int = 0
) -> Raster:
    """For every pixel, the index in `classes` of the annotation that covers its centre.

    Where annotations overlap, the class that comes later in `classes` wins, whatever the order of the annotations.

    Args:
        annotations: In level-0 pixels; each is named by one of `classes`.
        frame: The frame of the labels.
        classes: Names in order of their label; at most 255.
        uncovered: Label of the pixels that no annotation covers: 0, the first class, or perhaps 255 to ignore them.

    Returns:
        A uint8 raster.
    """
    annotations = list(annotations)
    if not 0 < len(classes) <= 255 or len(set(classes)) < len(classes) or not 0 <= uncovered <= 255:
        raise SpecError(
            f"classes are 1 to 255 different names and uncovered is 0 to 255, got {classes} and {uncovered}."
        )
    if unknown := sorted({annotation.name for annotation in annotations} - set(classes)):
        raise AnnotationError(
            f"every annotation is of one of the classes {', '.join(classes)}; got {', '.join(unknown)} too. "
            "Add the names to classes, or leave those annotations out."
        )
    labels = np.full(frame.shape, uncovered, np.uint8)
    _warn_of_uncovering(annotations)
    for label, name in enumerate(classes):
        if chosen := [a for a in annotations if a.name == name and a.has_area]:
            labels[fill(_polygons(chosen), frame)] = label
    return Raster(labels, frame)


def _polygons(annotations: Iterable[Annotation]) -> np.ndarray:
    """(n,) valid shapely Polygons of the annotations that have an area."""
    polygons = shapely.get_parts([annotation.geometry for annotation in annotations if annotation.has_area])
    invalid = np.flatnonzero(~shapely.is_valid(polygons))
    if not len(invalid):
        return polygons
    mended = [part for i in invalid if (whole := repair(polygons[i])) is not None for part in shapely.get_parts(whole)]
    return np.concatenate([np.delete(polygons, invalid), np.array(mended, object)])


def _warn_of_uncovering(annotations: Sequence[Annotation]) -> None:
    if count := sum(not annotation.has_area for annotation in annotations):
        message = f"{count} of {len(annotations)} annotations are points or lines, which cover no pixels."
        warnings.warn(message, stacklevel=3)


def polygonize(
    mask: Raster,
    *,
    name: str = "lesion",
    color: tuple[int, int, int] | None = None,
    simplify_um: float = 0.0,
    min_area_mm2: float = 0.0,
    connectivity: int = 4,
) -> list[Annotation]:
    """One annotation for each connected component of a mask, the largest first, equal ones in reading order.

    They come in the order of `find_regions`, and with a connectivity of 8 of `digipath.geometry.shapes.measure`.

    Outlines run along pixel edges, with a vertex only at corners; holes are kept, and islands in holes are annotations
    of their own. Each polygon is valid, also where pixels touch at a corner: a hole may then touch its outline, or
    another hole, at a point.

    Args:
        mask: A single-layer raster; its non-zero pixels are outlined.
        name: The class that the annotations get.
        color: Their (red, green, blue).
        simplify_um: Leave out vertices as long as no outline moves by more than this many micrometres. At 0 rasterizing
            gives the mask back exactly; above, it does not.
        min_area_mm2: Smaller components are left out.
        connectivity: 4, or 8: what only touches at a corner is one component then, a MultiPolygon.

    Example:
        >>> frame = Frame.level0(4, 3, 0.5).coarser(1)
        >>> polygonize(Raster(np.ones((3, 4), bool), frame))[0].geometry.bounds
        (0.0, 0.0, 4.0, 3.0)
    """
    if not simplify_um >= 0:
        raise SpecError(f"simplify_um is a number of micrometres of at least 0, got {simplify_um}.")
    runs = find_runs(mask)
    if connectivity == 4:
        polygons = trace(runs, runs.by_area(min_area_mm2=min_area_mm2))
    else:
        polygons = _joined(runs, find_runs(mask, connectivity=connectivity), min_area_mm2)
    if simplify_um:
        level0_mpp = mask.frame.mpp / mask.frame.downsample
        polygons = shapely.simplify(polygons, simplify_um / level0_mpp)
    return [Annotation(name, polygon, color) for polygon in polygons]


def _joined(parts: Runs, wholes: Runs, min_area_mm2: float) -> np.ndarray:
    """(n,) shapely Polygons or MultiPolygons of 8-connected components, put together of 4-connected ones."""
    outlines = trace(parts, np.arange(len(parts.pixels)))
    whole = np.zeros(len(outlines), np.int64)
    whole[parts.component] = wholes.component  # the runs are the same
    order = np.argsort(whole, kind="stable")
    groups = np.split(outlines[order], np.cumsum(np.bincount(whole, minlength=len(wholes.pixels)))[:-1])
    chosen = [groups[component] for component in wholes.by_area(min_area_mm2=min_area_mm2)]
    result = np.empty(len(chosen), object)
    result[:] = [group[0] if len(group) == 1 else shapely.MultiPolygon(list(group)) for group in chosen]
    return result
