"""What the list says of each slide and result, which of them it shows, and in what order."""

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from digipath.errors import DigipathError
from digipath.review.export import holds
from digipath.review.review import Review
from digipath.runs.lock import holder_of
from digipath.viewer.desk import Desk
from digipath.viewer.jobs import Job
from digipath.viewer.shelf import Item

__all__ = ["COLUMNS", "MADE", "STATUSES", "Choice", "Entry", "Lines", "chosen", "entries"]

STATUSES = {
    "slide": ("○", "not segmented"),
    "segmented": ("●", "segmented"),
    "waiting": ("◷", "waiting"),
    "running": ("▶", "running"),
    "begun": ("◐", "unfinished"),
    "ok": ("✓", "done"),
    "incomplete": ("◑", "incomplete"),
    "empty": ("∅", "no tissue"),
    "broken": ("✕", "broken"),
}
"""A shape and words for each status, so that nothing rests on colour."""

COLUMNS = {
    "name": "Name",
    "status": "Status",
    "lesion": "Lesion mm²",
    "tissue": "Tissue mm²",
    "share": "Share",
    "finding": "Class, burden",
    "reviewed": "Reviewed",
    "changed": "Changed",
}
"""Columns that the list can be sorted by, and their titles."""

MADE = ("ok", "incomplete", "empty")
"""What the status of a result is, once it is there."""

_CLASSES = ("negative", "itc", "micro", "macro")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the list.

    Attributes:
        item: The slide or result.
        status: One of `STATUSES`.
        told: The status in words, with how far it is or what is wrong.
        lesion: Area in mm2; None where there is none, or it is not to be seen.
        tissue: Area in mm2 that the result says something about; likewise.
        share: Of the tissue that is lesion, from 0 to 1; likewise.
        finding: Slide class and tumour burden of an analysis; likewise.
        reviewed: (answered, all) subjects of its review; None where nothing is to be reviewed.
        report: Whether it has a report.
        results: Of a slide, (name, id) of each of its results.
    """

    item: Item
    status: str
    told: str
    lesion: float | None = None
    tissue: float | None = None
    share: float | None = None
    finding: str = ""
    reviewed: tuple[int, int] | None = None
    report: bool = False
    results: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which lines are shown, and in what order.

    Attributes:
        search: Words that have all to occur in a line.
        status: One of `STATUSES`, or empty for all.
        column: One of `COLUMNS`.
        descending: Whether the largest come first; lines that say nothing in that column are last both ways.
    """

    search: str = ""
    status: str = ""
    column: str = "name"
    descending: bool = False


def entries(desk: Desk) -> list[Entry]:
    """A line for everything on the shelf, as it is now."""
    items = desk.shelf.items()
    made: dict[Path | None, list[Item]] = {}
    begun = {item.slide_path: item for item in items if item.kind == "result" and item.status == "running"}
    for item in items:
        if item.kind == "result" and item.status in MADE:
            made.setdefault(item.slide_path, []).append(item)
    jobs = [job for job in desk.jobs.all() if job.is_open] if desk.jobs else []
    by_slide, by_folder = {job.slide: job for job in jobs}, {job.folder: job for job in jobs}
    lines = []
    for item in items:
        job = (by_slide if item.kind == "slide" else by_folder).get(item.path)
        found = made.get(item.path, []) if item.status == "slide" else []
        work = begun.get(item.path, item) if item.status == "slide" and not found else item  # of another process
        line = _entry(desk, item, *_status(work, "segmented" if found else work.status, job))
        lines.append(replace(line, results=tuple((one.name, one.id) for one in found)))
    return lines


class Lines:
    """The lines of a desk, kept for a while: of thousands of results, looking at all of them takes a second.

    Attributes:
        seconds: How long it took when it was last looked.
    """

    def __init__(self, desk: Desk):
        self._desk, self._lock = desk, threading.Lock()
        self._made, self._lines = -math.inf, []
        self.seconds = 0.0

    def get(self, age: float) -> list[Entry]:
        """The lines, at most that many seconds old."""
        with self._lock:
            begin = time.monotonic()
            if begin - self._made > age:
                self._lines = entries(self._desk)
                self._made, self.seconds = begin, time.monotonic() - begin
            return self._lines


def chosen(lines: Iterable[Entry], choice: Choice) -> list[Entry]:
    """The lines that are asked for, in the order that is asked for."""
    words = choice.search.casefold().split()
    kept = [one for one in lines if choice.status in ("", one.status) and all(word in _text(one) for word in words)]
    kept.sort(key=lambda one: (one.item.name.casefold(), str(one.item.path)))
    known = [one for one in kept if _key(one, choice.column) is not None]
    known.sort(key=lambda one: _key(one, choice.column), reverse=choice.descending)
    return known + [one for one in kept if _key(one, choice.column) is None]


def _entry(desk: Desk, item: Item, status: str, told: str) -> Entry:
    seen = _findings(item) if item.areas and not desk.blind else {}
    report = item.kind == "result" and not desk.blind and (item.path / "report.html").is_file()
    reviewed = _reviewed(item, desk.reviewer, desk.blind)
    return Entry(item=item, status=status, told=told, reviewed=reviewed, report=report, **seen)


def _findings(item: Item) -> dict[str, Any]:
    lesion, tissue = item.areas["lesion_mm2"], item.areas["covered_mm2"]
    analysis, said = item.info.get("analysis") or {}, []
    if slide_class := (analysis.get("lesions") or {}).get("slide_class"):
        said.append(slide_class)
    if (burden := (analysis.get("burden") or {}).get("percent")) is not None:
        said.append(f"burden {burden:.0f}%")
    share = lesion / tissue if tissue else None
    return {"lesion": lesion, "tissue": tissue, "share": share, "finding": ", ".join(said)}


def _status(item: Item, status: str, job: Job | None) -> tuple[str, str]:
    """(status, in words): of what is in work here, or in another process, how far it is."""
    if job is not None:
        far = f", {job.done / job.total:.0%}" if job.total else ""
        return job.state, f"{STATUSES[job.state][1]}{far}"
    if status == "running":
        holder = holder_of(item.path) if item.held is None else None
        if holder is None:
            return "begun", STATUSES["begun"][1]
        return "running", f"running, {holder.done / holder.total:.0%}" if holder.total else "running"
    return status, STATUSES[status][1]


def _reviewed(item: Item, reviewer: str, blind: bool) -> tuple[int, int] | None:
    """How many of its sections and regions have an answer: the reviewer's, or anybody's where there is no name."""
    if item.kind != "result" or item.held is not None or (blind and not reviewer):
        return None
    try:
        changed = (item.path / "review.json").stat().st_mtime_ns
    except OSError:
        return None
    return _answered(item.path, reviewer, blind, (item.version, changed))


@lru_cache(maxsize=10_000)
def _answered(folder: Path, reviewer: str, blind: bool, _: Any) -> tuple[int, int] | None:
    try:
        review = Review.open(folder, reviewer or "anybody", blind=blind)
    except DigipathError:  # the page of the result says what is wrong with it
        return None
    known = [name for name in review.asked.subjects if review.may_know(name)]  # how many regions there are is an answer
    answers = [review.answer(name) if reviewer else review.latest.get(name) for name in known]
    return sum(one is not None and holds(one, review.asked) for one in answers), len(answers)


def _text(one: Entry) -> str:
    return " ".join((one.item.name, str(one.item.path), one.told, one.finding)).casefold()


def _key(one: Entry, column: str) -> Any:
    """What a line is sorted by; None if it says nothing there."""
    if column == "name":
        return one.item.name.casefold()
    if column == "status":
        return [*STATUSES].index(one.status)
    if column == "changed":
        return one.item.changed or None
    if column == "finding":
        first = one.finding.partition(",")[0]
        return (_CLASSES.index(first) if first in _CLASSES else -1, one.finding) if first else None
    if column == "reviewed":
        return None if one.reviewed is None else (one.reviewed[0] / max(1, one.reviewed[1]), one.reviewed[1])
    return getattr(one, column)
