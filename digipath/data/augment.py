"""Random changes of one image and its labels together, for training: NumPy and OpenCV, no learning framework.

OpenCV works outside Python's lock, so threads scale. All changes of colour are one affine map of RGB, and the change of
stain is one affine map of optical density, so each costs one pass over the image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from digipath.errors import SpecError

# Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution" (2001):
# haematoxylin, eosin, residual.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNSTAIN = np.linalg.inv(_STAINS)
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How far `augment` may go. A range is drawn from uniformly; a share is the probability that the change is made.

    Attributes:
        turn: share of images turned by a free angle (all are flipped and turned by quarters at random).
        scale: range of the enlargement, with every free turn.
        brightness: largest shift, as a fraction of full brightness.
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

    turn: float = 0.8
    scale: tuple[float, float] = (0.8, 1.25)
    brightness: float = 0.25
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
        for name in ("turn", "colour", "stained", "blurred", "sharpened", "compressed", "noisy"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} is a share between 0 and 1, got {getattr(self, name)}.")
        for name in ("scale", "contrast", "saturation", "blur", "jpeg"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise SpecError(f"{name} is a range (low, high) of positive numbers, got {getattr(self, name)}.")
        if self.jpeg[1] > 100:
            raise SpecError(f"JPEG quality ends at 100, got the range {self.jpeg}.")


def augment(
    image: np.ndarray, labels: np.ndarray, *, seed: int | np.random.Generator, strengths: Strengths | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A changed copy of `image` (rows, columns, 3) uint8 and of `labels` (rows, columns) uint8, moved alike.

    The same seed gives the same result. What a turn brings in from outside is the mirror image, of both.
    """
    rng = np.random.default_rng(seed)
    strengths = strengths or Strengths()
    image, labels = move(image, labels, rng=rng, strengths=strengths)
    return recolour(image, rng=rng, strengths=strengths), labels


def move(
    image: np.ndarray, labels: np.ndarray, *, rng: np.random.Generator, strengths: Strengths
) -> tuple[np.ndarray, np.ndarray]:
    """Flips, turns and scales both alike: the image bilinearly, the labels by the nearest pixel."""
    quarters, flip, free = rng.integers(4), rng.random() < 0.5, rng.random() < strengths.turn
    angle, scale = rng.uniform(-45, 45), np.exp(rng.uniform(*np.log(strengths.scale)))
    image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    if flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image, labels = np.ascontiguousarray(image), np.ascontiguousarray(labels)
    if not free:
        return image, labels
    rows, columns = labels.shape
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle, scale)
    moved = [
        cv2.warpAffine(array, matrix, (columns, rows), flags=kernel, borderMode=cv2.BORDER_REFLECT)
        for array, kernel in ((image, cv2.INTER_LINEAR), (labels, cv2.INTER_NEAREST))
    ]
    return moved[0], moved[1]


def recolour(image: np.ndarray, *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """Changes stain, colour, sharpness, compression and noise, in the order in which a slide gets them."""
    if rng.random() < strengths.stained:
        image = jitter_stain(image, rng=rng, strengths=strengths)
    if rng.random() < strengths.colour:
        image = jitter_colour(image, rng=rng, strengths=strengths)
    if rng.random() < strengths.blurred:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*strengths.blur))
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
    density = cv2.transform(cv2.LUT(image, _DENSITY), np.column_stack([matrix.T, shift @ _STAINS]))
    return cv2.add(cv2.exp(-density) * 256, -1.0, dtype=cv2.CV_8U)


def jitter_colour(image: np.ndarray, *, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, in one affine map."""
    contrast = rng.uniform(*strengths.contrast)
    saturation = rng.uniform(*strengths.saturation)
    turn = 2 * np.pi * rng.uniform(-strengths.hue, strengths.hue)
    brightness = 255 * rng.uniform(-strengths.brightness, strengths.brightness)
    hue = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    matrix = contrast * saturate @ _FROM_YIQ @ hue @ _TO_YIQ
    middle = float(_GREY @ cv2.mean(image)[:3])
    offset = np.full(3, (1 - contrast) * middle + brightness)
    return cv2.transform(image, np.column_stack([matrix, offset]))


def compress(image: np.ndarray, *, quality: int) -> np.ndarray:
    """The image after JPEG at this quality."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
