"""CAMELYON16: FROC of lesions and AUC of slides, by the rules of the organisers' `Evaluation_FROC.py`."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digipath.errors import ResultError
from digipath.evaluation.detection import detections_by_maxima, detections_by_region
from digipath.evaluation.froc import FrocCase, Marks, mark
from digipath.evaluation.lesions import Lesions, lesion_frame, lesions_from_mask
from digipath.geometry.detections import Detection
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.detections import read_detections
from digipath.protocols.curves import SlideProbability, froc_score, roc_score
from digipath.protocols.files import Entry, find, listing
from digipath.protocols.matching import REFERENCE, SCORES, Partner, Partners, partners, slide_scores
from digipath.protocols.pixelwise import class_of, highest, opened, threshold_of
from digipath.protocols.places import Classes, labels_of, level_labels, origin_of, place_of
from digipath.protocols.report import Report, Scorer
from digipath.protocols.settings import EvaluationSettings
from digipath.segmentation import Segmentation

__all__ = ["camelyon16"]

_MPP = 0.243  # the organisers' L0_RESOLUTION
_DOWNSAMPLE = 32  # of the level that the organisers read
_ROWS = 512
_ROOM = 1024  # level-0 pixels; lesions grow by 155
_FROC = "mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives per image, by the organisers' rules"
_AUC = "area under the ROC curve of slides, the highest probability of each"


@dataclass(frozen=True)
class _Judged:
    """One slide."""

    marks: Marks
    lesions: Lesions | None
    detections: int
    probability: float

    @property
    def tumour(self) -> bool:
        return self.lesions is not None and len(self.lesions) > 0

    def row(self) -> dict:
        lesions, itc = (len(self.lesions), len(self.lesions.itc)) if self.lesions is not None else (0, 0)
        return {
            "slide": self.marks.name,
            "tumour": self.tumour,
            "lesions": lesions,
            "isolated_tumour_cells": itc,
            "to_find": self.marks.to_find,
            "found": int((self.marks.hits > 0).sum()),
            "detections": self.detections,
            "false_positives": len(self.marks.false),
            "probability": self.probability,
        }


def camelyon16(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge detections of metastases as CAMELYON16 does.

    Slides without a prediction do not count, as with the organisers, and are told.

    Args:
        truth: Folder of masks or outlines, one for each slide with tumour; `reference.csv` there, or
            `settings.normal`, names normal slides. An empty mask is one too.
        predictions: Folder of `NAME.csv` (`probability,x,y` in level-0 pixels) or of result folders, whose heatmaps
            become detections.
        settings: By default `EvaluationSettings()`.

    Raises:
        DigipathError: A file is damaged, a detection lies outside of its slide, or nothing is to be found.
    """
    settings = settings or EvaluationSettings()
    truths = find(Path(truth), kinds=("mask", "outlines"), tables=(REFERENCE,))
    found = find(Path(predictions), kinds=("result", "table"), tables=(SCORES,))
    matched = partners(truths, found, settings)
    if len(matched.missing) == len(matched.slides):
        raise ResultError(
            f"{found.root} holds NAME.csv or a result folder for slides of {truths.root}; it has "
            f"{len(matched.slides)} slides, and none of them has a prediction. {' '.join(matched.notes)}".rstrip()
        )
    scores = slide_scores(matched, found, settings)
    judged = [_judge(slide, scores, settings) for slide in matched.slides if slide.prediction is not None]
    scorer = Scorer(settings)
    frocs, curve = froc_score([one.marks for one in judged], scorer, meaning=_FROC, unit="image")
    auc, roc = roc_score([SlideProbability(one.probability, one.tumour) for one in judged], scorer, meaning=_AUC)
    drawings = {"froc": curve} | ({"roc": roc} if roc is not None else {})
    notes = (*_notes(judged, matched), *matched.notes)
    rows = tuple(one.row() for one in judged)
    return Report("camelyon16", (frocs[0], auc, *frocs[1:]), rows, notes, settings, drawings)


def _judge(slide: Partner, scores: dict[str, float] | None, settings: EvaluationSettings) -> _Judged:
    prediction = opened(slide.prediction, settings)
    try:
        detections = _detections(prediction, settings)
        lesions = None if slide.truth is None else _lesions(slide.truth, prediction, detections, settings)
        if scores is not None:
            probability = scores[slide.key]
        elif isinstance(prediction, Segmentation):
            probability = highest(prediction, settings)
        else:
            probability = max((found.probability for found in detections), default=0.0)
    finally:
        if isinstance(prediction, Segmentation):
            prediction.close()
    marks = mark(FrocCase(slide.name, detections, lesions), rules="camelyon16")
    return _Judged(marks, lesions, len(detections), probability)


def _detections(prediction: Entry | Segmentation, settings: EvaluationSettings) -> list[Detection]:
    if not isinstance(prediction, Segmentation):
        return read_detections(prediction.path)
    heatmap = prediction.heatmap.channel(prediction.classes[class_of(prediction, settings)])
    detect = {"maxima": detections_by_maxima, "regions": detections_by_region}[settings.detections]
    return detect(heatmap, threshold=threshold_of(prediction, settings), covered=prediction.covered)


def _lesions(
    truth: Entry, prediction: Entry | Segmentation, detections: list[Detection], settings: EvaluationSettings
) -> Lesions:
    result = prediction if isinstance(prediction, Segmentation) else None
    place = place_of(truth, result, settings, mpp=_MPP, detections=detections)
    if truth.kind == "outlines" and result is None and settings.slides is None:
        # Nothing tells where the slide ends: beyond the outlines there is room for lesions to grow, not cut off.
        place = Frame.level0(place.width + _ROOM, place.height + _ROOM, place.mpp)
    classes, frame = Classes(mask_values=settings.truth_values), lesion_frame(place)
    if frame.downsample == _DOWNSAMPLE:
        level = level_labels(truth, place, classes, downsample=_DOWNSAMPLE)
        if level is not None:
            return lesions_from_mask(Raster(level.values == 1, level.frame))
    labels = labels_of(truth, place, classes, origin=origin_of(result))
    try:
        return lesions_from_mask(_tumour(labels, frame))
    finally:
        labels.close()


def _tumour(labels, frame: Frame) -> Raster:
    values = np.zeros(frame.shape, bool)
    for box in frame.rows(_ROWS):
        values[box.slices()] = labels.read(box, frame) == 1
    return Raster(values, frame)


def _notes(judged: list[_Judged], matched: Partners) -> list[str]:
    notes, missing = [], matched.missing
    if missing:
        notes.append(
            f"{len(missing)} of {len(matched.slides)} slides have no prediction and do not count, as with the "
            f"organisers: {listing(missing)}."
        )
    cells = sum(len(one.lesions.itc) for one in judged if one.lesions is not None)
    lesions = sum(one.marks.to_find for one in judged)
    tumour = sum(one.tumour for one in judged)
    notes.append(
        f"{len(judged)} slides, {tumour} with tumour: {lesions} lesions to find, {cells} of isolated tumour cells."
    )
    return notes
