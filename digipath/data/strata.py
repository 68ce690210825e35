"""Re-sampling by what patches hold.

After Table 2 of Le'Clerc Arrastia et al., "Deeply supervised UNet for semantic segmentation to assist
dermatopathological assessment of basal cell carcinoma" (Journal of Imaging 7, 2021). How it is to be understood follows
from its figures. Its rows "before" add up to its total of 209,390, though T < 0.05 % and T >= 0.05 % are all there is:
the patches are 175,771 + 9,537 = 185,308, and the strata overlap, each a list of its own. A patch comes once for every
list that it is in, and each list is brought to its size by repeating its patches. Were the strata disjoint, tumour
pixels could not grow by more than the largest factor, 30,000 / 9,537 = 3.1; the unbalance of 78.48 before and 16.81
after says that they grow by 6.2 from those of the 185,308 patches (by 5.5 if 209,390 were meant). So the unbalance
before is that of the patches, and the one after is that of the epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from digipath.data.cohort import Cohort
from digipath.data.draws import EPOCH, Sampler, cycled, random_stream, sampler_of
from digipath.data.grids import Placed, place
from digipath.data.pool import Pool
from digipath.errors import SpecError

__all__ = ["BCC_TABLE", "Strata", "Stratum", "resample"]


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The patches of which a class covers at least, or below, some share; and how many of them an epoch has.

    Attributes:
        name: A class of the cohort, or an annotation class that its `groups` list; None for the cohort's last class.
        at_least: Least share of the patch's pixels that the class covers.
        below: The share that it stays below.
        count: Draws of an epoch; None to count by `factor`.
        factor: Draws of an epoch for each patch of the stratum.
        needed: Whether a cohort that does not know the class is refused; else that is told, and the stratum is empty.
    """

    name: str | None = None
    at_least: float = 0.0
    below: float = float("inf")
    count: int | None = None
    factor: float = 1.0
    needed: bool = True

    def __post_init__(self):
        if not 0 <= self.at_least < self.below:
            raise SpecError(
                f"a stratum is at_least <= share < below, shares of 1, got {self.at_least} and {self.below}. "
                "For percentages, divide by 100."
            )
        if self.at_least > 1:
            raise SpecError(f"at_least is a share of at most 1, got {self.at_least}. For percentages, divide by 100.")
        if not 0 <= self.factor < float("inf") or (self.count is not None and self.count < 0):
            raise SpecError(f"count and factor are at least 0, got {self.count} and {self.factor}.")

    def draws(self, patches: int) -> int:
        """Draws of an epoch for so many patches; none where there are no patches."""
        if not patches:
            return 0
        return round(self.factor * patches) if self.count is None else self.count

    def __str__(self) -> str:
        limits = [f">= {self.at_least:.3g}"] if self.at_least > 0 else []
        limits += [f"< {self.below:.3g}"] if self.below < float("inf") else []
        return f"{self.name or 'tumour'} {' and '.join(limits) or 'any'}"


# Table 2, as factors: they give its counts for its patches, and fit other cohorts too. Tumour nests are the last class.
BCC_TABLE = (
    Stratum(below=0.0005, factor=175_771 / 175_771),
    Stratum(at_least=0.0005, factor=30_000 / 9_537),
    Stratum(at_least=0.10, factor=10_000 / 5_528),
    Stratum(name="Stroma", at_least=0.0005, factor=20_000 / 9_096, needed=False),
    Stratum(name="Normal", at_least=0.0005, factor=20_000 / 9_458, needed=False),
)


@dataclass(frozen=True, kw_only=True)
class Strata:
    """Every patch that holds tissue, once for each stratum that it is in, and these brought to their sizes.

    The sampler's report says what became of each stratum and of the pixel unbalance, tumour-free over tumour pixels.

    Attributes:
        table: The strata; by default those of the paper.
        stride: Distance of neighbours, in pixels; by default a patch.
        tumour: Name of the tumour class; by default the cohort's last.
    """

    table: tuple[Stratum, ...] = BCC_TABLE
    stride: int | None = None
    tumour: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "table", tuple(self.table))
        if not self.table or not all(isinstance(stratum, Stratum) for stratum in self.table):
            raise SpecError("table is a tuple of at least one Stratum.")
        if self.stride is not None and self.stride < 1:
            raise SpecError(f"a stride is at least 1 pixel, or None for the side of a patch, got {self.stride}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the patches, and what each holds."""
        tumour = pool.cohort.classes[pool.index_of(self.tumour)]
        table = [replace(stratum, name=stratum.name or tumour) for stratum in self.table]
        known = [stratum for stratum in table if _is_known(stratum, pool.cohort)]
        measured = replace(pool, cohort=_finer(pool.cohort, tumour, [stratum.name for stratum in known]))
        members, report = resample(place(measured, self.stride), known, measured.cohort.classes, tumour=tumour)
        sampler = sampler_of(measured, partial(_draw, *members, seed), **report)
        told = [f"no class {each.name!r} in the cohort, so its stratum is empty" for each in table if each not in known]
        return replace(sampler, told=(*sampler.told, *dict.fromkeys(told)))


def _is_known(stratum: Stratum, cohort: Cohort) -> bool:
    names = [*cohort.classes, *(cohort.groups or ())]
    if stratum.name not in names and stratum.needed:
        raise SpecError(
            f"a stratum is of a class of the cohort, or of an annotation class that its groups list: "
            f"{', '.join(names)}; got {stratum.name!r}. List it with groups={{{stratum.name!r}: class}}."
        )
    return stratum.name in names


def _finer(cohort: Cohort, tumour: str, names: Sequence[str]) -> Cohort:
    """The same cases with each of these names a class of its own, though training takes some together."""
    if set(names) <= set(cohort.classes):
        return cohort
    apart = [name for name in dict.fromkeys(names) if name not in cohort.classes]
    groups = dict(cohort.groups or {}) | {name: name for name in apart}
    # Where areas overlap, the later class counts: the tumour, as where the cohort is trained on.
    at = cohort.classes.index(tumour)
    classes = (*cohort.classes[:at], *apart, *cohort.classes[at:])
    return replace(cohort, classes=classes, groups=groups)


def resample(
    placed: Placed, table: Sequence[Stratum], classes: Sequence[str], *, tumour: str
) -> tuple[tuple[list[np.ndarray], list[int]], dict[str, float]]:
    """The patches of each stratum with the number of its draws, and figures about both.

    Args:
        placed: Patches and their pixels of each class.
        table: Strata, each with a name among `classes`.
        classes: Names of the columns of the counts.
        tumour: The class that the unbalance is about.

    Returns:
        The draws of each stratum's patches and how many draws an epoch has of each; and the report.
    """
    shares = placed.counts / placed.area
    tumour_pixels, pixels = placed.counts[:, list(classes).index(tumour)], placed.counts.sum(1)
    members, wanted, weights, report = [], [], np.zeros(len(pixels)), placed.report(list(classes).index(tumour))
    for stratum in table:
        share = shares[:, list(classes).index(stratum.name)]
        within = np.flatnonzero((share >= stratum.at_least) & (share < stratum.below))
        members.append(placed.draws[within])
        wanted.append(stratum.draws(len(within)))
        weights[within] += wanted[-1] / max(1, len(within))
        report |= {f"{stratum} before": len(within), f"{stratum} after": wanted[-1]}
    report |= {"total before": sum(map(len, members)), "total after": sum(wanted)}
    report["pixel unbalance before"] = _unbalance(tumour_pixels, pixels, np.ones(len(pixels)))
    report["pixel unbalance after"] = _unbalance(tumour_pixels, pixels, weights)
    return (members, wanted), report


def _unbalance(tumour: np.ndarray, pixels: np.ndarray, weights: np.ndarray) -> float:
    """Tumour-free over tumour pixels; infinite without tumour."""
    inside = float(tumour @ weights)
    return (float(pixels @ weights) - inside) / inside if inside else float("inf")


def _draw(members: list[np.ndarray], wanted: list[int], seed: int, epoch: int) -> np.ndarray:
    """The draws of an epoch, in random order."""
    rng = random_stream(seed, EPOCH, epoch)
    drawn = [draws[cycled(len(draws), count, rng)] for draws, count in zip(members, wanted, strict=True)]
    return rng.permutation(np.concatenate(drawn))
