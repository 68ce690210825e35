"""From a cohort to the table of the TIGER paper, and on to the TILs score that it aims at.

    python examples/papers/tiger.py --perfect                 # the planted truth as heatmaps
    python examples/papers/tiger.py --epochs 8 --network fpn-resnet34     # small runs of the paper's networks

Slides have nests of invasive tumour in stroma, and lymphocytes of a known density in that stroma. A network's heatmap
of the classes is judged as TIGER does: Dice of tumour and of stroma against all the rest; and by the paper's own score,
the IoU of stroma. From the same labels and the lymphocytes comes the TILs score, after the baseline of TIGER's
organisers. Lymphocytes are given, as no detector of cells belongs to the paper.
"""

import argparse
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from planted import MPP, Look, Seen, arguments, as_heatmap, beside, by_network, drawn_case, ellipse, truth_of

from digipath import Cohort, Raster, Segmenter, train
from digipath.analysis.tils import Tils, labels_of, til_score
from digipath.data.cohort import Case
from digipath.evaluation.challenges import tiger_counts
from digipath.evaluation.overlap import Counts, dice, iou, total
from digipath.slides.tissue import tissue_mask
from digipath.training.recipes import recipe
from digipath.training.trainer import TrainSettings

SLIDE_UM = (5600, 4800)
CLASSES = ("rest", "tumour", "stroma")
CELL_UM2 = 64  # that a lymphocyte counts in the score
# Test IoU of the paper's Table 1.
PAPER = {"unet-vgg16": "0.830", "unet-resnet34": "0.862", "fpn-resnet34": "0.864"}


@dataclass(frozen=True)
class Sample:
    """A slide with its lymphocytes.

    Attributes:
        case: The slide, with outlines of tumour and stroma.
        cells: (n, 2) positions in level-0 pixels.
        score: TILs score that is planted: how much of the stroma lymphocytes cover, in percent.
    """

    case: Case
    cells: np.ndarray
    score: float


def sample(name: str, rng: np.random.Generator, *, split: str) -> Sample:
    """Nests of tumour in a field of stroma, with a lymphocyte in each square of the field's stroma."""
    width, height = SLIDE_UM
    tissue = shapely.box(200, 200, width - 200, height - 200)
    field = ellipse(width / 2, height / 2, length=4400, width=3600, degrees=rng.uniform(0, 30))
    grid = [(x, y) for x in range(1400, 4300, 560) for y in range(1300, 3600, 560)]
    nests = [
        ellipse(*rng.normal(place, 25), length=rng.uniform(300, 460), width=rng.uniform(280, 420)) for place in grid
    ]
    nests = shapely.union_all(nests)
    stroma, spacing = field - nests, rng.uniform(22, 60)
    x, y = np.meshgrid(np.arange(0, width, spacing), np.arange(0, height, spacing))
    cells = np.stack([x.ravel(), y.ravel()], 1)
    cells = cells[shapely.contains_xy(stroma, *cells.T)]
    planted = [("stroma", stroma), ("tumour", nests)]
    return Sample(drawn_case(name, SLIDE_UM, tissue, planted, split=split), cells / MPP, 100 * CELL_UM2 / spacing**2)


def made_samples(options: argparse.Namespace) -> list[Sample]:
    """Slides to train on and slides to be judged by."""
    rng = np.random.default_rng(options.seed)
    counts = {
        "train": 0 if options.perfect else 4,
        "val": 0 if options.perfect else 1,
        "test": 3 if options.quick else 8,
    }
    return [sample(f"{split}-{one}", rng, split=split) for split, count in counts.items() for one in range(count)]


def perfect_classes(*, noise: float, seed: int) -> Look:
    """The planted classes as probabilities, with as much doubt as in `perfect`."""
    rng = np.random.default_rng(seed)

    def look(case: Case) -> Seen:
        frame = case.slide.frame
        tumour, stroma = (as_heatmap(truth_of(case, frame, kind=kind)).array() for kind in CLASSES[1:])
        layers = np.stack([1 - tumour - stroma, tumour, stroma], -1)
        odds = np.exp(8 * layers + noise * rng.standard_normal(layers.shape)) if noise else layers
        return Seen(
            Raster((odds / odds.sum(-1, keepdims=True)).astype(np.float32), frame, CLASSES), tissue_mask(case.slide)
        )

    return look


def trained(network: str, cases: list[Case], options: argparse.Namespace, folder: Path) -> Look:
    """What a network of the paper says, trained as its recipe has it but for patches, classes and how long."""
    small = dataclasses.replace(
        recipe(f"tiger-{network}"),
        weights=None,
        width=0.25,
        activation="softmax",
        mpp=MPP,
        patch=64,
        bundle_patch=256,
        epochs=options.epochs,
        rates=((0, 1e-3),),
    )
    cohort = Cohort(cases, classes=CLASSES)
    return by_network(
        Segmenter(train(cohort, small, out=folder / network, settings=TrainSettings(progress=False))), kind=None
    )


@dataclass(frozen=True)
class Judged:
    """A slide held against its truth."""

    tumour: Counts
    stroma: Counts
    tils: Tils
    planted: float


def judged(one: Sample, look: Look) -> Judged:
    """Labels of a heatmap, their counts, and the TILs score that follows from them."""
    labels, truth = (
        labels_of(seen.heatmap, tumour=("tumour",), stroma=("stroma",))
        for seen in (look(one.case), perfect_classes(noise=0, seed=0)(one.case))
    )
    found = Raster(labels.array(), labels.frame).resample(truth.frame)
    return Judged(*tiger_counts(found.array(), truth.array()), til_score(labels, one.cells), one.score)


def looks_of(samples: list[Sample], options: argparse.Namespace, folder: Path) -> dict[str, Look]:
    """By network, how a slide is seen."""
    if options.perfect:
        return {"truth": perfect_classes(noise=options.noise, seed=options.seed)}
    cases = [one.case for one in samples if one.case.split != "test"]
    return {name: trained(name, cases, options, folder) for name in options.network or PAPER}


def report(found: dict[str, list[Judged]]) -> None:
    """The scores of each network, and the TILs scores of its slides, beside the paper's table."""
    rows = {}
    for name, slides in found.items():
        tumour, stroma = (total(getattr(one, kind) for one in slides) for kind in ("tumour", "stroma"))
        wrong = np.mean([abs(one.tils.score - one.planted) for one in slides])
        print(
            f"TILs scores by {name} (planted): "
            + ", ".join(f"{one.tils.score:.2f} ({one.planted:.2f})" for one in slides)
        )
        rows |= {
            f"{name}: IoU of stroma": (f"{iou(stroma):.3f}", PAPER.get(name, "")),
            f"{name}: Dice of stroma": (f"{dice(stroma):.3f}", ""),
            f"{name}: Dice of tumour": (f"{dice(tumour):.3f}", ""),
            f"{name}: TILs score, mean error": (f"{wrong:.2f}", ""),
        }
    rows |= {f"paper, {name}: IoU of stroma": ("", value) for name, value in PAPER.items() if name not in found}
    shows = (
        "They show that labels of tissue and points of lymphocytes give back the TILs score that was planted, and how "
        "far errors of the labels move it. The paper has no TILs score."
    )
    beside("TIGER: IoU of inflamed and tumour-associated stroma, Dice, and the TILs score", rows, shows=shows)


def main(given: list[str] | None = None) -> dict[str, list[Judged]]:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--network", action="append", choices=PAPER, help="by default all three")
    options = parser.parse_args(given)
    samples = made_samples(options)
    with tempfile.TemporaryDirectory() as folder:
        looks = looks_of(samples, options, Path(folder))
        judged_slides = [one for one in samples if one.case.split == "test"]
        found = {name: [judged(one, look) for one in judged_slides] for name, look in looks.items()}
    report(found)
    return found


if __name__ == "__main__":
    main()
