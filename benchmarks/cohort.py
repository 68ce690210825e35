"""What a run of many slides costs beside calling `predict` for each; prints JSON.

    python benchmarks/cohort.py            # 20 slides, with the smallest built-in network; some minutes
    python benchmarks/cohort.py --quick    # 8 slides, with a network that costs little; seconds

a  `run_over_loop`: time of `digipath.runs.local.run` over that of a loop that calls `predict` for the same slides with
   the same segmenter (goal: at most 1.05). Locks, records and summaries make it more; opening and reading the next
   slide while the current one runs makes it less. Median over groups of slides, done by turns and into fresh folders,
   because a machine that does other things is never the same for long; processor time is disturbed less.
b  `skip_seconds`: seconds a slide that a second run takes to see that it is done
c  `dask_over_run`: see `dask_over_run`
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec
from digipath.runs.cluster import run_on
from digipath.runs.find import find_slides
from digipath.runs.local import run
from digipath.runs.spec import SegmenterSpec
from digipath.runs.task import Report
from digipath.segmenter import Segmenter
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

BUNDLE = "colon-lesion-light"
# Slides that are timed together.
GROUP = 4
MPP = 0.5


def main():
    """Make the slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few slides, and a network that costs little")
    arguments = parser.parse_args()
    count, turns = (8, 3) if arguments.quick else (20, 5)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        slides = make_slides(place / "slides", count)
        segmenter = cheap_segmenter() if arguments.quick else Segmenter(BUNDLE)
        figures = {
            "slides": count,
            "cores": os.cpu_count(),
            "network": "none" if arguments.quick else BUNDLE,
            "run_over_loop": run_over_loop(segmenter, slides, place, turns=turns),
            "skip_seconds": skip_seconds(segmenter, slides, place),
            "dask_over_run": dask_over_run(segmenter, slides, place),
        }
    print(json.dumps(figures, indent=2))


def make_slides(folder: Path, count: int) -> list[Path]:
    """Slides of 1,024 x 1,024 px with planted lesions, as JPEG pyramids."""
    folder.mkdir()
    paths = [folder / f"{number:02}.tif" for number in range(count)]
    for number, path in enumerate(paths):
        made = SyntheticSlide(SyntheticSettings(width=1024, height=1024, mpp=MPP, lesions=1, seed=number))
        settings = PyramidSettings(compression="jpeg")
        write_pyramid(path, made.frame, made.strips(), channels=RGB, settings=settings)
    return paths


def cheap_segmenter() -> Segmenter:
    """Calls dark pixels a lesion."""

    def darkness(patches: np.ndarray) -> np.ndarray:
        values = (patches[..., 1] < 100).astype(np.float32)
        return np.stack([1 - values, values], -1)

    spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=MPP, patch=256)
    return Segmenter(FunctionPredictor(darkness, spec), settings=InferenceSettings(threads=2))


def run_over_loop(segmenter: Segmenter, slides: list[Path], place: Path, *, turns: int) -> dict:
    """Figure a."""

    def loop(slides: list[Path], out: Path):
        for slide in slides:
            segmenter.predict(slide, out=out / slide.stem, progress=False)

    def cohort(slides: list[Path], out: Path):
        outcomes = run(segmenter, find_slides(slides, out=out), out=out)
        wrong = [outcome for outcome in outcomes if outcome.status != "ok"]
        if wrong:
            raise RuntimeError(f"{wrong[0].name}: {wrong[0].reason}")

    segmenter.predict(slides[0], out=place / "warm", progress=False)
    pairs = []
    for turn in range(turns):
        for first in range(0, len(slides), GROUP):
            works = (loop, cohort) if len(pairs) % 2 else (cohort, loop)
            taken = {
                work: timed_twice(work, slides[first : first + GROUP], place / f"{work.__name__}-{turn}-{first}")
                for work in works
            }
            pairs.append((taken[cohort], taken[loop]))
    wall, processor = ([ours[kind] / theirs[kind] for ours, theirs in pairs] for kind in (0, 1))
    return {
        "ratio": round(statistics.median(wall), 3),
        "quartiles": [round(value, 3) for value in statistics.quantiles(wall)],
        "ratio_of_processor_time": round(statistics.median(processor), 3),
        "seconds_a_slide": round(statistics.median(theirs[0] for _, theirs in pairs) / GROUP, 3),
    }


def timed_twice(work: Callable[[list[Path], Path], None], slides: list[Path], out: Path) -> tuple[float, float]:
    """(seconds by the clock, seconds of processors) that it takes."""
    clock, processor = time.perf_counter(), time.process_time()
    work(slides, out)
    return time.perf_counter() - clock, time.process_time() - processor


def skip_seconds(segmenter: Segmenter, slides: list[Path], place: Path) -> float:
    """Figure b, of a run that begins again."""
    out = place / "skipped"
    run(segmenter, find_slides(slides, out=out), out=out)
    return round(timed(lambda: run(segmenter, find_slides(slides, out=out), out=out)) / len(slides), 4)


def dask_over_run(segmenter: Segmenter, slides: list[Path], place: Path) -> dict:
    """Figure c: seconds a slide on one worker process of a cluster on this machine, over those of `run`.

    Both from the end of the first slide to that of the last, so that what is done once (processes, imports, loading the
    network) is apart: in `seconds_to_first_slide`, of the cluster and of `run`. A worker reads no slide ahead, so the
    ratio holds what `run` gains by that. Median of two turns; networks that are no bundles cannot travel.
    """
    if not all(isinstance(one, Bundle) for one in segmenter.networks.members):
        slides, segmenter = slides[:4], Segmenter(BUNDLE, settings=InferenceSettings(overlap=0))
    spec, ratios, first = SegmenterSpec.of(segmenter), [], []
    for turn in range(2):
        seconds = []
        for name in ("dask", "here"):
            out, ends, begin = place / f"{name}-{turn}", [], time.perf_counter()
            report = Report(finished=lambda _, ends=ends: ends.append(time.perf_counter()))
            if name == "dask":
                run_on("local", find_slides(slides, out=out), out=out, spec=spec, workers=1, report=report)
            else:
                run(segmenter, find_slides(slides, out=out), out=out, report=report)
            seconds.append(ends[-1] - ends[0])
            first.append(ends[0] - begin)
        ratios.append(seconds[0] / seconds[1])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds_to_first_slide": {"dask": round(first[0], 1), "run": round(first[1], 1)},
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
