"""How sure a score is: intervals from slides (or patients) drawn again and again, with replacement.

    bootstrap(lambda slides: dice(total(slides)), counts_of_slides)          a pooled Dice
    bootstrap(lambda marks: froc_of(marks).score, marks)                     a FROC
    bootstrap(lambda pairs: kappa_of(confusion_of(pairs)), pairs)            a kappa
    bootstrap(lambda pairs: score(a for a, _ in pairs) - score(b for _, b in pairs), list(zip(ours, theirs)))

The percentile method (Efron 1979) as CAMELYON16 and Guo et al. 2019 use it: 2,000 resamples of whole slides, and of
their scores the 2.5th and 97.5th percentile. What is drawn is a whole case, so that what belongs together stays
together. In the last line above the two methods are judged on the same slides each time.

**Undefined resamples.** A resample may have nothing to judge: no lesion for a FROC, one stage alone for kappa. Where
the statistic is NaN or raises `ResultError`, the resample is left out of the percentiles and counted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from digipath.errors import ResultError, SpecError

__all__ = ["Interval", "bootstrap"]

Case = TypeVar("Case")


@dataclass(frozen=True)
class Interval:
    """A score with its confidence interval.

    Attributes:
        value: The score of all cases.
        low: Lower end; NaN where no resample has a score.
        high: Upper end, likewise.
        level: Share of the resampled scores between the ends.
        resamples: How many were drawn.
        undefined: How many of them have no score, and are left out.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    undefined: int

    def __str__(self):
        without = f", {self.undefined:,} of them without a value" if self.undefined else ""
        return (
            f"{self.value:.4f} ({100 * self.level:g} % interval {self.low:.4f} to {self.high:.4f}; "
            f"{self.resamples:,} resamples{without})"
        )


def bootstrap(
    statistic: Callable[[list[Case]], float],
    cases: Sequence[Case],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The interval of any score of cases.

    Args:
        statistic: A score of a list of cases, in which one may be several times; NaN or `ResultError` where it has
            none. Of all cases it is worked out first, and what it raises then is raised.
        cases: One for each slide or patient: counts, marks, pairs, or whatever the statistic takes.
        resamples: How many times as many cases are drawn.
        seed: The same seed draws the same; more resamples begin with the same ones.
        level: Share of the resampled scores between the ends; 0.95 is from 2.5 % to 97.5 %.

    Example:
        >>> str(bootstrap(lambda cases: sum(cases) / len(cases), [0.7, 0.8, 0.9, 1.0], resamples=500))
        '0.8500 (95 % interval 0.7500 to 0.9500; 500 resamples)'
    """
    cases = list(cases)
    if not cases:
        raise SpecError("a bootstrap draws from cases, and there is none. Evaluate at least one slide.")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise SpecError(f"resamples is a whole number from 1 on, got {resamples!r}. Papers take 2,000.")
    if not 0 < level < 1:
        raise SpecError(f"level is a share between 0 and 1, got {level}. For 95 %, write 0.95.")
    value, stream = float(statistic(cases)), np.random.default_rng(seed)
    drawn = (stream.integers(len(cases), size=len(cases)).tolist() for _ in range(resamples))
    scores = np.array([_score(statistic, [cases[i] for i in chosen]) for chosen in drawn])
    found = scores[~np.isnan(scores)]
    tails = (50 * (1 - level), 50 * (1 + level))
    low, high = np.percentile(found, tails).tolist() if found.size else (math.nan, math.nan)
    return Interval(value, low, high, level, resamples, resamples - found.size)


def _score(statistic: Callable[[list[Case]], float], cases: list[Case]) -> float:
    try:
        return float(statistic(cases))
    except ResultError:
        return math.nan
