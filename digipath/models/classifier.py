"""A patch classifier on any encoder: its last map, averaged, to class probabilities."""

import keras
from keras import layers

from digipath.models.blocks import Head

__all__ = ["classifier"]


def classifier(encoder: keras.Model, head: Head, *, name: str) -> keras.Model:
    """Uint8 RGB, sides divisible by 32, to probabilities of the patch, (n, channels).

    Args:
        encoder: uint8 RGB to five maps at stride 2, 4, 8, 16 and 32.
        head: the classes of a patch.
        name: of the network.
    """
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x = layers.GlobalAveragePooling2D(dtype="float32", name="average")(encoder(image)[-1])
    x = layers.Dense(head.channels, dtype="float32", name="logits")(x)
    return keras.Model(image, layers.Activation(head.activation, dtype="float32", name="probabilities")(x), name=name)
