"""Random changes of one image and its labels together, for training: NumPy and OpenCV, no learning framework.

OpenCV works outside Python's lock, so threads scale. All changes of colour are one affine map of RGB, and the change of
stain is one affine map of optical density, so each costs one pass over the image; so do turn, scale and deformation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from digipath.errors import SpecError
from digipath.slides.stain import map_density

__all__ = ["NONE", "RECIPES", "Strengths", "augment", "compress", "jitter_colour", "jitter_stain", "move", "recolour"]

# Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution" (2001):
# haematoxylin, eosin, residual.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNSTAIN = np.linalg.inv(_STAINS)
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_SHARES = ("turn", "deformed", "colour", "stained", "blurred", "sharpened", "compressed", "noisy")
_AMOUNTS = ("elastic", "brightness", "hue", "stain", "stain_shift", "sharpen", "noise")
_RANGES = ("scale", "gain", "contrast", "saturation", "blur", "jpeg")


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How far `augment` may go. A range is drawn from uniformly; a share is the probability that the change is made.

    Attributes:
        flip: whether half of the images are mirrored.
        quarters: whether images are turned by 0, 90, 180 or 270 degrees, each as likely.
        turn: share of images turned by a free angle of up to 45 degrees more.
        scale: range of the enlargement, with every free turn.
        elastic: largest standard deviation of a deformation, in pixels; at most a quarter of its smoothness.
        smoothness: standard deviation in pixels of the Gaussian that smooths a deformation; deformed: its share.
        brightness: largest shift, as a fraction of full brightness.
        gain: range of the factor on all channels.
        contrast: range of the factor about the image's mean.
        saturation: range of the factor about grey.
        hue: largest turn of the colour circle, as a fraction of it.
        colour: share of images whose colours change.
        stain: largest relative change of each stain's density.
        stain_shift: largest shift of each stain's density.
        stained: share of images whose stains change.
        blur: range of the Gaussian's standard deviation, in pixels; blurred: its share.
        sharpen: largest weight of unsharp masking; sharpened: its share.
        jpeg: range of JPEG quality; compressed: its share.
        noise: largest standard deviation of the noise, in grey levels; noisy: its share.
    """

    flip: bool = True
    quarters: bool = True
    turn: float = 0.8
    scale: tuple[float, float] = (0.8, 1.25)
    elastic: float = 0.0
    smoothness: float = 32.0
    deformed: float = 0.0
    brightness: float = 0.25
    gain: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (0.6, 1.4)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 0.08
    colour: float = 0.9
    stain: float = 0.25
    stain_shift: float = 0.05
    stained: float = 0.7
    blur: tuple[float, float] = (0.3, 1.5)
    blurred: float = 0.3
    sharpen: float = 1.0
    sharpened: float = 0.2
    jpeg: tuple[int, int] = (35, 95)
    compressed: float = 0.4
    noise: float = 8.0
    noisy: float = 0.3

    def __post_init__(self):
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} is a share between 0 and 1, got {getattr(self, name)}.")
        for name in _AMOUNTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise SpecError(f"{name} is a finite number of at least 0, got {getattr(self, name)}.")
        for name in _RANGES:
            low, high = getattr(self, name)
            if not (low <= high and (low > 0 or (name == "blur" and low == 0))):
                raise SpecError(f"{name} is a range (low, high) of positive numbers, got {getattr(self, name)}.")
        if self.jpeg[1] > 100:
            raise SpecError(f"JPEG quality ends at 100, got the range {self.jpeg}.")
        if not 0 < self.smoothness < math.inf:
            raise SpecError(f"smoothness is a number of pixels above 0, got {self.smoothness}.")
        if self.deformed and self.elastic > self.smoothness / 4:  # steeper than 1 at 5.6 standard deviations
            raise SpecError(
                f"elastic is at most a quarter of smoothness, or tissue would fold; got {self.elastic} and "
                f"{self.smoothness}. Give smoothness={4 * self.elastic:g} or more."
            )


NONE = Strengths(
    **dict.fromkeys(("flip", "quarters"), False),
    **dict.fromkeys(_SHARES + _AMOUNTS, 0.0),
    **dict.fromkeys(("scale", "gain", "contrast", "saturation"), (1.0, 1.0)),
)

# What each paper names, with its numbers where it gives any; docs/augmentation.md says which those are.
RECIPES = {
    # Khened et al. 2021; maximum deltas as factors of 1 - x to 1 + x, and the share of blurs, as in their published
    # code: three of five changes at most, any number as likely.
    "digipathai": replace(
        NONE,
        flip=True,
        quarters=True,
        blur=(0.0, 0.5),
        blurred=0.3,
        gain=(1 - 64 / 255, 1 + 64 / 255),
        contrast=(0.25, 1.75),
        saturation=(0.75, 1.25),
        hue=0.04,
        colour=1.0,
    ),
    # Rotations, scaling, smoothing, colour variations, elastic deformations; no numbers.
    "bcc": replace(
        NONE,
        flip=True,
        quarters=True,
        turn=0.8,
        scale=(0.8, 1.25),
        elastic=8.0,
        smoothness=32.0,
        deformed=0.5,
        blur=(0.3, 1.2),
        blurred=0.3,
        brightness=0.1,
        contrast=(0.75, 1.25),
        saturation=(0.75, 1.25),
        hue=0.04,
        colour=0.8,
    ),
    # Mirror, rotation, colour jitter; no numbers.
    "v3_dcnn": replace(
        NONE,
        flip=True,
        quarters=True,
        turn=0.5,
        brightness=0.1,
        contrast=(0.75, 1.25),
        saturation=(0.75, 1.25),
        hue=0.04,
        colour=0.8,
    ),
    "tiger": replace(NONE, flip=True, quarters=True),
    "microdosimetry": NONE,
    "light": Strengths(),
}


def augment(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int | Sequence[int] | np.random.Generator,
    strengths: Strengths | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A changed copy of `image` (rows, columns, 3) uint8 and of `labels` (rows, columns) uint8, moved alike.

    The same seed gives the same result. What a turn or a deformation brings in from outside is the mirror image, of
    both. A quarter turn swaps the sides of what is not square.
    """
    rng = np.random.default_rng(seed)
    strengths = strengths or Strengths()
    image, labels = move(image, labels, rng=rng, strengths=strengths)
    return recolour(image, rng=rng, strengths=strengths), labels


def move(
    image: np.ndarray, labels: np.ndarray, *, rng: np.random.Generator, strengths: Strengths
) -> tuple[np.ndarray, np.ndarray]:
    """Flips, turns, scales and deforms both alike: the image bilinearly, the labels by the nearest pixel."""
    quarters = rng.integers(4) if strengths.quarters else 0
    flip, free = rng.random() < 0.5 and strengths.flip, rng.random() < strengths.turn
    angle, scale = rng.uniform(-45, 45), np.exp(rng.uniform(*np.log(strengths.scale)))
    deformed = strengths.deformed > 0 and rng.random() < strengths.deformed
    image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    if flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image, labels = image.copy(), labels.copy()
    if not (free or deformed):
        return image, labels
    rows, columns = labels.shape
    angle, scale = (angle, scale) if free else (0, 1)
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, scale)
    if deformed:
        return _deform(image, labels, matrix, _displacement(labels.shape, rng=rng, strengths=strengths))
    return _turn(image, cv2.INTER_LINEAR, matrix), _turn(labels, cv2.INTER_NEAREST, matrix)


def _turn(array: np.ndarray, kernel: int, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(array, matrix, array.shape[1::-1], flags=kernel, borderMode=cv2.BORDER_REFLECT)


def _deform(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, displacement: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both through an affine map and a displacement (rows, columns, 2) in pixels, in one interpolation."""
    y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
    back = cv2.invertAffineTransform(matrix).astype(np.float32)
    sources = [
        (row[0] * x + row[1] * y + row[2]).astype(np.float32) + displacement[..., k] for k, row in enumerate(back)
    ]
    image, labels = (
        cv2.remap(array, *sources, kernel, borderMode=cv2.BORDER_REFLECT)
        for array, kernel in ((image, cv2.INTER_LINEAR), (labels, cv2.INTER_NEAREST))
    )
    return image, labels


def _displacement(shape: tuple[int, ...], *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """White noise smoothed by a Gaussian: (rows, columns, 2) pixels along x and y (Simard et al. 2003).

    Made on a grid of which the Gaussian spans two cells, and interpolated: a smooth field needs no more.
    """
    step = max(1.0, strengths.smoothness / 2)
    sigma = strengths.smoothness / step
    border = math.ceil(4 * sigma)  # of noise beyond the image, so that the field's edge is like its middle
    inner = [math.ceil(side / step) + 1 for side in shape]
    noise = rng.standard_normal((*[side + 2 * border for side in inner], 2), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)[border:-border, border:-border]
    # A Gaussian leaves of white noise a standard deviation of 1 / (2 sigma sqrt(pi)) in two dimensions.
    smooth *= rng.uniform(0, strengths.elastic) * 2 * sigma * math.sqrt(math.pi)
    grown = cv2.resize(smooth, (round(inner[1] * step), round(inner[0] * step)), interpolation=cv2.INTER_CUBIC)
    return grown[: shape[0], : shape[1]]


def recolour(image: np.ndarray, *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """Changes stain, colour, sharpness, compression and noise, in the order in which a slide gets them."""
    if rng.random() < strengths.stained:
        image = jitter_stain(image, rng=rng, strengths=strengths)
    if rng.random() < strengths.colour:
        image = jitter_colour(image, rng=rng, strengths=strengths)
    if rng.random() < strengths.blurred:
        image = cv2.GaussianBlur(image, (0, 0), max(1e-3, rng.uniform(*strengths.blur)))
    elif rng.random() < strengths.sharpened:
        weight = rng.uniform(0, strengths.sharpen)
        image = cv2.addWeighted(image, 1 + weight, cv2.GaussianBlur(image, (0, 0), 1.0), -weight, 0)
    if rng.random() < strengths.noisy:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, strengths.noise)
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    if rng.random() < strengths.compressed:
        image = compress(image, quality=int(rng.integers(strengths.jpeg[0], strengths.jpeg[1] + 1)))
    return image


def jitter_stain(image: np.ndarray, *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """Scales and shifts the density of haematoxylin, eosin and the residual, each by its own amount."""
    scale = 1 + rng.uniform(-strengths.stain, strengths.stain, 3)
    shift = rng.uniform(-strengths.stain_shift, strengths.stain_shift, 3)
    matrix = (_UNSTAIN * scale) @ _STAINS
    return map_density(image, np.column_stack([matrix.T, shift @ _STAINS]))


def jitter_colour(image: np.ndarray, *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, in one affine map; but for rounding, in any order.

    Hue turns about the grey axis of YIQ, where brightness stays.
    """
    contrast = rng.uniform(*strengths.contrast)
    saturation = rng.uniform(*strengths.saturation)
    turn = 2 * np.pi * rng.uniform(-strengths.hue, strengths.hue)
    brightness = 255 * rng.uniform(-strengths.brightness, strengths.brightness)
    gain = rng.uniform(*strengths.gain) if tuple(strengths.gain) != (1, 1) else 1.0
    hue = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    matrix = gain * contrast * saturate @ _FROM_YIQ @ hue @ _TO_YIQ
    middle = gain * float(_GREY @ cv2.mean(image)[:3])
    offset = np.full(3, (1 - contrast) * middle + brightness)
    return cv2.transform(image, np.column_stack([matrix, offset]))


def compress(image: np.ndarray, *, quality: int) -> np.ndarray:
    """The image after JPEG at this quality."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
