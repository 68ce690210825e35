"""What this machine has, and whether it works."""

import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digipath.geometry.frame import Frame
from digipath.io.pyramid import RGB, write_pyramid
from digipath.provenance import versions
from digipath.slides.slide import open_slide

__all__ = ["Check", "examine"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        ok: True or False where it can be right or wrong, None where it is only said.
        finding: What was found, and what to do about it.
    """

    name: str
    ok: bool | None
    finding: str


def examine() -> Iterator[Check]:
    """Look at everything that a prediction depends on; a check that breaks is a finding too."""
    checks: dict[str, Callable[[], tuple[bool | None, str]]] = {
        "versions": _versions,
        "processor": _processor,
        "OpenSlide": lambda: _pixels("openslide"),
        "fastslide": _fastslide,
        "bundle": _bundle,
        "keras": _keras,
        "GPU": _gpu,
        "OpenVINO": _openvino,
        "runtime": _runtime,
        "viewer": _viewer,
    }
    for name, check in checks.items():
        try:
            yield Check(name, *check())
        except Exception as error:  # a doctor reports what it finds, whatever it is
            yield Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _versions() -> tuple[None, str]:
    return None, ", ".join(f"{name} {version}" for name, version in versions().items())


def _processor() -> tuple[None, str]:
    cores = f"{os.cpu_count()} cores"
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
    has = ", ".join(name for name in wanted if name in flags) or "features unknown"
    return None, f"{platform.machine()}, {cores}, {has}"


def _pixels(backend: str) -> tuple[bool, str]:
    """Write a slide with known pixels, and read it back at two levels: some library builds return blank regions."""
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = np.kron(values, np.ones((64, 64, 1), np.uint8))
    frame = Frame.level0(1024, 1024, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.tif"
        write_pyramid(path, frame, [(0, image)], channels=RGB)
        with open_slide(path, backend=backend) as slide:
            worst = max(
                int(np.abs(slide.read(at.box, at).astype(int) - image[::step, ::step]).max())
                for step, at in ((1, slide.frame), (4, slide.frame.at(2.0)))
            )
            mpp = slide.frame.mpp
    if worst > 1 or abs(mpp - 0.5) > 1e-3:
        return False, f"a made slide came back wrong by {worst} grey levels at {mpp:g} um per pixel; reinstall it"
    return True, "a made slide came back with its pixels and resolution"


def _fastslide() -> tuple[bool | None, str]:
    if importlib.util.find_spec("fastslide") is None:
        return None, "not installed; `pip install digipath[fastslide]` makes reading about twice as fast"
    ok, finding = _pixels("fastslide")
    return ok, f"{finding}; used wherever it opens a slide"


def _bundle() -> tuple[bool, str]:
    from digipath.models.bundle import Bundle

    bundle = Bundle.builtin()
    return True, f"{bundle.name} ({bundle.hash}), {bundle.spec.mpp:g} um per pixel"


def _keras() -> tuple[bool, str]:
    from digipath.inference.keras_runtime import KerasPredictor
    from digipath.models.bundle import Bundle

    predictor = KerasPredictor(Bundle.builtin())
    values = predictor(np.full((1, 64, 64, 3), 255, np.uint8))
    found = versions()
    text = f"{found['keras']} on {found.get('keras backend', 'tensorflow')}; the built-in network runs"
    return bool(np.isfinite(values).all()), text


def _viewer() -> tuple[None, str]:
    missing = [name for name in ("dash", "dash_leaflet", "waitress") if importlib.util.find_spec(name) is None]
    if missing:
        return None, f"{', '.join(missing)} not installed; `pip install digipath[viewer]` brings `digipath view`"
    return None, "installed; `digipath view FOLDER` shows slides and results in the browser"


def _gpu() -> tuple[None, str]:
    import keras

    if keras.backend.backend() != "tensorflow":
        return None, "not looked for: Keras does not run on TensorFlow here"
    import tensorflow as tf

    names = [device.name for device in tf.config.list_physical_devices("GPU")]
    return None, f"used: {', '.join(names)}" if names else "none that TensorFlow sees; networks run on the processor"


def _openvino() -> tuple[bool | None, str]:
    """The built-in network gives the same through both runtimes, on made patches."""
    if importlib.util.find_spec("openvino") is None:
        return None, "not installed; `pip install digipath[openvino]` makes networks run faster on a processor"
    from digipath.inference.agreement import LARGEST, difference, probes
    from digipath.inference.keras_runtime import KerasPredictor
    from digipath.inference.openvino_runtime import OpenVINOPredictor
    from digipath.models.bundle import Bundle

    bundle = Bundle.builtin()
    one = OpenVINOPredictor(bundle)
    patches = probes(bundle.spec, (bundle.spec.patch, bundle.spec.patch))
    worst = difference(one(patches), KerasPredictor(bundle, precision="float32")(patches))
    if worst > LARGEST:
        return False, f"{one.runtime} changes probabilities by up to {worst:.2g}; give runtime='keras' and report it"
    return True, f"{one.runtime}; the built-in network agrees with Keras to {worst:.1g}"


def _runtime() -> tuple[None, str]:
    from digipath.inference.predictor import describe_runtime, predictor_of
    from digipath.models.bundle import Bundle

    return None, f"networks run through {describe_runtime(predictor_of(Bundle.builtin()))[0]}"
