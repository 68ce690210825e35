"""The tissue sections of a slide, and how much tumour each of them has at any prediction threshold.

Le'Clerc Arrastia et al. 2021 (Journal of Imaging 7) judge sections, of which a slide has several, cut from one or more
specimens. A section is tissue that hangs together: fragments that are at most `join_um` apart are one section, and so
is a chain of them. The distance is the exact one between the outlines of two fragments, not that of dilated masks,
which would be a pixel or two off. (A mask grown by a little less than half of `join_um` only tells which fragments
hang together for sure, so that a mask full of specks has no billions of pairs to measure.)

Tumour of a section is where the heatmap is above the prediction threshold on tissue of that section. Two measures of
it fall as the threshold rises: the area of all of it, and that of its largest connected region (pixels that touch at a
corner are connected), which is the one that the paper's area threshold is held against.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from digipath.errors import SpecError
from digipath.geometry.components import Runs, find_runs
from digipath.geometry.contours import trace
from digipath.geometry.discs import near
from digipath.geometry.frame import Box, Frame, covering
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster

__all__ = ["Section", "SectionTumour", "Sections", "find_sections", "section_tumour"]

_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True)
class Section:
    """One tissue section of a slide.

    Attributes:
        id: From 1, in reading order: rows of sections from top to bottom, each from left to right.
        box: The smallest box around it, in level-0 pixels, on the slide.
        area_mm2: Of its tissue.
        outline: A shapely Polygon, or a MultiPolygon of its fragments, with holes, in level-0 pixels.
    """

    id: int
    box: Box
    area_mm2: float
    outline: shapely.Polygon | shapely.MultiPolygon

    @property
    def fragments(self) -> int:
        """How many pieces of tissue it is made of."""
        return len(shapely.get_parts(self.outline))


@dataclass(frozen=True)
class Sections:
    """All sections of a slide, in order of their ids.

    Attributes:
        items: The sections.
        labels: The id of the section of every pixel of the tissue mask, 0 on glass and debris; unsigned integers.
    """

    items: tuple[Section, ...]
    labels: Raster

    def __iter__(self) -> Iterator[Section]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def mask(self, section: Section | int) -> Raster:
        """The tissue of one section, a boolean raster."""
        chosen = section if isinstance(section, int) else section.id
        return Raster(self.labels.array() == chosen, self.labels.frame)


def find_sections(tissue: Raster, *, join_um: float = 250.0, min_area_mm2: float = 0.05) -> Sections:
    """The tissue sections of a slide.

    Args:
        tissue: Single-layer mask of tissue; some 8 um per pixel are enough.
        join_um: Fragments at most this far apart belong to one section. Our default, not the paper's, whose sections
            were boxed by hand: a crack in a section is narrower, two sections are further apart.
        min_area_mm2: Sections with less tissue are debris and left out. Our default: a square of 0.22 mm.

    Example:
        >>> tissue = np.zeros((100, 300), bool)
        >>> tissue[10:90, 10:90] = tissue[10:90, 120:290] = True
        >>> len(find_sections(Raster(tissue, Frame.level0(300, 100, 8.0))))
        1
        >>> len(find_sections(Raster(tissue, Frame.level0(300, 100, 8.0)), join_um=100))
        2
    """
    for name, value in (("join_um", join_um), ("min_area_mm2", min_area_mm2)):
        if not (np.isfinite(value) and value >= 0):
            raise SpecError(f"{name} is a number of at least 0, got {value}.")
    if np.dtype(tissue.values.dtype).kind == "f":
        raise SpecError(f"tissue is a mask, got {tissue.values.dtype}. Take one with .threshold(value).")
    runs, frame = find_runs(tissue), tissue.frame
    outlines = trace(runs, np.arange(len(runs.pixels)))
    group = _joined(outlines, _surely(tissue, runs, join_um / frame.mpp), join_um * frame.downsample / frame.mpp)
    pixels = np.bincount(group, weights=runs.pixels)
    kept = np.flatnonzero((pixels * frame.pixel_mm2 >= min_area_mm2) & (pixels > 0))
    order = np.argsort(group, kind="stable")
    parts = np.split(outlines[order], np.cumsum(np.bincount(group))[:-1]) if len(group) else []
    found = [_section(parts[one], float(pixels[one] * frame.pixel_mm2), frame) for one in kept]
    reading = _reading_order([section.box for section in found])
    ids = np.zeros(len(pixels) + 1, np.int64)
    ids[kept[reading]] = np.arange(1, len(kept) + 1)
    items = [Section(rank, *_rest(found[index])) for rank, index in enumerate(reading, 1)]
    return Sections(tuple(items), _labels(runs, ids[group], len(kept)))


def _surely(tissue: Raster, runs: Runs, distance: float) -> np.ndarray:
    """(components,) a group for each; those of one are chained by at most `distance` pixels, but not all such are.

    Pixels that are within a radius of two fragments and touch each other, perhaps at a corner, are √2 apart.
    """
    radius = (distance - math.sqrt(2)) / 2
    if radius < 1:
        return np.arange(len(runs.pixels))

    def rows(chosen: slice) -> np.ndarray:
        first = max(0, chosen.start - math.ceil(radius))
        values = np.asarray(tissue.values[first : chosen.stop + math.ceil(radius)]) != 0
        return near(values, radius)[chosen.start - first : chosen.stop - first]

    grown = find_runs(Raster(Layer(tissue.frame.shape, np.dtype(bool), rows), tissue.frame), connectivity=8)
    group = np.zeros(len(runs.pixels), np.int64)
    group[runs.component] = grown.component[np.searchsorted(grown.starts, runs.starts, "right") - 1]
    return group


def _joined(outlines: np.ndarray, group: np.ndarray, distance: float) -> np.ndarray:
    """(n,) the group of each outline; with those that are at most `distance` level-0 pixels apart put together."""
    if not len(outlines):
        return group
    names, group = np.unique(group, return_inverse=True)
    order = np.argsort(group, kind="stable")
    wholes = shapely.multipolygons(outlines[order], indices=group[order])
    pairs = shapely.STRtree(wholes).query(wholes, predicate="dwithin", distance=distance)
    graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(len(names),) * 2)
    return connected_components(graph, directed=False)[1][group]


def _section(parts: np.ndarray, area_mm2: float, frame: Frame) -> Section:
    outline = parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))
    slide = Box(0, 0, *frame.slide_size)
    return Section(0, covering(*outline.bounds).intersect(slide), area_mm2, outline)


def _rest(section: Section) -> tuple:
    return section.box, section.area_mm2, section.outline


def _reading_order(boxes: Sequence[Box]) -> list[int]:
    """Indices row by row: a row is the topmost box left and all whose middle is above its lower edge."""
    left = sorted(range(len(boxes)), key=lambda index: (boxes[index].y, boxes[index].x))
    order = []
    while left:
        edge = boxes[left[0]].bottom
        line = [index for index in left if boxes[index].y + boxes[index].height / 2 < edge]
        order += sorted(line, key=lambda index: (boxes[index].x, boxes[index].y))
        left = [index for index in left if index not in line]
    return order


def _labels(runs: Runs, label: np.ndarray, largest: int) -> Raster:
    """The label of each run's component, painted; unsigned integers as small as they can be."""
    frame, stride = runs.frame, runs.stride
    values = np.zeros(frame.shape, np.min_scalar_type(largest))
    label = label[runs.component]
    for box in frame.rows(max(1, _STRIP_PIXELS // stride)):
        first, last = np.searchsorted(runs.starts, [box.y * stride, box.bottom * stride])
        change = np.zeros(box.height * stride, np.int64)
        change[runs.starts[first:last] - box.y * stride] = label[first:last]
        change[runs.stops[first:last] - box.y * stride] = -label[first:last]
        values[box.slices()] = change.cumsum().reshape(box.height, stride)[:, : frame.width]
    return Raster(values, frame)


@dataclass(frozen=True, eq=False)
class SectionTumour:
    """How much tumour a section has above each of some prediction thresholds.

    Attributes:
        section: Its id.
        predictions: (n,) prediction thresholds, rising.
        total_um2: (n,) area where the heatmap is above each.
        largest_um2: (n,) area of the largest connected region of that.
    """

    section: int
    predictions: np.ndarray
    total_um2: np.ndarray
    largest_um2: np.ndarray


def section_tumour(sections: Sections, heatmap: Raster, predictions: Sequence[float]) -> list[SectionTumour]:
    """Measure the tumour of each section above each threshold, in order of the sections.

    The heatmap is read once; a section is held in memory at one byte a pixel of it, with all thresholds.

    Args:
        sections: Of `find_sections`.
        heatmap: Single-layer probabilities of tumour, at any resolution; NaN, where nothing was predicted, is none.
        predictions: Thresholds from 0 to 1, rising; at most 255.
    """
    predictions = _checked(sections, heatmap, predictions)
    frame, found = heatmap.frame, []
    for section in sections:
        left, top, right, bottom = (edge / frame.downsample for edge in section.box.bounds)
        levels, local = _levels(sections, section.id, heatmap, predictions, covering(left, top, right, bottom))
        counts = np.bincount(levels.ravel(), minlength=len(predictions) + 1)
        total = counts[::-1].cumsum()[::-1][1:]
        largest = [_largest(levels > rank, local) if pixels else 0 for rank, pixels in enumerate(total)]
        found.append(
            SectionTumour(section.id, predictions, total * frame.mpp**2, np.array(largest, float) * frame.mpp**2)
        )
    return found


def _checked(sections: Sections, heatmap: Raster, predictions: Sequence[float]) -> np.ndarray:
    if heatmap.channels or np.dtype(heatmap.values.dtype).kind != "f":
        raise SpecError(
            f"a heatmap is one layer of floating-point probabilities, got {heatmap.values.dtype} with channels "
            f"{heatmap.channels or 'none'}. For one of several channels, pass heatmap.channel(name)."
        )
    if heatmap.frame.slide_size != sections.labels.frame.slide_size:
        raise SpecError(
            f"sections and heatmap are of one slide, got {sections.labels.frame.slide_size} and "
            f"{heatmap.frame.slide_size} level-0 pixels."
        )
    chosen = np.asarray(predictions, float)
    rising = chosen.ndim == 1 and 0 < len(chosen) <= 255 and (np.diff(chosen) > 0).all()
    if not (rising and chosen[0] >= 0 and chosen[-1] <= 1):
        raise SpecError(f"prediction thresholds are 1 to 255 rising numbers from 0 to 1, got {predictions}.")
    return chosen


def _levels(
    sections: Sections, label: int, heatmap: Raster, predictions: np.ndarray, box: Box
) -> tuple[np.ndarray, Frame]:
    """How many thresholds each pixel of a section is above, uint8 and 0 off it; and a frame of the box alone."""
    frame = heatmap.frame
    box = box.intersect(frame.box)
    # In the heatmap's own type, so that a pixel is above a threshold just where Raster.threshold says so.
    steps = predictions.astype(heatmap.values.dtype)
    levels = np.zeros((box.height, box.width), np.uint8)
    height = max(1, _STRIP_PIXELS // max(1, box.width))
    for y in range(0, box.height, height):
        part = Box(box.x, box.y + y, box.width, min(height, box.height - y))
        values = np.asarray(heatmap.values[part.slices()])
        own = (sections.labels.sample(part, frame) == label) & ~np.isnan(values)
        levels[y : y + part.height][own] = np.searchsorted(steps, values[own], "left")
    return levels, Frame(max(1, box.width), max(1, box.height), frame.downsample, frame.mpp)


def _largest(mask: np.ndarray, frame: Frame) -> int:
    """Pixels of the largest region of a mask whose pixels may touch at a corner."""
    return int(find_runs(Raster(mask, frame), connectivity=8).pixels.max())
