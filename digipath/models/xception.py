"""The aligned Xception, encoder of DeepLabV3+: 65 layers, separable convolutions with a stride instead of pooling.

Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (ECCV 2018), after
Chollet, "Xception" (CVPR 2017). Convolutions pad alike on both sides, as in training the published PASCAL VOC weights;
layers are named as in the Keras layout of those weights, so that they load by name.
"""

from dataclasses import dataclass

from keras import layers

from digipath.models.blocks import scaled

UNITS = 16  # of the middle flow


@dataclass(frozen=True, kw_only=True)
class Separable:
    """How a separable convolution is made.

    Attributes:
        stride: of the 3x3 depthwise convolution.
        rate: its dilation.
        after: whether a ReLU follows each of the two convolutions; else one ReLU comes before them.
        epsilon: of the batch normalisation.
    """

    stride: int = 1
    rate: int = 1
    after: bool = False
    epsilon: float = 1e-3


def separable(x, filters: int, form: Separable, *, name: str):
    """A 3x3 depthwise and a 1x1 convolution, each batch-normalised."""
    if not form.after:
        x = layers.ReLU(name=f"{name}_relu")(x)
    padding = "same"
    if form.stride > 1:
        x = layers.ZeroPadding2D(form.rate, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.DepthwiseConv2D(
        3,
        strides=form.stride,
        dilation_rate=form.rate,
        padding=padding,
        use_bias=False,
        name=f"{name}_depthwise",
    )(x)
    x = normalised(x, relu=form.after, epsilon=form.epsilon, name=f"{name}_depthwise")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
    return normalised(x, relu=form.after, epsilon=form.epsilon, name=f"{name}_pointwise")


def normalised(x, *, relu: bool, epsilon: float, name: str):
    """Batch normalisation of the convolution `name`, and a ReLU where asked for."""
    x = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_BN")(x)
    return layers.ReLU(name=f"{name}_activation")(x) if relu else x


def aligned_xception(x, *, width: float = 1.0, output_stride: int = 32) -> list:
    """Five maps at stride 2, 4, 8, 16 and 32, each but the last behind the second convolution of a block.

    Args:
        x: image in [-1, 1].
        width: factor on the channels.
        output_stride: 32, or 16 or 8: no map is coarser, later convolutions are dilated instead.
    """
    third = 1 if output_stride == 8 else 2  # stride of the entry flow's last block
    last = 2 if output_stride == 32 else 1
    rate = 2 // third  # of all that follows the entry flow
    stride2 = _stem(x, width)
    x, _ = _block(stride2, (128, 128, 128), Separable(stride=2), width=width, name="entry_flow_block1")
    x, stride4 = _block(x, (256, 256, 256), Separable(stride=2), width=width, name="entry_flow_block2")
    x, stride8 = _block(x, (728, 728, 728), Separable(stride=third), width=width, name="entry_flow_block3")
    for unit in range(1, UNITS + 1):
        x = _unit(x, Separable(rate=rate), width=width, name=f"middle_flow_unit_{unit}")
    form = Separable(stride=last, rate=rate)
    x, stride16 = _block(x, (728, 1024, 1024), form, width=width, name="exit_flow_block1")
    form = Separable(rate=rate * 2 // last, after=True)
    x, _ = _convolutions(x, (1536, 1536, 2048), form, width=width, name="exit_flow_block2")
    return [stride2, stride4, stride8, stride16, x]


def _stem(x, width: float):
    """Two 3x3 convolutions, the first at stride 2."""
    x = layers.ZeroPadding2D(1, name="entry_flow_conv1_1_pad")(x)
    x = layers.Conv2D(scaled(32, width), 3, strides=2, use_bias=False, name="entry_flow_conv1_1")(x)
    x = normalised(x, relu=True, epsilon=1e-3, name="entry_flow_conv1_1")
    x = layers.Conv2D(scaled(64, width), 3, padding="same", use_bias=False, name="entry_flow_conv1_2")(x)
    return normalised(x, relu=True, epsilon=1e-3, name="entry_flow_conv1_2")


def _block(x, filters: tuple[int, int, int], form: Separable, *, width: float, name: str):
    """Three separable convolutions beside a 1x1 one, the last of them with the stride; also the second one's map."""
    y, second = _convolutions(x, filters, form, width=width, name=name)
    shortcut = layers.Conv2D(
        scaled(filters[-1], width), 1, strides=form.stride, use_bias=False, name=f"{name}_shortcut"
    )(x)
    shortcut = normalised(shortcut, relu=False, epsilon=1e-3, name=f"{name}_shortcut")
    return layers.Add(name=f"{name}_add")([y, shortcut]), second


def _unit(x, form: Separable, *, width: float, name: str):
    """Three separable convolutions beside the identity."""
    y, _ = _convolutions(x, (728, 728, 728), form, width=width, name=name)
    return layers.Add(name=f"{name}_add")([y, x])


def _convolutions(x, filters: tuple[int, int, int], form: Separable, *, width: float, name: str):
    """Three separable convolutions, the last of them with the stride; also the second one's map."""
    dense = Separable(rate=form.rate, after=form.after)
    x = separable(x, scaled(filters[0], width), dense, name=f"{name}_separable_conv1")
    second = separable(x, scaled(filters[1], width), dense, name=f"{name}_separable_conv2")
    return separable(second, scaled(filters[2], width), form, name=f"{name}_separable_conv3"), second
