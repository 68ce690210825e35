"""Tumour contours as microdosimetry needs them, and scores of folds as the paper reports them.

L. L. Weishaupt et al., "Deep learning-based tumor segmentation on digital images of histopathology slides for
microdosimetry applications": how large tumour regions are, and how far apart, says how far radiation has to reach. The
paper's eight folds have equal summed areas of tumour; it reports the average of the scores of the folds, with their
standard deviation as the uncertainty.

The text at hand does not say which standard deviation. Here it is that of a sample (divided by the number of folds less
one), as folds are a sample of all ways to divide the images.

**Distances** between two contours are exact: the shortest way from any point of one outline to any point of the other,
in um; 0 where they overlap or touch. A region in a hole of another is as far from it as from the hole's outline. Time
grows with the number of vertices, not with pairs of contours.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import shapely
from scipy.spatial import cKDTree

from digipath.errors import AnnotationError, ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, polygonize, repair
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import measure

__all__ = [
    "Contour",
    "FoldScore",
    "contour_rows",
    "contours_csv",
    "contours_of_mask",
    "contours_of_polygons",
    "fold_summary",
]

_PIECE = 16  # vertices of the pieces that outlines are cut into to look for near ones


@dataclass(frozen=True, kw_only=True)
class Contour:
    """One tumour region.

    Attributes:
        id: Rank by area, from 1 for the largest.
        area_um2: Its area, holes not included.
        perimeter_um: Length of its outlines, those of holes included.
        equivalent_diameter_um: Diameter of the disc of the same area.
        centroid: (x, y) of its centre of gravity, in level-0 pixels.
        nearest_id: The contour that is nearest by outline, the largest of equally near ones; None for the only one.
        nearest_distance_um: Distance of both outlines.
        centroid_nearest_id: The contour whose centroid is nearest, often another one.
        centroid_distance_um: Distance of both centroids.
    """

    id: int
    area_um2: float
    perimeter_um: float
    equivalent_diameter_um: float
    centroid: tuple[float, float]
    nearest_id: int | None
    nearest_distance_um: float | None
    centroid_nearest_id: int | None
    centroid_distance_um: float | None


def contours_of_mask(mask: Raster, *, min_area_mm2: float = 0.0) -> list[Contour]:
    """The contours of a mask's regions, the largest first; pixels that touch at a corner are one region.

    Areas are those of pixels and perimeters Crofton's estimate, as `digipath.geometry.shapes.measure` has them: along
    the edges of pixels an outline would be too long by up to 4/π. Distances are those between edges of pixels.

    Args:
        mask: Single-layer mask of tumour; read in strips.
        min_area_mm2: Smaller regions are left out, also as neighbours.

    Example:
        >>> mask = np.zeros((10, 30), bool)
        >>> mask[2:6, 2:6] = mask[2:6, 16:20] = True
        >>> contours_of_mask(Raster(mask, Frame.level0(30, 10, 0.5)))[0].nearest_distance_um
        5.0
    """
    shapes = measure(mask, connectivity=8, min_area_mm2=min_area_mm2)
    polygons = polygonize(mask, connectivity=8, min_area_mm2=min_area_mm2)
    outlines = np.array([one.geometry for one in polygons], object)
    mpp = mask.frame.mpp / mask.frame.downsample
    measures = [(one.area_um2, one.perimeter_um, one.centroid) for one in shapes]
    return _contours(measures, outlines, mpp)


def contours_of_polygons(annotations: Sequence[Annotation], slide: Frame) -> list[Contour]:
    """The contours of annotations with an area, each one region, the largest first; measured exactly.

    Args:
        annotations: In level-0 pixels; self-crossing outlines are repaired.
        slide: Any frame of the slide, for its micrometres per pixel.
    """
    mpp = slide.mpp / slide.downsample
    whole = [one.geometry if one.geometry.is_valid else repair(one.geometry) for one in annotations if one.has_area]
    if len(whole) < len(annotations) or any(one is None for one in whole):
        raise AnnotationError(
            f"contours are polygons with an area; of {len(annotations)} annotations "
            f"{len(annotations) - sum(one is not None for one in whole)} are none. Leave points and lines out."
        )
    outlines = np.array(whole, object)
    outlines = outlines[np.argsort(-shapely.area(outlines), kind="stable")] if len(outlines) else outlines
    areas, lengths = shapely.area(outlines) * mpp**2, shapely.length(outlines) * mpp
    centroids = shapely.get_coordinates(shapely.centroid(outlines)).tolist()
    measures = list(zip(areas.tolist(), lengths.tolist(), map(tuple, centroids), strict=True))
    return _contours(measures, outlines, mpp)


def _contours(measures: Sequence[tuple], outlines: np.ndarray, mpp: float) -> list[Contour]:
    """Contours from (area, perimeter, centroid) and outlines in level-0 pixels."""
    nearest, distance = _nearest(outlines)
    middle, apart = _nearest_points(np.array([one[2] for one in measures]).reshape(-1, 2))
    alone = len(measures) < 2
    return [
        Contour(
            id=i + 1,
            area_um2=area,
            perimeter_um=perimeter,
            equivalent_diameter_um=math.sqrt(4 / math.pi * area),
            centroid=centroid,
            nearest_id=None if alone else int(nearest[i]) + 1,
            nearest_distance_um=None if alone else float(distance[i] * mpp),
            centroid_nearest_id=None if alone else int(middle[i]) + 1,
            centroid_distance_um=None if alone else float(apart[i] * mpp),
        )
        for i, (area, perimeter, centroid) in enumerate(measures)
    ]


def _nearest_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) index and distance of the nearest other point, for two points or more."""
    if len(points) < 2:
        return np.zeros(len(points), np.int64), np.zeros(len(points))
    distances, indices = cKDTree(points).query(points, k=2)
    other = np.where(indices[:, 0] == np.arange(len(points)), 1, 0)  # points at one place come in any order
    each = np.arange(len(points))
    return indices[each, other], distances[each, other]


def _nearest(outlines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) index and distance of the nearest other geometry, for two or more.

    Outlines are cut into pieces of a few vertices. Distances between some vertices bound those between outlines from
    above, so that only pieces within that bound are measured.
    """
    count = len(outlines)
    if count < 2:
        return np.zeros(count, np.int64), np.zeros(count)
    pieces, owner = _pieces(outlines)
    bound = _bounds(shapely.get_coordinates(shapely.get_point(pieces, 0)), owner, count)
    tree = shapely.STRtree(pieces)
    found = tree.query(pieces, predicate="dwithin", distance=np.nextafter(bound[owner], np.inf))
    found = found[:, owner[found[0]] != owner[found[1]]]
    distances = shapely.distance(pieces[found[0]], pieces[found[1]])
    inside = _inside(outlines)
    first, second = np.concatenate([owner[found], inside], 1)
    distances = np.concatenate([distances, np.zeros(inside.shape[1])])
    order = np.lexsort((second, distances, first))
    best = order[np.searchsorted(first[order], np.arange(count))]
    return second[best], distances[best]


def _inside(outlines: np.ndarray) -> np.ndarray:
    """(2, n) pairs, both ways round, of which one lies in the other, though their outlines may be far apart."""
    parts, owner = shapely.get_parts(outlines, return_index=True)
    corners = shapely.get_point(shapely.get_exterior_ring(parts), 0)
    outer, corner = shapely.STRtree(corners).query(outlines, predicate="contains")
    pairs = np.stack([outer, owner[corner]])
    pairs = pairs[:, pairs[0] != pairs[1]]
    return np.concatenate([pairs, pairs[::-1]], 1)


def _pieces(outlines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) lines of at most `_PIECE` edges that make up all outlines, and the geometry that each belongs to."""
    parts, part_owner = shapely.get_parts(outlines, return_index=True)
    rings, ring_part = shapely.get_rings(parts, return_index=True)
    positions, ring = shapely.get_coordinates(rings, return_index=True)
    place = np.arange(len(ring)) - np.searchsorted(ring, ring)  # in its ring
    ends = np.append(ring[1:] != ring[:-1], True)
    piece = np.cumsum((place % _PIECE == 0) & ~ends) - 1  # the last vertex of a ring is only an end
    shared = np.flatnonzero((place % _PIECE == 0) & ~ends & (place > 0))  # begins one piece and ends that before it
    where = np.concatenate([np.arange(len(ring)), shared])
    of = np.concatenate([piece, piece[shared] - 1])
    order = np.lexsort((where, of))
    lines = shapely.linestrings(positions[where[order]], indices=of[order])
    return lines, part_owner[ring_part[ring[(place % _PIECE == 0) & ~ends]]]


def _bounds(points: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """(count,) distance from the points of each owner to the nearest of another one.

    Two owners differ in at least one binary digit of their numbers, so that for each digit it is enough to look from
    the points with 0 to those with 1, and back.
    """
    bound = np.full(count, np.inf)
    for digit in range((count - 1).bit_length()):
        one = (owner >> digit & 1).astype(bool)
        for side in (one, ~one):
            np.minimum.at(bound, owner[side], cKDTree(points[~side]).query(points[side])[0])
    return bound


def contour_rows(contours: Sequence[Contour]) -> list[dict[str, float | int | None]]:
    """A table of contours: one dictionary each, with the centroid as `centroid_x` and `centroid_y`."""
    rows = []
    for one in contours:
        row = asdict(one)
        x, y = row.pop("centroid")
        rows.append(row | {"centroid_x": x, "centroid_y": y})
    return rows


def contours_csv(contours: Sequence[Contour]) -> str:
    """The table as CSV, with a line of names that say the units; empty cells where there is no other contour."""
    names = list(Contour.__dataclass_fields__)
    names[names.index("centroid") : names.index("centroid") + 1] = ["centroid_x", "centroid_y"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(contour_rows(contours))
    return text.getvalue()


@dataclass(frozen=True)
class FoldScore:
    """A score over the folds of a cross-validation.

    Attributes:
        mean: Mean of the folds.
        sd: Standard deviation of the sample of folds (n - 1).
        folds: The score of each, in their order.
    """

    mean: float
    sd: float
    folds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.sd:.3f}"


def fold_summary(folds: Sequence[Mapping[str, float]]) -> dict[str, FoldScore]:
    """Mean and sample standard deviation of every score over folds, in the order of the first fold.

    Args:
        folds: Scores by name, of at least two folds; every fold has the same.

    Raises:
        SpecError: There are fewer than two folds, or these have different scores.
        ResultError: A score is no finite number; what is not defined in one fold has no mean.

    Example:
        >>> print(fold_summary([{"dice": 0.7}, {"dice": 0.8}, {"dice": 0.9}])["dice"])
        0.800 ± 0.100
    """
    if len(folds) < 2:
        raise SpecError(f"a standard deviation over folds needs at least two of them, got {len(folds)}.")
    names = list(folds[0])
    for number, scores in enumerate(folds, 1):
        if set(scores) != set(names):
            odd = ", ".join(sorted(set(scores) ^ set(names)))
            raise SpecError(f"every fold has the same scores; fold {number} and fold 1 differ in {odd}.")
        if bad := [name for name in names if not math.isfinite(scores[name])]:
            raise ResultError(
                f"scores of folds are finite numbers, got {bad[0]} = {scores[bad[0]]} in fold {number}. "
                "Leave out a score that a fold does not define."
            )
    values = {name: tuple(float(scores[name]) for scores in folds) for name in names}
    return {name: FoldScore(statistics.fmean(each), statistics.stdev(each), each) for name, each in values.items()}
