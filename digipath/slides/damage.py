"""Reading around what cannot be read."""

import numpy as np

from digipath.errors import SlideError
from digipath.geometry.frame import Box, Frame
from digipath.slides.slide import Slide

__all__ = ["read_around_damage"]

_LEAF = 64  # Damage is located to squares of about this side; the tiles of a slide are seldom smaller.


def read_around_damage(slide: Slide, box: Box, frame: Frame, *, kernel: str = "box") -> tuple[np.ndarray, list[Box]]:
    """Read a box; where that fails at every level, halve it until what cannot be read is small.

    Args:
        slide: An open slide.
        box: What to read, in `frame`.
        frame: Any frame of the slide.
        kernel: Resampling kernel.

    Returns:
        The pixels as from `slide.read`, white where they could not be read, and the boxes, in `frame`, of those.
    """
    try:
        return slide.read(box, frame, kernel=kernel), []
    except SlideError:
        if max(box.width, box.height) <= _LEAF:
            return np.full((box.height, box.width, 3), 255, np.uint8), [box]
    first, second = _halves(box)
    (one, lost), (other, more) = (read_around_damage(slide, half, frame, kernel=kernel) for half in (first, second))
    return np.concatenate([one, other], axis=1 if first.height == box.height else 0), lost + more


def _halves(box: Box) -> tuple[Box, Box]:
    """Both halves of a box along its longer side."""
    if box.width >= box.height:
        half = box.width // 2
        return Box(box.x, box.y, half, box.height), Box(box.x + half, box.y, box.width - half, box.height)
    half = box.height // 2
    return Box(box.x, box.y, box.width, half), Box(box.x, box.y + half, box.width, box.height - half)
