"""Predictors made of predictors."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from digipath.errors import SpecError
from digipath.inference.predictor import Predictor

__all__ = ["Ensemble"]

_SHARED = ("kind", "classes", "mpp", "patch", "output_stride", "margin", "resampling", "stain")


class Ensemble:
    """The mean of several predictors' probabilities, from one read of the slide (Khened et al. 2021).

    Its threshold is the mean of theirs, so that their order does not matter.

    Args:
        members: Predictors that see the same patches and name the same classes.

    Raises:
        SpecError: The members differ in what they expect or return.
    """

    def __init__(self, members: Sequence[Predictor]):
        if not members:
            raise SpecError("an ensemble has at least one member, got none.")
        first = members[0].spec
        for member in members[1:]:
            for name in _SHARED:
                mine, other = getattr(first, name), getattr(member.spec, name)
                if mine != other:
                    raise SpecError(
                        f"the members of an ensemble share their {name.replace('_', ' ')}, got {mine} and {other}."
                    )
        threshold = fmean(member.spec.threshold for member in members)
        self.members, self.channels = tuple(members), members[0].channels
        self.spec = first if threshold == first.threshold else replace(first, threshold=threshold)
        self.multiple = int(np.lcm.reduce([member.multiple for member in members]))

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Average the members' probabilities."""
        return sum(member(patches) for member in self.members) / np.float32(len(self.members))
