"""Patches at the places of a grid: for validation, and where a paper trains on every patch."""

from dataclasses import dataclass

import numpy as np

from digipath.data.draws import Sampler, centred, sampler_of
from digipath.data.pool import Pool
from digipath.errors import SpecError

__all__ = ["Grid"]


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
        check_stride(self.stride)
        if self.limit is not None and self.limit < 1:
            raise SpecError(f"limit is a number of patches of at least 1, or None, got {self.limit}.")

    def plan(self, pool: Pool, *, seed: int = 0) -> Sampler:  # noqa: ARG002 - the same for every seed
        """Find the patches."""
        draws = placed(pool, self.stride)
        if self.limit is not None and len(draws) > self.limit:
            draws = draws[np.linspace(0, len(draws) - 1, self.limit).round().astype(int)]
        return sampler_of(pool, lambda _: draws, patches=len(draws))


def check_stride(stride: int | None):
    """Refuse what is no stride."""
    if stride is not None and stride < 1:
        raise SpecError(f"a stride is at least 1 pixel, or None for the side of a patch, got {stride}.")


def placed(pool: Pool, stride: int | None) -> np.ndarray:
    """(n, 3) int64: all draws of a cohort at a stride that hold tissue and a pixel whose class is known.

    An image no larger than a patch is one patch, whatever is on it.
    """
    found = pool.each(lambda case: _placed(pool, case, stride or pool.patch))
    draws = np.concatenate([np.insert(places, 0, case, axis=1) for case, places in enumerate(found)])
    if not len(draws):
        raise SpecError(
            f"no case has a patch of {pool.patch} px at {pool.mpp:g} um per pixel on labelled tissue. "
            f"{'; '.join(pool.told.values())}"
        )
    return draws


def _placed(pool: Pool, case: int, stride: int) -> np.ndarray:
    frame = pool.frame(case)
    if max(frame.width, frame.height) <= pool.patch:
        places = np.array([centred(frame.width, frame.height, pool.patch)], np.int64)
    else:
        places = pool.places(case, min(stride, pool.patch))
    return places[pool.counts(case, places).any(1)]
