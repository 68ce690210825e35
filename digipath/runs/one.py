"""One slide of a run, from its lock to its outcome."""

import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from digipath.errors import DigipathError, ResultError
from digipath.inference.engine import Progress
from digipath.prepared import JOURNAL, Prepared
from digipath.runs.done import difference
from digipath.runs.lock import Lock, Locked, holder_of
from digipath.runs.task import AREAS, Outcome, RunSettings, Task
from digipath.segmentation import Segmentation
from digipath.segmenter import Segmenter, discard

__all__ = ["OverTime", "is_due", "run_one"]

_RESULT = "result.json"


class OverTime(DigipathError):
    """A slide took longer than it may."""


def run_one(
    segmenter: Segmenter,
    task: Task,
    settings: RunSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
    prepared: Future[Prepared] | None = None,
) -> Outcome:
    """Segment one slide unless it is done, and say how it ended; used by the local loop and by workers of a cluster.

    Args:
        segmenter: What to segment it with.
        task: The slide.
        settings: Of the run; with `overwrite` those that `RunRecord.settings` gives, which know when the run began.
        progress: Called with a `Progress` after every batch; what it raises is the slide's failure.
        prepared: What will hold `segmenter.prepare`'s answer for this task, if that is done ahead; it is closed here.

    Raises:
        KeyboardInterrupt, SystemExit: Nothing else is raised; the lock is released, and the journal is kept.
    """
    begin = time.perf_counter()
    try:
        with Lock(task.folder, settings) as lock:
            _sweep(task.folder)
            outcome = _standing(segmenter, task, settings)
            if outcome is not None:
                discard(task.folder)  # of a run that was killed between its result's last file and this
            else:
                if settings.overwrite and not _is_own(_journal(task.folder), settings):
                    discard(task.folder)
                watch = _Watch(lock, settings.time_limit, progress)
                outcome = _segmented(segmenter, task, watch=watch, prepared=prepared)
    except Locked as error:
        outcome = Outcome(name=task.name, slide=str(task.slide), status="locked", reason=str(error))
    except Exception as error:
        outcome = _failed(task, error)
    finally:
        if prepared is not None:
            prepared.add_done_callback(close_prepared)
    return replace(outcome, seconds=time.perf_counter() - begin)


def is_due(segmenter: Segmenter, task: Task, settings: RunSettings) -> bool:
    """Whether `run_one` would segment the slide, as far as can be said without taking its lock."""
    try:
        return holder_of(task.folder) is None and _standing(segmenter, task, settings) is None
    except Exception:  # which `run_one` will meet too, and tell
        return False


def close_prepared(prepared: Future[Prepared]) -> None:
    """Let go of a slide that was prepared, whether it was predicted or not."""
    if not prepared.cancelled() and prepared.exception() is None:
        prepared.result().close()


def _standing(segmenter: Segmenter, task: Task, settings: RunSettings) -> Outcome | None:
    """The outcome of a slide that is done; None for one that is to be segmented.

    Raises:
        ResultError: There is a result of other settings, or a damaged one, and it is not to be replaced.
    """
    result = task.folder / _RESULT
    if not result.is_file() or (settings.overwrite and not _is_own(result, settings)):
        return None
    with Segmentation.load(task.folder) as before:
        info = before.info
    told = difference(info, result, segmenter=segmenter, task=task)
    if told is None:
        known = "" if segmenter.networks.recognised else ", as far as a network without a bundle can be told"
        reason = f"done before with the same settings{known}: {info['status']}"
        return _done(task, info, status="skipped", reason=reason)
    if settings.overwrite:
        return None
    raise ResultError(
        f"{task.folder} holds a result, and {told}. Take another output folder, or replace it with --overwrite."
    )


def _segmented(
    segmenter: Segmenter, task: Task, *, watch: "_Watch", prepared: Future[Prepared] | None = None
) -> Outcome:
    if prepared is None:
        ready = segmenter.prepare(task.slide, mpp=task.mpp, tissue=task.tissue, region=task.region)
    else:
        ready = watch.wait_for(prepared)
    with ready as slide, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they are the outcome's notes
        with segmenter.predict(slide, out=task.folder, progress=watch) as result:
            info, summary = result.info, result.summary()
    return _done(task, info, status=info["status"], summary=summary)


class _Watch:
    """What is called after every batch: tells the heartbeat, and ends a slide that takes too long.

    A read that hangs inside of a library is not ended by it.
    """

    def __init__(self, lock: Lock, limit: float | None, progress: Callable[[Progress], None] | None):
        self.lock, self.limit, self.progress = lock, limit, progress
        self.begin = time.monotonic()

    def __call__(self, state: Progress) -> None:
        self.lock.beat(state.done, state.total)
        if self.limit is not None and time.monotonic() - self.begin > self.limit and state.done < state.total:
            raise OverTime(
                f"time limit: {self.limit:g} s have passed, and {state.done} of {state.total} patches are done. They "
                "are kept; the same command goes on from there, and --time-limit gives more time."
            )
        if self.progress is not None:
            self.progress(state)

    def wait_for(self, prepared: Future[Prepared]) -> Prepared:
        """What is being prepared in another thread, if it comes in time."""
        try:
            return prepared.result(self.limit)
        except TimeoutError:
            if prepared.done():  # the slide's own: of a network disk, perhaps
                raise
            raise OverTime(
                f"time limit: after {self.limit:g} s the slide is still being opened and looked at."
            ) from None


def _done(task: Task, info: dict[str, Any], *, status: str, reason: str = "", summary: str = "") -> Outcome:
    """The outcome of a slide that has a result, of which `info` tells."""
    return Outcome(
        name=task.name,
        slide=str(task.slide),
        status=status,
        reason=reason,
        areas={name: info["areas"][name] for name in AREAS},
        notes=tuple(info["notes"]),
        summary=summary,
    )


def _failed(task: Task, error: Exception) -> Outcome:
    kind = "" if isinstance(error, DigipathError) else f"unexpected {type(error).__name__}: "
    return Outcome(
        name=task.name,
        slide=str(task.slide),
        status="failed",
        reason=kind + " ".join(str(error).split()),
        traceback="".join(traceback.format_exception(error)),
    )


def _journal(folder: Path) -> Path:
    """The part of a journal that was written last, or where it would lie."""
    found = [*(folder / JOURNAL).rglob("journal.json")]
    return max(found, key=lambda path: path.stat().st_mtime, default=folder / JOURNAL)


def _is_own(path: Path, settings: RunSettings) -> bool:
    """Whether a file was written since an overwriting run began."""
    try:
        return settings.began is not None and path.stat().st_mtime >= settings.began
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half written; the lock says that nobody is at it."""
    for left in folder.glob(".*.part"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
