"""Which runtime a bundle gets; the laws of each stand in its own file."""

import sys

import pytest

from digipath.errors import ResultError, SpecError
from digipath.inference import predictor as module
from digipath.inference.keras_runtime import KerasPredictor
from digipath.inference.predictor import FunctionPredictor, describe_runtime, predictor_of
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec


class Chosen:
    """Stands for a runtime: remembers what it was made with."""

    def __init__(self, bundle, *, precision=None):
        self.bundle, self.precision = bundle, precision

    def prepare(self):
        pass


@pytest.fixture
def machine(monkeypatch):
    """A machine that can be told what it has."""
    pytest.importorskip("openvino")
    has = {"gpu": False, "bfloat16": True, "openvino": True}

    class OpenVINO(Chosen):
        has_bfloat16 = staticmethod(lambda: has["bfloat16"])

    class Keras(Chosen):
        pass

    monkeypatch.setattr("digipath.inference.openvino_runtime.OpenVINOPredictor", OpenVINO)
    monkeypatch.setattr("digipath.inference.keras_runtime.KerasPredictor", Keras)
    monkeypatch.setattr("digipath.inference.keras_runtime.fastest_precision", lambda _: "float32")
    monkeypatch.setattr(module, "_sees_gpu", lambda: has["gpu"])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: has["openvino"] or None)
    return has


def name_of(*arguments, **options):
    return type(predictor_of(Bundle.builtin(), *arguments, **options)).__name__


def test_a_gpu_means_keras_else_openvino_where_it_is_installed(machine):
    assert name_of() == "OpenVINO"
    machine["gpu"] = True
    assert name_of() == "Keras" and name_of(runtime="openvino") == "OpenVINO"
    machine |= {"gpu": False, "openvino": False}
    assert name_of() == "Keras"
    with pytest.raises(SpecError, match=r"pip install digipath\[openvino\]"):
        name_of(runtime="openvino")


def test_int8_is_openvinos_alone(machine):
    machine["gpu"] = True
    assert name_of(precision="int8") == "OpenVINO"
    with pytest.raises(SpecError, match="Keras does not compute in int8"):
        name_of(runtime="keras", precision="int8")
    machine["openvino"] = False
    with pytest.raises(SpecError, match="precision='int8' needs OpenVINO"):
        name_of(precision="int8")


def test_a_processor_without_bfloat16_computes_in_it_through_keras_alone(machine):
    machine["bfloat16"] = False
    assert name_of(precision="bfloat16") == "Keras" and name_of(precision="float32") == "OpenVINO"


@pytest.mark.usefixtures("machine")
def test_what_openvino_cannot_do_is_told_and_done_by_keras(monkeypatch):
    def fails(_):
        raise ResultError("this network cannot be exported.")

    monkeypatch.setattr(Chosen, "prepare", fails)
    with pytest.warns(UserWarning, match="cannot be exported. Keras is used instead"):
        assert name_of() == "Keras"
    assert name_of(runtime="openvino") == "OpenVINO"  # which fails at its first patch


@pytest.mark.parametrize("options", [{"runtime": "tensorrt"}, {"precision": "int4"}, {"precision": "float64"}])
def test_unknown_choices_are_refused(options):
    with pytest.raises(SpecError, match="Choose one of them"):
        predictor_of(Bundle.builtin(), **options)


def test_keras_is_not_asked_for_gpus_where_no_sign_of_one_is_seen(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    del sys.modules["keras"]
    monkeypatch.setattr(module, "_shows_gpu", lambda: False)
    assert module._sees_gpu() is False and "keras" not in sys.modules


@pytest.mark.parametrize(("hidden", "shown"), [("", False), ("-1", False), ("0", True), (None, True)])
def test_a_hidden_gpu_is_no_sign(monkeypatch, hidden, shown):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    if hidden is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert module._shows_gpu() is shown
    monkeypatch.setattr(sys, "platform", "win32")
    assert module._shows_gpu() is False


def test_runtimes_of_what_predictors_are_made_of_are_each_said_once():
    spec = ModelSpec(architecture="tiny", mpp=1.0, patch=64)
    one = FunctionPredictor(lambda patches: patches, spec)

    class Made:
        members = (one, one)

    class Turned:
        member = Made()

    assert describe_runtime(one) == describe_runtime(Made()) == describe_runtime(Turned()) == ["function"]
    assert describe_runtime(object()) == []


def test_keras_says_version_backend_precision_and_device():
    import keras

    (text,) = describe_runtime(KerasPredictor(Bundle.builtin(), precision="bfloat16"))
    assert text.startswith(f"keras {keras.__version__} ({keras.backend.backend()}, bfloat16, ")
