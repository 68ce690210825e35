"""Tells metastases apart on real lesions: by the longest axis, and by a classifier of the paper's 32 features.

    python examples/metastases.py --data ../shared/data

The lesions are those of 55 tumour slides of CAMELYON16; the heatmaps are made, for no network that knows lymph nodes is
at hand: the table compares two ways to judge a heatmap, and says nothing of any network.

*Slides.* Each tumour slide is cut to its lesions and a millimetre around, at 8 µm per pixel, and comes with all of its
lesions, with those of up to 2 mm alone, with those of up to 0.2 mm alone (only two of the 55 have nothing larger), and
with none; versions of the same class count once. A slide's class is by the longest major axis of its lesions in truth:
up to 0.2 mm itc, up to 2 mm micro, above macro. All that is made of one slide is in the same fold.

*Heatmaps.* "clean" is the truth blurred by 16 µm. "some" and "much" are probabilities of logits: -5 where nothing is,
and in a lesion 3.5 on average, less in one below 0.2 mm, with a spread from lesion to lesion, so that some are lost; a
smooth field of doubt, which breaks up faint ones; and as many false specks as a Poisson number says, at 3.5 on average
too, of log-normal sizes with a median of 50 µm (one in forty above 0.24 mm). What is planted is blurred by 16 µm.

Accuracy, and quadratic weighted kappa over the four classes, are of a five-fold cross-validation; the rules learn
nothing.
"""

import argparse
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import shapely
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from digipath.analysis.features import FEATURES, lesion_features
from digipath.analysis.metastasis import MetastasisClassifier
from digipath.analysis.staging import SLIDE_CLASSES, slide_class_by_rule
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, rasterize
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import measure
from digipath.io.geojson import read_geojson

NOTHING, LESION = -5.0, 3.5  # logits
LEVEL0, MPP = 0.243, 8.0  # um per pixel, of CAMELYON16 and of the heatmaps
MARGIN_UM, BLUR_UM, FIELD_UM = 1000, 16, 120
ITC_UM, MICRO_UM = 200, 2000


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is wrong with a made heatmap.

    Attributes:
        specks: Mean number of false specks of a slide.
        field: Standard deviation of the doubt, in logits.
        doubt: Standard deviation of the belief in each lesion, in logits.
    """

    specks: float
    field: float
    doubt: float


NOISE = {
    "clean": None,
    "some": Noise(specks=1, field=0.5, doubt=1),
    "much": Noise(specks=4, field=1, doubt=2),
}


def read_slides(data: Path) -> list[Raster]:
    """The lesions of each tumour slide as a mask of what is around them."""
    slides = []
    warnings.filterwarnings("ignore", message=".*self-crossing polygon, repaired")  # outlines drawn by hand
    for path in sorted((data / "annotations/camelyon16-polygons").glob("*.json")):
        geometries = [annotation.geometry for annotation in read_geojson(path)]
        margin = MARGIN_UM / LEVEL0
        left, top, right, bottom = shapely.total_bounds(geometries) + np.array([-1, -1, 1, 1]) * margin
        frame = Frame.level0(math.ceil(right - left), math.ceil(bottom - top), LEVEL0).at(MPP)
        moved = shapely.transform(np.array(geometries), lambda points, by=(left, top): points - by)
        slides.append(rasterize([Annotation("tumor", geometry) for geometry in moved], frame))
    return slides


def versions_of(slide: Raster) -> list[tuple[Raster, str]]:
    """(truth, class) of the slide, of its smaller lesions alone, and of none."""
    count, labels = cv2.connectedComponents(slide.array().astype(np.uint8))
    axes = np.zeros(count)
    for shape in measure(slide, Raster(labels.astype(np.float32), slide.frame)):
        axes[int(shape.max_probability)] = shape.major_axis_um
    versions = {}
    for limit in (0, ITC_UM, MICRO_UM, math.inf):
        kept = (axes > 0) & (axes <= limit)
        versions[slide_class_by_rule(float((axes * kept).max()))] = Raster(kept[labels], slide.frame)
    return [(truth, name) for name, truth in versions.items()]


def heatmap_of(truth: Raster, noise: Noise | None, rng: np.random.Generator) -> Raster:
    """Probabilities as of a network that makes mistakes."""
    mask = truth.array().astype(np.float32)
    if noise is None:
        return Raster(cv2.GaussianBlur(mask, None, BLUR_UM / MPP), truth.frame)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    diameter_um = np.sqrt(stats[:, cv2.CC_STAT_AREA] * 4 / math.pi) * MPP
    belief = LESION + np.minimum(0, np.log2(diameter_um / ITC_UM)) + rng.normal(0, noise.doubt, count)
    belief[0] = NOTHING
    planted = np.maximum(belief, NOTHING).astype(np.float32)[labels]
    for _ in range(rng.poisson(noise.specks)):
        place = tuple(int(rng.integers(0, side)) for side in reversed(mask.shape))
        axes = np.maximum(np.round(rng.lognormal(math.log(25), 0.8) / MPP * np.array([1, rng.uniform(0.4, 1)])), 1)
        cv2.ellipse(planted, (place, tuple(2 * axes), rng.uniform(0, 180)), float(rng.normal(LESION, 1)), -1)
    logits = cv2.GaussianBlur(planted, None, BLUR_UM / MPP) + noise.field * field(mask.shape, rng)
    return Raster(1 / (1 + np.exp(-logits)), truth.frame)


def field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance."""
    coarse = rng.normal(size=[math.ceil(side * MPP / FIELD_UM) + 2 for side in shape]).astype(np.float32)
    fine = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return fine / fine.std()


def measured(slides: list[Raster], noise: Noise | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Features, classes and slides of all versions, and the longest axes at both thresholds."""
    rng, rows, classes, groups, axes = np.random.default_rng(seed), [], [], [], {"0.9": [], "0.5": []}
    for group, slide in enumerate(slides):
        for truth, name in versions_of(slide):
            heatmap = heatmap_of(truth, noise, rng)
            features = lesion_features(heatmap)
            rows.append([features[one] for one in FEATURES])
            classes.append(name)
            groups.append(group)
            for threshold, mask in (("0.9", heatmap.values >= 0.9), ("0.5", heatmap.values > 0.5)):
                shapes = measure(Raster(mask, heatmap.frame))
                axes[threshold].append(max((shape.major_axis_um for shape in shapes), default=0.0))
    return np.array(rows), np.array(classes), np.array(groups), axes


def judged(classes: np.ndarray, guesses: np.ndarray) -> dict:
    """Accuracy, kappa and confusion of guesses."""
    codes = [[SLIDE_CLASSES.index(one) for one in each] for each in (classes, guesses)]
    return {
        "accuracy": round(accuracy_score(classes, guesses), 3),
        "kappa": round(cohen_kappa_score(*codes, weights="quadratic"), 3),
        "confusion": confusion_matrix(classes, guesses, labels=SLIDE_CLASSES).tolist(),
    }


def compare(slides: list[Raster], noise: Noise | None, settings: argparse.Namespace) -> dict:
    """Both ways judged on the same heatmaps."""
    rows, classes, groups, axes = measured(slides, noise, settings.seed)
    found = {
        f"longest axis at {threshold}": judged(classes, np.array([slide_class_by_rule(axis) for axis in lengths]))
        for threshold, lengths in axes.items()
    }
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=settings.seed)
    classifier = MetastasisClassifier(heatmap_mpp=MPP, n_estimators=settings.trees, seed=settings.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no region.*")  # lesions that the made heatmap has lost
        guesses = cross_val_predict(classifier, rows, classes, groups=groups, cv=folds)
    return found | {"classifier": judged(classes, guesses)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/camelyon16-polygons")
    parser.add_argument("--trees", type=int, default=1000, help="of each of the four forests")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    slides = read_slides(settings.data)
    counts = dict.fromkeys(SLIDE_CLASSES, 0)
    for slide in slides:
        for _, name in versions_of(slide):
            counts[name] += 1
    print("slides: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    found = {name: compare(slides, noise, settings) for name, noise in NOISE.items()}
    print("\n| heatmaps | judged by | accuracy | kappa |\n|---|---|---|---|")
    for name, ways in found.items():
        for way, scores in ways.items():
            print(f"| {name} | {way} | {scores['accuracy']:.3f} | {scores['kappa']:.3f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
