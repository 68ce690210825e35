"""Drawing in haematoxylin and eosin: filled outlines, textures, and the light that comes through.

Everything is drawn as amounts of stain, and turned to colour by the law of Beer and Lambert. Lengths are in um, here
and in what is planned, until something is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy import fft

__all__ = ["Outlines", "Stainer", "blobs", "stains"]

# Optical density in red, green and blue of one unit of haematoxylin and one of eosin, and the camera's black level and
# contrast. Chosen so that nuclei, epithelium, stroma and mucin get the median colours, and the picture the local
# contrast, of the same compartments in EBHI-SEG's photographs.
_DENSITIES = np.array([[0.62, 0.95, 0.23], [0.11, 0.62, 0.18]], np.float32)
_LAMP, _BLACK = 272, 19
_BLUR = 0.36  # um: the standard deviation of the objective's point spread.
_SHIFT = 4  # Fractional bits of OpenCV's coordinates.


@dataclass(frozen=True)
class Outlines:
    """Shapes of one layer, filled in their order.

    Attributes:
        points: (n, k, 2) array, or n arrays of (k, 2): x, y in um.
        amounts: (n, 3) haematoxylin, eosin and fibre, in hundredths of a unit, 0 to 255.
    """

    points: Sequence[np.ndarray]
    amounts: np.ndarray

    @cached_property
    def _extents(self) -> np.ndarray:
        """(n, 2): lowest and highest y."""
        if isinstance(self.points, np.ndarray):
            return np.stack([self.points[..., 1].min(1), self.points[..., 1].max(1)], 1)
        return np.array([(p[:, 1].min(), p[:, 1].max()) for p in self.points]).reshape(-1, 2)

    def draw(self, canvas: np.ndarray, top: int, mpp: float) -> None:
        """Fill those that touch the canvas, (rows, columns, 3) uint8, whose first row is row `top` of the slide."""
        low, high = (top - 1) * mpp, (top + len(canvas) + 1) * mpp
        for index in np.flatnonzero((self._extents[:, 1] >= low) & (self._extents[:, 0] <= high)):
            # OpenCV's whole numbers are pixel centres; ours are their upper left corners.
            pixels = (self.points[index] / mpp - (0.5, top + 0.5)) * 2**_SHIFT
            amounts = tuple(float(amount) for amount in self.amounts[index])
            cv2.fillPoly(canvas, [np.rint(pixels).astype(np.int32)], amounts, cv2.LINE_AA, _SHIFT)


def stains(
    rng: np.random.Generator, count: int, mean: tuple[float, float, float], spread: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """(count, 3) amounts of stain; haematoxylin and eosin vary together."""
    varied = np.array(mean) + rng.standard_normal((count, 1)) * np.array([*spread, 0])
    return np.clip(varied, 2, 255) * (np.array(mean) > 0)


def blobs(
    rng: np.random.Generator, centres: np.ndarray, size: tuple[float, float], angles: np.ndarray | float | None = None
) -> np.ndarray:
    """Uneven ellipses of about `size` (length, width) um: (n, 12, 2). They lie at any angle if `angles` is None."""
    n = len(centres)
    angles = rng.uniform(0, 2 * np.pi, n) if angles is None else np.broadcast_to(angles, n)
    t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    edge = 1 + 0.1 * rng.standard_normal((n, 12))
    edge = (edge + np.roll(edge, 1, 1)) / 4
    length, width = (side * (1 + 0.19 * np.clip(rng.standard_normal((n, 1)), -2.2, 2.5)) for side in size)
    along, across = edge * np.cos(t) * length, edge * np.sin(t) * width
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    points = np.reshape(centres, (n, 1, 2)) + np.stack([along * cos - across * sin, along * sin + across * cos], -1)
    return points.astype(np.float32)


class _Texture:
    """Noise of mean 0 and variance 1 that repeats seamlessly; wavelength in pixels, `stretch` times that along x."""

    def __init__(self, rng: np.random.Generator, size: int, wavelength: float, *, band: float, stretch: float = 1):
        x, y = np.meshgrid(fft.rfftfreq(size).astype(np.float32), fft.fftfreq(size).astype(np.float32))
        frequency = np.maximum(np.hypot(x * stretch, y), 1e-9)
        spectrum = np.exp(-0.5 * (np.log(frequency * wavelength) / band) ** 2)
        field = fft.irfft2(fft.rfft2(rng.standard_normal((size, size), np.float32)) * spectrum)
        self._values = field / field.std()

    def rows(self, top: int, rows: int, width: int) -> np.ndarray:
        """(rows, width) values whose first row is row `top` of the slide."""
        size = len(self._values)
        values = self._values[np.arange(top, top + rows) % size]
        return np.tile(values, (1, -(-width // size)))[:, :width]


class Stainer:
    """Turns layers of outlines to pixels: softened by the objective, textured, lit and photographed."""

    def __init__(self, layers: Sequence[Outlines], mpp: float, rng: np.random.Generator):
        self.layers, self.mpp = layers, mpp
        self._fibre = _Texture(rng, 1024, 12 / mpp, band=0.45, stretch=2.5)
        self._cleft = _Texture(rng, 1536, 36 / mpp, band=0.5, stretch=2.5)
        self._cloud = _Texture(rng, 2048, 420 / mpp, band=0.6)
        self._mottle = _Texture(rng, 1024, 9 / mpp, band=0.7)
        self._chromatin = _Texture(rng, 512, 4.5 / mpp, band=0.5)
        self._sensor = _Texture(rng, 512, 2.2, band=0.6)

    def paint(self, top: int, rows: int, width: int) -> np.ndarray:
        """(rows, width, 3) uint8: the slide from row `top` on."""
        halo = int(np.ceil(4 * _BLUR / self.mpp)) + 1
        canvas = np.zeros((rows + 2 * halo, width, 3), np.uint8)
        for layer in self.layers:
            layer.draw(canvas, top - halo, self.mpp)
        amounts = cv2.GaussianBlur(canvas, (0, 0), _BLUR / self.mpp)[halo:-halo].astype(np.float32) / 100
        haematoxylin, eosin = self._textured(amounts, top)
        density = haematoxylin[..., None] * _DENSITIES[0] + eosin[..., None] * _DENSITIES[1]
        light = _LAMP * np.exp(-density) - _BLACK + self._sensor.rows(top, rows, width)[..., None]
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)

    def _textured(self, amounts: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Haematoxylin and eosin with coarse and fine unevenness, collagen fibres and the clefts between them."""
        haematoxylin, eosin, loose = np.moveaxis(amounts, -1, 0)
        fibre, cleft, cloud, mottle, chromatin = (
            texture.rows(top, *haematoxylin.shape)
            for texture in (self._fibre, self._cleft, self._cloud, self._mottle, self._chromatin)
        )
        gap = np.clip(1.25 - 2.8 * np.abs(cleft + 0.35 * fibre), 0, 1)
        gap *= np.clip(loose, 0, 1.3) * np.clip(1.2 - haematoxylin, 0, 1)
        ridges = np.exp(-2.2 * np.abs(fibre)) - 0.5
        tissue = np.minimum(3 * eosin, 1)
        uneven = 1 + 0.1 * chromatin * np.clip(haematoxylin, 0.3, 1.2) + 0.05 * cloud
        haematoxylin = haematoxylin * uneven * (1 - 0.85 * gap) + 0.05 * tissue * (mottle + 0.6 * chromatin)
        uneven = 1 + 0.1 * chromatin + 0.1 * cloud + 0.5 * loose * ridges
        eosin = eosin * uneven * (1 - 0.88 * gap) + 0.04 * tissue * mottle
        return np.maximum(haematoxylin, 0), np.maximum(eosin, 0)
