"""From a cohort to Table 3 of Guo et al. 2019 (v3_DCNN): AUC, FROC, mIoU and time of a cascade and of its parts.

    python examples/papers/v3_dcnn.py --perfect               # the planted truth as heatmaps
    python examples/papers/v3_dcnn.py                         # the built-in bundles, on made slides

Half of the slides have tumours. The segmenter alone, the patch classifier alone and the cascade of both, the classifier
first, are judged on the same slides: a slide's highest probability gives the AUC; each region above 0.5 with its
highest probability gives the FROC, by CAMELYON16's rules and without their quirks; pixels above 0.5 give mIoU over all
slides and Tumor-mIoU over those with tumour. Intervals are of 2,000 resamples of slides.

With --perfect the classifier has its cell's mean of the truth, and no network runs, so that there is no time to tell.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np
from planted import Look, Seen, arguments, beside, blurred, by_network, perfect, truth_of

from digipath import ArraySlide, Cascade, Cohort, Raster, Segmenter
from digipath.data.cohort import Case
from digipath.evaluation.bootstrap import Interval, bootstrap
from digipath.evaluation.challenges import SlideIous, slide_ious
from digipath.evaluation.detection import detections_by_region
from digipath.evaluation.froc import FrocCase, Marks, froc_of, mark
from digipath.evaluation.lesions import lesions_from_mask
from digipath.evaluation.overlap import Counts
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

MPP = 1.1
CELL = 64  # pixels of a value of the built-in classifier
RESAMPLES = 2000
SEGMENTER, CLASSIFIER, CASCADE = "segmenter alone", "classifier alone", "cascade"
# AUC and FROC with intervals, mIoU, Tumor-mIoU (%), minutes a slide: DCNN-1280, Inception-v3, v3_DCNN-1280.
PAPER = {
    SEGMENTER: ("95.0 (90.7, 98.3)", "74.4 (63.0, 85.1)", "62.6", "79.43", "79"),
    CLASSIFIER: ("95.8 (90.9, 99.1)", "72.9 (63.4, 83.0)", "59.05", "74.14", "6.5, at 1/128"),
    CASCADE: ("96.6 (92.2, 99.6)", "82.9 (75.0, 91.0)", "68.54", "80.69", "11.5"),
}


def made_case(number: int, *, width: int, seed: int) -> Case:
    """A made slide, every other one with a tumour."""
    settings = SyntheticSettings(
        width=width, height=width * 4 // 5, mpp=MPP, lesions=number % 2 * (1 + number % 3), seed=seed + number
    )
    made = SyntheticSlide(settings)
    return Case(slide=ArraySlide(made.array(), mpp=MPP, name=f"slide-{number}"), annotations=made.annotations())


def looks_of(options: argparse.Namespace) -> dict[str, Look]:
    """How each of the three sees a slide."""
    if options.perfect:
        fine = perfect(mpp=2 * MPP, noise=options.noise, seed=options.seed)
        return {SEGMENTER: fine, CLASSIFIER: blurred(fine, CELL // 2), CASCADE: fine}
    networks = {
        SEGMENTER: options.segmenter,
        CLASSIFIER: options.classifier,
        CASCADE: Cascade(options.classifier, options.segmenter),
    }
    return {name: by_network(Segmenter(network)) for name, network in networks.items()}


@dataclass(frozen=True)
class Judged:
    """All that the scores need of a slide."""

    tumour: bool
    probability: float
    marks: Marks
    plain: Marks
    counts: Counts
    seconds: float | None


def judged(case: Case, seen: Seen) -> Judged:
    """One slide held against its truth, at the resolution of the truth where the heatmap is coarser."""
    truth = truth_of(case, case.slide.frame.at(2 * MPP))
    lesions = lesions_from_mask(truth) if truth.area_mm2 else None
    found = FrocCase(case.name, detections_by_region(seen.heatmap), lesions)
    said = Raster(seen.heatmap.array() > 0.5, seen.heatmap.frame).resample(truth.frame)
    return Judged(
        tumour=lesions is not None,
        probability=float(seen.heatmap.array().max()),
        marks=mark(found, rules="camelyon16"),
        plain=mark(found, rules="plain"),
        counts=Counts.of(said.array(), truth.array()),
        seconds=seen.seconds,
    )


def auc(slides: list[Judged]) -> float:
    """How often a slide with tumour has a higher probability than one without, equal ones half; NaN without either."""
    tumour, normal = (np.array([one.probability for one in slides if one.tumour == has]) for has in (True, False))
    higher = np.sign(tumour[:, None] - normal) / 2 + 0.5
    return float(higher.mean()) if higher.size else math.nan


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    auc: Interval
    froc: Interval
    plain: Interval
    ious: SlideIous
    seconds: float | None


def row_of(slides: list[Judged]) -> Row:
    """The scores of one of the three over all slides."""
    seconds = [one.seconds for one in slides]
    return Row(
        auc=bootstrap(auc, slides, resamples=RESAMPLES),
        froc=bootstrap(lambda drawn: froc_of(one.marks for one in drawn).score, slides, resamples=RESAMPLES),
        plain=bootstrap(lambda drawn: froc_of(one.plain for one in drawn).score, slides, resamples=RESAMPLES),
        ious=slide_ious(one.counts for one in slides),
        seconds=None if None in seconds else float(np.median(seconds)),
    )


def percent(interval: Interval) -> str:
    """A score as the paper writes it."""
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f}, {100 * interval.high:.1f})"


def report(rows: dict[str, Row], slides: int) -> None:
    """The figures beside those of Table 3."""
    told = {}
    for name, row in rows.items():
        auc_there, froc_there, miou, tumor_miou, minutes = PAPER[name]
        told |= {
            f"{name}: AUC, %": (percent(row.auc), auc_there),
            f"{name}: FROC, %": (percent(row.froc), froc_there),
            f"{name}: FROC without quirks, %": (percent(row.plain), ""),
            f"{name}: mIoU, %": (f"{100 * row.ious.miou.mean:.1f}", miou),
            f"{name}: Tumor-mIoU, %": (f"{100 * row.ious.tumor_miou.mean:.1f}", tumor_miou),
            f"{name}: time a slide": ("-" if row.seconds is None else f"{row.seconds:.1f} s", f"{minutes} min"),
        }
    if rows[CASCADE].seconds:
        told["time alone / cascade"] = (f"{rows[SEGMENTER].seconds / rows[CASCADE].seconds:.1f}", "6.9")
    shows = (
        f"They show what cells of {CELL} px lose, and whether the cascade keeps what the segmenter finds. "
        f"Intervals of {slides} slides are wide; by CAMELYON16's rules the lowest score is lost, and with it all "
        "where all scores are the same. A cascade saves time where little of a slide is a candidate and the segmenter "
        "is large; these slides are small, and the built-in segmenter is light."
    )
    beside("Guo et al. 2019: AUC, FROC, mIoU, Tumor-mIoU and time", told, shows=shows)


def main(given: list[str] | None = None) -> dict[str, Row]:
    parser = arguments(__doc__)
    parser.add_argument("--segmenter", default="colon-lesion-light", help="bundle that segments")
    parser.add_argument("--classifier", default="colon-patch-classifier", help="bundle that looks first")
    options = parser.parse_args(given)
    count, width = (4, 640) if options.quick else (12, 1400)
    cohort = Cohort([made_case(number, width=width, seed=options.seed) for number in range(count)])
    looks = looks_of(options)
    if not options.perfect:
        for look in looks.values():
            look(cohort[0])  # loads and compiles, which is not to be timed
    rows = {name: row_of([judged(case, look(case)) for case in cohort]) for name, look in looks.items()}
    report(rows, count)
    return rows


if __name__ == "__main__":
    main()
