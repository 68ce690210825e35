"""Whether reading patches keeps up with training; prints JSON.

    python benchmarks/training.py            # networks as the recipes train them; minutes
    python benchmarks/training.py --quick    # small patches and batches; under a minute

For each network and slide: `input`, patches a second that the pipeline gives with all cores (read from the slide at
random, labels rasterised from outlines, augmented, in batches), and `step`, patches a second of the training step alone
on one batch in memory. `ratio` is the first over the second, both measured in turns in the same run, and is to be at
least 2: then the network waits for no patch, also beside everything else that a program does.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import shapely
import shapely.affinity
from engine import BLOCK, MPP, make_slide

from digipath.data.augment import RECIPES, Strengths
from digipath.data.case import Case
from digipath.data.cohort import Cohort
from digipath.data.patches import Batches, PatchSource
from digipath.data.pipeline import BatchSequence, sequence
from digipath.data.pool import Pool
from digipath.data.sampling import Sampling, Strata, TumourNormal
from digipath.geometry.polygons import Annotation
from digipath.models.catalog import build
from digipath.slides.slide import open_slide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide
from digipath.training.losses import FocalLoss, HybridLoss


@dataclass(frozen=True)
class Setting:
    """A network and how it is trained."""

    architecture: str
    loss: Callable[[], keras.losses.Loss]
    sampling: Sampling
    augment: Strengths
    mpp: float
    patch: int
    batch: int


SETTINGS = (
    Setting("unet-mobilenetv2", HybridLoss, TumourNormal(per_slide=500), RECIPES["light"], 1.1, 224, 16),
    Setting("bcc-resnet34-ds", FocalLoss, Strata(stride=64), RECIPES["bcc"], 1.0, 512, 64),
)
TURNS = 3


def main():
    """Make the slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small patches and batches")
    parser.add_argument("--svs", type=Path, help="a slide of your own; by default the small region of CMU-1")
    parser.add_argument("--batch", type=int, help="in place of the recipes' batch sizes")
    arguments = parser.parse_args()
    settings = SETTINGS
    if arguments.quick:
        settings = [replace(setting, patch=128, batch=4, sampling=quick(setting.sampling)) for setting in SETTINGS]
    if arguments.batch:
        settings = [replace(setting, batch=arguments.batch) for setting in settings]
    seconds = 0.7 if arguments.quick else 8.0
    with tempfile.TemporaryDirectory() as folder:
        cohorts = made_cohorts(Path(folder), 3_000 if arguments.quick else 12_000, arguments.svs)
        figures = {
            "cores": os.cpu_count(),
            "backend": keras.backend.backend(),
            "networks": {setting.architecture: measure(setting, cohorts, seconds) for setting in settings},
        }
    print(json.dumps(figures, indent=2))


def quick(sampling: Sampling) -> Sampling:
    """Fewer points, for a shorter plan."""
    return replace(sampling, per_slide=100) if isinstance(sampling, TumourNormal) else sampling


def made_cohorts(folder: Path, side: int, svs: Path | None) -> dict[str, Cohort]:
    """A made slide with its true outlines, and a real one with made outlines where it is at hand."""
    made = make_slide(folder / "made.tif", side, side)
    lesions = SyntheticSlide(SyntheticSettings(width=BLOCK, height=BLOCK, mpp=MPP, lesions=1)).lesions
    steps = range(0, side, BLOCK)
    tiled = [shapely.affinity.translate(lesion, x, y) for y in steps for x in steps for lesion in lesions]
    cohorts = {f"made, {side} x {side} px": cohort_of(made, tiled)}
    data = Path(os.environ.get("DIGIPATH_DATA", Path(__file__).parents[1] / "../shared/data"))
    svs = svs or data / "slides/CMU-1-Small-Region.svs"
    if svs.is_file():
        with open_slide(svs) as slide:
            width, height = slide.frame.width, slide.frame.height
        cohorts[svs.name] = cohort_of(svs, list(blobs(width, height)))
    return cohorts


def cohort_of(slide: Path, outlines: list[shapely.Geometry]) -> Cohort:
    """One case."""
    return Cohort([Case(slide=slide, annotations=tuple(Annotation("tumour", outline) for outline in outlines))])


def blobs(width: int, height: int) -> Iterator[shapely.Polygon]:
    """Wavy outlines of 500 points, as drawn by hand."""
    rng, angle = np.random.default_rng(0), np.linspace(0, 2 * np.pi, 500, endpoint=False)
    for _ in range(8):
        waves = sum(rng.normal(0, 0.1 / k) * np.sin(k * angle + rng.uniform(0, 6)) for k in range(2, 9))
        radius = min(width, height) * rng.uniform(0.05, 0.12) * (1 + waves)
        x, y = rng.uniform(0.1, 0.9, 2) * (width, height)
        yield shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])).buffer(0)


def measure(setting: Setting, cohorts: dict[str, Cohort], seconds: float) -> dict[str, object]:
    """The figures of one network."""
    model = build(setting.architecture)
    model.compile("adam", loss=[setting.loss() for _ in model.outputs])
    feeds = {name: feed_of(setting, cohort, len(model.outputs)) for name, cohort in cohorts.items()}
    batch = next(iter(feeds.values()))[0]
    model.train_on_batch(*batch)
    turns = {name: [] for name in feeds}
    for _ in range(TURNS):
        for feed in feeds.values():
            feed.close()
        step = rate(lambda: model.train_on_batch(*batch), setting.batch, seconds)
        for name, feed in feeds.items():
            ready = endless(feed)
            next(ready)
            turns[name].append((rate(lambda ready=ready: next(ready), setting.batch, seconds), step))
            feed.close()
    return {
        "patch": setting.patch,
        "batch": setting.batch,
        "step": round(statistics.median(step for _, step in next(iter(turns.values()))), 1),
        "slides": {name: summary(pairs) for name, pairs in turns.items()},
    }


def feed_of(setting: Setting, cohort: Cohort, outputs: int) -> BatchSequence:
    """The patches as a training gets them; none is kept in memory, for the slides stand for larger ones."""
    pool = Pool(cohort, mpp=setting.mpp, patch=setting.patch)
    source = PatchSource(cohort, mpp=setting.mpp, patch=setting.patch, memory=0)
    sampler = setting.sampling.plan(pool)
    batches = Batches(source, sampler, batch=setting.batch, augment=setting.augment, drop_last=True)
    return sequence(batches, targets=lambda labels: [labels] * outputs if outputs > 1 else labels)


def endless(feed: BatchSequence) -> Iterator[object]:
    """Batches of one epoch after the other."""
    while True:
        yield from feed
        feed.epoch += 1


def rate(function: Callable[[], object], patches: int, seconds: float) -> float:
    """Patches a second of a function that makes or takes `patches` of them; called for `seconds`, twice at least."""
    begin, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - begin < seconds:
        function()
        calls += 1
    return calls * patches / (time.perf_counter() - begin)


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of the turns."""
    return {
        "input": round(statistics.median(each for each, _ in pairs), 1),
        "ratio": round(statistics.median(each / step for each, step in pairs), 2),
    }


if __name__ == "__main__":
    main()
