"""What each effort of a segmenter costs and finds, with the built-in bundles, as a table and as JSON.

    python examples/effort_table.py --data ../shared/data --out efforts.json

Three kinds of slides, all with truth:

    images    the 215 images of EBHI-SEG's `val`, each a slide of its own: one patch, so that overlap does not matter
    mosaics   two slides of 54 of these images each, side by side, shifted so that no patch is one image
    made      three slides of `digipath.slides.synthetic`, of the size of a biopsy

*Dice* is of all pixels of a kind together, at the slide's own resolution, the heatmap enlarged bilinearly; *area* is
`lesion_mm2` of all over the true one. *Time* is that of `predict` over that of "balanced" on the same slide, one right
after the other, the median over slides; in seconds of the processor, which others' work on the machine disturbs least,
and in brackets by the clock. The images are so small that their time says little.
"""

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from colon_data import Images, read_images

from digipath.evaluation.overlap import Counts, dice, total
from digipath.inference.cascade import Cascade
from digipath.inference.settings import EFFORTS
from digipath.segmentation import Segmentation
from digipath.segmenter import Segmenter
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

MPP = 1.1  # of EBHI-SEG, as in the model cards
SHIFT = 61  # pixels of the mosaic's border: no patch begins where an image does
MOSAICS, EVERY = 2, 4  # mosaics, of every fourth image each
MADE = 1792  # pixels a side, at 1 um each
NETWORKS = {
    "colon-lesion-light": "colon-lesion-light",
    "colon-lesion-ds": "colon-lesion-ds",
    "cascade": Cascade("colon-patch-classifier", "colon-lesion-light"),
}


@dataclass(frozen=True)
class Example:
    """A slide with truth.

    Attributes:
        image: (rows, columns, 3) uint8 RGB.
        truth: (rows, columns) bool.
        mpp: Micrometres per pixel.
        tissue: (rows, columns) bool, where to look; None finds it.
    """

    image: np.ndarray
    truth: np.ndarray
    mpp: float
    tissue: np.ndarray | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME", help="by default all")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("efforts.json"))
    options = parser.parse_args()
    kinds = {"made": made_slides(seeds=(1, 2, 3))}
    if (options.data / "ebhi-seg").is_dir():
        val = read_images(options.data, split="val")
        kinds = {"images": single_images(val), "mosaics": [mosaic(val, start) for start in range(MOSAICS)], **kinds}
    found = {}
    for name in options.names:
        segmenters = {effort: Segmenter(NETWORKS[name], effort=effort) for effort in EFFORTS}
        found[name] = {kind: compare(segmenters, slides) for kind, slides in kinds.items()}
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        print_table(name, found[name])


def single_images(val: Images) -> list[Example]:
    """Each image as a slide."""
    everywhere = np.ones(val.lesions.shape[1:], bool)
    return [Example(image, truth, MPP, everywhere) for image, truth in zip(val.images, val.lesions, strict=True)]


def mosaic(val: Images, start: int) -> Example:
    """Every fourth image as one slide, row by row; where there is none, there is glass."""
    pictures, lesions = val.images[start::EVERY], val.lesions[start::EVERY]
    side, columns = pictures.shape[1], math.ceil(len(pictures) ** 0.5)
    rows = -(-len(pictures) // columns)
    shape = side * rows + 2 * SHIFT, side * columns + 2 * SHIFT
    image, truth, tissue = np.full((*shape, 3), 244, np.uint8), np.zeros(shape, bool), np.zeros(shape, bool)
    for number, (picture, lesion) in enumerate(zip(pictures, lesions, strict=True)):
        row, column = divmod(number, columns)
        y, x = SHIFT + row * side, SHIFT + column * side
        place = slice(y, y + side), slice(x, x + side)
        image[place], truth[place], tissue[place] = picture, lesion, True
    return Example(image, truth, MPP, tissue)


def made_slides(seeds: Sequence[int]) -> list[Example]:
    """Made slides, one for each seed."""
    examples = []
    for seed in seeds:
        slide = SyntheticSlide(SyntheticSettings(width=MADE, height=MADE, mpp=1.0, seed=seed))
        examples.append(Example(slide.array(), slide.mask(slide.frame).array().astype(bool), 1.0))
    return examples


def compare(segmenters: Mapping[str, Segmenter], slides: Sequence[Example]) -> dict[str, dict]:
    """The figures of each segmenter; "balanced" is among them, and what the others' times are divided by."""
    for segmenter in segmenters.values():
        segmented(segmenter, corner(slides[0]))  # makes the networks ready
    found = {name: [] for name in segmenters}
    for number, slide in enumerate(slides):
        for name in list(segmenters)[:: -1 if number % 2 else 1]:  # a drift of the machine's load cancels out
            found[name].append(Judged.of(segmenters[name], slide))
    true_area = sum(slide.truth.sum() * slide.mpp**2 / 1e6 for slide in slides)
    return {name: summary(judged, found["balanced"], true_area) for name, judged in found.items()}


@dataclass(frozen=True)
class Judged:
    """One slide's figures.

    Attributes:
        counts: Of its pixels.
        area: Of the lesion, in mm2.
        seconds: That `predict` takes of the processor, and by the clock.
        info: Of the result.
    """

    counts: Counts
    area: float
    seconds: np.ndarray
    info: Mapping

    @classmethod
    def of(cls, segmenter: Segmenter, slide: Example) -> "Judged":
        """Segment the slide and compare."""
        began = np.array([time.process_time(), time.perf_counter()])
        result = segmented(segmenter, slide)
        spent = np.array([time.process_time(), time.perf_counter()]) - began
        counts = Counts.of(lesion_map(result, slide) > result.threshold, slide.truth)
        return cls(counts, result.lesion_mm2(), spent, result.info)


def summary(judged: Sequence[Judged], balanced: Sequence[Judged], true_area: float) -> dict[str, object]:
    """The figures of all slides together."""
    ratios = [one.seconds / other.seconds for one, other in zip(judged, balanced, strict=True)]
    processor, clock = np.median(ratios, axis=0).tolist()
    return {
        "dice": dice(total(one.counts for one in judged)),
        "area": sum(one.area for one in judged) / true_area,
        "time": processor,
        "time_by_the_clock": clock,
        "heatmap_mpp": judged[0].info["mpp"]["heatmap"],
        "patches": sum(stage["predicted"] for one in judged for stage in one.info["passes"]),
        "runtime": judged[0].info["passes"][-1]["runtime"],
        "left_out": judged[0].info["left_out"],
    }


def segmented(segmenter: Segmenter, slide: Example) -> Segmentation:
    """The slide, segmented in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is told where an image is all lesion
        return segmenter.predict(slide.image, mpp=slide.mpp, tissue=slide.tissue, progress=False)


def corner(slide: Example) -> Example:
    """A piece of a slide, no smaller than a patch of any stage."""
    piece = slice(0, 448), slice(0, 448)
    return Example(
        slide.image[piece], slide.truth[piece], slide.mpp, slide.tissue if slide.tissue is None else slide.tissue[piece]
    )


def lesion_map(result: Segmentation, slide: Example) -> np.ndarray:
    """The lesion's probability at the slide's own resolution, enlarged bilinearly; 0 where nothing is said."""
    heatmap = result.heatmap.channel(result.classes[-1]).array().astype(np.float32)
    scale = slide.mpp / result.heatmap.frame.mpp
    move = np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])  # from pixel centre to pixel centre
    size = slide.truth.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(heatmap, move, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def print_table(name: str, found: Mapping[str, Mapping[str, dict]]) -> None:
    """A row for each effort, with what it finds on each kind of slide and what it costs."""
    kinds = list(found)
    print(f"\n| `{name}` | " + " | ".join(f"{kind}: Dice | area | time" for kind in kinds) + " |")
    for effort in found[kinds[0]]:
        print(f"| {effort} | " + " | ".join(cells(found[kind][effort]) for kind in kinds) + " |", flush=True)


def cells(figures: Mapping[str, float]) -> str:
    """Dice, area and time."""
    spent = f"{figures['time']:.2f} ({figures['time_by_the_clock']:.2f})"
    return f"{figures['dice']:.3f} | {figures['area']:.2f} | {spent}"


if __name__ == "__main__":
    main()
