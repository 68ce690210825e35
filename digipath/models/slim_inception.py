"""The slimmed-down Inception-v3 of the v3_DCNN paper: a fast patch classifier.

Guo et al., "A Fast and Refined Cancer Regions Segmentation Framework in Whole-slide Breast Pathological Images"
(Scientific Reports 2019), after Liu et al. 2017: Inception-v3 (Szegedy et al. 2016) with a tenth of its filters. The
structure, batch normalisation without a scale and "valid" borders are those of keras.applications.InceptionV3; at
width 1 the parameters are too.
"""

from collections.abc import Callable

import keras
from keras import layers

from digipath.models.blocks import Head
from digipath.models.spec import OWN_WIDTHS

__all__ = ["WIDTH", "slim_inception"]

WIDTH = OWN_WIDTHS["slim-inceptionv3"]  # the paper's 10 %


def slim_inception(head: Head, *, width: float = WIDTH, name: str) -> keras.Model:
    """Uint8 RGB of any size from 75 pixels up (299 in the paper) to probabilities of the patch, (n, channels).

    Args:
        head: the classes of a patch.
        width: share of the filters that is kept.
        name: of the network.
    """
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    unit = _units(width)
    x = _stem(x, unit)
    for number, pooled in enumerate((32, 64, 64)):
        x = _inception_a(x, unit, pooled, name=f"mixed{number}")
    x = _reduction_a(x, unit, name="mixed3")
    for number, inner in enumerate((128, 160, 160, 192), start=4):
        x = _inception_b(x, unit, inner, name=f"mixed{number}")
    x = _reduction_b(x, unit, name="mixed8")
    for number in (9, 10):
        x = _inception_c(x, unit, name=f"mixed{number}")
    x = layers.GlobalAveragePooling2D(dtype="float32", name="average")(x)
    x = layers.Dense(head.channels, dtype="float32", name="logits")(x)
    return keras.Model(image, layers.Activation(head.activation, dtype="float32", name="probabilities")(x), name=name)


def _units(width: float) -> Callable:
    """A function that applies convolutions one after the other, each (filters, rows, columns), with `width` of them."""

    def unit(x, *steps: tuple[int, int, int], name: str, strides: int = 1, padding: str = "same"):
        for number, (filters, rows, columns) in enumerate(steps, start=1):
            last = number == len(steps)
            x = layers.Conv2D(
                max(1, round(filters * width)),
                (rows, columns),
                strides=strides if last else 1,
                padding=padding if last else "same",
                use_bias=False,
                kernel_initializer="he_normal",
                name=f"{name}_{number}_conv",
            )(x)
            x = layers.BatchNormalization(scale=False, name=f"{name}_{number}_bn")(x)
            x = layers.ReLU(name=f"{name}_{number}_relu")(x)
        return x

    return unit


def _stem(x, unit: Callable):
    """To stride 8, or nearly so: nothing is padded but once."""
    x = unit(x, (32, 3, 3), name="stem_1", strides=2, padding="valid")
    x = unit(x, (32, 3, 3), name="stem_2", padding="valid")
    x = unit(x, (64, 3, 3), name="stem_3")
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool_1")(x)
    x = unit(x, (80, 1, 1), name="stem_4", padding="valid")
    x = unit(x, (192, 3, 3), name="stem_5", padding="valid")
    return layers.MaxPooling2D(3, strides=2, name="stem_pool_2")(x)


def _inception_a(x, unit: Callable, pooled: int, *, name: str):
    branches = [
        unit(x, (64, 1, 1), name=f"{name}_one"),
        unit(x, (48, 1, 1), (64, 5, 5), name=f"{name}_five"),
        unit(x, (64, 1, 1), (96, 3, 3), (96, 3, 3), name=f"{name}_three"),
        unit(_averaged(x, name), (pooled, 1, 1), name=f"{name}_pooled"),
    ]
    return layers.Concatenate(name=name)(branches)


def _reduction_a(x, unit: Callable, *, name: str):
    branches = [
        unit(x, (384, 3, 3), name=f"{name}_one", strides=2, padding="valid"),
        unit(x, (64, 1, 1), (96, 3, 3), (96, 3, 3), name=f"{name}_two", strides=2, padding="valid"),
        layers.MaxPooling2D(3, strides=2, name=f"{name}_pool")(x),
    ]
    return layers.Concatenate(name=name)(branches)


def _inception_b(x, unit: Callable, inner: int, *, name: str):
    long = [(inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)]
    branches = [
        unit(x, (192, 1, 1), name=f"{name}_one"),
        unit(x, (inner, 1, 1), (inner, 1, 7), (192, 7, 1), name=f"{name}_seven"),
        unit(x, *long, name=f"{name}_twice"),
        unit(_averaged(x, name), (192, 1, 1), name=f"{name}_pooled"),
    ]
    return layers.Concatenate(name=name)(branches)


def _reduction_b(x, unit: Callable, *, name: str):
    seven = [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)]
    branches = [
        unit(x, (192, 1, 1), (320, 3, 3), name=f"{name}_one", strides=2, padding="valid"),
        unit(x, *seven, name=f"{name}_two", strides=2, padding="valid"),
        layers.MaxPooling2D(3, strides=2, name=f"{name}_pool")(x),
    ]
    return layers.Concatenate(name=name)(branches)


def _inception_c(x, unit: Callable, *, name: str):
    three = unit(x, (384, 1, 1), name=f"{name}_three")
    twice = unit(x, (448, 1, 1), (384, 3, 3), name=f"{name}_twice")
    branches = [
        unit(x, (320, 1, 1), name=f"{name}_one"),
        unit(three, (384, 1, 3), name=f"{name}_three_flat"),
        unit(three, (384, 3, 1), name=f"{name}_three_tall"),
        unit(twice, (384, 1, 3), name=f"{name}_twice_flat"),
        unit(twice, (384, 3, 1), name=f"{name}_twice_tall"),
        unit(_averaged(x, name), (192, 1, 1), name=f"{name}_pooled"),
    ]
    return layers.Concatenate(name=name)(branches)


def _averaged(x, name: str):
    return layers.AveragePooling2D(3, strides=1, padding="same", name=f"{name}_pool")(x)
