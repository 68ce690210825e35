"""A bundle's network in int8 for OpenVINO, made once from real patches and stored beside its weights.

Post-training quantisation by NNCF: weights and activations become whole numbers of eight bits, in ranges found by
running the network on patches. It is the fastest way through a processor, and changes results: whoever stores it
measures by how much, on images that were not used to make it.
"""

import contextlib
import json
import os
import sys
import tempfile
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from digipath.errors import SpecError
from digipath.inference.agreement import LARGEST, difference, probes
from digipath.inference.cache import write_text
from digipath.inference.keras_runtime import KerasPredictor
from digipath.inference.openvino_runtime import INT8, compiled, converted
from digipath.models.bundle import Bundle

if TYPE_CHECKING:
    import openvino

__all__ = ["in_int8", "quantise"]


def quantise(bundle: Bundle, patches: np.ndarray, *, note: str = "") -> Path:
    """Store the network of a bundle in int8 too; `precision="int8"` takes it from there.

    Args:
        bundle: A stored one.
        patches: Some hundred real patches (n, patch, patch, 3) uint8 of the kind that the network was trained on.
        note: What is known of it, for `int8.json`, such as Dice before and after; `describe_runtime` shows it.

    Returns:
        The file that describes it.

    Raises:
        SpecError: NNCF is missing, the bundle is not stored, or the patches do not fit it.
        ResultError: OpenVINO does not know the network.
    """
    if bundle.folder is None:
        raise SpecError("int8 is stored beside a bundle's weights, and this bundle has no folder. Save it first.")
    if patches.shape[1:] != (bundle.spec.patch, bundle.spec.patch, 3) or patches.dtype != np.uint8:
        side = bundle.spec.patch
        raise SpecError(f"patches are (n, {side}, {side}, 3) uint8, got {patches.shape} {patches.dtype}.")
    model = converted(bundle, (bundle.spec.patch, bundle.spec.patch))
    _check_sizes(bundle, _any_size(model.clone()))
    return _write(bundle, _any_size(in_int8(model, patches)), {"patches": len(patches), "note": note})


def in_int8(model: "openvino.Model", patches: np.ndarray) -> "openvino.Model":
    """The network in int8, with ranges found on patches; the one that is given is changed."""
    os.environ.setdefault("CI", "true")  # else NNCF reports its use over the internet
    try:
        import nncf
    except ImportError as error:
        raise SpecError("int8 is made by NNCF, which is missing. Install it: pip install nncf.") from error
    from openvino._offline_transformations import apply_moc_transformations

    # Joins convolutions and batch normalisations. Without it NNCF finds no bias to correct, and loses twice as much.
    apply_moc_transformations(model, cf=False)
    images = nncf.Dataset([patches[k : k + 1] for k in range(len(patches))])
    # Symmetric weights and asymmetric activations with the slower correction of biases: of three ways that were tried
    # on colon-lesion-light it lost the least, 0.001 of Dice, and was as fast.
    preset = nncf.QuantizationPreset.MIXED
    with contextlib.redirect_stdout(sys.stderr):  # where its progress bars belong
        return nncf.quantize(model, images, preset=preset, subset_size=len(patches), fast_bias_correction=False)


def _any_size(model: "openvino.Model") -> "openvino.Model":
    """The same network for patches of any size: what enlarges does so by a factor, in place of to a size."""
    from openvino import opset11

    for node in model.get_ordered_ops():
        if node.get_type_name() == "Interpolate":
            axes = node.input_value(2).get_node().get_data().astype(np.int64)
            before, after = node.input_value(0).get_partial_shape(), node.output(0).get_partial_shape()
            factors = np.array([after[int(k)].get_length() / before[int(k)].get_length() for k in axes], np.float32)
            settings = node.get_attributes() | {"shape_calculation_mode": "scales"}
            free = opset11.interpolate(node.input_value(0), scales_or_sizes=factors, axes=axes, **settings)
            free.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(free.output(0))
    model.reshape([-1, -1, -1, 3])
    return model


def _check_sizes(bundle: Bundle, model: "openvino.Model") -> None:
    """Refuse a network that gives other values at another size than Keras does, before it is quantised."""
    step = 32 * (1 + bundle.spec.patch // 64)
    for size in ((bundle.spec.patch, bundle.spec.patch), (bundle.spec.patch + step, step)):
        patches = probes(bundle.spec, size)
        values = bundle.spec.probabilities(compiled(model, "float32")(patches))
        worst = difference(values, KerasPredictor(bundle)(patches))
        if worst > LARGEST:
            raise SpecError(
                f"int8 is made of a network that takes patches of any size, and at {size[0]} x {size[1]} {bundle.name} "
                f"changes by {worst:.2g} where it is made so. It has none."
            )


def made_with() -> dict[str, str]:
    """Versions of what makes a network in int8."""
    return {name: metadata.version(name) for name in ("nncf", "openvino")}


def _write(bundle: Bundle, model: "openvino.Model", known: dict[str, Any]) -> Path:
    """The files of the network in int8; the one that names the others is written last."""
    import openvino

    description = bundle.folder / INT8
    with tempfile.TemporaryDirectory(dir=bundle.folder) as making:
        path = Path(making) / description.with_suffix(".xml").name
        openvino.save_model(model, path, compress_to_fp16=False)
        files = [path, path.with_suffix(".bin")]
        about = {
            "key": Bundle.load(bundle.folder).key,  # of what is stored
            "made_with": made_with(),
            "files": {one.name: sha256(one.read_bytes()).hexdigest() for one in files},
        }
        description.unlink(missing_ok=True)
        for one in files:
            one.replace(bundle.folder / one.name)
    write_text(description, json.dumps(about | known, indent=2) + "\n")
    return description
