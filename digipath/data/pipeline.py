"""Batches for Keras: a `PyDataset` on every backend, or a `tf.data.Dataset`; both are read ahead by threads."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from digipath.data.patches import Batches, PendingBatch

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["BatchSequence", "dataset", "same", "sequence"]

# Bytes of batches that may lie ready; at least two batches are.
_AHEAD_BYTES = 2**29
_AHEAD = 8
Targets = Callable[[np.ndarray], Any]


def same(labels: np.ndarray) -> np.ndarray:
    """The labels themselves, for a network with one output."""
    return labels


def sequence(batches: Batches, *, epoch: int = 0, targets: Targets = same) -> "BatchSequence":
    """Batches for `model.fit`, on every backend.

    Args:
        batches: What to read.
        epoch: Number of the first epoch; `fit` goes on from there, one by one.
        targets: From the labels of a batch to what the network's outputs are compared with: for five outputs
            `lambda labels: [labels] * 5`, for a classifier one label for each patch.

    Example:
        >>> model.fit(sequence(batches), epochs=10, shuffle=False)  # doctest: +SKIP
    """
    return BatchSequence(batches, epoch, targets)


class BatchSequence(keras.utils.PyDataset):
    """Batches by their number in the current epoch, made ahead by threads.

    Any order of numbers gives the right batches. Ascending numbers are the fast ones, so give `shuffle=False` to `fit`:
    the draws are in random order already.

    Attributes:
        batches: What is read.
        epoch: The current epoch. It grows by one when Keras ends an epoch whose last batch was given; set it in a
            callback's `on_epoch_begin` where it must be that of Keras, as after a resumed training.
        targets: From labels to targets.
    """

    def __init__(self, batches: Batches, epoch: int, targets: Targets):
        super().__init__(workers=1, use_multiprocessing=False)
        self.batches, self.epoch, self.targets = batches, epoch, targets
        self._pool: ThreadPoolExecutor | None = None
        self._ready: dict[tuple[int, int], PendingBatch] = {}
        self._expected: tuple[int, int] | None = None
        self._running = self._finished = False
        self._lock = threading.Lock()
        batch_bytes = 4 * batches.batch * batches.source.patch**2
        self._ahead = max(2, min(_AHEAD, _AHEAD_BYTES // batch_bytes))

    def __len__(self) -> int:
        return self.batches.count(self.epoch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        with self._lock:
            if not 0 <= index < len(self):
                raise IndexError(f"epoch {self.epoch} has batches 0 to {len(self) - 1}, got {index}.")
            made = self._take(self.epoch, index)
            self._finished |= self._running and index == len(self) - 1
        images, labels = made.result()
        return images, self.targets(labels)

    def _take(self, epoch: int, index: int) -> PendingBatch:
        """The batch, being made; with the next ones behind it, unless something else is read in order now."""
        key, *following = self._from(epoch, index)
        made = self._ready.pop(key, None)
        if made is not None or key == self._expected or not self._ready:
            for each in following:
                self._ready[each] = self._ready.get(each) or self._start(*each)
            for each in set(self._ready) - set(following):
                self._ready.pop(each).cancel()
        self._expected = following[0]
        return made or self._start(*key)

    def _from(self, epoch: int, index: int) -> list[tuple[int, int]]:
        """(epoch, number) of this batch and of the next ones, into the next epoch."""
        count = len(self)
        steps = range(index, index + 1 + min(self._ahead, count))
        return [(epoch + step // count, step % count) for step in steps]

    def _start(self, epoch: int, number: int) -> PendingBatch:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.batches.workers, thread_name_prefix="digipath patches")
        return self.batches.start(self._pool, epoch, number)

    def on_epoch_begin(self):
        """Note that an epoch begins; Keras calls this."""
        self._running, self._finished = True, False

    def on_epoch_end(self):
        """Go on to the next epoch, if this one was read to its end; Keras also calls this before the first epoch."""
        with self._lock:
            self.epoch += self._running and self._finished
            self._running = self._finished = False

    def close(self):
        """End the threads; the next batch starts them anew."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._ready.clear()
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def dataset(batches: Batches, *, epoch: int = 0, targets: Targets = same) -> "tf.data.Dataset":
    """The same batches as a `tf.data.Dataset`: one pass is one epoch, and the next pass is the next epoch.

    Args:
        batches: What to read.
        epoch: Number of the epoch that the first pass gives.
        targets: As for `sequence`.
    """
    import tensorflow as tf

    passes = BatchSequence(batches, epoch, targets)

    def one_pass() -> Iterator[tuple[np.ndarray, Any]]:
        for index in range(len(passes)):
            yield _tupled(passes[index])
        passes.epoch += 1

    side = batches.source.patch
    example = _tupled(targets(np.zeros((1, side, side), np.uint8)))
    specs = tf.nest.map_structure(lambda value: tf.TensorSpec((None, *value.shape[1:]), value.dtype), example)
    images = tf.TensorSpec((None, side, side, 3), tf.uint8)
    return tf.data.Dataset.from_generator(one_pass, output_signature=(images, specs)).prefetch(1)


def _tupled(value: Any) -> Any:
    """Lists as tuples: TensorFlow takes a list for one tensor."""
    return tuple(_tupled(part) for part in value) if isinstance(value, list | tuple) else value
