"""From a cohort to the tables of Khened et al. 2021 (DigiPathAI): pN stages, Dice, tumour burden.

    python examples/papers/digipathai.py --perfect            # the planted truth as heatmaps
    python examples/papers/digipathai.py --epochs 6           # a small network, trained on drawn slides

*Nodes.* Patients of five lymph nodes each, with metastases of 0.1, 1 and 3 mm: all five pN stages occur. A slide's
class comes from its heatmap twice: by the rule (its longest lesion), and by the classifier of the paper's 32 features,
trained on other slides. The five classes give a patient's stage, and the stages of all patients their kappa.

*Livers.* Nests of viable tumour; the whole tumour is their hull as far as there is tissue, which has a notch.
"""

import argparse
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from planted import MPP, Look, Seen, arguments, beside, by_network, drawn_case, ellipse, perfect, truth_of

from digipath import Bundle, Cohort, Segmenter, train
from digipath.analysis.burden import tumour_burden
from digipath.analysis.features import FEATURES, lesion_features
from digipath.analysis.metastasis import MetastasisClassifier
from digipath.analysis.staging import SLIDE_CLASSES, slide_class_by_rule, stage_patients, submission_rows
from digipath.data.cohort import Case
from digipath.data.sampling import TumourNormal
from digipath.evaluation.agreement import STAGES, confusion_of, kappa_of, pair_stages
from digipath.evaluation.bootstrap import Interval, bootstrap
from digipath.evaluation.challenges import PaipCase, digestpath_dice, paip_task1, paip_task2
from digipath.evaluation.overlap import Counts, iou
from digipath.geometry.shapes import measure
from digipath.training.recipes import recipe
from digipath.training.trainer import TrainSettings

NODE_UM = (5200, 4400)
LIVER_UM = (6000, 4800)
# The longest lesion, in mm, of each of five nodes, and so of all stages.
PATIENTS = {
    "pN0": (0, 0, 0, 0, 0),
    "pN0(i+)": (0.1, 0, 0, 0.1, 0),
    "pN1mi": (1, 0.1, 0, 1, 0),
    "pN1": (3, 1, 0, 0.1, 0),
    "pN2": (3, 1, 1, 3, 0.1),
}
# Lengths in mm of the lesions that the classifier learns from.
LENGTHS = {"negative": None, "itc": (0.06, 0.18), "micro": (0.3, 1.8), "macro": (2.2, 3.4)}


def node(name: str, length_mm: float, rng: np.random.Generator, **known: str | None) -> Case:
    """A lymph node with a metastasis of this length, or without for 0; a larger one has a small one beside it."""
    width, height = NODE_UM
    tissue = ellipse(width / 2, height / 2, length=0.95 * width, width=0.95 * height)
    lesions = []
    if length_mm:
        length, degrees = 1000 * length_mm, rng.uniform(-30, 30)
        lesions.append(ellipse(2300, 2000, length=length, width=length * rng.uniform(0.5, 0.7), degrees=degrees))
    if length_mm > 0.2:
        lesions.append(ellipse(*rng.uniform((2300, 3700), (2900, 3800)), length=110, width=80))
    planted = [("lesion", lesion) for lesion in lesions]
    return drawn_case(name, NODE_UM, tissue, planted, **known)


def liver(name: str, rng: np.random.Generator, **known: str | None) -> tuple[Case, float]:
    """A slide of liver with nests of viable tumour, and its tumour burden in percent."""
    width, height = LIVER_UM
    notch = shapely.box(width / 2 - 500, 0, width / 2 + 500, 1600)
    tissue = shapely.box(200, 200, width - 200, height - 200) - notch
    grid = [(x, y) for x in range(1000, 5200, 800) for y in range(900, 4200, 800)]
    places = [place for place in grid if not notch.dwithin(shapely.Point(place), 450)]
    chosen = rng.permutation(len(places))[: rng.integers(9, 14)]
    nests = [
        ellipse(*places[one], length=rng.uniform(450, 620), width=rng.uniform(400, 600), degrees=rng.uniform(0, 90))
        for one in chosen
    ]
    whole = shapely.union_all(nests).convex_hull & tissue
    percent = 100 * sum(nest.area for nest in nests) / whole.area
    return drawn_case(name, LIVER_UM, tissue, [("lesion", nest) for nest in nests], **known), percent


def training_nodes(count: int, rng: np.random.Generator) -> list[tuple[Case, str]]:
    """`count` nodes of each class, every fourth for validation."""
    made = []
    for name, lengths in LENGTHS.items():
        for number in range(count):
            length = rng.uniform(*lengths) if lengths else 0
            made.append((node(f"{name}-{number}", length, rng, split="train" if number % 4 else "val"), name))
    return made


def trained(cases: list[Case], options: argparse.Namespace, folder: Path) -> Bundle:
    """A small network, trained as the paper's recipe says but for its size, its patches and how long."""
    small = dataclasses.replace(
        recipe("digipathai-densenet121"),
        architecture="unet-microdosimetry",
        width=0.125,
        weights=None,
        freeze=0,
        patience=None,
        mpp=MPP,
        patch=64,
        bundle_patch=256,
        sampling=TumourNormal(per_slide=24, jitter=16),
        epochs=options.epochs,
        rates=((0, 2e-3),),
    )
    return train(Cohort(cases), small, out=folder / "small", settings=TrainSettings(progress=False))


def features_of(seen: Seen) -> list[float]:
    """The paper's 32 features of a slide, in their order."""
    found = lesion_features(seen.heatmap, tissue=seen.tissue)
    return [found[name] for name in FEATURES]


def by_rule(seen: Seen) -> str:
    """The class of a slide by its longest lesion."""
    shapes = measure(seen.heatmap.threshold(0.5))
    return slide_class_by_rule(max((shape.major_axis_um for shape in shapes), default=0.0))


def fitted(slides: list[tuple[Case, str]], look: Look, options: argparse.Namespace) -> MetastasisClassifier:
    """The classifier of slides, trained on what `look` sees of slides of known class."""
    seen = [look(case) for case, _ in slides]
    trees = 100 if options.quick else 1000
    classifier = MetastasisClassifier(heatmap_mpp=seen[0].heatmap.frame.mpp, n_estimators=trees, seed=options.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no region.*")  # lesions that the network has missed
        return classifier.fit(np.array([features_of(one) for one in seen]), [name for _, name in slides])


def staged(classes: dict[str, str], truth: dict[str, str]) -> Interval:
    """Kappa of the patients whose slides have these classes, with its interval."""
    pairs = pair_stages(truth, submission_rows(stage_patients(classes)))
    return bootstrap(lambda drawn: kappa_of(confusion_of(drawn)), pairs)


def patients(options: argparse.Namespace) -> Iterator[tuple[Case, str]]:
    """The five nodes of every patient, named as in CAMELYON17, with their planted classes."""
    rng = np.random.default_rng(options.seed + 1)
    for number, lengths in enumerate(list(PATIENTS.values()) * (1 if options.quick else 4)):
        patient = f"patient_{number:03d}"
        for place, length in enumerate(lengths):
            yield node(f"{patient}_node_{place}", length, rng, patient=patient), slide_class_by_rule(1000 * length)


def judge_nodes(look: Look, slides: list[tuple[Case, str]], options: argparse.Namespace) -> dict[str, object]:
    """Stages of patients by both ways to class their slides, and Dice."""
    classifier = fitted(slides, look, options)
    truth, counts, ways = {}, [], {"rule": {}, "classifier": {}}
    for case, name in patients(options):
        seen, truth[case.name] = look(case), name
        frame = seen.heatmap.frame
        ways["rule"][case.name] = by_rule(seen)
        ways["classifier"][case.name] = str(classifier.predict([features_of(seen)], heatmap_mpp=frame.mpp)[0])
        counts.append(Counts.of(seen.heatmap.array() > 0.5, truth_of(case, frame).array()))
    stages = {f"{one.patient}.zip": one.stage for one in stage_patients(truth)}
    return {
        "slides": len(truth),
        "stages": stages,
        "right": {way: np.mean([classes[name] == truth[name] for name in truth]) for way, classes in ways.items()},
        "kappa": {way: staged(classes, stages) for way, classes in ways.items()},
        "dice": digestpath_dice(counts),
    }


def judge_livers(look: Look, options: argparse.Namespace) -> list[PaipCase]:
    """Of each slide the Jaccard index of viable tumour, and its burden found and planted."""
    rng, found = np.random.default_rng(options.seed + 2), []
    for number in range(3 if options.quick else 10):
        case, percent = liver(f"liver-{number}", rng)
        seen = look(case)
        viable = seen.heatmap.threshold(0.5)
        overlap = iou(Counts.of(viable.array(), truth_of(case, viable.frame).array()))
        found.append(PaipCase(overlap, tumour_burden(viable, seen.tissue).percent, percent))
    return found


def main(given: list[str] | None = None) -> dict[str, object]:
    parser = arguments(__doc__, more=lambda one: one.add_argument("--epochs", type=int, default=6))
    parser.add_argument("--bundle", help="a network of your own, in place of a small one that is trained")
    options = parser.parse_args(given)
    rng = np.random.default_rng(options.seed)
    slides = training_nodes(8 if options.quick else 16, rng)
    with tempfile.TemporaryDirectory() as folder:
        if options.perfect:
            look = perfect(noise=options.noise, seed=options.seed)
        else:
            nests = [liver(f"nests-{number}", rng, split="val" if number == 0 else "train")[0] for number in range(4)]
            known = [case for case, _ in slides] + nests
            look = by_network(Segmenter(options.bundle or trained(known, options, Path(folder))))
        nodes, livers = judge_nodes(look, slides, options), judge_livers(look, options)
    report(nodes, livers)
    return {**nodes, "livers": livers}


def report(nodes: dict, livers: list[PaipCase]) -> None:
    """The figures beside Tables 6, 7 and 8 of the paper."""
    for one in livers:
        print(f"tumour burden {one.burden:.2f} %, planted {one.truth:.2f} %; Jaccard index {one.jaccard:.3f}")
    kappas, right, dice = nodes["kappa"], nodes["right"], nodes["dice"]
    interval = kappas["classifier"]
    rows = {
        "classes of slides right, by rule": (f"{right['rule']:.3f}", ""),
        "classes of slides right, by classifier": (f"{right['classifier']:.3f}", ""),
        "kappa of pN stages, by rule": (f"{kappas['rule'].value:.4f}", ""),
        "kappa of pN stages, by classifier": (f"{interval.value:.4f}", "0.9090 (Table 6)"),
        "  its 95 % interval": (f"{interval.low:.4f} to {interval.high:.4f}", ""),
        "Dice, mean of slides": (f"{dice.images.mean:.3f}", "0.782 (Table 7)"),
        "Dice, mean of slides with tumour": (f"{dice.lesions.mean:.3f}", ""),
        "viable tumour, Task 1": (f"{paip_task1(livers).score:.3f}", "0.750 (Table 8)"),
        "tumour burden, Task 2": (f"{paip_task2(livers).score:.4f}", "0.6337 (Table 8)"),
    }
    shows = (
        f"They show what comes out at the end of the {len(STAGES)} stages that are planted in {len(nodes['stages'])} "
        f"patients, by {nodes['slides']} slides of {len(SLIDE_CLASSES)} classes, and of the livers' tumour burden."
    )
    beside("Khened et al. 2021: CAMELYON17, DigestPath 2019, PAIP 2019", rows, shows=shows)


if __name__ == "__main__":
    main()
