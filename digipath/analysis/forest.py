"""Grown decision trees as plain arrays: kept for long, read without running anything, and followed by NumPy alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import ResultError

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

__all__ = ["Forest"]

_DTYPES = {
    "feature": "int16",
    "threshold": "float64",
    "left": "int32",
    "right": "int32",
    "share": "float32",
    "roots": "int32",
}
_MAX_DEPTH = 2000  # grown trees are some tens deep; one of a damaged file could be as deep as it has nodes
_STEPS = 1 << 20  # places in trees that are looked after at once


@dataclass(frozen=True)
class Forest:
    """Trees of several forests, their nodes one after another; each child comes behind its parent.

    Attributes:
        feature: (nodes,) int16, the feature that a node asks for, -1 in a leaf.
        threshold: (nodes,) float64; up to it, and at it, the way goes left.
        left: (nodes,) int32, where it goes then, -1 in a leaf.
        right: (nodes,) int32, where it goes above.
        share: (nodes, classes) float32, share of each class among the training samples of the node.
        roots: (forests, trees) int32, where each tree begins.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    share: np.ndarray
    roots: np.ndarray

    @classmethod
    def of(cls, forests: Sequence["RandomForestClassifier"], classes: int) -> "Forest":
        """The trees of fitted forests of as many trees each, whose classes are whole numbers below `classes`."""
        parts, roots, nodes = {name: [] for name in _DTYPES}, [], 0
        for forest in forests:
            known = np.asarray(forest.classes_, int)
            for tree in (one.tree_ for one in forest.estimators_):
                leaf = tree.children_left < 0
                share = np.zeros((tree.node_count, classes))
                share[:, known] = tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True)
                parts["feature"].append(np.where(leaf, -1, tree.feature))
                parts["threshold"].append(np.where(leaf, 0, tree.threshold))
                parts["left"].append(np.where(leaf, -1, tree.children_left + nodes))
                parts["right"].append(np.where(leaf, -1, tree.children_right + nodes))
                parts["share"].append(share)
                roots.append(nodes)
                nodes += tree.node_count
        parts["roots"] = [np.reshape(roots, (len(forests), -1))]
        return cls(**{name: np.concatenate(parts[name]).astype(dtype) for name, dtype in _DTYPES.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Each attribute by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def checked(cls, arrays: dict[str, np.ndarray], *, features: int, classes: int) -> "Forest":
        """The trees that arrays of an unknown source describe; refused unless every path leads down to a leaf."""
        if faults := list(_faults(arrays, features, classes)):
            raise ResultError(
                f"the trees are not what they should be: {faults[0]}. The file is damaged; save it again."
            )
        return cls(**{name: np.ascontiguousarray(arrays[name]) for name in _DTYPES})

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """(forests, n, classes) float64: for each sample the mean over a forest's trees of the share in its leaf.

        Args:
            samples: (n, features); compared in float32, as scikit-learn grows trees.
        """
        samples = np.asarray(samples, np.float32)
        step = max(1, _STEPS // max(1, self.roots.size))
        parts = [self._chunk(samples[first : first + step]) for first in range(0, len(samples), step)]
        return np.concatenate(parts, 1) if parts else np.zeros((len(self.roots), 0, self.share.shape[1]))

    def _chunk(self, samples: np.ndarray) -> np.ndarray:
        node = np.tile(self.roots.ravel(), (len(samples), 1))  # [sample, tree]
        sample = np.repeat(np.arange(len(samples)), self.roots.size)
        node = node.ravel()
        walking = np.flatnonzero(self.left[node] >= 0)
        while len(walking):
            at = node[walking]
            low = samples[sample[walking], self.feature[at]] <= self.threshold[at]
            node[walking] = np.where(low, self.left[at], self.right[at])
            walking = walking[self.left[node[walking]] >= 0]
        shares = self.share[node].reshape(len(samples), *self.roots.shape, -1)
        return shares.mean(2, dtype=float).swapaxes(0, 1)


def _faults(arrays: dict[str, np.ndarray], features: int, classes: int):
    """What is wrong with arrays that should be trees; what comes later relies on what came before."""
    if {name: str(array.dtype) for name, array in arrays.items()} != _DTYPES:
        yield f"the arrays are {', '.join(f'{name} ({dtype})' for name, dtype in _DTYPES.items())}"
        return
    feature, left, right, share, roots = (arrays[name] for name in ("feature", "left", "right", "share", "roots"))
    nodes = len(feature) if feature.ndim else 0
    shapes = {name: array.shape for name, array in arrays.items() if name not in ("share", "roots")}
    if set(shapes.values()) != {(nodes,)} or share.shape != (nodes, classes) or roots.ndim != 2 or not roots.size:
        yield f"there is one entry for each node, {classes} shares, and trees x forests of roots"
        return
    starts = roots.ravel().astype(np.int64)
    if starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= nodes:
        yield "trees lie one behind another"
        return
    index, ends = np.arange(nodes), np.repeat([*starts[1:], nodes], np.diff([*starts, nodes]))
    leaf = left == -1
    if (right[leaf] != -1).any() or (feature[leaf] != -1).any():
        yield "a leaf has no children"
        return
    children = np.stack([left[~leaf], right[~leaf]])
    if (
        (children <= index[~leaf]).any()
        or (children >= ends[~leaf]).any()
        or np.bincount(children.ravel()).max(initial=0) > 1
    ):
        yield "each child comes behind its one parent, in the same tree"
        return
    if not ((feature[~leaf] >= 0) & (feature[~leaf] < features)).all() or not np.isfinite(arrays["threshold"]).all():
        yield f"every node asks for one of {features} features, at a finite threshold"
    if not (np.isfinite(share) & (share >= 0)).all() or (np.abs(share.sum(1) - 1) > 1e-3).any():
        yield "shares are from 0 on and add up to 1"
    level, depth = starts, 0
    while len(level) and depth <= _MAX_DEPTH:
        level, depth = level[~leaf[level]], depth + 1
        level = np.concatenate([left[level], right[level]])
    if len(level):
        yield f"no tree is deeper than {_MAX_DEPTH} nodes"
