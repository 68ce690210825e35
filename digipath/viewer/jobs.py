"""Segmentations that are begun in the viewer: one after the other in a thread of their own, told of, and cancelled.

A slide goes the way of `digipath predict`: its folder is locked, finished strips are journalled, and a slide that was
cancelled or killed goes on where it was when it is started again. Nothing that learns is imported before the first job.
"""

import atexit
import gc
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digipath.errors import Cancelled, DigipathError, ResolutionError, SpecError
from digipath.slides.slide import open_slide
from digipath.viewer.shelf import Item

if TYPE_CHECKING:
    from digipath.inference.engine import Progress
    from digipath.runs.task import Outcome, Task
    from digipath.segmenter import Segmenter

__all__ = ["STATES", "Job", "Jobs", "Order"]

STATES = ("waiting", "running", "finished", "failed", "cancelled")
"""In what state a job can be; the last three are its end."""

_REMEMBERED = 1000  # jobs that have ended
_PATIENCE = 20.0  # seconds that `close` waits for a batch to end


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a slide is to be segmented.

    Attributes:
        bundle: Name of a built-in bundle or the folder of another; None takes the default.
        effort: "fast", "balanced" or "thorough".
        uncertainty: Whether every patch is seen in eight views, and their variance kept.
        mpp: Micrometres per pixel at level 0, for a slide that does not say.
    """

    bundle: str | None = None
    effort: str = "balanced"
    uncertainty: bool = False
    mpp: float | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A segmentation as it stands at one moment.

    Attributes:
        id: Of this job alone.
        slide: The file.
        order: How it is segmented.
        state: One of `STATES`.
        folder: Where the result goes; None until that is decided, when the job runs.
        done: Patches predicted, of this stage.
        total: Patches to predict in it; 0 while the slide is being looked at and the network loaded.
        seconds: Since the job began to run.
        left: Seconds until this stage is done, by the rate so far; None while that is not known.
        stopping: Whether it was told to stop, and ends with the batch that is in work.
        asks_mpp: Whether it failed because the slide does not say its resolution.
        message: One line: how it ended, or what it waits for.
    """

    id: str
    slide: Path
    order: Order
    state: str = "waiting"
    folder: Path | None = None
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    left: float | None = None
    stopping: bool = False
    asks_mpp: bool = False
    message: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


class Jobs:
    """The segmentations of one viewer, one of which runs at a time.

    Args:
        out: Folder of the results, each in a folder named after its slide; never over the result of another slide, or
            of the same in another way.
        make: Makes what segments a slide in the way that is asked for; None takes bundles. The last one is kept.

    Example:
        >>> jobs = Jobs(Path("results"))  # doctest: +SKIP
        >>> job = jobs.start(shelf.get(name), Order(effort="fast"))  # doctest: +SKIP
        >>> jobs.of(shelf.get(name)).state  # doctest: +SKIP
        'running'
    """

    def __init__(self, out: str | Path, *, make: Callable[[Order], "Segmenter"] | None = None):
        self.out = Path(out).resolve()
        self._make = make or _from_bundle
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._kept: tuple[Order, Segmenter] | None = None

    def start(self, item: Item, order: Order = Order()) -> Job:
        """Segment a slide once those before it are done; a slide that waits or runs is not begun a second time.

        Raises:
            SpecError: The item has no slide that may be opened.
        """
        slide = _slide_of(item)
        if slide is None:
            raise SpecError(f"a slide is segmented, and of {item.name} only a result is there. {item.problem}".strip())
        with self._changed:
            if self._closed:
                raise SpecError("a slide is segmented while the viewer runs, and it is being stopped. Start it again.")
            known = self._of(slide)
            if known is not None and known.is_open:
                return known
            for name in [name for name, old in self._jobs.items() if not old.is_open][:-_REMEMBERED]:
                del self._jobs[name]
            job = Job(id=uuid.uuid4().hex[:12], slide=slide, order=order)
            self._jobs[job.id] = job
            self._begin()
            self._changed.notify_all()
            return job

    def cancel(self, name: str) -> None:
        """Stop a job; what it has finished stays, and starting the slide again in the same way goes on from there."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None or not job.is_open:
                return
            if job.state == "waiting":
                self._jobs[name] = replace(job, state="cancelled", message="Cancelled before it began.")
            else:
                self._jobs[name] = replace(job, stopping=True)

    def get(self, name: str) -> Job | None:
        """A job by its id."""
        with self._changed:
            return self._jobs.get(name)

    def of(self, item: Item) -> Job | None:
        """The last job of an item's slide, or that makes this result."""
        with self._changed:
            slide = _slide_of(item)
            own = [job for job in self._jobs.values() if job.folder is not None and job.folder == item.path]
            return own[-1] if own else None if slide is None else self._of(slide)

    def all(self) -> list[Job]:
        """Every job of this viewer, in the order in which they were started."""
        with self._changed:
            return list(self._jobs.values())

    def before(self, job: Job) -> int:
        """How many jobs run before this one."""
        with self._changed:
            ahead = itertools.takewhile(lambda name: name != job.id, self._jobs)
            return sum(self._jobs[name].is_open for name in ahead)

    def close(self) -> None:
        """Stop for good: the slide in work is cancelled, and goes on when it is started again."""
        with self._changed:
            self._closed = True
            for name in self._jobs:
                self.cancel(name)
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_PATIENCE)
            atexit.unregister(self.close)

    def _of(self, slide: Path) -> Job | None:
        slide = slide.resolve()
        return next((job for job in reversed(self._jobs.values()) if job.slide.resolve() == slide), None)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="segmenting", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._end(job.id, self._segment(job))
            except Exception as error:
                asks = isinstance(error, ResolutionError)
                self._change(job.id, {"state": "failed", "message": _told(error), "asks_mpp": asks})

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                job = next((job for job in self._jobs.values() if job.state == "waiting"), None)
                if job is not None:
                    self._jobs[job.id] = replace(job, state="running", message="Opening the slide.")
                    return job
                self._changed.wait()
            return None

    def _segment(self, job: Job) -> "Outcome":
        from digipath.runs.one import run_one
        from digipath.runs.task import RunSettings, Task

        open_slide(job.slide, mpp=job.order.mpp).close()  # what is wrong with it is told before a network is loaded
        self._change(job.id, {"message": "Loading the network."})
        segmenter, begin = self._segmenter(job.order), time.monotonic()
        task = Task(slide=job.slide, folder=self.out, mpp=job.order.mpp)
        task = replace(task, folder=_folder(task, job.order, segmenter))
        self._change(job.id, {"folder": task.folder, "message": "Looking for tissue."})

        def watch(state: "Progress") -> None:
            far = {"done": state.done, "total": state.total, "left": state.left if state.rate else None}
            message = "" if state.done < state.total else "Writing the result."
            told = self._change(job.id, far | {"seconds": time.monotonic() - begin, "message": message})
            if told.stopping and state.done < state.total:
                raise Cancelled("it was cancelled")

        return run_one(segmenter, task, RunSettings(), progress=watch)

    def _segmenter(self, order: Order) -> "Segmenter":
        order = replace(order, mpp=None)
        if self._kept is None or self._kept[0] != order:
            self._kept = None
            gc.collect()  # a network holds itself in circles
            self._kept = order, self._make(order)
        return self._kept[1]

    def _end(self, name: str, outcome: "Outcome") -> None:
        changes = {"seconds": outcome.seconds, "left": None}
        if outcome.status in ("ok", "incomplete", "empty", "skipped"):
            changes |= {"state": "finished", "message": outcome.summary or outcome.reason}
        elif self.get(name).stopping:
            changes |= {"state": "cancelled", "message": self._kept_rows(name)}
        else:
            changes |= {"state": "failed", "message": outcome.reason}
        self._change(name, changes)

    def _kept_rows(self, name: str) -> str:
        from digipath.inference.unfinished import finished
        from digipath.prepared import JOURNAL

        kept = finished(self.get(name).folder / JOURNAL)
        if kept is None:
            return "Cancelled before anything was finished."
        return (
            f"Cancelled. {kept.rows} of {kept.frame.height} rows of the heatmap are kept; starting it again with the "
            "same network and effort goes on from there."
        )

    def _change(self, name: str, changes: dict[str, Any]) -> Job:
        with self._changed:
            self._jobs[name] = replace(self._jobs[name], **changes)
            return self._jobs[name]


def _slide_of(item: Item) -> Path | None:
    return item.path if item.kind == "slide" else item.slide_path


def _told(error: Exception) -> str:
    kind = "" if isinstance(error, DigipathError) else f"unexpected {type(error).__name__}: "
    return kind + " ".join(str(error).split())


def _from_bundle(order: Order) -> "Segmenter":
    from digipath.inference.settings import EFFORTS
    from digipath.segmenter import Segmenter

    if not order.uncertainty:
        return Segmenter(order.bundle, effort=order.effort)
    settings = replace(EFFORTS[order.effort], augmentations="all", uncertainty=True)
    return Segmenter(order.bundle, settings=settings, effort=order.effort)


def _folder(task: "Task", order: Order, segmenter: "Segmenter") -> Path:
    """The first of the slide's names whose folder is free, or holds what is asked for, whole or begun."""
    from digipath.viewer.places import may_hold

    return next(folder for name in _names(task.slide, order) if may_hold(folder := task.folder / name, task, segmenter))


def _names(slide: Path, order: Order) -> Iterator[str]:
    way = [Path(order.bundle).name] if order.bundle else []
    way += [order.effort, *(["uncertainty"] if order.uncertainty else [])]
    yield slide.stem
    yield "-".join([slide.stem, *way])
    yield "-".join([slide.name, *way])
    for number in itertools.count(2):
        yield "-".join([slide.name, *way, str(number)])
