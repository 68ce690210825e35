"""The UNets of the basal cell carcinoma paper: its own encoder, and its decoder on any encoder.

Le'Clerc Arrastia et al., "Deeply supervised UNet for semantic segmentation to assist dermatopathological assessment of
basal cell carcinoma" (Journal of Imaging 2021). Its decoder has five blocks; block l returns maps of stride 16 / 2^l,
and a 1x1 convolution makes a score map of them. Three networks use these scores: `plain` the last one, and
`deep_supervision` and `linear_merge` all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
from keras import layers, ops

from digipath.errors import SpecError
from digipath.models.blocks import Head, conv, logits, probabilities, scaled
from digipath.models.exits import STRIDES

__all__ = [
    "ENCODER_FILTERS",
    "Decoder",
    "LinearMerge",
    "deep_supervision",
    "early_exit",
    "encoder_maps",
    "halving",
    "linear_merge",
    "plain",
]

ENCODER_FILTERS = (64, 128, 256, 512, 1024)


def halving(channels: int, *, width: float = 1.0) -> tuple[int, ...]:
    """The decoder's filters: each block halves the channels, from those of the encoder's last map; 8 at least."""
    return tuple(max(8, scaled(channels // 2 ** (block + 1), width)) for block in range(len(STRIDES)))


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The blocks of a decoder.

    Attributes:
        filters: channels of the blocks that reach stride 16, 8, 4, 2 and 1; `halving` makes the paper's.
        output_stride: pixels of the input per value of the last block's maps: 1, or 2, 4, 8, 16 for fewer blocks.
    """

    filters: tuple[int, ...]
    output_stride: int = 1

    def __post_init__(self):
        if self.output_stride not in STRIDES:
            raise SpecError(f"The output_stride of this decoder is 1, 2, 4, 8 or 16, got {self.output_stride}.")
        if len(self.filters) != len(STRIDES) or min(self.filters) < 1:
            raise SpecError(f"A decoder has filters for five blocks, got {self.filters}.")

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """(number, stride, filters) of every block, from coarse to fine."""
        steps = zip(range(len(STRIDES)), STRIDES, self.filters, strict=True)
        return [step for step in steps if step[1] >= self.output_stride]


def encoder_maps(x, *, width: float = 1.0, output_stride: int = 32) -> list:  # noqa: ARG001 (it has one stride)
    """The paper's encoder: a scaled image to its five maps at stride 2, 4, 8, 16 and 32.

    Args:
        x: (n, rows, columns, 3); the paper says nothing of its scale.
        width: factor on the channels.
        output_stride: 32; the encoder knows no other.
    """
    first, *others = (scaled(channels, width) for channels in ENCODER_FILTERS)
    maps = [conv(x, first, kernel=7, strides=2, name="stem")]
    for number, channels in enumerate(others, start=1):
        x = conv(maps[-1], channels, strides=2, name=f"down_{number}_1")
        maps.append(conv(x, channels, name=f"down_{number}_2"))
    return maps


def plain(encoder: keras.Model, decoder: Decoder, head: Head, *, name: str) -> keras.Model:
    """The network whose last score map alone is used."""
    image, maps = _decoded(encoder, decoder)
    *_, (number, last) = maps
    return keras.Model(image, _psi(last, head, number), name=name)


def deep_supervision(encoder: keras.Model, decoder: Decoder, head: Head, *, name: str) -> keras.Model:
    """The network that returns the probabilities psi_0 ... psi_4 of every block, from coarse to fine.

    Psi_l has side (input / 16) * 2^l; the last is the segmentation.
    """
    image, maps = _decoded(encoder, decoder)
    return keras.Model(image, [_psi(x, head, number) for number, x in maps], name=name)


def linear_merge(encoder: keras.Model, decoder: Decoder, head: Head, *, name: str) -> keras.Model:
    """The network that adds the score maps of all blocks, enlarged and weighted, before the one softmax (Eq. 2)."""
    image, maps = _decoded(encoder, decoder)
    scores = []
    for number, x in maps:
        score, times = logits(x, head, name=f"score_{number}"), STRIDES[number] // decoder.output_stride
        enlarge = layers.UpSampling2D(times, interpolation="bilinear", dtype="float32", name=f"enlarge_{number}")
        scores.append(enlarge(score) if times > 1 else score)
    merged = LinearMerge(dtype="float32", name="merge")(scores)
    return keras.Model(image, probabilities(merged, head), name=name)


def early_exit(model: keras.Model, block: int) -> keras.Model:
    """The network cut after a block of its decoder: psi_block is its only output; the weights are shared.

    What is cut off is not computed. The result is the `plain` network of output stride 16 / 2^block, with the same
    names of its weights. `Bundle.early_exit` cuts network and specification together.

    Args:
        model: a network with deep supervision.
        block: 0 for the coarsest.
    """
    names = {layer.name for layer in model.layers}
    supervised = [number for number in range(len(STRIDES)) if f"psi_{number}" in names]
    if not supervised or supervised != list(range(len(model.outputs))):
        raise SpecError(
            f"An early exit needs a network with deep supervision, and {model.name} has none: its blocks were not "
            "trained to segment. Train one whose name ends in '-ds'."
        )
    if isinstance(block, bool) or block not in supervised:
        raise SpecError(
            f"{model.name} can be left after one of its blocks {supervised[0]} to {supervised[-1]}, got {block!r}. "
            "0 is the coarsest."
        )
    cut = keras.Model(model.inputs[0], model.get_layer(f"psi_{block}").output, name=model.name.removesuffix("-ds"))
    cut.input_spec = model.input_spec
    return cut


@keras.saving.register_keras_serializable("digipath")
class LinearMerge(layers.Layer):
    """The sum of score maps of one size, weighted by a trainable w.

    It begins with the last map alone, which is the plain network; the others join as far as they help.
    """

    def build(self, shapes):
        """Makes w, one weight a map."""
        count = len(shapes)
        self.w = self.add_weight(
            name="w", shape=(count,), initializer=lambda _, dtype: ops.one_hot(count - 1, count, dtype=dtype)
        )

    def call(self, scores):
        """The weighted sum of a list of (n, rows, columns, channels) maps."""
        return sum(self.w[number] * score for number, score in enumerate(scores))

    def compute_output_shape(self, shapes):
        """The shape of any of the maps."""
        return shapes[-1]


def _decoded(encoder: keras.Model, decoder: Decoder) -> tuple[keras.KerasTensor, Iterator]:
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    return image, _blocks(encoder(image), decoder)


def _blocks(pyramid: list, decoder: Decoder) -> Iterator[tuple[int, keras.KerasTensor]]:
    """Number and maps of every block: doubled, joined with the encoder's map of that size, convolved twice."""
    skips = dict(zip((2, 4, 8, 16), pyramid[:-1], strict=True))
    x = pyramid[-1]
    for number, stride, filters in decoder.blocks:
        x = layers.UpSampling2D(interpolation="bilinear", name=f"block_{number}_double")(x)
        if stride in skips:
            x = layers.Concatenate(name=f"block_{number}_join")([x, skips[stride]])
        x = conv(conv(x, filters, name=f"block_{number}_1"), filters, name=f"block_{number}_2")
        yield number, x


def _psi(x, head: Head, number: int):
    """A block's probabilities: its maps through a 1x1 convolution and the head's activation, in float32."""
    return probabilities(logits(x, head, name=f"score_{number}"), head, name=f"psi_{number}")
