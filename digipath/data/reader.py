"""Boxes of a slide to uint8 batches, by threads, ahead of whoever consumes them.

Neighbouring patches overlap, so reading each by itself would decode most of a slide several times. Here every needed
pixel is read once, in horizontal bands, and patches are cut from the bands in memory. No TensorFlow.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.geometry.grid import PatchGrid, ReadBand, bands
from digipath.slides.slide import Slide
from digipath.slides.stain import Stains, normalise

__all__ = ["PatchReader", "ReadSettings"]

_BAND_BYTES = 48 * 2**20


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a slide is read.

    Attributes:
        threads: Threads that decode; by default one per core, at most 8 (both backends release the GIL).
        kernel: Resampling kernel, as in a model's specification.
        ahead: Bands that are read while an earlier one is in use.
        stains: The slide's, where its colours are to become those of the reference; None leaves them.
    """

    threads: int | None = None
    kernel: str = "box"
    ahead: int = 1
    stains: Stains | None = None

    def __post_init__(self):
        if self.threads is not None and self.threads < 1:
            raise SpecError(f"threads is at least 1, or None for one per core, got {self.threads}.")
        if self.ahead < 0:
            raise SpecError(f"ahead is a number of bands of at least 0, got {self.ahead}.")

    @property
    def workers(self) -> int:
        """The number of threads that this means here."""
        return self.threads or min(8, os.cpu_count() or 1)


@dataclass
class _Canvas:
    """One band in memory, filled by several threads."""

    band: ReadBand
    pixels: np.ndarray
    parts: list[Future] = field(default_factory=list)

    def finish(self):
        """Wait until all of it is read."""
        while self.parts:
            self.parts.pop().result()


class PatchReader:
    """Reads some boxes of a grid, in the grid's order, every pixel once.

    Attributes:
        unread: Boxes, in the grid's frame, that could not be read at any level; their pixels are white. Complete for
            every patch that has been handed out.
        waited: Seconds for which the consumer waited for pixels.
        pixels: Number of pixels of the grid's frame that were read.
    """

    def __init__(self, slide: Slide, grid: PatchGrid, boxes: list[Box], settings: ReadSettings | None = None):
        self.slide, self.grid, self.boxes = slide, grid, boxes
        self.settings = settings or ReadSettings()
        self.unread: list[Box] = []
        self.waited = 0.0
        self.pixels = 0
        self._batches = [np.empty(0, slide.dtype)] * 2
        self._spare: list[np.ndarray] = []
        self._begun: _Work | None = None

    def batches(self, size: int) -> Iterator[tuple[list[Box], np.ndarray]]:
        """Yield the patches in batches.

        Args:
            size: Patches in a batch; the last may hold fewer.

        Yields:
            The boxes, and their pixels as (n, height, width, 3), uint8 RGB, or what the slide's `read` returns. The
            next but one is cut into the same memory (fresh pages cost as much as the copy): copy what shall stay.
        """
        if not self.boxes:
            return
        work = self._begun if self._begun and self._begun.size == size else self._start(size)
        self._begun = None
        try:
            for number, boxes in enumerate(work.batches, 1):
                pixels = self._wait(work.ready)
                if number < len(work.batches):
                    work.ready = work.cutter.submit(self._cut, work.batches[number], work.canvases, number % 2)
                yield boxes, pixels
        finally:
            work.stop()

    def begin(self, size: int) -> None:
        """Read ahead the first batch of `batches(size)`, in the background."""
        if self.boxes and self._begun is None:
            self._begun = self._start(size)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._begun is not None:
            self._begun.stop()
            self._begun = None

    def _start(self, size: int) -> "_Work":
        self.close()
        batches = [self.boxes[first : first + size] for first in range(0, len(self.boxes), size)]
        readers, cutter = ThreadPoolExecutor(self.settings.workers), ThreadPoolExecutor(1)
        canvases = self._canvases(readers)
        return _Work(size, batches, readers, cutter, canvases, cutter.submit(self._cut, batches[0], canvases, 0))

    def _wait(self, ready: Future) -> np.ndarray:
        begin = time.perf_counter()
        pixels = ready.result()
        self.waited += time.perf_counter() - begin
        return pixels

    def _canvases(self, pool: ThreadPoolExecutor) -> "_Window":
        shrink = max(1.0, self.grid.frame.downsample)
        tall = max(256, min(1024, int(2048 / shrink)), self.grid.cell[1])
        affordable = _BAND_BYTES // (3 * (self.grid.frame.width + self.grid.patch[0]))
        rows = max(self.grid.cell[1], min(tall, affordable))
        planned = bands(self.grid, self.boxes, rows=rows, widest=max(256, min(2048, int(4096 / shrink))))
        return _Window(planned, lambda band: self._fetch(band, pool), self._spare, self.settings.ahead)

    def _fetch(self, band: ReadBand, pool: ThreadPoolExecutor) -> _Canvas:
        shape = (band.box.height, band.box.width, 3)
        spare = next((index for index, pixels in enumerate(self._spare) if pixels.shape == shape), None)
        canvas = _Canvas(band, np.empty(shape, self.slide.dtype) if spare is None else self._spare.pop(spare))
        canvas.parts = [pool.submit(self._fill, canvas, part) for part in band.parts]
        self.pixels += sum(part.area for part in band.parts)
        return canvas

    def _fill(self, canvas: _Canvas, part: Box):
        pixels, lost = self.slide.read_covered(part, self.grid.frame, kernel=self.settings.kernel)
        if self.settings.stains is not None:
            pixels = normalise(pixels, self.settings.stains)
        canvas.pixels[part.shift(-canvas.band.box.x, -canvas.band.box.y).slices()] = pixels
        self.unread.extend([self.slide.frame.box_in(box, self.grid.frame).intersect(part) for box in lost])

    def _cut(self, boxes: list[Box], canvases: "_Window", turn: int) -> np.ndarray:
        shape = (len(boxes), *self.grid.patch[::-1], 3)
        if self._batches[turn].shape != shape:
            self._batches[turn] = np.empty(shape, self.slide.dtype)
        for index, box in enumerate(boxes):
            for canvas in canvases.around(box):
                canvas.finish()
                inside = box.intersect(canvas.band.box)
                source = canvas.pixels[inside.shift(-canvas.band.box.x, -canvas.band.box.y).slices()]
                self._batches[turn][index][inside.shift(-box.x, -box.y).slices()] = source
        return self._batches[turn]


@dataclass
class _Work:
    """Batches on their way, and the threads that make them."""

    size: int
    batches: list[list[Box]]
    readers: ThreadPoolExecutor
    cutter: ThreadPoolExecutor
    canvases: "_Window"
    ready: Future

    def stop(self) -> None:
        """End the threads, when what they are at is done."""
        for pool in (self.readers, self.cutter):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self.cutter, self.readers):
            pool.shutdown(wait=True)


class _Window:
    """The bands in memory: those that the box at hand needs, and some ahead of it."""

    def __init__(
        self, planned: Iterator[ReadBand], start: Callable[[ReadBand], _Canvas], spare: list[np.ndarray], ahead: int
    ):
        self.planned, self.start, self.spare, self.ahead = planned, start, spare, ahead
        self.canvases: deque[_Canvas] = deque()

    def around(self, box: Box) -> list[_Canvas]:
        """The canvases that hold a box; boxes come from top to bottom."""
        while self.canvases and self.canvases[0].band.box.bottom <= box.y:
            self.spare[:] = [*self.spare[-1:], self.canvases.popleft().pixels]
        while sum(canvas.band.box.y >= box.bottom for canvas in self.canvases) < self.ahead or self._short(box):
            band = next(self.planned, None)
            if band is None:
                break
            self.canvases.append(self.start(band))
        return [canvas for canvas in self.canvases if canvas.band.box.y < box.bottom]

    def _short(self, box: Box) -> bool:
        return not self.canvases or self.canvases[-1].band.box.bottom < box.bottom
