"""What the inference engine costs beside the network, on a made slide; prints JSON.

    python benchmarks/engine.py            # a slide of 20,000 x 20,000 px; some minutes
    python benchmarks/engine.py --quick    # 5,000 x 5,000 px, without the network; seconds

Every figure is a ratio of two measurements of one run, so that it means the same on a slow and on a noisy machine:

a  `pixels_read`: level pixels decoded over those in the union of the kept patches, at 50 % overlap (goal: at most 1.1)
b  `predict_over_network`: time of `predict` over that of a DenseNet-121 UNet alone on the same patches (at most 1.05)
c  `memory`: peak above what the process held after loading, with the HDF5 sink, for a slide and one four times as high
   (ratio at most 1.1, each under 1 GB)
d  `free_predictor`: slide pixels per second, with a predictor that costs nothing, over plain band-wise reading by as
   many threads (at least 0.8)
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.inference.engine import stream
from digipath.inference.keras_runtime import KerasPredictor
from digipath.inference.plan import Plan, plan
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.models.spec import ModelSpec
from digipath.segmenter import Segmenter
from digipath.slides.slide import Slide, open_slide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

MPP = 0.5
BLOCK = 2048


def main():
    """Make the slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small slide, and no network")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(memory_of(arguments.memory_of))
        return
    side = 5_000 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(Path(folder) / "slide.tif", side, side)
        figures = {
            "slide": f"{side} x {side} px",
            "cores": os.cpu_count(),
            "pixels_read": {f"{mpp} um/px": pixels_read(slide, mpp) for mpp in (MPP, 1.1)},
            "memory": memory(Path(folder), side),
            "free_predictor": {name: free_predictor(slide, name) for name in backends()},
        }
        if not arguments.quick:
            figures["predict_over_network"] = predict_over_network(slide)
    print(json.dumps(figures, indent=2))


def backends() -> list[str]:
    """The libraries to read with."""
    return ["openslide", *(["fastslide"] if importlib.util.find_spec("fastslide") else [])]


def make_slide(path: Path, width: int, height: int) -> Path:
    """A JPEG pyramid: islands of made tissue, on glass."""
    block = SyntheticSlide(SyntheticSettings(width=BLOCK, height=BLOCK, mpp=MPP, lesions=1)).array()
    across = np.concatenate([block] * (1 + width // BLOCK), axis=1)[:, :width]
    x = np.arange(width)

    def strips() -> Iterator[tuple[int, np.ndarray]]:
        for y in range(0, height, 512):
            rows = np.arange(y, min(y + 512, height))
            glass = np.cos(x / width * 3 * np.pi)[None] + np.cos(rows / width * 4 * np.pi)[:, None] > 0.5
            yield y, np.where(glass[..., None], np.uint8(244), across[rows % BLOCK])

    settings = PyramidSettings(compression="jpeg")
    write_pyramid(path, Frame.level0(width, height, MPP), strips(), channels=RGB, settings=settings)
    return path


def predictor(mpp: float = MPP) -> FunctionPredictor:
    """One that costs nothing: the same values for every patch."""
    values = np.full((1, 128, 128, 2), 0.5, np.float32)
    spec = ModelSpec(architecture="free", classes=("other", "lesion"), mpp=mpp, patch=512, output_stride=4)
    return FunctionPredictor(lambda patches: np.broadcast_to(values, (len(patches), 128, 128, 2)), spec)


def planned(slide: Slide, mpp: float, tissue: Raster | None = None) -> Plan:
    """The patches at 50 % overlap."""
    [chosen] = Segmenter(predictor(mpp)).plan(slide, tissue=tissue)
    return chosen


def pixels_read(path: Path, mpp: float) -> float:
    """Figure a."""
    read = []
    with open_slide(path) as slide:
        chosen = planned(slide, mpp)
        source, original = slide._source, slide._source.read_level

        def counted(index: int, box: Box) -> np.ndarray:
            read.append(box.area * source.levels[index].downsample ** 2)
            return original(index, box)

        source.read_level = counted
        for _ in stream(slide, predictor(mpp), chosen):
            pass
        cell = chosen.grid.cell[0]
        kept = np.zeros((2 + slide.frame.height // cell, 2 + slide.frame.width // cell), bool)
        for box in chosen.boxes:
            kept[box.coarser(cell).intersect(Box(0, 0, *kept.shape[::-1])).slices()] = True
        union = sum(
            Box(x * cell, y * cell, cell, cell).intersect(chosen.frame.box).area for y, x in np.argwhere(kept).tolist()
        )
    return round(sum(read) / (union * chosen.frame.downsample**2), 3)


def predict_over_network(path: Path) -> dict[str, float]:
    """Figure b."""
    from digipath.models.bundle import Bundle
    from digipath.models.catalog import build

    spec = ModelSpec(architecture="unet-densenet121", classes=("other", "lesion"), mpp=MPP, patch=256)
    network = KerasPredictor(Bundle(build(spec.architecture), spec))
    segmenter = Segmenter(network)
    with open_slide(path) as slide:
        region = (slide.frame.width // 4, slide.frame.height // 8, 2048, 2048)
        [chosen] = segmenter.plan(slide, region=region)
        batches = [np.zeros((n, 256, 256, 3), np.uint8) for n in _batch_sizes(chosen)]
        network(batches[0])
        ratios = []
        for _ in range(3):
            alone = timed(lambda: [network(batch) for batch in batches])
            whole = timed(lambda: segmenter.predict(slide, region=region, progress=False))
            ratios.append(whole / alone)
    return {"patches": len(chosen.boxes), "ratio": round(statistics.median(ratios), 3), "ratios": ratios}


def _batch_sizes(chosen: Plan) -> list[int]:
    full, rest = divmod(len(chosen.boxes), chosen.batch)
    return [chosen.batch] * full + ([rest] if rest else [])


def memory(folder: Path, side: int) -> dict[str, float]:
    """Figure c."""
    peaks = {}
    for height in (side // 2, side * 2):
        slide = make_slide(folder / f"high-{height}.tif", side, height)
        command = [sys.executable, __file__, "--memory-of", str(slide)]
        # Without this, glibc keeps some tens of MB that have been freed, more or fewer by chance.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        peaks[height] = float(done.stdout)
    low, high = peaks.values()
    return {"MB": {f"{side} x {height}": round(peak) for height, peak in peaks.items()}, "ratio": round(high / low, 3)}


def memory_of(path: Path) -> float:
    """Megabytes that `predict` with a folder takes above what the process held before."""
    segmenter = Segmenter(predictor())
    tiny = np.full((600, 600, 3), 200, np.uint8)
    segmenter.predict(tiny, mpp=MPP, out=path.with_suffix(".warm"), progress=False)
    before, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    segmenter.predict(path, out=path.with_suffix(".result"), progress=False)
    done.set()
    watcher.join()
    return peak[0] - before


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_predictor(path: Path, backend: str) -> dict[str, float]:
    """Figure d."""
    threads = os.cpu_count() or 1
    with open_slide(path, backend=backend) as slide:
        tissue = Raster(np.ones(slide.frame.coarser(64).shape, bool), slide.frame.coarser(64))
        free = predictor()
        chosen = plan(slide.frame, free, tissue, settings=InferenceSettings(threads=threads))

        def plain():
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda box: slide.read(box, slide.frame).shape, slide.frame.rows(512)):
                    pass

        def ours():
            for _ in stream(slide, free, chosen):
                pass

        ours()
        pairs = [(timed(plain), timed(ours)) for _ in range(3)]
        ratio = statistics.median(reading / streaming for reading, streaming in pairs)
        rate = slide.frame.box.area / 1e6 / statistics.median(streaming for _, streaming in pairs)
    return {"ratio": round(ratio, 3), "megapixels_per_second": round(rate, 1)}


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
