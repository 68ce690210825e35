"""What every sampling configuration gives: draws, and the random numbers they are made with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from digipath.data.pool import Pool

__all__ = ["EPOCH", "HARD", "POINTS", "Sampler", "centred", "cycled", "random_stream", "sampler_of"]

# What random numbers are drawn for; streams of different purposes have nothing in common.
POINTS, EPOCH, HARD = 11, 12, 13


def random_stream(*what: int) -> np.random.Generator:
    """The random numbers of these integers of at least 0, such as (seed, purpose, epoch, index)."""
    return np.random.default_rng(what)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Where the patches of each epoch lie; made by the `plan` of a sampling configuration.

    Attributes:
        mpp: Resolution of the patches, in um per pixel.
        patch: Side of a patch, in pixels.
        draw: From the number of an epoch to its draws.
        outside: Grey level that the paper pads with: what a `PatchSource` should show outside of the slide.
        told: What somebody should know, such as slides that give no patches.
        report: Figures about the draws, by name.
    """

    mpp: float
    patch: int
    draw: Callable[[int], np.ndarray]
    outside: int = 255
    told: tuple[str, ...] = ()
    report: Mapping[str, float] = field(default_factory=dict)

    def epoch(self, number: int) -> np.ndarray:
        """(n, 3) int64: case, x and y of each patch's upper left corner in the case's frame at `mpp`."""
        return self.draw(number)


def sampler_of(pool: Pool, draw: Callable[[int], np.ndarray], **report: float) -> Sampler:
    """A sampler for the patches of this pool, with what the pool has told."""
    told = tuple(text for _, text in sorted(pool.told.items()))
    return Sampler(mpp=pool.mpp, patch=pool.patch, draw=draw, told=told, report=report)


def cycled(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` of `count` indices in random order, each as often as any other, or once more."""
    if not count:
        return np.zeros(0, np.int64)
    whole, rest = divmod(wanted, count)
    indices = np.concatenate([np.tile(np.arange(count), whole), rng.permutation(count)[:rest]])
    return rng.permutation(indices)


def centred(width: int, height: int, patch: int) -> tuple[int, int]:
    """Corner of a patch around the middle of something no larger."""
    return -((patch - width) // 2), -((patch - height) // 2)
