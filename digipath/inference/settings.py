"""How networks are applied to a slide: every choice of the user in one frozen dataclass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from digipath.errors import SpecError

__all__ = ["EFFORTS", "TRANSFORMS", "InferenceSettings"]

TRANSFORMS = (
    "identity",
    "rotate90",
    "rotate180",
    "rotate270",
    "flip",
    "flip-rotate90",
    "flip-rotate180",
    "flip-rotate270",
)
"""The eight symmetries of a square; "flip" mirrors left and right, and a quarter turn is counter-clockwise."""

_RUNTIMES = ("auto", "keras", "openvino")
_PRECISIONS = (None, "float32", "bfloat16", "int8")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How networks are applied to a slide.

    Attributes:
        overlap: Share of a patch's side that it has in common with its neighbour. Half, as in Khened et al. 2021.
        patch: Side of a patch in pixels at the network's mpp; None takes the bundle's. It may exceed the side that the
            network was trained with.
        heatmap_mpp: Micrometres per pixel of the heatmap: a whole multiple of every network's mpp x output stride. None
            takes the multiple nearest to 2.
        batch: Patches that the network sees at once; None finds a number that is quick and fits.
        threads: Threads that read the slide; None means one per core.
        window: "hann" weights a patch's centre more than its border when patches overlap, "mean" does not.
        threshold: Probability above which a pixel belongs to a lesion; None takes the bundle's.
        min_tissue: A patch is predicted where more than this share of it is tissue.
        max_unread: A slide fails if more than this share of its tissue cannot be read.
        augmentations: Names of `TRANSFORMS` that every patch is seen in; their mean is taken. "all" means all eight.
        uncertainty: Also give the variance over augmentations and over networks (Khened et al. 2021, Eq. 4 and 5).
        early_exit: Cut networks with deep supervision after this block of their decoder, 0 the coarsest; None does not.
        cascade: False leaves out the first stage of a `Cascade`; None runs it where there is one.
        candidate: Probability above which the first stage of a cascade hands a place on to the second.
        runtime: "keras", "openvino", or "auto": Keras on a GPU, else OpenVINO where it is installed.
        precision: "float32", "bfloat16" or "int8"; None takes the fastest that changes no result beyond rounding.
    """

    overlap: float = 0.5
    patch: int | None = None
    heatmap_mpp: float | None = None
    batch: int | None = None
    threads: int | None = None
    window: str = "hann"
    threshold: float | None = None
    min_tissue: float = 0.0
    max_unread: float = 0.05
    augmentations: tuple[str, ...] | str = ("identity",)
    uncertainty: bool = False
    early_exit: int | None = None
    cascade: bool | None = None
    candidate: float = 0.5
    runtime: str = "auto"
    precision: str | None = None

    def __post_init__(self):
        _check_fractions(self)
        _check_counts(self)
        if self.heatmap_mpp is not None and not (math.isfinite(self.heatmap_mpp) and self.heatmap_mpp > 0):
            raise SpecError(f"heatmap_mpp is a number of micrometres per pixel above 0, got {self.heatmap_mpp}.")
        choices = (("window", ("hann", "mean")), ("runtime", _RUNTIMES), ("precision", _PRECISIONS))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise SpecError(f"{name} is one of {listed}, got {getattr(self, name)!r}. Choose one of them.")
        object.__setattr__(self, "augmentations", _transforms(self.augmentations))
        for name in ("overlap", "heatmap_mpp", "threshold", "min_tissue", "max_unread", "candidate"):
            _become(self, name, float)


def _check_fractions(settings: InferenceSettings) -> None:
    for name in ("overlap", "min_tissue", "max_unread", "threshold", "candidate"):
        value, limit = getattr(settings, name), 0.95 if name == "overlap" else 1
        if value is not None and not 0 <= value <= limit:
            raise SpecError(f"{name} is a fraction from 0 to {limit}, got {value}. For a percentage, divide by 100.")


def _check_counts(settings: InferenceSettings) -> None:
    for name, least in (("patch", 1), ("batch", 1), ("threads", 1), ("early_exit", 0)):
        value = getattr(settings, name)
        if value is not None and (value != int(value) or value < least):
            raise SpecError(f"{name} is a whole number of at least {least}, or None for the default, got {value}.")
        _become(settings, name, int)


def _become(settings: InferenceSettings, name: str, kind: type) -> None:
    """Make a NumPy number one of Python's: `result.json` holds no others."""
    value = getattr(settings, name)
    if value is not None:
        object.__setattr__(settings, name, kind(value))


def _transforms(names: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of the table, so that their order does not matter."""
    if names == "all":
        return TRANSFORMS
    names = (names,) if isinstance(names, str) else tuple(names)
    wrong = [name for name in names if name not in TRANSFORMS]
    if wrong or not names or len(set(names)) < len(names):
        problem = f"got {wrong[0]!r}" if wrong else f"got {names}"
        raise SpecError(f'augmentations are different names of {", ".join(TRANSFORMS)}, or "all", {problem}.')
    return tuple(name for name in TRANSFORMS if name in names)


EFFORTS = MappingProxyType(
    {
        "fast": InferenceSettings(overlap=0.25, early_exit=2),
        "balanced": InferenceSettings(),
        "thorough": InferenceSettings(augmentations="all", cascade=False),
    }
)
"""What `Segmenter(effort=...)` means; docs/results.md says what each costs and finds."""
