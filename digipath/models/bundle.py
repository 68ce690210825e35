"""Bundle: a trained network and its specification as one folder.

A network of the catalogue is stored as `spec.json` and `weights.safetensors` and rebuilt by name: nothing in the folder
is ever executed. Any other network is stored as Keras' own `model.keras` and loaded in safe mode. Reading a bundle's
specification needs neither TensorFlow nor Keras; the network is made when it is first asked for. Of a network with
several outputs (deep supervision) the last is the one that the specification describes and that is applied.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digipath.errors import BundleError
from digipath.models.backend import import_keras
from digipath.models.exits import STRIDES, cut_spec, is_supervised, kept
from digipath.models.spec import ModelSpec
from digipath.models.weights import (
    KERAS,
    SPEC,
    WEIGHTS,
    keras_tensors,
    load_keras,
    read_tensors,
    save_keras,
    stored_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    import keras

__all__ = ["Bundle", "builtin_names", "last_output"]

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
        self._model, self._whole = model, None

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Bundle":
        """The bundle stored in `folder`; its specification is read and checked now, its network made on first use."""
        folder = Path(folder)
        bundle = cls.__new__(cls)
        bundle.spec = ModelSpec.from_json(_spec_text(folder))
        bundle.folder, bundle._model, bundle._whole = folder, None, None
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
        return self._digest()[:12]

    @property
    def key(self) -> str:
        """What the network is recognised by where something made of it is kept: 32 hexadecimal digits.

        Of a stored bundle it is found without Keras. It changes with the specification, every weight, and, of networks
        that are not the catalogue's, the layers.
        """
        if self._whole is not None:
            whole, block = self._whole
            return hashlib.sha256(f"{whole.key} cut after block {block}".encode()).hexdigest()[:32]
        if _in_tensors(self) or (self._model is not None and _in_catalogue(self.spec)):
            return self._digest()[:32]
        if self._model is None:
            network = _stored_file(self.folder).read_bytes()
        else:
            network = f"{self._digest()} {self._model.to_json()}".encode()
        return hashlib.sha256(self.spec.to_json().encode() + network).hexdigest()[:32]

    @property
    def sides(self) -> tuple[int | None, int | None] | None:
        """The one (height, width) of patches that the network takes, None for any; None: only its model would tell."""
        if self._whole is not None:
            return self._whole[0].sides
        if self._model is not None:
            return tuple(self._model.input_shape[1:3])
        return (None, None) if _in_tensors(self) else None

    def early_exit(self, block: int) -> "Bundle":
        """The bundle of the network cut after a block of its decoder (deep supervision); the weights are shared.

        Of a network of the catalogue nothing is built before its model is asked for.

        Args:
            block: 0 for the coarsest, of output stride 16; each further one halves it.
        """
        if not (is_supervised(self.spec) or _in_tensors(self)):  # one of the user's own: its layers tell
            import_keras()
            from digipath.models.bcc import early_exit

            return Bundle(early_exit(self.model, block), replace(self.spec, output_stride=STRIDES[block]))
        bundle = Bundle.__new__(Bundle)
        bundle.spec = cut_spec(self.spec, block)
        bundle.folder, bundle._model, bundle._whole = None, None, (self, block)
        return bundle

    def _digest(self) -> str:
        digest = hashlib.sha256(self.spec.to_json().encode())
        for name, values in sorted(self._tensors().items()):
            digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike, *, extra: Mapping[str, str] | None = None) -> Path:
        """Stores the bundle in `folder`, replacing a bundle there (all else in it stays); returns the folder.

        Args:
            folder: new, empty, or a bundle's.
            extra: texts of further files by name, such as "recipe.json" and "history.csv"; they replace those there.
        """
        folder, extra = Path(folder), dict(extra or {})
        _check_target(folder)
        _check_extra(extra)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, text in {**extra, SPEC: self.spec.to_json()}.items():
                (fresh / name).write_text(text, encoding="utf-8")
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
        if self._whole is not None:
            import_keras()
            from digipath.models.bcc import early_exit

            whole, block = self._whole
            return early_exit(whole.model, block)
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
        if self._whole is not None and _in_tensors(self):
            whole, block = self._whole
            return {name: values for name, values in whole._tensors().items() if kept(name, block)}
        if _in_tensors(self):
            return read_tensors(_stored_file(self.folder))
        if self._model is None and self._whole is None:
            return keras_tensors(_stored_file(self.folder))
        if _in_catalogue(self.spec):
            return stored_tensors(self.model)
        with tempfile.TemporaryDirectory() as folder:
            save_keras(self.model, Path(folder) / KERAS)
            return keras_tensors(Path(folder) / KERAS)


def _in_tensors(bundle: Bundle) -> bool:
    """Whether the network is stored, as one of the catalogue, in tensors by name."""
    source = bundle if bundle._whole is None else bundle._whole[0]
    return source._model is None and _stored_file(source.folder).name == WEIGHTS


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
        shape = _last(model.compute_output_shape((1, spec.patch, spec.patch, 3)))
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
    if is_supervised(spec) and spec.output_stride < 16 and len(getattr(model, "outputs", ())) == 1:
        raise BundleError(
            f"{spec.architecture} has an output for each block of its decoder, and this network has one. "
            f"A network cut by an early exit is the plain one: name it {spec.architecture.removesuffix('-ds')!r}."
        )


def last_output(model: "keras.Model") -> "keras.Model":
    """The network with its last output alone, the one that is applied; nothing is computed for the others."""
    if len(getattr(model, "outputs", ())) < 2:
        return model
    cut = import_keras().Model(model.inputs[0], model.outputs[-1], name=model.name)
    cut.input_spec = model.input_spec
    return cut


def _last(shapes) -> tuple:
    """The shape of the last output, of the shapes of one or several."""
    while isinstance(shapes, list | tuple) and shapes and isinstance(shapes[-1], list | tuple):
        shapes = shapes[-1]
    return tuple(shapes)


def _check_extra(extra: dict[str, str]) -> None:
    reserved = (SPEC, WEIGHTS, KERAS)
    if wrong := [name for name in extra if name in (*reserved, "", ".", "..") or Path(name).name != name]:
        raise BundleError(
            f"Further files of a bundle have plain names other than {', '.join(reserved)}, got {wrong[0]!r}. Rename it."
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
    """Puts `fresh` into `folder`'s place; what else lies there, such as a model card, moves along."""
    if not folder.exists():
        fresh.replace(folder)
        return
    written = {SPEC, WEIGHTS, KERAS, *(path.name for path in fresh.iterdir())}
    beside = [path for path in folder.iterdir() if path.name not in written]
    for path in beside:
        if path.is_file():
            shutil.copy2(path, fresh / path.name)
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(old)
    fresh.replace(folder)
    for path in beside:
        if not (folder / path.name).exists():  # a folder: moved, as a copy may be large
            (old / path.name).replace(folder / path.name)
    shutil.rmtree(old, ignore_errors=True)
