"""How fast one network runs through each runtime and precision; prints JSON.

    python benchmarks/runtimes.py            # a DenseNet-121 UNet on patches of 512 px; some minutes
    python benchmarks/runtimes.py --quick    # a small UNet on patches of 128 px; seconds

The network has random weights, as speed does not depend on them. All runtimes take turns on the same batch in one
process, and every figure is a median over the turns:

a  `megapixels_per_second`: patch pixels through each runtime
b  `over_keras_float32`: how many times as fast as Keras in float32, the median of the turns' own ratios. Goal: OpenVINO
   in bfloat16 at least 2, on a processor with AVX512-BF16
c  `over_keras_float32_in_processor_time`: the same of the seconds that all threads of the process computed, which other
   programs on the machine hardly disturb
d  `largest_difference`: of a probability from Keras in float32, on the batch. That of random weights is small; what
   bfloat16 changes in a trained network is in docs/results.md. In int8 (NNCF, calibrated on noise) it means nothing.

What the machine lacks is left out: OpenVINO, a processor with bfloat16, NNCF.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec

Network = Callable[[np.ndarray], np.ndarray]


def main():
    """Make the runtimes, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network and few turns")
    parser.add_argument("--patch", type=int, help="side of a patch in pixels")
    parser.add_argument("--turns", type=int, help="how often each runtime is measured")
    arguments = parser.parse_args()
    patch = arguments.patch or (128 if arguments.quick else 512)
    turns = arguments.turns or (3 if arguments.quick else 7)
    bundle = made("bcc-unet" if arguments.quick else "unet-densenet121", patch, width=0.25 if arguments.quick else 1.0)
    batch = np.random.default_rng(0).integers(0, 256, (max(1, 2**19 // patch**2), patch, patch, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIGIPATH_CACHE"] = folder
        networks = runtimes(bundle, batch)
        values = {name: network(batch) for name, network in networks.items()}
        seconds = interleaved(networks, batch, turns)
    print(json.dumps(figures(bundle, batch, values, seconds), indent=2))


def made(architecture: str, patch: int, *, width: float) -> Bundle:
    """A bundle with random weights."""
    from digipath.models.catalog import rebuild

    spec = ModelSpec(architecture=architecture, mpp=0.5, patch=patch, width=width)
    return Bundle(rebuild(spec), spec)


def runtimes(bundle: Bundle, batch: np.ndarray) -> dict[str, Network]:
    """The contestants by name, Keras in float32 first."""
    found: dict[str, Network] = {
        f"keras {precision}": KerasPredictor(bundle, precision=precision) for precision in ("float32", "bfloat16")
    }
    if importlib.util.find_spec("openvino") is None:
        return found
    from digipath.inference.openvino_runtime import OpenVINOPredictor

    for precision in ("float32", "bfloat16") if OpenVINOPredictor.has_bfloat16() else ("float32",):
        found[f"openvino {precision}"] = OpenVINOPredictor(bundle, precision=precision)
    if importlib.util.find_spec("nncf") is not None:
        found["openvino int8"] = quantised(bundle, batch)
    return found


def quantised(bundle: Bundle, batch: np.ndarray) -> Network:
    """The network in int8, by NNCF's post-training quantisation, as `digipath.inference.quantise` does it."""
    from digipath.inference.openvino_runtime import compiled, converted
    from digipath.inference.quantise import in_int8

    small = in_int8(converted(bundle, (batch.shape[2], batch.shape[1])), batch[:1])
    network = compiled(small, "int8")
    return lambda patches: bundle.spec.probabilities(network(patches))


def interleaved(networks: dict[str, Network], batch: np.ndarray, turns: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and seconds of all threads, of each network in each turn; in a turn all of them see the batch once."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for _ in range(turns):
        for name, network in networks.items():
            begin, computed = time.perf_counter(), time.process_time()
            network(batch)
            seconds[name].append((time.perf_counter() - begin, time.process_time() - computed))
    return seconds


def figures(
    bundle: Bundle, batch: np.ndarray, values: dict[str, np.ndarray], seconds: dict[str, list[tuple[float, float]]]
) -> dict:
    """What is printed."""
    first = next(iter(seconds))
    pixels = batch.shape[0] * batch.shape[1] * batch.shape[2] / 1e6

    def times(which: int) -> dict[str, float]:
        pairs = {name: zip(seconds[first], each, strict=True) for name, each in seconds.items()}
        return {
            name: round(statistics.median(keras[which] / own[which] for keras, own in each), 2)
            for name, each in pairs.items()
        }

    rates = {name: pixels / statistics.median(wall for wall, _ in each) for name, each in seconds.items()}
    return {
        "network": bundle.spec.architecture,
        "batch": f"{len(batch)} patches of {batch.shape[2]} x {batch.shape[1]} px",
        "cores": os.cpu_count(),
        "megapixels_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "over_keras_float32": times(0),
        "over_keras_float32_in_processor_time": times(1),
        "largest_difference": {
            name: float(f"{np.abs(each - values[first]).max():.2g}") for name, each in values.items()
        },
    }


if __name__ == "__main__":
    main()
