"""The front door: a slide in, its segmentation out."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.geometry.raster import Raster
from digipath.inference.compose import Ensemble
from digipath.inference.engine import Progress, Tally, stream
from digipath.inference.plan import Plan, plan
from digipath.inference.predictor import KerasPredictor, Predictor
from digipath.inference.settings import InferenceSettings
from digipath.inference.sinks import FileSink, MemorySink, Sink
from digipath.io.pyramid import RGB
from digipath.io.store import open_store
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec
from digipath.provenance import describe_members, describe_slide, versions
from digipath.segmentation import FORMAT_VERSION, Segmentation, staged
from digipath.slides.array import ArraySlide
from digipath.slides.slide import Slide, open_slide
from digipath.tissue_source import FoundTissue, TissueSource, clip, resolve_tissue

__all__ = ["Segmenter"]

# What a result may take in memory; beyond, it goes to disk.
_MEMORY = 2 * 2**30
_THUMBNAIL = 1600
# A share of the tissue that seldom is all lesion, and often is a wrong bundle or stain.
_SUSPICIOUS = 0.95


class Segmenter:
    """Finds lesions in whole-slide images.

    Args:
        bundle: A trained network: None for the built-in one, the name of a built-in one, a bundle's folder, a `Bundle`,
            a `Predictor`, or a list of these, whose probabilities are averaged.
        settings: How the network is applied.

    Example:
        >>> result = Segmenter().predict("slide.svs", out="results/slide")  # doctest: +SKIP
        >>> result.lesion_mm2()  # doctest: +SKIP
        3.2
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | Predictor | Sequence | None = None,
        *,
        settings: InferenceSettings = InferenceSettings(),  # noqa: B008 - it is frozen
    ):
        several = isinstance(bundle, Sequence) and not isinstance(bundle, str)
        self.members = [_member(one) for one in (bundle if several else [bundle])]
        self.settings = settings

    @cached_property
    def predictor(self) -> Predictor:
        """The network, or the ensemble, as a callable."""
        members = [KerasPredictor(one) if isinstance(one, Bundle) else one for one in self.members]
        return members[0] if len(members) == 1 else Ensemble(members)

    def plan(
        self,
        slide: str | Path | Slide | np.ndarray,
        *,
        mpp: float | None = None,
        tissue: TissueSource = None,
        region: Box | tuple[int, int, int, int] | None = None,
    ) -> Plan:
        """Decide what `predict` would read, without reading more of the slide than finding its tissue takes.

        Takes the arguments of `predict`.
        """
        with _opened(slide, mpp) as opened:
            return self._plan(opened, resolve_tissue(tissue, opened), _region(region, opened))

    def _plan(self, slide: Slide, tissue: FoundTissue, region: Box | None) -> Plan:
        mask = tissue.mask if region is None else clip(tissue.mask, region, slide)
        return plan(slide.frame, self.predictor, mask, settings=self.settings, region=region)

    def estimate(self, chosen: Plan) -> float:
        """Seconds that the network would take over a plan's patches, judged by timing one batch."""
        if not chosen.boxes:
            return 0.0
        batch = np.full((min(chosen.batch, len(chosen.boxes)), *chosen.grid.patch[::-1], 3), 230, np.uint8)
        self.predictor(batch)
        begin = time.perf_counter()
        self.predictor(batch)
        return (time.perf_counter() - begin) * len(chosen.boxes) / len(batch)

    def predict(
        self,
        slide: str | Path | Slide | np.ndarray,
        *,
        out: str | Path | None = None,
        mpp: float | None = None,
        tissue: TissueSource = None,
        region: Box | tuple[int, int, int, int] | None = None,
        progress: bool | Callable[[Progress], None] = True,
    ) -> Segmentation:
        """Segment one slide.

        Args:
            slide: A file, an open Slide, or an array (rows, columns, 3) uint8 RGB with its `mpp`.
            out: Folder for the result, which is then read lazily from there; without, it stays in memory.
            mpp: Micrometres per pixel of the slide at level 0, for slides that do not say, or say it wrong; an open
                Slide has its own.
            tissue: Where to look: a mask image, GeoJSON or ASAP file; an array that covers the slide, at any size of
                equal aspect; or a function of the slide that returns one. None finds the tissue.
            region: Only this box (x, y, width, height) of the slide, in level-0 pixels.
            progress: True shows a bar. A function is called with a `Progress` after every batch; what it raises ends
                the prediction, and nothing unfinished is left behind.

        Raises:
            SlideError: The slide cannot be opened, its mpp is unknown, or too much of its tissue cannot be read.
            SpecError: An argument makes no sense, or the result would not fit into memory.
        """
        begin = time.perf_counter()
        with _opened(slide, mpp) as opened:
            found = resolve_tissue(tissue, opened)
            run = _Run(self, opened, found, self._plan(opened, found, _region(region, opened)))
            run.seconds["preparing"] = time.perf_counter() - begin
            with _reporter(progress, opened.name, len(run.plan.boxes)) as report:
                return run.in_memory(report) if out is None else run.to_folder(Path(out), report)


class _Run:
    """One planned slide on its way through a segmenter."""

    def __init__(self, segmenter: Segmenter, slide: Slide, tissue: FoundTissue, chosen: Plan):
        self.segmenter, self.slide, self.tissue, self.plan = segmenter, slide, tissue, chosen
        self.seconds: dict[str, float] = {}
        self.tally = Tally()
        self.thumbnail = _thumbnail(slide)

    def in_memory(self, report: Callable[[Progress], None] | None) -> Segmentation:
        needed = self.plan.memory(len(self.segmenter.predictor.channels))
        if needed > _MEMORY:
            raise SpecError(
                f"a result of up to {_MEMORY / 2**30:g} GiB is kept in memory, and this one takes "
                f"{needed / 2**30:.1f}. Give out= a folder, or a coarser heatmap_mpp."
            )
        sink = MemorySink(self.plan.heatmap_frame, self.segmenter.predictor.channels)
        self._stream(sink, report)
        return self._segmentation(sink.heatmap, sink.covered, self.plan.tissue, self.thumbnail)

    def to_folder(self, folder: Path, report: Callable[[Progress], None] | None) -> Segmentation:
        rasters = {"tissue": self.plan.tissue, "thumbnail": self.thumbnail}
        with staged(folder) as place:
            with FileSink(place, self.plan.heatmap_frame, self.segmenter.predictor.channels, rasters) as sink:
                self._stream(sink, report)
            with open_store(place / "result.h5") as store:
                self._segmentation(*(store[name] for name in ("heatmap", "covered", *rasters))).write_products(place)
        return Segmentation.load(folder)

    def _stream(self, sink: Sink, report: Callable[[Progress], None] | None):
        begin = time.perf_counter()
        for strip in stream(self.slide, self.segmenter.predictor, self.plan, tally=self.tally, progress=report):
            sink.write(strip)
        self.seconds |= {
            "waiting for pixels": self.tally.waiting,
            "predicting": self.tally.predicting,
            "blending and writing": time.perf_counter() - begin - self.tally.waiting - self.tally.predicting,
        }

    def _segmentation(self, *rasters: Raster) -> Segmentation:
        """Tie the rasters to the record of how they came about, areas included."""
        result = Segmentation(*rasters, info=self._record())
        areas = {
            "tissue_mm2": self.plan.tissue_mm2,
            "covered_mm2": result.covered.area_mm2,
            "uncovered_mm2": result.uncovered.area_mm2,
            "lesion_mm2": result.lesion_mm2(),  # of the last class, whatever it is called
            "classes_mm2": {name: result.lesion_mm2(name=name) for name in result.classes[1:]},
        }
        status = "empty" if not areas["covered_mm2"] + areas["uncovered_mm2"] else "ok"
        result.info["areas"] = areas
        result.info["status"] = "incomplete" if areas["uncovered_mm2"] else status
        result.info["notes"] = self._notes(result, areas)
        return result

    def _record(self) -> dict[str, Any]:
        plan, frame = self.plan, self.slide.frame
        return {
            "format_version": FORMAT_VERSION,
            "slide": describe_slide(self.slide),
            "bundle": describe_members(self.segmenter.members, self.segmenter.predictor.spec),
            "versions": versions(),
            "settings": asdict(self.segmenter.settings),
            "threshold": self._threshold,
            "stains": asdict(self.tally.stains) if self.tally.stains else None,
            "tissue": self.tissue.explanation,
            "region": list(_whole(plan.region)) if plan.region else None,
            "patches": {
                "predicted": self.tally.patches,
                "size": list(plan.grid.patch),
                "stride": list(plan.grid.stride),
                "batch": plan.batch,
            },
            "mpp": {"slide": frame.mpp, "network": plan.frame.mpp, "heatmap": plan.heatmap_frame.mpp},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "unread": [list(_whole(plan.frame.box_in(box, frame))) for box in self.tally.unread],
            "repaired": [list(_whole(box)) for box in self.slide.repairs],
        }

    @property
    def _threshold(self) -> float:
        asked = self.segmenter.settings.threshold
        return self.segmenter.predictor.spec.threshold if asked is None else asked

    def _notes(self, result: Segmentation, areas: dict[str, float]) -> list[str]:
        """What a reader of the numbers should know before believing them."""
        notes, frame = list(self.tally.notes), self.slide.frame
        if self.tissue.given and not areas["tissue_mm2"]:
            notes.append(f"The tissue was {self.tissue.explanation}, and nothing of it lies where was to be looked.")
        elif not areas["tissue_mm2"]:
            notes.append(f"No tissue was found ({self.tissue.explanation}); where there is some, say so with tissue=.")
        if self.tissue.dark:
            notes.append("The slide's background is dark, as in fluorescence: is it the stain that the bundle is for?")
        if "guess" in self.slide.mpp_source:
            notes.append(f"{frame.mpp:g} um per pixel was guessed from the objective; every area depends on it.")
        if self.plan.frame.mpp < frame.mpp * (1 - 1e-6):
            notes.append(f"The slide was enlarged from {frame.mpp:g} to {self.plan.frame.mpp:g} um per pixel.")
        if self.slide.repairs:
            notes.append(f"{len(self.slide.repairs)} damaged regions were read from a coarser level.")
        if self.tally.unread:
            notes.append(f"{len(self.tally.unread)} regions could not be read; they are not covered.")
        if areas["covered_mm2"] and areas["lesion_mm2"] > _SUSPICIOUS * areas["covered_mm2"]:
            notes.append(f"Over {_SUSPICIOUS:.0%} of the tissue is {result.classes[-1]}: is it what the bundle is for?")
        for note in notes:
            warnings.warn(f"{self.slide.name}: {note}", stacklevel=5)
        return notes


def _member(source: str | Path | Bundle | Predictor | None) -> Bundle | Predictor:
    if source is None or isinstance(source, str | Path):
        return Bundle.open(source)
    if not isinstance(getattr(source, "spec", None), ModelSpec):
        raise SpecError(
            f"a Segmenter takes a bundle, or a list of them, got {type(source).__name__}. "
            "For a network of your own, give Bundle(model, ModelSpec(...))."
        )
    return source


@contextmanager
def _opened(slide: str | Path | Slide | np.ndarray, mpp: float | None) -> Iterator[Slide]:
    """The slide, closed at the end unless it came open."""
    opened = _open(slide, mpp)
    try:
        if opened.dtype != np.uint8:
            raise SpecError(
                f"a network takes uint8 RGB, got pixels of {opened.dtype}. "
                "Convert values from 0 to 1 by np.rint(array * 255).astype(np.uint8)."
            )
        yield opened
    finally:
        if opened is not slide:
            opened.close()


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


def _thumbnail(slide: Slide) -> Raster:
    frame = slide.frame.at(slide.frame.mpp * max(1.0, max(slide.frame.shape) / _THUMBNAIL))
    return Raster(slide.read_covered(frame.box, frame)[0], frame, RGB)


@contextmanager
def _reporter(
    progress: bool | Callable[[Progress], None], name: str, total: int
) -> Iterator[Callable[[Progress], None] | None]:
    """A function of `Progress`: the user's own, that of a bar, or none."""
    if progress is not True:
        yield progress or None
        return
    with tqdm(total=total, desc=name, unit="patch", leave=False) as bar:
        yield lambda state: bar.update(state.done - bar.n)
