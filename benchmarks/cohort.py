"""What a run of many slides costs beside calling `predict` for each; prints JSON.

    python benchmarks/cohort.py            # 20 slides, with the smallest built-in network; some minutes
    python benchmarks/cohort.py --quick    # 8 slides, with a network that costs little; seconds

a  `run_over_loop`: time of `digipath.runs.local.run` over that of a loop that calls `predict` for the same slides with
   the same segmenter (goal: at most 1.05). Locks, records and summaries make it more; opening and reading the next
   slide while the current one runs makes it less. Median of alternating turns, each into fresh folders.
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
from digipath.models.spec import ModelSpec
from digipath.runs.find import find_slides
from digipath.runs.local import run
from digipath.segmenter import Segmenter
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

BUNDLE = "colon-lesion-light"
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

    def loop(out: Path):
        for slide in slides:
            segmenter.predict(slide, out=out / slide.stem, progress=False)

    def cohort(out: Path):
        outcomes = run(segmenter, find_slides(slides, out=out), out=out)
        wrong = [outcome for outcome in outcomes if outcome.status != "ok"]
        if wrong:
            raise RuntimeError(f"{wrong[0].name}: {wrong[0].reason}")

    segmenter.predict(slides[0], out=place / "warm", progress=False)
    pairs = []
    for turn in range(turns):
        order = (loop, cohort) if turn % 2 else (cohort, loop)
        seconds = {work: timed(lambda work=work, turn=turn: work(place / f"{work.__name__}-{turn}")) for work in order}
        pairs.append((seconds[cohort], seconds[loop]))
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds_a_slide": round(statistics.median(theirs for _, theirs in pairs) / len(slides), 3),
    }


def skip_seconds(segmenter: Segmenter, slides: list[Path], place: Path) -> float:
    """Figure b, of the folder that the first turn left."""
    out = place / "cohort-0"
    return round(timed(lambda: run(segmenter, find_slides(slides, out=out), out=out)) / len(slides), 4)


def dask_over_run(segmenter: Segmenter, slides: list[Path], place: Path) -> dict:
    """Figure c: not measured."""
    del segmenter, slides, place
    return {"ratio": None}


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
