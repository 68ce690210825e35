"""TIGER: Dice of tumour and stroma over regions of interest, and FROC of lymphocytes (see docs/evaluation)."""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from digipath.data.labels import LabelSource
from digipath.errors import ResultError
from digipath.evaluation.challenges import tiger_counts
from digipath.evaluation.froc import FrocCase, Marks, Points, mark
from digipath.evaluation.overlap import Counts, dice
from digipath.geometry.frame import Box, Frame
from digipath.io.annotations import read_annotations
from digipath.io.detections import read_detections
from digipath.protocols._overlap import pooled
from digipath.protocols.curves import froc_score
from digipath.protocols.figures import ReportFigure
from digipath.protocols.files import Entry, Found, chosen, find, listing
from digipath.protocols.pixelwise import boxes, opened
from digipath.protocols.places import Classes, labels_of, mask_frame, place_of
from digipath.protocols.report import Report, Score, Scorer
from digipath.protocols.settings import EvaluationSettings
from digipath.protocols.tables import read_columns, read_numbers
from digipath.segmentation import Segmentation

__all__ = ["LABELS", "tiger"]

LABELS = (
    "none",
    "invasive tumor",
    "tumor-associated stroma",
    "in-situ tumor",
    "healthy glands",
    "necrosis not in-situ",
    "inflamed stroma",
    "rest",
)
"""TIGER's labels in their order; 0 is not annotated."""

_AREAS = "areas.csv"
_MPP = 0.5
# Classes of a heatmap that mean the same, beside `LABELS`.
_ALSO = {"tumor": 1, "tumour": 1, "invasive tumour": 1, "stroma": 2, "tumour-associated stroma": 2, "other": 0}
_DICE = "against the rest, of the annotated pixels of all regions together"
_FROC = "mean sensitivity at 10, 20, 50, 100, 200 and 300 false positives per mm2, hits within 4 um"


@dataclass(frozen=True)
class _Part:
    """Scores, rows and figures of one of the two tasks."""

    scores: list[Score]
    rows: dict[str, dict]
    drawings: dict[str, ReportFigure]
    notes: list[str]


def tiger(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge tissue labels and lymphocytes in regions of interest as TIGER does.

    Args:
        truth: Folder with masks of labels 0 to 7, `NAME.png` or `.tif`, for segmentation; and with points, `NAME.csv`
            (`x,y` in level-0 pixels), GeoJSON or ASAP's XML, for detection. `areas.csv` (`name,mm2`) gives the areas of
            regions without a mask.
        predictions: Folder with masks of labels, or result folders with the classes of `LABELS`; and with detections,
            `NAME.csv` (`probability,x,y`). One task may be left out, but none of its regions.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    truths = find(Path(truth), kinds=("mask", "outlines", "table"), tables=(_AREAS,))
    found = find(Path(predictions), kinds=("result", "mask", "table"))
    tasks = (_segmentation(truths, found, settings), _detection(truths, found, settings))
    if not any(task.scores for task in tasks):
        raise ResultError(
            f"{found.root} holds masks of labels, result folders or detections (NAME.csv) of the regions in "
            f"{truths.root}; it holds none of them. {' '.join(note for task in tasks for note in task.notes)}"
        )
    names = sorted({name for task in tasks for name in task.rows})
    rows = tuple({"region": name, **tasks[0].rows.get(name, {}), **tasks[1].rows.get(name, {})} for name in names)
    scores = tuple(score for task in tasks for score in task.scores)
    notes = tuple(note for task in tasks for note in task.notes)
    drawings = tasks[0].drawings | tasks[1].drawings
    return Report("tiger", scores, rows, (*notes, *_passed_over(truths, found)), settings, drawings)


def _passed_over(*folders: Found) -> list[str]:
    return [f"passed over in {each.root.name}: {listing(each.passed_over)}." for each in folders if each.passed_over]


def _matched(
    task: str, truth: dict[str, Entry], found: dict[str, Entry], settings: EvaluationSettings
) -> tuple[list[tuple[Entry, Entry]], list[str]]:
    """Truth and prediction of each region of a task, and notes; an empty list where the task was left out."""
    truth = {key: entry for key, entry in truth.items() if not chosen(entry.name, settings.exclude)}
    found = {key: entry for key, entry in found.items() if not chosen(entry.name, settings.exclude)}
    both = [(entry, found[key]) for key, entry in truth.items() if key in found]
    if not both:
        return [], [f"no {task}: {len(truth)} regions have a truth and {len(found)} a prediction, none of them both."]
    if missing := [entry.name for key, entry in truth.items() if key not in found]:
        raise ResultError(f"each region of a task has a prediction; for {task}, {listing(missing)} have none.")
    unknown = [entry.name for key, entry in found.items() if key not in truth]
    return both, [f"{task}: {listing(unknown)} have no truth and do not count."] if unknown else []


def _segmentation(truths: Found, found: Found, settings: EvaluationSettings) -> _Part:
    both, notes = _matched("segmentation", truths.by_name("mask"), found.by_name("result", "mask"), settings)
    if not both:
        return _Part([], {}, {}, notes)
    counts = {truth.name: _counts(truth, prediction, settings) for truth, prediction in both}
    scorer = Scorer(settings, unit="regions")
    scores, rows = [], {name: {} for name in counts}
    for place, what in enumerate(("tumour", "stroma")):
        of_regions = [each[place] for each in counts.values()]
        scores.append(pooled(scorer, f"Dice of {what}", dice, of_regions, meaning=_DICE))
        for name, each in counts.items():
            rows[name] |= {f"dice_{what}": dice(each[place], empty=math.nan), f"{what}_pixels": each[place].lesion}
    return _Part(scores, rows, {}, notes)


def _counts(truth: Entry, prediction: Entry, settings: EvaluationSettings) -> tuple[Counts, Counts]:
    """Of tumour and stroma in one region, strip by strip."""
    with ExitStack() as stack:
        result = opened(prediction, settings)
        stack.callback(result.close) if isinstance(result, Segmentation) else None
        place = place_of(truth, result, settings, mpp=_MPP)
        labels = _labels(truth, place, settings.truth_values, stack)
        said = result
        if isinstance(result, Entry):
            said = _labels(result, place, settings.prediction_values, stack)
        frame = mask_frame(truth.path, place) if settings.compare_mpp is None else place.at(settings.compare_mpp)
        tumour, stroma = Counts(), Counts()
        for box in boxes(frame):
            more = tiger_counts(_predicted(said, box, frame), _zero(labels.read(box, frame)))
            tumour, stroma = tumour + more[0], stroma + more[1]
        return tumour, stroma


def _labels(entry: Entry, place: Frame, values, stack: ExitStack) -> LabelSource:
    labels = labels_of(entry, place, Classes(LABELS, mask_values=values or dict(enumerate(LABELS))))
    stack.callback(labels.close)
    return labels


def _zero(labels: np.ndarray) -> np.ndarray:
    """Pixels to be ignored as TIGER's 0."""
    return np.where(labels < len(LABELS), labels, 0).astype(np.uint8)


def _predicted(said: Segmentation | LabelSource, box: Box, frame: Frame) -> np.ndarray:
    if not isinstance(said, Segmentation):
        return _zero(said.read(box, frame))
    known = dict(zip(LABELS, range(len(LABELS)), strict=True)) | _ALSO
    meaning = [known.get(name.lower()) for name in said.classes]
    if unknown := [name for name, label in zip(said.classes, meaning, strict=True) if label is None]:
        raise ResultError(
            f"a result's classes are among {', '.join(sorted(known))} to be judged as TIGER's; got {listing(unknown)}."
        )
    best = np.array(meaning, np.uint8)[said.heatmap.sample(box, frame).argmax(-1)]
    return np.where(said.covered.sample(box, frame), best, 0).astype(np.uint8)


def _detection(truths: Found, found: Found, settings: EvaluationSettings) -> _Part:
    both, notes = _matched("detection", truths.by_name("outlines", "table"), found.by_name("table"), settings)
    if not both:
        return _Part([], {}, {}, notes)
    areas = read_numbers(truths.tables[_AREAS], "mm2", ways=("area", "area_mm2")) if _AREAS in truths.tables else {}
    masks = truths.by_name("mask")
    marks = [_mark(truth, said, (masks.get(truth.key), areas.get(truth.key)), settings) for truth, said in both]
    scores, figure = froc_score(marks, Scorer(settings, unit="regions"), meaning=_FROC, unit="mm2")
    return _Part(scores, {one.name: _row(one) for one in marks}, {"froc": figure}, notes)


def _row(one: Marks) -> dict:
    return {"cells": one.to_find, "found": len(one.hits), "false_positives": len(one.false), "mm2": one.units}


def _mark(truth: Entry, said: Entry, area: tuple[Entry | None, float | None], settings: EvaluationSettings) -> Marks:
    mask, mm2 = area
    if mm2 is None and mask is None:
        raise ResultError(
            f"region {truth.name!r}: false positives are counted per mm2, so its mask or its area in {_AREAS} "
            "(name,mm2) is needed beside its points."
        )
    mpp = settings.mpp or _MPP
    if mask is not None:  # it knows how large pixels are also where a table tells the area
        place = place_of(mask, None, settings, mpp=mpp)
        mpp, mm2 = place.mpp, place.box.area * place.pixel_mm2 if mm2 is None else mm2
    xy = _points(truth)
    return mark(FrocCase(truth.name, read_detections(said.path), Points(xy, mpp), mm2), rules="tiger")


def _points(truth: Entry) -> Sequence[tuple[float, float]]:
    if truth.kind == "outlines":
        points = [one.geometry for one in read_annotations(truth.path) if not one.has_area]
        return shapely.get_coordinates(points)
    rows, found = read_columns(truth.path, {"x": ("x",), "y": ("y",)}), []
    for row in rows:
        try:
            found.append((float(row["x"]), float(row["y"])))
        except (KeyError, ValueError):
            raise ResultError(f"{truth.path}, line {row['line']}: a point is x,y in level-0 pixels.") from None
    return found
