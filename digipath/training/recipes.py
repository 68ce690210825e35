"""One frozen recipe a paper's network: everything that decides what is learnt, beside the slides.

The papers are, by the recipes' first words:
  digipathai      Khened et al., "A generalized deep learning framework for whole-slide image segmentation and analysis"
                  (Scientific Reports 2021); what its text leaves open is as in its published code (DigiPathAI)
  bcc             Le'Clerc Arrastia et al., "Deeply supervised UNet for semantic segmentation to assist
                  dermatopathological assessment of Basal Cell Carcinoma" (2021)
  tiger           breast cancer tissue segmentation on TIGER's patches: UNet and FPN with VGG16 and ResNet-34
  microdosimetry  Weishaupt et al., "Deep learning-based tumor segmentation on digital images of histopathology slides
                  for microdosimetry applications"
  v3-dcnn         Guo et al., "A Fast and Refined Cancer Regions Segmentation Framework in Whole-slide Breast
                  Pathological Images" (Scientific Reports 2019)
Numbers that no text gives are digipath's own; each recipe's `chosen` names them.
"""

import ast
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from digipath.data.augment import RECIPES as AUGMENTATIONS
from digipath.data.augment import Strengths
from digipath.data.classes import nearest
from digipath.data.sampling import AllTissue, Images, Sampling, Strata, Tiles, TumourNormal, WholePatches
from digipath.errors import SpecError

__all__ = ["RECIPES", "Recipe", "cosine", "recipe", "replaced", "stepped"]

LOSSES = ("hybrid", "soft-dice", "focal", "pixel", "patch")


def stepped(start: float, *, factor: float, every: int, epochs: int) -> tuple[tuple[int, float], ...]:
    """A table of (first epoch, rate): `start`, multiplied by `factor` each `every` epochs."""
    return tuple((epoch, start * factor ** (epoch // every)) for epoch in range(0, epochs, every))


def cosine(start: float, *, epochs: int, last: float = 0.02) -> tuple[tuple[int, float], ...]:
    """A table of (epoch, rate) that falls as half a cosine from `start` to `last` times it."""
    return tuple(
        (epoch, start * (last + (1 - last) / 2 * (1 + math.cos(math.pi * epoch / max(1, epochs - 1)))))
        for epoch in range(epochs)
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: of the recipe.
        architecture: name in the catalogue.
        mpp: micrometres per pixel of the patches.
        patch: side of a training patch, in pixels at `mpp`.
        sampling: which patches an epoch shows.
        loss: "hybrid", "soft-dice", "focal", "pixel" (network with coarse output) or "patch" (classifier).
        epochs: at most so many.
        rates: (first epoch, learning rate), ascending.
        batch: patches a step.
        augmentation: how far patches are changed.
        weights: what the encoder starts from: None for random numbers, "imagenet", or a file (see `digipath.build`).
        kind: "segmenter" or "classifier".
        activation: "softmax" or "sigmoid".
        width: factor on the network's channels.
        output_stride: pixels of the patch per value of the output.
        bundle_patch: side of the patches that the bundle is applied to; None for `patch`.
        centre: side of the square in the middle of a patch that decides a classifier's label: tumour where any of its
            pixels is.
        pasted: share of patches into which a rectangle of another is pasted, with its labels.
        stain: "none", or "macenko": stains are normalised in training and wherever the bundle is applied.
        freeze: epochs for which the encoder stays as it is.
        patience: stop when the validation loss has risen for so many epochs in a row, counted from the end of the
            freeze on; None never stops.
        keep: how many of the best epochs by `monitor` are kept.
        monitor: metric on the validation part that ranks epochs: "iou", "dice" or, of a classifier, "accuracy".
        amsgrad: Adam's variant with the largest second moment so far.
        decay: weight decay (AdamW), 0 for plain Adam.
        clip: largest norm of a gradient, None for any.
        average: memory a step of the moving average of weights that is judged and kept; None for the weights as is.
        seed: of everything random.
        chosen: fields whose values are digipath's own, as no text gives them.

    Example:
        >>> dataclasses.replace(recipe("bcc-resnet34-ds"), batch=8).rates[1]
        (5, 0.0004)
    """

    name: str
    architecture: str
    mpp: float
    patch: int
    sampling: Sampling
    loss: str
    epochs: int
    rates: tuple[tuple[int, float], ...]
    batch: int
    augmentation: Strengths = field(default_factory=lambda: AUGMENTATIONS["light"])
    weights: str | None = None
    kind: str = "segmenter"
    activation: str = "softmax"
    width: float = 1.0
    output_stride: int = 1
    bundle_patch: int | None = None
    centre: int = 128
    pasted: float = 0.0
    stain: str = "none"
    freeze: int = 0
    patience: int | None = None
    keep: int = 1
    monitor: str = "iou"
    amsgrad: bool = False
    decay: float = 0.0
    clip: float | None = None
    average: float | None = None
    seed: int = 0
    chosen: tuple[str, ...] = ()

    def __post_init__(self):
        _check_parts(self)
        _check_choices(self)
        _check_counts(self)
        _check_rates(self)

    @property
    def resolution(self) -> float:
        """Micrometres per pixel that the network sees: `mpp`, or coarser where the sampling shrinks patches."""
        return self.mpp * getattr(self.sampling, "downsample", 1.0)

    def describe(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        sampling = {"kind": type(self.sampling).__name__, **dataclasses.asdict(self.sampling)}
        return _finite(dataclasses.asdict(self) | {"sampling": sampling})


def _finite(value: Any) -> Any:
    """The same with None for what has no limit: JSON knows no infinity."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finite(one) for one in value)
    return None if isinstance(value, float) and math.isinf(value) else value


def _check_parts(recipe: Recipe):
    if not isinstance(recipe.augmentation, Strengths):
        raise SpecError(
            f"augmentation is a Strengths or one of {', '.join(AUGMENTATIONS)}, got {recipe.augmentation!r}."
        )
    if not hasattr(recipe.sampling, "plan"):
        raise SpecError(f"sampling is a configuration such as TumourNormal(), got {recipe.sampling!r}.")


def _check_choices(recipe: Recipe):
    choices = {
        "loss": LOSSES,
        "kind": ("segmenter", "classifier"),
        "monitor": ("accuracy",) if recipe.kind == "classifier" else ("iou", "dice"),
        "stain": ("none", "macenko"),
    }
    for name, allowed in choices.items():
        if getattr(recipe, name) not in allowed:
            raise SpecError(
                f"{name} is one of {', '.join(allowed)}, got {getattr(recipe, name)!r}. Choose one of them."
            )
    if (recipe.loss == "patch") != (recipe.kind == "classifier"):
        raise SpecError(
            f"The loss of a classifier, and of nothing else, is 'patch'; got {recipe.loss!r} for a {recipe.kind}."
        )


def _check_counts(recipe: Recipe):
    least = {"patch": 1, "epochs": 1, "batch": 1, "output_stride": 1, "centre": 1, "keep": 1, "freeze": 0, "seed": 0}
    optional = {"patience": 1, "bundle_patch": 1}
    least |= {name: low for name, low in optional.items() if getattr(recipe, name) is not None}
    for name, low in least.items():
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise SpecError(f"{name} is a whole number from {low} up, got {value!r}.")
    _check_numbers(recipe)


def _check_numbers(recipe: Recipe):
    ranges = {"mpp": (0.05, 50), "width": (0.01, 4), "decay": (0, 1), "pasted": (0, 1)}
    optional = {"average": (1e-6, 1 - 1e-6), "clip": (1e-6, 1e6)}
    ranges |= {name: span for name, span in optional.items() if getattr(recipe, name) is not None}
    for name, (low, high) in ranges.items():
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise SpecError(f"{name} is a number between {low:g} and {high:g}, got {value!r}.")


def _check_rates(recipe: Recipe):
    try:
        starts = [int(start) for start, _ in recipe.rates]
        positive = min(float(rate) for _, rate in recipe.rates) > 0
    except (TypeError, ValueError):
        starts, positive = [], False
    if not positive or starts[0] != 0 or starts != sorted(set(starts)):
        raise SpecError(
            f"rates are (first epoch, rate above 0) from epoch 0 on, ascending, got {recipe.rates!r}. "
            "Write for example ((0, 1e-4), (15, 1e-5))."
        )


_DIGIPATHAI = {
    "mpp": 0.25,
    "patch": 256,
    "bundle_patch": 1024,
    "sampling": TumourNormal(),
    "augmentation": AUGMENTATIONS["digipathai"],
    "loss": "hybrid",
    "epochs": 100,
    "batch": 16,
    "amsgrad": True,
    "patience": 1,
    "chosen": ("mpp",),
}
_AFTER_FREEZE = ((2, 2e-4), (15, 1e-4), (50, 5e-5), (70, 2e-5), (80, 1e-5))
_BCC = {
    "mpp": 1.0,
    "patch": 512,
    "sampling": Strata(),
    "augmentation": AUGMENTATIONS["bcc"],
    "loss": "focal",
    "epochs": 40,
    "rates": stepped(5e-4, factor=0.8, every=5, epochs=40),
    "batch": 64,
    "keep": 5,
    "chosen": ("mpp", "augmentation", "weights"),
}
_TIGER = {
    "mpp": 0.5,
    "patch": 512,
    "sampling": WholePatches(),
    "augmentation": AUGMENTATIONS["tiger"],
    "loss": "soft-dice",
    "activation": "sigmoid",
    "weights": "imagenet",
    "epochs": 25,
    "rates": ((0, 1e-4), (15, 1e-5)),
    "batch": 16,
    "chosen": ("activation",),
}
_V3_DCNN = {
    "mpp": 0.25,
    "augmentation": AUGMENTATIONS["v3_dcnn"],
    "epochs": 30,
    "rates": stepped(1e-4, factor=0.5, every=5, epochs=30),
    "chosen": ("mpp", "sampling", "epochs", "rates", "batch", "weights", "augmentation"),
}


def _digipathai(name: str, architecture: str, *, frozen_rate: float = 1e-5, freeze: int = 2) -> Recipe:
    rates = ((0, frozen_rate), *_AFTER_FREEZE)
    weights = "imagenet" if freeze else None  # DeepLab starts from PASCAL VOC: a file that the user has
    return Recipe(name=name, architecture=architecture, rates=rates, freeze=freeze, weights=weights, **_DIGIPATHAI)


def _dcnn(patch: int, *, batch: int) -> Recipe:
    return Recipe(
        name=f"v3-dcnn-{patch}",
        architecture="atrous-resnet101",
        patch=patch,
        bundle_patch=2560,
        output_stride=8,
        sampling=AllTissue(balance=1.0),
        loss="pixel",
        batch=batch,
        **_V3_DCNN,
    )


_ALL = (
    _digipathai("digipathai-densenet121", "unet-densenet121"),
    _digipathai("digipathai-inceptionresnetv2", "unet-inceptionresnetv2"),
    _digipathai("digipathai-deeplab", "deeplab-xception", frozen_rate=5e-6, freeze=0),
    Recipe(name="bcc-unet", architecture="bcc-unet", **_BCC),
    Recipe(name="bcc-resnet34", architecture="bcc-resnet34", **_BCC),
    Recipe(name="bcc-resnet34-ds", architecture="bcc-resnet34-ds", **_BCC),
    Recipe(name="bcc-resnet34-linear", architecture="bcc-resnet34-linear", **_BCC),
    Recipe(name="tiger-unet-vgg16", architecture="unet-vgg16", **_TIGER),
    Recipe(name="tiger-unet-resnet34", architecture="unet-resnet34", **_TIGER),
    Recipe(name="tiger-fpn-resnet34", architecture="fpn-resnet34", **_TIGER),
    Recipe(
        name="microdosimetry",
        architecture="unet-microdosimetry",
        mpp=1.0,
        patch=256,
        sampling=Tiles(),
        augmentation=AUGMENTATIONS["microdosimetry"],
        loss="soft-dice",
        activation="sigmoid",
        epochs=50,
        rates=((0, 1e-4),),
        batch=16,
        monitor="dice",
        chosen=("mpp", "patch", "epochs", "rates", "batch", "augmentation"),
    ),
    Recipe(
        name="v3-dcnn-classifier",
        architecture="slim-inceptionv3",
        kind="classifier",
        patch=299,
        width=0.1,
        sampling=AllTissue(stride=128),
        loss="patch",
        batch=64,
        monitor="accuracy",
        **_V3_DCNN,
    ),
    _dcnn(321, batch=16),
    _dcnn(768, batch=4),
    _dcnn(1280, batch=1),
    Recipe(
        name="colon-light",
        architecture="unet-mobilenetv2",
        mpp=1.1,
        patch=224,
        output_stride=2,
        sampling=Images(per_epoch=1600),
        augmentation=AUGMENTATIONS["light"],
        loss="hybrid",
        epochs=60,
        rates=cosine(1e-3, epochs=60),
        batch=16,
        monitor="dice",
        decay=1e-2,
        clip=5.0,
        average=0.995,
        pasted=0.25,
    ),
)
RECIPES: dict[str, Recipe] = {one.name: one for one in _ALL}


def recipe(name: str) -> Recipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise SpecError(f"A recipe is one of {', '.join(RECIPES)}, got {name!r}.{nearest(name, RECIPES)}")
    return RECIPES[name]


def replaced(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with other values, given as text as on a command line.

    Args:
        recipe: what to start from.
        changes: field to value; a field within `sampling` or `augmentation` is written with a dot
            ("sampling.per_slide"). Values are Python literals; anything else is taken as a word. The name of an
            augmentation (`digipath.data.augment.RECIPES`) stands for all of it.

    Example:
        >>> replaced(RECIPES["bcc-unet"], {"batch": "8", "augmentation.turn": "0.5"}).batch
        8
    """
    for name, text in changes.items():
        head, _, rest = name.partition(".")
        _check_field(recipe, head, name)
        if rest:
            part = getattr(recipe, head)
            if not dataclasses.is_dataclass(part):
                raise SpecError(f"{head} has no fields of its own, got {name!r}. Set {head} itself.")
            _check_field(part, rest, name)
            recipe = _with(recipe, head, _with(part, rest, _value(text)))
        else:
            value = AUGMENTATIONS.get(text, text) if head == "augmentation" else _value(text)
            recipe = _with(recipe, head, value)
    return recipe


def _with(part: Any, name: str, value: Any) -> Any:
    """The dataclass with another value; of a kind that its checks cannot even compare, the value is refused."""
    try:
        return dataclasses.replace(part, **{name: value})
    except (TypeError, ValueError) as error:
        raise SpecError(f"{name} of {type(part).__name__} cannot be {value!r}: {error}.") from error


def _check_field(part: Any, name: str, whole: str):
    names = [one.name for one in dataclasses.fields(part)]
    if name not in names:
        kind = type(part).__name__
        raise SpecError(f"{kind} has no field {whole!r}.{nearest(name, names)} It has: {', '.join(names)}.")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
