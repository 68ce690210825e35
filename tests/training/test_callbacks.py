"""Tables of learning rates, stopping on a rise, and the best epochs on disk."""

import keras
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.training.callbacks import BestEpochs, SteppedRate, StopOnRise


def network(value=0.0):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.layers[-1].set_weights([np.full((1, 1), value), np.zeros(1)])
    return model


def attached(callback, model=None):
    callback.set_model(model or network())
    callback.model.stop_training = False
    callback.on_train_begin()
    return callback


def stops(losses, **settings):
    """Epochs after which the training would be stopped."""
    callback, found = attached(StopOnRise(**settings)), []
    for epoch, loss in enumerate(losses):
        callback.model.stop_training = False
        callback.on_epoch_end(epoch, {"loss": 1.0} | ({} if loss is None else {"val_loss": loss}))
        found += [epoch] if callback.model.stop_training else []
    return found


def test_the_first_rise_stops():
    assert stops([3, 2, 2, 2.5, 1]) == [3]


def test_patience_counts_rises_in_a_row():
    assert stops([1, 2, 1, 2, 3, 4], patience=2) == [4, 5]


def test_losses_before_it_is_armed_are_not_compared_with():
    assert stops([1, 2, 9, 3, 4], armed_at=2) == [4]


def test_a_loss_that_is_no_number_has_risen():
    assert stops([1, float("nan")]) == [1]


def test_epochs_without_validation_are_passed_over():
    assert stops([None, 2, None, 1, None, 3]) == [5]


def test_who_resumes_shows_the_epochs_before_and_a_new_training_forgets_them():
    callback = attached(StopOnRise())
    for epoch, loss in enumerate([3, 2]):
        callback.on_epoch_end(epoch, {"val_loss": loss})
    callback.on_train_begin()
    callback.on_epoch_end(2, {"val_loss": 2.5})
    assert callback.model.stop_training
    callback.model.stop_training = False
    callback.on_epoch_end(0, {"val_loss": 9})
    assert not callback.model.stop_training


def test_it_stops_a_fit():
    model = network()
    model.compile(keras.optimizers.SGD(-0.1), "mse", jit_compile=False)
    x, y = np.ones((4, 1)), np.ones((4, 1))
    history = model.fit(x, y, epochs=5, validation_data=(x, y), callbacks=[StopOnRise(armed_at=1)], verbose=0)
    assert len(history.epoch) == 3


@pytest.mark.parametrize("make", [StopOnRise, lambda: BestEpochs("nowhere")])
def test_a_training_without_validation_is_told(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = attached(make())
    callback.on_epoch_end(0, {"loss": 1.0})
    with pytest.warns(UserWarning, match="validation_data"):
        callback.on_train_end()


@pytest.mark.parametrize(
    "make", [lambda: StopOnRise(monitor="val_los"), lambda: BestEpochs("nowhere", monitor="val_los")]
)
def test_a_wrong_name_is_told_with_the_nearest(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="Did you mean 'val_loss'"):
        attached(make()).on_epoch_end(0, {"loss": 1.0, "val_loss": 2.0})


def kept_after(folder, values, *, start=0, **settings):
    """(epoch, value) of what is kept; the weights of epoch e (from 1 on) are e."""
    callback = attached(BestEpochs(folder, **settings))
    for epoch, value in enumerate(values, start):
        callback.set_model(network(epoch + 1))
        callback.on_epoch_end(epoch, {"val_iou": value})
    kept = BestEpochs.kept(folder, lowest=settings.get("lowest", False))
    for epoch, _, path in kept:
        again = network()
        again.load_weights(path)
        assert float(again.layers[-1].get_weights()[0][0, 0]) == epoch
    assert {path.name for path in folder.iterdir()} == {path.name for _, _, path in kept}
    return [(epoch, value) for epoch, value, _ in kept]


def test_the_best_epochs_are_kept_the_best_first(tmp_path):
    assert kept_after(tmp_path, [0.1, 0.5, 0.3, 0.4, 0.2], keep=3) == [(2, 0.5), (4, 0.4), (3, 0.3)]


def test_of_equal_epochs_the_earlier_is_kept(tmp_path):
    assert kept_after(tmp_path, [0.5, 0.5, 0.5], keep=2) == [(1, 0.5), (2, 0.5)]


def test_the_lowest_may_be_the_best(tmp_path):
    assert kept_after(tmp_path, [3, 1, 2], keep=2, lowest=True) == [(2, 1.0), (3, 2.0)]


def test_what_is_no_number_is_never_kept(tmp_path):
    assert kept_after(tmp_path, [float("nan"), 0.1, float("inf")], keep=2) == [(2, 0.1)]


def test_a_resumed_training_goes_on_with_what_is_there(tmp_path):
    kept_after(tmp_path, [0.1, 0.6, 0.2], keep=2)
    (tmp_path / ".new-epoch-0004-val_iou-0.900000.weights.h5").write_text("half written")
    assert kept_after(tmp_path, [0.3, 0.1], keep=2, start=2) == [(2, 0.6), (3, 0.3)]


def test_the_files_tell_epoch_and_value_and_hold_no_optimizer(tmp_path):
    image = keras.Input((1,))
    model = keras.Model(image, keras.layers.Dense(64)(keras.layers.Dense(64)(image)))
    model.compile("adam", "mse", jit_compile=False)
    x = np.ones((4, 1))
    model.fit(x, x, epochs=1, verbose=0)
    model.save_weights(tmp_path / "whole.weights.h5")
    attached(BestEpochs(tmp_path / "best"), model).on_epoch_end(6, {"val_iou": 0.87654321})
    [(_, _, path)] = BestEpochs.kept(tmp_path / "best")
    assert path.name == "epoch-0007-val_iou-0.876543.weights.h5"
    assert path.stat().st_size < 0.5 * (tmp_path / "whole.weights.h5").stat().st_size
    again = keras.Model(image, keras.layers.Dense(64)(keras.layers.Dense(64)(image)))
    again.load_weights(path)
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))
    model.load_weights(path)


def test_a_table_of_rates_holds_from_epoch_to_epoch_also_when_resumed():
    model = network()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    callback = attached(SteppedRate(((1, 0.25), (3, 0.125))), model)
    for epoch, rate in [(0, 0.5), (1, 0.25), (2, 0.25), (3, 0.125), (9, 0.125), (1, 0.25)]:
        callback.on_epoch_begin(epoch)
        assert float(model.optimizer.learning_rate) == rate


@pytest.mark.parametrize(
    "make",
    [
        lambda: SteppedRate(()),
        lambda: SteppedRate(((5, 1e-4), (0, 1e-5))),
        lambda: SteppedRate(((0, 0.0),)),
        lambda: StopOnRise(patience=0),
        lambda: BestEpochs("nowhere", keep=0),
    ],
)
def test_nonsense_is_refused_at_birth(make):
    with pytest.raises(SpecError):
        make()
