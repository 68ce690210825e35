"""Scores that come with a curve: FROC of detections and ROC of slides, with the bands of their resamples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from digipath.evaluation.froc import Marks, froc_of
from digipath.protocols.figures import Band, FrocFigure, RocFigure
from digipath.protocols.report import Score, Scorer

__all__ = ["SlideProbability", "froc_score", "roc_score"]


class SlideProbability(NamedTuple):
    """What is said of a slide, and whether it has a lesion in truth."""

    probability: float
    tumour: bool


def froc_score(marks: Sequence[Marks], scorer: Scorer, *, meaning: str, unit: str) -> tuple[list[Score], FrocFigure]:
    """The score of a FROC and its sensitivities, and the curve.

    Args:
        marks: Of each case.
        scorer: Draws again.
        meaning: Of the score.
        unit: What false positives are counted per.
    """
    curve, curves = froc_of(marks), []
    grid = np.geomspace(curve.points[0] / 2, curve.points[-1] * 2, 200)

    def statistic(chosen: list[Marks]) -> float:
        one = froc_of(chosen)
        if one.rules == "tiger":
            curves.append(one.sensitivities[np.searchsorted(one.fps_per_unit, grid, "right") - 1])
        else:
            curves.append(np.interp(grid, one.fps_per_unit, one.sensitivities))
        return one.score

    score = scorer("FROC score", statistic, marks, meaning)
    parts = [
        Score(f"sensitivity at {_short(point)}", value, score.of, f"at {_short(point)} false positives per {unit}")
        for point, value in zip(curve.points, curve.sensitivities_at, strict=True)
    ]
    figure = FrocFigure(
        title=f"FROC score {_worded(score)}",
        unit=unit,
        fps=tuple(curve.fps_per_unit.tolist()),
        sensitivities=tuple(curve.sensitivities.tolist()),
        points=curve.points,
        at_points=curve.sensitivities_at,
        steps=curve.rules == "tiger",
        band=Band.of(grid, curves[1:]),
    )
    return [score, *parts], figure


def _short(point: float) -> str:
    return f"1/{round(1 / point)}" if point < 1 else f"{point:g}"


def roc_score(slides: Sequence[SlideProbability], scorer: Scorer, *, meaning: str) -> tuple[Score, RocFigure | None]:
    """The area under the ROC curve of slides, and the curve; undefined and without one where all are of one kind."""
    from sklearn.metrics import roc_auc_score, roc_curve

    grid, curves = np.linspace(0, 1, 101), []

    def statistic(chosen: list[SlideProbability]) -> float:
        probability, tumour = np.array(chosen, float).T
        if tumour.min() == tumour.max():
            return math.nan
        fpr, tpr, _ = roc_curve(tumour, probability)
        curves.append(np.interp(grid, fpr, tpr))
        return roc_auc_score(tumour, probability)

    score = scorer("slide AUC", statistic, slides, meaning)
    if math.isnan(score.value):
        return score, None
    probability, tumour = np.array(slides, float).T
    fpr, tpr, _ = roc_curve(tumour, probability)
    band = Band.of(grid, curves[1:])
    return score, RocFigure(f"AUC of slides {_worded(score)}", tuple(fpr.tolist()), tuple(tpr.tolist()), band)


def _worded(score: Score) -> str:
    """A value with its interval and what it is of."""
    ends = score.interval
    between = "" if ends is None or math.isnan(ends.low) else f" (95 % interval {ends.low:.3f} to {ends.high:.3f})"
    return f"{score.value:.3f}{between}, {score.of}"
