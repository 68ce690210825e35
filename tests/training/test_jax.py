"""Networks, losses, metrics and callbacks on JAX, in a process that cannot import TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json
import sys


class Blocked:
    \"\"\"No TensorFlow here, as where it is not installed; None in sys.modules looks like a loaded one to Keras.\"\"\"

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked)
import keras
import numpy as np
from digipath.models.catalog import build
from digipath.training.callbacks import BestEpochs, FreezeThenUnfreeze, SteppedRate, StopOnRise
from digipath.training.losses import FocalLoss, SoftDiceLoss
from digipath.training.metrics import Dice, IoU, MeanIoU, TumorMeanIoU

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
images = rng.integers(0, 256, (4, 64, 64, 3), dtype="uint8")
labels = (images[..., 0] > 127).astype("uint8")
labels[:, :8] = 255
told = {"backend": keras.backend.backend()}

network = build("bcc-unet", width=0.1)
network.compile("adam", SoftDiceLoss(), metrics=[Dice(), IoU(), MeanIoU(), TumorMeanIoU()])
before = [weight.copy() for weight in network.get_weights()]
history = network.fit(images, labels, batch_size=2, epochs=1, verbose=0).history
told["steps"] = int(network.optimizer.iterations)
told["moved"] = [not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True)]
told["history"] = {name: values[0] for name, values in history.items()}
told["predicted"] = network.predict(images, batch_size=2, verbose=0).shape


def kernels(model):
    return {w.path: keras.ops.convert_to_numpy(w).copy() for w in model.weights if "seed" not in w.path}


class Watch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.before = kernels(self.model)

    def on_epoch_end(self, epoch, logs=None):
        after = kernels(self.model)
        moved = [path for path in after if not np.array_equal(self.before[path], after[path])]
        told["epochs"].append([any(path.startswith("encoder") for path in moved),
                               any(path.startswith("head") for path in moved)])
        told["rates"].append(float(self.model.optimizer.learning_rate))


image = keras.Input((64, 64, 3))
x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="encoder_conv")(image)
x = keras.layers.BatchNormalization(name="encoder_norm")(x)
encoder = keras.Model(image, x, name="encoder")
outer = keras.Input((64, 64, 3))
coarse = keras.layers.Conv2D(2, 1, activation="softmax", name="head")(encoder(outer))
small = keras.Model(outer, coarse)
small.compile("adam", FocalLoss(), metrics=[Dice(like=FocalLoss()), IoU(like=FocalLoss())])
told["epochs"], told["rates"] = [], []
small.fit(images / 255, labels, validation_data=(images / 255, labels), batch_size=2, epochs=4, verbose=0, callbacks=[
    FreezeThenUnfreeze(epochs=2), SteppedRate(((0, 1e-3), (3, 1e-4))), StopOnRise(armed_at=2, patience=9),
    BestEpochs(sys.argv[1], keep=2), Watch()])
told["evaluated"] = small.evaluate(images / 255, labels, batch_size=2, verbose=0, return_dict=True)
told["kept"] = [path.name for _, _, path in BestEpochs.kept(sys.argv[1])]
told["tensorflow"] = [name for name, module in sys.modules.items() if name.startswith("tensorflow") and module]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What one process tells of everything that it did."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed: pip install 'digipath[test]'")
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # compiling is most of the time
    environment = os.environ | {"KERAS_BACKEND": "jax"} | quick
    folder = tmp_path_factory.mktemp("best")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_tensorflow_is_not_needed(told):
    assert told["backend"] == "jax"
    assert told["tensorflow"] == []


def test_a_network_of_the_catalogue_trains_two_steps_and_predicts(told):
    assert told["steps"] == 2
    assert sum(told["moved"]) > 0.9 * len(told["moved"])
    assert told["predicted"] == [4, 64, 64, 2]


def test_losses_and_metrics_are_numbers_and_fit_together(told):
    assert set(told["history"]) == {"loss", "dice", "iou", "mean_iou", "tumor_mean_iou"}
    assert all(0 <= value <= 1 for value in told["history"].values())
    for values in (told["history"], told["evaluated"]):
        assert values["dice"] == pytest.approx(2 * values["iou"] / (1 + values["iou"]), rel=1e-5)


def test_the_encoder_rests_for_two_epochs_and_moves_after(told):
    assert told["epochs"] == [[False, True], [False, True], [True, True], [True, True]]
    assert told["rates"] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])


def test_the_best_epochs_are_kept(told):
    assert len(told["kept"]) == 2
