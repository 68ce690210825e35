"""Patch classifiers on any encoder."""

import keras
import numpy as np
import pytest

from digipath.models.bundle import Bundle
from digipath.models.catalog import architectures, build
from digipath.models.spec import ModelSpec
from digipath.training.losses import PatchCrossEntropy

rng = np.random.default_rng(0)


def test_a_classifier_gives_one_vector_a_patch_whatever_its_size():
    model = build("classifier", encoder="unet", classes=3, width=0.1)
    for side in (64, 96):
        values = model.predict_on_batch(rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8))
        assert values.shape == (2, 3)
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)


def test_its_parameters_are_the_encoders_and_one_vector_a_class():
    model = build("classifier-mobilenetv2")
    assert model.count_params() == 410_208 + 2 * (1280 + 1)  # keras.applications' MobileNetV2 0.35 without top
    assert "classifier-mobilenetv2" not in architectures()  # it is no paper's


def test_it_learns_and_survives_storing(tmp_path):
    keras.utils.set_random_seed(0)
    images = rng.integers(90, 170, (4, 64, 64, 3), dtype=np.uint8)
    images[::2] = np.where(np.arange(64)[:, None, None] // 4 % 2, 40, 220)
    spec = ModelSpec(architecture="classifier-unet", kind="classifier", mpp=1.0, patch=64, width=0.1)
    model = build(spec.architecture, width=spec.width)
    model.compile(keras.optimizers.Adam(5e-3), PatchCrossEntropy(), jit_compile=False)
    labels = np.array([1, 0, 1, 0], np.uint8)
    losses = [float(np.ravel(model.train_on_batch(images, labels))[0]) for _ in range(15)]
    assert losses[-1] < 0.1 < losses[0]
    loaded = Bundle.load(Bundle(model, spec).save(tmp_path / "bundle")).model
    np.testing.assert_allclose(loaded.predict_on_batch(images), model.predict_on_batch(images), atol=0.02)


@pytest.mark.parametrize("side", [50, 33])
def test_sides_that_do_not_halve_are_refused(side):
    with pytest.raises(ValueError, match="multiple of 32"):
        build("classifier", encoder="unet", width=0.1)(np.zeros((1, side, side, 3), np.uint8))
