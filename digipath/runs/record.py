"""What a run leaves in its output folder while it goes on: `run.json`, `summary.csv` and, of failures, the tracebacks.

Each run and each slide's outcome is a file of its own in `.run`, written under a temporary name and renamed; the
summaries are assembled from these. Whoever assembles looks again afterwards, and begins anew if something was added
meanwhile: so the last one to write has seen everything, and processes that share a folder need no lock for it.
"""

import csv
import io
import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digipath.errors import ResultError
from digipath.io.strips import replacing
from digipath.provenance import versions
from digipath.runs.task import AREAS, DONE, STATUSES, Outcome, RunSettings, Task

__all__ = ["FAILURES", "FOLDER", "RECORD", "SUMMARY", "RunRecord"]

FORMAT_VERSION = 1
RECORD, SUMMARY, FAILURES, FOLDER = "run.json", "summary.csv", "failures", ".run"
_COLUMNS = ("name", "slide", "status", "reason", *AREAS, "seconds", "notes")
_WAITING = "waiting"
# What the entries of a run and of a slide hold at least, an outcome's own keys included.
_OF_RUN = frozenset({"id", "started", "complete", "settings", "segmenter", "tasks"})
_OF_SLIDE = frozenset({"ended", "outcome", "status", "reason"})


class RunRecord:
    """The record of one run among those that share an output folder.

    Attributes:
        out: The output folder.
        settings: Those given, which know by now when the run began: see `RunSettings.began`.

    Args:
        out: Made if it is not there.
        tasks: The slides, in the order of the summary.
        about: What they are segmented with, as JSON can hold it: `digipath.runs.done.identity`.
        settings: How the run goes about them.
    """

    def __init__(self, out: str | Path, tasks: Sequence[Task], *, about: dict[str, Any], settings: RunSettings):
        self.out = Path(out)
        place = self.out / FOLDER
        self._runs = _Entries(place / "runs", _OF_RUN)
        self._ended, self._seen = (_Entries(place / name, _OF_SLIDE) for name in ("slides", "seen"))
        self._run = {
            "format_version": FORMAT_VERSION,
            "id": f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}",
            "started": _now(),
            "finished": None,
            "complete": False,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "settings": settings.to_json(),
            "segmenter": json.loads(json.dumps(about)),
            "versions": versions(),
            "tasks": [task.to_json() for task in tasks],
        }
        self._outcomes: dict[str, Outcome] = {}
        with self._writing():
            self.settings = self._begin(settings)
            self._write_summary()
            self._write_record()

    def _begin(self, settings: RunSettings) -> RunSettings:
        """Find out when the run began: for one that goes on with a stopped one, when that did."""
        before = list(self._runs.read().values())
        # The time is that of the disk, with which the results will be compared.
        began = self._runs.write(self._run["id"], self._run).stat().st_mtime
        if settings.overwrite and settings.began is None:
            settings = replace(settings, began=min([began, *_stopped(before, self._run)]))
        self._run["settings"] = settings.to_json()
        self._runs.write(self._run["id"], self._run)
        return settings

    def add(self, outcome: Outcome) -> None:
        """Keep how a slide ended.

        A slide that was done before, or that another process has, keeps the row of who did it.
        """
        self._outcomes[outcome.name] = outcome
        with self._writing():
            self._write_outcome(outcome)
            self._write_summary()

    def finish(self) -> None:
        """Note that the run has come to its end; one that did not may be gone on with."""
        ended = {name for name, outcome in self._outcomes.items() if outcome.status != "locked"}
        complete = ended >= {Path(task["folder"]).name for task in self._run["tasks"]}
        self._run |= {"finished": _now(), "complete": complete}
        with self._writing():
            self._runs.write(self._run["id"], self._run)
            self._write_summary()
            self._write_record()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResultError(
                f"the results go to a folder, and {self.out} cannot be written to: {error}. When it can, the same "
                "command goes on."
            ) from error

    def _write_outcome(self, outcome: Outcome) -> None:
        told = {name: value for name, value in outcome.to_json().items() if name != "traceback"}
        entry = {"run": self._run["id"], "ended": _now(), "outcome": told}
        (self._seen if outcome.status in ("skipped", "locked") else self._ended).write(outcome.name, entry)
        failure = self.out / FAILURES / f"{outcome.name}.txt"
        if outcome.status == "failed":
            with replacing(failure) as unfinished:
                text = f"{outcome.slide}\n{outcome.reason}\n\n{outcome.traceback}"
                unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
        elif outcome.status in DONE:
            failure.unlink(missing_ok=True)

    def _write_summary(self) -> None:
        """Write a row for each slide of every run that shares the folder."""
        self._settle(lambda: _update(self.out / SUMMARY, _table(self._rows())))

    def _write_record(self) -> None:
        self._settle(lambda: _update(self.out / RECORD, json.dumps(self._record(), indent=2) + "\n"))

    def _settle(self, assemble: Callable[[], None]) -> None:
        """Assemble until nothing was added meanwhile."""
        sources = (self._runs, self._ended, self._seen)
        while True:
            before = [source.stamps() for source in sources]
            assemble()
            if [source.stamps() for source in sources] == before:
                return

    def _rows(self) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        """(task, outcome) of all slides, in the order of the latest run; None where a slide has not ended."""
        ended, seen = self._ended.read(), self._seen.read()
        tasks: dict[str, dict[str, Any]] = {}
        for run in sorted(self._runs.read().values(), key=lambda run: (run["started"], run["id"]), reverse=True):
            for task in run["tasks"]:
                tasks.setdefault(Path(task["folder"]).name, task)
        return [(task, _latest(ended.get(name), seen.get(name))) for name, task in tasks.items()]

    def _record(self) -> dict[str, Any]:
        runs = sorted(self._runs.read().values(), key=lambda run: (run["started"], run["id"]))
        rows = self._rows()
        found = Counter(_WAITING if outcome is None else outcome["status"] for _, outcome in rows)
        return {
            "format_version": FORMAT_VERSION,
            "counts": {f"n_{status}": found[status] for status in (*STATUSES, _WAITING)},
            "slides": [{**task, "name": Path(task["folder"]).name, "outcome": outcome} for task, outcome in rows],
            "runs": [
                {name: value for name, value in run.items() if name not in ("format_version", "tasks", "complete")}
                | {"names": [Path(task["folder"]).name for task in run["tasks"]]}
                for run in runs
            ],
        }


class _Entries:
    """A folder of JSON files that several processes write; what was read is kept until its file changes."""

    def __init__(self, folder: Path, keys: frozenset[str]):
        self.folder, self.keys = folder, keys
        self._kept: dict[str, tuple[tuple[int, ...], dict[str, Any] | None]] = {}

    def write(self, name: str, entry: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.json"
        _replace(path, json.dumps(entry, indent=1) + "\n")
        return path

    def stamps(self) -> dict[str, tuple[int, ...]]:
        """What changes when a file is replaced, for each file."""
        try:
            with os.scandir(self.folder) as found:
                files = [entry for entry in found if entry.name.endswith(".json")]
                return {entry.name: _stamp(entry) for entry in files}
        except FileNotFoundError:
            return {}

    def read(self) -> dict[str, dict[str, Any]]:
        """The entries by name; a file that somebody damaged counts as absent, and is written anew in time."""
        for name, stamp in (stamps := self.stamps()).items():
            if self._kept.get(name, (None,))[0] != stamp:
                self._kept[name] = stamp, _parsed(self.folder / name, self.keys)
        found = ((name, self._kept[name][1]) for name in sorted(stamps))
        return {name.removesuffix(".json"): entry for name, entry in found if entry is not None}


def _stamp(entry: os.DirEntry) -> tuple[int, ...]:
    found = Path(entry.path).stat()  # the entry's own are out of date on some systems
    return found.st_mtime_ns, found.st_size, found.st_ino


def _parsed(path: Path, keys: frozenset[str]) -> dict[str, Any] | None:
    try:
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    outcome = entry.get("outcome", {}) if isinstance(entry, dict) else None
    return entry if isinstance(outcome, dict) and keys <= entry.keys() | outcome.keys() else None


def _replace(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def _update(path: Path, text: str) -> None:
    """Replace a file if it says something else: to read one is quicker than to be sure that it is written."""
    with suppress(OSError):
        if path.read_bytes() == text.encode():
            return
    _replace(path, text)


def _stopped(runs: list[dict[str, Any]], now: dict[str, Any]) -> list[float]:
    """When those runs began that did the same, overwriting, and did not come to their end."""

    def began(run: dict[str, Any]) -> float | None:
        return run["settings"]["began"] if run["settings"]["overwrite"] else None

    same = [run for run in runs if all(run[name] == now[name] for name in ("segmenter", "tasks"))]
    ended = {began(run) for run in same if run["complete"]}
    return [moment for run in same if (moment := began(run)) is not None and moment not in ended]


def _latest(ended: dict[str, Any] | None, seen: dict[str, Any] | None) -> dict[str, Any] | None:
    """How a slide stands: a result counts; what failed counts until somebody finds it done."""
    if ended is None or seen is None:
        entry = ended or seen
        return entry and entry["outcome"]
    mended = ended["outcome"]["status"] == "failed" and seen["outcome"]["status"] == "skipped"
    return (seen if mended and seen["ended"] > ended["ended"] else ended)["outcome"]


def _table(rows: list[tuple[dict[str, Any], dict[str, Any] | None]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for task, outcome in rows:
        writer.writerow(_row(task, outcome or {"status": _WAITING, "reason": "not begun, or not finished"}))
    return text.getvalue()


def _row(task: dict[str, Any], outcome: dict[str, Any]) -> list[Any]:
    areas = outcome.get("areas", {})
    cells = {
        "name": Path(task["folder"]).name,
        "slide": task["slide"],
        "status": outcome["status"],
        "reason": outcome["reason"],
        "seconds": round(outcome["seconds"], 3) if "seconds" in outcome else "",
        "notes": " ".join(outcome.get("notes", ())),
    }
    cells |= {name: round(value, 6) for name, value in areas.items()}
    return [cells.get(column, "") for column in _COLUMNS]


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")
