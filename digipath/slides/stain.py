"""Haematoxylin and eosin of a slide, and its colours brought to those of a reference.

Macenko et al., "A method for normalizing histology slides for quantitative analysis" (ISBI 2009): in optical density,
where stains add up, the colours of a slide lie in a plane, between the direction of pure haematoxylin and that of pure
eosin. The reference is the one published with the method's usual implementations, and so are beta, alpha and the light
of 240 grey levels.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from digipath.errors import SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.slides.slide import Slide
from digipath.slides.tissue import tissue_mask

__all__ = [
    "NORMALISATIONS",
    "REFERENCE",
    "StainError",
    "Stains",
    "estimate",
    "map_density",
    "normalise",
    "slide_stains",
    "stains_for",
]

NORMALISATIONS = ("none", "macenko")

# Macenko et al. 2009: least density of a stained pixel in each channel, and percentile of the extreme angles.
_BETA, _ALPHA = 0.15, 1.0
# Percentile of the amounts of a stain that stands for its maximum, and grey level of unstained glass: as published with
# the reference's numbers.
_MOST, _GLASS = 99.0, 240.0
# Fewer stained pixels leave one or two hundred beyond no percentile: the angles would be those of noise.
_LEAST_PIXELS = 1_000
# Degrees between haematoxylin and eosin: the reference has 22. Less than 5 is one stain and noise.
_LEAST_ANGLE = 5.0
_MOST_PIXELS = 2**18  # looked at in an estimate; more do not change the third digit
# A slide is looked at in squares of 256 um at 1 um/px, where a nucleus still has the colour of haematoxylin.
_MPP, _SIDE, _SQUARES = 1.0, 256, 32
_ROWS_BYTES = 2**20  # of float32 at once: what stays in a processor's cache


class StainError(SlideError):
    """The stains of an image cannot be told from it."""


@dataclass(frozen=True, kw_only=True)
class Stains:
    """The two stains of an image, as directions in optical density, and how much there is of each.

    Optical density is -ln((value + 1) / 240) of each channel.

    Attributes:
        haematoxylin: Red, green and blue density of one unit, a vector of length one.
        eosin: The same, of eosin.
        maxima: Units of haematoxylin and eosin that 99 % of the stained pixels stay below.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    maxima: tuple[float, float]

    def __post_init__(self):
        vectors = np.array([self.haematoxylin, self.eosin], float)
        if vectors.shape != (2, 3) or not np.isfinite(vectors).all() or not np.allclose(np.hypot.reduce(vectors.T), 1):
            raise SpecError(f"a stain is three numbers of a vector of length 1, got {self.haematoxylin}, {self.eosin}.")
        if len(self.maxima) != 2 or not all(math.isfinite(value) and value > 0 for value in self.maxima):
            raise SpecError(f"maxima are two numbers above 0, one for each stain, got {self.maxima}.")
        if self.angle < _LEAST_ANGLE:
            raise SpecError(f"two stains lie at least {_LEAST_ANGLE:g} degrees apart, got {self.angle:.2g}.")

    @property
    def matrix(self) -> np.ndarray:
        """(3, 2) float64: a column for each stain, a row for each channel."""
        return np.array([self.haematoxylin, self.eosin]).T

    @property
    def angle(self) -> float:
        """Degrees between the two stains."""
        return math.degrees(math.acos(min(1.0, float(np.dot(self.haematoxylin, self.eosin)))))


def _unit(vector: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (vector / np.linalg.norm(vector)).tolist()
    return red, green, blue


REFERENCE = Stains(
    haematoxylin=_unit(np.array([0.5626, 0.7201, 0.4062])),
    eosin=_unit(np.array([0.2159, 0.8012, 0.5581])),
    maxima=(1.9705, 1.0308),
)


def estimate(pixels: np.ndarray) -> Stains:
    """Find the stains of an image.

    Args:
        pixels: (..., 3) uint8 RGB; those of glass are told by their density and left out.

    Raises:
        StainError: Too little is stained, or with one stain only.

    Example:
        >>> from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide
        >>> round(estimate(SyntheticSlide(SyntheticSettings(width=600, height=600)).array()).angle)
        12
    """
    density = _density(pixels)
    stained = density[(density >= _BETA).all(axis=1)]
    if len(stained) < _LEAST_PIXELS:
        raise StainError(
            f"stains are told from {_LEAST_PIXELS} stained pixels or more, got {len(stained)} of {len(density)}. "
            'Give an image with more tissue, or leave its colours as they are with stain="none".'
        )
    ends = _ends(stained)
    vectors = sorted((_unit(end) for end in ends), reverse=True)  # haematoxylin takes more of the red
    angle = math.degrees(math.acos(min(1.0, float(np.dot(*vectors)))))
    amounts = stained @ np.linalg.pinv(np.array(vectors).T).T if angle >= _LEAST_ANGLE else np.zeros((1, 2))
    maxima = np.percentile(amounts, _MOST, axis=0)
    if not (maxima > 0).all():
        raise StainError(
            f"two stains lie at least {_LEAST_ANGLE:g} degrees apart and are both there, got {angle:.2g} degrees: the "
            'image shows one stain only. Give one with nuclei and cytoplasm, or use stain="none".'
        )
    return Stains(haematoxylin=vectors[0], eosin=vectors[1], maxima=(float(maxima[0]), float(maxima[1])))


def _density(pixels: np.ndarray) -> np.ndarray:
    """(n, 3) float32 optical densities of at most `_MOST_PIXELS` pixels, taken at equal distances."""
    _check(pixels)
    pixels = pixels.reshape(-1, 3)
    chosen = np.ascontiguousarray(pixels[:: -(-len(pixels) // _MOST_PIXELS) or 1])
    return -cv2.LUT(chosen[None], _logarithms(_GLASS))[0] if len(chosen) else np.zeros((0, 3), np.float32)


def _ends(stained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions between which all but `_ALPHA` percent on either side lie, in the plane of most variance."""
    _, vectors = np.linalg.eigh(np.cov(stained, rowvar=False, dtype=np.float64))
    plane = vectors[:, 1:]
    plane = plane * np.where(stained.mean(axis=0) @ plane < 0, -1, 1)  # so that the angles do not wrap around
    across, along = (stained @ plane).T
    low, high = np.percentile(np.arctan2(across, along), [_ALPHA, 100 - _ALPHA])
    first, second = (plane @ [math.sin(angle), math.cos(angle)] for angle in (low, high))
    return first, second


def normalise(image: np.ndarray, stains: Stains, *, reference: Stains = REFERENCE) -> np.ndarray:
    """Give an image the colours of the reference.

    Args:
        image: (rows, columns, 3) or (n, rows, columns, 3) uint8 RGB.
        stains: Those of the slide that it is from: one estimate for all of a slide, so that neighbours match.
        reference: What the stains become.

    Returns:
        The same shape, uint8. What is neither stain goes, as the method says; white stays white.
    """
    ratio = np.divide(reference.maxima, stains.maxima)
    return map_density(image, (reference.matrix * ratio) @ np.linalg.pinv(stains.matrix), white=_GLASS)


def map_density(image: np.ndarray, matrix: np.ndarray, *, white: float = 256.0) -> np.ndarray:
    """Map optical densities linearly: each pixel's become `matrix` times them, plus its fourth column if it has one.

    Args:
        image: (rows, columns, 3) or (n, rows, columns, 3) uint8 RGB.
        matrix: (3, 3) or (3, 4).
        white: Density is -ln((value + 1) / white), so that value `white - 1` has none.
    """
    _check(image)
    logarithms, affine = _logarithms(white), np.array(matrix, np.float64)
    affine[:, 3:] *= -1  # of densities; here, of logarithms
    rows = np.ascontiguousarray(image).reshape(-1, *image.shape[-2:])
    mapped = np.empty_like(rows)
    step = max(1, _ROWS_BYTES // (12 * max(1, rows.shape[1])))
    for first in range(0, len(rows), step):
        part = cv2.transform(cv2.LUT(rows[first : first + step], logarithms), affine)
        part = cv2.exp(part, dst=part)
        part *= np.float32(white)
        mapped[first : first + step] = cv2.add(part, -1.0, dtype=cv2.CV_8U)
    return mapped.reshape(image.shape)


def _logarithms(white: float) -> np.ndarray:
    return np.log((np.arange(256, dtype=np.float32) + 1) / np.float32(white))


def _check(image: np.ndarray):
    if getattr(image, "dtype", None) != np.uint8 or image.ndim < 2 or image.shape[-1] != 3:
        raise SpecError(
            f"an image to be normalised is uint8 RGB, got {getattr(image, 'dtype', type(image).__name__)} of shape "
            f"{np.shape(image)}. Convert values from 0 to 1 by np.rint(image * 255).astype(np.uint8)."
        )


def stains_for(slide: Slide, stain: str, *, tell: Callable[[str], object] = warnings.warn) -> Stains | None:
    """The stains that a slide's patches are normalised with, or None for colours as they are.

    Args:
        slide: An open slide.
        stain: "none" or "macenko", as in a model's specification.
        tell: Called with the reason where the stains cannot be told and the colours stay; by default a warning.
    """
    if stain not in NORMALISATIONS:
        raise SpecError(f"stain is one of {', '.join(NORMALISATIONS)}, got {stain!r}. Choose one of them.")
    if stain == "none":
        return None
    try:
        return slide_stains(slide)
    except StainError as error:
        tell(f"The colours of {slide.name} are not normalised: {error}")
        return None


def slide_stains(slide: Slide, tissue: Raster | None = None) -> Stains:
    """Find the stains of a slide, the same whatever part of it is wanted and at whatever resolution.

    Looks at 32 squares of 256 um at 1 um/px (or the slide's own resolution where that is coarser), evenly spaced
    among those that are tissue for the greater part.

    Args:
        slide: An open slide.
        tissue: The mask that `tissue_mask(slide)` gives, where it is at hand; another would give other stains.

    Raises:
        StainError: Too little is stained, or with one stain only.
    """
    tissue = tissue_mask(slide) if tissue is None else tissue
    frame = slide.frame.at(max(_MPP, slide.frame.mpp))
    pixels = [np.zeros((0, 3), np.uint8)]
    for box in _squares(frame, tissue):
        seen, _ = slide.read_covered(box, frame)
        pixels.append(seen[tissue.sample(box, frame) != 0])
    return estimate(np.concatenate(pixels))


def _squares(frame: Frame, tissue: Raster) -> list[Box]:
    """Where to look: squares with the most tissue, at least half where there are any."""
    boxes = [
        Box(x, y, _SIDE, _SIDE).intersect(frame.box)
        for y in range(0, frame.height, _SIDE)
        for x in range(0, frame.width, _SIDE)
    ]
    shares = tissue.coverage(boxes, frame) * [box.area / _SIDE**2 for box in boxes]
    kept = np.flatnonzero(shares >= min(0.5, shares.max()))
    kept = kept[shares[kept] > 0]
    chosen = np.linspace(0, len(kept) - 1, min(_SQUARES, len(kept))).round().astype(int)
    return [boxes[index] for index in kept[chosen]]
