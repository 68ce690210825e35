"""The UNet decoder of the digipathai paper on any backbone: bilinear up-sampling, skips by stride.

Khened et al., "A generalized deep learning framework for whole-slide image segmentation and analysis" (Scientific
Reports 2021); its filters are 320, 256, 128, 96, 64.
"""

from dataclasses import dataclass

import keras

from digipath.errors import SpecError
from digipath.models.blocks import Head, conv, decode, logits, probabilities, scaled

PAPER_FILTERS = (320, 256, 128, 96, 64)
LIGHT_FILTERS = (128, 96, 64, 24, 16)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A UNet decoder.

    Attributes:
        filters: channels of the steps that reach stride 16, 8, 4, 2 and 1, at width 1.
        width: factor on those channels.
        output_stride: pixels of the input per value of the output, along a side: 1, 2, 4, 8 or 16.
        reduce: whether a 1x1 convolution first brings the encoder's last map to the first step's channels.
    """

    filters: tuple[int, int, int, int, int] = PAPER_FILTERS
    width: float = 1.0
    output_stride: int = 1
    reduce: bool = False

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
