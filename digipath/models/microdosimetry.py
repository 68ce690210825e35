"""The UNet of the microdosimetry paper.

Weishaupt et al., "Deep learning-based tumor segmentation on digital images of histopathology slides for microdosimetry
applications" (2021), Appendix 1. It names no filter counts: 64, doubled by each of the four poolings, are those of the
original UNet (Ronneberger et al. 2015), and so is halving them at each transposed convolution.
"""

import keras
from keras import layers

from digipath.models.blocks import Head, conv, logits, probabilities, scaled

__all__ = ["BASE_FILTERS", "DEPTH", "DROPOUT", "microdosimetry"]

BASE_FILTERS = 64
DEPTH = 4
DROPOUT = 0.5


def microdosimetry(head: Head, *, width: float = 1.0, name: str) -> keras.Model:
    """Uint8 RGB, sides divisible by 16, to probabilities of the same size.

    Args:
        head: the paper's has one sigmoid channel.
        width: factor on the channels.
        name: of the network.
    """
    filters = [scaled(BASE_FILTERS * 2**step, width) for step in range(DEPTH + 1)]
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    skips = []
    for step, channels in enumerate(filters[:-1]):
        x, skip = _contract(x, channels, name=f"down_{step}")
        skips.append(skip)
    x = _block(x, filters[-1], name="bottom")
    for step in reversed(range(DEPTH)):
        x = _expand(x, skips[step], filters[step], name=f"up_{step}")
    return keras.Model(image, probabilities(logits(x, head), head), name=name)


def _block(x, filters: int, *, name: str):
    """Twice: a 3x3 convolution, batch normalisation, ReLU."""
    return conv(conv(x, filters, name=f"{name}_1"), filters, name=f"{name}_2")


def _contract(x, filters: int, *, name: str):
    """One step down, and what the step up of the same depth is given."""
    skip = _block(x, filters, name=name)
    x = layers.MaxPooling2D(name=f"{name}_pool")(skip)
    return layers.Dropout(DROPOUT, name=f"{name}_dropout")(x), skip


def _expand(x, skip, filters: int, *, name: str):
    """One step up: a transposed convolution, dropout, the skip, a block."""
    x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", name=f"{name}_transposed")(x)
    x = layers.Dropout(DROPOUT, name=f"{name}_dropout")(x)
    return _block(layers.Concatenate(name=f"{name}_join")([x, skip]), filters, name=name)
