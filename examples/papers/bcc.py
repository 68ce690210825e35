"""From a cohort to Tables 3 to 5 of Le'Clerc Arrastia et al. 2021: tissue sections with and without tumour.

    python examples/papers/bcc.py --perfect                   # the planted truth as heatmaps
    python examples/papers/bcc.py                             # the bundle with early exits, on made slides
    python examples/papers/bcc.py --bundle mine --bundle other

Slides have several sections of made tissue, half of them with a tumour. Both thresholds are found by F_1.5 on the
sections of validation slides, for each network (Table 3), and used on those of test slides (Table 4). For the network
with deep supervision the sections are judged again by each block of its decoder, at the whole network's thresholds
(Table 5), with the time of the network cut there.

With --perfect a block of the decoder is the truth averaged over the pixels that one of its values stands for: the best
that it could say.
"""

import argparse

import numpy as np
import shapely
from planted import Look, arguments, as_heatmap, beside, blurred, by_network, perfect, truth_of

from digipath import Annotation, ArraySlide, InferenceSettings, Segmenter
from digipath.analysis.sections import find_sections, section_tumour
from digipath.analysis.thresholds import (
    PREDICTIONS,
    SectionExample,
    compare,
    fit_thresholds,
    section_examples,
)
from digipath.data.cohort import Case, Cohort
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

MPP = 1.1
GAP = 300  # pixels of glass between sections, wider than what joins fragments to one
STRIDES = (16, 8, 4, 2, 1)  # pixels for each value of the decoder's blocks, from the coarsest
# Accuracy, sensitivity, specificity and F_1.5 of Tables 3 (with thresholds), 4 and 5.
PAPER = {
    "validation, UNet, thresholds 0.45, 8,960 um2": "0.985  1.000  0.975  0.989",
    "validation, ResNet34-UNet, thresholds 0.60, 3,840 um2": "0.993  0.998  0.989  0.994",
    "validation, ResNet34-UNet + DS, thresholds 0.60, 5,120 um2": "0.994  0.996  0.992  0.993",
    "validation, ResNet34-UNet + Linear, thresholds 0.65, 2,560 um2": "0.996  1.000  0.994  0.997",
    "test, UNet": "0.915  0.971  0.842  0.945",
    "test, ResNet34-UNet": "0.957  0.954  0.961  0.959",
    "test, ResNet34-UNet + DS": "0.962  0.961  0.964  0.964  (30 FP, 44 FN of 1962)",
    "test, ResNet34-UNet + Linear": "0.957  0.947  0.970  0.956",
}
TABLE5 = (
    "0.960  0.959  0.961  0.962",
    "0.962  0.961  0.963  0.964",
    "0.962  0.961  0.963  0.964",
    "0.962  0.961  0.964  0.964",
    "0.962  0.961  0.964  0.964",
)


def made_case(name: str, *, sections: int, side: int, seed: int) -> Case:
    """A slide with sections beside each other, every other one with a tumour; its name begins with its split."""
    width, height = side, side * 4 // 5
    image = np.full((height, sections * (width + GAP), 3), 255, np.uint8)
    outlines = []
    for number in range(sections):
        settings = SyntheticSettings(width=width, height=height, mpp=MPP, lesions=number % 2, seed=seed + number)
        section, left = SyntheticSlide(settings), number * (width + GAP)
        image[:, left : left + width] = section.array()
        outlines += [shapely.transform(gland, lambda at, x=left: np.add(at, (x, 0))) for gland in section.lesions]
    truth = [Annotation("lesion", outline) for outline in outlines]
    return Case(slide=ArraySlide(image, mpp=MPP, name=name), annotations=truth, split=name.split("-")[0])


def made_cohort(options: argparse.Namespace) -> Cohort:
    """As many validation slides as test slides."""
    slides, sections, side = (2, 2, 400) if options.quick else (4, 4, 700)
    names = [f"{split}-{number}" for split in ("val", "test") for number in range(slides)]
    seeds = range(options.seed, options.seed + sections * len(names), sections)
    return Cohort(
        [made_case(name, sections=sections, side=side, seed=seed) for name, seed in zip(names, seeds, strict=True)]
    )


def looks_of(options: argparse.Namespace) -> tuple[dict[str, Look], dict[str, Look]]:
    """By name of the network, and by block of the decoder of the one with early exits, how a slide is seen."""
    if options.perfect:
        whole = perfect(mpp=MPP, noise=options.noise, seed=options.seed)
        return {"truth": whole}, {f"ψ_{block}": blurred(whole, stride) for block, stride in enumerate(STRIDES)}
    exits = [InferenceSettings(early_exit=block) for block in range(len(STRIDES))]
    blocks = {f"ψ_{block}": by_network(Segmenter(options.exits, settings=one)) for block, one in enumerate(exits)}
    return {name: by_network(Segmenter(name)) for name in [*options.bundle, options.exits]}, blocks


def examined(cohort: Cohort, look: Look) -> tuple[list[SectionExample], float | None]:
    """All sections of a cohort with their tumour as it is seen and as it is; and the median seconds of a slide."""
    found, seconds = [], []
    for case in cohort:
        seen = look(case)
        sections = find_sections(seen.tissue)
        planted = section_tumour(sections, as_heatmap(truth_of(case, case.slide.frame)), [0.5])
        truth = [bool(one.total_um2[0]) for one in planted]
        found += section_examples(section_tumour(sections, seen.heatmap, PREDICTIONS), truth)
        seconds.append(seen.seconds)
    return found, None if None in seconds else float(np.median(seconds))


def judge(cohort: Cohort, options: argparse.Namespace) -> dict[str, object]:
    """The rows of all three tables, with "seconds" of a slide where a network took some."""
    networks, blocks = looks_of(options)
    val, test = (cohort.select(split=split) for split in ("val", "test"))
    fits = {name: fit_thresholds(examined(val, look)[0]) for name, look in networks.items()}
    tested = {name: compare({name: examined(test, look)[0]}, fits[name].best)[0] for name, look in networks.items()}
    whole = list(fits)[-1]  # the network with early exits
    exits = []
    for block, look in blocks.items():
        examples, seconds = examined(test, look)
        exits += [row | {"seconds": seconds} for row in compare({block: examples}, fits[whole].best)]
    return {"fits": fits, "test": list(tested.values()), "blocks": exits}


def scores(row: dict) -> str:
    """The paper's four columns, and how many sections are wrong."""
    values = (row[name] for name in ("accuracy", "sensitivity", "specificity", "f_beta"))
    numbers = "  ".join("  -  " if value is None else f"{value:.3f}" for value in values)
    return f"{numbers}  ({row['fp']} FP, {row['fn']} FN of {row['sections']})"


def report(found: dict) -> None:
    """The tables beside those of the paper; columns are accuracy, sensitivity, specificity and F_1.5."""
    rows = {}
    for name, fit in found["fits"].items():
        best = f"{fit.best.prediction:.2f}, {fit.best.area_um2:,.0f} um2"
        rows[f"validation, {name}, thresholds {best}"] = (scores(fit.scores.row()), "")
    rows |= {f"test, {row['name']}": (scores(row), "") for row in found["test"]}
    whole = found["blocks"][-1]["seconds"]
    for row, theirs in zip(found["blocks"], TABLE5, strict=True):
        took = f", {row['seconds'] / whole:.2f} of the time" if whole else ""
        rows[f"test, {row['name']}{took}"] = (scores(row), theirs)
    rows |= {f"paper, {name}": ("", line) for name, line in PAPER.items()}
    shows = (
        "They show that thresholds are found on some sections and judged on others, and what each block of a decoder "
        "is worth: of so few sections one more that is wrong costs several percent."
    )
    beside("Le'Clerc Arrastia et al. 2021: accuracy, sensitivity, specificity, F_1.5 of sections", rows, shows=shows)


def main(given: list[str] | None = None) -> dict[str, object]:
    parser = arguments(__doc__)
    parser.add_argument("--bundle", action="append", help="a network to be judged; several times for several")
    parser.add_argument("--exits", default="colon-lesion-ds", help="the network with early exits")
    options = parser.parse_args(given)
    options.bundle = options.bundle or ["colon-lesion-light"]
    found = judge(made_cohort(options), options)
    report(found)
    return found


if __name__ == "__main__":
    main()
