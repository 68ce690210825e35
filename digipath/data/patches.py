"""Patches of a cohort and their labels, read at random places by threads; and batches of them. No TensorFlow.

A batch is a function of (seed, epoch, number) alone: how many threads made it, and what was made before, changes
nothing.
"""

import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from digipath.data.augment import Strengths, augment
from digipath.data.classes import IGNORED
from digipath.data.cohort import Cohort
from digipath.data.draws import Sampler, random_stream
from digipath.data.labels import LabelSource, label_source
from digipath.data.slide_pool import SlidePool
from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.slides.slide import Slide
from digipath.slides.stain import NORMALISATIONS, Stains, normalise, stains_for

__all__ = ["Batches", "PatchSource"]

# Frames of up to so many pixels are kept in memory whole; of image files, which are decoded whole anyway, larger too.
_SMALL = 2**22
# What random numbers are drawn for.
_AUGMENT, _MIX = 1, 2


@dataclass(frozen=True)
class _Whole:
    """A whole image at the wanted resolution, with its labels."""

    pixels: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """Bytes."""
        return self.pixels.nbytes + self.labels.nbytes


@dataclass(eq=False)
class PatchSource:
    """Reads patches of a cohort with their labels, at one resolution; any number of threads may.

    Small images are kept in memory once read. What a file has lost is white in the patch, ignored in its labels, warned
    of once a slide, and recorded in `unread`.

    Attributes:
        cohort: The cases.
        mpp: Resolution, in um per pixel.
        patch: Side of a patch, in pixels.
        kernel: How coarser pixels are made, as in `Slide.read`.
        stain: "none", or "macenko" to give every slide the colours of one reference.
        open_slides: How many slides may be open at once.
        outside: Grey level of what lies outside of the slide: 255, glass, or 0, the zero padding of the tiger paper.
        memory: Bytes of small images that may be kept; 0 keeps none.
        unread: Level-0 boxes that could not be read, by the name of the case.
    """

    cohort: Cohort
    mpp: float = field(kw_only=True)
    patch: int = field(kw_only=True)
    kernel: str = field(default="box", kw_only=True)
    stain: str = field(default="none", kw_only=True)
    open_slides: int = field(default=16, kw_only=True)
    outside: int = field(default=255, kw_only=True)
    memory: int = field(default=2 * 2**30, kw_only=True)
    unread: dict[str, set[Box]] = field(init=False, default_factory=dict)

    def __post_init__(self):
        if self.patch < 1:
            raise SpecError(f"a patch has at least one pixel a side, got {self.patch}.")
        if self.stain not in NORMALISATIONS:
            raise SpecError(f"stain is one of {', '.join(NORMALISATIONS)}, got {self.stain!r}. Choose one of them.")
        if not 0 <= self.outside <= 255:
            raise SpecError(f"outside is a grey level from 0 to 255, got {self.outside}.")
        self._slides = SlidePool(self.cohort, open_slides=self.open_slides)
        self._labels: dict[int, LabelSource] = {}
        self._stains: dict[int, Stains | None] = {}
        self._whole: OrderedDict[int, _Whole] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, case: int, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (patch, patch, 3) uint8 RGB and labels (patch, patch) uint8 of case number `case`.

        Args:
            case: Index into the cohort.
            x: Left edge of the patch in the case's frame at `mpp`; it may lie outside.
            y: Upper edge.

        Returns:
            Arrays of the caller's own. Labels are indices into `cohort.classes`, or 255 where nothing is known.
        """
        box = Box(x, y, self.patch, self.patch)
        frame = self._slides.frame(case, self.mpp)
        whole = self._kept(case, frame)
        if whole is None:
            return self._read(case, box, frame)
        image, labels = np.full((*_shape(box), 3), self.outside, np.uint8), np.full(_shape(box), IGNORED, np.uint8)
        inside = box.intersect(frame.box)
        target, origin = inside.shift(-x, -y).slices(), inside.slices()
        image[target], labels[target] = whole.pixels[origin], whole.labels[origin]
        return image, labels

    def close(self):
        """Close the slides and forget the images."""
        self._slides.close()
        with self._lock:
            self._whole.clear()

    def _kept(self, case: int, frame: Frame) -> _Whole | None:
        """The whole image of a small case, from memory where it is there."""
        with self._lock:
            if case in self._whole:
                self._whole.move_to_end(case)
                return self._whole[case]
        pixels = frame.width * frame.height
        if 4 * pixels > self.memory or (pixels > _SMALL and not self._is_image(case)):
            return None
        whole = _Whole(*self._read(case, frame.box, frame))
        with self._lock:
            self._whole[case] = whole
            while sum(kept.size for kept in self._whole.values()) > self.memory:
                self._whole.popitem(last=False)
        return whole

    def _is_image(self, case: int) -> bool:
        with self._slides.lend(case) as slide:
            return slide.backend == "image"

    def _read(self, case: int, box: Box, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        with self._slides.lend(case) as slide:
            image, lost = slide.read_covered(box, frame, kernel=self.kernel)
            if image.dtype != np.uint8:
                image = np.rint(image * 255).astype(np.uint8)
            if self.stain != "none":
                image = self._normalised(case, image, slide)
            labels = self._label_source(case, slide).read(box, frame)
            for lost_box in lost:
                within = slide.frame.box_in(lost_box, frame).intersect(box)
                labels[within.shift(-box.x, -box.y).slices()] = IGNORED
        if lost:
            self._tell(self.cohort[case].name, lost)
        if self.outside != 255:
            _fill_outside(image, box, frame, self.outside)
        return image, labels

    def _label_source(self, case: int, slide: Slide) -> LabelSource:
        if case not in self._labels:
            self._labels[case] = label_source(self.cohort[case], self.cohort, slide=slide)
        return self._labels[case]

    def _normalised(self, case: int, image: np.ndarray, slide: Slide) -> np.ndarray:
        with self._lock:
            if case not in self._stains:
                self._stains[case] = stains_for(slide, self.stain)
        stains = self._stains[case]
        return image if stains is None else normalise(image, stains)

    def _tell(self, name: str, lost: list[Box]):
        with self._lock:
            known = self.unread.setdefault(name, set())
            first, _ = not known, known.update(lost)
        if first:
            warnings.warn(
                f"case {name} cannot be read at level-0 {lost[0].bounds}, and perhaps elsewhere; what is lost is white "
                "in its patches, and ignored in their labels.",
                stacklevel=2,
            )


def _shape(box: Box) -> tuple[int, int]:
    return box.height, box.width


def _fill_outside(image: np.ndarray, box: Box, frame: Frame, level: int) -> None:
    inside = box.intersect(frame.box).shift(-box.x, -box.y)
    kept = image[inside.slices()].copy()
    image[...] = level
    image[inside.slices()] = kept


@dataclass(frozen=True)
class Batches:
    """Patches in batches, augmented: a function of (seed, epoch, number of the batch) alone.

    Attributes:
        source: Reads the patches.
        sampler: Says where they lie.
        batch: Patches in a batch.
        augment: How far to change each patch, or None for patches as they are: validation.
        seed: Seeds the changes.
        threads: How many read; by default one per core.
        mixed: Share of patches into which a rectangle of another is pasted, with its labels, so that even images that
            are of one class throughout make patches of two (as in CutMix, Yun et al. 2019).
        drop_last: Whether a last batch that is not full is left out: one patch is too few for batch normalisation.
    """

    source: PatchSource
    sampler: Sampler
    batch: int = field(default=16, kw_only=True)
    augment: Strengths | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    mixed: float = field(default=0.0, kw_only=True)
    drop_last: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        for name, value, least in (("batch", self.batch, 1), ("seed", self.seed, 0), ("threads", self.workers, 1)):
            if value < least:
                raise SpecError(f"{name} is at least {least}, got {value}.")
        if not 0 <= self.mixed <= 1:
            raise SpecError(f"mixed is a share between 0 and 1, got {self.mixed}.")
        here, there = (self.source.mpp, self.source.patch), (self.sampler.mpp, self.sampler.patch)
        if not math.isclose(here[0], there[0], rel_tol=1e-9) or here[1] != there[1]:
            raise SpecError(
                f"patches are read as they were planned, {there[1]} px at {there[0]:g} um per pixel; the source reads "
                f"{here[1]} px at {here[0]:g}. Open it with PatchSource(cohort, mpp=sampler.mpp, patch=sampler.patch)."
            )
        object.__setattr__(self, "_draws", _Latest(self.sampler.epoch))

    @property
    def workers(self) -> int:
        """The number of threads that `threads` means here."""
        return (os.cpu_count() or 1) if self.threads is None else self.threads

    def draws(self, epoch: int) -> np.ndarray:
        """(n, 3) int64: the draws of an epoch, in order."""
        return self._draws(epoch)

    def count(self, epoch: int = 0) -> int:
        """Number of batches of an epoch."""
        full, rest = divmod(len(self.draws(epoch)), self.batch)
        return full if self.drop_last else full + bool(rest)

    def make(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number`: (n, patch, patch, 3) uint8 images and (n, patch, patch) uint8 labels."""
        with ThreadPoolExecutor(self.workers) as pool:
            return self.start(pool, epoch, number).result()

    def start(self, pool: ThreadPoolExecutor, epoch: int, number: int) -> "PendingBatch":
        """The same, being made by the threads of `pool`."""
        count = self.count(epoch)
        if not 0 <= number < count:
            raise IndexError(f"epoch {epoch} has batches 0 to {count - 1}, got {number}.")
        indices = range(number * self.batch, min((number + 1) * self.batch, len(self.draws(epoch))))
        side = self.source.patch
        made = PendingBatch(
            np.empty((len(indices), side, side, 3), np.uint8), np.empty((len(indices), side, side), np.uint8), []
        )
        for place, index in enumerate(indices):
            made.parts.append(pool.submit(self._fill, made, place, epoch, index))
        return made

    def _fill(self, made: "PendingBatch", place: int, epoch: int, index: int):
        made.images[place], made.labels[place] = self.patch(epoch, index)

    def patch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Patch `index` of an epoch: image (patch, patch, 3) and labels (patch, patch), uint8."""
        image, labels = self._changed(epoch, index, (self.seed, _AUGMENT, epoch, index))
        rng = random_stream(self.seed, _MIX, epoch, index) if self.mixed else None
        if rng is not None and rng.random() < self.mixed:
            other = int(rng.integers(len(self.draws(epoch))))
            pixels, classes = self._changed(epoch, other, (self.seed, _MIX, epoch, index, 0))
            rows, columns = (_span(side, rng) for side in labels.shape)
            image[rows, columns], labels[rows, columns] = pixels[rows, columns], classes[rows, columns]
        return image, labels

    def _changed(self, epoch: int, index: int, stream: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        case, x, y = self.draws(epoch)[index].tolist()
        image, labels = self.source.read(case, x, y)
        if self.augment is None:
            return image, labels
        return augment(image, labels, seed=random_stream(*stream), strengths=self.augment)


@dataclass(frozen=True)
class PendingBatch:
    """A batch that threads fill."""

    images: np.ndarray
    labels: np.ndarray
    parts: list[Future]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels, once they are all there."""
        while self.parts:
            self.parts.pop().result()
        return self.images, self.labels

    def cancel(self):
        """Leave undone what has not begun."""
        for part in self.parts:
            part.cancel()


class _Latest:
    """Remembers the results of the last two arguments; at an epoch's end, threads ask for both epochs."""

    def __init__(self, function: Callable[[int], np.ndarray]):
        self.function, self.known, self.lock = function, OrderedDict(), threading.Lock()

    def __call__(self, argument: int) -> np.ndarray:
        with self.lock:
            if argument not in self.known:
                self.known[argument] = self.function(argument)
                while len(self.known) > 2:
                    self.known.popitem(last=False)
            return self.known[argument]


def _span(side: int, rng: np.random.Generator) -> slice:
    """A random stretch of 35 to 75 % of `side`."""
    length = max(1, int(side * rng.uniform(0.35, 0.75)))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)
