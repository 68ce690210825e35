"""What a specification accepts, refuses, and makes of a network's output."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from digipath.errors import BundleError, SpecError
from digipath.models import spec as spec_module
from digipath.models.spec import FORMAT_VERSION, ModelSpec
from digipath.slides import stain

rng = np.random.default_rng(0)


def spec(**changes):
    return ModelSpec(**({"architecture": "mine", "mpp": 1.1, "patch": 64} | changes))


def softmax(logits):
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"mpp": 0},
        {"mpp": float("nan")},
        {"mpp": "1.1"},
        {"patch": 0},
        {"patch": 64.0},
        {"patch": 65, "output_stride": 2},
        {"output_stride": 0},
        {"margin": -1},
        {"margin": 32},
        {"margin": 3, "output_stride": 2},
        {"kind": "detector"},
        {"activation": "relu"},
        {"resampling": "nearest"},
        {"stain": "reinhard"},
        {"classes": ("lesion",)},
        {"classes": ("lesion", "lesion")},
        {"classes": "lesion"},
        {"classes": ("a", "b", "c"), "activation": "sigmoid"},
        {"threshold": 1.5},
        {"temperature": 0},
        {"width": 0},
        {"architecture": " "},
        {"format_version": 0},
    ],
)
def test_nonsense_is_refused_at_birth(changes):
    with pytest.raises(SpecError, match=r"got|reaches"):
        spec(**changes)


@pytest.mark.parametrize(("name", "width"), [("mine", 1.0), ("unet-vgg16", 1.0), ("slim-inceptionv3", 0.1)])
def test_without_a_width_it_is_the_networks_own(name, width):
    assert spec(architecture=name).width == width
    assert spec(architecture=name) == spec(architecture=name, width=None) == spec(architecture=name, width=width)
    assert ModelSpec.from_json(spec(architecture=name).to_json()).width == width


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stain": "macenko"},
        {"classes": ("a", "b", "c"), "temperature": 1.7},
        {"kind": "classifier", "margin": 8, "threshold": 0.35},
    ],
)
def test_a_specification_survives_json(changes):
    assert ModelSpec.from_json(spec(**changes).to_json()) == spec(**changes)


def test_a_specification_without_normalisation_is_written_as_before_there_was_one():
    """Else the hash of every bundle would change."""
    assert list(json.loads(spec().to_json())) == [
        field.name for field in dataclasses.fields(ModelSpec) if field.name != "stain"
    ]
    assert "macenko" in spec(stain="macenko").to_json()


def test_normalisations_are_those_that_slides_know():
    assert spec_module.NORMALISATIONS == stain.NORMALISATIONS


def test_equal_specifications_have_equal_json():
    assert spec(temperature=1.5).to_json() == dataclasses.replace(spec(), temperature=1.5).to_json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "Update digipath"),
        ({"patch_size": 64}, "patch_size"),
        ({"mpp": ...}, "needs mpp"),
    ],
)
def test_json_that_does_not_fit_is_refused(change, says):
    entries = json.loads(spec().to_json()) | change
    entries = {name: value for name, value in entries.items() if value is not ...}
    with pytest.raises(BundleError, match=says):
        ModelSpec.from_json(json.dumps(entries))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(BundleError):
        ModelSpec.from_json(text)


def test_probabilities_are_the_output_where_nothing_is_to_be_done():
    output = softmax(rng.normal(size=(2, 4, 5, 2))).astype("float32")
    np.testing.assert_array_equal(spec().probabilities(output), output)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_divides_the_logits(temperature):
    logits = rng.normal(size=(2, 3, 3, 3)) * 3
    values = spec(classes=("a", "b", "c"), temperature=temperature).probabilities(softmax(logits))
    np.testing.assert_allclose(values, softmax(logits / temperature), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("value", [0.0, 1e-9, 0.5, 1.0])
def test_channels_sum_to_one(temperature, value):
    output = np.full((1, 2, 2, 1), value)
    values = spec(activation="sigmoid", temperature=temperature).probabilities(output)
    assert values.dtype == np.float32 and values.shape == (1, 2, 2, 2)
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-6)


def test_a_sigmoid_is_the_probability_of_the_second_class():
    values = spec(activation="sigmoid").probabilities(np.full((1, 1, 1, 1), 0.8))
    np.testing.assert_allclose(values[0, 0, 0], [0.2, 0.8], atol=1e-6)


def test_a_classifiers_output_has_one_row_and_column():
    output = softmax(rng.normal(size=(3, 2)))
    values = spec(kind="classifier").probabilities(output)
    assert values.shape == (3, 1, 1, 2)
    np.testing.assert_allclose(values[:, 0, 0], output, atol=1e-6)


def test_output_of_another_shape_is_refused():
    with pytest.raises(SpecError, match="2 channels"):
        spec().probabilities(np.zeros((1, 4, 4, 3)))


def test_reading_a_specification_imports_no_tensorflow():
    code = "import sys, digipath.models.spec; sys.exit(any(n in sys.modules for n in ('keras', 'tensorflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"architecture": "a", "patch": 32, "mpp": 1' + "0" * 400 + "}"])
def test_a_specification_made_to_break_the_reader_is_refused(text):
    with pytest.raises((BundleError, SpecError)):
        ModelSpec.from_json(text)


def test_classes_have_names_that_every_result_can_show():
    """An annotation refuses any other, which would be after hours of prediction."""
    with pytest.raises(SpecError, match="printable"):
        ModelSpec(architecture="a", mpp=1.0, patch=32, classes=("other", "le\nsion"))
