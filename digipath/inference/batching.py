"""How many patches a network sees at once: found by trial, and halved where memory does not suffice."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digipath.inference.cache import cache_folder, write_text

if TYPE_CHECKING:
    from digipath.inference.predictor import Predictor

__all__ = ["BackOff", "find_batch", "rule", "without_trials"]

# A batch on a CPU: beyond about this many pixels, memory grows and speed does not.
_BATCH_PIXELS = 2**19
# A trial costs about this many batches, and must be a small part of the whole.
_TRIALS, _WORTH = 12, 20
# A larger batch must be faster by this much: it takes more memory, and clocks are noisy.
_FASTER = 1.05
_forbidden = ContextVar("whether a trial would disturb", default=False)
_SHORTAGE = ("out of memory", "resource_exhausted", "bad_alloc", "bad allocation", "failed to allocate")


class BackOff:
    """Applies a network to batches; to halves of them from the moment that memory does not suffice.

    Args:
        forward: Takes (n, height, width, 3) patches, returns n values in their order.

    Attributes:
        limits: The largest batch that is still tried, by patch shape; shapes that always fitted are not in it.
    """

    def __init__(self, forward: Callable[[np.ndarray], np.ndarray]):
        self.forward = forward
        self.limits: dict[tuple[int, ...], int] = {}

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """The values of all patches, in their order."""
        shape, parts, done = patches.shape[1:], [], 0
        while done < len(patches) or not parts:
            part = patches[done : done + self.limits.get(shape, len(patches))]
            try:
                parts.append(self.forward(part))
            except Exception as error:  # which class it is depends on the library
                if len(part) < 2 or not ran_out_of_memory(error):
                    raise
                self._halve(shape, len(part))
            else:
                done += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halve(self, shape: tuple[int, ...], size: int) -> None:
        if not self.limits:
            warnings.warn(
                f"a batch of {size} patches of {shape[1]} x {shape[0]} pixels does not fit into memory; going on with "
                "halves of it. Give batch= a smaller number to save the attempt.",
                stacklevel=4,
            )
        self.limits[shape] = size // 2


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error of TensorFlow, JAX, PyTorch, OpenVINO or Python says that memory does not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SHORTAGE)


def rule(patch: tuple[int, int]) -> int:
    """The batch for patches of (width, height) pixels that is good on most processors, without any trial."""
    return max(1, _BATCH_PIXELS // (patch[0] * patch[1]))


@contextmanager
def without_trials() -> Iterator[None]:
    """Have `find_batch` try nothing in this thread, because another one uses the network."""
    before = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(before)


def find_batch(predictor: "Predictor", patch: tuple[int, int], *, boxes: int, limit: int = 2**23) -> int:
    """How many patches to give a predictor at once, found by timing it.

    Only where it pays, for many patches; for few, `rule` says. Found once for a network, patch size and device, and
    remembered in the user's cache, so that a run that is resumed finds the same.

    Args:
        predictor: What is to be fed.
        patch: (width, height) of its patches in pixels.
        boxes: Patches to predict.
        limit: Pixels that a batch holds at most; one patch is always allowed.
    """
    plain = rule(patch)
    record = _record(predictor, patch)
    if record is not None and (known := _known(record)):
        return min(known, max(1, limit // (patch[0] * patch[1])))
    if boxes < plain * _TRIALS * _WORTH or _forbidden.get():
        return plain
    most = max(1, limit // (patch[0] * patch[1]))
    if record is None:
        return _tried(predictor, patch, start=plain, most=most)
    _remember(record, plain)  # where memory is short some systems end the process: the next one tries nothing
    try:
        found = _tried(predictor, patch, start=plain, most=most)
    except BaseException:
        with suppress(OSError):
            record.unlink(missing_ok=True)
        raise
    _remember(record, found)
    return found


def _tried(predictor: "Predictor", patch: tuple[int, int], *, start: int, most: int) -> int:
    """Doubles the batch for as long as that is faster, and fits."""
    best, rate = start, _rate(predictor, patch, start)
    while rate is not None and best * 2 <= most:
        doubled = _rate(predictor, patch, best * 2)
        if doubled is None or doubled < rate * _FASTER:
            break
        best, rate = best * 2, doubled
    return best


def _rate(predictor: "Predictor", patch: tuple[int, int], batch: int) -> float | None:
    """Patches per second in batches of this size, the best of three; None where they do not fit into memory."""
    patches = np.full((batch, patch[1], patch[0], 3), 230, np.uint8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        predictor(patches)
    if any("does not fit into memory" in str(warning.message) for warning in told):
        return None
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        predictor(patches)
        seconds.append(time.perf_counter() - begin)
    return batch / max(min(seconds), 1e-9)


def _record(predictor: "Predictor", patch: tuple[int, int]) -> Path | None:
    """The file that remembers, or None for a predictor that cannot be recognised."""
    key, runtime = getattr(predictor, "key", None), getattr(predictor, "runtime", None)
    if key is None or runtime is None:
        return None
    device = sha256(runtime.encode()).hexdigest()[:12]
    return cache_folder() / "batches" / f"{key}-{patch[0]}x{patch[1]}-{device}.json"


def _remember(record: Path, batch: int) -> None:
    with suppress(OSError):  # a cache that cannot be written costs the next run a trial
        write_text(record, json.dumps({"batch": batch}))


def _known(record: Path) -> int | None:
    try:
        batch = json.loads(record.read_text(encoding="utf-8"))["batch"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return batch if isinstance(batch, int) and batch > 0 else None
