"""DeepLabV3+: atrous spatial pyramid pooling on an encoder's last map, refined with its map at stride 4.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (ECCV 2018), on the
aligned Xception as in Khened et al. (Scientific Reports 2021). Two things differ from the published weights' own code:
the pooled image is broadcast and not resized, which gives the same values, and maps are enlarged about pixel centres,
as everything here is, not from corner to corner.
"""

from pathlib import Path

import keras
from keras import layers

from digipath.errors import SpecError
from digipath.models.blocks import Head, logits, probabilities, scaled
from digipath.models.voc_weights import load_voc
from digipath.models.xception import Separable, normalised, separable

# Rates of the paper by the stride of the map that they are used on; at stride 32, which the paper does not use,
# those that reach as far in the image.
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
CHANNELS, LOW_LEVEL = 256, 48
EPSILON = 1e-5  # of the decoder's batch normalisation, in the published weights
LOW_STRIDE = 4


def deeplab(encoder: keras.Model, head: Head, *, width: float = 1.0, name: str = "deeplab") -> keras.Model:
    """The encoder's pyramid decoded to class probabilities, (n, rows, columns, channels) float32.

    Args:
        encoder: uint8 RGB to a feature pyramid, the second map at stride 4, the last at stride 8, 16 or 32.
        head: classes and activation.
        width: factor on the decoder's channels.
        name: of the network.
    """
    stride = _last_stride(encoder)
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    pyramid = encoder(image)
    x = _pooled_at_rates(pyramid[-1], RATES[stride], scaled(CHANNELS, width))
    x = layers.Dropout(0.1, name="concat_projection_dropout")(x)
    x = _enlarged(x, stride // LOW_STRIDE, name="decoder_enlarge")
    low = _conv(pyramid[1], scaled(LOW_LEVEL, width), name="feature_projection0")
    x = layers.Concatenate(name="decoder_join")([x, low])
    for number in range(2):
        form = Separable(after=True, epsilon=EPSILON)
        x = separable(x, scaled(CHANNELS, width), form, name=f"decoder_conv{number}")
    x = _enlarged(logits(x, head), LOW_STRIDE, name="logits_enlarge", dtype="float32")
    return keras.Model(image, probabilities(x, head), name=name)


def _last_stride(encoder: keras.Model) -> int:
    side = 8 * max(RATES)
    shapes = encoder.compute_output_shape((1, side, side, 3))
    low, last = side // shapes[1][1], side // shapes[-1][1]
    if low != LOW_STRIDE or last not in RATES:
        raise SpecError(
            f"DeepLab needs an encoder whose second map has stride {LOW_STRIDE} and whose last has one of "
            f"{tuple(RATES)}, got {low} and {last} from {encoder.name}. Choose another encoder."
        )
    return last


def _pooled_at_rates(x, rates: tuple[int, int, int], channels: int):
    """Atrous spatial pyramid pooling: the pooled image, a 1x1 and three dilated convolutions, joined and projected."""
    plain = _conv(x, channels, name="aspp0")
    branches = [_image_pooling(x, plain), plain]
    for number, rate in enumerate(rates, start=1):
        form = Separable(rate=rate, after=True, epsilon=EPSILON)
        branches.append(separable(x, channels, form, name=f"aspp{number}"))
    x = layers.Concatenate(name="aspp_join")(branches)
    return _conv(x, channels, name="concat_projection")


def _image_pooling(x, like):
    """The image's mean through a 1x1 convolution, repeated over the rows and columns of `like`."""
    channels = like.shape[-1]
    x = layers.GlobalAveragePooling2D(keepdims=True, name="image_pooling_mean")(x)
    x = _conv(x, channels, name="image_pooling")
    nothing = layers.Rescaling(0.0, name="image_pooling_zeros")(like)  # carries the size, which is free
    return layers.Add(name="image_pooling_broadcast")([x, nothing])


def _conv(x, filters: int, *, name: str):
    """A 1x1 convolution, batch-normalised, through a ReLU."""
    x = layers.Conv2D(filters, 1, use_bias=False, name=name)(x)
    return normalised(x, relu=True, epsilon=EPSILON, name=name)


def _enlarged(x, factor: int, *, name: str, dtype: str | None = None):
    return layers.UpSampling2D(factor, interpolation="bilinear", dtype=dtype, name=name)(x)


def load_voc_weights(model: keras.Model, path: str | Path) -> None:
    """Fills a DeepLabV3+ on the aligned Xception from a PASCAL VOC file, all but its class layer.

    Args:
        model: what `deeplab` made on that encoder, at width 1 for the published file.
        path: `deeplabv3_xception_tf_dim_ordering_tf_kernels.h5`, or another of that layout.
    """
    load_voc(path, [layer for layer in _flat(model) if layer.name != "logits"])


def _flat(model: keras.Model) -> list:
    """The layers of a network and of the networks in it."""
    return [inner for layer in model.layers for inner in (_flat(layer) if isinstance(layer, keras.Model) else [layer])]
