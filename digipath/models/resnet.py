"""ResNet-34, -50 and -101 as a feature pyramid, in the form whose ImageNet weights are published for torchvision.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the stride of a bottleneck in its 3x3
convolution ("v1.5"). No convolution has a bias, every padding is symmetric, batch normalisation has epsilon 1e-5.
Layers are named as the tensors of those weights, with "_" for ".". The network of that name in keras.applications is
another one: its convolutions have biases, and the stride sits in the first 1x1.
"""

from dataclasses import dataclass

from keras import layers

from digipath.models.blocks import conv_norm, scaled

BLOCKS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """One of the four stages: its blocks' channels, and how its first block and the others move over the map."""

    name: str
    blocks: int
    channels: int
    expansion: int
    stride: int
    dilation: int
    first_dilation: int


def resnet(x, *, depth: int, width: float = 1.0, output_stride: int = 32) -> list:
    """Maps at stride 2, 4, 8, 16 and 32 of an image already scaled.

    Args:
        x: the image, float32.
        depth: 34, 50 or 101.
        width: factor on the channels.
        output_stride: 32, 16 or 8: later stages keep that stride and dilate their convolutions by 2, then 4 (Chen et
            al., "DeepLab", TPAMI 2018), so that the weights are the same.
    """
    x = conv_norm(x, scaled(64, width), kernel=7, stride=2, names=("conv1", "bn1"))
    x = layers.ReLU(name="relu")(x)
    maps = [x]
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # after a ReLU, zero is as good as minus infinity
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)
    for stage in _stages(depth, width, output_stride):
        for block in range(stage.blocks):
            x = _block(x, stage, block)
        maps.append(x)
    return maps


def _stages(depth: int, width: float, output_stride: int) -> list[_Stage]:
    """Once the output stride is reached, a stride of 2 becomes a dilation, from the next convolution on."""
    stages, reached, dilation = [], 4, 1
    for number, blocks in enumerate(BLOCKS[depth]):
        stride, first_dilation = (1 if number == 0 else 2), dilation
        if stride == 2 and reached == output_stride:
            stride, dilation = 1, dilation * 2
        reached *= stride
        stages.append(
            _Stage(
                name=f"layer{number + 1}",
                blocks=blocks,
                channels=scaled(64 * 2**number, width),
                expansion=1 if depth < 50 else 4,
                stride=stride,
                dilation=dilation,
                first_dilation=first_dilation,
            )
        )
    return stages


def _block(x, stage: _Stage, number: int):
    """The shortcut, projected where a stage begins with other channels or stride, plus the residual."""
    name, first = f"{stage.name}_{number}", number == 0
    stride = stage.stride if first else 1
    dilation = stage.first_dilation if first else stage.dilation
    residual = _basic if stage.expansion == 1 else _bottleneck
    y = residual(x, stage.channels, stride=stride, dilation=dilation, name=name)
    channels = stage.channels * stage.expansion
    if first and (stage.name != "layer1" or stage.expansion > 1):
        names = (f"{name}_downsample_0", f"{name}_downsample_1")
        x = conv_norm(x, channels, kernel=1, stride=stride, names=names)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def _basic(x, channels: int, *, stride: int, dilation: int, name: str):
    x = conv_norm(x, channels, stride=stride, dilation=dilation, names=(f"{name}_conv1", f"{name}_bn1"))
    x = layers.ReLU(name=f"{name}_relu1")(x)
    return conv_norm(x, channels, dilation=dilation, names=(f"{name}_conv2", f"{name}_bn2"))


def _bottleneck(x, channels: int, *, stride: int, dilation: int, name: str):
    x = conv_norm(x, channels, kernel=1, names=(f"{name}_conv1", f"{name}_bn1"))
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = conv_norm(x, channels, stride=stride, dilation=dilation, names=(f"{name}_conv2", f"{name}_bn2"))
    x = layers.ReLU(name=f"{name}_relu2")(x)
    return conv_norm(x, channels * 4, kernel=1, names=(f"{name}_conv3", f"{name}_bn3"))
