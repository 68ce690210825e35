"""Where the tissue is on a slide: black to white, median, HSV, Otsu on the saturation, clean-up in micrometres.

The steps of Khened et al., "A generalized deep learning framework for whole-slide image segmentation and analysis"
(Scientific Reports 11, 2021), made safe where plain Otsu fails: slides without glass, slides without tissue, tinted
glass, felt-tip pens and fluorescence.

Its limits: strands of tissue narrower than half the median (28 um) are lost, and so is tissue under opaque or black
ink; tissue that shows through blue ink mostly stays, and so do brown lines wider than that, such as a coverslip's glue.
"""

import math
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np

from digipath.errors import SpecError
from digipath.geometry.components import find_runs
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.slides.slide import Slide

__all__ = ["Tissue", "TissueSettings", "find_tissue", "tissue_mask"]

# (first and last hue in degrees, least saturation) of felt-tip ink. Haematoxylin and eosin lie between 238 and 340
# degrees at 8 um/px in EBHI-SEG and CAMELYON16; the hues next to these must be the more saturated to be ink.
_INKS = ((60, 200, 0.3), (200, 234, 0.5), (345, 15, 0.7))
# Black: unscanned area, black ink, slide edge. Dark nuclei are never below 60 on average, nor as grey as these limits.
_BLACK = 25
_DARK_GREY, _GREY_CHROMA = 80, 25
# Glass is flat (grey levels of standard deviation), nearly as bright as the slide gets, and faintly tinted at most.
_FLAT, _BRIGHT, _TINT = 4.0, 0.85, 0.25
# Least share of the slide and least area (or half of the slide) that count as glass: less may be a pool of mucin, and
# white is the safer guess.
_GLASS_SHARE, _GLASS_UM2 = 0.01, 3_000
# A dark background: most of the slide is darker than this, and what is not black has nothing pale in it.
_DARK_MEDIAN, _DARK_PALE = 50, 100


@dataclass(frozen=True, kw_only=True)
class TissueSettings:
    """How tissue is told from glass. Lengths are in um and areas in um2, so that a slide's resolution changes nothing.

    On a dark background, as in fluorescence, `floor` and `ceiling` bound a brightness in place of a saturation.

    Attributes:
        mpp: Resolution of the mask: 8 um/px, one cell a pixel, where a 5 cm slide still fits into memory.
        median_um: Width of the median: 7 pixels at 8 um/px, as in the paper.
        floor: Least saturation that may count as tissue: white-balanced glass has 0.00-0.03, noise included.
        ceiling: Greatest threshold that Otsu may choose: the palest 1 % of stained tissue has 0.11 or more, and Otsu on
            a slide without glass would divide pale tissue from dark.
        close_um: Radius of the gaps that are closed: a capillary or a shrinkage cleft of five cells.
        open_um: Radius of the spurs and specks that are removed: two cells.
        min_area_um2: Smallest piece kept: a disc of 80 um, about what the median leaves of anything smaller.
        min_hole_um2: Smallest enclosed gap that is glass: a disc of 500 um, so that a tumour keeps its wide lumina.
        min_pen_um2: Smallest pen mark removed: a felt tip is 300 um wide at least, ink on a margin comes in crumbs.
            `math.inf` removes none, for stains with blue or green tissue such as a trichrome.
    """

    mpp: float = 8.0
    median_um: float = 56.0
    floor: float = 0.04
    ceiling: float = 0.08
    close_um: float = 40.0
    open_um: float = 16.0
    min_area_um2: float = 5_000.0
    min_hole_um2: float = 200_000.0
    min_pen_um2: float = 50_000.0

    def __post_init__(self):
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise SpecError(f"{field.name} is a number of at least 0, got {getattr(self, field.name)!r}.")
        if not (0 < self.mpp < math.inf):
            raise SpecError(f"mpp is a finite number of micrometres per pixel above 0, got {self.mpp}.")
        if not self.floor <= self.ceiling <= 1:
            raise SpecError(
                f"the saturation thresholds lie in 0 <= floor <= ceiling <= 1, got floor {self.floor} and "
                f"ceiling {self.ceiling}. For percentages, divide by 100."
            )


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """A slide's tissue and how it was found.

    Attributes:
        mask: True on tissue, and where the slide cannot be read: a damaged slide is not an empty one.
        pen: True on pen marks, which are not tissue; a boolean raster in the same frame.
        dark: Whether the background is dark, as in fluorescence; tissue is then what is brighter.
        glass: Colour of the background as (red, green, blue) in 0-255, to which the slide was white-balanced.
        threshold: What counted as tissue: saturation, or brightness on a dark background, above this; in 0-1.
        explanation: Why the mask is as it is, in a sentence or two for a log or a report.
    """

    mask: Raster
    pen: Raster
    dark: bool
    glass: tuple[int, int, int]
    threshold: float
    explanation: str


def tissue_mask(slide: Slide, settings: TissueSettings | None = None) -> Raster:
    """Find the tissue of a slide.

    Args:
        slide: The slide; it is read once, whole, at the resolution of the mask.
        settings: How tissue is told from glass; by default `TissueSettings()`.

    Returns:
        A boolean raster at `settings.mpp`, or at the slide's own resolution where that is coarser. A slide without
        tissue gives a raster of False; what cannot be read counts as tissue.

    Example:
        >>> from digipath.slides.array import ArraySlide
        >>> slide = ArraySlide(np.full((64, 96, 3), 255, np.uint8), mpp=8.0)
        >>> tissue_mask(slide).area_mm2
        0.0
    """
    return find_tissue(slide, settings).mask


def find_tissue(slide: Slide, settings: TissueSettings | None = None) -> Tissue:
    """Find the tissue of a slide, with the reasons; arguments as for `tissue_mask`."""
    settings = settings or TissueSettings()
    frame = slide.frame.at(max(settings.mpp, slide.frame.mpp))
    image, lost = slide.read_covered(frame.box, frame)
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    image = np.ascontiguousarray(image)  # OpenCV would write its results for any other into a copy
    _fill_overhang(image, frame)
    tissue = (_fluorescent if _is_dark(image) else _stained)(image, frame, settings)
    return _with_unread(tissue, [slide.frame.box_in(box, frame) for box in lost])


def _fill_overhang(image: np.ndarray, frame: Frame) -> None:
    """Repeat the last whole row and column over the ones that the border of the slide cuts: those are partly white."""
    if frame.height > 1 and frame.height * frame.downsample > frame.slide_size[1]:
        image[-1] = image[-2]
    if frame.width > 1 and frame.width * frame.downsample > frame.slide_size[0]:
        image[:, -1] = image[:, -2]


def _with_unread(tissue: Tissue, boxes: list[Box]) -> Tissue:
    """The same with boxes in the mask's frame that could not be read: they may hold tissue, so they count as tissue."""
    if not boxes:
        return tissue
    frame, unread = tissue.mask.frame, np.zeros(tissue.mask.frame.shape, bool)
    for box in boxes:
        unread[box.intersect(frame.box).slices()] = True
    text = f"{tissue.explanation}; {np.count_nonzero(unread) * frame.pixel_mm2:.3g} mm2 not readable, taken as tissue"
    return replace(tissue, mask=Raster(tissue.mask.array() | unread, frame), explanation=text)


def _stained(image: np.ndarray, frame: Frame, settings: TissueSettings) -> Tissue:
    """Colour on bright glass: the paper's way. The image is overwritten, for copies would be most of the memory."""
    colourless = _is_colourless(image)
    glass, seen = _glass(image, frame)
    _balance(image, glass)
    black = _black(image)
    image[black] = 255
    cv2.medianBlur(image, _odd_pixels(settings.median_um, frame), dst=image)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=image)
    pen = _pen(hsv, frame, settings)
    saturation = np.where(pen, np.uint8(0), hsv[..., 1])
    threshold = _threshold(saturation[~(pen | black)], settings.floor, settings.ceiling)
    mask = _clean(saturation > threshold * 255, frame, settings) & ~pen
    how = f"saturation above {threshold:.3f}, " + (f"glass {glass}" if seen else "no glass seen, white assumed")
    how += "; the picture has no colours, by which tissue is found" if colourless else ""
    return Tissue(
        mask=Raster(mask, frame),
        pen=Raster(pen, frame),
        dark=False,
        glass=glass,
        threshold=threshold,
        explanation=_explain(mask, pen, frame, how),
    )


def _fluorescent(image: np.ndarray, frame: Frame, settings: TissueSettings) -> Tissue:
    """Brightness on black; the mean in place of the median, which would erase scattered nuclei."""
    width = _odd_pixels(settings.median_um, frame)
    brightness = cv2.blur(_extremes(image)[1], (width, width), borderType=cv2.BORDER_REFLECT)
    threshold = _threshold(brightness, settings.floor, settings.ceiling)
    mask = _clean(brightness > threshold * 255, frame, settings)
    pen = np.zeros_like(mask)
    return Tissue(
        mask=Raster(mask, frame),
        pen=Raster(pen, frame),
        dark=True,
        glass=(0, 0, 0),
        threshold=threshold,
        explanation=_explain(
            mask, pen, frame, f"dark background, as in fluorescence, brightness above {threshold:.3f}"
        ),
    )


def _is_dark(image: np.ndarray) -> bool:
    """Whether the background is dark: black around tissue on bright glass is unscanned area, and is not meant."""
    if np.median(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) >= _DARK_MEDIAN:
        return False
    palest = _extremes(image)[0][~_black(image)]
    return palest.size == 0 or np.percentile(palest, 95) < _DARK_PALE


def _is_colourless(image: np.ndarray) -> bool:
    """Whether a picture that is not blank is all grey, as of a scanner set to grey: tissue would not be seen."""
    lowest, highest = _extremes(image)
    return bool(lowest.min() < _BRIGHT * highest.max() and (lowest == highest).all())


def _black(image: np.ndarray) -> np.ndarray:
    """True where a pixel is black or a dark neutral grey; its hue and saturation would be noise."""
    lowest, highest = _extremes(image)
    return (highest < _BLACK) | ((highest < _DARK_GREY) & (highest - lowest < _GREY_CHROMA))


def _extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest channel of each pixel."""
    red, green, blue = cv2.split(image)
    return cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)


def _glass(image: np.ndarray, frame: Frame) -> tuple[tuple[int, int, int], bool]:
    """The background's colour, and whether any was seen; white where none was."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mean = cv2.boxFilter(grey, cv2.CV_32F, (5, 5), borderType=cv2.BORDER_REFLECT)
    variance = cv2.sqrBoxFilter(grey, cv2.CV_32F, (5, 5), borderType=cv2.BORDER_REFLECT)
    variance -= cv2.multiply(mean, mean)
    bright = mean > _BRIGHT * np.percentile(mean, 99)
    lowest, highest = _extremes(image)
    faint = lowest >= highest * np.float32(1 - _TINT)
    # Exactly white is no scanned glass: it is what lies outside of the scanned area, or overexposed.
    flat = bright & faint & (lowest < 255) & (variance < _FLAT**2)
    if flat.mean() < max(_GLASS_SHARE, min(_GLASS_UM2 / (flat.size * frame.mpp**2), 0.5)):
        return (255, 255, 255), False
    red, green, blue = np.median(image[flat], axis=0).round().astype(int).tolist()
    return (red, green, blue), True


def _balance(image: np.ndarray, glass: tuple[int, int, int]) -> None:
    """Make the image what it would be if its glass were white."""
    levels = np.arange(256)[:, None] * 255 / np.array(glass)
    cv2.LUT(image, np.minimum(levels, 255).round().astype(np.uint8)[None], dst=image)


def _pen(hsv: np.ndarray, frame: Frame, settings: TissueSettings) -> np.ndarray:
    """True on pen marks: broad strokes in hues that stained tissue does not have."""
    hue, saturation = hsv[..., 0], hsv[..., 1]
    ink = np.zeros(hue.shape, bool)
    for first, last, least in _INKS:
        after, before = hue >= first // 2, hue <= last // 2  # OpenCV counts hue in steps of two degrees
        ink |= (after & before if first < last else after | before) & (saturation > least * 255)
    stroke = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, _disc(settings.close_um, frame))
    stroke = _pieces(stroke != 0, settings.min_pen_um2, frame).astype(np.uint8)
    return cv2.dilate(stroke, _disc(settings.median_um / 2, frame)) != 0  # its pale edge too


def _threshold(values: np.ndarray, floor: float, ceiling: float) -> float:
    """Otsu's threshold of uint8 `values` as a fraction of 255, within [floor, ceiling]."""
    if values.size == 0:
        return floor
    otsu, _ = cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return min(max(otsu / 255, floor), ceiling)


def _clean(mask: np.ndarray, frame: Frame, settings: TissueSettings) -> np.ndarray:
    """The mask with gaps and specks gone, by their widths and their areas."""
    closing, opening = _disc(settings.close_um, frame), _disc(settings.open_um, frame)
    cleaned = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, closing)
    cleaned = cv2.morphologyEx(cleaned, cv2.MORPH_OPEN, opening) != 0
    # On a snippet the size of one piece, a piece is what fills a quarter of it.
    smallest = min(settings.min_area_um2, cleaned.size * frame.mpp**2 / 4)
    cleaned = _pieces(cleaned, smallest, frame)
    return ~_pieces(~cleaned, settings.min_hole_um2, frame, open_ended=True)


def _pieces(mask: np.ndarray, smallest_um2: float, frame: Frame, *, open_ended: bool = False) -> np.ndarray:
    """The connected pieces of at least this area; with `open_ended`, all that reach the border of the slide too."""
    runs = find_runs(Raster(mask, frame))
    kept = runs.pixels * frame.mpp**2 >= smallest_um2
    if open_ended:
        row, column = np.divmod(runs.starts, runs.stride)
        sides = (column == 0) | (runs.stops % runs.stride == frame.width)
        kept[runs.component[sides | (row == 0) | (row == frame.height - 1)]] = True
    edges = np.zeros(frame.height * runs.stride, np.int8)
    of_kept = kept[runs.component]
    edges[runs.starts[of_kept]] = 1
    edges[runs.stops[of_kept]] = -1
    return np.cumsum(edges, dtype=np.int8).reshape(frame.height, runs.stride)[:, : frame.width] != 0


def _odd_pixels(width_um: float, frame: Frame) -> int:
    """The odd number of pixels nearest to a width; 1 where it is less than two pixels."""
    return 2 * round((width_um / frame.mpp - 1) / 2) + 1 if width_um > frame.mpp else 1


def _disc(radius_um: float, frame: Frame) -> np.ndarray:
    """Structuring element of this radius."""
    radius = round(radius_um / frame.mpp)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= (radius + 0.5) ** 2).astype(np.uint8)


def _explain(mask: np.ndarray, pen: np.ndarray, frame: Frame, how: str) -> str:
    area, pen_area = (np.count_nonzero(part) * frame.pixel_mm2 for part in (mask, pen))
    text = f"{area:.3g} mm2 of tissue, {mask.mean():.1%} of the slide: {how}"
    return f"{text}; {pen_area:.3g} mm2 of pen removed" if pen_area else text
