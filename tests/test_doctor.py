"""What the doctor says of the networks; what it says of reading is in the slides' own tests."""

import importlib.util

import pytest

from digipath import doctor
from digipath.doctor import examine


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken():
        raise RuntimeError("no\n  such thing")

    for name in ("_pixels", "_fastslide", "_bundle", "_keras", "_gpu", "_openvino", "_runtime"):
        monkeypatch.setattr(doctor, name, lambda *_: (None, "left out"))
    monkeypatch.setattr(doctor, "_gpu", broken)
    found = {check.name: check for check in examine()}
    assert found["GPU"].ok is False and found["GPU"].finding == "RuntimeError: no such thing"
    assert found["runtime"].finding == "left out" and "python" in found["versions"].finding


def test_without_openvino_the_doctor_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    ok, finding = doctor._openvino()
    assert ok is None and "pip install digipath[openvino]" in finding


@pytest.mark.slow
def test_both_runtimes_agree_on_the_built_in_network():
    pytest.importorskip("openvino")
    ok, finding = doctor._openvino()
    assert ok and "agrees with Keras" in finding
    assert "openvino" in doctor._runtime()[1] or "keras" in doctor._runtime()[1]


def test_runtimes_that_disagree_are_told(monkeypatch):
    pytest.importorskip("openvino")
    import numpy as np

    def predictor(value):
        class Made:
            runtime = "made up"

            def __init__(self, *_, precision=None):
                pass

            def __call__(self, patches):
                return np.full((len(patches), 1, 1, 2), value, np.float32)

        return Made

    monkeypatch.setattr("digipath.inference.openvino_runtime.OpenVINOPredictor", predictor(0.5))
    monkeypatch.setattr("digipath.inference.keras_runtime.KerasPredictor", predictor(0.6))
    ok, finding = doctor._openvino()
    assert ok is False and "by up to 0.1; give runtime='keras'" in finding
