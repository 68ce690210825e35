"""Cross-validation: as many bundles as folds, each judged on the fold that it never saw.

The folds are those of the microdosimetry paper (Weishaupt et al., Appendix 3): equal in number of images and in summed
tumour area. Unlike there, the epoch is chosen on patients taken from the training part, so that the fold stays unseen.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from digipath.data.classes import IGNORED
from digipath.data.cohort import Cohort
from digipath.data.grids import Grid
from digipath.data.patches import Batches, PatchSource
from digipath.data.pool import Pool
from digipath.errors import SpecError
from digipath.evaluation import overlap
from digipath.evaluation.overlap import Counts
from digipath.models.bundle import Bundle
from digipath.training.recipes import Recipe
from digipath.training.trainer import TrainSettings, patch_labels, train

__all__ = ["FoldsReport", "judge", "train_folds"]

FIGURES = ("dice", "iou", "sensitivity", "specificity", "accuracy")


@dataclass(frozen=True, kw_only=True)
class FoldsReport:
    """What came of cross-validation.

    Attributes:
        bundles: a folder each.
        recipes: name of the recipe of each.
        figures: for each bundle, `FIGURES` on all pixels of its own fold taken together.
    """

    bundles: tuple[Path, ...]
    recipes: tuple[str, ...]
    figures: tuple[dict[str, float], ...]

    def table(self) -> str:
        """Folds, their mean and their standard deviation (n - 1), as text."""
        lines = [f"{'fold':<12}{'recipe':<28}" + "".join(f"{name:>13}" for name in FIGURES)]
        for number, (name, row) in enumerate(zip(self.recipes, self.figures, strict=True), 1):
            lines.append(f"{number:<12}{name:<28}" + "".join(f"{row[figure]:>13.4f}" for figure in FIGURES))
        columns = [np.array([row[figure] for row in self.figures]) for figure in FIGURES]
        spread = [f"{column.mean():.3f} ± {column.std(ddof=1):.3f}" for column in columns]
        lines.append(f"{'mean ± sd':<40}" + "".join(f"{text:>13}" for text in spread))
        return "\n".join(lines)

    def csv(self) -> str:
        """One line a fold."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["fold", "bundle", "recipe", *FIGURES], lineterminator="\n")
        writer.writeheader()
        for number, row in enumerate(self.figures, 1):
            named = {"fold": number, "bundle": self.bundles[number - 1].name, "recipe": self.recipes[number - 1]}
            writer.writerow(named | row)
        return text.getvalue()


def train_folds(
    cohort: Cohort,
    recipes: Sequence[Recipe],
    *,
    folds: int,
    out: str | os.PathLike,
    settings: TrainSettings | None = None,
) -> FoldsReport:
    """Train a bundle for each fold and judge it there.

    Cases of the split "test" take no part; any other split that the cohort names is left aside.

    Args:
        cohort: annotated cases.
        recipes: one for all folds, or one for each of the first folds (an ensemble of different networks).
        folds: in how many parts the patients are divided; at least 3 (one to judge on, one to choose the epoch with).
        out: folder of the bundles `fold-1` and on, and of `folds.csv`.
        settings: how to use the machine.
    """
    if folds < 3:
        raise SpecError(f"Cross-validation takes at least 3 folds, got {folds}.")
    if not 1 <= len(recipes) <= folds:
        raise SpecError(f"There is one recipe for all {folds} folds, or at most one for each, got {len(recipes)}.")
    out = Path(out)
    cohort = replace(cohort, cases=tuple(case for case in cohort if case.split != "test"))
    cohort.require()
    divided = cohort.folds(folds, balance="tumour_area", seed=recipes[0].seed)
    each = list(recipes) * folds if len(recipes) == 1 else list(recipes)
    rows, bundles = [], []
    for number, recipe in enumerate(each[:folds], 1):
        rest, held_back = divided.fold(number - 1)
        parted = rest.split(val=1 / folds, seed=recipe.seed)
        bundle = train(parted, recipe, out=out / f"fold-{number}", settings=settings)
        counts = judge(bundle, held_back, recipe)
        rows.append({name: getattr(overlap, name)(counts) for name in FIGURES})
        bundles.append(out / f"fold-{number}")
    report = FoldsReport(bundles=tuple(bundles), recipes=tuple(one.name for one in each[:folds]), figures=tuple(rows))
    fresh = out / ".folds.csv.new"
    fresh.write_text(report.csv(), encoding="utf-8")
    fresh.replace(out / "folds.csv")
    return report


def judge(bundle: Bundle, cohort: Cohort, recipe: Recipe) -> Counts:
    """Count right and wrong pixels on every tissue patch of a cohort, each once; of a classifier, patches."""
    spec = bundle.spec
    pool = Pool(cohort, mpp=spec.mpp, patch=recipe.patch)
    source = PatchSource(cohort, mpp=spec.mpp, patch=recipe.patch, stain=spec.stain)
    batches = Batches(source, Grid().plan(pool), batch=recipe.batch)
    counts, lesion = Counts(), len(spec.classes) - 1
    for number in range(batches.count(0)):
        images, labels = batches.make(0, number)
        output = bundle.model.predict_on_batch(images)
        values = spec.probabilities(output[-1] if isinstance(output, list) else output)[..., -1]
        if spec.kind == "classifier":
            labels, found = patch_labels(labels, centre=recipe.centre), values[:, 0, 0]
        else:
            found = np.stack(
                [_enlarged(one, spec.output_stride)[: labels.shape[1], : labels.shape[2]] for one in values]
            )
        truth = np.where(labels == IGNORED, IGNORED, labels == lesion).astype(np.uint8)
        counts += Counts.of(found > spec.threshold, truth, ignored=IGNORED)
    return counts


def _enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    """Each value over the `factor` x `factor` pixels that it describes, as in a heatmap; bilinear between them."""
    size = values.shape[1] * factor, values.shape[0] * factor
    return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
