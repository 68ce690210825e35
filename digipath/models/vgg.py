"""VGG16 as a feature pyramid, in the form whose ImageNet weights are published for torchvision.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015): biases, no
batch normalisation. Layers are named as the tensors of those weights, with "_" for ".".
"""

from keras import layers

from digipath.models.blocks import scaled

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(x, *, width: float = 1.0, output_stride: int = 32) -> list:  # noqa: ARG001 (it has one stride)
    """Maps at stride 2, 4, 8, 16 and 32 of an image already scaled: each block's last, and the last one pooled."""
    maps, number = [], 0
    for channels, convolutions in BLOCKS:
        for _ in range(convolutions):
            x = layers.Conv2D(
                scaled(channels, width),
                3,
                padding="same",
                kernel_initializer="he_normal",
                name=f"features_{number}",
            )(x)
            x = layers.ReLU(name=f"features_{number + 1}")(x)
            number += 2
        maps.append(x)
        x = layers.MaxPooling2D(2, name=f"features_{number}")(x)
        number += 1
    return [*maps[1:], x]
