"""What a worker of a cluster does: it says who it is, keeps one segmenter, and segments one slide at a time."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import digipath
from digipath.errors import Cancelled
from digipath.inference.engine import Progress
from digipath.runs.one import run_one
from digipath.runs.spec import SegmenterSpec
from digipath.runs.task import Outcome, RunSettings, Task
from digipath.segmenter import Segmenter

__all__ = ["greet", "work", "write_order"]

# A process may have many threads that take tasks, and has one network.
_BUSY = threading.Lock()
_KEPT: dict[str, Segmenter] = {}


def greet(places: str) -> str:
    """Who this process is, and which of `places` (a list of paths) it does not see; JSON both ways."""
    return json.dumps(
        {
            "version": digipath.__version__,
            "host": socket.gethostname(),
            "cores": _cores(),
            "unseen": [place for place in json.loads(places) if not Path(place).exists()],
        }
    )


def work(order: str) -> str:
    """Segment the slide of an order that `write_order` wrote.

    Returns:
        JSON: its "outcome", or the "problem" of a process that cannot make the segmenter, and so can do no slide.
    """
    asked = json.loads(order)
    with _BUSY:
        try:
            segmenter = _segmenter(asked["spec"], asked["threads"])
        except Exception as error:  # of a bundle, of TensorFlow's installation, of memory
            return json.dumps({"problem": f"{socket.gethostname()} cannot make the segmenter: {error}"})
        outcome = _segmented(segmenter, Task.from_json(asked["task"]), RunSettings.from_json(asked["settings"]))
    return json.dumps({"outcome": outcome.to_json()})


def write_order(task: Task, *, spec: SegmenterSpec, settings: RunSettings, threads: int) -> str:
    """All that a worker is told, as one line of JSON.

    Args:
        task: The slide, its paths absolute.
        spec: What to segment it with.
        settings: Of the run.
        threads: Cores that are this worker's; it keeps to as many from its first slide on.
    """
    asked = {
        "task": task.to_json(),
        "spec": spec.to_json(),
        "settings": settings.to_json(),
        "threads": threads,
    }
    return json.dumps(asked)


def _segmented(segmenter: Segmenter, task: Task, settings: RunSettings) -> Outcome:
    try:
        places = [path for path in (task.folder.parent, task.slide, task.tissue) if path is not None]
        if unseen := [path for path in places if not path.exists()]:
            return _failed(
                task,
                f"{unseen[0]} is not there, as {socket.gethostname()} sees it: slides and results must lie where all "
                "workers of the cluster find them under the same path",
            )
        return run_one(segmenter, task, settings, progress=_watch())
    except (KeyboardInterrupt, SystemExit) as error:  # it would end the worker
        return _failed(task, f"the worker was told to stop ({type(error).__name__})")
    except OSError as error:
        return _failed(task, f"{task.slide} cannot be read: {error}")


def _failed(task: Task, reason: str) -> Outcome:
    return Outcome(name=task.name, slide=str(task.slide), status="failed", reason=reason)


def _segmenter(spec: str, threads: int) -> Segmenter:
    """The segmenter of a specification, its networks loaded; the last one is kept."""
    if spec not in _KEPT:
        _keep_to(threads)
        _KEPT.clear()  # before the next is made: two may not fit
        made = SegmenterSpec.from_json(spec).make(threads=max(2, threads))
        made.program  # noqa: B018 - loaded now: where that fails it is the worker's fault, and not the slide's
        _KEPT[spec] = made
    return _KEPT[spec]


def _keep_to(threads: int) -> None:
    """Let networks take `threads` cores, unless somebody chose another number.

    TensorFlow looks at its variables when it is first imported, OpenVINO's runtime at OMP_NUM_THREADS when it loads a
    network. That one Dask sets for all workers, so a value of Dask's is nobody's choice.
    """
    import dask

    of_dask = dask.config.get("distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS", None)
    if os.environ.get("OMP_NUM_THREADS") == str(of_dask):
        os.environ["OMP_NUM_THREADS"] = str(threads)
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several workers may share a GPU


def _watch() -> Callable[[Progress], None]:
    """A function that ends the slide once nobody waits for it any more: the run was stopped, or has given it up."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # not on a worker, as in a test
        return lambda _: None
    key = worker.get_current_task()

    def check(_: Progress) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Cancelled("the run was stopped, or has given this slide to another worker")

    return check


def _cores() -> list[int]:
    """The cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
