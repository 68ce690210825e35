"""The true class of every pixel of a case, wherever it comes from: outlines, a mask, or one label for the whole slide.

Labels are looked up under the centre of a pixel and never averaged. What lies outside of the slide is 255, ignored.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely

from digipath.data.case import Case
from digipath.data.classes import IGNORED, ClassRules
from digipath.data.mask_files import MaskFile, open_mask, reduction
from digipath.errors import CohortError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import Annotation, cut_out, repair
from digipath.geometry.raster import Raster
from digipath.geometry.scanline import fill
from digipath.io.annotations import read_annotations
from digipath.slides.slide import Slide

if TYPE_CHECKING:
    from digipath.data.cohort import Cohort

__all__ = ["LabelSource", "label_source", "mask_grid", "read_case_annotations"]

# Outlines are cut into pieces of at most so many vertices, so that a patch looks at few of them; pieces whose sides
# are shorter than this (level-0 pixels) stay whole.
_VERTICES = 256
_SIDE = 64
_STRIP_PIXELS = 1 << 24


class LabelSource(Protocol):
    """The true class of every pixel of a case; may be asked by any number of threads."""

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """(box.height, box.width) uint8 index of the class under each pixel's centre; 255 to be ignored.

        Args:
            box: Rectangle in `frame`; outside of the slide is 255.
            frame: A frame of the case's slide.
        """

    def tumour_area_mm2(self) -> float:
        """Area of the last class, in mm2."""

    def close(self) -> None:
        """Free what is open."""


@dataclass(frozen=True)
class _Place:
    """The case, and its slide's own pixels."""

    name: str
    label: str | None
    frame: Frame
    bounds: Box | None


def label_source(case: Case, cohort: "Cohort", *, slide: Slide | None = None) -> LabelSource:
    """What the pixels of a case are.

    Args:
        case: One of the cohort's.
        cohort: Names the classes.
        slide: The case's slide where it is open already; else it is opened for a moment.

    Raises:
        CohortError: The case has no annotations, mask or label, or they do not fit the slide or the classes.
        AnnotationError: Its annotation file is damaged.
    """
    if slide is None:
        with case.opened() as opened:
            return label_source(case, cohort, slide=opened)
    place = _Place(case.name, case.label, slide.frame, slide.bounds)
    if case.annotations is not None:
        return PolygonLabels(read_case_annotations(case, slide), cohort.rules, place)
    if case.mask is not None:
        return MaskLabels(case.mask, cohort.rules, place)
    if case.label is None:
        raise CohortError(
            f"case {case.name!r} has no annotations, no mask and no label, so nothing says what its pixels are. "
            f"For a slide that is all {cohort.classes[0]!r}, write that as its label."
        )
    return UniformLabels(cohort.rules.of_label(case.label, case=case.name), cohort.rules, place)


def read_case_annotations(case: Case, slide: Slide) -> Sequence[Annotation]:
    """A case's annotations in level-0 pixels, read from their file where they are one."""
    if not isinstance(case.annotations, Path):
        return case.annotations or ()
    corner = (slide.bounds.x, slide.bounds.y) if slide.bounds else None
    return read_annotations(case.annotations, origin=corner)


def _canvas(box: Box, frame: Frame, place: _Place) -> tuple[np.ndarray, Box]:
    """Labels that are all ignored, and the part of the box whose centres lie on the slide."""
    if frame.slide_size != place.frame.slide_size:
        raise SpecError(
            f"labels of case {place.name!r} are read in a frame of its slide, of {place.frame.slide_size} level-0 "
            f"pixels; got one of {frame.slide_size}. Take slide.frame.at(mpp)."
        )
    return np.full((box.height, box.width), IGNORED, np.uint8), box.intersect(frame.on_slide)


class UniformLabels:
    """One class throughout."""

    def __init__(self, label: int, rules: ClassRules, place: _Place):
        self._label, self._rules, self._place = label, rules, place

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """See LabelSource."""
        labels, inside = _canvas(box, frame, self._place)
        if inside.area:
            labels[inside.shift(-box.x, -box.y).slices()] = self._label
        return labels

    def tumour_area_mm2(self) -> float:
        """The whole slide's area where it is of the last class, else 0."""
        frame = self._place.frame
        return frame.box.area * frame.pixel_mm2 if self._label == self._rules.lesion else 0.0

    def close(self) -> None:
        """Nothing is open."""


class PolygonLabels:
    """Outlines, rasterised where they are looked at.

    Where areas overlap, the class that comes later counts, and ignored areas over all. Nothing is drawn below the
    first class, so an area of that class is cut out of every larger area of another class, as an exclusion.
    """

    def __init__(self, annotations: Sequence[Annotation], rules: ClassRules, place: _Place):
        self._rules, self._place = rules, place
        areas = [annotation for annotation in annotations if annotation.has_area]
        if len(areas) < len(annotations):
            warnings.warn(
                f"case {place.name!r}: {len(annotations) - len(areas)} of {len(annotations)} annotations are points "
                "or lines, which cover no pixels.",
                stacklevel=3,
            )
        meaning = rules.of_annotations((annotation.name for annotation in areas), case=place.name)
        outer = [annotation for annotation in areas if meaning[annotation.name] != 0]
        holes = [annotation.geometry for annotation in areas if meaning[annotation.name] == 0]
        outer = cut_out(outer, [hole for hole in map(_valid, holes) if hole is not None])
        self._order = sorted({meaning[annotation.name] for annotation in outer})
        pieces = [_pieces([a for a in outer if meaning[a.name] == label]) for label in self._order]
        self._labels = np.repeat(self._order, [len(part) for part in pieces])
        self._polygons = np.concatenate([np.zeros(0, object), *pieces])
        self._tree = shapely.STRtree(self._polygons)

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """See LabelSource."""
        labels, inside = _canvas(box, frame, self._place)
        if not inside.area:
            return labels
        part = labels[inside.shift(-box.x, -box.y).slices()]
        part[:] = 0
        scale = frame.downsample
        hits = self._tree.query(shapely.box(*(edge * scale for edge in inside.bounds)))
        local = Frame(inside.width, inside.height, scale, frame.mpp, frame.slide_size)
        corner = np.array([inside.x, inside.y]) * scale
        for label in self._order:
            chosen = self._polygons[hits[self._labels[hits] == label]]
            if len(chosen):
                part[fill(shapely.transform(chosen, lambda points: points - corner), local)] = label
        return labels

    def tumour_area_mm2(self) -> float:
        """Area of what the last class covers on the slide, each place once and without what is ignored."""
        lesion = shapely.disjoint_subset_union_all(self._polygons[self._labels == self._rules.lesion])
        ignored = shapely.disjoint_subset_union_all(self._polygons[self._labels == IGNORED])
        frame = self._place.frame
        on_slide = shapely.intersection(lesion, shapely.box(0, 0, frame.width, frame.height))
        return float(shapely.difference(on_slide, ignored).area * frame.pixel_mm2)

    def close(self) -> None:
        """Nothing is open."""


def _valid(geometry: shapely.Geometry) -> shapely.Geometry | None:
    return geometry if geometry.is_valid else repair(geometry)


def _pieces(annotations: Sequence[Annotation]) -> np.ndarray:
    """(n,) valid Polygons that cover the same, large ones cut along lines between pixels."""
    whole = [polygon for annotation in annotations if (polygon := _valid(annotation.geometry)) is not None]
    waiting, done = shapely.get_parts(whole), []
    while len(waiting):
        left, top, right, bottom = shapely.bounds(waiting).T
        side = np.maximum(right - left, bottom - top)
        small = (shapely.get_num_coordinates(waiting) <= _VERTICES) | (side <= _SIDE)
        done.append(waiting[small])
        waiting = waiting[~small]
        left, top, right, bottom = (edge[~small] for edge in (left, top, right, bottom))
        wide = right - left >= bottom - top
        x, y = (np.round((low + high) / 2) for low, high in ((left, right), (top, bottom)))
        first = shapely.box(left, top, np.where(wide, x, right), np.where(wide, bottom, y))
        second = shapely.box(np.where(wide, x, left), np.where(wide, top, y), right, bottom)
        parts = shapely.intersection(np.tile(waiting, 2), np.concatenate([first, second]))
        parts = shapely.get_parts(shapely.get_parts(parts))
        waiting = parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)]
    return np.concatenate([np.zeros(0, object), *done])


class MaskLabels:
    """A mask of labels: a small image as class indices in memory, a raster or a large image box by box."""

    def __init__(self, mask: Path | Raster, rules: ClassRules, place: _Place):
        rules.check_mask(place.label, case=place.name)
        self._rules, self._place, self._lock = rules, place, Lock()
        self._mask = open_mask(mask) if isinstance(mask, Path) else _checked(mask, place)
        self._size, self._scale = mask_grid(self._mask, place.frame, case=place.name)
        self._tiles = self._mask.open_tiles() if isinstance(self._mask, MaskFile) and self._mask.is_large else None
        self._whole: np.ndarray | None = None
        if self._tiles and self._mask.lossy and rules.mask_values is None:
            raise CohortError(
                f"case {place.name!r}: its mask {self._mask.path.name} is compressed with loss, and too large to be "
                "looked at whole first. Say what it holds, such as mask_values={0: 'other', 255: 'lesion'}."
            )

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """See LabelSource."""
        labels, inside = _canvas(box, frame, self._place)
        if not inside.area:
            return labels
        part = labels[inside.shift(-box.x, -box.y).slices()]
        columns, rows = (
            np.minimum(((np.arange(first, last) + 0.5) * (frame.downsample / scale)).astype(int), side - 1)
            for first, last, scale, side in zip(
                inside.bounds[:2], inside.bounds[2:], self._scale, self._size, strict=True
            )
        )
        left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
        step = max(1, int(_STRIP_PIXELS / width * len(rows) / (rows[-1] - rows[0] + 1)))
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            top, height = int(chosen[0]), int(chosen[-1] - chosen[0]) + 1
            values = self._labels(Box(left, top, width, height))
            part[first : first + step] = values[(chosen - top)[:, None], columns - left]
        return labels

    def tumour_area_mm2(self) -> float:
        """Area of the mask's pixels of the last class."""
        width, height = self._size
        rows = max(1, _STRIP_PIXELS // width)
        boxes = (Box(0, y, width, min(rows, height - y)) for y in range(0, height, rows))
        count = sum(int(np.count_nonzero(self._labels(box) == self._rules.lesion)) for box in boxes)
        return count * self._scale[0] * self._scale[1] * self._place.frame.pixel_mm2

    def close(self) -> None:
        """Free the mask file."""
        if self._tiles is not None:
            self._tiles.close()

    def _labels(self, box: Box) -> np.ndarray:
        """(rows, columns) uint8 of a box in pixels of the mask."""
        if isinstance(self._mask, Raster):
            return self._meaning(np.asarray(self._mask.values[box.slices()]))
        if self._tiles is not None:
            return self._meaning(self._tiles.read(box))
        with self._lock:
            if self._whole is None:
                self._whole = self._meaning(self._mask.load())
        return self._whole[box.slices()]

    def _meaning(self, values: np.ndarray) -> np.ndarray:
        lossy = isinstance(self._mask, MaskFile) and self._mask.lossy
        return self._rules.of_mask(values, self._place.label, case=self._place.name, lossy=lossy)


def _checked(mask: Raster, place: _Place) -> Raster:
    if mask.channels or mask.values.dtype.kind not in "bui":
        raise CohortError(
            f"case {place.name!r}: a mask is a raster of one layer of booleans or whole numbers, got "
            f"{mask.values.dtype} with {len(mask.channels)} channels. Take one of them, or a threshold."
        )
    return mask


def mask_grid(mask: MaskFile | Raster, frame: Frame, *, case: str) -> tuple[tuple[int, int], tuple[float, float]]:
    """(width, height) of a mask in its own pixels, and level-0 pixels per pixel of it along x and y.

    Raises:
        CohortError: It does not cover the slide.
    """
    if isinstance(mask, MaskFile):
        return mask.size, reduction(mask.size, frame.slide_size, case=case)
    if mask.frame.slide_size != frame.slide_size:
        raise CohortError(
            f"case {case!r}: its mask is a raster of a slide of {mask.frame.slide_size} level-0 pixels, "
            f"and its slide has {frame.slide_size}. Make it in a frame of this slide, such as slide.frame.at(mpp)."
        )
    return (mask.frame.width, mask.frame.height), (mask.frame.downsample,) * 2
