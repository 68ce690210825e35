"""A run on Dask: slides go to the workers of a cluster, their outcomes come back.

What travels is a line of JSON each way: paths and settings out, an `Outcome` back. The process that began the run
decides who gets what: one slide at a time to every worker, whatever number of threads that worker has. So it knows
whose slide is lost when a worker leaves the scheduler's list, and hands that slide to another; Dask's own retries take
no part. All workers see bundles, slides and results under the same paths.
"""

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from digipath.errors import SpecError
from digipath.runs.dispatch import Dispatch
from digipath.runs.done import identity
from digipath.runs.record import RECORD, RunRecord
from digipath.runs.spec import SegmenterSpec
from digipath.runs.task import Outcome, Report, RunSettings, Task

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["SegmenterSpec", "run_on"]

# Seconds that a scheduler may take to answer.
_PATIENCE = 30.0
# What a worker on this machine gets: more cores help one network little, and the memory must do for several slides.
_CORES, _MEMORY = 4, 4 * 2**30
# Folders of slides, at most, that a worker is asked about before it takes part.
_PLACES = 50


def run_on(
    scheduler: str,
    tasks: Sequence[Task],
    *,
    out: str | Path,
    spec: SegmenterSpec,
    settings: RunSettings = RunSettings(),  # noqa: B008 - it is frozen
    workers: int | None = None,
    report: Report = Report(),  # noqa: B008 - it is frozen
) -> list[Outcome]:
    """Segment slides on a Dask cluster, and keep `run.json` and `summary.csv` of how they end.

    A script that calls it with "local" does so under `if __name__ == "__main__":`, as worker processes import it.

    Args:
        scheduler: "local" for worker processes on this machine, or the address of a scheduler: "tcp://...", or
            "tls://..." with the certificates of Dask's own configuration.
        tasks: The slides.
        out: Folder of the run, which all workers see under the same path.
        spec: What to segment them with.
        settings: Of the run.
        workers: Processes for "local"; None takes one for every four cores.
        report: Its `finished` is called with every outcome. Nothing is heard from a cluster of a slide's progress, so
            that a `progress` only means that the line is shown.

    Returns:
        The outcomes in the order of the tasks; where `errors` is "raise", those there were at the first failure. A
        slide whose worker was lost three times has failed.

    Raises:
        SpecError: Dask is not installed, no scheduler answers, or no worker can take part.
    """
    out, travelling = Path(out).absolute(), [_absolute(task) for task in tasks]
    folders = sorted({task.slide.parent for task in travelling if task.slide.parent.is_dir()})
    places = [str(out / RECORD), *map(str, folders[:_PLACES])]
    ended: dict[int, Outcome] = {}
    with _connected(scheduler, workers, len(tasks)) as client, _Line(len(tasks), report) as line:
        record = RunRecord(out, tasks, about=identity(spec.make()), settings=settings)
        dispatch = Dispatch(client, travelling, spec=spec, settings=record.settings, places=places, tell=line.tell)
        try:
            while dispatch.open:
                for number, outcome in dispatch.step():
                    ended[number] = replace(outcome, slide=str(tasks[number].slide))
                    record.add(ended[number])
                    line.count(ended[number])
                line.show(dispatch.running)
                if settings.errors == "raise" and line.failed:
                    break
        finally:
            dispatch.stop()
    record.finish()
    return [ended[number] for number in sorted(ended)]


def _absolute(task: Task) -> Task:
    tissue = task.tissue and Path(task.tissue).absolute()
    return replace(task, slide=Path(task.slide).absolute(), folder=Path(task.folder).absolute(), tissue=tissue)


@contextmanager
def _connected(scheduler: str, workers: int | None, slides: int) -> Iterator["Client"]:
    """A client of the cluster; one that was made for the run ends with it."""
    if importlib.util.find_spec("distributed") is None:
        raise SpecError("a run on a cluster needs Dask, which is not installed. Type: pip install 'digipath[dask]'")
    if scheduler == "local":
        with _local(workers, slides) as client:
            yield client
        return
    if workers is not None:
        raise SpecError(f"workers= is for the scheduler 'local', and {scheduler} has workers of its own. Leave it out.")
    from distributed import Client

    try:
        client = Client(scheduler, timeout=_PATIENCE, set_as_default=False, name="digipath")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise SpecError(
            f"a scheduler is 'local' or the address of one that runs, such as tcp://node7:8786, and {scheduler} does "
            f"not answer: {error}. Compare it with what `dask scheduler` printed; for tls:// Dask's configuration "
            "names the certificates."
        ) from error
    with client:
        yield client


@contextmanager
def _local(workers: int | None, slides: int) -> Iterator["Client"]:
    """Processes of this machine, which listen to nobody else; with `cryptography` installed not even to other users."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    if workers is not None and workers < 1:
        raise SpecError(f"workers is a whole number of at least 1, got {workers}. Leave it out for one per four cores.")
    workers = workers or _fitting(slides)
    with (
        dask.config.set(
            {
                # Before a worker begins, where the user has not set it. Dask's own would make every large array cost
                # new pages of memory (MALLOC_TRIM_THRESHOLD_), and its profiler the interpreter's time.
                "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": max(1, CPU_COUNT // workers)},
                "distributed.worker.profile.enabled": False,
            }
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            security=True if importlib.util.find_spec("cryptography") else None,
            memory_limit=0,  # Dask would stop giving work to a worker that uses what it was given
            silence_logs=logging.CRITICAL,  # what matters is in the outcomes
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _fitting(slides: int) -> int:
    """Workers that this machine's cores and memory do for."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return max(1, min(slides, CPU_COUNT // _CORES, MEMORY_LIMIT // _MEMORY))


class _Line:
    """How far the run is, on one line of standard error; only on a console, and if progress is to be told at all."""

    def __init__(self, slides: int, report: Report):
        self.finished = report.finished
        self.failed = 0
        self._bar = tqdm(
            total=slides,
            file=sys.stderr,
            disable=True if report.progress is None else None,
            smoothing=0,
            bar_format="{n_fmt}/{total_fmt} slides{postfix}, about {remaining} left",
        )

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def count(self, outcome: Outcome) -> None:
        """A slide has ended."""
        self.failed += outcome.status == "failed"
        if self.finished:
            with tqdm.external_write_mode(file=sys.stdout):
                self.finished(outcome)
        self._bar.update()

    def show(self, running: int) -> None:
        """Write the line again."""
        self._bar.set_postfix_str(f"{running} running, {self.failed} failed")

    def tell(self, text: str) -> None:
        """Say something that the user should know."""
        tqdm.write(f"digipath: note: {text}", file=sys.stderr)
