"""Tumour burden: how much of the whole tumour is viable, after Khened et al. 2021.

M. Khened, A. Kori, H. Rajkumar, G. Krishnamurthi and B. Srinivasan, "A generalized deep learning framework for
whole-slide image segmentation and analysis" (Scientific Reports 11, 2021), "Tumour burden estimation for PAIP dataset":
the viable tumour is cleaned by morphology; the whole tumour is the smallest convex hull of it, as far as there is
tissue; the burden is the ratio of both areas.

The viable tumour of the ratio is the cleaned one within the hull and tissue, so the burden is never above 100 %. The
code of the paper's authors takes the viable tumour before morphology instead, which may lie outside of the hull and so
give more than 100 %; this is `Burden.raw_percent`.

That code closes with a kernel of 20 x 20 and then opens with one of 15 x 15 pixels (5 x 5 for biopsies) of masks whose
resolution it does not state. At 8 um per pixel, level 2 of PAIP's slides, the kernels are 160 um, 120 um and 40 um
wide; the radii here are half of these, of discs instead of squares.

**Borders.** Beyond the slide there is nothing for closing, so that no tumour grows in from there. For opening, the
slide goes on as it ends, so that tumour which the border cuts is not eaten.

**0 / 0.** Without a whole tumour, as nothing viable is left or all of it lies off the tissue, the burden is 0 %, and
`Burden.note` says why.
"""

import math
from dataclasses import dataclass

import numpy as np
import shapely

from digipath.errors import SpecError
from digipath.geometry.discs import closed, opened
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster

__all__ = ["BIOPSY", "Burden", "BurdenSettings", "clean", "tumour_burden"]

# Pixels of a strip that is worked on at once, its margins not counted.
_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class BurdenSettings:
    """How the viable tumour is cleaned; 0 leaves a step out.

    Attributes:
        close_um: Gaps that no disc of this radius fits into are filled; 20 x 20 pixels of 8 um.
        open_um: What no disc of this radius fits into is removed, after closing; 15 x 15 pixels of 8 um.
    """

    close_um: float = 80.0
    open_um: float = 60.0

    def __post_init__(self):
        for name in ("close_um", "open_um"):
            value = getattr(self, name)
            if not 0 <= value <= 10_000:
                raise SpecError(f"{name} is a radius of 0 to 10,000 um, got {value}. 0 leaves the step out.")


# For needle biopsies, whose nests are small: 5 x 5 pixels of 8 um.
BIOPSY = BurdenSettings(open_um=20.0)


@dataclass(frozen=True, kw_only=True)
class Burden:
    """The viable and the whole tumour of a slide.

    Attributes:
        viable_mm2: Area of the cleaned viable tumour on tissue.
        whole_mm2: Area of tissue in the hull.
        percent: The first over the second, 0 to 100; 0 for 0 / 0.
        raw_percent: The viable tumour before cleaning, wherever it lies, over `whole_mm2`: the variant of the paper's
            code, may exceed 100; None without a whole tumour.
        note: Why there is no whole tumour, or empty.
        cleaned: The viable tumour after morphology; boolean, in the frame of what came in. Not cut to tissue.
        hull: Its convex hull, an annotation named "whole tumour" with the numbers as measurements; None without any.
    """

    viable_mm2: float
    whole_mm2: float
    percent: float
    raw_percent: float | None
    note: str
    cleaned: Raster
    hull: Annotation | None


def tumour_burden(viable: Raster, tissue: Raster, settings: BurdenSettings = BurdenSettings()) -> Burden:
    """The tumour burden of a slide.

    Args:
        viable: Mask of viable tumour, single-layer; lazy ones are read in strips.
        tissue: Mask of tissue, at any resolution.
        settings: How the mask is cleaned; `BIOPSY` for needle biopsies.

    Example:
        >>> from digipath.geometry.frame import Frame
        >>> everything = Raster(np.ones((100, 100), bool), Frame.level0(100, 100, 8.0))
        >>> tumour_burden(everything, everything).percent
        100.0
    """
    if tissue.channels or viable.frame.slide_size != tissue.frame.slide_size:
        raise SpecError(
            "viable tumour and tissue are single-layer masks of one slide, got tissue with channels "
            f"{tissue.channels or 'none'}, and slides of {viable.frame.slide_size} and {tissue.frame.slide_size} "
            "level-0 pixels."
        )
    cleaned = clean(viable, settings)
    hull = _hull(cleaned)
    if hull is None:
        note = "no viable tumour was left after cleaning" if viable.area_mm2 else "there is no viable tumour"
        return _burden((0.0, 0.0), None, note, cleaned, None)
    areas = _areas(cleaned, tissue, rasterize([Annotation("whole tumour", hull)], cleaned.frame))
    note = "" if areas[1] else "the viable tumour lies outside of tissue"
    return _burden(areas, viable.area_mm2, note, cleaned, hull)


def _burden(
    areas: tuple[float, float], raw_mm2: float | None, note: str, cleaned: Raster, hull: shapely.Polygon | None
) -> Burden:
    viable, whole = areas
    percent = 100 * (viable / whole) if whole else 0.0  # so bracketed, never above 100 by rounding
    numbers = {"viable tumour mm2": viable, "whole tumour mm2": whole, "tumour burden %": percent}
    return Burden(
        viable_mm2=viable,
        whole_mm2=whole,
        percent=percent,
        raw_percent=100 * (raw_mm2 / whole) if whole else None,
        note=note,
        cleaned=cleaned,
        hull=None if hull is None else Annotation("whole tumour", hull, (60, 60, 200), numbers),
    )


def _areas(cleaned: Raster, tissue: Raster, hull: Raster) -> tuple[float, float]:
    """Area in mm2 of the cleaned tumour, and of the hull, on tissue."""
    frame, viable, whole = cleaned.frame, 0, 0
    for box in frame.rows(max(1, _STRIP_PIXELS // frame.width)):
        seen = (tissue.sample(box, frame) != 0) & hull.crop(box)
        whole += np.count_nonzero(seen)
        viable += np.count_nonzero(seen & cleaned.crop(box))
    return float(viable * frame.pixel_mm2), float(whole * frame.pixel_mm2)


def _hull(mask: Raster) -> shapely.Polygon | None:
    """The convex hull of the corners of all pixels, in level-0 pixels; None of an empty mask."""
    points = []
    for box in mask.frame.rows(max(1, _STRIP_PIXELS // mask.frame.width)):
        values = mask.crop(box)
        rows = np.flatnonzero(values.any(1))
        left = values[rows].argmax(1)
        right = values.shape[1] - values[rows, ::-1].argmax(1)
        points += [np.stack([x, rows + box.y + lower], 1) for x in (left, right) for lower in (0, 1)]
    corners = np.concatenate(points) * mask.frame.downsample
    return shapely.convex_hull(shapely.multipoints(corners)) if len(corners) else None


def clean(mask: Raster, settings: BurdenSettings = BurdenSettings()) -> Raster:
    """Close, then open a mask with discs, in strips with margins that hold all that a strip depends on.

    Args:
        mask: Single-layer; its non-zero pixels are cleaned.
        settings: The radii.

    Returns:
        A boolean raster.
    """
    frame = mask.frame
    if mask.channels or np.dtype(mask.values.dtype).kind == "f":
        raise SpecError(
            f"a viable tumour is a single-layer mask, got {mask.values.dtype} with channels {mask.channels or 'none'}. "
            "Of a heatmap, take one layer with .channel(name) and its mask with .threshold(0.5)."
        )
    close, open_ = (radius / frame.mpp for radius in (settings.close_um, settings.open_um))
    cleaned = np.zeros(frame.shape, bool)
    # Opening sees twice its radius of closed rows, and these depend on twice the radius of closing.
    inner, outer = 2 * math.ceil(open_), 2 * math.ceil(close)
    for box in frame.rows(max(256, inner + outer, _STRIP_PIXELS // frame.width)):
        top, bottom = max(0, box.y - inner), min(frame.height, box.bottom + inner)
        first, last = max(0, top - outer), min(frame.height, bottom + outer)
        filled = closed(np.asarray(mask.values[first:last]) != 0, close)[top - first : bottom - first]
        cleaned[box.slices()] = opened(filled, open_)[box.y - top : box.bottom - top]
    return Raster(cleaned, frame)
