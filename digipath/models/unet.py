"""The UNet decoders of two papers, on any backbone: skips by stride.

`unet`, of the digipathai paper: Khened et al., "A generalized deep learning framework for whole-slide image
segmentation and analysis" (Scientific Reports 2021). Bilinear up-sampling, a convolution before and one after the skip,
1x1 head; its filters are 320, 256, 128, 96, 64.

`nearest_unet`, of the tiger paper, which took it from the library segmentation_models.pytorch: nearest up-sampling, two
convolutions after the skip, 3x3 head; its filters are 256, 128, 64, 32, 16. Layers are named as the tensors of that
library, with "_" for ".".
"""

from dataclasses import dataclass

import keras
from keras import layers

from digipath.errors import SpecError
from digipath.models.blocks import Head, conv, conv_norm, decode, logits, probabilities, scaled

PAPER_FILTERS = (320, 256, 128, 96, 64)
NEAREST_FILTERS = (256, 128, 64, 32, 16)
LIGHT_FILTERS = (128, 96, 64, 24, 16)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A UNet decoder.

    Attributes:
        filters: channels of the steps that reach stride 16, 8, 4, 2 and 1, at width 1.
        width: factor on those channels.
        output_stride: pixels of the input per value of the output, along a side: 1, 2, 4, 8 or 16.
        reduce: whether a 1x1 convolution first brings the encoder's last map to the first step's channels (`unet`).
        centre: whether two convolutions first refine the encoder's last map, as on VGG (`nearest_unet`).
    """

    filters: tuple[int, int, int, int, int] = PAPER_FILTERS
    width: float = 1.0
    output_stride: int = 1
    reduce: bool = False
    centre: bool = False

    def __post_init__(self):
        if self.output_stride not in (1, 2, 4, 8, 16):
            raise SpecError(f"A UNet's output_stride is 1, 2, 4, 8 or 16, got {self.output_stride}.")
        if not 0 < self.width <= 4:
            raise SpecError(f"width multiplies the decoder's channels, above 0 and up to 4, got {self.width}.")

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(stride, channels) of every step, from coarse to fine."""
        widths = [scaled(channels, self.width) for channels in self.filters]
        steps = zip((16, 8, 4, 2, 1), widths, strict=True)
        return [(stride, channels) for stride, channels in steps if stride >= self.output_stride]


def unet(encoder: keras.Model, decoder: Decoder, head: Head, *, name: str) -> keras.Model:
    """The encoder's pyramid decoded to class probabilities, (n, rows / stride, columns / stride, channels) float32."""
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    pyramid = encoder(image)
    skips = dict(zip((2, 4, 8, 16), pyramid[:-1], strict=True))
    x = pyramid[-1]
    if decoder.reduce:
        x = conv(x, decoder.steps[0][1], kernel=1, name="reduce")
    for stride, filters in decoder.steps:
        x = decode(x, skips.get(stride), filters, name=f"decoder_{stride}")
    return keras.Model(image, probabilities(logits(x, head), head), name=name)


def nearest_unet(encoder: keras.Model, decoder: Decoder, head: Head, *, name: str) -> keras.Model:
    """The encoder's pyramid decoded to class probabilities, (n, rows / stride, columns / stride, channels) float32."""
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    pyramid = encoder(image)
    skips = dict(zip((2, 4, 8, 16), pyramid[:-1], strict=True))
    x = pyramid[-1]
    if decoder.centre:
        x = _refine(x, x.shape[-1], names=("decoder_center_0", "decoder_center_1"))
    for number, (stride, filters) in enumerate(decoder.steps):
        block = f"decoder_blocks_{number}"
        x = layers.UpSampling2D(interpolation="nearest", name=f"{block}_double")(x)
        if stride in skips:
            x = layers.Concatenate(name=f"{block}_join")([x, skips[stride]])
        x = _refine(x, filters, names=(f"{block}_conv1", f"{block}_conv2"))
    return keras.Model(image, probabilities(logits(x, head, kernel=3), head), name=name)


def _refine(x, filters: int, *, names: tuple[str, str]):
    """Two convolutions, each batch-normalised, through a ReLU."""
    for name in names:
        x = conv_norm(x, filters, names=(f"{name}_0", f"{name}_1"))
        x = layers.ReLU(name=f"{name}_2")(x)
    return x
