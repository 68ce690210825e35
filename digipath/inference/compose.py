"""Predictors made of predictors: one network on a patch turned eight ways, and several networks on one patch.

Both give the mean of what they saw and, where asked to, the variance of the last class's probability (Khened et al.
2021, Eq. 4 and 5). Neither keeps more than one map at a time beside its running sums.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from types import MappingProxyType

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.blend import block_means
from digipath.inference.predictor import UNCERTAINTY, Predictor
from digipath.inference.settings import TRANSFORMS, InferenceSettings
from digipath.models.spec import ModelSpec

__all__ = ["PAIRS", "Ensemble", "TestTimeAugmentation"]

_SHARED = ("kind", "classes", "mpp", "patch", "margin", "resampling", "stain")
_ALEATORIC, _EPISTEMIC = UNCERTAINTY


def _pair(mirror: bool, quarters: int) -> tuple[Callable, Callable]:
    """A mirroring of left and right, then counter-clockwise quarter turns; and the way back. Views of axes 1 and 2."""
    step = -1 if mirror else 1
    return (
        lambda array: np.rot90(array[:, :, ::step], quarters, axes=(1, 2)),
        lambda array: np.rot90(array, -quarters, axes=(1, 2))[:, :, ::step],
    )


_EIGHT = [_pair(mirror, quarters) for mirror in (False, True) for quarters in range(4)]
PAIRS = MappingProxyType(dict(zip(TRANSFORMS, _EIGHT, strict=True)))
"""The eight symmetries of a square by name, each as (transform, inverse) of an array (n, height, width, ...)."""


class TestTimeAugmentation:
    """The mean of a predictor's values over turned and mirrored patches.

    Quarter turns of patches that are not square hand the member patches of the other orientation.

    Args:
        member: The predictor that sees each patch several times. Channels of its own beyond the classes are averaged.
        transforms: Which of `PAIRS`; their order does not matter.
        variance: Whether to add the channel "aleatoric": the variance over the transforms of the last class's
            probability (Khened et al. 2021, Eq. 4). If the member has one, it becomes the sum of that and this: the
            whole variance, as their means have one.

    Raises:
        SpecError: A transform is unknown or named twice, or a class is called like a channel of uncertainty.
    """

    __test__ = False  # pytest takes it for a test by its name

    def __init__(self, member: Predictor, *, transforms: Sequence[str] = TRANSFORMS, variance: bool = False):
        _check_class_names(member.spec)
        self.member, self.variance = member, variance
        self.transforms = InferenceSettings(augmentations=transforms).augmentations
        self.spec, self.multiple = member.spec, member.multiple
        self.channels = _with_channel(member, _ALEATORIC) if variance else tuple(member.channels)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Average the member's values over the transforms."""
        moments = _Moments(len(self.spec.classes) - 1 if self.variance else None)
        for name in self.transforms:
            transform, inverse = PAIRS[name]
            moments.add(_turned(self.member(_turned(patches, transform)), inverse), 1 / len(self.transforms))
        return moments.joined(self.member, _ALEATORIC)


class Ensemble:
    """The weighted mean of several predictors' values, from one read of the slide (Khened et al. 2021).

    Members may differ in output stride: the finer ones are averaged down to the least common multiple, and the variance
    over the members is that of these averages. The threshold is the mean of theirs: the order does not matter.

    Args:
        members: Predictors that see the same patches and return the same channels.
        weights: A positive number for each member; only their ratios matter. None weighs all the same.
        variance: Whether to add the channel "epistemic": the variance over the members of the last class's probability
            (Khened et al. 2021, Eq. 5). If the members have one, it becomes the sum of their mean and this.

    Raises:
        SpecError: The members differ in what they expect or return, there are none, or the weights are not theirs.

    Example:
        >>> from digipath.inference.predictor import FunctionPredictor
        >>> spec = ModelSpec(architecture="own", mpp=1.0, patch=32, kind="classifier")
        >>> members = [FunctionPredictor(lambda patches, p=p: np.array([[1 - p, p]]), spec) for p in (0.5, 1.0)]
        >>> Ensemble(members, variance=True)(np.zeros((1, 32, 32, 3), np.uint8)).tolist()
        [[[[0.25, 0.75, 0.0625]]]]
    """

    def __init__(self, members: Sequence[Predictor], *, weights: Sequence[float] | None = None, variance: bool = False):
        _check_members(members)
        self.members, self.variance = tuple(members), variance
        self.weights = _normalised(weights, len(self.members))
        self.spec = _common_spec(self.members, self.weights)
        self.channels = _with_channel(members[0], _EPISTEMIC) if variance else tuple(members[0].channels)
        self.multiple = math.lcm(*(member.multiple for member in members))

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Average the members' values."""
        moments = _Moments(len(self.spec.classes) - 1 if self.variance else None)
        for member, weight in zip(self.members, self.weights, strict=True):
            values = member(patches)
            if self.spec.kind == "segmenter":
                values = block_means(values, self.spec.output_stride // member.spec.output_stride)
            moments.add(values, weight)
        return moments.joined(self.members[0], _EPISTEMIC)


class _Moments:
    """The weighted mean of maps, and the variance of one of their channels, one map at a time.

    The update is that of West 1979, "Updating mean and variance estimates: an improved method", which never subtracts
    large sums: equal maps have a variance of exactly 0, and their mean is exactly they.
    """

    def __init__(self, channel: int | None):
        self.channel, self.weight = channel, 0.0
        self.mean = self.change = self.squares = None

    def add(self, values: np.ndarray, weight: float) -> None:
        """Take account of a map (n, rows, columns, channels), and keep nothing of its memory."""
        self.weight += weight
        if self.mean is None:
            self.mean = np.array(values, np.float32, order="C")
            return
        share = weight / self.weight
        self.change = np.subtract(values, self.mean, out=self.change, dtype=np.float32)
        if self.channel is not None:
            step = np.square(self.change[..., self.channel])
            step *= np.float32(weight * (1 - share))
            self.squares = step if self.squares is None else np.add(self.squares, step, out=self.squares)
        self.change *= np.float32(share)
        self.mean += self.change

    def joined(self, member: Predictor, name: str) -> np.ndarray:
        """The mean, with the variance as a channel or in the one of that name that the maps have already."""
        if self.channel is None:
            return self.mean
        variance = np.zeros(self.mean.shape[:-1], np.float32) if self.squares is None else self.squares
        variance /= np.float32(self.weight)
        channels = list(np.moveaxis(self.mean, -1, 0))
        if name not in member.channels:
            channels.insert(_place(member, name), variance)
            return np.stack(channels, axis=-1)  # channel by channel: thrice as fast as np.insert
        channels[member.channels.index(name)] += variance
        return self.mean


def _turned(array: np.ndarray, turn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The array (n, height, width, channels) turned and contiguous; not copied where nothing turns.

    Pixels are copied whole: twice as fast as NumPy's copy of a turned view, whose innermost loop has three steps.
    """
    array = np.ascontiguousarray(array)
    pixels = array.view(np.dtype((np.void, array.itemsize * array.shape[-1])))[..., 0]
    return np.ascontiguousarray(turn(pixels))[..., None].view(array.dtype)


def _place(member: Predictor, name: str) -> int:
    """Where a new channel stands: classes, "aleatoric", "epistemic"."""
    return len(member.spec.classes) if name == _ALEATORIC else len(member.channels)


def _with_channel(member: Predictor, name: str) -> tuple[str, ...]:
    own = tuple(member.channels)
    if name in own:
        return own
    place = _place(member, name)
    return (*own[:place], name, *own[place:])


def _common_spec(members: Sequence[Predictor], weights: Sequence[float]) -> ModelSpec:
    """The specification of the first, with the stride and the threshold of all."""
    first, thresholds = members[0].spec, [member.spec.threshold for member in members]
    mean = math.fsum(weight * threshold for weight, threshold in zip(weights, thresholds, strict=True))
    threshold = thresholds[0] if len(set(thresholds)) == 1 else mean
    stride = math.lcm(*(member.spec.output_stride for member in members))
    return replace(first, threshold=threshold, output_stride=stride)


def _normalised(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights that sum to 1."""
    if weights is None:
        return (1 / count,) * count
    weights = list(weights)
    if len(weights) != count:
        raise SpecError(f"an ensemble has one weight for each of its {count} members, got {len(weights)}: {weights}.")
    if wrong := [one for one in weights if not (isinstance(one, Real) and math.isfinite(one) and one > 0)]:
        raise SpecError(
            f"a weight is a positive, finite number, got {wrong[0]!r}. To leave a member out, do not list it."
        )
    largest = max(weights)  # so that no sum overflows
    total = math.fsum(one / largest for one in weights)
    return tuple(float(one / largest / total) for one in weights)


def _check_members(members: Sequence[Predictor]) -> None:
    """Refuse members that cannot be averaged, naming what differs and in which."""
    if not members:
        raise SpecError("an ensemble has at least one member, got none. Give it a predictor.")
    _check_class_names(members[0].spec)
    first = _asked(members[0])
    for number, member in enumerate(members[1:], 2):
        for field, value in _asked(member).items():
            if value != first[field]:
                raise SpecError(
                    f"the members of an ensemble share their {field.replace('_', ' ')}, got {first[field]} in "
                    f"{_called(members[0], 1)} and {value} in {_called(member, number)}. Leave one of them out."
                )


def _asked(member: Predictor) -> dict[str, object]:
    """What the members of an ensemble have in common, by name."""
    return {name: getattr(member.spec, name) for name in _SHARED} | {"channels": tuple(member.channels)}


def _called(member: Predictor, number: int) -> str:
    """The name of a member's bundle, also of one that is seen turned; else its number."""
    bundle = getattr(member, "bundle", None)
    if bundle is None and hasattr(member, "member"):
        return _called(member.member, number)
    return f"member {number} ({member.spec.architecture})" if bundle is None else f"{bundle.name} (member {number})"


def _check_class_names(spec: ModelSpec) -> None:
    if taken := [name for name in spec.classes if name in UNCERTAINTY]:
        raise SpecError(
            f"{' and '.join(UNCERTAINTY)} name channels of uncertainty, and no class, got {spec.classes}. "
            f"Rename the class {taken[0]!r} in the bundle's specification."
        )
