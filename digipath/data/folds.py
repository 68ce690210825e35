"""Who is in which split or fold: patients are never divided, and every part has its share of tumour.

The folds are those of Appendix 3 of the microdosimetry paper: an equal number of images in each, and roughly the same
summed area of tumour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import CohortError, SpecError

if TYPE_CHECKING:
    from digipath.data.cohort import Cohort

__all__ = ["Folds", "assign_folds", "assign_splits"]

_STARTS = 4
_SWEEPS = 100
# Of a fold, so many patients are tried for an exchange at a time.
_CANDIDATES = 400


@dataclass(frozen=True)
class Folds:
    """A cohort in k parts, each of which is judged once by what was learnt from the others.

    Attributes:
        cohort: All cases.
        numbers: For each case, its fold from 0.
        areas: For each case, its tumour area in mm2; None where it was not asked for.

    Example:
        >>> for train, val in cohort.folds(8):  # doctest: +SKIP
        ...     print(len(train), len(val))
    """

    cohort: "Cohort"
    numbers: tuple[int, ...]
    areas: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return max(self.numbers) + 1

    def __iter__(self) -> Iterator[tuple["Cohort", "Cohort"]]:
        return (self.fold(number) for number in range(len(self)))

    @property
    def folds(self) -> tuple["Cohort", ...]:
        """The cases of each fold."""
        return tuple(self._cases(number, others=False) for number in range(len(self)))

    def fold(self, number: int) -> tuple["Cohort", "Cohort"]:
        """What is learnt from, with the split "train", and fold `number`, with the split "val"."""
        if not 0 <= number < len(self):
            raise SpecError(f"the folds are numbered from 0 to {len(self) - 1}, got {number}.")
        return self._cases(number, others=True), self._cases(number, others=False)

    def _cases(self, number: int, *, others: bool) -> "Cohort":
        chosen = [case for case, fold in zip(self.cohort, self.numbers, strict=True) if (fold != number) == others]
        split = "train" if others else "val"
        return replace(self.cohort, cases=tuple(replace(case, split=split) for case in chosen))

    @property
    def table(self) -> list[dict[str, float]]:
        """For each fold: its number, cases, patients and tumour_mm2 (None where it is not known)."""
        rows = []
        for number, part in enumerate(self.folds):
            inside = np.array(self.numbers) == number
            area = None if self.areas is None else float(np.array(self.areas)[inside].sum())
            rows.append({"fold": number, "cases": len(part), "patients": len(part.patients), "tumour_mm2": area})
        return rows

    @property
    def imbalance(self) -> dict[str, float]:
        """What could not be evened out: the largest fold over the smallest, 1 for none.

        Returns:
            "cases" and, where it is known, "tumour_mm2"; infinite where a fold has no tumour and another has.
        """
        names = ("cases",) if self.areas is None else ("cases", "tumour_mm2")
        return {name: _ratio([row[name] for row in self.table]) for name in names}

    def __str__(self) -> str:
        lines = ["fold  cases  patients  tumour (mm2)"]
        for row in self.table:
            area = "-" if row["tumour_mm2"] is None else f"{row['tumour_mm2']:.4g}"
            lines.append(f"{row['fold']:>4}  {row['cases']:>5}  {row['patients']:>8}  {area:>12}")
        ratios = ", ".join(f"{name} {value:.3f}" for name, value in self.imbalance.items())
        return "\n".join([*lines, f"largest over smallest: {ratios}"])


def _ratio(values: Sequence[float]) -> float:
    low, high = min(values), max(values)
    return 1.0 if low == high else float(high / low) if low else float("inf")


def assign_splits(
    patients: Sequence[str], with_tumour: Sequence[bool], *, shares: tuple[float, float], seed: int
) -> list[str]:
    """For each case "train", "val" or "test".

    Args:
        patients: Of each case.
        with_tumour: Whether each case shows any; a patient does where one of the cases does.
        shares: Of the cases that go to "val" and to "test".
        seed: Another number, another split.
    """
    val, test = shares
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise SpecError(f"val and test are shares of the cases that leave some for training, got {val} and {test}.")
    names, owner = np.unique(np.array(patients, str), return_inverse=True)
    wanted = {"train": 1 - val - test, "val": val, "test": test}
    wanted = {name: share for name, share in wanted.items() if share > 0}
    if len(names) < len(wanted):
        raise CohortError(
            f"a patient is in one split, so {len(wanted)} splits need {len(wanted)} patients, got {len(names)}."
        )
    sizes, rng = np.bincount(owner), np.random.default_rng(seed)
    tumour = np.bincount(owner, weights=np.asarray(with_tumour, float)) > 0
    shuffled = rng.permutation(len(names))
    order = np.concatenate([shuffled[tumour[shuffled]], shuffled[~tumour[shuffled]]])
    chosen = _dealt(order, sizes, tumour, np.array(list(wanted.values())))
    return [list(wanted)[chosen[patient]] for patient in owner]


def _dealt(order: np.ndarray, sizes: np.ndarray, tumour: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """For each patient the split that lacked most; what one group leaves over, the next makes up for."""
    chosen, lacking = np.zeros(len(order), int), np.zeros(len(shares))
    for group in (True, False):
        members = order[tumour[order] == group]
        lacking += shares * sizes[members].sum()
        for patient in members:
            chosen[patient] = int(lacking.argmax())
            lacking[chosen[patient]] -= sizes[patient]
    for empty in np.flatnonzero(np.bincount(chosen, minlength=len(shares)) == 0):
        crowd = np.flatnonzero(chosen == np.bincount(chosen, minlength=len(shares)).argmax())
        chosen[crowd[sizes[crowd].argmin()]] = empty
    return chosen


def assign_folds(patients: Sequence[str], areas: np.ndarray, *, k: int, seed: int) -> np.ndarray:
    """(cases,) fold of each case.

    Patients are dealt out, the largest first, to the fold that has the fewest cases and then the least area; then
    patients change places between two folds as long as that evens out their cases, or else their areas.

    Args:
        patients: Of each case.
        areas: Of each case; what is evened out beside the number of cases.
        k: How many folds.
        seed: Another number, other folds.
    """
    names, owner = np.unique(np.array(patients, str), return_inverse=True)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 2 <= k <= len(names):
        raise CohortError(
            f"folds are at least 2 and at most as many as there are patients, {len(names)}, who are never divided; "
            f"got {k!r}."
        )
    load = _Load(np.bincount(owner), np.bincount(owner, weights=areas), int(k))
    best = None
    for start in range(_STARTS):
        rng = np.random.default_rng([seed, start])
        fold = load.improved(load.dealt(rng), rng)
        if best is None or load.cost(fold) < load.cost(best):
            best = fold
    return best[owner]


@dataclass(frozen=True)
class _Load:
    """Cases and area of each patient, to be spread over k folds."""

    sizes: np.ndarray
    areas: np.ndarray
    k: int

    def dealt(self, rng: np.random.Generator) -> np.ndarray:
        shuffled = rng.permutation(len(self.sizes))
        order = shuffled[np.lexsort((-self.areas[shuffled], -self.sizes[shuffled]))]
        cases, area = np.zeros(self.k), np.zeros(self.k)
        fold = np.zeros(len(order), int)
        for patient in order:
            fold[patient] = np.lexsort((area, cases))[0]
            cases[fold[patient]] += self.sizes[patient]
            area[fold[patient]] += self.areas[patient]
        return fold

    def uneven(self, cases: np.ndarray, area: np.ndarray) -> np.ndarray:
        """How far folds are from the mean: cases, beyond one that cannot be avoided, count before any area."""
        mean, total = self.sizes.sum() / self.k, self.areas.sum()
        beyond = np.maximum(0, np.maximum(np.floor(mean) - cases, cases - np.ceil(mean)))
        return 1e4 * self.k**2 * beyond**2 + ((area * self.k / total - 1) ** 2 if total > 0 else 0)

    def totals(self, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.bincount(fold, weights=each, minlength=self.k) for each in (self.sizes, self.areas))

    def cost(self, fold: np.ndarray) -> float:
        return float(self.uneven(*self.totals(fold)).sum())

    def improved(self, fold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fold = fold.copy()
        for _ in range(_SWEEPS):
            if not sum(self._exchange(fold, pair, rng) for pair in combinations(range(self.k), 2)):
                break
        return fold

    def _exchange(self, fold: np.ndarray, pair: tuple[int, int], rng: np.random.Generator) -> bool:
        """The best exchange of a patient of one fold for one of the other, or for none, if it helps."""
        members = [np.flatnonzero(fold == number) for number in pair]
        some = [rng.permutation(each)[:_CANDIDATES] for each in members]
        cases, area = (totals[list(pair)] for totals in self.totals(fold))
        gained = [
            np.append(values[some[1]], 0)[None, :] - np.append(values[some[0]], 0)[:, None]
            for values in (self.sizes, self.areas)
        ]
        cost = sum(
            self.uneven(cases[side] + sign * gained[0], area[side] + sign * gained[1])
            for side, sign in ((0, 1), (1, -1))
        )
        if len(members[0]) == 1:
            cost[:-1, -1] = np.inf
        if len(members[1]) == 1:
            cost[-1, :-1] = np.inf
        first, second = np.unravel_index(cost.argmin(), cost.shape)
        if not cost[first, second] < self.uneven(cases, area).sum() * (1 - 1e-9):
            return False
        if first < len(some[0]):
            fold[some[0][first]] = pair[1]
        if second < len(some[1]):
            fold[some[1][second]] = pair[0]
        return True
