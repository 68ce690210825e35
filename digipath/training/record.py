"""What a training run leaves beside its bundle while it goes on: recipe, history, the last epoch's weights.

A run that was killed goes on from its last finished epoch. Every file is written under a temporary name and renamed;
the weights carry their epoch in their name, so weights and history can never be taken for each other's.
"""

import csv
import io
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from digipath.errors import TrainingError

__all__ = ["Record", "Reseed", "RunFolder"]

HISTORY, DESCRIPTION, CURVES = "history.csv", "run.json", "curves.png"
_LAST = re.compile(r"last-(\d{4})\.weights\.h5")


class RunFolder:
    """The folder of a run that is under way.

    Attributes:
        folder: where it lies.
        rows: one dict an epoch of what was logged, epoch numbers from 0.

    Args:
        folder: made if it is not there.
        description: what defines the run (recipe, cases, settings); a run of which an epoch is finished is only
            continued by one that is equal, as far as both are described.
        fresh: throw away what an earlier run left.
    """

    def __init__(self, folder: Path, description: dict[str, Any], *, fresh: bool = False):
        self.folder = folder
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint is not None:
            _compare(folder / DESCRIPTION, description)
        self.write(DESCRIPTION, json.dumps(description, indent=2, sort_keys=True) + "\n")
        self.rows = [row for row in _read(folder / HISTORY) if row["epoch"] < self.next_epoch]

    @property
    def next_epoch(self) -> int:
        """The first epoch that has not been finished."""
        return max((number + 1 for number, _ in self._checkpoints()), default=0)

    @property
    def checkpoint(self) -> Path | None:
        """Weights and optimizer after the last finished epoch."""
        return max(self._checkpoints(), default=(0, None))[1]

    def write(self, name: str, content: str | bytes):
        """Write a file of the folder, whole or not at all."""
        fresh = self.folder / f".{name}.new"
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        fresh.replace(self.folder / name)

    def finish_epoch(self, model: keras.Model, row: dict[str, Any]):
        """Keep what a continued run starts from, and forget the epoch before."""
        self.rows.append(row)
        self.write(HISTORY, self.history())
        old = self._checkpoints()
        fresh = self.folder / "new.weights.h5"
        model.save_weights(fresh, overwrite=True)
        fresh.replace(self.folder / f"last-{row['epoch']:04d}.weights.h5")
        for _, path in old:
            path.unlink(missing_ok=True)

    def history(self) -> str:
        """The rows as CSV, one line an epoch."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def _checkpoints(self) -> list[tuple[int, Path]]:
        found = ((_LAST.fullmatch(path.name), path) for path in self.folder.iterdir())
        return [(int(match.group(1)), path) for match, path in found if match]


def _compare(path: Path, description: dict[str, Any]):
    """Refuse to continue a run of another recipe or cohort."""
    if not path.is_file():
        return
    before = _flat(json.loads(path.read_text(encoding="utf-8")))
    now = _flat(json.loads(json.dumps(description)))
    if changed := [name for name in sorted(before.keys() & now) if before[name] != now[name]]:
        told = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed[:3])
        raise TrainingError(
            f"{path.parent} holds a run that can only be continued as it began: {told}. "
            "Take back the change, start again with fresh=True (--fresh), or choose another output."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: int(text) if name == "epoch" else float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]


class Record(keras.callbacks.Callback):
    """Writes history, learning rate and weights of each epoch into a run's folder; the weights without averaging.

    Args:
        run: where to.
    """

    def __init__(self, run: RunFolder):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        """Keep the epoch; a loss that is no number ends the run."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(values.get("loss", 0.0)):
            raise TrainingError(
                f"The loss must be a number and became {values['loss']} in epoch {epoch}. Lower the learning rate; "
                f"the epoch before is kept in {os.fspath(self.run.folder)}."
            )
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.run.finish_epoch(self.model, {"epoch": epoch, "learning_rate": rate, **values})


class Reseed(keras.callbacks.Callback):
    """Makes dropout's random numbers a function of (seed, epoch): Keras does not store where its generators are.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None):
        """Set the state of every generator of the network."""
        del logs
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            drawn = np.random.default_rng((self.seed, epoch, number)).integers(2**31, size=tuple(state.shape))
            state.assign(drawn.astype(state.dtype))
