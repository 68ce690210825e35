"""What leaving a network with deep supervision early saves, and what it costs in Dice; prints JSON.

    python benchmarks/early_exit.py --data ../shared/data    # minutes
    python benchmarks/early_exit.py --quick                  # one network in Keras, small patches, one turn; seconds

Block l of the decoder returns the map psi_l of stride 16 / 2^l; psi_4 is the whole network (Le'Clerc Arrastia et al.
2021, who save a third of the time by psi_0: 20 s over 30 s a slide).

a  `time`: time of the network cut after each block over that of the whole one, through what `Segmenter` would run here,
   or --runtime and --precision; the median over turns, in each of which all have theirs; by the clock, and in seconds
   of the processor, which others' work on the machine disturbs less. Goal: psi_0 of `bcc-resnet34-ds`, the paper's
   network, here at random weights, at most 0.67
b  `dice`: of the pixels of all EBHI-SEG images of `val` together, at the images' own resolution, each map enlarged
   bilinearly; of the built-in `colon-lesion-ds`. Goal: within 0.002 of what its model card says
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from digipath.evaluation.overlap import Counts, dice, total
from digipath.inference.batching import rule
from digipath.inference.predictor import Predictor, describe_runtime, predictor_of
from digipath.models.bundle import Bundle
from digipath.models.exits import STRIDES
from digipath.models.spec import ModelSpec
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

BUILTIN = "colon-lesion-ds"
LARGE = "bcc-resnet34-ds"
TURNS = 9


def main():
    """Cut the networks, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the built-in network alone, in Keras, one turn")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--runtime", default="auto", help="keras, openvino or auto")
    parser.add_argument("--precision", help="float32 or bfloat16; by default what is fastest")
    options = parser.parse_args()
    if options.quick:  # an export takes longer than all the rest
        options.runtime, options.precision = "keras", "float32"
    bundles = {BUILTIN: Bundle.builtin(BUILTIN)}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DIGIPATH_CACHE"] = cache  # the exports of random networks are of no use later
        if not options.quick:
            bundles[LARGE] = random_network()
        exits = {name: cut(bundle, options) for name, bundle in bundles.items()}
        figures = {
            "cores": os.cpu_count(),
            "time": {name: times(predictors, quick=options.quick) for name, predictors in exits.items()},
            "dice": "left out by --quick" if options.quick else dice_of_exits(exits[BUILTIN], options.data),
        }
    print(json.dumps(figures, indent=2))


def random_network() -> Bundle:
    """The network of the paper at random weights."""
    import keras

    from digipath.models.catalog import build

    keras.utils.set_random_seed(0)
    return Bundle(build(LARGE), ModelSpec(architecture=LARGE, mpp=0.5, patch=512))


def cut(bundle: Bundle, options: argparse.Namespace) -> list[Predictor]:
    """The network cut after each block, and whole."""
    last = len(STRIDES) - 1
    return [
        predictor_of(
            bundle if block == last else bundle.early_exit(block), runtime=options.runtime, precision=options.precision
        )
        for block in range(last + 1)
    ]


def times(predictors: list[Predictor], *, quick: bool) -> dict[str, object]:
    """Figure a, on batches of the size that a slide's patches have."""
    side = 64 if quick else predictors[-1].spec.patch
    batch = made_patches(side, 1 if quick else rule((side, side)))
    for predictor in predictors:
        predictor(batch)
    ratios = []
    for turn in range(1 if quick else TURNS):
        order = range(len(predictors))[:: -1 if turn % 2 else 1]  # a drift of the machine's load cancels out
        spent = {block: seconds(lambda block=block: predictors[block](batch)) for block in order}
        ratios.append([spent[block] / spent[len(predictors) - 1] for block in range(len(predictors))])
    clock, processor = np.median(ratios, axis=0).T.round(3).tolist()
    return {
        "patches": f"{len(batch)} of {side} px",
        "runtime": describe(predictors),
        "ratio": named(clock),
        "ratio_of_processor_time": named(processor),
    }


def describe(predictors: list[Predictor]) -> str | dict[str, str]:
    """What computes the networks, in a word if it is the same for all: times in two precisions do not compare."""
    found = [describe_runtime(predictor)[0].split(";")[0].removesuffix(")") + ")" for predictor in predictors]
    return found[0] if len(set(found)) == 1 else named(found)


def made_patches(side: int, count: int) -> np.ndarray:
    """Patches of made tissue."""
    slide = SyntheticSlide(SyntheticSettings(width=max(side, 512), height=max(side, 512), mpp=1.0, lesions=1)).array()
    return np.stack([np.roll(slide, 97 * number, (0, 1))[:side, :side] for number in range(count)])


def seconds(work: Callable[[], object]) -> np.ndarray:
    """Seconds that it takes by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - clock, time.process_time() - processor])


def dice_of_exits(predictors: list[Predictor], data: Path) -> dict[str, float] | str:
    """Figure b."""
    if not (data / "ebhi-seg" / "index.csv").is_file():
        return f"left out: there is no ebhi-seg in {data}; give --data"
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from colon_data import read_images

    val = read_images(data, split="val")
    return named([round(pooled_dice(predictor, val.images, val.lesions), 4) for predictor in predictors])


def pooled_dice(predictor: Predictor, images: np.ndarray, truth: np.ndarray) -> float:
    """Dice over the pixels of all images (n, height, width, 3)."""
    size, batch, counts = (images.shape[2], images.shape[1]), rule(images.shape[1:3]), []
    for first in range(0, len(images), batch):
        maps = predictor(images[first : first + batch])[..., -1]
        for each, lesion in zip(maps, truth[first : first + batch], strict=True):
            found = cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) > predictor.spec.threshold
            counts.append(Counts.of(found, lesion))
    return dice(total(counts))


def named(values: list) -> dict[str, object]:
    """The values of the exits by name."""
    return {f"psi_{block}": value for block, value in enumerate(values)}


if __name__ == "__main__":
    main()
