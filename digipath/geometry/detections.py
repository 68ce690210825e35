"""Places on a slide with a probability: what a detector says, and what files of detections hold."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from digipath.errors import ResultError

__all__ = ["MAX_DETECTIONS", "Detection", "detection_array"]

# On one slide. Beyond it a threshold or a radius was left out: whole slides have some hundred thousand lymphocytes.
MAX_DETECTIONS = 1_000_000


class Detection(NamedTuple):
    """A place that is said to be a lesion or a cell.

    Attributes:
        probability: How sure the detector is, 0 to 1.
        x: Column in level-0 pixels; a pixel at x covers [x, x + 1).
        y: Row in level-0 pixels.
    """

    probability: float
    x: float
    y: float


def detection_array(detections: Iterable[Detection]) -> np.ndarray:
    """(n, 3) float64 probability, x and y, checked."""
    try:
        values = np.array(list(detections), float).reshape(-1, 3)
    except (TypeError, ValueError):
        raise ResultError("a detection is three numbers, (probability, x, y), and one is not.") from None
    if len(values) > MAX_DETECTIONS:
        raise ResultError(f"a slide has at most {MAX_DETECTIONS:,} detections, got {len(values):,}. Use a threshold.")
    good = np.isfinite(values).all(1) & (values[:, 0] >= 0) & (values[:, 0] <= 1)
    if not good.all():
        index = int(np.flatnonzero(~good)[0])
        raise ResultError(
            "a detection is a probability from 0 to 1 at finite x and y, got "
            f"({', '.join(f'{part:g}' for part in values[index])}) as number {index + 1}. "
            "Check the order of its columns: probability, x, y."
        )
    return values
