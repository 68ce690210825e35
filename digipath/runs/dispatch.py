"""Who gets which slide: one at a time to every worker of a cluster, and again to another when a worker is lost."""

import json
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from digipath import __version__
from digipath.errors import SpecError
from digipath.runs.spec import SegmenterSpec
from digipath.runs.task import Outcome, RunSettings, Task
from digipath.runs.worker import greet, work, write_order

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Dispatch"]

# A slide whose worker was lost is tried again twice.
_TRIES = 3
# Seconds between two looks at the scheduler's list of workers, and that one waits for an answer.
_LOOK, _WAIT = 1.0, 0.5
# Seconds that a worker may take to answer the greeting before others get slides without it, and that the list may be
# empty before the user is told.
_GREETING = 10.0
# Seconds that an outcome may take from the worker to here.
_PATIENCE = 30.0
# Seconds, at most, before a slide is tried again that was locked.
_AGAIN = 15.0


@dataclass
class _Slide:
    """A slide of the run, how often its worker was lost, and whether somebody else had it."""

    number: int
    task: Task
    lost: int = 0
    lost_at: float = 0.0
    again: bool = False
    not_before: float = 0.0


@dataclass
class _Worker:
    """A worker of the cluster.

    Attributes:
        host: The machine, as the scheduler knows it.
        threads: That Dask gave it.
        future: Of its greeting, then of the slide that it has; None when it has nothing to do.
        asked: When it was greeted, in seconds of the monotonic clock.
        place: The machine, as it knows itself, and the cores that it may use; None while it takes no part.
        paused: It takes no new slide at the moment.
        refused: Why it takes no part in the run; else empty.
    """

    host: str
    threads: int
    future: "Future | None" = None
    asked: float = 0.0
    place: tuple[str, tuple[int, ...]] | None = None
    slide: _Slide | None = None
    paused: bool = False
    refused: str = ""


class Dispatch:
    """The slides of a run on their way through the workers of a cluster; used by one thread.

    Attributes:
        open: Slides that have not ended.

    Args:
        client: Of the cluster.
        tasks: The slides, all paths absolute.
        spec: What to segment them with.
        settings: Of the run.
        places: Paths that a worker must see to take part.
        tell: Is told in a sentence what a user should know.
    """

    def __init__(
        self,
        client: "Client",
        tasks: Sequence[Task],
        *,
        spec: SegmenterSpec,
        settings: RunSettings,
        places: Sequence[str],
        tell: Callable[[str], None],
    ):
        self.client, self.spec, self.settings, self.tell = client, spec, settings, tell
        self.places = json.dumps(list(places))
        self.waiting = deque(_Slide(number, task) for number, task in enumerate(tasks))
        self.open = len(self.waiting)
        self.workers: dict[str, _Worker] = {}
        self._answers: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._ended: list[tuple[int, Outcome]] = []
        self._most: dict[tuple, int] = {}
        self._done = False
        self._next_look, self._tell_alone = 0.0, time.monotonic() + _GREETING

    @property
    def running(self) -> int:
        """Slides that workers have at the moment."""
        return sum(worker.slide is not None for worker in self.workers.values())

    def step(self) -> list[tuple[int, Outcome]]:
        """Look who is there, wait a moment for answers, hand out slides; the slides that ended, with their numbers.

        Raises:
            SpecError: All workers that there are were refused before any slide had ended.
        """
        if self.client.status == "running" and time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + _LOOK
        self._collect()
        self._check()
        if self.client.status == "running":
            self._hand_out()  # before the caller does anything about those that ended
        if self.client.status not in ("running", "connecting"):
            self._give_up("the connection to the scheduler was lost. The same command goes on when it is back")
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Take back what workers still have; each ends its slide at the next batch."""
        futures = [worker.future for worker in self.workers.values() if worker.future is not None]
        self.workers.clear()
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)

    def _look(self) -> None:
        """Compare the workers that are known with those that the scheduler lists."""
        info = self.client.scheduler_info(n_workers=-1)
        listed = info.get("workers", {})
        if len(listed) != info.get("n_workers", len(listed)):
            return  # the client's own look, which lists nobody, came in between
        for address in [address for address in self.workers if address not in listed]:
            gone = self.workers.pop(address)
            if gone.future is not None:
                gone.future.cancel(force=True)
            if gone.slide is not None:
                self._lose(gone.slide)
        for address, about in listed.items():
            if address not in self.workers:
                worker = self.workers[address] = _Worker(about["host"], about["nthreads"], asked=time.monotonic())
                self._send(address, worker, greet, self.places)
            self.workers[address].paused = about.get("status", "running") != "running"
        if not listed and time.monotonic() > self._tell_alone:
            self.tell("the scheduler has no worker at the moment; the run goes on when one comes")
            self._tell_alone = float("inf")

    def _send(self, address: str, worker: _Worker, function: Callable[[str], str], text: str) -> None:
        """Have a worker, and no other, call a function with a text."""
        worker.future = self.client.submit(
            function, text, workers=[address], allow_other_workers=False, pure=False, retries=0
        )
        worker.future.add_done_callback(self._answers.put)

    def _hand_out(self) -> None:
        """Give every worker that is free a slide that may go."""
        now = time.monotonic()
        silent = [one for one in self.workers.values() if one.place is None and not one.refused]
        unknown = {one.host for one in silent if now < one.asked + _GREETING}  # how many share its cores
        for address, worker in self.workers.items():
            if worker.future is not None or worker.place is None or worker.paused or worker.host in unknown:
                continue
            slide = next((one for one in self.waiting if one.not_before <= now), None)
            if slide is None:
                return
            self.waiting.remove(slide)
            worker.slide = slide
            order = write_order(slide.task, spec=self.spec, settings=self.settings, threads=self._share(worker))
            self._send(address, worker, work, order)

    def _share(self, worker: _Worker) -> int:
        """Cores that are a worker's own, of those that it and others may use."""
        here = sum(one.place == worker.place for one in self.workers.values())
        self._most[worker.place] = most = max(here, self._most.get(worker.place, 0))  # one that was lost comes back
        share = max(1, len(worker.place[1]) // most)
        return min(share, worker.threads) if worker.threads > 1 else share

    def _collect(self) -> None:
        """Take the answers that are there; wait a moment for the first."""
        try:
            self._take(self._answers.get(timeout=_WAIT))
            while True:
                self._take(self._answers.get_nowait())
        except queue.Empty:
            return

    def _take(self, future: "Future") -> None:
        found = (item for item in self.workers.items() if item[1].future is not None)
        address, worker = next((item for item in found if item[1].future.key == future.key), (None, None))
        if worker is None:  # the worker was lost, and the slide is another's
            return
        slide, worker.slide, worker.future = worker.slide, None, None
        text, problem, lost = _answer(future)
        if slide is None:
            if lost:
                del self.workers[address]  # to be greeted again, if it is still there
            else:
                self._greeted(address, worker, text, problem)
        elif lost:
            self._lose(slide, lost if self.client.status == "running" else 0)
        elif text is None:
            self._end(slide, _failed(slide.task, f"the worker {address} could not begin: {problem}"))
        elif problem := json.loads(text).get("problem"):
            self.waiting.appendleft(slide)  # a worker that can do nothing would soon have failed all slides
            self._refuse(worker, f"{address}: {problem}")
        else:
            self._answered(slide, Outcome.from_json(json.loads(text)["outcome"]))

    def _greeted(self, address: str, worker: _Worker, text: str | None, problem: str) -> None:
        """Let a worker take part, or say why it does not."""
        about = json.loads(text) if text is not None else {}
        name = f"{address} on {about['host']}" if about else address
        if text is None:
            self._refuse(worker, f"{name} cannot run digipath {__version__} ({problem}), which all of a run must have")
        elif about["version"] != __version__:
            self._refuse(worker, f"{name} has digipath {about['version']}, and the run was begun by {__version__}")
        elif about["unseen"]:
            self._refuse(worker, f"{name} does not see {about['unseen'][0]}, which all must see under that path")
        else:
            worker.place = (about["host"], tuple(about["cores"]))

    def _refuse(self, worker: _Worker, reason: str) -> None:
        worker.refused, worker.place = reason, None
        self.tell(f"a worker takes no part: {reason}")

    def _check(self) -> None:
        """Stop if there are workers, and none of them can do anything."""
        refused = {worker.refused for worker in self.workers.values()}
        if not refused or not all(refused):
            return
        reason = f"no worker can take part: {'; '.join(sorted(refused))}"
        if not self._done:
            raise SpecError(f"{reason}. Mend that, and give the same command again.")
        self._give_up(reason)

    def _lose(self, slide: _Slide, times: int = 1) -> None:
        """A slide's worker was lost: try again, or let it be."""
        slide.lost, slide.lost_at = slide.lost + times, time.monotonic()
        if slide.lost < _TRIES:
            self.waiting.appendleft(slide)
            if times:
                self.tell(f"the worker that had {slide.task.name} was lost; another one goes on with it")
            return
        reason = (
            "its worker was lost three times: it was killed, ran out of memory, or its job's time was over. What is "
            "done of the slide is kept; the same command goes on with it"
        )
        self._end(slide, _failed(slide.task, reason))

    def _answered(self, slide: _Slide, outcome: Outcome) -> None:
        """A slide has ended, unless another process has it.

        One that another run has comes again once, after all others. The lock of a lost worker is waited for until it
        would be dead.
        """
        now = time.monotonic()
        lock_ends = slide.lost_at + self.settings.expiry + 2 * self.settings.heartbeat if slide.lost else 0.0
        if outcome.status == "locked" and (now < lock_ends or not slide.again):
            slide.again, slide.not_before = True, now + min(_AGAIN, self.settings.heartbeat)
            self.waiting.append(slide)
        else:
            self._end(slide, outcome)

    def _end(self, slide: _Slide, outcome: Outcome) -> None:
        self._done = True
        self.open -= 1
        self._ended.append((slide.number, outcome))

    def _give_up(self, reason: str) -> None:
        """No slide can be done any more."""
        held = [worker.slide for worker in self.workers.values() if worker.slide is not None]
        for slide in (*held, *self.waiting):
            self._end(slide, _failed(slide.task, reason))
        self.waiting.clear()
        self.workers.clear()


def _failed(task: Task, reason: str) -> Outcome:
    return Outcome(name=task.name, slide=str(task.slide), status="failed", reason=reason)


def _answer(future: "Future") -> tuple[str | None, str, int]:
    """What a worker answered, or its exception, or how often its worker was lost."""
    from distributed import KilledWorker

    if future.status == "error":
        error = future.exception(timeout=_PATIENCE)
        if isinstance(error, KilledWorker):
            return None, "", error.allowed_failures + 1
        return None, f"{type(error).__name__}: {error}", 0
    if future.status == "finished":
        try:
            return future.result(timeout=_PATIENCE), "", 0
        except Exception:  # the worker left with its answer
            return None, "", 1
    return None, "", 1
