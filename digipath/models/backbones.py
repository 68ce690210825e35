"""Encoders as feature pyramids by stride 2, 4, 8, 16, 32, with their own input scaling.

An encoder eats uint8 RGB of any size divisible by 32; scaling is the first layer of its graph. Its layers are named
alike whatever was built before it. The weights of those of `keras.applications` are in that package's order.
"""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
from keras import layers

from digipath.errors import BundleError, SpecError
from digipath.models import bcc
from digipath.models.resnet import resnet
from digipath.models.torch_weights import load_encoder
from digipath.models.vgg import vgg16
from digipath.models.voc_weights import load_voc_encoder
from digipath.models.xception import aligned_xception

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def _mobilenet_v2_035(image=None) -> keras.Model:
    return keras.applications.MobileNetV2(alpha=0.35, include_top=False, weights=None, **_source(image))


def _densenet121(image=None) -> keras.Model:
    return keras.applications.DenseNet121(include_top=False, weights=None, **_source(image))


def _inception_resnet_v2(image=None) -> keras.Model:
    return keras.applications.InceptionResNetV2(include_top=False, weights=None, **_source(image))


def _inception_v3(image=None) -> keras.Model:
    return keras.applications.InceptionV3(include_top=False, weights=None, **_source(image))


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
    """An encoder of keras.applications: how it is built and scaled, and the layers of its pyramid by stride 2 to 32.

    Layers that Keras names by itself are called here as `_own_names` does. `same` pads every convolution and pooling to
    keep its size: the Inception networks pad nothing in places, which takes 256 pixels to 127, 62, 29, 14 and 6.
    """

    build: Callable[..., keras.Model]
    scale: Callable
    pyramid: tuple[str, str, str, str, str]
    imagenet_file: str
    imagenet_folder: str
    same: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnBackbone:
    """An encoder that is ours.

    Attributes:
        maps: from the scaled image, `width=` and `output_stride=` to five maps at stride 2, 4, 8, 16 and 32; maps
            beyond the output stride stay at it, with dilated convolutions.
        scale: from the uint8 image to what the encoder was made for.
        output_strides: those that it can have.
        load: fills the encoder from a weights file.
    """

    maps: Callable[..., list]
    scale: Callable
    output_strides: tuple[int, ...] = (32,)
    load: Callable[[str | Path, keras.Model], None] | None = None


def _resnet(depth: int) -> OwnBackbone:
    return OwnBackbone(
        maps=partial(resnet, depth=depth), scale=to_imagenet_statistics, output_strides=(32, 16, 8), load=load_encoder
    )


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
    "inceptionresnetv2": Backbone(
        build=_inception_resnet_v2,
        scale=to_unit_range,
        pyramid=("activation_3", "activation_5", "block35_10_ac", "block17_20_ac", "conv_7b_ac"),
        imagenet_file="inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_folder=f"{_STORAGE}/inception_resnet_v2",
        same=True,
    ),
    "inceptionv3": Backbone(
        build=_inception_v3,
        scale=to_unit_range,
        pyramid=("activation_3", "activation_5", "mixed2", "mixed7", "mixed10"),
        imagenet_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_folder=f"{_STORAGE}/inception_v3",
        same=True,
    ),
    "xception": OwnBackbone(
        maps=aligned_xception, scale=to_unit_range, output_strides=(32, 16, 8), load=load_voc_encoder
    ),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "vgg16": OwnBackbone(maps=vgg16, scale=to_imagenet_statistics, load=load_encoder),
    "unet": OwnBackbone(maps=bcc.encoder_maps, scale=to_unit_range),
}


def encoder(
    name: str, *, weights: str | Path | None = None, width: float = 1.0, output_stride: int = 32
) -> keras.Model:
    """A feature pyramid: uint8 RGB (n, rows, columns, 3) to five maps at stride 2, 4, 8, 16 and 32.

    Args:
        name: a key of `BACKBONES`.
        weights: None for random ones, "imagenet", or the path of a weights file: without top for an encoder of
            keras.applications (as published, or as `save_weights` of that model writes), for "xception" DeepLab's.
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
        pyramid = keras.Model(image, maps, name=name)
        if weights is not None:
            if backbone.load is None:
                raise SpecError(f"There are no weights for the encoder {name!r}, got {weights}. Leave weights out.")
            backbone.load(weights, pyramid)
        return pyramid
    network = backbone.build(backbone.scale(image))
    names = _own_names(network)
    maps = {names[layer.name]: layer.output for layer in network.layers}
    pyramid = keras.Model(image, [maps[layer] for layer in backbone.pyramid], name=name)
    pyramid = keras.models.clone_model(pyramid, clone_function=_named_alike(names, same=backbone.same))
    if weights is not None:
        pyramid.set_weights(_pretrained(backbone, weights))
    return pyramid


_AUTOMATIC = re.compile(
    r"^(zero_padding2d|add|concatenate|activation|conv2d|batch_normalization|max_pooling2d|average_pooling2d"
    r"|custom_scale_layer)(_\d+)?$"
)


def _own_names(network: keras.Model) -> dict[str, str]:
    """A network's layer names, those that Keras counts per process counted from one in this network."""
    counted: dict[str, list[tuple[int, str]]] = {}
    for layer in network.layers:
        if match := _AUTOMATIC.match(layer.name):
            counted.setdefault(match.group(1), []).append((int((match.group(2) or "_0")[1:]), layer.name))
    names = {layer.name: layer.name for layer in network.layers}
    for kind, layers_of_kind in counted.items():
        names |= {name: f"{kind}_{place}" for place, (_, name) in enumerate(sorted(layers_of_kind), start=1)}
    return names


def _named_alike(names: dict[str, str], *, same: bool) -> Callable:
    """A clone function that gives layers their own names and, where asked to, the padding "same".

    It also lets batch normalisation forget at 0.99 a step: MobileNetV2's own 0.999 has not yet left ImageNet's
    statistics when a short fine-tuning ends.
    """

    def clone(layer):
        config = layer.get_config() | {"name": names[layer.name]}
        if same and config.get("padding") == "valid":
            config["padding"] = "same"
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
