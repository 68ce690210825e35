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

    From the end of the first slide to that of the last, so that what is done once (processes, imports, loading the
    network) is apart: in `seconds_to_first_slide`. `ratio` is of medians and holds what `run` gains by reading ahead,
    which a worker does not; `processor_ratio` is of processor time, this process included, which a busy machine changes
    less. Networks that are no bundles cannot travel.
    """
    if not all(isinstance(one, Bundle) for one in segmenter.networks.members):
        slides, segmenter = slides[:4], Segmenter(BUNDLE, settings=InferenceSettings(overlap=0))
    spec = SegmenterSpec.of(segmenter)
    found: dict[str, list[np.ndarray]] = {"dask": [], "run": []}
    for turn in range(2):
        for name in list(found)[:: -1 if turn % 2 else 1]:
            out, done = place / f"{name}-{turn}", [(time.perf_counter(), 0.0)]
            report = Report(finished=lambda _, done=done: done.append((time.perf_counter(), processor_seconds())))
            tasks = find_slides(slides, out=out)
            if name == "dask":
                run_on("local", tasks, out=out, spec=spec, workers=1, report=report)
            else:
                run(segmenter, tasks, out=out, report=report)
            found[name].append(np.diff(done, axis=0))
    first = {name: round(float(turns[0][0, 0]), 1) for name, turns in found.items()}
    seconds = {name: np.concatenate([turn[1:] for turn in turns]) for name, turns in found.items()}
    walls = {name: float(np.median(values[:, 0])) for name, values in seconds.items()}
    return {
        "ratio": round(walls["dask"] / walls["run"], 3),
        "processor_ratio": round(float(seconds["dask"][:, 1].mean() / seconds["run"][:, 1].mean()), 3),
        "seconds_a_slide": {name: round(value, 3) for name, value in walls.items()},
        "seconds_to_first_slide": first,
    }


def processor_seconds() -> float:
    """Processor time of this process and of those that it began and that still run."""
    import psutil

    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
