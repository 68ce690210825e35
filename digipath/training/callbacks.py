"""Callbacks for anybody's `model.fit`: freezing the encoder, learning rates, stopping, and keeping the best epochs.

They speak Keras alone, and work on TensorFlow, under `tf.distribute`, and on JAX. Epochs are counted from 0, as Keras
does in `initial_epoch`; in file names from 1.
"""

import difflib
import itertools
import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras

from digipath.errors import SpecError
from digipath.training.freezing import FreezeThenUnfreeze, set_rate

__all__ = ["BestEpochs", "FreezeThenUnfreeze", "SteppedRate", "StopOnRise"]

SUFFIX = ".weights.h5"
_NAME = re.compile(r"epoch-(\d+)-(\w+)-(-?\d+\.\d+)\.weights\.h5")


class SteppedRate(keras.callbacks.Callback):
    """Sets the learning rate at the begin of each epoch from a table.

    Args:
        table: (epoch, learning rate) pairs, epochs from 0 on and rising: each rate holds from its epoch to the next.
            Before the first of them the optimizer's own rate stays.

    Example:
        >>> SteppedRate(((0, 1e-4), (15, 1e-5))).table
        ((0, 0.0001), (15, 1e-05))
    """

    def __init__(self, table: tuple[tuple[int, float], ...]):
        super().__init__()
        table = tuple((epoch, float(rate)) for epoch, rate in table)
        epochs = [epoch for epoch, _ in table]
        if not table or epochs != sorted(set(epochs)) or epochs[0] < 0 or not all(rate > 0 for _, rate in table):
            raise SpecError(
                f"A table holds (epoch, learning rate) pairs, epochs from 0 on and rising, rates above 0, got {table}. "
                "Write for example ((0, 1e-4), (15, 1e-5))."
            )
        self.table = table

    def on_epoch_begin(self, epoch, logs=None):
        """Set the rate of the last entry that has begun."""
        del logs
        if begun := [rate for start, rate in self.table if start <= epoch]:
            set_rate(self.model.optimizer, begun[-1])


class StopOnRise(keras.callbacks.Callback):
    """Stops the training when the validation loss has risen from one epoch to the next (Khened et al. 2021).

    Losses are remembered by epoch: whoever resumes a training shows it the logs of the epochs before, through
    `on_epoch_end`. A loss that is not a number has risen.

    Args:
        patience: how many times in a row it may rise before the training stops, at least 1: the last of them stops it.
        armed_at: epoch, from 0, whose loss is the first to be looked at, so that the first rise is in the one after.
        monitor: the loss' name in the logs; epochs without validation are passed over.
    """

    def __init__(self, *, patience: int = 1, armed_at: int = 0, monitor: str = "val_loss"):
        super().__init__()
        if not (isinstance(patience, int) and patience >= 1):
            raise SpecError(f"patience counts rises in a row, at least 1, got {patience!r}. Leave the callback out.")
        self.patience = patience
        self.armed_at = armed_at
        self.monitor = monitor
        self.losses: dict[int, float] = {}

    def on_epoch_end(self, epoch, logs=None):
        """Remember the loss, and count the rises up to it."""
        self.losses = {number: loss for number, loss in self.losses.items() if number < epoch}
        value = _monitored(self.monitor, logs)
        if value is None or epoch < self.armed_at:
            return
        self.losses[epoch] = value
        losses = [self.losses[number] for number in sorted(self.losses)]
        rises = [not after <= before for before, after in itertools.pairwise(losses)]
        if len(rises) >= self.patience and all(rises[-self.patience :]):
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        """Say so where no epoch could be judged."""
        del logs
        if not self.losses:
            _warn_unseen(self, self.monitor)


class BestEpochs(keras.callbacks.Callback):
    """Keeps the weights of the best epochs, so that a later criterion may choose (Le'Clerc Arrastia et al. 2021).

    Files are called `epoch-<number>-<name>-<value>.weights.h5`, numbers from 1 on, and read with `model.load_weights`.
    Each is written under another name first. What lies in the folder takes part in the comparison, so that a resumed
    training goes on with it. Values count to six decimals; the earlier of two equal epochs is the better.

    Args:
        folder: where to keep them; it is made.
        keep: how many.
        monitor: name in the logs of what is compared; an epoch whose value is not a number is never kept.
        lowest: whether the lowest value is the best, as of a loss.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 5, monitor: str = "val_iou", lowest: bool = False):
        super().__init__()
        if not (isinstance(keep, int) and keep >= 1):
            raise SpecError(f"keep counts the epochs that are kept, at least 1, got {keep!r}.")
        self.folder = Path(folder)
        self.keep = keep
        self.monitor = monitor
        self.lowest = lowest
        self._seen = False

    @staticmethod
    def kept(folder: str | os.PathLike, *, lowest: bool = False) -> list[tuple[int, float, Path]]:
        """(epoch from 1 on, value, file) of the epochs kept in a folder, the best first."""
        paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
        named = ((_NAME.fullmatch(path.name), path) for path in paths)
        found = [(int(match[1]), float(match[3]), path) for match, path in named if match]
        return sorted(found, key=lambda one: (one[1] if lowest else -one[1], one[0]))

    def on_train_begin(self, logs=None):
        """Make the folder, and clear away what a killed training left half written."""
        del logs
        self._seen = False
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f".new-*{SUFFIX}"):
            path.unlink()

    def on_epoch_end(self, epoch, logs=None):
        """Keep this epoch if it is among the best, and forget the one that no longer is."""
        value = _monitored(self.monitor, logs)
        self._seen = self._seen or value is not None
        for number, _, path in self.kept(self.folder):
            if number == epoch + 1:  # of a training that was resumed from before it
                path.unlink()
        if value is None or not math.isfinite(value):
            return
        kept = self.kept(self.folder, lowest=self.lowest)
        value = round(value, 6)
        if len(kept) < self.keep or (value < kept[-1][1] if self.lowest else value > kept[-1][1]):
            self._save(self.folder / f"epoch-{epoch + 1:04d}-{self.monitor}-{value:.6f}{SUFFIX}")
            for _, _, path in self.kept(self.folder, lowest=self.lowest)[self.keep :]:
                path.unlink()

    def on_train_end(self, logs=None):
        """Say so where no epoch could be judged."""
        del logs
        if not self._seen:
            _warn_unseen(self, self.monitor)

    def _save(self, path: Path):
        fresh = path.with_name(f".new-{path.name}")
        _without_optimizer(self.model).save_weights(fresh, overwrite=True)
        fresh.replace(path)


def _without_optimizer(model: keras.Model) -> keras.Model:
    """The same layers in a model whose weights file has no room for an optimizer, where Keras can make one."""
    if type(model).__name__ != "Functional":
        return model
    return keras.Model(model.inputs, model.outputs, name=model.name)


def _monitored(monitor: str, logs: Mapping | None) -> float | None:
    """The value of that name; None in an epoch without validation."""
    logs = logs or {}
    if monitor in logs:
        return float(logs[monitor])
    if monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
        return None
    near = difflib.get_close_matches(monitor, logs, n=1, cutoff=0.0)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SpecError(f"monitor is a name in the logs, {', '.join(logs) or 'which are empty'}; got {monitor!r}.{hint}")


def _warn_unseen(callback: keras.callbacks.Callback, monitor: str):
    warnings.warn(
        f"{type(callback).__name__} saw no {monitor!r} in the whole training and did nothing. "
        "Give fit validation_data.",
        stacklevel=2,
    )
