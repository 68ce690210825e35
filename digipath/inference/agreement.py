"""Whether two ways to compute a network agree, tried on a few made patches of stained tissue."""

import math

import numpy as np

from digipath.models.spec import ModelSpec
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

__all__ = ["LARGEST", "difference", "possible_change", "probes"]

LARGEST = 5e-3
"""Two ways to compute a network agree where no probability differs by more: about one grey level of 255."""

_SIDE = 1024  # of the made tissue, which is repeated for larger patches
_FEW = 512**2  # pixels beyond which one patch is probe enough


def probes(spec: ModelSpec, size: tuple[int, int]) -> np.ndarray:
    """Made patches (n, height, width, 3) uint8 of a size (width, height), in four strengths of the stain.

    One of them where patches are large.
    """
    width, height = size
    mpp = min(max(spec.mpp, 0.25), 2.0)
    side = max(min(max(width, height), _SIDE) + _SIDE // 4, math.ceil(250 / mpp))
    tissue = SyntheticSlide(SyntheticSettings(width=side, height=side, mpp=mpp, lesions=1)).array()
    times = (-(-height // side), -(-width // side))
    tissue = np.tile(tissue, (times[0] + 1, times[1] + 1, 1))
    strengths = (1.0, 0.6, 1.4, 0.3) if width * height <= _FEW else (1.0,)
    patches = []
    for number, strength in enumerate(strengths):
        y, x = (side // 8 + number * side // 5 for _ in range(2))
        patch = tissue[y : y + height, x : x + width]
        patches.append(np.rint(255 * (patch / 255.0) ** strength).astype(np.uint8))
    return np.stack(patches)


def difference(values: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference of probabilities; infinite where one is not a number."""
    largest = float(np.abs(np.asarray(values, np.float32) - reference).max())
    return largest if math.isfinite(largest) else math.inf


def possible_change(values: np.ndarray, reference: np.ndarray) -> float:
    """By how much a probability may change that is near one half; infinite where one is not a number.

    Made patches are no sample of real ones, and most of their probabilities lie where nothing shows. So the largest
    change of log-odds counts, between probabilities of 1e-4 and 1 - 1e-4: at one half it moves a probability by its
    quarter. Of the built-in bundles in bfloat16 it says 0.11, 0.08 and 0.05 where real patches (40 of EBHI-SEG) change
    by up to 0.21, 0.14 and 0.05.
    """
    least = np.float32(1e-4)
    odds = []
    for each in (values, reference):
        clipped = np.clip(np.asarray(each, np.float32), least, 1 - least)
        odds.append(np.log(clipped / (1 - clipped)))
    largest = float(np.abs(odds[0] - odds[1]).max()) / 4
    return largest if math.isfinite(largest) else math.inf
