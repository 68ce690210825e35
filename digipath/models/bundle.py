"""Bundle: a trained network and its specification as one folder.

A network of the catalogue is stored as `spec.json` and `weights.safetensors` and rebuilt by name: nothing in the folder
is ever executed. Any other network is stored as Keras' own `model.keras` and loaded in safe mode. Reading a bundle's
specification needs neither TensorFlow nor Keras; the network is made when it is first asked for.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import BundleError
from digipath.models.backend import import_keras
from digipath.models.spec import ModelSpec
from digipath.models.weights import (
    KERAS,
    SPEC,
    WEIGHTS,
    load_keras,
    read_tensors,
    save_keras,
    stored_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    import keras

__all__ = ["Bundle", "builtin_names"]

BUILTIN = Path(__file__).parents[1] / "bundles"
DEFAULT = "colon-lesion-light"


def builtin_names() -> tuple[str, ...]:
    """Names of the bundles that come with digipath."""
    return tuple(sorted(path.parent.name for path in BUILTIN.glob(f"*/{SPEC}")))


class Bundle:
    """A trained network and its specification.

    Attributes:
        spec: what the network expects and returns.
        name: the folder's name, or the architecture's for a bundle that was never stored.
        folder: where it is stored, or None.

    Args:
        model: a network whose output fits the specification.
        spec: its specification.

    Example:
        >>> spec = ModelSpec(architecture="my network", mpp=0.5, patch=256)
        >>> Bundle(model, spec).save("my-bundle")  # doctest: +SKIP
    """

    def __init__(self, model: "keras.Model", spec: ModelSpec):
        _check_fit(model, spec)
        self.spec = spec
        self.folder: Path | None = None
        self._model = model

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Bundle":
        """The bundle stored in `folder`; its specification is read and checked now, its network made on first use."""
        folder = Path(folder)
        bundle = cls.__new__(cls)
        bundle.spec = ModelSpec.from_json(_spec_text(folder))
        bundle.folder, bundle._model = folder, None
        _stored_file(folder)
        return bundle

    @classmethod
    def builtin(cls, name: str | None = None) -> "Bundle":
        """A bundle that comes with digipath, by default the colon-lesion network."""
        name = DEFAULT if name is None else name
        if name not in builtin_names():
            raise BundleError(
                f"A built-in bundle is one of {', '.join(builtin_names()) or '(none)'}, got {name!r}. "
                "Choose one of them."
            )
        return cls.load(BUILTIN / name)

    @classmethod
    def open(cls, source: "str | os.PathLike | Bundle | None" = None) -> "Bundle":
        """The bundle meant by None (the built-in one), a built-in one's name, a folder, or a Bundle."""
        if source is None or isinstance(source, Bundle):
            return source or cls.builtin()
        if isinstance(source, str) and source in builtin_names() and not Path(source, SPEC).is_file():
            return cls.builtin(source)
        if not Path(source).exists():
            raise BundleError(
                f"A bundle is a folder or the name of a built-in one ({', '.join(builtin_names())}), "
                f"and {os.fspath(source)!r} is neither. Correct the path."
            )
        return cls.load(source)

    @property
    def name(self) -> str:
        """The folder's name, or the architecture's for a bundle that was never stored."""
        return self.spec.architecture if self.folder is None else self.folder.resolve().name

    @property
    def model(self) -> "keras.Model":
        """The network; of a stored bundle it is made on first use."""
        if self._model is None:
            model = self._made()
            _check_fit(model, self.spec)
            self._model = model
        return self._model

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of specification and weights, the same before and after storing."""
        digest = hashlib.sha256(self.spec.to_json().encode())
        for name, values in sorted(self._tensors().items()):
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:12]

    def save(self, folder: str | os.PathLike) -> Path:
        """Stores the bundle in `folder`, replacing a bundle there (other files in it stay); returns the folder."""
        folder = Path(folder)
        _check_target(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (fresh / SPEC).write_text(self.spec.to_json(), encoding="utf-8")
            if _in_catalogue(self.spec):
                write_tensors(fresh / WEIGHTS, self._tensors(), expected=_rebuilt(self.spec))
            else:
                save_keras(self.model, fresh / KERAS)
            fresh.chmod(0o755)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return folder

    def _made(self) -> "keras.Model":
        stored = _stored_file(self.folder)
        if stored.name == KERAS:
            return load_keras(stored)
        model = _rebuilt(self.spec)
        tensors = read_tensors(stored, expected=model)
        for variable in model.weights:
            variable.assign(tensors[variable.path].astype(np.float32))
        return model

    def _tensors(self) -> dict[str, np.ndarray]:
        """The weights as they are, or would be, stored."""
        if self._model is None and _stored_file(self.folder).name == WEIGHTS:
            return read_tensors(_stored_file(self.folder))
        if _in_catalogue(self.spec):
            return stored_tensors(self.model)
        return {f"{number:05d}": values for number, values in enumerate(self.model.get_weights())}


def _in_catalogue(spec: ModelSpec) -> bool:
    import_keras()
    from digipath.models.catalog import known

    return known(spec.architecture)


def _rebuilt(spec: ModelSpec) -> "keras.Model":
    import_keras()
    from digipath.models.catalog import rebuild

    return rebuild(spec)


def _spec_text(folder: Path) -> str:
    path = folder / SPEC
    if folder.suffix in (".h5", ".hdf5", ".keras") and folder.is_file():
        raise BundleError(
            f"A bundle is a folder, got the model file {folder}. "
            "Load it with Keras and store it: Bundle(model, spec).save(folder)."
        )
    if not path.is_file():
        raise BundleError(f"A bundle is a folder with {SPEC}, and {path} is not there. Check the path.")
    if path.stat().st_size > 1_000_000:
        raise BundleError(
            f"{path} must be a short JSON file and has {path.stat().st_size:,} bytes. Save the bundle again."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} must be text in UTF-8: {error}. Save the bundle again.") from error


def _stored_file(folder: Path) -> Path:
    """The file with the network: the weights of a catalogue network, or Keras' own format."""
    found = [folder / name for name in (WEIGHTS, KERAS) if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleError(
            f"A bundle holds {WEIGHTS} or {KERAS}, and {folder} holds both. Remove the one that is not meant."
        )
    if old := sorted(path.name for path in folder.glob("*.h5")):
        raise BundleError(
            f"{folder} holds {old[0]}: whole models in HDF5 can run code when they are loaded and are refused. "
            "Load it with Keras where you trust it, and store it again: Bundle(model, spec).save(folder)."
        )
    raise BundleError(f"A bundle holds {WEIGHTS} or {KERAS}, and {folder} holds neither. Copy the whole folder.")


def _check_fit(model: "keras.Model", spec: ModelSpec) -> None:
    """Refuses a network whose output is not what the specification says."""
    try:
        shape = tuple(model.compute_output_shape((1, spec.patch, spec.patch, 3)))
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise BundleError(
            f"A network takes a batch of RGB patches, and this one does not take (1, {spec.patch}, {spec.patch}, 3): "
            f"{error} Correct the patch of the specification."
        ) from error
    side = spec.patch // spec.output_stride
    expected = (1, side, side, spec.channels)
    allowed = [expected] if spec.kind == "segmenter" else [(1, spec.channels), (1, 1, 1, spec.channels)]
    if shape not in allowed:
        raise BundleError(
            f"A {spec.kind} with patch {spec.patch}, output_stride {spec.output_stride} and {spec.channels} channels "
            f"returns shape {allowed[0]}, and this network returns {shape}. "
            "Correct kind, classes, activation or output_stride."
        )


def _check_target(folder: Path) -> None:
    if folder.suffix in (".h5", ".hdf5", ".keras"):
        raise BundleError(
            f"A bundle is stored as a folder, got the file name {folder.name}. Leave out {folder.suffix}."
        )
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"A bundle is stored as a folder, and {folder} is a file. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SPEC).is_file():
        raise BundleError(f"{folder} holds other files and no bundle. Choose an empty or new folder.")


def _replace(folder: Path, fresh: Path) -> None:
    """Puts `fresh` into `folder`'s place; files beside the bundle's own, such as a model card, move along."""
    if not folder.exists():
        fresh.replace(folder)
        return
    for path in folder.iterdir():
        if path.is_file() and path.name not in (SPEC, WEIGHTS, KERAS):
            shutil.copy2(path, fresh / path.name)
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
