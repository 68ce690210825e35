"""Segment slides: heatmaps, polygons and an overview, one folder a slide.

A slide that fails does not stop the others; `summary.csv` says how each of them ended, and the exit code is 1 if any
failed. A run that was stopped goes on when the same command is given again.
"""

import argparse
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digipath.cli.settings import add_network_arguments, add_slide_arguments, duration, make_segmenter, quantity

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser):
    """Declare the options."""
    parser.add_argument(
        "slides",
        nargs="+",
        metavar="SLIDE",
        help="slides, folders of slides, patterns such as '*.svs', or a CSV file with the column slide and perhaps "
        "name, mpp, tissue and region",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="where the results go, a folder each")
    add_slide_arguments(parser)
    _add_run_arguments(parser.add_argument_group("the run"))
    add_network_arguments(parser)


def _add_run_arguments(group):
    group.add_argument("--dry-run", action="store_true", help="only say how many patches, how much memory and time")
    group.add_argument(
        "--overwrite", action="store_true", help="replace results that are there, also those of other settings"
    )
    group.add_argument(
        "--errors", choices=("skip", "raise"), default="skip", help="stop at the first slide that fails (default skip)"
    )
    group.add_argument("--time-limit", type=float, metavar="S", help="seconds that a slide may take")
    group.add_argument(
        "--scheduler", metavar="local|tcp://HOST:PORT", help="share the slides among the workers of a Dask cluster"
    )
    group.add_argument("--workers", type=int, metavar="N", help="with --scheduler local: how many processes")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def run(arguments: argparse.Namespace) -> int:
    """Segment every slide; 1 if any failed."""
    if arguments.out is None and not arguments.dry_run:
        arguments.usage_error("the following arguments are required: -o/--out")
    if arguments.workers is not None and arguments.scheduler is None:
        arguments.usage_error("--workers goes with --scheduler local")
    tasks, settings = _tasks(arguments), _settings(arguments)
    segmenter = make_segmenter(arguments)
    if arguments.dry_run:
        return int(sum(not _tell_plan(segmenter, task, arguments) for task in tasks) > 0)
    teller = _Teller(tasks, arguments)
    with _stopped_by_sigterm(), teller:
        outcomes = _run(segmenter, tasks, settings, arguments=arguments, report=teller.report)
    if len(tasks) > 1:
        print(_counts(outcomes, len(tasks), arguments.out), file=sys.stderr)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _run(segmenter, tasks: list, settings, *, arguments: argparse.Namespace, report) -> list:
    if arguments.scheduler is None:
        from digipath.runs import local

        return local.run(segmenter, tasks, out=arguments.out, settings=settings, report=report)
    from digipath.runs.cluster import run_on
    from digipath.runs.spec import SegmenterSpec

    return run_on(
        arguments.scheduler,
        tasks,
        out=arguments.out,
        spec=SegmenterSpec.of(segmenter),
        settings=settings,
        workers=arguments.workers,
        report=report,
    )


def _tasks(arguments: argparse.Namespace) -> list:
    from digipath.errors import SpecError
    from digipath.runs.find import find_slides

    where = {"mpp": arguments.mpp, "tissue": arguments.tissue, "region": arguments.region}
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            tasks = find_slides(arguments.slides, out=arguments.out or Path(), **where)
    except SpecError as error:
        arguments.usage_error(str(error))
    for one in told:
        print(f"digipath: note: {one.message}", file=sys.stderr)
    return tasks


def _settings(arguments: argparse.Namespace):
    from digipath.errors import SpecError
    from digipath.runs.task import RunSettings

    try:
        return RunSettings(overwrite=arguments.overwrite, errors=arguments.errors, time_limit=arguments.time_limit)
    except SpecError as error:
        arguments.usage_error(str(error))


class _Teller:
    """Says on the console how the slides go: a bar for the one that runs, a line for each that ended."""

    def __init__(self, tasks: list, arguments: argparse.Namespace):
        from digipath.runs.task import Report

        self.folders = {task.name: task.folder for task in tasks}
        self.debug, self.out = arguments.debug, arguments.out
        self.report = Report(finished=self._finished, progress=None if arguments.quiet else self._progress)
        self._bar, self._total = None, 0

    def __enter__(self) -> "_Teller":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _progress(self, task, done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if self._bar is None or self._total != total or done < self._bar.n:  # a slide may be passed over twice
            self._close()
            self._bar, self._total = tqdm(total=total, desc=task.name, unit="patch", leave=False, initial=done), total
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _finished(self, outcome) -> None:
        self._close()
        folder = self.folders[outcome.name]
        if outcome.status == "failed":
            if self.debug and outcome.traceback:
                print(outcome.traceback, file=sys.stderr)
            unexpected = outcome.reason.startswith("unexpected ")
            hint = f" (the traceback is in {self.out / 'failures' / outcome.name}.txt)" if unexpected else ""
            print(f"digipath: error: {outcome.slide}: {outcome.reason}{hint}", file=sys.stderr)
            return
        for note in outcome.notes if outcome.summary else ():  # else they were told when it was done
            print(f"digipath: note: {outcome.slide}: {note}", file=sys.stderr)
        if outcome.status == "locked":
            print(f"{outcome.slide}: left out, {outcome.reason}")
        else:
            told = outcome.reason or f"{outcome.summary}, {duration(outcome.seconds)}"
            print(f"{outcome.slide}: {told} -> {folder}")


def _counts(outcomes: list, total: int, out: Path) -> str:
    """How many slides ended in which way; all of them add up."""
    from digipath.runs.task import STATUSES

    counts = Counter(outcome.status for outcome in outcomes)
    counts["not begun"] = total - len(outcomes)
    told = (status for status in (*STATUSES, "not begun") if counts[status] or status in ("ok", "failed"))
    shown = [f"{counts[status]} {status}" for status in told]
    return f"{total} slides: {', '.join(shown)} -> {out / 'summary.csv'}"


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let a cluster that takes its machine back stop the run as Ctrl-C does: what is finished is kept."""

    def stop(*_: object) -> None:
        print("digipath: told to stop; what is finished is kept, and the same command goes on.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_plan(segmenter, task, arguments: argparse.Namespace) -> bool:
    """Print what would be done to a slide; whether that could be said."""
    from digipath.cli import tell_error

    try:
        plans = segmenter.plan(task.slide, mpp=task.mpp, tissue=task.tissue, region=task.region)
        for number, planned in enumerate(plans):
            one_of = f" (pass {number + 1} of {len(plans)})" if len(plans) > 1 else ""
            last = f", about {duration(segmenter.estimate(plans))}" if number + 1 == len(plans) else ""
            print(f"{task.slide}{one_of}: {_planned(planned, segmenter)}{last}")
    except Exception as error:
        tell_error(error, debug=arguments.debug, subject=f"{task.slide}: ")
        return False
    return True


def _planned(planned, segmenter) -> str:
    frame = planned.heatmap_frame
    return (
        f"{len(planned.boxes)} patches of {planned.grid.patch[0]} x {planned.grid.patch[1]} px at "
        f"{planned.frame.mpp:g} um/px, heatmap {frame.width} x {frame.height} px at {frame.mpp:g} um/px, "
        f"{quantity(planned.memory(len(segmenter.channels)))}B"
    )
