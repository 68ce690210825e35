"""The networks by name: `build` makes one, `rebuild` the one that a spec describes.

A name is a family, its encoder and perhaps a variant (`unet-densenet121`, `bcc-resnet34-ds`), or a whole network
(`atrous-resnet101`). A family takes every encoder of `backbones.BACKBONES`; `architectures()` lists the papers' own.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from digipath.errors import SpecError
from digipath.models import bcc
from digipath.models.atrous_resnet import atrous_resnet
from digipath.models.backbones import BACKBONES, OwnBackbone, encoder
from digipath.models.blocks import Head
from digipath.models.classifier import classifier
from digipath.models.deeplab import deeplab, load_voc_weights
from digipath.models.fpn import fpn
from digipath.models.microdosimetry import microdosimetry
from digipath.models.slim_inception import WIDTH as SLIM_WIDTH
from digipath.models.slim_inception import slim_inception
from digipath.models.spec import ModelSpec
from digipath.models.torch_weights import is_network, load_network
from digipath.models.unet import LIGHT_FILTERS, NEAREST_FILTERS, PAPER_FILTERS, Decoder, nearest_unet, unet

__all__ = ["Family", "Request", "architectures", "build", "canonical", "known", "rebuild"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `build` was asked for.

    Attributes:
        name: the canonical name, which the network bears.
        encoder: a key of `BACKBONES`; empty for a whole network.
        variant: one of the family's.
        head: classes and activation.
        width: factor on the channels.
        output_stride: pixels of the input per value of the output, along a side.
        weights: of the encoder, as `encoder` takes them.
    """

    name: str
    encoder: str
    variant: str
    head: Head
    width: float
    output_stride: int
    weights: str | Path | None

    def pyramid(self, *, output_stride: int = 32) -> keras.Model:
        """The encoder that was asked for: five maps at stride 2, 4, 8, 16 and 32, or dilated beyond a stride."""
        return encoder(self.encoder, weights=self.weights, width=self.width, output_stride=output_stride)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that differ in encoder and variant alone, or one network.

    Attributes:
        build: makes the network.
        encoders: whether an encoder follows in the name (any of `BACKBONES`).
        variants: what may follow the encoder; "" for nothing.
        strides: output strides that it can have, its own first.
        width: its own.
        sides: rows and columns of the input must be multiples of this.
    """

    build: Callable[[Request], keras.Model]
    encoders: bool = True
    variants: tuple[str, ...] = ("",)
    strides: tuple[int, ...] = (1,)
    width: float = 1.0
    sides: int = 32


# Encoders in torchvision's form: the decoders of the tiger paper were published on them, with weights.
_PUBLISHED = ("resnet34", "resnet50", "resnet101", "vgg16")


def _unet(request: Request) -> keras.Model:
    if request.encoder in _PUBLISHED:
        decoder = Decoder(
            filters=NEAREST_FILTERS,
            centre=request.encoder == "vgg16",
            width=request.width,
            output_stride=request.output_stride,
        )
        return nearest_unet(request.pyramid(), decoder, request.head, name=request.name)
    light = request.encoder == "mobilenetv2"
    decoder = Decoder(
        filters=LIGHT_FILTERS if light else PAPER_FILTERS,
        reduce=light,
        width=request.width,
        output_stride=request.output_stride,
    )
    return unet(request.pyramid(), decoder, request.head, name=request.name)


def _bcc(request: Request) -> keras.Model:
    pyramid = request.pyramid()
    ours = isinstance(BACKBONES[request.encoder], OwnBackbone)  # and therefore already of the width
    filters = bcc.halving(pyramid.outputs[-1].shape[-1], width=1.0 if ours else request.width)
    network = {"": bcc.plain, "ds": bcc.deep_supervision, "linear": bcc.linear_merge}[request.variant]
    decoder = bcc.Decoder(filters=filters, output_stride=request.output_stride)
    return network(pyramid, decoder, request.head, name=request.name)


def _microdosimetry(request: Request) -> keras.Model:
    _no_weights(request)
    return microdosimetry(request.head, width=request.width, name=request.name)


def _slim_inception(request: Request) -> keras.Model:
    _no_weights(request)
    return slim_inception(request.head, width=request.width, name=request.name)


def _classifier(request: Request) -> keras.Model:
    return classifier(request.pyramid(), request.head, name=request.name)


def _no_weights(request: Request) -> None:
    if request.weights is not None:
        raise SpecError(f"{request.name} starts from random weights alone, got {request.weights}. Leave weights out.")


def _deeplab(request: Request) -> keras.Model:
    if request.encoder != "xception":
        if request.variant:
            raise SpecError(
                f"The aligned Xception alone is dilated to stride 8, got {request.name!r}. "
                f"Write deeplab-{request.encoder}, or deeplab-xception-{request.variant}."
            )
        return deeplab(request.pyramid(), request.head, width=request.width, name=request.name)
    stride = 8 if request.variant == "os8" else 16
    pyramid = encoder("xception", width=request.width, output_stride=stride)
    network = deeplab(pyramid, request.head, width=request.width, name=request.name)
    if request.weights is not None:
        load_voc_weights(network, request.weights)
    return network


def _fpn(request: Request) -> keras.Model:
    return fpn(
        request.pyramid(), request.head, width=request.width, output_stride=request.output_stride, name=request.name
    )


def _atrous_resnet101(request: Request) -> keras.Model:
    pyramid = encoder("resnet101", weights=request.weights, width=request.width, output_stride=8)
    return atrous_resnet(pyramid, request.head, name=request.name)


FAMILIES: dict[str, Family] = {
    "classifier": Family(build=_classifier),
    "atrous-resnet101": Family(build=_atrous_resnet101, encoders=False, strides=(8,), sides=1),
    "fpn": Family(build=_fpn, strides=(1, 2, 4)),
    "deeplab": Family(build=_deeplab, variants=("", "os8")),
    "bcc": Family(build=_bcc, variants=("", "ds", "linear"), strides=(1, 2, 4, 8, 16)),
    "slim-inceptionv3": Family(build=_slim_inception, encoders=False, width=SLIM_WIDTH, sides=1),
    "unet-microdosimetry": Family(build=_microdosimetry, encoders=False, sides=16),
    "unet": Family(build=_unet, strides=(1, 2, 4, 8, 16)),
}

# The papers' networks, by paper; any other encoder of a family can be built too.
ARCHITECTURES: tuple[str, ...] = (
    "atrous-resnet101",
    "bcc-resnet34",
    "bcc-resnet34-ds",
    "bcc-resnet34-linear",
    "fpn-resnet34",
    "unet-resnet34",
    "unet-vgg16",
    "bcc-unet",
    "bcc-unet-ds",
    "bcc-unet-linear",
    "slim-inceptionv3",
    "unet-microdosimetry",
    "unet-densenet121",
    "unet-mobilenetv2",
    "unet-inceptionresnetv2",
    "deeplab-xception",
    "deeplab-xception-os8",
)


def architectures() -> tuple[str, ...]:
    """Names of the papers' networks and our own; `build` knows every other encoder of their families too."""
    return tuple(sorted(ARCHITECTURES))


def known(name: str) -> bool:
    """Whether `name` is the canonical name of a network that `build` makes."""
    try:
        return canonical(name) == name
    except SpecError:
        return False


def canonical(name: str, *, encoder: str | None = None) -> str:
    """The full name, family-encoder-variant, of `name` with an encoder given apart."""
    if not isinstance(name, str):
        raise SpecError(f"An architecture is a name, got {name!r}. It is one of {', '.join(architectures())}.")
    if encoder is not None:
        if encoder not in BACKBONES:
            raise SpecError(f"encoder is one of {', '.join(BACKBONES)}, got {encoder!r}.{_nearest(encoder, BACKBONES)}")
        family, _, variant = name.partition("-")
        if name in FAMILIES and not FAMILIES[name].encoders:
            raise SpecError(f"{name!r} is a whole network and takes no encoder, got encoder={encoder!r}. Leave it out.")
        if variant and variant.split("-")[0] in BACKBONES:
            raise SpecError(f"The encoder is named once, got {name!r} and encoder={encoder!r}. Leave one out.")
        name = "-".join(part for part in (family, encoder, variant) if part)
    _parts(name)
    return name


def _parts(name: str) -> tuple[Family, str, str]:
    """Family, encoder and variant of a full name."""
    if name in FAMILIES and not FAMILIES[name].encoders:
        return FAMILIES[name], "", ""
    family, _, rest = name.partition("-")
    encoder, _, variant = rest.partition("-")
    if family in FAMILIES and encoder in BACKBONES and variant in FAMILIES[family].variants:
        return FAMILIES[family], encoder, variant
    if name in FAMILIES:
        raise SpecError(
            f"{name!r} needs an encoder, got none. Write for example {name}-resnet34, or encoder='resnet34'; "
            f"there are {', '.join(BACKBONES)}."
        )
    every = [*architectures(), *FAMILIES, *(f"{f}-{e}" for f in FAMILIES if FAMILIES[f].encoders for e in BACKBONES)]
    raise SpecError(
        f"An architecture is one of {', '.join(architectures())}, got {name!r}.{_nearest(name, every)} "
        f"Any encoder goes with {', '.join(f for f in FAMILIES if FAMILIES[f].encoders)}: {', '.join(BACKBONES)}."
    )


def _nearest(name: object, names) -> str:
    if not isinstance(name, str):
        return " Give its name."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    return f" Did you mean {near[0]!r}?" if near else ""


def build(
    name: str,
    *,
    encoder: str | None = None,
    classes: int = 2,
    activation: str = "softmax",
    width: float | None = None,
    output_stride: int | None = None,
    weights: str | Path | None = None,
) -> keras.Model:
    """A network of the catalogue, uint8 RGB in, float32 probabilities out, with free height and width.

    Args:
        name: one of `architectures()`, or a family with any encoder: "unet-resnet101", "bcc-densenet121-ds".
        encoder: the encoder, where the name has none: `build("fpn", encoder="densenet121")`.
        classes: number of classes; a sigmoid tells two apart in one channel, the probability of the second.
        activation: "softmax" or "sigmoid".
        width: factor on the channels of the decoder and of encoders that are not keras.applications'; None for the
            network's own.
        output_stride: pixels of the input per value of the output, along a side; None for the network's own.
        weights: of the encoder: None for random ones, "imagenet", or the path of a weights file without top; for
            DeepLab on Xception, the path of its PASCAL VOC weights.

    Example:
        >>> build("unet-mobilenetv2", output_stride=2).output.shape
        (None, None, None, 2)
    """
    name = canonical(name, encoder=encoder)
    family, encoder, variant = _parts(name)
    whole = weights is not None and _takes_network(name) and is_network(weights)
    request = Request(
        name=name,
        encoder=encoder,
        variant=variant,
        head=Head(classes=classes, activation=activation),
        width=_checked_width(family.width if width is None else width),
        output_stride=_checked_stride(family, output_stride, name),
        weights=None if whole else weights,
    )
    model = family.build(request)
    if whole:
        load_network(weights, model)
    if family.sides > 1:
        model.input_spec = _sides(family.sides)
    return model


def _takes_network(name: str) -> bool:
    """Whether whole networks of that name are published for the library whose form ours has."""
    family, _, encoder = name.partition("-")
    return family in ("fpn", "unet") and encoder in _PUBLISHED


def _checked_width(width: float) -> float:
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 4:
        raise SpecError(f"width multiplies channels, above 0 and up to 4, got {width!r}. Correct it.")
    return float(width)


def _checked_stride(family: Family, stride: int | None, name: str) -> int:
    stride = family.strides[0] if stride is None else stride
    if stride not in family.strides:
        allowed = ", ".join(str(known) for known in family.strides)
        advice = "Choose one of them."
        if name.startswith("deeplab-"):
            advice = "That of the encoder is in the name: deeplab-xception has 16, deeplab-xception-os8 has 8."
        raise SpecError(f"The output_stride of {name} is one of {allowed}, got {stride!r}. {advice}")
    return stride


class _Multiple:
    """A side that must be a multiple of a number, where Keras compares sides and shows them in its error."""

    def __init__(self, of: int):
        self.of = of

    def __eq__(self, side):
        return isinstance(side, int) and side % self.of == 0

    def __hash__(self):
        return hash(self.of)

    def __repr__(self):
        return f"a multiple of {self.of}"


def _sides(multiple: int) -> keras.layers.InputSpec:
    """What the network's input must look like; Keras checks it on every call."""
    spec = keras.layers.InputSpec(ndim=4)
    spec.shape = (None, _Multiple(multiple), _Multiple(multiple), 3)
    return spec


def rebuild(spec: ModelSpec) -> keras.Model:
    """The network that `spec` describes, with random weights."""
    return build(
        spec.architecture,
        classes=len(spec.classes),
        activation=spec.activation,
        width=spec.width,
        output_stride=spec.output_stride,
    )
