"""The slides of a run one after the other in this process, the next one being read while the current one runs."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from digipath.inference.batching import without_trials
from digipath.inference.engine import Progress
from digipath.runs.done import identity
from digipath.runs.one import close_prepared, is_due, run_one
from digipath.runs.record import RunRecord
from digipath.runs.task import Outcome, Report, RunSettings, Task
from digipath.segmenter import Segmenter

__all__ = ["run"]


def run(
    segmenter: Segmenter,
    tasks: Sequence[Task],
    *,
    out: str | Path,
    settings: RunSettings = RunSettings(),  # noqa: B008 - it is frozen
    report: Report = Report(),  # noqa: B008 - it is frozen
) -> list[Outcome]:
    """Segment slides, and keep `run.json` and `summary.csv` of how they end.

    Several processes may do this with one output folder at the same time; each slide is segmented by one of them. A run
    that was stopped goes on when it is begun again.

    Args:
        segmenter: What to segment them with.
        tasks: The slides: see `digipath.runs.find.find_slides`.
        out: Folder of the run.
        settings: What to do with results that are there, with failures, and with slides that take too long.
        report: Who is told how it goes.

    Returns:
        The outcomes in the order of the tasks; up to the first failure where `errors` is "raise".

    Example:
        >>> tasks = find_slides(["slides"], out="results")  # doctest: +SKIP
        >>> [outcome.status for outcome in run(Segmenter(), tasks, out="results")]  # doctest: +SKIP
        ['ok', 'ok', 'empty']
    """
    record = RunRecord(out, tasks, about=identity(segmenter), settings=settings)
    outcomes: dict[int, Outcome] = {}
    with _Ahead(segmenter, tasks, record.settings) as ahead:
        # Those that another process has come again at the end: by then it has done them, or died.
        for number in (*range(len(tasks)), *range(len(tasks))):
            again = number in outcomes
            if again and outcomes[number].status != "locked":
                continue
            progress, prepared = _progress(report, tasks[number], ahead, number), ahead.take(number)
            outcome = run_one(segmenter, tasks[number], record.settings, progress=progress, prepared=prepared)
            record.add(outcome)
            outcomes[number] = outcome
            if report.finished is not None and (again or outcome.status != "locked"):
                report.finished(outcome)
            if outcome.status == "failed" and settings.errors == "raise":
                break
    record.finish()
    return [outcomes[number] for number in sorted(outcomes)]


def _progress(report: Report, task: Task, ahead: "_Ahead", number: int) -> Callable[[Progress], None]:
    """What is called after every batch. From the first one on the network is loaded, and its readers have time."""

    def tell(state: Progress) -> None:
        ahead.begin(number + 1)
        if report.progress is not None:
            report.progress(task, state.done, state.total)

    return tell


class _Ahead:
    """Prepares one slide in a thread: the next one that is to be segmented, and that nobody has.

    A thread that hangs in a slide is left to itself, so that it stops nobody from leaving.
    """

    def __init__(self, segmenter: Segmenter, tasks: Sequence[Task], settings: RunSettings):
        self.segmenter, self.tasks, self.settings = segmenter, tasks, settings
        self._changed = threading.Condition()
        self._looking, self._left = False, False
        self._begun = 0
        self._next = 0  # tasks before it were looked at, if they came after where `begin` began
        self._prepared: Future | None = None  # of the task `_next`

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._left = True
            if self._prepared is not None:
                self._prepared.add_done_callback(close_prepared)

    def begin(self, number: int) -> None:
        """Look for a slide to prepare, from this task on, unless that was done or there is one already."""
        with self._changed:
            if self._looking or self._prepared is not None or number <= self._begun:
                return
            self._begun = number
            self._looking, self._next = True, number
        threading.Thread(target=self._look, name="next slide", daemon=True).start()

    def take(self, number: int) -> Future | None:
        """What holds a task's prepared slide, or will; None for one that need not be prepared, or was not yet."""
        with self._changed:
            self._changed.wait_for(lambda: not self._looking or self._next > number)
            if self._prepared is None or self._next != number:
                return None
            prepared, self._prepared = self._prepared, None
            return prepared

    def _look(self) -> None:
        while (task := self._task()) is not None:
            due = is_due(self.segmenter, task, self.settings)
            with self._changed:
                if due and not self._left:
                    self._looking, self._prepared = False, (prepared := Future())
                    self._changed.notify_all()
                    break
                self._next += 1
                self._changed.notify_all()
        else:
            return
        self._prepare(task, prepared)

    def _task(self) -> Task | None:
        """The task to look at, or None at the end."""
        with self._changed:
            if not self._left and self._next < len(self.tasks):
                return self.tasks[self._next]
            self._looking = False
            self._changed.notify_all()
            return None

    def _prepare(self, task: Task, prepared: Future) -> None:
        try:
            with without_trials():  # the network is at work
                ready = self.segmenter.prepare(task.slide, mpp=task.mpp, tissue=task.tissue, region=task.region)
            prepared.set_result(ready)
        except BaseException as error:  # it is the slide's, and is raised where that is segmented
            prepared.set_exception(error)
