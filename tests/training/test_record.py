"""What a killed run goes on from."""

import keras
import numpy as np
import pytest

from digipath.errors import TrainingError
from digipath.training.record import Record, RunFolder


def small_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    return model


def data():
    return np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


def test_a_run_remembers_its_epochs_and_the_last_weights(tmp_path):
    model, run = small_model(), RunFolder(tmp_path / "run", {"recipe": {"batch": 8}})
    assert run.next_epoch == 0 and run.checkpoint is None
    model.fit(*data(), epochs=3, callbacks=[Record(run)], verbose=0)
    again = RunFolder(tmp_path / "run", {"recipe": {"batch": 8}})
    assert again.next_epoch == 3 and [row["epoch"] for row in again.rows] == [0, 1, 2]
    assert again.rows[2]["loss"] == pytest.approx(run.rows[2]["loss"])
    other = small_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(again.checkpoint)
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
    assert len(list((tmp_path / "run").glob("*.weights.h5"))) == 1


def test_epochs_that_were_logged_but_not_kept_are_forgotten(tmp_path):
    model, run = small_model(), RunFolder(tmp_path / "run", {})
    model.fit(*data(), epochs=2, callbacks=[Record(run)], verbose=0)
    run.rows.append({"epoch": 2, "loss": 1.0})
    run.write("history.csv", run.history())
    again = RunFolder(tmp_path / "run", {})
    assert again.next_epoch == 2 and len(again.rows) == 2


def test_a_run_of_something_else_is_not_continued_and_says_what_differs(tmp_path):
    RunFolder(tmp_path / "run", {"recipe": {"batch": 4, "mpp": 1.0}})
    run = RunFolder(tmp_path / "run", {"recipe": {"batch": 8, "mpp": 1.0}})  # nothing had been learnt yet
    small_model().fit(*data(), epochs=1, callbacks=[Record(run)], verbose=0)
    with pytest.raises(TrainingError, match=r"recipe.batch was 8 and is 16.*--fresh"):
        RunFolder(tmp_path / "run", {"recipe": {"batch": 16, "mpp": 1.0}})
    assert RunFolder(tmp_path / "run", {"recipe": {"batch": 16, "mpp": 1.0}}, fresh=True).next_epoch == 0


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_epoch_before(tmp_path):
    model, run = small_model(), RunFolder(tmp_path / "run", {})
    model.fit(*data(), epochs=1, callbacks=[Record(run)], verbose=0)
    images, truth = data()
    with pytest.raises(TrainingError, match=r"became nan.*Lower the learning rate"):
        model.fit(images * np.nan, truth, initial_epoch=1, epochs=2, callbacks=[Record(run)], verbose=0)
    assert RunFolder(tmp_path / "run", {}).next_epoch == 1
