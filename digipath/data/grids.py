"""Patches at the places of a grid: for validation, and where a paper trains on all of them."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from digipath.data.draws import EPOCH, Sampler, centred, cycled, random_stream, sampler_of
from digipath.data.pool import Pool
from digipath.errors import SpecError

__all__ = ["AllTissue", "Grid", "Placed", "Tiles", "WholePatches", "place"]


@dataclass(frozen=True)
class Placed:
    """The patches of a grid.

    Attributes:
        draws: (n, 3) int64: case, x, y.
        counts: (n, classes) int64 pixels of each class.
        area: Pixels of a patch; those that are in no class are ignored or outside.
    """

    draws: np.ndarray
    counts: np.ndarray
    area: int

    def report(self, tumour: int) -> dict[str, int]:
        """How many patches there are, and how many of them hold a pixel of the class `tumour`."""
        return {"patches": len(self.draws), "tumour_patches": int((self.counts[:, tumour] > 0).sum())}


def place(pool: Pool, stride: int | None, *, tissue: bool = True) -> Placed:
    """The patches of a cohort that hold a pixel whose class is known, and tissue.

    An image no larger than a patch is one patch, in its middle, whatever is on it.

    Args:
        pool: The cases.
        stride: Distance of neighbours, in pixels; None for the side of a patch.
        tissue: Whether patches without tissue are left out.
    """
    found = pool.each(lambda case: _place(pool, case, stride or pool.patch, tissue))
    draws = np.concatenate([np.insert(places, 0, case, axis=1) for case, (places, _) in enumerate(found)])
    if not len(draws):
        raise SpecError(
            f"no case has a patch of {pool.patch} px at {pool.mpp:g} um per pixel with a pixel whose class is known"
            f"{' on tissue' if tissue else ''}. {'; '.join(pool.told.values())}".rstrip()
        )
    return Placed(draws, np.concatenate([counts for _, counts in found]), pool.patch**2)


def _place(pool: Pool, case: int, stride: int, tissue: bool) -> tuple[np.ndarray, np.ndarray]:
    frame = pool.frame(case)
    if max(frame.width, frame.height) <= pool.patch:
        places = np.array([centred(frame.width, frame.height, pool.patch)], np.int64)
    else:
        places = pool.places(case, stride, tissue=tissue)
    counts = pool.counts(case, places)
    known = counts.any(1)
    return places[known], counts[known]


def _check_stride(stride: int | None):
    if stride is not None and stride < 1:
        raise SpecError(f"a stride is at least 1 pixel, or None for the side of a patch, got {stride}.")


def _shuffled(draws: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return draws[random_stream(seed, EPOCH, epoch).permutation(len(draws))]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every patch that holds tissue, at a stride: for validation, the same in every epoch and for every seed.

    Attributes:
        stride: Distance of neighbours, in pixels; by default a patch, so that every pixel is seen once.
        limit: Patches at most, evenly thinned out over all; by default all.
    """

    stride: int | None = None
    limit: int | None = None

    def __post_init__(self):
        _check_stride(self.stride)
        if self.limit is not None and self.limit < 1:
            raise SpecError(f"limit is a number of patches of at least 1, or None, got {self.limit}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:  # noqa: ARG002 - the same for every seed
        """Find the patches."""
        placed = place(pool, self.stride)
        if self.limit is not None and len(placed.draws) > self.limit:
            chosen = np.linspace(0, len(placed.draws) - 1, self.limit).round().astype(int)
            placed = replace(placed, draws=placed.draws[chosen], counts=placed.counts[chosen])
        return sampler_of(pool, lambda _: placed.draws, **placed.report(pool.index_of(None)))


@dataclass(frozen=True, kw_only=True)
class AllTissue:
    """Every patch that holds tissue, at a stride, in a new order in each epoch (v3_dcnn: Guo et al. 2019).

    With `balance`, all tumour patches and so many times as many normal ones, other ones in each epoch; a tumour patch
    holds at least one pixel of the tumour class. The paper trains its classifier on all patches and its segmentation
    network on 1:1, and tells no stride: without overlap is our choice.

    Attributes:
        stride: Distance of neighbours, in pixels; by default a patch.
        balance: Normal patches for each tumour patch; None for all of both.
        tumour: Name of the tumour class; by default the cohort's last.
    """

    stride: int | None = None
    balance: float | None = None
    tumour: str | None = None

    def __post_init__(self):
        _check_stride(self.stride)
        if self.balance is not None and not self.balance > 0:
            raise SpecError(f"balance is normal patches for each tumour patch, above 0, or None, got {self.balance}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the patches, and which hold tumour."""
        found = place(pool, self.stride)
        tumour = found.counts[:, pool.index_of(self.tumour)] > 0
        counts = {"tumour_patches": int(tumour.sum()), "normal_patches": int((~tumour).sum())}
        if self.balance is None:
            return sampler_of(pool, partial(_shuffled, found.draws, seed), **counts)
        if not all(counts.values()):
            raise SpecError(
                "tumour and normal patches can be balanced where there are both, got "
                f"{counts['tumour_patches']} and {counts['normal_patches']}. Give balance=None to take all."
            )
        parts = found.draws[tumour], found.draws[~tumour]
        return sampler_of(pool, partial(_balanced, *parts, self.balance, seed), **counts)


def _balanced(tumour: np.ndarray, normal: np.ndarray, balance: float, seed: int, epoch: int) -> np.ndarray:
    """All of `tumour` and `balance` times as many of `normal`, in random order."""
    rng = random_stream(seed, EPOCH, epoch)
    chosen = normal[cycled(len(normal), max(1, round(balance * len(tumour))), rng)]
    return rng.permutation(np.concatenate([tumour, chosen]))


@dataclass(frozen=True, kw_only=True)
class WholePatches:
    """Every patch of which anything is labelled, none overlapping, black beyond the border (the tiger paper).

    Patches of which every pixel is ignored are dropped. Two deviations from the paper: cohorts are divided by patient,
    not by patch; and patches begin at the slide's corner, not at each labelled region's, so that beside a region they
    show the slide, ignored, in place of zeros.

    Attributes:
        tissue: Whether patches without tissue are dropped too; for slides that are labelled as a whole, glass included.
    """

    tissue: bool = False

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the patches."""
        placed = place(pool, None, tissue=self.tissue)
        draw, report = partial(_shuffled, placed.draws, seed), placed.report(pool.index_of(None))
        return replace(sampler_of(pool, draw, **report), outside=0)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Patches on tissue, overlapping or not, of the slide after down-sampling (the microdosimetry paper).

    Attributes:
        stride: Distance of neighbours, in down-sampled pixels; by default a patch, so that none overlap.
        downsample: Factor on the pool's um per pixel. The sampler's `mpp` is the product: read the patches at that.
    """

    stride: int | None = None
    downsample: float = 1.0

    def __post_init__(self):
        _check_stride(self.stride)
        if not 1 <= self.downsample < float("inf"):
            raise SpecError(f"downsample is a finite factor of at least 1, got {self.downsample}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:
        """Find the patches."""
        coarser = pool if self.downsample == 1 else replace(pool, mpp=pool.mpp * self.downsample)
        placed = place(coarser, self.stride)
        return sampler_of(coarser, partial(_shuffled, placed.draws, seed), **placed.report(pool.index_of(None)))
