"""How weights lie on disk: tensors by name for the catalogue's networks, Keras' own format for all others."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import BundleError
from digipath.models.backend import import_keras

if TYPE_CHECKING:
    import keras

__all__ = [
    "KERAS",
    "SPEC",
    "WEIGHTS",
    "keras_tensors",
    "load_keras",
    "read_tensors",
    "save_keras",
    "stored_tensors",
    "write_tensors",
]

SPEC, WEIGHTS, KERAS = "spec.json", "weights.safetensors", "model.keras"
LARGEST = 4 * 2**30  # bytes of weights
LARGEST_CONFIG = 64 * 2**20  # bytes of a model's configuration
_DTYPES = {"F16": np.float16, "F32": np.float32}


def stored_tensors(model: "keras.Model") -> dict[str, np.ndarray]:
    """A network's weights by path: kernels in float16, everything else (biases, batch normalisation) in float32."""
    return {weight.path: _stored(weight.path, np.asarray(weight.numpy())) for weight in model.weights}


def _stored(path: str, values: np.ndarray) -> np.ndarray:
    """Float16 where its range suffices: small variances of batch normalisation would become 0 in it."""
    if not np.isfinite(values).all():
        raise BundleError(f"{path} must hold finite numbers, and does not: the training diverged.")
    if not path.endswith("kernel"):
        return values.astype(np.float32)
    if np.abs(values).max(initial=0) >= np.finfo(np.float16).max:
        raise BundleError(
            f"{path} must fit float16 (65,504) and reaches {np.abs(values).max():.3g}: the training diverged."
        )
    return values.astype(np.float16)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], *, expected: "keras.Model") -> None:
    """Writes the tensors, once they are those of the network `expected`."""
    from safetensors.numpy import save

    _compare({name: values.shape for name, values in tensors.items()}, expected, "the network to be stored")
    path.write_bytes(save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}))


def read_tensors(path: Path, *, expected: "keras.Model | None" = None) -> dict[str, np.ndarray]:
    """Reads the tensors; names, shapes and types are compared before any is read."""
    from safetensors import SafetensorError, safe_open

    if path.stat().st_size > LARGEST:
        raise BundleError(
            f"{path} must not exceed {LARGEST:,} bytes and has {path.stat().st_size:,}. It is no bundle of digipath's."
        )
    try:
        with safe_open(path, framework="np") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
            if strange := sorted(name for name, part in slices.items() if part.get_dtype() not in _DTYPES):
                raise BundleError(
                    f"{path} holds float16 and float32 alone, but not so {strange[0]}. Save the bundle again."
                )
            if expected is not None:
                _compare({name: tuple(part.get_shape()) for name, part in slices.items()}, expected, str(path))
            return {name: stored.get_tensor(name) for name in slices}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged: {error}. Copy the bundle again.") from error


def _compare(found: dict[str, tuple[int, ...]], model: "keras.Model", where: str) -> None:
    wanted = {weight.path: tuple(weight.shape) for weight in model.weights}
    lacking, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    wrong = sorted(name for name in set(wanted) & set(found) if wanted[name] != tuple(found[name]))
    if lacking or extra:
        which = f"lacks {_few(lacking)}" if lacking else f"has {_few(extra)} besides"
        raise BundleError(
            f"{where} must have the {len(wanted)} tensors of {model.name}, and {which}. "
            "If the network is your own, give its specification another architecture name."
        )
    if wrong:
        raise BundleError(
            f"{where} must have the shapes of {model.name}: {wrong[0]} is {wanted[wrong[0]]} there and "
            f"{tuple(found[wrong[0]])} here. Check width, classes and output_stride of the specification."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def keras_tensors(path: Path) -> dict[str, np.ndarray]:
    """The weights of a network in Keras' own format, by their path in it; read without Keras."""
    import h5py

    found: dict[str, np.ndarray] = {}

    def take(name: str, part) -> None:
        if isinstance(part, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = part[()]

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise BundleError(f"{path} unpacks to more than {LARGEST:,} bytes, and so much is not loaded.")
            with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
                weights.visititems(take)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError, OSError, EOFError) as error:
        raise BundleError(f"{path} must be a model in Keras' format, and is not: {error}. Save it again.") from error
    return found


def save_keras(model: "keras.Model", path: Path) -> None:
    """Writes a network in Keras' own format, and makes sure that `load_keras` would take it."""
    model.save(path)
    _check_keras(path)


def load_keras(path: Path) -> "keras.Model":
    """A network in Keras' own format, loaded in safe mode."""
    keras = import_keras()

    _check_keras(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, ImportError) as error:
        raise BundleError(f"{path} cannot be loaded: {error} Save it again with this version of Keras.") from error


def _check_keras(path: Path) -> None:
    """Refuses, before anything is loaded, what is too large, runs code, or needs a package that is not imported."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if sum(sizes.values()) > LARGEST or sizes.get("config.json", 0) > LARGEST_CONFIG:
                raise BundleError(f"{path} unpacks to {sum(sizes.values()):,} bytes; at most {LARGEST:,} are loaded.")
            config = json.loads(archive.read("config.json"))
        _check_config(config, path)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError, OSError, EOFError) as error:
        raise BundleError(f"{path} must be a model in Keras' format, and is not: {error}. Save it again.") from error


def _check_config(config, path: Path) -> None:
    """Walks the configuration for classes that safe mode would refuse or could not find."""
    if isinstance(config, dict):
        if "class_name" in config and "config" in config:
            _check_class(config, path)
        for part in config.values():
            _check_config(part, path)
    elif isinstance(config, list):
        for part in config:
            _check_config(part, path)


def _check_class(entry: dict, path: Path) -> None:
    keras = import_keras()

    name, module, registered = entry["class_name"], entry.get("module") or "keras", entry.get("registered_name")
    if not all(isinstance(part, str) for part in (name, module, registered or "")):
        raise BundleError(f"{path.name} must name its layers, and holds {name!r} of {module!r}. Save it again.")
    if name in ("Lambda", "__lambda__"):
        raise BundleError(
            f"{path.name} holds a Lambda layer, which is code that would run on loading, and is refused. "
            "Write it as a layer of your own (keras.saving.register_keras_serializable) or with keras.ops."
        )
    if (
        module.split(".")[0] in ("keras", "builtins")
        or keras.saving.get_registered_object(registered or name) is not None
    ):
        return
    raise BundleError(
        f"{path.name} holds {name} of {module}, which is not registered here. Import the package that registers it "
        "(keras.saving.register_keras_serializable) before the bundle is loaded."
    )
