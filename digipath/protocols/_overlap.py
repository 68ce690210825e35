"""What the protocols of masks share: tallies of all slides, and scores of them that are quick to draw again."""

from collections.abc import Callable, Sequence

import numpy as np

from digipath.evaluation.overlap import Counts, total
from digipath.protocols.figures import ConfusionFigure
from digipath.protocols.matching import Partner
from digipath.protocols.pixelwise import Tally, pairs, tally
from digipath.protocols.report import Score, Scorer
from digipath.protocols.settings import EvaluationSettings

__all__ = ["confusion", "pooled", "row_of", "tally_slides", "told"]

_NAMES = ("tp", "fp", "fn", "tn")


def tally_slides(slides: Sequence[Partner], settings: EvaluationSettings) -> dict[str, Tally]:
    """The counts of each slide by its key, in the order of the slides; a normal one is all other in truth."""
    found = {slide.key: tally(pair) for slide, pair in pairs(slides, settings)}
    return {slide.key: found[slide.key] for slide in slides}


def pooled(
    scorer: Scorer, name: str, measure: Callable[[Counts], float], images: Sequence[Counts], *, meaning: str
) -> Score:
    """A measure of all pixels of all images together."""
    rows = [np.array([getattr(counts, part) for part in _NAMES], np.int64) for counts in images]

    def statistic(chosen: list[np.ndarray]) -> float:
        return measure(Counts(**dict(zip(_NAMES, np.sum(chosen, axis=0).tolist(), strict=True))))

    return scorer(name, statistic, rows, meaning)


def row_of(found: Tally, **measures: float) -> dict:
    """What a report tells of one slide."""
    counts = found.counts
    pixels = {name: getattr(counts, name) for name in (*_NAMES, "ignored", "uncovered")}
    return {"slide": found.name, **measures, **pixels, "mpp": found.mpp}


def told(tallies: Sequence[Tally]) -> list[str]:
    """A line where pixels do not count, and where those of some slides are larger than those of others."""
    counts, notes = total(one.counts for one in tallies), []
    pixels = counts.pixels + counts.ignored + counts.uncovered
    if counts.ignored or counts.uncovered:
        notes.append(
            f"left out are {counts.ignored:,} pixels that the truth ignores ({counts.ignored / pixels:.2%}) and "
            f"{counts.uncovered:,} that a result does not cover ({counts.uncovered / pixels:.2%})."
        )
    low, high = min((one.mpp for one in tallies), default=1), max((one.mpp for one in tallies), default=1)
    if high > 1.01 * low:
        notes.append(
            f"slides are compared at {low:.4g} to {high:.4g} um per pixel, and pooled every pixel weighs the same. For "
            "one resolution, set compare_mpp (--compare-mpp)."
        )
    return notes


def confusion(counts: Counts, *, title: str, what: str = "pixels") -> ConfusionFigure:
    """The four counts as a picture."""
    matrix = ((counts.tn, counts.fp), (counts.fn, counts.tp))
    return ConfusionFigure(title, ("other", "lesion"), matrix, what)
