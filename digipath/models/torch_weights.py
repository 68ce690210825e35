"""Weights of ResNet and VGG encoders, and of whole networks on them, as they are published: safetensors, never pickle.

Encoders are named as by torchvision and timm ("layer1.0.conv1.weight"), whole networks as by the library
segmentation_models.pytorch ("encoder.*", "decoder.*", "segmentation_head.*"). Our layers bear the same names with "_"
for ".". Every tensor of the file and every weight of the network is accounted for; what an encoder does not have, the
classifier on top of it and the count of batches seen, is set aside.
"""

from pathlib import Path

import keras
import numpy as np

from digipath.errors import BundleError

__all__ = ["is_network", "load_encoder", "load_network"]

LARGEST = 4 * 2**30  # bytes
_CLASSIFIERS = ("fc", "classifier", "pre_logits", "head")
_PARTS = ("encoder", "decoder", "segmentation_head")
_DTYPES = ("F16", "F32", "F64")
_RENAMED = {"segmentation_head_0": "logits"}


def load_encoder(path: str | Path, encoder: keras.Model) -> None:
    """Fills an encoder from a file with torchvision's or timm's names."""
    if str(path) == "imagenet":
        raise BundleError(
            f"weights='imagenet' is for encoders of keras.applications, got {encoder.name}. Download its weights for "
            f"torchvision or timm in safetensors (timm's '{encoder.name}.tv_in1k' for one: model.safetensors) where "
            "there is a connection, and pass the file's path as weights."
        )
    path = _checked(path)
    if is_network(path):
        raise BundleError(
            f"{path} must hold an encoder alone and holds a whole network. "
            f"Load it where its decoder is built too: build('unet-{encoder.name}' or 'fpn-...', weights=...)."
        )
    _load(path, encoder, aside=_CLASSIFIERS)


def load_network(path: str | Path, network: keras.Model) -> None:
    """Fills a network of the families unet and fpn from a file with segmentation_models.pytorch's names."""
    _load(_checked(path), network, aside=())


def is_network(path: str | Path) -> bool:
    """Whether the file holds a whole network rather than an encoder."""
    if Path(path).suffix != ".safetensors":
        return False
    return any(name.split(".")[0] in _PARTS for name in _header(_checked(path)))


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BundleError(
            f"Weights for this encoder are a file in safetensors, got {path.name}: pickled files can run code. Convert "
            "it where it is trusted: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
        )
    if not path.is_file():
        raise BundleError(
            f"Encoder weights must be a file, but {path} is not there. Pass weights=None to start from chance."
        )
    if path.stat().st_size > LARGEST:
        raise BundleError(
            f"{path} must not exceed {LARGEST:,} bytes and has {path.stat().st_size:,}. It is no network of ours."
        )
    return path


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor; none is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as stored:
            parts = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged: {error}. Download it again.") from error


def _load(path: Path, network: keras.Model, *, aside: tuple[str, ...]) -> None:
    """Compares all names, shapes and types, then reads and assigns."""
    from safetensors import safe_open

    wanted = {weight.path: weight for weight in network.weights}
    header = {
        name: entry
        for name, entry in _header(path).items()
        if name.split(".")[0] not in aside and not name.endswith(".num_batches_tracked")
    }
    paths = {name: _path(name, wanted) for name in header}
    _compare(path, network.name, header, paths, {name: tuple(weight.shape) for name, weight in wanted.items()})
    with safe_open(path, framework="np") as stored:
        values = {name: _turned(stored.get_tensor(name)).astype(np.float32) for name in paths}
    if bad := sorted(name for name in paths if not np.isfinite(values[name]).all()):
        raise BundleError(f"{path} must hold numbers, and {bad[0]} holds others. Download it again.")
    for name, own in paths.items():
        wanted[own].assign(values[name])


def _path(name: str, wanted) -> str:
    """The path of our weight for a tensor's name, or "" where there is none."""
    layer, _, kind = name.removeprefix("encoder.").rpartition(".")
    layer = layer.replace(".", "_")
    layer = _RENAMED.get(layer, layer)
    own = {
        "weight": ("kernel", "gamma"),
        "bias": ("bias", "beta"),
        "running_mean": ("moving_mean",),
        "running_var": ("moving_variance",),
    }
    return next((f"{layer}/{ours}" for ours in own.get(kind, ()) if f"{layer}/{ours}" in wanted), "")


def _turned(values: np.ndarray) -> np.ndarray:
    """A kernel from (out, in, rows, columns) to Keras' (rows, columns, in, out); anything else as it is."""
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values


def _turned_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else shape


def _compare(path: Path, network: str, header, paths: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuses a file that lacks something, has something besides, or has another shape or type."""
    advice = f"Check that it was written for {network}."
    if extra := sorted(name for name, own in paths.items() if not own):
        raise BundleError(
            f"{path} must hold the {len(shapes)} tensors of {network}, and has {_few(extra)} besides. {advice}"
        )
    own = list(paths.values())
    if twice := sorted(name for name, path in paths.items() if own.count(path) > 1):
        raise BundleError(f"{path} must hold every tensor of {network} once, and has {_few(twice)} for one. {advice}")
    if lacking := sorted(set(shapes) - set(own)):
        raise BundleError(
            f"{path} must hold the {len(shapes)} tensors of {network}, and lacks {_few(lacking)} (our names). {advice}"
        )
    for name, (shape, dtype) in header.items():
        if _turned_shape(shape) != shapes[paths[name]]:
            raise BundleError(
                f"{path} must have the shapes of {network}: {name} is {_turned_shape(shape)} here and "
                f"{shapes[paths[name]]} there, in Keras' order. Check classes and activation; published weights have "
                "width=1."
            )
        if dtype not in _DTYPES:
            raise BundleError(f"{path} must hold {', '.join(_DTYPES)}, and {name} is {dtype}. Convert it to float32.")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
