"""Lymphocytes in tumour stroma, after the baseline of TIGER's organisers.

The baseline is DIAGNijmegen/pathology-tiger-baseline (`concavehull.py`, `tumorstroma.py`, `tilscore.py`). Tissue labels
are TIGER's: 1 invasive tumour, 2 tumour-associated stroma, 3 tumour in situ, 4 healthy glands, 5 necrosis, 6 inflamed
stroma, 7 rest, 0 not looked at.

**Tumour bulk.** Labels of tumour are taken under the centres of pixels of 32 um (level 6 of a slide of 0.5 um). Specks
below 0.005 mm2 are removed; the rest is closed and then opened with a disc of 1,000 um across (500 um for biopsies);
of what is left, all below 1.5 mm2 (1.0 mm2) is removed; pixels that touch at a corner belong together. Around it comes
an alpha shape, alpha 0.07 per pixel of 32 um, which is 0.0021875 per um: concavities are filled as far as triangles
with a circumscribed circle of less than 1 / alpha = 457 um reach into them. It is widened by 250 um, and its holes are
filled.

**Score.** 100 · cells · 64 um2 / area of stroma in the bulk: the percentage of that stroma that its lymphocytes cover,
each a square of 8 um. Cells count where stroma and bulk are. Like the baseline's it is not clipped: where there are
more than 15,625 cells per mm2 it is above 100, and `Tils.note` says so. Without stroma in a bulk it is 0, as the
baseline writes 0 whenever it fails; `note` says why.

**What differs.** The baseline takes pixels for points at their upper left corners, so that its hull is half a pixel, 16
um, too far up and left; here they are points at their centres. Its kernels are whole pixels wide and its closing stops
at the slide's border, here discs are exact and beyond the border is nothing. Its suppression of double detections works
in tiles of 256 pixels and drops every cell that is alone in one; here `min_distance_um` suppresses, in the order of the
points, and by default nothing does. It tells biopsies by the share of the slide that is labelled, in one version, and
holds all for resections in another; here `RESECTION` and `BIOPSY` say so.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from scipy.spatial import Delaunay
from shapely.geometry.base import BaseGeometry

from digipath.errors import ResultError, SpecError
from digipath.evaluation.challenges import TIGER_STROMA, TIGER_TUMOUR
from digipath.geometry.discs import closed, opened
from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.polygons import Annotation, rasterize, repair
from digipath.geometry.raster import Raster

__all__ = ["BIOPSY", "RESECTION", "BulkSettings", "Tils", "labels_of", "til_score", "tumour_bulk"]

CELL_UM2 = 64.0
"""Area that a lymphocyte counts: 16 x 16 pixels of 0.5 um."""

_UNSEEN, _TUMOUR, _STROMA, _REST = 0, TIGER_TUMOUR[0], TIGER_STROMA[0], 7
_STRIP_PIXELS = 1 << 22
_MAX_POINTS = 500_000  # of the outlines that the alpha shape goes round
_BULK_MPP = 4.0  # the bulk is never drawn finer than this to count its pixels
_LARGEST_DISTANCE_UM = 50.0


@dataclass(frozen=True, kw_only=True)
class BulkSettings:
    """How the tumour bulk is made out; the defaults are the baseline's for resections.

    Attributes:
        mpp: Micrometres per pixel at which tumour is looked at: 64 pixels of 0.5 um.
        speck_mm2: Smaller pieces of tumour are removed first.
        disc_um: Diameter of the disc that tumour is closed and opened with.
        least_mm2: Smaller pieces are removed then.
        alpha_per_um: Of the alpha shape; a larger one follows concavities more closely. 0.07 per pixel of 32 um.
        buffer_um: How much the shape is widened.
    """

    mpp: float = 32.0
    speck_mm2: float = 0.005
    disc_um: float = 1000.0
    least_mm2: float = 1.5
    alpha_per_um: float = 0.07 / 32
    buffer_um: float = 250.0

    def __post_init__(self):
        sizes = (self.speck_mm2, self.disc_um, self.least_mm2, self.buffer_um)
        if not (all(math.isfinite(size) and size >= 0 for size in sizes) and max(self.disc_um, self.buffer_um) <= 1e4):
            raise SpecError(f"areas and lengths of a bulk are at least 0, lengths at most 10,000 um; got {self}.")
        if self.disc_um < 2 * self.mpp:
            raise SpecError(f"a bulk's disc_um is at least two pixels of {self.mpp:g} um, got {self.disc_um}.")
        if not (1 <= self.mpp <= 128 and 1e-5 <= self.alpha_per_um <= 1):
            raise SpecError(
                f"a bulk's mpp is 1 to 128 um and its alpha 0.00001 to 1 per um, got {self.mpp} and "
                f"{self.alpha_per_um}. Divide an alpha per pixel by the pixel's micrometres."
            )


RESECTION = BulkSettings()
BIOPSY = BulkSettings(disc_um=500.0, least_mm2=1.0)


@dataclass(frozen=True, kw_only=True)
class Tils:
    """The lymphocytes of a slide's tumour stroma.

    Attributes:
        score: 100 · cells · 64 um2 over the area of stroma in the bulk; may exceed 100; 0 without such stroma.
        density_per_mm2: Cells per mm2 of stroma in the bulk; 0 without such stroma.
        cells: Lymphocytes in stroma of the bulk, double ones not counted.
        cells_double: Further ones there, too close to another.
        cells_elsewhere: All others that were given.
        tumour_mm2: Area of tumour on the slide.
        stroma_mm2: Area of stroma on the slide.
        bulk_mm2: Area of the bulk on the slide.
        bulk_tumour_mm2: Tumour in the bulk.
        bulk_stroma_mm2: Stroma in the bulk.
        bulk_unseen_mm2: Area of the bulk that has no label.
        note: Why there is no score or what is odd about it, or empty.
        bulk: The tumour bulk, named "tumour bulk", with the numbers as measurements; None without any.
    """

    score: float
    density_per_mm2: float
    cells: int
    cells_double: int
    cells_elsewhere: int
    tumour_mm2: float
    stroma_mm2: float
    bulk_mm2: float
    bulk_tumour_mm2: float
    bulk_stroma_mm2: float
    bulk_unseen_mm2: float
    note: str
    bulk: Annotation | None


def labels_of(
    heatmap: Raster, *, tumour: Collection[str], stroma: Collection[str], covered: Raster | None = None
) -> Raster:
    """TIGER's labels from a heatmap of several classes, worked out where they are looked at.

    A pixel is of its most probable channel: 1 for tumour, 2 for stroma, 7 for all others; 0 where it is not covered, or
    where a probability is NaN.

    Args:
        heatmap: Probabilities with named channels.
        tumour: Names of the channels that are invasive tumour.
        stroma: Names of the channels that are tumour-associated or inflamed stroma.
        covered: Mask in the heatmap's frame of what was looked at; by default everything.
    """
    for what, names in (("tumour", tumour), ("stroma", stroma)):
        if isinstance(names, str) or not names or not set(names) <= set(heatmap.channels):
            raise SpecError(
                f"{what} is one or more of the heatmap's channels {', '.join(heatmap.channels) or '(it has none)'}, "
                f"got {names!r}. Write ({heatmap.channels[0] if heatmap.channels else 'name'!r},)."
            )
    if both := set(tumour) & set(stroma):
        raise SpecError(f"a channel is tumour or stroma, got {', '.join(sorted(both))} as both.")
    if covered is not None and (covered.frame != heatmap.frame or covered.channels):
        raise SpecError(f"covered is a mask in the heatmap's frame, {heatmap.frame}, got {covered.frame}.")
    meaning = [_TUMOUR if name in tumour else _STROMA if name in stroma else _REST for name in heatmap.channels]
    table = np.array(meaning, np.uint8)

    def rows(chosen: slice) -> np.ndarray:
        values = np.asarray(heatmap.values[chosen])
        labels = table[values.argmax(-1)]
        if values.dtype.kind == "f":
            labels[np.isnan(values).any(-1)] = _UNSEEN
        if covered is not None:
            labels[np.asarray(covered.values[chosen]) == 0] = _UNSEEN
        return labels

    return Raster(Layer(heatmap.frame.shape, np.dtype(np.uint8), rows), heatmap.frame)


def til_score(
    labels: Raster,
    points: np.ndarray | Sequence[tuple[float, float]],
    *,
    bulk: BulkSettings | Annotation = RESECTION,
    min_distance_um: float | None = None,
) -> Tils:
    """The density of lymphocytes in the stroma of a slide's tumour bulk, and TIGER's score of it.

    Args:
        labels: TIGER's labels 0 to 7, of `labels_of` or a mask; read in strips.
        points: (n, 2) x and y of lymphocytes in level-0 pixels, the surest first.
        bulk: How the tumour bulk is made out, or the bulk itself, as drawn by a pathologist.
        min_distance_um: Cells closer than this to an earlier one that counts are that one again. By default none is;
            the baseline suppresses boxes of 8 um that overlap by over 70 %, which is at about 2.5 um.

    Raises:
        ResultError: A point is not finite or lies off the slide.

    Example:
        >>> stroma = Raster(np.full((100, 100), 2, np.uint8), Frame.level0(100, 100, 10.0))
        >>> half = Annotation("bulk", shapely.box(0, 0, 50, 100))  # 0.5 mm2
        >>> til_score(stroma, [(20, 20), (30, 90), (70, 20)], bulk=half).density_per_mm2
        4.0
    """
    _check(labels)
    if min_distance_um is not None and not 0 <= min_distance_um <= _LARGEST_DISTANCE_UM:
        raise SpecError(f"min_distance_um is 0 to {_LARGEST_DISTANCE_UM:g} um or None, got {min_distance_um}.")
    positions = _positions(points, labels.frame)
    found = tumour_bulk(labels, bulk) if isinstance(bulk, BulkSettings) else bulk
    pixels, counted = _count(labels, found, positions)
    inside = positions[counted]
    kept = _apart(inside * (labels.frame.mpp / labels.frame.downsample), min_distance_um or 0.0)
    return _tils(pixels * labels.frame.pixel_mm2, (kept, len(inside), len(positions)), found)


def _check(labels: Raster) -> None:
    if labels.channels or np.dtype(labels.values.dtype).kind not in "ui":
        raise SpecError(
            "tissue labels are a single layer of whole numbers from 0 to 7, got "
            f"{f'the channels {labels.channels}' if labels.channels else labels.values.dtype}. "
            "Of a heatmap of classes, make them with labels_of(heatmap, tumour=…, stroma=…)."
        )


def _positions(points: np.ndarray | Sequence[tuple[float, float]], frame: Frame) -> np.ndarray:
    """(n, 2) checked positions."""
    positions = np.asarray(points, float)
    positions = positions.reshape(-1, 2) if positions.size == 0 else positions
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise SpecError(f"points are (n, 2) x and y in level-0 pixels, got an array of shape {positions.shape}.")
    outside = ~((positions >= 0) & (positions < frame.slide_size)).all(1)
    if outside.any():
        x, y = positions[outside][0]
        raise ResultError(
            f"lymphocytes lie on the slide of {frame.slide_size[0]} x {frame.slide_size[1]} level-0 pixels, got "
            f"{int(outside.sum())} that do not, the first at ({x:g}, {y:g}). Are they in level-0 pixels of this slide?"
        )
    return positions


def _tils(areas: np.ndarray, cells: tuple[int, int, int], bulk: Annotation | None) -> Tils:
    """Put together.

    Args:
        areas: (2, 8) mm2 of each label outside and inside of the bulk.
        cells: Those that count, those in stroma of the bulk, and all.
        bulk: The bulk.
    """
    kept, inside, given = cells
    tumour, stroma = (areas[:, labels].sum(1) for labels in (TIGER_TUMOUR, TIGER_STROMA))
    density = kept / stroma[1] if stroma[1] else 0.0
    score = 100 * density * CELL_UM2 / 1e6
    note = f"the score is above 100: {kept} cells of 8 um x 8 um do not fit into the stroma" if score > 100 else ""
    if not stroma[1]:
        note = "there is no tumour bulk" if bulk is None else "there is no stroma in the tumour bulk"
    numbers = {
        "score": float(score),
        "density_per_mm2": float(density),
        "tumour_mm2": float(tumour.sum()),
        "stroma_mm2": float(stroma.sum()),
        "bulk_mm2": float(areas[1].sum()),
        "bulk_tumour_mm2": float(tumour[1]),
        "bulk_stroma_mm2": float(stroma[1]),
        "bulk_unseen_mm2": float(areas[1, _UNSEEN]),
    }
    counts = {"cells": kept, "cells_double": inside - kept, "cells_elsewhere": given - inside}
    if bulk is not None:
        shown = {f"TILs {name.replace('_', ' ')}": value for name, value in (numbers | counts).items()}
        bulk = Annotation(bulk.name, bulk.geometry, bulk.color, dict(bulk.measurements) | shown)
    return Tils(**numbers, **counts, note=note, bulk=bulk)


def _count(labels: Raster, bulk: Annotation | None, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, 8) pixels of each label outside and inside of the bulk; (n,) whether a position is in stroma of the bulk."""
    frame = labels.frame
    coarse = frame if frame.mpp >= _BULK_MPP else frame.at(_BULK_MPP)
    inside = rasterize([bulk] if bulk else [], coarse)
    places = np.minimum(np.floor(positions / frame.downsample).astype(np.int64), (frame.width - 1, frame.height - 1))
    order = np.argsort(places[:, 1], kind="stable")
    counted = np.zeros(len(positions), bool)
    pixels = np.zeros(16, np.int64)
    for box, values in _strips(labels):
        known = values.astype(np.uint8) + 8 * inside.sample(box, frame).astype(np.uint8)
        pixels += np.bincount(known[:, : frame.on_slide.width].ravel(), minlength=16)
        first, last = np.searchsorted(places[order, 1], [box.y, box.bottom])
        here = order[first:last]
        counted[here] = np.isin(known[places[here, 1] - box.y, places[here, 0]], np.array(TIGER_STROMA) + 8)
    return pixels.reshape(2, 8), counted


def _strips(labels: Raster) -> Iterator[tuple[Box, np.ndarray]]:
    """The rows on the slide."""
    on, width = labels.frame.on_slide, labels.frame.width
    height = max(1, _STRIP_PIXELS // width)
    for y in range(0, on.height, height):
        box = Box(0, y, width, min(height, on.height - y))
        values = labels.crop(box)
        if values.min() < 0 or values.max() > _REST:
            raise SpecError(
                f"tissue labels are TIGER's, 0 to 7, got {values.min()} and {values.max()}. Bring others to these: "
                "1 tumour, 2 and 6 stroma, 7 the rest, 0 not looked at."
            )
        yield box, values


def _apart(positions: np.ndarray, distance: float) -> int:
    """How many positions count when each is at least `distance` from all earlier ones that count; both in um."""
    if not distance:
        return len(positions)
    kept: dict[tuple[int, int], list[tuple[float, float]]] = {}
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    count = 0
    for x, y in positions.tolist():
        column, row = int(x // distance), int(y // distance)
        near = (other for dx, dy in around for other in kept.get((column + dx, row + dy), ()))
        if all(math.hypot(x - u, y - v) >= distance for u, v in near):
            kept.setdefault((column, row), []).append((x, y))
            count += 1
    return count


def tumour_bulk(labels: Raster, settings: BulkSettings = RESECTION) -> Annotation | None:
    """The bulk of a slide's invasive tumour, as the module says; None where no piece is large enough.

    Args:
        labels: TIGER's labels 0 to 7.
        settings: `RESECTION` or `BIOPSY`, or others.

    Returns:
        An annotation "tumour bulk", a polygon or several, cut to the slide.
    """
    _check(labels)
    frame = labels.frame.at(settings.mpp)
    tumour = _large(_tumour(labels, frame), settings.speck_mm2 / frame.pixel_mm2)
    radius = settings.disc_um / 2 / frame.mpp
    tumour = _large(opened(closed(tumour, radius), radius), settings.least_mm2 / frame.pixel_mm2)
    if not tumour.any():
        return None
    hull = _concave_hull(tumour, 1 / settings.alpha_per_um / frame.mpp)
    wide = shapely.get_parts(shapely.buffer(hull, settings.buffer_um / frame.mpp))
    whole = shapely.union_all(shapely.polygons(shapely.get_exterior_ring(wide)))
    level0 = shapely.transform(whole, lambda positions: positions * frame.downsample)
    cut = repair(shapely.intersection(level0, shapely.box(0, 0, *frame.slide_size)))
    return Annotation("tumour bulk", cut, (200, 120, 0)) if cut is not None else None


def _tumour(labels: Raster, frame: Frame) -> np.ndarray:
    """Whether tumour is under the centre of each pixel, read in strips."""
    result = np.zeros(frame.shape, bool)
    for box in frame.rows(max(1, int(_STRIP_PIXELS / labels.frame.width / frame.scale_to(labels.frame)))):
        result[box.slices()] = np.isin(labels.sample(box, frame), TIGER_TUMOUR)
    return result


def _large(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The components of at least so many pixels, which may touch at a corner."""
    count, components, numbers, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = numbers[:count, cv2.CC_STAT_AREA] >= pixels - 1e-6
    kept[0] = False
    return kept[components]


def _concave_hull(mask: np.ndarray, radius: float) -> BaseGeometry:
    """The alpha shape of the centres of a mask's pixels: all Delaunay triangles in circles below a radius; in pixels.

    Triangles are made of the mask's border alone, and those within the mask are taken whatever their size: between all
    its pixels there would be small ones in their place, and beside it the same.
    """
    inner = np.pad(mask, 1)
    inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    points = np.argwhere(mask & ~inner)[:, ::-1] + 0.5
    if len(points) > _MAX_POINTS:
        raise SpecError(f"the tumour's border has {len(points):,} pixels, over {_MAX_POINTS:,}. Use a coarser mpp.")
    if np.ptp(points, axis=0).min() == 0:
        return shapely.convex_hull(shapely.multipoints(points))
    corners = points[Delaunay(points).simplices]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice_area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    lengths = [np.hypot(*side.T) for side in (first, second, second - first)]
    column, row = np.floor(corners.mean(1)).astype(np.int64).T
    kept = (twice_area > 0) & (mask[row, column] | (math.prod(lengths) < 2 * radius * twice_area))
    return shapely.coverage_union_all(shapely.polygons(corners[kept]))
