"""What a cascade saves of a segmenter's time (Guo et al. 2019, v3_DCNN), on made slides; prints JSON.

    python benchmarks/cascade.py            # minutes
    python benchmarks/cascade.py --quick    # small slides and networks, one round; ratios of little meaning

Every figure is a ratio of two measurements of one run, by the clock, and in seconds of the processor, which others'
work on the machine disturbs less:

a  `compact`: `predict` of the segmenter alone over that of the cascade, on a slide with two lesions that keep 6 % of
   the segmenter's patches, as the 12 of 198 thousand of the paper (79 / 11.5 minutes = 6.9 there; goal: beyond). The
   first stage is the paper's slim Inception-v3 on patches of 299 px (300, to have a middle), one for each 128 px; it is
   run at random weights, and its answer replaced by where the lesions were planted. The segmenter is --segmenter at
   random weights, at half overlap; alone it is timed with its own patch and with the cascade's, twice as wide (as the
   paper's 2560 over 1280 px), and
   `ratio` is to the quicker of these. All compute in one precision, on the runtime that `Segmenter` would choose here.
   `first_stage` is the share of its network in the cascade's time, by the clock
b  `scattered`: the same with as much lesion in small spots
c  `bundles`: the built-in classifier before each built-in segmenter, with its own patch, on a made colon with a tumour:
   the share of the patches that is kept, the ratio of time, and Dice against the truth, cascade and alone
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from digipath.geometry.frame import Frame
from digipath.inference.cascade import Cascade
from digipath.inference.predictor import Predictor, describe_runtime, predictor_of
from digipath.inference.settings import InferenceSettings
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec
from digipath.segmentation import Segmentation
from digipath.segmenter import Segmenter
from digipath.slides.array import ArraySlide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

MPP = 0.5
PATCH = 128
CLASSIFIER = ("slim-inceptionv3", 299)
INK = np.array((20, 150, 70), np.uint8)  # of planted lesions: no stain is green
SPOT = 24  # radius of a scattered lesion, pixels


def main():
    """Make networks and slides, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small slides and networks, one round")
    parser.add_argument("--segmenter", help="a network of the catalogue; by default unet-densenet121")
    parser.add_argument("--side", type=int, help="of the slide with planted lesions, in pixels")
    arguments = parser.parse_args()
    name = arguments.segmenter or ("unet-mobilenetv2" if arguments.quick else "unet-densenet121")
    side = arguments.side or (1024 if arguments.quick else 2048)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"cores": os.cpu_count(), "segmenter": name, **planted(Path(folder), name, side)}
    names = ("colon-lesion-light", "colon-lesion-ds")
    figures["bundles"] = bundles(names[:1], 1600) if arguments.quick else bundles(names, 6144)
    print(json.dumps(figures, indent=2))


class Planted:
    """A classifier that takes the time of its network, and answers with where lesions were planted."""

    def __init__(self, member: Predictor):
        self.member, self.spec, self.channels, self.multiple = member, member.spec, member.channels, member.multiple
        self.seconds = 0.0

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the network for its time alone."""
        begin = time.perf_counter()
        self.member(patches)
        self.seconds += time.perf_counter() - begin
        first = (patches.shape[1] - 128) // 2
        middle = patches[:, first : first + 128, first : first + 128].astype(int)
        found = (middle[..., 1] - middle[..., 0] > 60).any((1, 2))
        return np.stack([~found, found], -1).astype(np.float32)[:, None, None]


def planted(folder: Path, name: str, side: int) -> dict[str, object]:
    """Figures a and b."""
    os.environ["DIGIPATH_CACHE"] = str(folder / "cache")  # the exports of random networks are of no use later
    first, second = Planted(network(*CLASSIFIER, kind="classifier")), network(name, PATCH)
    cascade = Segmenter(Cascade(first, second), settings=InferenceSettings(patch=2 * PATCH))
    alone = {patch: Segmenter(second, settings=InferenceSettings(patch=patch)) for patch in (PATCH, 2 * PATCH)}
    slides = {kind: make_slide(folder / f"{kind}.tif", side, kind) for kind in ("compact", "scattered")}
    for segmenter in (cascade, *alone.values()):
        segmenter.estimate(segmenter.plan(slides["compact"]))  # compiles

    def whole(path: Path) -> Segmentation:
        first.seconds = 0.0
        return cascade.predict(path, progress=False)

    turns = [(kind, lambda path=slides[kind]: whole(path)) for kind in ("scattered", "compact")]
    runs = [(patch, lambda one=one: one.predict(slides["compact"], progress=False)) for patch, one in alone.items()]
    seconds, results = in_turns([*turns, *runs, *turns])
    share = first.seconds / seconds["compact"][-1][0]
    possible = results[2 * PATCH].info["passes"][0]["predicted"]
    figures = {kind: compared(seconds, kind, list(alone)) | stages(results[kind], possible) for kind in slides}
    figures["compact"]["first_stage"] = round(share, 3)
    return {"slide": f"{side} x {side} px", "runtime": describe_runtime(first.member), **figures}


def network(name: str, patch: int, kind: str = "segmenter") -> Predictor:
    """One with random weights."""
    from digipath.models.catalog import build

    stride = 8 if name.startswith("atrous") else 1
    spec = ModelSpec(architecture=name, mpp=MPP, patch=patch, kind=kind, output_stride=stride)
    return predictor_of(Bundle(build(name), spec), precision=precision())


def precision() -> str | None:
    """One for all networks: left to itself, each takes its own."""
    if importlib.util.find_spec("openvino") is None:
        return None
    from digipath.inference.openvino_runtime import OpenVINOPredictor

    return "bfloat16" if OpenVINOPredictor.has_bfloat16() else "float32"


def make_slide(path: Path, side: int, kind: str) -> Path:
    """A JPEG pyramid: a disc of made tissue on glass, with planted lesions."""
    block = SyntheticSlide(SyntheticSettings(width=1024, height=1024, mpp=MPP, lesions=0)).array()[200:712, 200:712]
    image = np.tile(block, (-(-side // 512), -(-side // 512), 1))[:side, :side]
    y, x = np.mgrid[:side, :side] / side - 0.5
    image[x**2 + y**2 > 0.46**2] = 244
    for centre, radius in lesions(side, kind):
        cv2.circle(image, centre, radius, INK.tolist(), -1)

    def strips() -> Iterator[tuple[int, np.ndarray]]:
        for row in range(0, side, 512):
            yield row, image[row : row + 512]

    frame, settings = Frame.level0(side, side, MPP), PyramidSettings(compression="jpeg")
    write_pyramid(path, frame, strips(), channels=RGB, settings=settings)
    return path


def lesions(side: int, kind: str) -> list[tuple[tuple[int, int], int]]:
    """((x, y), radius) of each, in pixels."""
    two = [((side * 7 // 16, side * 9 // 16), side // 20), ((side * 19 // 32, side * 13 // 32), side // 40)]
    if kind == "compact":
        return two
    rng, spots = np.random.default_rng(0), sum(radius**2 for _, radius in two) // SPOT**2
    turn, away = rng.uniform(0, 2 * np.pi, spots), 0.44 * side * np.sqrt(rng.random(spots))
    places = np.stack([side / 2 + away * np.cos(turn), side / 2 + away * np.sin(turn)], 1).astype(int)
    return [(place, SPOT) for place in map(tuple, places.tolist())]


def compared(seconds: dict[object, list[tuple[float, float]]], kind: str, patches: list[object]) -> dict[str, object]:
    """Ratios of time, (by the clock, of the processor), of the segmenter alone to the cascade."""
    figures = {}
    for number, clock in enumerate(("clock", "processor")):
        spent = statistics.median(pair[number] for pair in seconds[kind])
        over = {patch: statistics.median(pair[number] for pair in seconds[patch]) / spent for patch in patches}
        figures[clock] = {"ratio": round(min(over.values()), 2)} | {
            str(patch): round(ratio, 2) for patch, ratio in over.items()
        }
    return figures


def stages(result: Segmentation, possible: int) -> dict[str, object]:
    """What the stages saw and took, by the clock; `possible` is how many patches the second would see alone."""
    first, second = (one["predicted"] for one in result.info["passes"])
    return {"patches": [first, second], "kept_share": round(second / possible, 3), "seconds": result.info["seconds"]}


def in_turns(
    works: list[tuple[object, Callable[[], Segmentation]]],
) -> tuple[dict[object, list[tuple[float, float]]], dict[object, Segmentation]]:
    """Seconds by the clock and of the processor of each run of each work, and its last result."""
    seconds, results = {}, {}
    for name, work in works:
        clock, processor = time.perf_counter(), time.process_time()
        results[name] = work()
        spent = time.perf_counter() - clock, time.process_time() - processor
        seconds.setdefault(name, []).append(spent)
    return seconds, results


def bundles(names: Sequence[str], width: int) -> dict[str, object]:
    """Figure c."""
    os.environ.pop("DIGIPATH_CACHE", None)
    made = SyntheticSlide(SyntheticSettings(width=width, height=width * 3 // 4, lesions=1, seed=1))
    slide, figures = ArraySlide(made.array(), mpp=MPP), {}
    for name in names:
        bundle = Bundle.open(name)
        segmenters = {"cascade": Segmenter(Cascade("colon-patch-classifier", bundle)), "alone": Segmenter(bundle)}
        for one in segmenters.values():
            one.estimate(one.plan(slide))
        works = [(key, lambda one=one: one.predict(slide, progress=False)) for key, one in segmenters.items()]
        seconds, results = in_turns([*works, *works])
        figures[name] = (
            compared(seconds, "cascade", ["alone"])
            | stages(results["cascade"], results["alone"].info["passes"][0]["predicted"])
            | {"dice": {key: round(dice(result, made), 4) for key, result in results.items()}}
        )
    return figures


def dice(result: Segmentation, made: SyntheticSlide) -> float:
    """Of the lesion with the planted glands, on covered pixels."""
    covered = result.covered.array()
    found = (result.heatmap.array()[..., -1] > result.info["threshold"]) & covered
    truth = made.mask(result.heatmap.frame).array() & covered
    return 2 * np.count_nonzero(found & truth) / max(1, np.count_nonzero(found) + np.count_nonzero(truth))


if __name__ == "__main__":
    main()
