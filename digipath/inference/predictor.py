"""A network as a callable: uint8 patches in, named channels that sum to one out."""

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from digipath.errors import ResultError, SpecError
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec

__all__ = ["UNCERTAINTY", "FunctionPredictor", "Predictor", "describe_runtime", "predictor_of"]

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

    What computes a network besides has `runtime`, a text for `describe_runtime`; a predictor made of others names them
    `members` or `member`.
    """

    spec: ModelSpec
    channels: tuple[str, ...]
    multiple: int

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Map (n, height, width, 3) uint8 RGB to (n, height / stride, width / stride, channels) float32."""
        ...


class FunctionPredictor:
    """Any function of patches as a predictor.

    Attributes:
        runtime: "function".

    Args:
        function: Takes (n, height, width, 3) patches; returns what a network with this specification would.
        spec: What the function expects and returns.
        multiple: The sides of a patch are multiples of this many pixels.
    """

    runtime = "function"

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], spec: ModelSpec, *, multiple: int = 1):
        self.function, self.spec, self.multiple = function, spec, multiple
        self.channels = tuple(spec.classes)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Apply the function, and name what it returns."""
        return self.spec.probabilities(np.asarray(self.function(patches)))


def predictor_of(bundle: Bundle, *, runtime: str = "auto", precision: str | None = None) -> Predictor:
    """A bundle's network as a callable, through the runtime that is fastest here.

    "auto" means: Keras, where its backend computes on a GPU; else OpenVINO, where it is installed and takes the
    network; else Keras. Keras is asked for its GPUs only where it is imported already or the machine shows signs of
    one (a device file of NVIDIA, AMD or WSL, or nvidia-smi, and no CUDA_VISIBLE_DEVICES that hides it): importing it
    takes seconds.

    Args:
        bundle: Network and specification.
        runtime: "auto", "keras" or "openvino".
        precision: "float32", "bfloat16" or "int8"; None takes the fastest that changes no probability of some made
            patches by more than 5e-3. "int8" is OpenVINO's alone, and for bundles that have it
            (`digipath.inference.quantise`).

    Raises:
        SpecError: The runtime is not installed, or the machine does not compute in this precision.
    """
    if runtime not in ("auto", "keras", "openvino"):
        raise SpecError(f"runtime is one of auto, keras, openvino, got {runtime!r}. Choose one of them.")
    if precision not in (None, "float32", "bfloat16", "int8"):
        raise SpecError(f"precision is float32, bfloat16, int8 or None, got {precision!r}. Choose one of them.")
    if runtime == "keras" and precision == "int8":
        raise SpecError("Keras does not compute in int8 here. Use runtime='openvino', or another precision.")
    installed = importlib.util.find_spec("openvino") is not None
    if not installed and (runtime == "openvino" or precision == "int8"):
        wish = "runtime='openvino'" if runtime == "openvino" else "precision='int8'"
        raise SpecError(f"{wish} needs OpenVINO. Install it: pip install digipath[openvino].")
    if precision == "int8":
        return _through_openvino(bundle, precision, or_keras=False)
    if runtime == "keras" or not installed or (runtime == "auto" and _sees_gpu()):
        return _through_keras(bundle, precision)
    return _through_openvino(bundle, precision, or_keras=runtime == "auto")


def describe_runtime(predictor: Predictor) -> list[str]:
    """What computes a predictor's networks, in words; each runtime once."""
    if (runtime := getattr(predictor, "runtime", None)) is not None:
        return [runtime]
    members = getattr(predictor, "members", None) or [getattr(predictor, "member", None)]
    found = [text for member in members if member is not None for text in describe_runtime(member)]
    return list(dict.fromkeys(found))


def _through_keras(bundle: Bundle, precision: str | None) -> Predictor:
    from digipath.inference.keras_runtime import KerasPredictor, fastest_precision

    return KerasPredictor(bundle, precision=precision or fastest_precision(bundle))


def _through_openvino(bundle: Bundle, precision: str | None, *, or_keras: bool) -> Predictor:
    from digipath.inference.openvino_runtime import OpenVINOPredictor

    if or_keras and precision == "bfloat16" and not OpenVINOPredictor.has_bfloat16():
        return _through_keras(bundle, precision)
    predictor = OpenVINOPredictor(bundle, precision=precision)
    if or_keras:
        try:
            predictor.prepare()
        except (ResultError, ImportError) as error:  # it does not know the network, or is installed in halves
            warnings.warn(f"{error} Keras is used instead, which is slower.", stacklevel=3)
            return _through_keras(bundle, precision)
    return predictor


def _sees_gpu() -> bool:
    """Whether Keras would compute on a GPU; it is not imported to find out where no sign of a GPU is seen."""
    if "keras" not in sys.modules and not _shows_gpu():
        return False
    from digipath.inference.keras_runtime import gpus

    return bool(gpus())


def _shows_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1") or not sys.platform.startswith("linux"):
        return False
    files = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None
