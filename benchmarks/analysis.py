"""What it takes to analyse a large heatmap with thousands of regions; prints JSON.

    python benchmarks/analysis.py            (12,000 x 12,000 pixels of 2 um, up to 5,000 regions; some minutes)
    python benchmarks/analysis.py --quick    (3,000 x 3,000, up to 280; seconds)

Each heatmap has wavy regions of 20 to 45 pixels' radius in some of the cells of a grid. For none, a quarter, half and
all of the regions, a process of its own measures after a warm-up:

features   `lesion_features`, the 32 features of a slide
polygons   the mask above 0.5 and `polygonize`, one polygon for each region
froc       lesions of that mask by CAMELYON16's rules, `detections_by_region`, and the curve
contours   `contours_of_mask`: areas, perimeters and nearest neighbours

`seconds`, `cpu_seconds` and `megabytes` are of this machine: the time taken and what of it was computing, the less of
three runs, and the peak of memory above what the process held with the heatmap in it. `growth` is the same on any: how
much more computing, above that for an empty heatmap, four times the regions take, from a quarter to all, over 4; 1 is
linear (goal: at most 1.3). On a machine that is busy otherwise even computing takes longer, now and then by half.
`memory_over_heatmap` is the largest peak over the size of the heatmap itself (goal: at most 1).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from digipath.analysis.features import lesion_features
from digipath.analysis.microdosimetry import contours_of_mask
from digipath.evaluation.detection import detections_by_region
from digipath.evaluation.froc import FrocCase, froc
from digipath.evaluation.lesions import lesions_from_mask
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import polygonize
from digipath.geometry.raster import Raster

MPP, CELL = 2.0, 169  # 71 x 71 cells in 12,000 pixels
GOALS = {"growth": 1.3, "memory_over_heatmap": 1.0}


def planted(side: int, count: int) -> Raster:
    """A heatmap with so many regions: 0.95 and more in their inner parts, 0.6 and more around, 0 elsewhere."""
    rng = np.random.default_rng(0)
    values = np.zeros((side, side), np.float32)
    across = side // CELL
    y, x = np.mgrid[:CELL, :CELL] - CELL / 2 + 0.5
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    for cell in rng.permutation(across**2)[:count]:
        row, column = divmod(int(cell), across)
        wave = 1 + 0.15 * np.sin(rng.integers(3, 12) * angle + rng.uniform(0, 2 * math.pi))
        reach = rng.uniform(20, 45) * wave
        part = np.where(distance < 0.8 * reach, 0.95, 0.6) + 0.05 * rng.random((CELL, CELL))
        part[distance >= reach] = 0
        values[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = part
    return Raster(values, Frame.level0(side, side, MPP))


def froc_of_regions(heatmap: Raster) -> int:
    """How many detections there are; each region is a lesion."""
    found = detections_by_region(heatmap)
    case = FrocCase("slide", found, lesions_from_mask(heatmap.threshold(0.5)))
    if case.truth is not None and case.truth.to_find:
        froc([case])
    return len(found)


TASKS: dict[str, Callable[[Raster], int]] = {
    "features": lambda heatmap: round(lesion_features(heatmap)["region_count"]),
    "polygons": lambda heatmap: len(polygonize(heatmap.threshold(0.5))),
    "froc": froc_of_regions,
    "contours": lambda heatmap: len(contours_of_mask(heatmap.threshold(0.5))),
}


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(task: Callable[[Raster], int], heatmap: Raster) -> dict[str, float]:
    """Regions found, seconds and megabytes of one task."""
    before, peak, done = resident(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    times = []
    for _ in range(3):
        start = time.perf_counter(), time.process_time()
        regions = task(heatmap)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    done.set()
    watcher.join()
    seconds, computing = (min(column) for column in zip(*times, strict=True))
    return {"regions": regions, "seconds": seconds, "cpu_seconds": computing, "megabytes": max(0.0, peak[0] - before)}


def one(side: int, count: int) -> dict[str, dict[str, float]]:
    """All tasks on one heatmap."""
    for task in TASKS.values():
        task(planted(600, 5))
    heatmap = planted(side, count)
    found = {name: measured(task, heatmap) for name, task in TASKS.items()}
    if wrong := {name: each["regions"] for name, each in found.items() if each["regions"] != count}:
        raise SystemExit(f"{count} regions were planted, and found were {wrong}.")
    return found


def all_of(side: int, counts: list[int]) -> dict[int, dict]:
    """The measurements by number of regions."""
    found = {}
    # Without this, glibc keeps some tens of MB that have been freed, more or fewer by chance.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    for count in counts:
        command = [sys.executable, __file__, "--one", str(side), str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[count] = json.loads(done.stdout)
    return found


def growth(found: dict[int, dict], task: str) -> float:
    """From a quarter of the regions to all."""
    none, quarter, _, whole = (each[task]["cpu_seconds"] for each in found.values())
    return round((whole - none) / max(quarter - none, 1e-3) / 4, 2)


def main() -> None:
    """Measures, and fails where a goal is missed; not with --quick, where times are too short to tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small heatmap")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    side, most = (3_000, 280) if arguments.quick else (12_000, 5_000)
    found = all_of(side, [0, most // 4, most // 2, most])
    peak = max(each["megabytes"] for tasks in found.values() for each in tasks.values())
    figures = {
        "heatmap": f"{side} x {side} px of {MPP} um, {4e-6 * side**2:.0f} MB",
        "seconds": {task: {n: round(each[task]["seconds"], 2) for n, each in found.items()} for task in TASKS},
        "cpu_seconds": {task: {n: round(each[task]["cpu_seconds"], 2) for n, each in found.items()} for task in TASKS},
        "megabytes": {task: {n: round(each[task]["megabytes"]) for n, each in found.items()} for task in TASKS},
        "growth": {task: growth(found, task) for task in TASKS},
        "memory_over_heatmap": round(peak / (4e-6 * side**2), 2),
    }
    missed = [f"growth of {task}: {each}" for task, each in figures["growth"].items() if each > GOALS["growth"]]
    if figures["memory_over_heatmap"] > GOALS["memory_over_heatmap"]:
        missed.append(f"memory over heatmap: {figures['memory_over_heatmap']}")
    print(json.dumps(figures | ({} if arguments.quick else {"goals_missed": missed}), indent=1))
    if missed and not arguments.quick:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
