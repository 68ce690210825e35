"""Functions from tensors to tensors that the networks are made of."""

from dataclasses import dataclass

from keras import layers

from digipath.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a network says of every position.

    Attributes:
        classes: number of classes; a sigmoid tells two apart, and 1 means the same as 2 there.
        activation: "softmax", or "sigmoid": one channel, the probability of the second of two classes.
    """

    classes: int = 2
    activation: str = "softmax"

    def __post_init__(self):
        if self.activation not in ("softmax", "sigmoid"):
            raise SpecError(f"activation is 'softmax' or 'sigmoid', got {self.activation!r}. Choose one of them.")
        if isinstance(self.classes, bool) or not isinstance(self.classes, int):
            raise SpecError(f"classes is a whole number, got {self.classes!r}. Write it without a point.")
        if self.activation == "sigmoid" and self.classes not in (1, 2):
            raise SpecError(
                f"A sigmoid head tells two classes apart, got {self.classes} classes. "
                "Use softmax for more than two classes."
            )
        if self.activation == "softmax" and self.classes < 2:
            raise SpecError(
                f"A network tells at least two classes apart, got classes={self.classes}. "
                "For one channel, use activation='sigmoid'."
            )

    @property
    def channels(self) -> int:
        """Channels of the output: one for a sigmoid, else one a class."""
        return 1 if self.activation == "sigmoid" else self.classes


def conv(x, filters: int, *, kernel: int = 3, strides: int = 1, name: str):
    """One convolution, batch-normalised, through a ReLU."""
    x = layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def conv_norm(
    x, filters: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1, names: tuple[str, str] = ("conv", "bn")
):
    """One convolution without bias, padded alike on both sides, and batch-normalised: torchvision's form.

    Keras' own "same" pads a strided convolution on the right alone when its input is even.
    """
    pad = dilation * (kernel - 1) // 2
    if stride > 1 and pad:
        x = layers.ZeroPadding2D(pad, name=f"{names[0]}_pad")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        dilation_rate=dilation,
        padding="valid" if stride > 1 else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=names[0],
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=names[1])(x)


def decode(x, skip, filters: int, *, name: str):
    """One decoder step: double `x`, refine, join the skip of that size (None: there is none), refine."""
    x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_double")(x)
    x = conv(x, filters, name=f"{name}_before")
    if skip is not None:
        x = layers.Concatenate(name=f"{name}_join")([x, skip])
    return conv(x, filters, name=f"{name}_after")


def logits(x, head: Head, *, kernel: int = 1, name: str = "logits"):
    """The head's convolution, one value a channel and position, in float32 under any precision policy."""
    return layers.Conv2D(head.channels, kernel, padding="same", dtype="float32", name=name)(x)


def probabilities(x, head: Head, *, name: str = "probabilities"):
    """Logits through the head's activation, in float32."""
    return layers.Activation(head.activation, dtype="float32", name=name)(x)


def scaled(channels: int, width: float) -> int:
    """Channels at a width: the nearest multiple of 8, at least 8; untouched at width 1."""
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)
