"""Lesions of a slide as the organisers of CAMELYON16 count them (their `Evaluation_FROC.py`, commit 04faac5).

Everything is done at level 5 (32 x 32 level-0 pixels of 0.243 um, 7.776 um): what lies within 37.5 um of tumour belongs
to it, so that gaps of up to 75 um are bridged; holes are filled; what touches at a side or a corner is one lesion. A
lesion whose major axis, grown as it is, is below 200 + 75 um is isolated tumour cells (ITC), not to be found and not
wrong to be found.

The organisers know pixels alone: 32 x 32 on every slide, of 0.243 and of 0.226 um alike, with distances of 4.82 and
35.37 pixels. So it is here for slides of 0.2 to 0.3 um/px. Any other slide is looked at in pixels of 7.776 um.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster

__all__ = ["CAMELYON16", "LesionRule", "Lesions", "lesion_frame", "lesions_from_mask", "lesions_from_polygons"]

_DOWNSAMPLE = 32
_FULL_RESOLUTION = (0.2, 0.3)  # um per level-0 pixel of slides that were scanned at 40x
_STRIP_PIXELS = 1 << 25  # of the mask's own pixels, looked at at once


@dataclass(frozen=True, kw_only=True)
class LesionRule:
    """What belongs to one lesion, and how small isolated tumour cells are; the defaults are CAMELYON16's.

    Attributes:
        mpp: Micrometres per pixel at which lesions are made out: level 5 of 0.243 um.
        bridge_um: Gaps up to this wide are bridged ("five tumour cells"); lesions grow by half of it, exclusively.
        itc_um: Lesions with a major axis below this, after `bridge_um` is taken from it, are isolated tumour cells.
    """

    mpp: float = 0.243 * _DOWNSAMPLE
    bridge_um: float = 75.0
    itc_um: float = 200.0

    def __post_init__(self):
        sizes = (self.mpp, self.bridge_um, self.itc_um)
        if not (all(map(math.isfinite, sizes)) and self.mpp > 0 and min(sizes) >= 0 and self.grow_pixels <= 256):
            raise SpecError(
                "a lesion rule has an mpp above 0, a bridge_um of 0 to 512 of its pixels and an itc_um of at least 0, "
                f"in micrometres; got {self}."
            )

    @property
    def grow_pixels(self) -> float:
        """Pixels closer to tumour than this many belong to it: 4.82."""
        return self.bridge_um / (self.mpp * 2)

    @property
    def itc_pixels(self) -> float:
        """Lesions with a shorter major axis are isolated tumour cells: 35.37."""
        return (self.itc_um + self.bridge_um) / self.mpp


CAMELYON16 = LesionRule()


@dataclass(frozen=True)
class Lesions:
    """The lesions of one slide.

    Attributes:
        labels: A raster of 0 (none) and the lesions' numbers from 1 on, in reading order of their first pixels.
        itc: Numbers of those that are isolated tumour cells.
        axes_um: The major axis of each, grown as it is, in um; lesion `n` at `n - 1`.
    """

    labels: Raster
    itc: frozenset[int]
    axes_um: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.axes_um)

    @property
    def to_find(self) -> int:
        """How many lesions a detector should find: all but isolated tumour cells."""
        return len(self) - len(self.itc)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The lesion at each position, or 0.

        What a slide has beyond its last whole pixels, where labels have no more, belongs to the nearest.

        Args:
            positions: (n, 2) x and y in level-0 pixels.

        Raises:
            ResultError: One lies outside of the slide (the organisers' program ends with an IndexError).
        """
        positions, frame = np.asarray(positions, float).reshape(-1, 2), self.labels.frame
        pixels = np.floor(positions / frame.downsample)
        sides = np.maximum(frame.shape[::-1], np.ceil(np.divide(frame.slide_size, frame.downsample)))
        outside = ~((pixels >= 0) & (pixels < sides)).all(1)
        if outside.any():
            x, y = positions[outside][0]
            raise ResultError(
                f"detections lie on the slide of {frame.slide_size[0]} x {frame.slide_size[1]} level-0 pixels, got "
                f"{int(outside.sum())} outside of it, the first at ({x:g}, {y:g}). Are they in level-0 pixels, x "
                "before y, and of this slide?"
            )
        columns, rows = np.minimum(pixels, (frame.width - 1, frame.height - 1)).astype(np.int64).T
        return self.labels.values[rows, columns].astype(np.int64)


def lesion_frame(frame: Frame, *, rule: LesionRule = CAMELYON16) -> Frame:
    """The frame in which a slide's lesions are made out.

    Args:
        frame: Any frame of the slide.
        rule: At whose `mpp` lesions are made out. With CAMELYON16's, a slide of 0.2 to 0.3 um per level-0 pixel is
            looked at in pixels of exactly 32 x 32.
    """
    level0 = Frame.level0(*frame.slide_size, frame.mpp / frame.downsample)
    if rule.mpp == CAMELYON16.mpp and _FULL_RESOLUTION[0] <= level0.mpp <= _FULL_RESOLUTION[1]:
        return level0.coarser(_DOWNSAMPLE)
    return level0.at(rule.mpp)


def lesions_from_mask(mask: Raster, *, rule: LesionRule = CAMELYON16) -> Lesions:
    """The lesions of a truth mask at any resolution.

    A pixel of `lesion_frame` is tumour where the mask is under its centre; a mask of pixels as large as those is taken
    as it is. The mask is read in strips.

    Args:
        mask: Boolean, or 0 and one other value, such as 1 or 255.
        rule: What belongs to one lesion.

    Example:
        >>> mask = np.zeros((100, 100), bool)
        >>> mask[20:60, 30:40] = True  # 311 um long
        >>> lesions = lesions_from_mask(Raster(mask, Frame.level0(100, 100, 7.776)))
        >>> len(lesions), lesions.itc
        (1, frozenset())
    """
    frame = lesion_frame(mask.frame, rule=rule)
    return _lesions(_brought(mask, mask.frame if mask.frame.downsample == frame.downsample else frame), rule)


def lesions_from_polygons(annotations: Iterable[Annotation], slide: Frame, *, rule: LesionRule = CAMELYON16) -> Lesions:
    """The lesions that outlines go round, rasterized at `lesion_frame` alone.

    Args:
        annotations: Tumour, with its exclusions cut out as `read_annotations` of `{"positive", "negative"}` truth does
            (or `cut_out`); their names do not matter, so leave out what is no tumour.
        slide: Any frame of the slide.
        rule: What belongs to one lesion.
    """
    return _lesions(rasterize(annotations, lesion_frame(slide, rule=rule)), rule)


def _brought(mask: Raster, frame: Frame) -> Raster:
    """The mask under the centres of the frame's pixels."""
    if mask.channels or np.dtype(mask.values.dtype).kind not in "biu":
        raise SpecError(
            "a truth mask is a single layer of booleans or whole numbers, got "
            f"{f'the channels {mask.channels}' if mask.channels else mask.values.dtype}. For probabilities, > 0.5."
        )
    result, found = np.zeros(frame.shape, bool), set()
    height = max(1, int(_STRIP_PIXELS / mask.frame.width / frame.scale_to(mask.frame)))
    for box in frame.rows(height):
        values = mask.sample(box, frame)
        result[box.slices()] = values != 0
        found |= set(np.unique(values).tolist()) - {0}
        if len(found) > 1:
            raise SpecError(
                f"a truth mask holds 0 and one value for tumour, got {sorted(found)[:5]}. Compare with the class that "
                "is meant: labels == 2."
            )
    return Raster(result, frame)


def _lesions(tumour: Raster, rule: LesionRule) -> Lesions:
    labels = np.zeros(tumour.frame.shape, np.uint8)
    box = tumour.bounding_box()
    if not box.area:
        return Lesions(Raster(labels, tumour.frame), frozenset(), ())
    box = box.shrink(-math.ceil(rule.grow_pixels) - 1).intersect(tumour.frame.box)
    grown = _filled(_grown(tumour.crop(box), rule.grow_pixels))
    inside, count = ndimage.label(grown, structure=np.ones((3, 3), bool), output=np.int32)
    labels = labels.astype(np.min_scalar_type(count), copy=False)
    labels[box.slices()] = inside
    axes = _major_axes(inside)
    itc = frozenset(number for number, axis in enumerate(axes, 1) if axis < rule.itc_pixels)
    return Lesions(Raster(labels, tumour.frame), itc, tuple(axis * rule.mpp for axis in axes))


def _grown(tumour: np.ndarray, pixels: float) -> np.ndarray:
    """Where the distance to tumour is below `pixels`: a dilation by the disc of these offsets, without distances."""
    reach = max(0, math.ceil(pixels) - 1)
    offsets = np.arange(-reach, reach + 1)
    disc = offsets**2 + offsets[:, None] ** 2 < pixels**2
    disc[reach, reach] = True
    return cv2.dilate(tumour.astype(np.uint8), disc.astype(np.uint8))


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask (uint8, 0 and 1) and all background that no path over sides of pixels leads out of."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return padded[1:-1, 1:-1] != 2


def _major_axes(labels: np.ndarray) -> list[float]:
    """Length in pixels of the major axis of the ellipse with the second moments of each label's pixel centres."""
    places = ndimage.find_objects(labels)
    return [_major_axis(labels[place] == number) for number, place in enumerate(places, 1)]


def _major_axis(inside: np.ndarray) -> float:
    """`regionprops(...).axis_major_length`, from sums that are exact (Python's integers do not overflow)."""
    n = x = y = xx = yy = xy = 0
    columns = np.arange(inside.shape[1], dtype=np.int64)
    for top in range(0, len(inside), 256):
        strip = inside[top : top + 256]
        row = np.arange(top, top + len(strip), dtype=np.int64)
        by_row, by_column, moment = strip.sum(1), strip.sum(0), strip @ columns
        n, x, y = n + int(by_row.sum()), x + int(moment.sum()), y + int(row @ by_row)
        xx, yy = xx + int(columns**2 @ by_column), yy + int(row**2 @ by_row)
        xy += int(row @ moment)
    a, b, c = ((n * product - first * second) / n**2 for product, first, second in ((xx, x, x), (yy, y, y), (xy, x, y)))
    return 4 * math.sqrt((a + b) / 2 + math.hypot(2 * c, a - b) / 2)
