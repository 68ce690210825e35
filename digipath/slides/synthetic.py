"""Small H&E-like slides of colon mucosa with planted tumours and exact truth, for the demo, the docs and the tests.

Round crypts with pale goblet cells stand in a stroma of lymphocytes and fibroblasts; the tumours are crowded, dark,
irregular glands. Everything is drawn from a seed; nothing is taken from a real image but colours and sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster
from digipath.slides._anatomy import plan
from digipath.slides._histology import Stainer

__all__ = ["SyntheticSettings", "SyntheticSlide"]

_STRIP = 512


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """What to make.

    Attributes:
        width: Of the slide, in pixels.
        height: Of the slide, in pixels.
        mpp: Micrometres per pixel.
        lesions: Number of tumours.
        seed: The same seed makes the same slide, bit for bit, on the same machine.
    """

    width: int = 4096
    height: int = 3072
    mpp: float = 0.5
    lesions: int = 2
    seed: int = 0

    def __post_init__(self):
        if not 0.2 <= self.mpp <= 2:
            raise SpecError(f"a made slide has cells to show at an mpp of 0.2 to 2, got {self.mpp}.")
        if min(self.width, self.height) * self.mpp < 200:
            raise SpecError(
                f"a made slide is at least 200 um wide and high, got {self.width} x {self.height} pixels of "
                f"{self.mpp} um. Give it at least {int(np.ceil(200 / self.mpp))} pixels a side."
            )
        if self.lesions < 0 or self.seed < 0:
            raise SpecError(f"lesions and seed are at least 0, got {self.lesions} and {self.seed}.")


class SyntheticSlide:
    """A made slide: its pixels, strip by strip, and where its tumours are.

    Attributes:
        frame: Level 0.
        lesions: The tumours' glands, shapely polygons in level-0 pixels; they do not meet.

    Example:
        >>> slide = SyntheticSlide(SyntheticSettings(width=800, height=600))
        >>> slide.array().shape
        (600, 800, 3)
    """

    def __init__(self, settings: SyntheticSettings = SyntheticSettings()):
        mpp = settings.mpp
        layout, textures = (np.random.default_rng(s) for s in np.random.SeedSequence(settings.seed).spawn(2))
        anatomy = plan((settings.width * mpp, settings.height * mpp), lesions=settings.lesions, rng=layout)
        self.settings = settings
        self.frame = Frame.level0(settings.width, settings.height, mpp)
        self.lesions = tuple(shapely.transform(gland, lambda um: um / mpp) for gland in anatomy.lesions)
        self._stainer = Stainer(anatomy.layers, mpp, textures)

    def strips(self) -> Iterator[tuple[int, np.ndarray]]:
        """Level 0 from top to bottom: `(y, rows)`, rows (n, width, 3) uint8 RGB."""
        for box in self.frame.rows(_STRIP):
            yield box.y, self._stainer.paint(box.y, box.height, box.width)

    def array(self) -> np.ndarray:
        """Level 0 as a whole, (height, width, 3) uint8 RGB."""
        return np.concatenate([rows for _, rows in self.strips()])

    def annotations(self) -> list[Annotation]:
        """The truth: each gland of a tumour, as an annotation named "lesion"."""
        return [Annotation("lesion", gland) for gland in self.lesions]

    def mask(self, frame: Frame) -> Raster:
        """The truth in a frame of this slide: the pixels whose centre lies in a gland of a tumour."""
        return rasterize(self.annotations(), frame)
