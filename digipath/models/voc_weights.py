"""PASCAL VOC weights of DeepLabV3+, from the Keras file `deeplabv3_xception_tf_dim_ordering_tf_kernels.h5`.

The file's layout is that of Keras 2's `save_weights`: the attribute `layer_names` of the file, one group a layer, its
attribute `weight_names`, and one dataset a weight, kernels of depthwise convolutions called `depthwise_kernel`. It is
read with h5py alone: nothing in it is run or unpickled, and shapes are compared before values are read.
"""

from collections.abc import Iterable
from pathlib import Path

import h5py
import keras
import numpy as np

from digipath.errors import BundleError

FILE = "deeplabv3_xception_tf_dim_ordering_tf_kernels.h5"
CLASS_LAYERS = ("logits_semantic", "custom_logits_semantic")
DECODER = ("image_pooling", "aspp", "concat_projection", "feature_projection0", "decoder_conv")
LARGEST = 2**30  # bytes of a file; the published one has 41 million float32
_MOST_LAYERS = 10_000


def load_voc(path: str | Path, layers: Iterable[keras.layers.Layer], *, apart: tuple[str, ...] = ()) -> None:
    """Fills `layers` by name from a weights file, all of them or none.

    Every weight of `layers` must be in the file with its shape, and every weight of the file in `layers`, but for the
    class layer, whose classes are VOC's.

    Args:
        path: the file.
        layers: those to be filled; ones without weights are passed over.
        apart: beginnings of further names that are knowingly left in the file.
    """
    if str(path) == "imagenet":
        raise BundleError(
            "weights='imagenet' exists for encoders of keras.applications, and the aligned Xception is none of them "
            f"(their Xception is another network). Pass the path of {FILE} to start from PASCAL VOC, or None."
        )
    path = Path(path)
    wanted = {f"{layer.name}/{_role(weight.name)}": weight for layer in layers for weight in layer.weights}
    values = _read(path, {name: tuple(weight.shape) for name, weight in wanted.items()}, (*CLASS_LAYERS, *apart))
    for name, weight in wanted.items():
        weight.assign(values[name])


def load_voc_encoder(path: str | Path, encoder: keras.Model) -> None:
    """Fills the aligned Xception from a weights file of DeepLabV3+; its decoder is left in the file."""
    load_voc(path, encoder.layers, apart=DECODER)


def _role(name: str) -> str:
    """What a weight is for its layer: Keras 3 calls a depthwise kernel `kernel`, as any other."""
    role = name.rsplit("/", 1)[-1].removesuffix(":0")
    return "kernel" if role == "depthwise_kernel" else role


def _read(path: Path, shapes: dict[str, tuple[int, ...]], apart: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BundleError(f"PASCAL VOC weights must be a file, but {path} is not there. {_advice()}")
    if path.stat().st_size > LARGEST:
        raise BundleError(f"{path} must not exceed {LARGEST:,} bytes and has {path.stat().st_size:,}. {_advice()}")
    try:
        with h5py.File(path, "r") as file:
            found = _datasets(file, path)
            found = {name: data for name, data in found.items() if not name.startswith(apart)}
            _compare(path, {name: data.shape for name, data in found.items()}, shapes)
            values = {name: np.asarray(data[()], np.float32) for name, data in found.items()}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{path} must be a weights file in HDF5, and cannot be read: {error}. {_advice()}") from error
    if bad := sorted(name for name, array in values.items() if not np.isfinite(array).all()):
        raise BundleError(f"{path} must hold finite numbers, and {bad[0]} does not. {_advice()}")
    return values


def _datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The file's weights as layer/role; a file of a whole model keeps them in the group `model_weights`."""
    root = file if "layer_names" in file.attrs else _member(file, "model_weights", h5py.Group, path)
    found: dict[str, h5py.Dataset] = {}
    for layer in _names(root, "layer_names", path):
        group = _member(root, layer, h5py.Group, path)
        for name in _names(group, "weight_names", path):
            data = _member(group, name, h5py.Dataset, path)
            if (
                f"{layer}/{_role(name)}" in found
                or not np.issubdtype(data.dtype, np.floating)
                or data.external
                or data.is_virtual
            ):
                raise BundleError(f"{path} must hold every weight once and as numbers, but not so {name}. {_advice()}")
            found[f"{layer}/{_role(name)}"] = data
    return found


def _names(group: h5py.Group, attribute: str, path: Path) -> list[str]:
    if attribute not in group.attrs:
        raise BundleError(f"{path} must list {attribute} of {group.name}, and does not. {_advice()}")
    names = np.ravel(group.attrs[attribute])
    if len(names) > _MOST_LAYERS:
        raise BundleError(f"{path} lists {len(names):,} {attribute}, at most {_MOST_LAYERS:,} are read. {_advice()}")
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]


def _member(group: h5py.Group, name: str, kind: type, path: Path):
    """A group or dataset that lies in the file itself; links into other files are not followed."""
    here = group
    for part in name.split("/"):
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise BundleError(f"{path} must hold {name} in {group.name}, and does not. {_advice()}")
        here = here[part]
    if not isinstance(here, kind):
        raise BundleError(f"{path} must hold {name} as a {kind.__name__.lower()}, and does not. {_advice()}")
    return here


def _compare(path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    lacking, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if lacking or extra:
        which = f"lacks {_few(lacking)}" if lacking else f"has {_few(extra)} besides"
        raise BundleError(f"{path} must hold the {len(wanted)} weights of the network, and {which}. {_advice()}")
    if wrong := sorted(name for name in wanted if wanted[name] != tuple(found[name])):
        raise BundleError(
            f"{path} must have the network's shapes: {wrong[0]} is {wanted[wrong[0]]} there and "
            f"{tuple(found[wrong[0]])} in the file. Published weights fit width=1 alone."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _advice() -> str:
    return f"Files named {FILE} fit, or pass weights=None to start from chance."
