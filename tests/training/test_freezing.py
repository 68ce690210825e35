"""Freezing and unfreezing compared by the values of the weights, in one process and on two virtual devices."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.training.callbacks import FreezeThenUnfreeze, SteppedRate
from digipath.training.freezing import Continued

rng = np.random.default_rng(0)
IMAGES, TARGETS = rng.random((8, 4, 4, 3), "float32"), rng.random((8, 4, 4, 1), "float32")


def network():
    """An encoder with batch normalisation, as a model within a model, and a head."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    encoder = keras.Model(image, keras.layers.ReLU()(x), name="encoder")
    outer = keras.Input((4, 4, 3))
    return keras.Model(outer, keras.layers.Conv2D(1, 1, name="head")(encoder(outer)), name="network")


def compiled(optimizer="adam"):
    model = network()
    model.compile(optimizer, "mse", jit_compile=False)
    return model


class Weights(keras.callbacks.Callback):
    """All weights after each epoch, and the learning rate."""

    def on_train_begin(self, logs=None):  # noqa: ARG002
        self.values, self.rates = [snapshot(self.model)], []

    def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
        self.values.append(snapshot(self.model))
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))


def snapshot(model):
    return {weight.path: keras.ops.convert_to_numpy(weight).copy() for weight in model.weights}


def moved(before, after, part):
    return {path for path in before if part in path and not np.array_equal(before[path], after[path])}


def fitted(model, *callbacks, epochs=4, **settings):
    seen = Weights()
    model.fit(IMAGES, TARGETS, batch_size=4, epochs=epochs, callbacks=[*callbacks, seen], verbose=0, **settings)
    return seen


ENCODER = ("conv/kernel", "norm/gamma", "norm/moving_mean", "norm/moving_variance")


@pytest.mark.parametrize("optimizer", ["sgd", keras.optimizers.AdamW(1e-3, clipnorm=1.0, amsgrad=True)])
def test_the_encoder_and_its_statistics_rest_while_frozen_and_move_after(optimizer):
    seen = fitted(compiled(optimizer), FreezeThenUnfreeze(epochs=2))
    for epoch in (0, 1):
        for part in ENCODER:
            assert not moved(seen.values[epoch], seen.values[epoch + 1], part)
        assert moved(seen.values[epoch], seen.values[epoch + 1], "head/kernel")
    for epoch in (2, 3):
        for part in (*ENCODER, "head/kernel"):
            assert moved(seen.values[epoch], seen.values[epoch + 1], part)


def test_a_training_resumed_after_the_frozen_epochs_moves_the_encoder_and_keeps_the_optimizer():
    model = compiled()
    before = model.optimizer
    seen = fitted(model, FreezeThenUnfreeze(epochs=2), initial_epoch=3, epochs=5)
    assert moved(seen.values[0], seen.values[1], "conv/kernel")
    assert model.optimizer is before


def test_a_training_resumed_within_the_frozen_epochs_freezes():
    seen = fitted(compiled(), FreezeThenUnfreeze(epochs=2), initial_epoch=1, epochs=3)
    assert not moved(seen.values[0], seen.values[1], "conv")
    assert moved(seen.values[1], seen.values[2], "conv/kernel")


def test_the_state_of_a_frozen_optimizer_can_be_loaded_into_a_new_process_model(tmp_path):
    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
            self.model.save_weights(tmp_path / f"{epoch}.weights.h5")

    whole = fitted(compiled(), FreezeThenUnfreeze(epochs=2), Keep(), epochs=3, shuffle=False)
    for epoch in range(2):
        model = compiled()
        FreezeThenUnfreeze.set_frozen(model, epoch < 2)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(tmp_path / f"{epoch}.weights.h5")
        again = fitted(model, FreezeThenUnfreeze(epochs=2), initial_epoch=epoch + 1, epochs=3, shuffle=False)
        for path, values in whole.values[-1].items():
            np.testing.assert_allclose(again.values[-1][path], values, atol=1e-6, err_msg=path)


def test_a_training_that_ends_frozen_leaves_the_encoder_trainable_for_the_next():
    model = compiled()
    fitted(model, FreezeThenUnfreeze(epochs=2), epochs=1)
    assert model.get_layer("encoder").trainable
    seen = fitted(model, epochs=1)
    assert moved(seen.values[0], seen.values[1], "conv/kernel")


def test_what_was_not_trainable_in_the_encoder_stays_so_even_after_an_interrupted_training():
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
            raise KeyboardInterrupt

    model = network()
    model.get_layer("encoder").get_layer("norm").trainable = False
    model.compile("adam", "mse", jit_compile=False)
    with pytest.raises(KeyboardInterrupt):
        fitted(model, FreezeThenUnfreeze(epochs=1), Stop())
    seen = fitted(model, FreezeThenUnfreeze(epochs=1), epochs=2)
    assert moved(seen.values[1], seen.values[2], "conv/kernel")
    assert not moved(seen.values[0], seen.values[2], "norm")


def test_no_weight_moves_further_than_the_learning_rate_in_the_first_step_after():
    """Adam's fresh first step is the rate; with the old step count it would be the rate / sqrt(0.001), 3.2 times it."""

    class Long(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
            self.model.optimizer.iterations.assign(10_000)

    model = compiled(keras.optimizers.Adam(1e-3))
    seen = fitted(model, FreezeThenUnfreeze(epochs=1), Long(), epochs=2, steps_per_epoch=1)
    step = np.abs(seen.values[2]["conv/kernel"] - seen.values[1]["conv/kernel"]).max()
    assert 0 < step <= 1.001e-3


def test_rates_of_both_phases_and_the_optimizers_own():
    both = fitted(compiled(), FreezeThenUnfreeze(epochs=1, frozen_rate=1e-5, rate=2e-4), epochs=2)
    np.testing.assert_allclose(both.rates, [1e-5, 2e-4], rtol=1e-5)
    own = fitted(compiled(), FreezeThenUnfreeze(epochs=1, frozen_rate=1e-5), epochs=2)
    np.testing.assert_allclose(own.rates, [1e-5, 1e-3], rtol=1e-5)
    resumed = fitted(compiled(), FreezeThenUnfreeze(epochs=1, rate=2e-4), epochs=5, initial_epoch=4)
    np.testing.assert_allclose(resumed.rates, [2e-4], rtol=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_a_table_of_rates_holds_before_and_after_in_either_order(first):
    both = [FreezeThenUnfreeze(epochs=2), SteppedRate(((0, 1e-5), (2, 2e-4), (3, 1e-4)))]
    seen = fitted(compiled(), *(both if first else both[::-1]), epochs=5)
    np.testing.assert_allclose(seen.rates, [1e-5, 1e-5, 2e-4, 1e-4, 1e-4], rtol=1e-5)


def test_a_schedule_goes_on_where_it_was():
    decay = keras.optimizers.schedules.ExponentialDecay(1e-3, decay_steps=1, decay_rate=0.5)
    seen = fitted(compiled(keras.optimizers.Adam(decay)), FreezeThenUnfreeze(epochs=2), epochs=4)
    np.testing.assert_allclose(seen.rates, [1e-3 * 0.5**steps for steps in (2, 4, 6, 8)], rtol=1e-5)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(Continued(decay, after=3)))
    assert float(again(0)) == pytest.approx(1.25e-4)


def test_averaged_weights_survive_the_change():
    model = compiled(keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.9))
    seen = fitted(model, FreezeThenUnfreeze(epochs=2), keras.callbacks.SwapEMAWeights(swap_on_epoch=True), epochs=4)
    start, frozen, end = (seen.values[k]["conv/kernel"] for k in (0, 2, 4))
    np.testing.assert_array_equal(start, frozen)
    assert 0 < np.abs(end - start).max() < 0.01
    np.testing.assert_allclose(seen.values[3]["head/kernel"], seen.values[2]["head/kernel"], atol=0.01)


def test_loss_scaling_and_weight_decay_exclusions_stay():
    inner = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    model = compiled(keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0))
    seen = fitted(model, FreezeThenUnfreeze(epochs=1), epochs=2)
    assert moved(seen.values[1], seen.values[2], "conv/kernel")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert not model.optimizer.inner_optimizer._use_weight_decay(model.get_layer("head").bias)
    assert float(model.optimizer.dynamic_scale) == 8.0


def test_the_encoder_may_be_named_at_any_depth():
    seen = fitted(compiled(), FreezeThenUnfreeze(epochs=1, encoder="conv"), epochs=2)
    assert not moved(seen.values[0], seen.values[1], "conv")
    assert moved(seen.values[0], seen.values[1], "norm/gamma")
    assert moved(seen.values[1], seen.values[2], "conv")


def test_what_cannot_be_frozen_is_an_error_that_says_why():
    with pytest.raises(SpecError, match="Did you mean 'encoder'"):
        fitted(compiled(), FreezeThenUnfreeze(encoder="encodr"))
    plain = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(1, 1)])
    plain.compile("adam", "mse")
    with pytest.raises(SpecError, match="which has: none"):
        fitted(plain, FreezeThenUnfreeze())
    wrapped = keras.Sequential([network()])
    wrapped.compile("adam", "mse")
    with pytest.raises(SpecError, match="must be left to train"):
        fitted(wrapped, FreezeThenUnfreeze())
    assert wrapped.trainable_variables
    for nonsense in ({"epochs": -1}, {"rate": 0.0}, {"frozen_rate": -1e-3}):
        with pytest.raises(SpecError):
            FreezeThenUnfreeze(**nonsense)


def test_a_rate_beside_a_schedule_is_refused():
    model = compiled(keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.5)))
    with pytest.raises(SpecError, match="a number, not a schedule"):
        fitted(model, FreezeThenUnfreeze(rate=1e-4, epochs=0))


MIRRORED = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import json, importlib.util
import numpy as np, keras
spec = importlib.util.spec_from_file_location("freezing_test", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
from digipath.training.losses import PixelCrossEntropy, SoftDiceLoss

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = here.compiled("adam")
seen = here.fitted(model, here.FreezeThenUnfreeze(epochs=1, frozen_rate=1e-4, rate=1e-3), epochs=3)
told = {part: [sorted(here.moved(seen.values[k], seen.values[k + 1], part)) for k in range(3)]
        for part in (*here.ENCODER, "head/kernel")}
told["rates"] = seen.rates
told["replicas"] = strategy.num_replicas_in_sync

labels = np.random.default_rng(1).integers(0, 2, (8, 4, 4)).astype("uint8")
labels[4:] = labels[:4]
images = here.IMAGES.copy()
images[4:] = images[:4]
for loss in (PixelCrossEntropy(stride=1), SoftDiceLoss(epsilon=1e-6)):
    ends = []
    for scope in (strategy, tf.distribute.get_strategy()):
        with scope.scope():
            keras.utils.set_random_seed(0)
            one = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(1, 1, activation="sigmoid")])
            one.compile(keras.optimizers.SGD(1.0), loss, jit_compile=False)
        history = one.fit(images, labels, batch_size=8, epochs=1, shuffle=False, verbose=0).history
        ends.append([float(history["loss"][0]), *map(float, one.get_weights()[0].ravel())])
    told[loss.name] = ends
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def mirrored():
    """What one process with two virtual devices tells."""
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    run = subprocess.run(
        [sys.executable, "-c", MIRRORED, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("part", ENCODER)
def test_two_devices_freeze_and_unfreeze(mirrored, part):
    assert mirrored["replicas"] == 2
    assert [bool(paths) for paths in mirrored[part]] == [False, True, True]
    assert all(mirrored["head/kernel"])
    np.testing.assert_allclose(mirrored["rates"], [1e-4, 1e-3, 1e-3], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["pixel_cross_entropy", "soft_dice_loss"])
def test_two_devices_take_the_step_of_one(mirrored, loss):
    """Both halves of the batch are equal, so that a loss of the whole batch is that of each half."""
    two, one = mirrored[loss]
    np.testing.assert_allclose(two, one, rtol=1e-4)
