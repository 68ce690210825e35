"""The slides of a cohort, open while they are needed."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from digipath.data.cohort import Cohort
from digipath.errors import ResolutionError, SpecError
from digipath.geometry.frame import Frame
from digipath.slides.slide import Slide, open_slide

__all__ = ["SlidePool"]


class SlidePool:
    """The slides of a cohort, opened when they are first needed; the one not used for longest is closed.

    Args:
        cohort: Whose slides they are.
        open_slides: How many may be open at once; more only while more are read from.
    """

    def __init__(self, cohort: Cohort, *, open_slides: int = 16):
        if open_slides < 1:
            raise SpecError(f"open_slides is at least 1, got {open_slides}.")
        self.cohort, self.open_slides = cohort, open_slides
        self._open: OrderedDict[int, _Lent] = OrderedDict()
        self._frames: dict[int, Frame] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, case: int) -> Iterator[Slide]:
        """The open slide of case number `case`, which stays open for as long as it is lent."""
        with self._lock:
            lent = self._open.setdefault(case, _Lent())
            self._open.move_to_end(case)
            lent.users += 1
        try:
            with lent.lock:
                if lent.slide is None:
                    entry = self.cohort[case]
                    lent.slide = open_slide(entry.slide, mpp=entry.mpp)
            yield lent.slide
        finally:
            with self._lock:
                lent.users -= 1
                self._close_idle()

    def _close_idle(self):
        idle = [case for case, lent in self._open.items() if not lent.users]
        for case in idle[: max(0, len(self._open) - self.open_slides)]:
            self._shut(case)

    def _shut(self, case: int):
        slide = self._open.pop(case).slide
        if slide is not None and not isinstance(self.cohort[case].slide, Slide):
            slide.close()

    def frame(self, case: int, mpp: float) -> Frame:
        """The frame of a case at `mpp`; its own frame where that is the same."""
        if case not in self._frames:
            with self.lend(case) as slide:
                self._frames[case] = slide.frame
        frame = self._frames[case]
        if frame.mpp > 2 * mpp * (1 + 1e-6):
            raise ResolutionError(
                f"patches of {mpp:g} um per pixel come from slides of at most twice that, and case "
                f"{self.cohort[case].name} has {frame.mpp:g}. Leave it out, or train at a coarser mpp."
            )
        return frame if math.isclose(frame.mpp, mpp, rel_tol=1e-9) else frame.at(mpp)

    def close(self):
        """Close what is open and not in use."""
        with self._lock:
            for case in [case for case, lent in self._open.items() if not lent.users]:
                self._shut(case)


@dataclass
class _Lent:
    """An open slide and how many read from it now."""

    slide: Slide | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
