"""What each effort of a segmenter costs and finds, with the built-in bundles, as a table and as JSON.

    python examples/effort_table.py --data ../shared/data --out efforts.json

Three kinds of slides, all with truth:

    images    the 215 images of EBHI-SEG's `val`, each a slide of its own: one patch, so that overlap does not matter
    mosaic    the same images side by side as one slide, shifted so that no patch is one image
    made      slides of `digipath.slides.synthetic`, of the size of a biopsy

*Dice* is of all pixels of a kind together, at the slide's own resolution, the heatmap enlarged bilinearly; *area* is
`lesion_mm2` of all over the true one. *Time* is that of `predict` over that of "balanced" in the same turn, in seconds
of the processor, which others' work on the machine disturbs least; the median over turns, and in brackets by the clock.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
MADE = 2560  # pixels a side
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
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DIGIPATH_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("efforts.json"))
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    kinds = {"made": made_slides(seeds=(1, 2, 3))}
    if (options.data / "ebhi-seg").is_dir():
        val = read_images(options.data, split="val")
        kinds = {"images": single_images(val), "mosaic": [mosaic(val)], **kinds}
    found = {}
    for name, source in NETWORKS.items():
        segmenters = {effort: Segmenter(source, effort=effort) for effort in EFFORTS}
        found[name] = {kind: compare(segmenters, slides, turns=options.turns) for kind, slides in kinds.items()}
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        print_table(name, found[name])


def single_images(val: Images) -> list[Example]:
    """Each image as a slide."""
    everywhere = np.ones(val.lesions.shape[1:], bool)
    return [Example(image, truth, MPP, everywhere) for image, truth in zip(val.images, val.lesions, strict=True)]


def mosaic(val: Images) -> Example:
    """All images as one slide, row by row; where there is none, there is glass."""
    side, columns = val.images.shape[1], int(np.ceil(len(val.images) ** 0.5))
    width, height = side * columns + 2 * SHIFT, side * -(-len(val.images) // columns) + 2 * SHIFT
    image, truth, tissue = np.full((height, width, 3), 244, np.uint8), *np.zeros((2, height, width), bool)
    for number, (picture, lesion) in enumerate(zip(val.images, val.lesions, strict=True)):
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


def compare(segmenters: Mapping[str, Segmenter], slides: Sequence[Example], *, turns: int) -> dict[str, dict]:
    """The figures of each segmenter; "balanced" is among them, and what the others' times are divided by."""
    figures = {}
    for name, segmenter in segmenters.items():  # which also makes the networks ready
        figures[name] = judge(segmenter, slides)
    if len(slides) > 10:
        return figures  # they are too small for their time to say anything
    spent = {name: [] for name in segmenters}
    for turn in range(turns):
        for name in list(segmenters)[:: -1 if turn % 2 else 1]:
            spent[name].append(seconds(segmenters[name], slides))
    for name in segmenters:
        processor, clock = np.median(np.array(spent[name]) / spent["balanced"], axis=0)
        figures[name] |= {"time": float(processor), "time_by_the_clock": float(clock)}
    return figures


def judge(segmenter: Segmenter, slides: Sequence[Example]) -> dict[str, float]:
    """Dice and area over all slides."""
    counts, area, true_area = [], 0.0, 0.0
    for slide, result in zip(slides, results(segmenter, slides), strict=True):
        found = lesion_map(result, slide) > result.threshold
        counts.append(Counts.of(found, slide.truth))
        area += result.lesion_mm2()
        true_area += slide.truth.sum() * slide.mpp**2 / 1e6
    left_out = list(segmenter.networks.left_out)
    return {
        "dice": dice(total(counts)),
        "area": area / true_area,
        "heatmap_mpp": result.heatmap.frame.mpp,
        "patches": sum(one["predicted"] for one in result.info["passes"]),
        "left_out": left_out,
    }


def results(segmenter: Segmenter, slides: Sequence[Example]) -> Iterator[Segmentation]:
    """The slides, segmented in memory."""
    for slide in slides:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an image that is all lesion, or a made slide without tissue, is told
            yield segmenter.predict(slide.image, mpp=slide.mpp, tissue=slide.tissue, progress=False)


def lesion_map(result: Segmentation, slide: Example) -> np.ndarray:
    """The lesion's probability at the slide's own resolution, enlarged bilinearly; 0 where nothing is said."""
    heatmap = result.heatmap.channel(result.classes[-1]).array().astype(np.float32)
    scale = slide.mpp / result.heatmap.frame.mpp
    move = np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])  # from pixel centre to pixel centre
    size = slide.truth.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(heatmap, move, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def seconds(segmenter: Segmenter, slides: Sequence[Example]) -> tuple[float, float]:
    """Seconds of the processor, and by the clock, that all slides take."""
    processor, clock = time.process_time(), time.perf_counter()
    for _ in results(segmenter, slides):
        pass
    return time.process_time() - processor, time.perf_counter() - clock


def print_table(name: str, found: Mapping[str, Mapping[str, dict]]) -> None:
    """A row for each effort, with what it finds on each kind of slide and what it costs."""
    kinds = list(found)
    print(f"\n| `{name}` | " + " | ".join(f"{kind}: Dice | area | time" for kind in kinds) + " |")
    for effort in found[kinds[0]]:
        print(f"| {effort} | " + " | ".join(cells(found[kind][effort]) for kind in kinds) + " |", flush=True)


def cells(figures: Mapping[str, float]) -> str:
    """Dice, area and time."""
    spent = f"{figures['time']:.2f} ({figures['time_by_the_clock']:.2f})" if "time" in figures else "-"
    return f"{figures['dice']:.3f} | {figures['area']:.2f} | {spent}"


if __name__ == "__main__":
    main()
