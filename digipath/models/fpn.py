"""A feature pyramid network that segments, on any backbone, in the form that the tiger paper used.

Kirillov et al., "Panoptic feature pyramid networks" (CVPR 2019), as of the library segmentation_models.pytorch: lateral
1x1 convolutions to 256 channels, nearest up-sampling on the way down, then at each stride 3x3 convolutions to 128
channels with group normalisation, up-sampled bilinearly to stride 4 and added; the head is enlarged four times.
Layers are named as the tensors of that library, with "_" for ".".
"""

import math

import keras
from keras import layers, ops

from digipath.models.blocks import Head, probabilities, scaled

PYRAMID, SEGMENTATION = 256, 128
DROPOUT = 0.2


@keras.saving.register_keras_serializable(package="digipath")
class AlignedUpSampling2D(layers.Layer):
    """Bilinear enlargement by a whole factor that keeps the corner pixels' centres where they are.

    Keras places half-pixel centres; networks trained elsewhere with "align_corners" need this one. Each axis is one
    product with a matrix of weights, so that height and width may be unknown on every backend.

    Args:
        factor: rows and columns out per row and column in.
    """

    def __init__(self, factor: int, *, name: str | None = None, dtype=None, trainable: bool = False):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.factor = factor

    def call(self, x):
        """Enlarges (n, rows, columns, channels)."""
        rows, columns = ops.shape(x)[1], ops.shape(x)[2]
        x = ops.einsum("or,nrcf->nocf", self._weights_from(rows, x.dtype), x)
        return ops.einsum("pc,nocf->nopf", self._weights_from(columns, x.dtype), x)

    def _weights_from(self, size, dtype):
        """Weights (size * factor, size) of the values in for the values out: linear in their distance."""
        size_in = ops.cast(size, "float32")
        step = (size_in - 1) / ops.maximum(size_in * self.factor - 1, 1)
        where = ops.cast(ops.arange(size * self.factor), "float32") * step
        distance = ops.abs(where[:, None] - ops.cast(ops.arange(size), "float32")[None, :])
        return ops.cast(ops.relu(1 - distance), dtype)

    def compute_output_shape(self, input_shape):
        """Rows and columns times the factor."""
        n, rows, columns, channels = input_shape
        return (n, rows and rows * self.factor, columns and columns * self.factor, channels)

    def get_config(self) -> dict:
        """What `from_config` needs."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        return {"name": self.name, "dtype": policy, "trainable": self.trainable, "factor": self.factor}


def fpn(encoder: keras.Model, head: Head, *, width: float = 1.0, output_stride: int = 1, name: str) -> keras.Model:
    """The encoder's pyramid, from stride 32 to 4, to class probabilities at the output stride 1, 2 or 4.

    Args:
        encoder: uint8 RGB to five maps at stride 2, 4, 8, 16 and 32.
        head: classes and activation.
        width: factor on the decoder's channels.
        output_stride: pixels of the input per value of the output, along a side.
        name: of the network.
    """
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    maps = encoder(image)[1:]
    merged = []
    x = _lateral(maps[3], width, name="decoder_p5")
    merged.append(_segment(x, width, doublings=3, name="decoder_seg_blocks_0"))
    for number, (level, skip) in enumerate(zip((4, 3, 2), maps[2::-1], strict=True)):
        x = layers.UpSampling2D(interpolation="nearest", name=f"decoder_p{level}_double")(x)
        x = layers.Add(name=f"decoder_p{level}_add")([x, _lateral(skip, width, name=f"decoder_p{level}_skip_conv")])
        merged.append(_segment(x, width, doublings=2 - number, name=f"decoder_seg_blocks_{number + 1}"))
    x = layers.Add(name="decoder_merge")(merged)
    x = layers.SpatialDropout2D(DROPOUT, name="decoder_dropout")(x)
    x = layers.Conv2D(head.channels, 1, dtype="float32", name="logits")(x)
    if output_stride < 4:
        x = AlignedUpSampling2D(4 // output_stride, dtype="float32", name="enlarge")(x)
    return keras.Model(image, probabilities(x, head), name=name)


def _lateral(x, width: float, *, name: str):
    return layers.Conv2D(scaled(PYRAMID, width), 1, name=name)(x)


def _segment(x, width: float, *, doublings: int, name: str):
    """From one stride to stride 4: a 3x3 convolution for each doubling, and one at least."""
    channels = scaled(SEGMENTATION, width)
    for number in range(max(1, doublings)):
        part = f"{name}_block_{number}"
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{part}_block_0")(x)
        groups = math.gcd(32, channels)
        x = layers.GroupNormalization(groups, epsilon=1e-5, name=f"{part}_block_1")(x)
        x = layers.ReLU(name=f"{part}_block_2")(x)
        if doublings:
            x = AlignedUpSampling2D(2, name=f"{part}_double")(x)
    return x
