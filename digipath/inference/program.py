"""What a segmenter runs on every slide: its networks, put together as they can share the reading of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.inference.batching import find_batch
from digipath.inference.cascade import coarse_plan
from digipath.inference.compose import Ensemble, TestTimeAugmentation
from digipath.inference.engine import Pass
from digipath.inference.plan import Plan, common_heatmap_mpp, plan
from digipath.inference.predictor import Predictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec

__all__ = ["Group", "Program", "program", "shares"]

# Networks that agree in these see the same patches.
_SHARED = ("kind", "mpp", "patch", "margin", "resampling", "stain")
_PLAIN = ("identity",)


@dataclass(frozen=True)
class Group:
    """Networks that see the same patches, as one.

    Attributes:
        predictor: The network, or what they make together.
        weight: Its share of the mean over all groups.
        names: What the networks are called.
    """

    predictor: Predictor
    weight: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The networks of a segmenter.

    Attributes:
        groups: Those whose mean is the heatmap.
        first: Those that look where the others are needed; None without a cascade.
        settings: How they are applied.
    """

    groups: tuple[Group, ...]
    first: Group | None
    settings: InferenceSettings

    @property
    def spec(self) -> ModelSpec:
        """The first network's specification, with the mean of all thresholds."""
        threshold = sum(group.weight * group.predictor.spec.threshold for group in self.groups)
        first = self.groups[0].predictor.spec
        return first if threshold == first.threshold else replace(first, threshold=threshold)

    @property
    def channels(self) -> tuple[str, ...]:
        """The classes, and what is said of their uncertainty."""
        return self.groups[0].predictor.channels

    def first_pass(self, frame: Frame, tissue: Raster, region: Box | None) -> Pass | None:
        """The first stage of a cascade, planned for a slide."""
        if self.first is None:
            return None
        chosen = coarse_plan(frame, self.first.predictor, tissue, settings=self.settings, region=region)
        return Pass(self.first.predictor, self._fed(chosen, self.first.predictor), names=self.first.names)

    def passes(self, frame: Frame, tissue: Raster, region: Box | None) -> tuple[Pass, ...]:
        """A pass for each group, into one heatmap frame; of a cascade, before any patch is left out."""
        settings = self.settings
        if len(self.groups) > 1:
            specs = {" and ".join(group.names): group.predictor.spec for group in self.groups}
            settings = replace(settings, heatmap_mpp=common_heatmap_mpp(specs, settings.heatmap_mpp))
        plans = [plan(frame, group.predictor, tissue, settings=settings, region=region) for group in self.groups]
        common = {"settings": self.settings, "heatmap_frame": plans[0].heatmap_frame}
        return tuple(
            Pass(group.predictor, self._fed(replace(chosen, **common), group.predictor), group.weight, group.names)
            for group, chosen in zip(self.groups, plans, strict=True)
        )

    def _fed(self, chosen: Plan, predictor: Predictor) -> Plan:
        """The plan with the batch that is quickest, where none is asked for."""
        if self.settings.batch is not None or not chosen.boxes:
            return chosen
        return replace(chosen, batch=find_batch(predictor, chosen.grid.patch, boxes=len(chosen.boxes)))


def program(
    members: Mapping[str, Predictor],
    *,
    weights: Sequence[float] | None,
    first: Mapping[str, Predictor],
    settings: InferenceSettings,
) -> Program:
    """Put networks together.

    Args:
        members: The networks by name; of a cascade the second stage.
        weights: Of each member, above 0; None for equal ones.
        first: The first stage of a cascade, or nothing.
        settings: How they are applied.

    Raises:
        SpecError: They do not fit each other.
    """
    if settings.uncertainty and len(members) == 1 and settings.augmentations == _PLAIN:
        raise SpecError(
            "uncertainty is a variance over networks and over augmentations, and there is one network and one view. "
            'Give augmentations="all", or several bundles.'
        )
    if settings.heatmap_mpp is not None and len(members) > 1:  # refused at once, and by the name of the one in the way
        common_heatmap_mpp({name: member.spec for name, member in members.items()}, settings.heatmap_mpp)
    groups = _groups(members, weights, settings)
    coarse = _groups(first, None, settings) if first else ()
    if len(coarse) > 1:
        raise SpecError(
            f"the networks of a cascade's first stage see the same patches, and {', '.join(first)} differ in "
            f"{' or '.join(_SHARED)}. Give one of them."
        )
    for group in (*groups, *coarse):
        if group.predictor.spec.classes != groups[0].predictor.spec.classes:
            raise SpecError(
                f"networks that are put together name the same classes: {', '.join(groups[0].names)} "
                f"{groups[0].predictor.spec.classes}, and {', '.join(group.names)} {group.predictor.spec.classes}."
            )
    return Program(groups, coarse[0] if coarse else None, settings)


def _groups(
    members: Mapping[str, Predictor], weights: Sequence[float] | None, settings: InferenceSettings
) -> tuple[Group, ...]:
    """The members that see the same patches as one each, in order of their first."""
    parts = shares(members, weights)
    together: dict[tuple, list[str]] = {}
    for name, member in members.items():
        together.setdefault(tuple(getattr(member.spec, one) for one in _SHARED), []).append(name)
    groups = []
    for names in together.values():
        seen = [_augmented(members[name], settings) for name in names]
        weight = sum(parts[name] for name in names)
        inside = [parts[name] / weight for name in names]
        plain = len(seen) == 1 and not settings.uncertainty
        made = seen[0] if plain else Ensemble(seen, weights=inside, variance=settings.uncertainty)
        groups.append(Group(made, weight, tuple(names)))
    return tuple(groups)


def _augmented(member: Predictor, settings: InferenceSettings) -> Predictor:
    if settings.augmentations == _PLAIN and not settings.uncertainty:
        return member
    return TestTimeAugmentation(member, transforms=settings.augmentations, variance=settings.uncertainty)


def shares(members: Collection[str], weights: Sequence[float] | None) -> dict[str, float]:
    """The share of a sum of 1 of each member, by name."""
    weights = [1.0] * len(members) if weights is None else list(weights)
    if len(weights) != len(members) or not all(0 < weight < float("inf") for weight in weights):
        raise SpecError(
            f"weights are numbers above 0, one for each of {len(members)} bundles, got {weights}. "
            "Leave a bundle out in place of a weight of 0."
        )
    mean = fmean(weights)
    return {name: weight / mean / len(weights) for name, weight in zip(members, weights, strict=True)}
