"""The front door: a slide in, its segmentation out."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.inference.cascade import Cascade
from digipath.inference.engine import Progress
from digipath.inference.plan import Plan
from digipath.inference.predictor import Predictor
from digipath.inference.program import Program
from digipath.inference.settings import EFFORTS, InferenceSettings
from digipath.models.bundle import Bundle
from digipath.networks import Networks
from digipath.prepared import JOURNAL, Prepared
from digipath.segmentation import Segmentation
from digipath.slides.array import ArraySlide
from digipath.slides.slide import Slide, open_slide
from digipath.tissue_source import TissueSource, clip, resolve_tissue

__all__ = ["Segmenter", "discard"]


class Segmenter:
    """Finds lesions in whole-slide images.

    Args:
        bundle: A trained network: None for the built-in one, the name of a built-in one, a bundle's folder, a `Bundle`,
            a `Predictor`, a `Cascade` of two of these, or a list of these, whose probabilities are averaged.
        settings: How the networks are applied; None takes what `effort` means.
        effort: "fast", "balanced" or "thorough": settings by name, see `docs/results.md`. What a bundle cannot do of
            them is left out, and `result.json` says so; beside `settings`, of these.
        weights: Of each bundle of a list in the mean, above 0; None for equal ones.

    Raises:
        SpecError: The networks do not fit each other, or cannot do what the settings ask for.
        BundleError: A bundle is not what it should be.

    Example:
        >>> result = Segmenter().predict("slide.svs", out="results/slide")  # doctest: +SKIP
        >>> result.lesion_mm2()  # doctest: +SKIP
        3.2
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | Predictor | Cascade | Sequence | None = None,
        *,
        settings: InferenceSettings | None = None,
        effort: str | None = None,
        weights: Sequence[float] | None = None,
    ):
        if effort is not None and effort not in EFFORTS:
            raise SpecError(f"effort is one of {', '.join(EFFORTS)}, got {effort!r}. Choose one of them.")
        self.effort = effort
        self.settings = settings or EFFORTS[effort or "balanced"]
        self.networks = Networks.of(bundle, weights=weights, settings=self.settings, lenient=effort is not None)

    @cached_property
    def program(self) -> Program:
        """The networks, loaded and put together."""
        return self.networks.program(self.settings)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of what is said of each pixel: the classes, then uncertainties where they are asked for."""
        return self.program.channels

    def plan(
        self,
        slide: str | Path | Slide | np.ndarray,
        *,
        mpp: float | None = None,
        tissue: TissueSource = None,
        region: Box | tuple[int, int, int, int] | None = None,
    ) -> tuple[Plan, ...]:
        """Decide what `predict` would read, without reading more of the slide than finding its tissue takes.

        Takes the arguments of `predict`.

        Returns:
            A plan for each time that the slide is read: one, unless the networks see it at different resolutions. Of a
            cascade the first stage's comes first, and those of the second hold all patches that it could call for.
        """
        with self._prepared(slide, mpp, tissue, region) as prepared:
            return tuple(one.plan for _, one in prepared.stages)

    def estimate(self, plans: Sequence[Plan]) -> float:
        """Seconds that the networks would take over the patches of `plan`, judged by timing one batch of each."""
        stages = [self.program.first, *self.program.groups] if self.program.first else self.program.groups
        return sum(_estimate(group.predictor, one) for group, one in zip(stages, plans, strict=True))

    def prepare(
        self,
        slide: str | Path | Slide | np.ndarray,
        *,
        mpp: float | None = None,
        tissue: TissueSource = None,
        region: Box | tuple[int, int, int, int] | None = None,
    ) -> Prepared:
        """Do all that comes before the network: open the slide, find its tissue, plan, and begin to read.

        It can be done by another thread while the slide before is in work. Close it, or use it in a `with` block.

        Takes the arguments of `predict`.
        """
        prepared = self._prepared(slide, mpp, tissue, region)
        prepared.begin()
        return prepared

    def predict(
        self,
        slide: str | Path | Slide | np.ndarray | Prepared,
        *,
        out: str | Path | None = None,
        mpp: float | None = None,
        tissue: TissueSource = None,
        region: Box | tuple[int, int, int, int] | None = None,
        progress: bool | Callable[[Progress], None] = True,
    ) -> Segmentation:
        """Segment one slide.

        Args:
            slide: A file, an open Slide, an array (rows, columns, 3) uint8 RGB with its `mpp`, or what `prepare`
                returned, which knows mpp, tissue and region and is closed at the end.
            out: Folder for the result, which is then read lazily from there; without, it stays in memory. Whatever
                stops the prediction, the same call goes on from the finished part, which lies in `.journal`.
            mpp: Micrometres per pixel of the slide at level 0, for slides that do not say, or say it wrong; an open
                Slide has its own.
            tissue: Where to look: a mask image, GeoJSON or ASAP file; an array that covers the slide, at any size of
                equal aspect; or a function of the slide that returns one. None finds the tissue.
            region: Only this box (x, y, width, height) of the slide, in level-0 pixels.
            progress: True shows a bar. A function is called with a `Progress` after every batch; what it raises ends
                the prediction, and nothing stands under a final name.

        Raises:
            SlideError: The slide cannot be opened, its mpp is unknown, or too much of its tissue cannot be read.
            SpecError: An argument makes no sense, or the result would not fit into memory.
            ResultError: The folder cannot be written, or holds the beginning of another run (`discard` deletes it).
        """
        if isinstance(slide, Prepared):
            prepared = self._own(slide, mpp, tissue, region)
        else:
            prepared = self.prepare(slide, mpp=mpp, tissue=tissue, region=region)
        with prepared, _reporter(progress, prepared.slide.name) as report:
            return prepared.in_memory(report) if out is None else prepared.to_folder(Path(out), report)

    def _prepared(
        self,
        slide: str | Path | Slide | np.ndarray,
        mpp: float | None,
        tissue: TissueSource,
        region: Box | tuple[int, int, int, int] | None,
    ) -> Prepared:
        begin = time.perf_counter()
        opened = _opened(slide, mpp)
        owned = opened is not slide
        try:
            found, box = resolve_tissue(tissue, opened), _region(region, opened)
            mask = found.mask if box is None else clip(found.mask, box, opened)
            return Prepared(
                slide=opened,
                owned=owned,
                tissue=replace(found, mask=mask),
                region=box,
                networks=self.networks,
                program=self.program,
                first=self.program.first_pass(opened.frame, mask, box),
                passes=self.program.passes(opened.frame, mask, box),
                effort=self.effort,
                seconds={"preparing": time.perf_counter() - begin},
            )
        except BaseException:
            if owned:
                opened.close()
            raise

    def _own(self, prepared: Prepared, *further: Any) -> Prepared:
        if prepared.program is not self.program or any(value is not None for value in further):
            prepared.close()
            raise SpecError(
                "a prepared slide goes to the Segmenter that prepared it, and mpp, tissue and region to prepare(), "
                "got another Segmenter or one of these. Give them there."
            )
        return prepared


def discard(folder: str | Path) -> None:
    """Delete the unfinished beginning of a result, so that `predict` begins anew; a finished result stays."""
    shutil.rmtree(Path(folder) / JOURNAL, ignore_errors=True)


def _estimate(predictor: Predictor, chosen: Plan) -> float:
    if not chosen.boxes:
        return 0.0
    batch = np.full((min(chosen.batch, len(chosen.boxes)), *chosen.grid.patch[::-1], 3), 230, np.uint8)
    predictor(batch)
    begin = time.perf_counter()
    predictor(batch)
    return (time.perf_counter() - begin) * len(chosen.boxes) / len(batch)


def _opened(slide: str | Path | Slide | np.ndarray, mpp: float | None) -> Slide:
    """The slide, open, with the pixels that networks take."""
    opened = _open(slide, mpp)
    if opened.dtype == np.uint8:
        return opened
    found = opened.dtype
    if opened is not slide:
        opened.close()
    raise SpecError(
        f"a network takes uint8 RGB, got pixels of {found}. "
        "Convert values from 0 to 1 by np.rint(array * 255).astype(np.uint8)."
    )


def _open(slide: str | Path | Slide | np.ndarray, mpp: float | None) -> Slide:
    if isinstance(slide, np.ndarray):
        if mpp is None:
            raise SpecError("an array does not say its resolution. Give mpp=, its micrometres per pixel.")
        return ArraySlide(slide, mpp=mpp)
    if not isinstance(slide, str | Path | Slide):
        raise SpecError(
            f"a slide is a path, an open Slide or a NumPy array with its mpp, got {type(slide).__name__}. "
            "Turn a picture into an array: np.asarray(picture)."
        )
    return open_slide(slide, mpp=mpp)


def _region(region: Box | tuple[int, int, int, int] | None, slide: Slide) -> Box | None:
    if region is None:
        return None
    values = _whole(region) if isinstance(region, Box) else tuple(region)
    if len(values) != 4 or not all(float(value).is_integer() for value in values):
        raise SpecError(f"a region is four whole numbers (x, y, width, height) in level-0 pixels, got {values}.")
    box = Box(*(int(value) for value in values))
    if not box.area or box.intersect(slide.frame.box) != box:
        raise SpecError(
            f"a region (x, y, width, height) lies inside of the slide's {slide.frame.width} x {slide.frame.height} "
            f"level-0 pixels, got {_whole(box)}."
        )
    return box


def _whole(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.width, box.height


@contextmanager
def _reporter(progress: bool | Callable[[Progress], None], name: str) -> Iterator[Callable[[Progress], None] | None]:
    """A function of `Progress`: the user's own, that of a bar, or none."""
    if progress is not True:
        yield progress or None
        return
    with tqdm(desc=name, unit="patch", leave=False) as bar:

        def show(state: Progress):
            if state.total != bar.total:  # the next stage
                bar.reset(state.total)
                bar.initial = bar.n = state.before
            bar.update(state.done - bar.n)

        yield show
