"""Pixels: every measure of overlap, pooled and per image, mIoU and Tumor-mIoU, and how calibrated probabilities are."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from digipath.evaluation import overlap
from digipath.evaluation.calibration import Calibration
from digipath.protocols._overlap import confusion, pooled, row_of, tally_slides, told
from digipath.protocols.figures import ReliabilityFigure
from digipath.protocols.files import find
from digipath.protocols.matching import REFERENCE, partners, require_all
from digipath.protocols.pixelwise import Tally
from digipath.protocols.report import Report, Score, Scorer
from digipath.protocols.settings import EvaluationSettings

__all__ = ["pixels"]

_MEASURES = {
    "Dice": (overlap.dice, "2 TP / (2 TP + FP + FN)"),
    "IoU": (overlap.iou, "TP / (TP + FP + FN)"),
    "accuracy": (overlap.accuracy, "(TP + TN) / all"),
    "sensitivity": (overlap.sensitivity, "TP / (TP + FN)"),
    "specificity": (overlap.specificity, "TN / (TN + FP)"),
    "precision": (overlap.precision, "TP / (TP + FP)"),
    "F1.5": (overlap.f_beta, "F_beta, beta = 1.5"),
}


def pixels(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge masks or heatmaps by their overlap with the truth.

    Args:
        truth: Folder of masks or outlines, one for each slide; normal slides as with `camelyon16`.
        predictions: Folder of result folders, masks or outlines; none may be missing.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    truths = find(Path(truth), kinds=("mask", "outlines"), tables=(REFERENCE,))
    found = find(Path(predictions), kinds=("result", "mask", "outlines"))
    matched = partners(truths, found, settings)
    require_all(matched, found)
    tallies = list(tally_slides(matched.slides, settings).values())
    scorer, images = Scorer(settings), [one.counts for one in tallies]
    scores = [*_pooled(scorer, images), *_per_image(scorer, images), *_ece(scorer, tallies)]
    drawings = {"confusion": confusion(overlap.total(images), title=f"pixels of {scores[0].of}")}
    calibration = sum((one.calibration for one in tallies), Calibration())
    if calibration.pixels.any():
        drawings["reliability"] = ReliabilityFigure(
            f"expected calibration error {calibration.ece:.4f}, {int(calibration.pixels.sum()):,} pixels",
            tuple(calibration.table),
        )
    rows = tuple(_row(one) for one in tallies)
    return Report("pixels", tuple(scores), rows, (*told(tallies), *matched.notes), settings, drawings)


def _pooled(scorer: Scorer, images: Sequence[overlap.Counts]) -> list[Score]:
    return [
        pooled(scorer, f"{name} (pooled)", measure, images, meaning=f"{meaning}, of the pixels of all slides together")
        for name, (measure, meaning) in _MEASURES.items()
    ]


def _per_image(scorer: Scorer, images: Sequence[overlap.Counts]) -> list[Score]:
    rule = "mean over slides; one without lesion in truth and prediction has 1 for Dice, IoU and F, else no value"
    scores = [
        scorer.mean(f"{name} (per slide)", [measure(counts) for counts in images], f"{meaning}; {rule}")
        for name, (measure, meaning) in _MEASURES.items()
    ]
    ious = "mean over {} of the mean of the IoUs of lesion and rest (Guo et al. 2019, as read here)"
    return [
        *scores,
        scorer.mean("mIoU", [overlap.mean_iou(one) for one in images], ious.format("slides")),
        scorer.mean("Tumor-mIoU", [overlap.tumor_mean_iou(one) for one in images], ious.format("slides with lesion")),
    ]


def _ece(scorer: Scorer, tallies: Sequence[Tally]) -> list[Score]:
    """Pooled, where there are probabilities."""
    known = [one.calibration for one in tallies if one.calibration.pixels.any()]
    if not known:
        return []
    gaps = [np.stack([one.probability - one.lesion, one.pixels]) for one in known]

    def statistic(chosen: list[np.ndarray]) -> float:
        gap, count = np.sum(chosen, axis=0)
        return float(np.abs(gap).sum() / count.sum())

    meaning = "expected calibration error of the lesion's probability, 15 bins, covered pixels of all slides together"
    return [scorer("ECE", statistic, gaps, meaning)]


def _row(one: Tally) -> dict:
    measures = {name.lower(): measure(one.counts) for name, (measure, _) in _MEASURES.items()}
    measures |= {"miou": overlap.mean_iou(one.counts), "tumor_miou": overlap.tumor_mean_iou(one.counts)}
    return row_of(one, **measures, ece=one.calibration.ece if one.calibration.pixels.any() else math.nan)
