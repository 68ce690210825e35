"""A bundle's network through Keras, on whichever backend Keras has."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from digipath.errors import SpecError
from digipath.inference.agreement import LARGEST, possible_change, probes
from digipath.inference.batching import BackOff
from digipath.models.backend import import_keras
from digipath.models.bundle import Bundle, last_output

__all__ = ["KerasPredictor", "check_side", "fastest_precision", "gpus", "multiple"]


class KerasPredictor:
    """A bundle's network through Keras, on whichever backend Keras has.

    The network is traced once per patch size, for a fixed batch; a smaller last batch is filled up and cut. A batch
    that does not fit into memory is halved. Of several outputs (deep supervision) the last alone is computed. Several
    GPUs of TensorFlow each hold a replica and share every batch.

    Args:
        bundle: Network and specification.
        batch: Patches per call; more than that are refused. None takes the largest batch seen so far.
        precision: "float32", "bfloat16" or "float16", in which convolutions are computed; weights and output stay
            float32. None means float32.
        devices: Names of TensorFlow's devices that share the work; None takes all GPUs, or the processor.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        batch: int | None = None,
        precision: str | None = None,
        devices: Sequence[str] | None = None,
    ):
        if precision not in (None, "float32", "bfloat16", "float16"):
            raise SpecError(f"Keras computes in float32, bfloat16 or float16, got precision={precision!r}.")
        self.bundle, self.spec, self.batch = bundle, bundle.spec, batch
        self.precision, self.devices = precision or "float32", devices
        self.channels = tuple(bundle.spec.classes)
        self._forward: Callable | None = None
        self._largest: dict[tuple[int, ...], int] = {}
        self._parts = BackOff(self._filled)

    @property
    def _model(self):
        import_keras()
        return self.bundle.model

    @property
    def key(self) -> str:
        """The bundle's."""
        return self.bundle.key

    @property
    def runtime(self) -> str:
        """Version, backend, precision and device."""
        keras = import_keras()
        devices = self._devices
        kind = "GPU" if gpus() else "CPU"
        device = kind if len(devices) < 2 else f"{len(devices)} {kind}s"
        return f"keras {keras.__version__} ({keras.backend.backend()}, {self.precision}, {device})"

    @property
    def multiple(self) -> int:
        """The network's own side where it has a fixed one; else 32, the coarsest stride of the usual encoders."""
        return multiple(self._model.input_shape[1:3], self.spec.patch)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the network to a batch."""
        if patches.shape[1:] not in self._largest:
            check_side(self._model.input_shape[1:3], patches.shape[1:3])
        if self.batch and len(patches) > self.batch:
            raise SpecError(
                f"a batch holds at most {self.batch} patches, got {len(patches)}. "
                f"Make the predictor with batch={len(patches)}."
            )
        return self.spec.probabilities(self._parts(patches))

    def _filled(self, patches: np.ndarray) -> np.ndarray:
        """What the network returns for patches, filled up to the batch that it was traced for."""
        count, shape = len(patches), patches.shape[1:]
        wanted = self.batch or max(count, self._largest.get(shape, 0))
        batch = self._largest[shape] = min(wanted, self._parts.limits.get(shape, wanted))
        if count < batch:
            patches = np.concatenate([patches, np.zeros((batch - count, *shape), patches.dtype)])
        if self._forward is None:
            self._forward = self._made()
        return self._forward(patches)[:count]

    @property
    def _devices(self) -> tuple[str, ...]:
        """Those that share the work: with TensorFlow alone there can be several."""
        several = import_keras().backend.backend() == "tensorflow"
        return tuple(self.devices or gpus()) if several else ()

    def _made(self) -> Callable[[np.ndarray], np.ndarray]:
        devices = self._devices
        if len(devices) > 1:
            return _shared([_replica(self.bundle, self.precision, device) for device in devices], devices)
        return _traced(_in_precision(self.bundle, self.precision))


def fastest_precision(bundle: Bundle) -> str:
    """In which a GPU computes a network fastest without changing a probability of some made patches by more than 5e-3.

    On a processor float32: OpenVINO is the faster way there.
    """
    wanted = _precision_of_gpu()
    if wanted == "float32":
        return wanted
    patches = probes(bundle.spec, (bundle.spec.patch, bundle.spec.patch))
    values = (KerasPredictor(bundle, precision=precision)(patches) for precision in ("float32", wanted))
    return wanted if possible_change(*values) <= LARGEST else "float32"


def _precision_of_gpu() -> str:
    """What the GPUs' fast units compute in: bfloat16 from NVIDIA's compute capability 8 on, float16 from 7 on."""
    if import_keras().backend.backend() != "tensorflow":
        return "float32"
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    capability = min((each.get("compute_capability", (0, 0)) for each in details), default=(0, 0))
    return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"


def multiple(sides: tuple[int | None, int | None], patch: int) -> int:
    """What the sides of a patch are multiples of, for a network whose input has these sides (None: any)."""
    fixed = {side for side in sides if side is not None}
    return max(fixed) if fixed else math.gcd(patch, 32)


def check_side(fixed: tuple[int | None, int | None], got: tuple[int, ...]) -> None:
    """Refuse patches of another size (height, width) than the only one that the network takes."""
    if any(side not in (None, other) for side, other in zip(fixed, got, strict=True)):
        raise SpecError(
            f"this network takes patches of {fixed[1]} x {fixed[0]} pixels only, got {got[1]} x {got[0]}. "
            "Leave patch as it is, and give a heatmap_mpp of which a patch holds a whole number; or build the "
            "network for any size, with Input((None, None, 3))."
        )


def gpus() -> tuple[str, ...]:
    """Names of the GPUs that Keras' backend computes on; empty where it computes on the processor."""
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):  # else the first takes all memory, and keeps it
            with suppress(RuntimeError):  # TensorFlow is at work already, as whoever began has set it up
                tf.config.experimental.set_memory_growth(device, True)
        return tuple(device.name for device in tf.config.list_logical_devices("GPU"))
    if backend == "jax":
        import jax

        return tuple(str(device) for device in jax.devices() if device.platform == "gpu")
    if backend == "torch":
        import torch

        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return ()


def _traced(model) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of patches, compiled once per shape of them."""
    keras = import_keras()

    if keras.backend.backend() == "jax":
        return _traced_by_jax(model)
    if keras.backend.backend() != "tensorflow":
        return lambda patches: keras.ops.convert_to_numpy(model.predict_on_batch(patches))
    import tensorflow as tf

    # A tf.function keeps one graph per shape; model.predict in a loop leaks, and a plain call runs without a graph.
    graph = tf.function(lambda patches: model(patches, training=False), reduce_retracing=False)
    return lambda patches: graph(tf.constant(patches)).numpy()


def _traced_by_jax(model) -> Callable[[np.ndarray], np.ndarray]:
    # Keras' own predict_on_batch makes the size of a second shape unknown, which up-sampling refuses.
    import jax

    trained = [variable.value for variable in model.trainable_variables]
    other = [variable.value for variable in model.non_trainable_variables]
    graph = jax.jit(lambda trained, other, x: model.stateless_call(trained, other, x, training=False)[0])
    return lambda patches: np.asarray(graph(trained, other, patches))


def _in_precision(bundle: Bundle, precision: str):
    """The network with its last output alone, computed in a precision; its weights are the bundle's."""
    if precision == "float32":
        return last_output(bundle.model)
    keras = import_keras()
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(f"mixed_{precision}")
        return _copy(bundle)
    finally:
        keras.config.set_dtype_policy(before)


def _replica(bundle: Bundle, precision: str, device: str):
    """The network with variables of its own on a device."""
    import tensorflow as tf

    keras = import_keras()
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        with tf.device(device):
            return _copy(bundle)
    finally:
        keras.config.set_dtype_policy(before)


def _copy(bundle: Bundle):
    """The network built anew under the precision and on the device that are in force, with the same weights."""
    from digipath.models.catalog import known, rebuild

    copy = rebuild(bundle.spec) if known(bundle.spec.architecture) else _cloned(bundle.model)
    copy.set_weights(bundle.model.get_weights())
    return last_output(copy)


def _cloned(model):
    """A network of the user's own under the precision in force; its last layer stays in float32."""
    keras = import_keras()
    policy = keras.config.dtype_policy()
    last = {tensor._keras_history.operation.name for tensor in model.outputs}

    def layer_of(layer):
        config = layer.get_config() | {"dtype": "float32" if layer.name in last else policy}
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=layer_of)


def _shared(models: list, devices: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    """Several replicas, each of which takes an equal part of every batch."""
    import tensorflow as tf

    pool, calls = ThreadPoolExecutor(len(models)), [_traced(model) for model in models]

    def part(number: int, patches: np.ndarray) -> np.ndarray:
        with tf.device(devices[number]):
            return calls[number](patches)

    def forward(patches: np.ndarray) -> np.ndarray:
        size = -(-len(patches) // len(models))
        filled = np.concatenate([patches, np.zeros((size * len(models) - len(patches), *patches.shape[1:]), np.uint8)])
        parts = pool.map(part, range(len(models)), np.split(filled, len(models)))
        return np.concatenate(list(parts))[: len(patches)]

    return forward
