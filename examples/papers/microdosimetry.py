"""From a cohort to the results of Weishaupt et al.: eight-fold cross-validation, and the contours of all tumours.

    python examples/papers/microdosimetry.py --perfect        # the planted truth as heatmaps
    python examples/papers/microdosimetry.py --epochs 8       # eight small networks; some minutes of a core

Patients are divided into eight folds of equal number and of equal summed area of tumour; each fold is judged by a
network that never saw it, and a score is the mean of the folds with their standard deviation. Then the contours of the
tumours that were found: area, perimeter, equivalent diameter, and how far the next one is.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from planted import MPP, Look, arguments, beside, by_network, drawn_case, ellipse, perfect, truth_of
from shapely import box

from digipath import Cohort, Segmenter, train
from digipath.analysis.microdosimetry import Contour, FoldScore, contours_csv, contours_of_mask, fold_summary
from digipath.data.cohort import Case
from digipath.data.sampling import Tiles
from digipath.evaluation import overlap
from digipath.evaluation.overlap import Counts, total
from digipath.training.recipes import recipe
from digipath.training.trainer import TrainSettings

SLIDE_UM = (2800, 2400)
FOLDS = 8
SCORES = ("dice", "iou", "sensitivity", "specificity", "accuracy")


def made_case(number: int, rng: np.random.Generator) -> Case:
    """A slide with one to four tumours of different sizes, apart from each other."""
    width, height = SLIDE_UM
    places = [(800, 750), (2000, 750), (800, 1650), (2000, 1650)]
    tumours = [
        ellipse(*places[one], length=rng.uniform(200, 800), width=rng.uniform(150, 600), degrees=rng.uniform(0, 20))
        for one in rng.permutation(4)[: rng.integers(1, 5)]
    ]
    tissue = box(150, 150, width - 150, height - 150)
    planted = [("lesion", tumour) for tumour in tumours]
    return drawn_case(f"slide-{number}", SLIDE_UM, tissue, planted, patient=f"patient-{number}")


def trained(rest: Cohort, options: argparse.Namespace, out: Path) -> Look:
    """A small network of the paper's kind, trained on all folds but one; its epoch is chosen on some of these."""
    small = dataclasses.replace(
        recipe("microdosimetry"),
        mpp=MPP,
        patch=64,
        bundle_patch=256,
        width=0.125,
        sampling=Tiles(),
        epochs=options.epochs,
        rates=((0, 2e-3),),
        batch=8,
    )
    parted = rest.split(val=1 / FOLDS, seed=options.seed)
    return by_network(Segmenter(train(parted, small, out=out, settings=TrainSettings(progress=False))))


def judged(fold: Cohort, look: Look) -> tuple[list[Counts], dict[str, list[Contour]], float]:
    """Counts of each slide of a fold, the contours found by slide, and the area of tumour in truth in mm2."""
    counts, contours, area = [], {}, 0.0
    for case in fold:
        found = look(case).heatmap.threshold(0.5)
        truth = truth_of(case, found.frame)
        counts.append(Counts.of(found.array(), truth.array()))
        contours[case.name] = contours_of_mask(found)
        area += truth.area_mm2
    return counts, contours, area


def cross_validated(cohort: Cohort, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Scores of all folds, contours by slide, and the tumour in each fold."""
    divided = cohort.folds(FOLDS, balance="tumour_area", seed=options.seed)
    scores, contours, areas = [], {}, []
    for number in range(FOLDS):
        rest, held_back = divided.fold(number)
        if options.perfect:
            look = perfect(noise=options.noise, seed=options.seed + number)
        else:
            look = trained(rest, options, folder / f"fold-{number + 1}")
        counts, found, area = judged(held_back, look)
        pooled = total(counts)
        scores.append({name: getattr(overlap, name)(pooled) for name in SCORES})
        contours |= found
        areas.append(area)
    return {"scores": fold_summary(scores), "contours": contours, "areas": areas}


def report(found: dict) -> None:
    """The scores of folds, the contours, and that the text at hand has none."""
    print("folds have " + ", ".join(f"{area:.2f}" for area in found["areas"]) + " mm2 of tumour")
    scores: dict[str, FoldScore] = found["scores"]
    rows = {f"{name}, mean ± SD of {FOLDS} folds": (str(score), "not in the text") for name, score in scores.items()}
    contours = [one for slide in found["contours"].values() for one in slide]
    for name, unit in (("area_um2", "um2"), ("perimeter_um", "um"), ("equivalent_diameter_um", "um")):
        values = [getattr(one, name) for one in contours]
        rows[f"{name.rsplit('_', 1)[0].replace('_', ' ')}, median"] = (f"{np.median(values):,.0f} {unit}", "")
    apart = [one.nearest_distance_um for one in contours if one.nearest_distance_um is not None]
    rows["nearest other contour, median"] = (f"{np.median(apart):,.0f} um", "")
    rows["contours"] = (f"{len(contours)}", "")
    name, slide = max(found["contours"].items(), key=lambda pair: len(pair[1]))
    print(f"\nthe largest contours of {name}:\n{contours_csv(slide[:8])}")
    shows = (
        "They show folds of nearly equal tumour area, scores of slides that their network has not seen, and contours "
        "in micrometres. The text of the paper at hand describes the method and names no score."
    )
    beside("Weishaupt et al.: eight-fold cross-validation, and contours of tumours", rows, shows=shows)


def main(given: list[str] | None = None) -> dict[str, object]:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args(given)
    rng = np.random.default_rng(options.seed)
    cohort = Cohort([made_case(number, rng) for number in range(FOLDS * (2 if options.quick else 4))])
    with tempfile.TemporaryDirectory() as folder:
        found = cross_validated(cohort, options, Path(folder))
    report(found)
    return found


if __name__ == "__main__":
    main()
