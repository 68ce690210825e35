"""Encoders as feature pyramids by stride 2, 4, 8, 16, 32, with their own input scaling.

An encoder eats uint8 RGB of any size divisible by 32; scaling is the first layer of its graph. Its layers are named
alike whatever was built before it. The weights of those of `keras.applications` are in that package's order.
"""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from digipath.errors import BundleError, SpecError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def _mobilenet_v2_035(image=None) -> keras.Model:
    return keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, **_source(image))


def _densenet121(image=None) -> keras.Model:
    return keras.applications.DenseNet121(include_top=False, weights=None, **_source(image))


def _source(image) -> dict:
    return {"input_shape": (None, None, 3)} if image is None else {"input_tensor": image}


def to_unit_range(image):
    """Scales uint8 to [-1, 1]."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)


def to_imagenet_statistics(image):
    """Scales uint8 to the mean and deviation of ImageNet's channels."""
    scale = [1 / (255 * std) for std in _IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)]
    return layers.Rescaling(scale, offset=offset, name="scale")(image)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """An encoder of keras.applications: how it is built and scaled, and the layers of its pyramid by stride 2 to 32."""

    build: Callable[..., keras.Model]
    scale: Callable
    pyramid: tuple[str, str, str, str, str]
    imagenet_file: str
    imagenet_folder: str


@dataclass(frozen=True, kw_only=True)
class OwnBackbone:
    """An encoder that is ours.

    Attributes:
        maps: from the scaled image, `width=` and `output_stride=` to five maps at stride 2, 4, 8, 16 and 32; maps
            beyond the output stride stay at it, with dilated convolutions.
        scale: from the uint8 image to what the encoder was made for.
        output_strides: those that it can have.
    """

    maps: Callable[..., list]
    scale: Callable
    output_strides: tuple[int, ...] = (32,)


_STORAGE = "https://storage.googleapis.com/tensorflow/keras-applications"

BACKBONES: dict[str, Backbone | OwnBackbone] = {
    "densenet121": Backbone(
        build=_densenet121,
        scale=to_imagenet_statistics,
        pyramid=("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
        imagenet_file="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_folder=f"{_STORAGE}/densenet",
    ),
    "mobilenetv2": Backbone(
        build=_mobilenet_v2_035,
        scale=to_unit_range,
        pyramid=(
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "out_relu",
        ),
        imagenet_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5",
        imagenet_folder=f"{_STORAGE}/mobilenet_v2",
    ),
}


def encoder(
    name: str, *, weights: str | Path | None = None, width: float = 1.0, output_stride: int = 32
) -> keras.Model:
    """A feature pyramid: uint8 RGB (n, rows, columns, 3) to five maps at stride 2, 4, 8, 16 and 32.

    Args:
        name: a key of `BACKBONES`.
        weights: None for random ones, "imagenet", or the path of a weights file without top (as keras.applications
            publishes, or as `save_weights` of the keras.applications model writes).
        width: factor on the channels of encoders that are ours; those of keras.applications stay as they are.
        output_stride: where the pyramid stops halving, for encoders that can be dilated.
    """
    if name not in BACKBONES:
        raise SpecError(f"A backbone is one of {', '.join(BACKBONES)}, got {name!r}.")
    backbone = BACKBONES[name]
    strides = backbone.output_strides if isinstance(backbone, OwnBackbone) else (32,)
    if output_stride not in strides:
        raise SpecError(f"The output_stride of {name} is one of {strides}, got {output_stride!r}. Choose one of them.")
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    if isinstance(backbone, OwnBackbone):
        maps = backbone.maps(backbone.scale(image), width=width, output_stride=output_stride)
        return keras.Model(image, maps, name=name)
    network = backbone.build(backbone.scale(image))
    pyramid = keras.Model(image, [network.get_layer(layer).output for layer in backbone.pyramid], name=name)
    pyramid = keras.models.clone_model(pyramid, clone_function=_named_alike())
    if weights is not None:
        pyramid.set_weights(_pretrained(backbone, weights))
    return pyramid


def _named_alike() -> Callable:
    """A clone function whose automatic names count from one for each network (Keras counts per process).

    It also lets batch normalisation forget at 0.99 a step: MobileNetV2's own 0.999 has not yet left ImageNet's
    statistics when a short fine-tuning ends.
    """
    automatic = re.compile(r"^(zero_padding2d|add|concatenate|activation)(_\d+)?$")
    seen: dict[str, int] = {}

    def clone(layer):
        config = layer.get_config()
        if match := automatic.match(config["name"]):
            kind = match.group(1)
            seen[kind] = seen.get(kind, 0) + 1
            config["name"] = f"{kind}_{seen[kind]}"
        if isinstance(layer, layers.BatchNormalization):
            config["momentum"] = 0.99
        return layer.__class__.from_config(config)

    return clone


def _pretrained(backbone: Backbone, weights: str | Path) -> list:
    """The arrays of a weights file, read into the untouched keras.applications network it was made for."""
    path = _imagenet_file(backbone) if str(weights) == "imagenet" else Path(weights)
    if not path.is_file():
        raise BundleError(
            f"Encoder weights must be a file, but {path} is not there. Pass weights=None to start from chance."
        )
    network = backbone.build()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Keras only warns of layers that it leaves at random
            network.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise BundleError(
            f"{path} must hold the weights of {network.name} without its top, and does not: {error}. "
            "Files of keras.applications named '*_notop.h5' or '*_no_top.h5' fit."
        ) from error
    return network.get_weights()


def _imagenet_file(backbone: Backbone) -> Path:
    """Where the ImageNet weights lie on this machine, downloaded where they are not there yet."""
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    if (folder / backbone.imagenet_file).is_file():
        return folder / backbone.imagenet_file
    url = f"{backbone.imagenet_folder}/{backbone.imagenet_file}"
    try:
        return Path(keras.utils.get_file(backbone.imagenet_file, url, cache_subdir="models"))
    except Exception as error:  # Keras wraps every failure of the connection in a plain Exception
        raise BundleError(
            f"weights='imagenet' needs {backbone.imagenet_file}, and it could not be downloaded ({error}). "
            f"Download {url} where there is a connection and put it into {folder}, or pass its path as weights."
        ) from error
