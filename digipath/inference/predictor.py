"""A network as a callable: uint8 patches in, named channels that sum to one out."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from digipath.errors import SpecError
from digipath.models.backend import import_keras
from digipath.models.bundle import Bundle, last_output
from digipath.models.spec import ModelSpec

__all__ = ["UNCERTAINTY", "FunctionPredictor", "KerasPredictor", "Predictor"]

UNCERTAINTY = ("aleatoric", "epistemic")
"""Names of the channels that may follow a predictor's classes: variances (0 to 0.25) of its last class's probability.

Over augmentations and over networks, Eq. 4 and 5 of Khened et al. 2021.
"""


class Predictor(Protocol):
    """What the engine asks of a network, or of several.

    Attributes:
        spec: What the patches must be, and what the values mean.
        channels: A name for each channel of the values.
        multiple: The sides of a patch are multiples of this many pixels.
    """

    spec: ModelSpec
    channels: tuple[str, ...]
    multiple: int

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Map (n, height, width, 3) uint8 RGB to (n, height / stride, width / stride, channels) float32."""
        ...


class FunctionPredictor:
    """Any function of patches as a predictor.

    Args:
        function: Takes (n, height, width, 3) patches; returns what a network with this specification would.
        spec: What the function expects and returns.
        multiple: The sides of a patch are multiples of this many pixels.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], spec: ModelSpec, *, multiple: int = 1):
        self.function, self.spec, self.multiple = function, spec, multiple
        self.channels = tuple(spec.classes)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the function, and name what it returns."""
        return self.spec.probabilities(np.asarray(self.function(patches)))


class KerasPredictor:
    """A bundle's network through Keras, on whichever backend Keras has.

    The network is traced once per patch size, for a fixed batch; a smaller last batch is filled up and cut. Of several
    outputs (deep supervision) the last alone is computed.

    Args:
        bundle: Network and specification.
        batch: Patches per call; more than that are refused. None takes the largest batch seen so far.
    """

    def __init__(self, bundle: Bundle, *, batch: int | None = None):
        self.bundle, self.spec, self.batch = bundle, bundle.spec, batch
        self.channels = tuple(bundle.spec.classes)
        self._forward: Callable | None = None
        self._largest: dict[tuple[int, ...], int] = {}

    @property
    def _model(self):
        import_keras()
        return self.bundle.model

    @property
    def multiple(self) -> int:
        """The network's own side where it has a fixed one; else 32, the coarsest stride of the usual encoders."""
        sides = {side for side in self._model.input_shape[1:3] if side is not None}
        return max(sides) if sides else math.gcd(self.spec.patch, 32)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the network to a batch."""
        count, shape = len(patches), patches.shape[1:]
        if shape not in self._largest:
            self._check_side(shape)
        batch = self._largest[shape] = self.batch or max(count, self._largest.get(shape, 0))
        if count > batch:
            raise SpecError(
                f"a batch holds at most {batch} patches, got {count}. Make the predictor with batch={count}."
            )
        if count < batch:
            patches = np.concatenate([patches, np.zeros((batch - count, *shape), patches.dtype)])
        if self._forward is None:
            self._forward = _traced(last_output(self._model))
        return self.spec.probabilities(self._forward(patches)[:count])

    def _check_side(self, shape: tuple[int, ...]):
        """Refuse patches of another size than the only one that the network takes."""
        fixed = self._model.input_shape[1:3]
        if any(side not in (None, got) for side, got in zip(fixed, shape, strict=False)):
            raise SpecError(
                f"this network takes patches of {fixed[1]} x {fixed[0]} pixels only, got {shape[1]} x {shape[0]}. "
                "Leave patch as it is, and give a heatmap_mpp of which a patch holds a whole number; or build the "
                "network for any size, with Input((None, None, 3))."
            )


def _traced(model) -> Callable[[np.ndarray], np.ndarray]:
    keras = import_keras()

    if keras.backend.backend() != "tensorflow":
        return lambda patches: keras.ops.convert_to_numpy(model.predict_on_batch(patches))
    import tensorflow as tf

    # A tf.function keeps one graph per shape; model.predict in a loop leaks, and a plain call runs without a graph.
    graph = tf.function(lambda patches: model(patches, training=False), reduce_retracing=False)
    return lambda patches: graph(tf.constant(patches)).numpy()
