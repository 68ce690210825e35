"""The networks by name: `build` makes one, `rebuild` the one that a spec describes."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from digipath.errors import SpecError
from digipath.models.backbones import encoder
from digipath.models.spec import ModelSpec
from digipath.models.unet import LIGHT_FILTERS, PAPER_FILTERS, Decoder, unet


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `build` was asked for, beside the name."""

    classes: int
    activation: str
    width: float
    output_stride: int
    weights: str | Path | None

    def decoder(self, filters: tuple[int, int, int, int, int], *, reduce: bool) -> Decoder:
        """The UNet decoder that was asked for."""
        return Decoder(
            filters=filters,
            reduce=reduce,
            width=self.width,
            output_stride=self.output_stride,
            classes=self.classes,
            activation=self.activation,
        )


def _unet_densenet121(request: Request) -> keras.Model:
    pyramid = encoder("densenet121", weights=request.weights)
    return unet(pyramid, request.decoder(PAPER_FILTERS, reduce=False), name="unet-densenet121")


def _unet_mobilenetv2(request: Request) -> keras.Model:
    pyramid = encoder("mobilenet_v2_035", weights=request.weights)
    return unet(pyramid, request.decoder(LIGHT_FILTERS, reduce=True), name="unet-mobilenetv2")


ARCHITECTURES: dict[str, Callable[[Request], keras.Model]] = {
    "unet-densenet121": _unet_densenet121,
    "unet-mobilenetv2": _unet_mobilenetv2,
}


def architectures() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(sorted(ARCHITECTURES))


def build(
    name: str,
    *,
    classes: int = 2,
    activation: str = "softmax",
    width: float = 1.0,
    output_stride: int = 1,
    weights: str | Path | None = None,
) -> keras.Model:
    """A network of the catalogue, uint8 RGB in, float32 probabilities out, with free height and width.

    Args:
        name: one of `architectures()`.
        classes: number of classes; a sigmoid tells two apart in one channel, the probability of the second.
        activation: "softmax" or "sigmoid".
        width: factor on the decoder's channels.
        output_stride: pixels of the input per value of the output, along a side.
        weights: of the encoder: None for random ones, "imagenet", or the path of a weights file without top.

    Example:
        >>> build("unet-mobilenetv2", output_stride=2).output.shape
        (None, None, None, 2)
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"An architecture is one of {', '.join(architectures())}, got {name!r}.{hint}")
    if classes < 2:
        raise SpecError(f"A network tells at least two classes apart, got classes={classes}.")
    request = Request(classes=classes, activation=activation, width=width, output_stride=output_stride, weights=weights)
    return ARCHITECTURES[name](request)


def rebuild(spec: ModelSpec) -> keras.Model:
    """The network that `spec` describes, with random weights."""
    return build(
        spec.architecture,
        classes=len(spec.classes),
        activation=spec.activation,
        width=spec.width,
        output_stride=spec.output_stride,
    )
