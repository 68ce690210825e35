"""What a user names, as networks: bundles, predictors, ensembles and cascades of them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from digipath.errors import SpecError
from digipath.inference.cascade import Cascade
from digipath.inference.predictor import Predictor, predictor_of
from digipath.inference.program import Program, program, shares
from digipath.inference.settings import InferenceSettings
from digipath.models.bundle import Bundle
from digipath.models.exits import STRIDES, is_supervised
from digipath.models.spec import ModelSpec

__all__ = ["Networks"]

_MARKS: WeakKeyDictionary[Predictor, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class Networks:
    """The networks of a segmenter, as they were named.

    Attributes:
        members: Those whose mean is the heatmap; of a cascade the second stage.
        first: The first stage of a cascade, or nothing.
        weights: Of the members; None for equal ones.
        early_exit: The block after which members with deep supervision are cut; None does not.
        left_out: What was wished for and no network can do, a sentence each.
    """

    members: tuple[Bundle | Predictor, ...]
    first: tuple[Bundle | Predictor, ...] = ()
    weights: tuple[float, ...] | None = None
    early_exit: int | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, source: Any, *, weights: Sequence[float] | None, settings: InferenceSettings, lenient: bool
    ) -> "Networks":
        """The networks that a user names.

        Args:
            source: What `Segmenter` takes.
            weights: Of each bundle.
            settings: How they are applied.
            lenient: Whether what a bundle cannot do is left out, and told, in place of refused.

        Raises:
            SpecError: It is none, or cannot do what the settings ask for.
        """
        second, first = _stages(source)
        members, wishes = tuple(map(_member, _listed(second))), []
        if settings.cascade and not first:
            wishes.append("a cascade needs a first stage, and none was given: Segmenter(Cascade(first, second))")
        block = settings.early_exit
        if block is not None:
            unable = [name for name, one in zip(_names(members), members, strict=True) if not _left(one, block)]
            if unable:
                names = ", ".join(unable)
                wishes.append(
                    f"{names}: no early exit after block {block}; it needs deep supervision, with blocks 0 to 4"
                )
            block = None if len(unable) == len(members) else block
        if wishes and not lenient:
            raise SpecError(f"{wishes[0]}. Leave that setting out, or give another bundle.")
        stage = () if settings.cascade is False else tuple(map(_member, _listed(first)))
        if weights is not None:
            shares(tuple(_names(members)), weights)
            weights = tuple(float(weight) for weight in weights)
        return cls(members, stage, weights, block, tuple(wishes))

    def program(self, settings: InferenceSettings) -> Program:
        """The networks loaded and put together."""

        def loaded(members: Sequence[Bundle | Predictor], block: int | None) -> dict[str, Predictor]:
            runtime, precision = settings.runtime, settings.precision
            return {
                name: predictor_of(self._cut(one, block), runtime=runtime, precision=precision)
                if isinstance(one, Bundle)
                else one
                for name, one in zip(_names(members), members, strict=True)
            }

        first = loaded(self.first, None)
        return program(loaded(self.members, self.early_exit), weights=self.weights, first=first, settings=settings)

    @staticmethod
    def _cut(bundle: Bundle, block: int | None) -> Bundle:
        return bundle if not _left(bundle, block) else bundle.early_exit(block)

    def describe(self) -> dict[str, Any]:
        """Names and hashes, as JSON can hold them; a predictor of the user's own has no hash."""
        weights = self.weights or (None,) * len(self.members)
        members = [
            {"name": name, "hash": _hash(one)}
            | ({} if weight is None else {"weight": weight})
            | ({"early_exit": self.early_exit} if _left(one, self.early_exit) else {})
            for name, one, weight in zip(_names(self.members), self.members, weights, strict=True)
        ]
        stage = [{"name": name, "hash": _hash(one)} for name, one in zip(_names(self.first), self.first, strict=True)]
        return {"members": members} | ({"first_stage": stage} if stage else {})

    @property
    def recognised(self) -> bool:
        """Whether every network is a bundle, which another process can tell from any other."""
        return not self.strangers

    @property
    def strangers(self) -> list[str]:
        """A mark for each predictor that is no bundle: nothing but being the same object says that it is the same."""
        others = (one for one in (*self.members, *self.first) if not isinstance(one, Bundle))
        return [f"{type(one).__name__} {_mark(one)}" for one in others]


def _mark(predictor: Predictor) -> str:
    """The same for one object as long as it lives, and for no other ever; an address or a process would come again."""
    try:
        return _MARKS.setdefault(predictor, uuid4().hex)
    except TypeError:  # it cannot be a key
        return uuid4().hex


def _stages(source: Any) -> tuple[Any, Any]:
    """(what makes the heatmap, the first stage of a cascade or nothing)."""
    sources = _listed(source)
    cascades = [one for one in sources if isinstance(one, Cascade)]
    if not cascades:
        return source, ()
    if len(cascades) < len(sources):
        raise SpecError(
            "an ensemble is of cascades alone, or of none, got both. Give each bundle the same first stage: "
            "Cascade(first, bundle)."
        )
    kinds = {tuple(_identity(_member(one)) for one in _listed(cascade.first)) for cascade in cascades}
    if len(kinds) > 1:
        raise SpecError(
            f"cascades of an ensemble share their first stage, which is run once, got {len(kinds)} different ones. "
            "Give all the same."
        )
    return [one for cascade in cascades for one in _listed(cascade.second)], cascades[0].first


def _listed(source: Any) -> list[Any]:
    return list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]


def _member(source: str | Path | Bundle | Predictor | None) -> Bundle | Predictor:
    if source is None or isinstance(source, str | Path):
        return Bundle.open(source)
    if not isinstance(getattr(source, "spec", None), ModelSpec):
        raise SpecError(
            f"a Segmenter takes a bundle, a Cascade, or a list of them, got {type(source).__name__}. "
            "For a network of your own, give Bundle(model, ModelSpec(...))."
        )
    return source


def _left(member: Bundle | Predictor, block: int | None) -> bool:
    """Whether a member can be left after a block."""
    supervised = isinstance(member, Bundle) and is_supervised(member.spec)
    return supervised and block is not None and block < len(STRIDES) and STRIDES[block] >= member.spec.output_stride


def _hash(member: Bundle | Predictor) -> str | None:
    return member.hash if isinstance(member, Bundle) else None


def _identity(member: Bundle | Predictor) -> str | int:
    return member.hash if isinstance(member, Bundle) else id(member)


def _names(members: Iterable[Bundle | Predictor]) -> Iterator[str]:
    """What the members are called, each differently."""
    seen: Counter[str] = Counter()
    for one in members:
        name = one.name if isinstance(one, Bundle) else one.spec.architecture
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"
