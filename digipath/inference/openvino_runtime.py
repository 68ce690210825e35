"""A bundle's network through OpenVINO, on a processor; TensorFlow is needed to export it once, and not after.

An export is kept in the user's cache, in `openvino/<key of the bundle>/<width>x<height>/`: the network in OpenVINO's
own format with float32 weights for any batch, `probes.npz` with what Keras says of a few made patches, and `meta.json`.
A damaged or outdated entry is made anew.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from digipath.errors import BundleError, ResultError, SpecError
from digipath.inference.agreement import LARGEST, difference, possible_change, probes
from digipath.inference.batching import BackOff
from digipath.inference.cache import cache_folder, fresh, write_text
from digipath.inference.keras_runtime import KerasPredictor, check_side, multiple
from digipath.models.backend import import_keras
from digipath.models.bundle import Bundle, last_output

if TYPE_CHECKING:
    import openvino

__all__ = ["INT8", "OpenVINOPredictor", "compiled", "converted"]

INT8 = "int8.json"
"""The file beside a bundle's weights that describes its network in int8; `digipath.inference.quantise` writes it."""

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
_FILES = ("model.xml", "model.bin", "probes.npz")
# Bytes of a description; a longer one is none of ours.
_LONGEST = 1_000_000
# Pixels of the largest patch for which Keras is asked for its values too: it takes ten times the memory of OpenVINO.
_COMPARED = 1024**2
_EXPORT = """
import sys
from pathlib import Path
from digipath.inference.openvino_runtime import write_export
from digipath.models.bundle import Bundle
write_export(Bundle.load(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])), Path(sys.argv[4]))
"""


class OpenVINOPredictor:
    """A bundle's network through OpenVINO, on the processor.

    It is exported once per patch size, which needs TensorFlow, and read from the user's cache from then on. A batch
    that does not fit into memory is halved. Threads: all cores, or OMP_NUM_THREADS where it is set.

    Args:
        bundle: Network and specification.
        precision: "float32" or "bfloat16", in which it is computed; weights and output are float32. None takes
            bfloat16 where the processor has it and no probability of some made patches changes by more than 5e-3.
            "int8" takes what `digipath.inference.quantise` has stored in the bundle's folder.

    Raises:
        SpecError: The processor has no bfloat16, or the bundle no int8, and it was asked for.
        ResultError: The network cannot be exported, or would give other values than Keras.
    """

    def __init__(self, bundle: Bundle, *, precision: str | None = None):
        if precision not in (None, *_HINTS):
            raise SpecError(f"OpenVINO computes in {' or '.join(_HINTS)} here, got precision={precision!r}.")
        if precision == "bfloat16" and not _has_bfloat16():
            raise SpecError(f"{_device()} does not compute in bfloat16. Use precision='float32', or none.")
        if precision == "int8" and (bundle.folder is None or not (bundle.folder / INT8).is_file()):
            raise SpecError(
                f"{bundle.name} has no network in int8. Make it (digipath.inference.quantise), or use none."
            )
        self.bundle, self.spec, self._asked = bundle, bundle.spec, precision
        self.channels = tuple(bundle.spec.classes)
        self._networks: dict[tuple[int, int], Callable[[np.ndarray], np.ndarray]] = {}
        self._parts = BackOff(lambda patches: self._network(patches)(patches))

    @cached_property
    def key(self) -> str:
        """The bundle's."""
        return self.bundle.key

    @cached_property
    def sides(self) -> tuple[int | None, int | None]:
        """The one (height, width) of patches that the network takes; None for any."""
        if (sides := self.bundle.sides) is not None:
            return sides
        for path in sorted(self._folder.glob("*x*/meta.json")):
            if (meta := _meta(path.parent)) is not None:
                return tuple(meta["sides"])
        return tuple(self.bundle.model.input_shape[1:3])

    @property
    def multiple(self) -> int:
        """The network's own side where it has a fixed one; else 32, the coarsest stride of the usual encoders."""
        return multiple(self.sides, self.spec.patch)

    @property
    def precision(self) -> str:
        """In which the network is computed."""
        return self._choice["precision"]

    @property
    def runtime(self) -> str:
        """Version, precision and device, and why that precision."""
        why = f"; {self._choice['why']}" if self._choice["why"] else ""
        return f"openvino {metadata.version('openvino')} ({self.precision}, CPU{why})"

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the network to a batch."""
        return self.spec.probabilities(self._parts(patches))

    def prepare(self) -> None:
        """Export the network for the bundle's own patch where the cache lacks it, and choose the precision."""
        if self._choice["precision"] != "int8":
            self._exported(self._own)

    @staticmethod
    def has_bfloat16() -> bool:
        """Whether this machine's processor computes in bfloat16."""
        return _has_bfloat16()

    @property
    def _own(self) -> tuple[int, int]:
        """(width, height) of the patches that precisions are compared on: the bundle's own, unless these are huge."""
        side = self.spec.patch if self.spec.patch**2 <= _COMPARED else 512
        return self.sides[1] or side, self.sides[0] or side

    @property
    def _folder(self) -> Path:
        return cache_folder() / "openvino" / self.key

    def _network(self, patches: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        height, width = patches.shape[1:3]
        if (width, height) not in self._networks:
            check_side(self.sides, (height, width))
            self._networks[width, height] = self._made((width, height))
        return self._networks[width, height]

    def _made(self, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
        if self.precision == "int8":  # for patches of any size
            return next(iter(self._networks.values()), None) or compiled(_core().read_model(self._int8()[0]), "int8")
        return compiled(self._exported(size)[0], self.precision)

    def _int8(self) -> tuple[Path, str]:
        """The bundle's network in int8, and what is known of it."""
        described = self.bundle.folder / INT8
        about = _read_json(described) or {}
        files = about.get("files")
        names = {described.with_suffix(end).name for end in (".xml", ".bin")}  # no others: bundles come from strangers
        try:
            whole = isinstance(files, dict) and files.keys() == names
            whole = whole and all(_digest(described.with_name(name)) == files[name] for name in names)
        except OSError:
            whole = False
        if not whole or about.get("key") != self.key:
            problem = "was made of other weights" if whole else "is damaged"
            raise BundleError(
                f"The int8 network of {self.bundle.name} {problem}. Make it anew, or use another precision."
            )
        which = sha256(repr(sorted(files.items())).encode()).hexdigest()[:8]  # the bundle's hash does not tell
        return described.with_suffix(".xml"), f"network {which}; {about.get('note', '')}".removesuffix("; ")

    @cached_property
    def _choice(self) -> dict[str, str]:
        """The precision, and why it is this one; found once for a processor, and remembered."""
        if self._asked == "int8":
            return {"precision": "int8", "why": self._int8()[1]}
        if self._asked == "float32" or not _has_bfloat16():
            return {"precision": "float32", "why": ""}
        changes = self._change()
        text = f"bfloat16 may change a probability by {changes:.2g}"
        if self._asked is not None:
            return {"precision": self._asked, "why": text}
        return {"precision": "float32" if changes > LARGEST else "bfloat16", "why": text}

    def _change(self) -> float:
        """By how much bfloat16 may change a probability, judged by the made patches."""
        device = {"device": _device(), "openvino": metadata.version("openvino")}
        record = self._folder / f"bfloat16-{sha256(repr(device).encode()).hexdigest()[:12]}.json"
        known = _read_json(record)
        if known is not None and isinstance(known.get("change"), int | float):
            return known["change"]
        model, tried = self._exported(self._own)
        values = self.spec.probabilities(compiled(model, "bfloat16")(tried["patches"]))
        change = possible_change(values, tried["values"])
        with suppress(OSError):  # else the next process finds it anew
            write_text(record, json.dumps(device | {"change": change}))
        return change

    def _exported(self, size: tuple[int, int]) -> tuple["openvino.Model", dict[str, np.ndarray]]:
        """The network for patches of (width, height), and what Keras says of the probes; from the cache if it can."""
        folder = self._folder / f"{size[0]}x{size[1]}"
        if (entry := _read_entry(folder)) is not None:
            return entry
        try:
            with fresh(folder, usable=lambda made: _read_entry(made) is not None) as making:
                _export(self.bundle, size, making)
            if (entry := _read_entry(folder)) is not None:
                return entry
            problem = "another process has removed it"
        except OSError as error:
            problem = str(error)
        warnings.warn(
            f"{folder} cannot be kept ({problem}); the network is exported again by the next process. "
            "Set DIGIPATH_CACHE to a folder that can be written.",
            stacklevel=2,
        )
        with tempfile.TemporaryDirectory() as making:
            _export(self.bundle, size, Path(making))
            return _read_entry(Path(making))


def _export(bundle: Bundle, size: tuple[int, int], folder: Path) -> None:
    """Export a network with TensorFlow, in a process of its own where Keras runs on another backend."""
    if import_keras().backend.backend() == "tensorflow":
        write_export(bundle, size, folder)
        return
    with tempfile.TemporaryDirectory() as stored:
        source = bundle.folder or bundle.save(Path(stored) / "bundle")
        command = [sys.executable, "-P", "-c", _EXPORT, str(source), str(size[0]), str(size[1]), str(folder)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["unknown"])[-1]
        raise ResultError(f"{bundle.name} cannot be exported to OpenVINO: {reason} Use runtime='keras'.")


def write_export(bundle: Bundle, size: tuple[int, int], folder: Path) -> None:
    """Export a network for patches of (width, height) into a folder, once it gives what Keras gives.

    Keras must run on TensorFlow.
    """
    import openvino

    model = converted(bundle, size)
    change = _compare(bundle, model, size, folder) if size[0] * size[1] <= _COMPARED else None
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    meta = _versions() | {
        "name": bundle.name,
        "size": list(size),
        "sides": list(bundle.model.input_shape[1:3]),
        "difference_from_keras": change,
        "files": {name: _digest(folder / name) for name in _FILES if (folder / name).is_file()},
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _compare(bundle: Bundle, model: "openvino.Model", size: tuple[int, int], folder: Path) -> float:
    """Write the probes and what Keras says of them; returns by how much OpenVINO's values differ in float32."""
    patches = probes(bundle.spec, size)
    values = KerasPredictor(bundle, precision="float32")(patches)
    change = difference(bundle.spec.probabilities(compiled(model, "float32")(patches)), values)
    if change > LARGEST:
        raise ResultError(
            f"{bundle.name} gives other values through OpenVINO than through Keras, by up to {change:.2g}. "
            "Use runtime='keras'."
        )
    np.savez(folder / "probes.npz", patches=patches, values=values)
    return change


def converted(bundle: Bundle, size: tuple[int, int]) -> "openvino.Model":
    """The network with its last output alone, for any batch of patches of (width, height).

    Through a frozen graph, which OpenVINO reads as it reads its own files; its function `convert_model` would report
    its use over the internet.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = last_output(bundle.model)
    graph = tf.function(lambda patches: model(patches, training=False), reduce_retracing=False)
    signature = tf.TensorSpec((None, size[1], size[0], 3), tf.uint8, name="patches")
    frozen = convert_variables_to_constants_v2(graph.get_concrete_function(signature))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frozen.pb"
        path.write_bytes(frozen.graph.as_graph_def().SerializeToString())
        try:
            return _core().read_model(path)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ResultError(f"{bundle.name} cannot be exported to OpenVINO: {reason} Use runtime='keras'.") from error


def compiled(model: "openvino.Model", precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """The network on the processor, as a function of patches."""
    # Threads tied to cores, OpenVINO's default, all meet on the first ones where several processes share a machine.
    settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "ENABLE_CPU_PINNING": False}
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        settings["INFERENCE_NUM_THREADS"] = threads
    network = _core().compile_model(model, "CPU", settings)
    return lambda patches: network(np.ascontiguousarray(patches))[0]


@cache
def _core() -> "openvino.Core":
    import openvino

    return openvino.Core()


def _device() -> str:
    return str(_core().get_property("CPU", "FULL_DEVICE_NAME"))


def _has_bfloat16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _versions() -> dict[str, str]:
    """An export of another version of either may be another network."""
    return {name: metadata.version(name) for name in ("digipath", "openvino")}


def _read_entry(folder: Path) -> tuple["openvino.Model", dict[str, np.ndarray]] | None:
    """What an entry of the cache holds; None where it is missing, damaged or of other versions."""
    meta = _meta(folder)
    if meta is None:
        return None
    try:
        if any(_digest(folder / name) != digest for name, digest in meta["files"].items()):
            return None
        tried = {}
        if "probes.npz" in meta["files"]:
            with np.load(folder / "probes.npz", allow_pickle=False) as stored:
                tried = dict(stored)
        return _core().read_model(folder / "model.xml"), tried
    except OSError:
        return None


def _meta(folder: Path) -> dict[str, Any] | None:
    meta = _read_json(folder / "meta.json")
    if meta is None or any(meta.get(name) != version for name, version in _versions().items()):
        return None
    files, sides = meta.get("files"), meta.get("sides")
    whole = isinstance(files, dict) and set(_FILES[:2]) <= set(files) <= set(_FILES)
    return meta if whole and isinstance(sides, list) and len(sides) == 2 else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _LONGEST:
            return None
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entries if isinstance(entries, dict) else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(file.read()).hexdigest()
