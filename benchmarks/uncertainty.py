"""What a slide with uncertainty costs beside its networks: eight turned views of three networks; prints JSON.

    python benchmarks/uncertainty.py            # minutes
    python benchmarks/uncertainty.py --quick    # small slides, narrow networks, one round; ratios of little meaning

The networks differ in decoder, have random weights and run on what `Segmenter` would choose here, or on --runtime. The
slides are made, and cut at half overlap. Every figure is a ratio of two measurements of one run, so that it means the
same on a slow and on a noisy machine:

a  `time`: one pass of the three networks over eight views, with both variances, over eight times the sum of the three
   networks' own passes, all through the engine, on a slide in memory that is tissue all over (goal: at most 1.05); by
   the clock, and in seconds of the processor, which others' work on the machine disturbs less
b  `memory`: peak of `predict` into a folder with uncertainty over that of a plain one with the same three networks,
   each in a process of its own, on a larger slide with as much tissue (goal: at most 1.5); above what the process held
   before, and of the process as a whole
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from engine import MPP, make_slide, resident

from digipath.geometry.raster import Raster
from digipath.inference.compose import Ensemble, TestTimeAugmentation
from digipath.inference.engine import stream
from digipath.inference.plan import plan
from digipath.inference.predictor import Predictor, describe_runtime, predictor_of
from digipath.inference.settings import InferenceSettings
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec
from digipath.segmenter import Segmenter
from digipath.slides.array import ArraySlide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

ARCHITECTURES = ("unet-mobilenetv2", "fpn-mobilenetv2", "deeplab-mobilenetv2")
ROUNDS = 3


def main():
    """Make networks and slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small slides, narrow networks, one round")
    parser.add_argument("--runtime", default="auto", help="keras, openvino or auto")
    parser.add_argument("--peak-of", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        kind, folder = arguments.peak_of
        print(json.dumps(peak_of(kind, Path(folder), arguments.runtime)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["DIGIPATH_CACHE"] = str(folder / "cache")  # the exports of random networks are of no use later
        store_networks(folder, width=0.25 if arguments.quick else 1.0)
        members = [predictor_of(bundle, runtime=arguments.runtime) for bundle in stored_networks(folder)]
        figures = {
            "networks": ARCHITECTURES,
            "runtime": describe_runtime(Ensemble(members)),
            "cores": os.cpu_count(),
            "time": time_over_passes(members, quick=arguments.quick),
            "memory": memory(folder, arguments.runtime, quick=arguments.quick),
        }
    print(json.dumps(figures, indent=2))


def store_networks(folder: Path, *, width: float):
    """Put three networks at random weights into the folder."""
    import keras  # here, so that the processes that are measured need not import it

    from digipath.models.catalog import build

    keras.utils.set_random_seed(0)
    for name in ARCHITECTURES:
        spec = ModelSpec(architecture=name, mpp=MPP, patch=256, width=width)
        Bundle(build(name, width=width), spec).save(folder / name)


def stored_networks(folder: Path) -> list[Bundle]:
    """The three networks."""
    return [Bundle.load(folder / name) for name in ARCHITECTURES]


def time_over_passes(members: list[Predictor], *, quick: bool) -> dict[str, object]:
    """Figure a; the single passes are measured before and after the uncertain one, so that a drift cancels out."""
    made = SyntheticSlide(SyntheticSettings(width=1024, height=1024, mpp=MPP, lesions=1)).array()
    slide = ArraySlide(made[:256, :512] if quick else made, mpp=MPP)
    together = Ensemble([TestTimeAugmentation(member, variance=True) for member in members], variance=True)

    def singles() -> np.ndarray:
        return np.sum([spent(lambda member=member: run(slide, member)) for member in members], axis=0)

    patches = max([run(slide, member) for member in members])  # and prepares the networks for their batches
    before, ratios = singles(), []
    for _ in range(1 if quick else ROUNDS):
        whole, after = spent(lambda: run(slide, together)), singles()
        ratios.append(whole / (8 * (before + after) / 2))
        before = after
    clock, processor = np.median(ratios, axis=0).round(3).tolist()
    each = [round(float(ratio[0]), 3) for ratio in ratios]
    return {"patches": patches, "ratio": clock, "ratio_of_processor_time": processor, "ratios": each}


def run(slide: ArraySlide, predictor: Predictor) -> int:
    """Send a slide through a predictor; returns the number of patches."""
    tissue = Raster(np.ones(slide.frame.coarser(64).shape, bool), slide.frame.coarser(64))
    chosen = plan(slide.frame, predictor, tissue, settings=InferenceSettings(overlap=0.5))
    for _ in stream(slide, predictor, chosen):
        pass
    return len(chosen.boxes)


def spent(work: Callable[[], object]) -> np.ndarray:
    """Seconds that it takes by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - clock, time.process_time() - processor])


def memory(folder: Path, runtime: str, *, quick: bool) -> dict[str, object]:
    """Figure b."""
    side = 2048 if quick else 8192
    make_slide(folder / "slide.tif", side, side)
    peaks = {}
    for kind in ("plain", "uncertain"):
        command = [sys.executable, __file__, "--runtime", runtime, "--peak-of", kind, str(folder)]
        # Without this, glibc keeps some tens of MB that have been freed, more or fewer by chance.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        peaks[kind] = json.loads(done.stdout)
    ratios = {key: round(peaks["uncertain"][key] / peaks["plain"][key], 3) for key in peaks["plain"]}
    return {
        "slide": f"{side} x {side} px",
        "MB": peaks,
        "ratio": ratios["above_start"],
        "ratio_of_process": ratios["process"],
    }


def peak_of(kind: str, folder: Path, runtime: str) -> dict[str, int]:
    """Megabytes that `predict` takes at its peak."""
    settings = InferenceSettings(batch=8, runtime=runtime)
    if kind == "uncertain":
        settings = replace(settings, augmentations="all", uncertainty=True)
    segmenter = Segmenter(stored_networks(folder), settings=settings)
    tissue = np.zeros((64, 64), bool)
    tissue[:8, :8] = True  # of 8,192 pixels a side 1,024
    before, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        segmenter.predict(folder / "slide.tif", out=folder / kind, tissue=tissue, progress=False)
    finally:
        done.set()
        watcher.join()
    return {"above_start": round(peak[0] - before), "process": round(peak[0])}


if __name__ == "__main__":
    main()
