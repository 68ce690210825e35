"""Free-response ROC: how many lesions are found at how many false positives, as challenges count them.

    froc(cases).score                                    CAMELYON16's, from an iterable that is gone through once
    marks = [mark(case) for case in cases]               small: scores alone, to be kept and drawn again
    froc_of(marks)

**camelyon16** is the organisers' `Evaluation_FROC.py` (commit 04faac5), quirks included. Images without a result file
do not exist. Each detection outside of lesions is a false positive; a lesion has the highest probability in it;
isolated tumour cells are neither. A lesion that is missed, and each isolated tumour cell, sits at score 0. Thresholds
are all scores but the smallest, which is lost: usually it is such a 0, but where nothing is missed it is a real one, so
that a faultless detector scores less than 1. Then (0, 0) is added. The score is the mean of sensitivities at 1/4, 1/2,
1, 2, 4 and 8 false positives per image, interpolated linearly. One thing is not theirs: they round scores of lesions,
and of these alone, to single precision, so that a false positive and a lesion at a same 0.8 are not the same, and which
comes first depends on NumPy's version; here they are the same.

**tiger** is the organisers' `eval_det_froc_snippet.py`: detections of points (cells), at most 4 um from one (8 pixels
of 0.5 um). Point by point, in their order, the nearest detection that is not taken is a hit (`score_detection` of
evalutils); detections that are left are false positives, counted per mm2. At 10, 20, 50, 100, 200 and 300 per mm2 the
sensitivity is that of the largest number of false positives not above it; (0, 0) is put before the curve.

**plain** has no quirks: all images count, a missing result is one without detections, all scores are
thresholds, and (0, 0) begins the curve. Points of the score and interpolation are CAMELYON16's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from digipath.errors import ResultError, SpecError
from digipath.evaluation.lesions import Lesions
from digipath.geometry.detections import Detection, detection_array

__all__ = ["RULES", "Froc", "FrocCase", "Marks", "Points", "froc", "froc_of", "mark"]

RULES = ("camelyon16", "tiger", "plain")

_PER_IMAGE = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PER_MM2 = (10.0, 20.0, 50.0, 100.0, 200.0, 300.0)


@dataclass(frozen=True)
class Points:
    """Cells to be found.

    Attributes:
        xy: (n, 2) positions in level-0 pixels; their order decides who takes a detection that is near to two.
        mpp: Micrometres per level-0 pixel.
        hit_um: A detection up to this far from a point may hit it. TIGER's 8 pixels at 0.5 um per pixel.
    """

    xy: np.ndarray
    mpp: float
    hit_um: float = 4.0

    def __post_init__(self):
        object.__setattr__(self, "xy", np.asarray(self.xy, float).reshape(-1, 2))
        if not np.isfinite(self.xy).all() or not (0 < self.mpp < math.inf and 0 <= self.hit_um < math.inf):
            raise SpecError(
                "points are finite positions in level-0 pixels, with an mpp above 0 and a hit_um of at least 0; got "
                f"mpp {self.mpp}, hit_um {self.hit_um} and {int((~np.isfinite(self.xy)).any(1).sum())} not finite."
            )


@dataclass(frozen=True)
class FrocCase:
    """What a detector said about one image, and the truth.

    Attributes:
        name: Of the image, for messages.
        detections: In level-0 pixels; None where there is no result file, an empty list where the file is empty.
        truth: Its lesions or points; None for an image without any (a normal slide).
        mm2: Area that was looked at, needed with "tiger".
    """

    name: str
    detections: Sequence[Detection] | None
    truth: Lesions | Points | None
    mm2: float | None = None


@dataclass(frozen=True)
class Marks:
    """One case held against its truth: all that its part in a curve needs.

    Attributes:
        name: Of the image.
        rules: One of `RULES`.
        false: Scores of the false positives.
        hits: Scores of what was found; with "camelyon16" of every lesion, 0 where missed or isolated tumour cells.
        to_find: How many lesions or points should be found.
        units: What false positives are counted per: 1 image (0 of an image that does not exist), or mm2.
    """

    name: str
    rules: str
    false: np.ndarray
    hits: np.ndarray
    to_find: int
    units: float


@dataclass(frozen=True)
class Froc:
    """A curve, with false positives growing.

    Attributes:
        rules: One of `RULES`.
        fps_per_unit: (n,) false positives per image, or per mm2 with "tiger".
        sensitivities: (n,) share of lesions or points found.
        thresholds: (n,) detections from this probability on count; infinite at (0, 0).
        points: False positives per unit at which the score is taken.
        sensitivities_at: The sensitivity at each of them.
        score: Their mean.
        to_find: How many lesions or points there are.
        units: How many images, or mm2.
    """

    rules: str
    fps_per_unit: np.ndarray
    sensitivities: np.ndarray
    thresholds: np.ndarray
    points: tuple[float, ...]
    sensitivities_at: tuple[float, ...]
    score: float
    to_find: int
    units: float


def froc(cases: Iterable[FrocCase], *, rules: str = "camelyon16") -> Froc:
    """The curve and score of a detector over images; the module says what each rule means.

    Args:
        cases: Gone through once, and none is kept: a generator needs the truth of one slide at a time.
        rules: One of `RULES`.

    Example:
        >>> truth = Points([[10, 10], [90, 90]], mpp=0.5)
        >>> cases = [FrocCase("roi", [Detection(0.9, 12, 10), Detection(0.8, 50, 50)], truth, mm2=0.1)]
        >>> froc(cases, rules="tiger").sensitivities_at
        (0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    """
    return froc_of(mark(case, rules=rules) for case in cases)


def mark(case: FrocCase, *, rules: str = "camelyon16") -> Marks:
    """What of one case is found and what is false, by the rules."""
    _check(case, rules)
    found = detection_array(case.detections or ())
    if case.truth is None:
        false, hits, to_find = found[:, 0], np.zeros(0), 0
    elif isinstance(case.truth, Points):
        false, hits = _mark_points(found, case.truth)
        to_find = len(case.truth.xy)
    else:
        try:
            false, hits = _mark_lesions(found, case.truth, rules)
        except ResultError as error:
            raise ResultError(f"{case.name}: {error}") from error
        to_find = case.truth.to_find
    if rules == "camelyon16" and case.detections is None:
        return Marks(case.name, rules, np.zeros(0), np.zeros(0), 0, 0)
    return Marks(case.name, rules, false, hits, to_find, case.mm2 if rules == "tiger" else 1)


def _check(case: FrocCase, rules: str) -> None:
    if rules not in RULES:
        raise SpecError(f"rules are one of {', '.join(RULES)}, got {rules!r}.")
    wrong = {"tiger": Lesions, "camelyon16": Points}.get(rules)
    if wrong is not None and isinstance(case.truth, wrong):
        raise SpecError(
            f"{case.name}: the truth of 'tiger' is Points and that of 'camelyon16' Lesions, got "
            f"{type(case.truth).__name__} with {rules!r}. rules='plain' takes both."
        )
    if rules == "tiger" and not (case.mm2 is not None and 0 < case.mm2 < math.inf):
        raise SpecError(
            f"{case.name}: 'tiger' counts false positives per mm2 and needs an area above 0, got {case.mm2}."
        )


def _mark_lesions(found: np.ndarray, lesions: Lesions, rules: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of false positives, and of lesions."""
    lesion = lesions.at(found[:, 1:])
    best = np.full(len(lesions) + 1, -1.0)
    np.maximum.at(best, lesion, found[:, 0])
    best[sorted(lesions.itc)] = -1
    hits = best[1:]
    return found[lesion == 0, 0], np.maximum(hits, 0) if rules == "camelyon16" else hits[hits >= 0]


def _mark_points(found: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Scores at which there is one more false positive, and one more point is found.

    At each threshold the points choose in their order the nearest detection that is left. When one more detection is
    let in, the first point that prefers it takes it and sets free the one it had, for the points after it; so one at a
    time they are passed on until a point without any takes one (a hit more) or nobody does (a false positive more).
    """
    found = found[np.argsort(-found[:, 0], kind="stable")]
    if not len(found) or not len(points.xy):
        return found[:, 0], np.zeros(0)
    near = cKDTree(points.xy).query_ball_point(found[:, 1:], points.hit_um / points.mpp, return_sorted=True)
    taken: dict[int, tuple[float, int]] = {}
    is_hit = np.zeros(len(found), bool)
    for newest in range(len(found)):
        free, last = newest, -1
        while free is not None:
            place, free_before = found[free, 1:], free
            free = None
            for point in near[free_before]:
                offer = (math.dist(place, points.xy[point]), free_before)
                if point > last and (point not in taken or offer < taken[point]):
                    is_hit[newest] = point not in taken
                    free, last = taken.get(point, (0, None))[1], point
                    taken[point] = offer
                    break
    return found[~is_hit, 0], found[is_hit, 0]


def froc_of(marks: Iterable[Marks]) -> Froc:
    """The curve and score of cases that were marked by the same rules, in any order, also several times the same."""
    marks = list(marks)
    rules = {one.rules for one in marks}
    if len(rules) != 1:
        raise SpecError(f"a curve is made of cases marked by the same rules, got {', '.join(sorted(rules)) or 'none'}.")
    rule, to_find, units = rules.pop(), sum(one.to_find for one in marks), math.fsum(one.units for one in marks)
    if not to_find:
        raise ResultError(
            "a FROC needs something to be found; the truth of these cases (with 'camelyon16', of those with a result) "
            "has no lesion but isolated tumour cells, and no point."
        )
    false = np.concatenate([one.false for one in marks])
    hits = np.concatenate([one.hits for one in marks])
    thresholds = np.unique(np.concatenate([false, hits]))
    thresholds = thresholds[1:] if rule == "camelyon16" else thresholds
    fps = np.append(_from(false, thresholds), 0)[::-1] / units
    tps = np.append(_from(hits, thresholds), 0)[::-1] / to_find
    points = _PER_MM2 if rule == "tiger" else _PER_IMAGE
    at = tps[np.searchsorted(fps, points, "right") - 1] if rule == "tiger" else np.interp(points, fps, tps)
    thresholds = np.append(thresholds, np.inf)[::-1]
    return Froc(rule, fps, tps, thresholds, points, tuple(at.tolist()), float(np.mean(at)), to_find, units)


def _from(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many scores are at least each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, "left")
