"""A slide at one resolution, and rectangles in it.

A pixel at x covers [x, x + 1), so that a change of resolution is one multiplication with no half-pixel term.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from digipath.errors import SpecError

__all__ = ["Box", "Frame"]

# Rounding noise of a division may not add a row of pixels that holds a billionth of the slide.
_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels in a frame; it may lie partly or wholly outside of it.

    Attributes:
        x: Left edge, in pixels of the frame.
        y: Top edge.
        width: Number of columns.
        height: Number of rows.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self):
        if self.width < 0 or self.height < 0:
            raise SpecError(f"a box has a width and height of at least 0 pixels, got {self.width} x {self.height}.")

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.x, self.y, self.right, self.bottom

    def intersect(self, other: "Box") -> "Box":
        """What both boxes cover; an empty box where they do not meet."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Box(x, y, max(0, min(self.right, other.right) - x), max(0, min(self.bottom, other.bottom) - y))

    def shift(self, dx: int, dy: int) -> "Box":
        """The same box elsewhere."""
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def shrink(self, margin: int) -> "Box":
        """The box without a border of `margin` pixels."""
        return Box(self.x + margin, self.y + margin, self.width - 2 * margin, self.height - 2 * margin)

    def coarser(self, factor: int) -> "Box":
        """The smallest box of a `factor` times coarser frame that covers this one."""
        x, y = self.x // factor, self.y // factor
        return Box(x, y, -(-self.right // factor) - x, -(-self.bottom // factor) - y)

    def slices(self) -> tuple[slice, slice]:
        """[rows, columns] of an array that covers the frame; the box must lie inside of it."""
        return slice(self.y, self.bottom), slice(self.x, self.right)


@dataclass(frozen=True, slots=True)
class Frame:
    """A slide seen at one resolution.

    Attributes:
        width: Columns that cover the slide; the last may overhang its right edge.
        height: Rows that cover the slide; the last may overhang its lower edge.
        downsample: Level-0 pixels per pixel of this frame, along each axis; 1 at level 0, below 1 where enlarged.
        mpp: Micrometres per pixel of this frame.
        slide_size: (width, height) of the slide in level-0 pixels; by default this frame's own.
    """

    width: int
    height: int
    downsample: float
    mpp: float
    slide_size: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.width < 1 or self.height < 1:
            raise SpecError(f"a frame has at least one pixel, got {self.width} x {self.height}.")
        if not (self.downsample > 0 and self.mpp > 0 and math.isfinite(self.downsample * self.mpp)):
            raise SpecError(
                f"a frame's downsample and mpp are finite and above 0, got {self.downsample} and {self.mpp}."
            )
        if self.slide_size == (0, 0):
            size = (round(self.width * self.downsample), round(self.height * self.downsample))
            object.__setattr__(self, "slide_size", size)

    @classmethod
    def level0(cls, width: int, height: int, mpp: float) -> "Frame":
        """The slide's own pixels."""
        return cls(width, height, 1.0, mpp, (width, height))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of an array that covers the frame."""
        return self.height, self.width

    @property
    def box(self) -> Box:
        """The whole frame."""
        return Box(0, 0, self.width, self.height)

    @property
    def on_slide(self) -> Box:
        """The pixels whose centre lies on the slide: all but a last row or column that mostly overhangs it."""
        sides = (max(1, math.ceil(side / self.downsample - 0.5 - _NOISE)) for side in self.slide_size)
        return Box(0, 0, *sides).intersect(self.box)

    @property
    def pixel_mm2(self) -> float:
        """Area of one pixel in mm2."""
        return (self.mpp / 1000) ** 2

    def at(self, mpp: float) -> "Frame":
        """The same slide at another resolution, in micrometres per pixel."""
        if not (math.isfinite(mpp) and mpp > 0):
            raise SpecError(f"mpp is a finite number of micrometres per pixel above 0, got {mpp}.")
        return self._at_downsample(self.downsample * mpp / self.mpp, mpp)

    def coarser(self, factor: int) -> "Frame":
        """The frame whose pixels are `factor` x `factor` pixels of this one."""
        if factor < 1 or factor != int(factor):
            raise SpecError(f"factor is a whole number of at least 1, got {factor}.")
        return self._at_downsample(self.downsample * factor, self.mpp * factor)

    def _at_downsample(self, downsample: float, mpp: float) -> "Frame":
        width, height = (max(1, math.ceil(side / downsample - _NOISE)) for side in self.slide_size)
        return Frame(width, height, downsample, mpp, self.slide_size)

    def scale_to(self, other: "Frame") -> float:
        """The factor that takes a position in this frame to one in `other`."""
        return self.downsample / other.downsample

    def bounds_in(self, box: Box, other: "Frame") -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in `other` of a box in this frame, exactly."""
        scale = self.scale_to(other)
        return box.x * scale, box.y * scale, box.right * scale, box.bottom * scale

    def box_in(self, box: Box, other: "Frame") -> Box:
        """The smallest box in `other` that covers `box` of this frame."""
        return covering(*self.bounds_in(box, other))

    def centres_in(self, box: Box, other: "Frame") -> Box:
        """The pixels of `other` whose centres lie in `box` of this frame; none of them outside of `other`."""
        left, top, right, bottom = (math.ceil(edge - 0.5 - _NOISE) for edge in self.bounds_in(box, other))
        return Box(left, top, max(0, right - left), max(0, bottom - top)).intersect(other.box)

    def rows(self, height: int) -> Iterator[Box]:
        """Full-width boxes of at most `height` rows, from top to bottom."""
        for y in range(0, self.height, height):
            yield Box(0, y, self.width, min(height, self.height - y))


def covering(left: float, top: float, right: float, bottom: float) -> Box:
    """The smallest box of whole pixels that covers these bounds."""
    x, y = math.floor(left + _NOISE), math.floor(top + _NOISE)
    return Box(x, y, max(0, math.ceil(right - _NOISE) - x), max(0, math.ceil(bottom - _NOISE) - y))
