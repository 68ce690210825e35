"""What a sampling configuration looks at: where the slides of a cohort have tissue, and which classes."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from digipath.data.cohort import Cohort
from digipath.data.labels import LabelSource, label_source
from digipath.data.slide_pool import SlidePool
from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.grid import PatchGrid
from digipath.geometry.raster import Raster
from digipath.slides.tissue import TissueSettings, tissue_mask

__all__ = ["Overview", "Pool"]

# Pixels of an overview along a patch: fine enough that a lesion of a sixteenth of a patch is seen.
_ACROSS = 16
# Pixels of labels that are looked at in one piece.
_PIECE = 2**24
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Overview:
    """A case at a coarse resolution: where to look for patches.

    Attributes:
        frame: The frame of both; `factor` pixels of the patches' frame along each axis make one of its pixels.
        factor: See there.
        labels: (rows, columns) uint8 class at the centre of each pixel.
        tissue: (rows, columns) bool.
    """

    frame: Frame
    factor: int
    labels: np.ndarray
    tissue: np.ndarray


@dataclass(eq=False)
class Pool:
    """The cases of a cohort, looked at for patches of one size and resolution; threads may share it.

    Attributes:
        cohort: The cases.
        mpp: Resolution of the patches, in um per pixel.
        patch: Side of a patch, in pixels.
        settings: How tissue is told from glass.
        threads: How many cases are looked at at once; by default one per core.
        open_slides: How many slides may be open.
        told: What somebody should know, such as slides without tissue; in the order of the cases.
    """

    cohort: Cohort
    mpp: float = field(kw_only=True)
    patch: int = field(kw_only=True)
    settings: TissueSettings | None = field(default=None, kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    open_slides: int = field(default=16, kw_only=True)
    told: dict[int, str] = field(init=False, default_factory=dict)

    def __post_init__(self):
        if self.patch < 1:
            raise SpecError(f"a patch has at least one pixel a side, got {self.patch}.")
        if not len(self.cohort):
            raise SpecError("patches are planned for a cohort of at least one case, got none. Was its split empty?")
        self._slides = SlidePool(self.cohort, open_slides=self.open_slides)
        self._labels: dict[int, LabelSource] = {}

    def frame(self, case: int) -> Frame:
        """The frame in which patches of this case are counted."""
        return self._slides.frame(case, self.mpp)

    def labels(self, case: int) -> LabelSource:
        """What the pixels of this case are."""
        if case not in self._labels:
            with self._slides.lend(case) as slide:
                self._labels[case] = label_source(self.cohort[case], self.cohort, slide=slide)
        return self._labels[case]

    def tissue(self, case: int) -> Raster:
        """Where this case has tissue; a slide without any is recorded in `told`."""
        with self._slides.lend(case) as slide:
            mask = tissue_mask(slide, self.settings)
        if not mask.values.any():
            self.told[case] = f"{self.cohort[case].name}: no tissue was found, so that it gives no patches"
        return mask

    def overview(self, case: int) -> Overview:
        """The labels and the tissue of this case, coarsely."""
        factor = max(1, self.patch // _ACROSS)
        frame = self.frame(case).coarser(factor)
        source, labels = self.labels(case), np.empty(frame.shape, np.uint8)
        for box in frame.rows(max(1, _PIECE // frame.width)):
            labels[box.slices()] = source.read(box, frame)
        return Overview(frame, factor, labels, self.tissue(case).sample(frame.box, frame) != 0)

    def grid(self, case: int, stride: int) -> PatchGrid:
        """All places at multiples of `stride`; the last of a row or column may overhang the border."""
        return PatchGrid(self.frame(case), (self.patch, self.patch), (stride, stride))

    def places(self, case: int, stride: int, *, tissue: bool = True) -> np.ndarray:
        """(n, 2) int64: x and y of the patches of the grid, row by row; with `tissue`, of those that hold some."""
        grid, found = self.grid(case, stride), [np.zeros((0, 2), np.int64)]
        mask, columns = self.tissue(case) if tissue else None, np.arange(grid.columns) * stride
        for row in range(grid.rows):
            boxes = [grid.box(row, column) for column in range(grid.columns)]
            kept = columns if mask is None else columns[mask.coverage(boxes, grid.frame) > 0]
            found.append(np.stack([kept, np.full(len(kept), row * stride)], axis=1))
        return np.concatenate(found)

    def counts(self, case: int, places: np.ndarray) -> np.ndarray:
        """(n, classes) int64: pixels of each class in the patches at `places`, exactly; ignored ones are in none.

        Args:
            case: Index into the cohort.
            places: (n, 2) x and y, row by row, as `places` gives them.
        """
        frame, source, patch = self.frame(case), self.labels(case), self.patch
        counts = np.zeros((len(places), len(self.cohort.classes)), np.int64)
        for first, last in _runs(places, patch):
            (left, top), right = places[first], places[last - 1, 0] + patch
            band = source.read(Box(int(left), int(top), int(right - left), patch), frame)
            for index in range(first, last):
                x = int(places[index, 0] - left)
                counts[index] = np.bincount(band[:, x : x + patch].ravel(), minlength=256)[: counts.shape[1]]
        return counts

    def each(self, function: Callable[[int], _Result], cases: Iterable[int] | None = None) -> list[_Result]:
        """The results of `function` for every case, in order, by threads."""
        with ThreadPoolExecutor(self.threads or os.cpu_count() or 1) as pool:
            return list(pool.map(function, range(len(self.cohort)) if cases is None else cases))

    def index_of(self, name: str | None) -> int:
        """The label of a class; the last class, the lesion, where no name is given."""
        if name is None:
            return len(self.cohort.classes) - 1
        if name not in self.cohort.classes:
            raise SpecError(f"the cohort's classes are {', '.join(self.cohort.classes)}, got {name!r}. Use one.")
        return self.cohort.classes.index(name)

    def close(self):
        """Close the slides."""
        self._slides.close()


def _runs(places: np.ndarray, patch: int) -> list[tuple[int, int]]:
    """(first, last) of places that are read in one piece: of one row, with no gap wider than a patch."""
    if not len(places):
        return []
    widest = max(patch, _PIECE // patch)
    runs, first = [], 0
    for index in range(1, len(places) + 1):
        if (
            index == len(places)
            or places[index, 1] != places[first, 1]
            or not 0 <= places[index, 0] - places[index - 1, 0] <= patch
            or places[index, 0] + patch - places[first, 0] > widest
        ):
            runs.append((first, index))
            first = index
    return runs
