"""DigestPath 2019, task 2: Dice of lesions, in each of its readings, and AUC of slides (see docs/evaluation)."""

import math
import os
from pathlib import Path

from digipath.evaluation.challenges import digestpath_dice
from digipath.evaluation.overlap import dice, total
from digipath.protocols._overlap import confusion, pooled, row_of, told
from digipath.protocols.curves import SlideProbability, roc_score
from digipath.protocols.files import find
from digipath.protocols.matching import REFERENCE, SCORES, Partner, partners, require_all, slide_scores
from digipath.protocols.pixelwise import Pair, Tally, highest, pairs, tally
from digipath.protocols.report import Report, Scorer
from digipath.protocols.settings import EvaluationSettings
from digipath.segmentation import Segmentation

__all__ = ["digestpath"]

_AUC = "area under the ROC curve of images, the highest probability of each"


def digestpath(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge lesion masks and slide probabilities as DigestPath's second task does.

    Args:
        truth: Folder of masks or outlines, one for each image with lesions; normal images as with `camelyon16`.
        predictions: Folder of result folders, or of masks or outlines with `slide_scores.csv` (`name,probability`)
            beside them; none may be missing.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    truths = find(Path(truth), kinds=("mask", "outlines"), tables=(REFERENCE,))
    found = find(Path(predictions), kinds=("result", "mask", "outlines"), tables=(SCORES,))
    matched = partners(truths, found, settings)
    require_all(matched, found)
    said = slide_scores(matched, found, settings)
    judged = (_judge(slide, pair, said) for slide, pair in pairs(matched.slides, settings))
    judged = sorted(judged, key=lambda one: one[0].name.casefold())
    tallies, scorer = [one for one, _ in judged], Scorer(settings, unit="images")
    images, known = [one.counts for one in tallies], [one for _, one in judged if not math.isnan(one.probability)]
    scores = [
        scorer.mean("Dice (per image)", [dice(one) for one in images], "mean; an image without any lesion has 1"),
        scorer.mean(
            "Dice (per image with lesion)",
            [dice(one, empty=math.nan) for one in images],
            "mean over the images that have a lesion in truth or prediction",
        ),
        pooled(scorer, "Dice (pooled)", dice, images, meaning="of the pixels of all images together"),
    ]
    notes, drawings = told(tallies), {"confusion": confusion(total(images), title=f"pixels of {scores[0].of}")}
    notes.append(f"{digestpath_dice(images).lesions.left_out} images have no lesion in truth and prediction.")
    if len(known) == len(judged):
        auc, roc = roc_score(known, scorer, meaning=_AUC)
        scores.append(auc)
        drawings |= {} if roc is None else {"roc": roc}
    else:
        notes.append(f"no AUC: {len(judged) - len(known)} images have no probability; give them in {SCORES}.")
    rows = tuple(row_of(one, dice=dice(one.counts), **slide._asdict()) for one, slide in judged)
    return Report("digestpath", tuple(scores), rows, (*notes, *matched.notes), settings, drawings)


def _judge(slide: Partner, pair: Pair, said: dict[str, float] | None) -> tuple[Tally, SlideProbability]:
    found, probability = tally(pair), math.nan
    if said is not None:
        probability = said[slide.key]
    elif isinstance(pair.prediction, Segmentation):
        probability = highest(pair.prediction, pair.settings)
    return found, SlideProbability(probability, found.tumour)
