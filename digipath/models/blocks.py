"""Functions from tensors to tensors that the networks are made of."""

from keras import layers

from digipath.errors import SpecError


def conv(x, filters: int, *, kernel: int = 3, name: str):
    """One convolution, batch-normalised, through a ReLU."""
    x = layers.Conv2D(
        filters, kernel, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def decode(x, skip, filters: int, *, name: str):
    """One decoder step: double `x`, refine, join the skip of that size (None: there is none), refine."""
    x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_double")(x)
    x = conv(x, filters, name=f"{name}_before")
    if skip is not None:
        x = layers.Concatenate(name=f"{name}_join")([x, skip])
    return conv(x, filters, name=f"{name}_after")


def head(x, *, classes: int, activation: str):
    """Class probabilities in float32: a softmax over `classes`, or one sigmoid channel, the second of two."""
    if activation == "sigmoid" and classes != 2:
        raise SpecError(
            f"A sigmoid head tells two classes apart, got {classes} classes. Use softmax for more than two classes."
        )
    if activation not in ("softmax", "sigmoid"):
        raise SpecError(f"activation is 'softmax' or 'sigmoid', got {activation!r}.")
    channels = classes if activation == "softmax" else 1
    x = layers.Conv2D(channels, 1, dtype="float32", name="logits")(x)
    return layers.Activation(activation, dtype="float32", name="probabilities")(x)
