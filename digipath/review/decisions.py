"""What reviewers did, as a list of events that only grows, and what follows from it: the answers that hold now.

The answers are a fold of the events. Undoing is an event too, so that the fold after it is the fold without the event
that was undone, and nobody's earlier answer is lost: a study can be told from the list how its answers came about.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely

from digipath.errors import SpecError
from digipath.geometry.polygons import MAX_COORDINATE

__all__ = [
    "ACTIONS",
    "MAX_TEXT",
    "MAX_VERTICES",
    "Answer",
    "Event",
    "checked_outline",
    "checked_text",
    "fold",
    "is_open",
    "undoable",
]

ANSWERS = ("confirm", "relabel", "reject")
SHAPES = ("draw", "edit", "delete")
ACTIONS = (*ANSWERS, *SHAPES, "undo", "reveal")

MAX_TEXT = 60
"""Characters of a reviewer's name or of a label."""

MAX_VERTICES = 10_000
"""Vertices of one outline that is drawn."""

_SUBJECT = re.compile(r"(section|region):[0-9]{1,9}|drawn:[0-9a-f]{32}|", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{32}|", re.ASCII)
Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that a reviewer did.

    Attributes:
        reviewer: Who.
        action: One of `ACTIONS`.
        subject: Of what; empty for undo and reveal.
        label: What the reviewer calls it; None where it is rejected, or where the action has no label.
        outline: Of draw and edit: the vertices (x, y) in level-0 pixels, not closed.
        place: Hash of where a section or region of the model was; empty for what was drawn.
        blind: Whether the reviewer had not been shown what the model says of it.
        undone: Of undo: the id of the event that does not count any more.
        id: 32 hexadecimal digits.
        time: In UTC, ISO 8601.
    """

    reviewer: str
    action: str
    subject: str = ""
    label: str | None = None
    outline: Outline | None = None
    place: str = ""
    blind: bool = False
    undone: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def __post_init__(self):
        checked_text(self.reviewer, "a reviewer's name")
        if self.label is not None:
            checked_text(self.label, "a label")
        if self.outline is not None:
            object.__setattr__(self, "outline", checked_outline(self.outline))
        for name, pattern in (("subject", _SUBJECT), ("place", _HEX), ("undone", _HEX), ("id", _HEX)):
            value = getattr(self, name)
            if not (isinstance(value, str) and pattern.fullmatch(value)):
                raise SpecError(f"an event's {name} looks like {pattern.pattern}, got {str(value)[:80]!r}.")
        self._check()

    def _check(self) -> None:
        if self.action not in ACTIONS or not isinstance(self.blind, bool) or not self.id:
            raise SpecError(f"an event has an id and one of the actions {', '.join(ACTIONS)}, got {self.action!r}.")
        _checked_time(self.time)
        drawn = self.subject.startswith("drawn:")
        needed = {
            "subject": self.action in (*ANSWERS, *SHAPES),
            "label": self.action in ("confirm", "relabel", "draw")
            or (self.action == "reject" and self.label is not None),
            "outline": self.action in ("draw", "edit"),
            "place": self.action in ANSWERS and not drawn,
            "undone": self.action == "undo",
        }
        wrong = [name for name, need in needed.items() if bool(getattr(self, name)) != need]
        if wrong or (self.action in SHAPES and not drawn) or (self.action in ("confirm", "reject") and drawn):
            told = f", and {wrong[0]} is wrong" if wrong else f" for {self.subject}"
            raise SpecError(f"the action {self.action} has {', '.join(n for n, v in needed.items() if v)}{told}.")

    def to_json(self) -> dict[str, Any]:
        """For the file; the geometry as GeoJSON writes it, in level-0 pixels."""
        told = {name: getattr(self, name) for name in _NAMES}
        geometry = None
        if self.outline is not None:
            ring = [list(point) for point in (*self.outline, self.outline[0])]
            geometry = {"type": "Polygon", "coordinates": [ring]}
        return told | {"geometry": geometry}

    @classmethod
    def from_json(cls, value: Any) -> "Event":
        """Of what `to_json` gave.

        Raises:
            SpecError: It is no event.
        """
        if not isinstance(value, Mapping) or not set(value) <= {*_NAMES, "geometry"}:
            raise SpecError(f"an event has {', '.join(_NAMES)} and geometry, and no other name.")
        geometry, outline = value.get("geometry"), None
        if geometry is not None:
            try:
                (ring,) = geometry["coordinates"]
                *outline, last = ((x, y) for x, y in ring)
                if not outline or outline[0] != last:
                    raise ValueError("its ring is not closed")
            except (KeyError, TypeError, ValueError) as error:
                raise SpecError(f"an event's geometry is a polygon without holes: {error}.") from error
        given = {name: value[name] for name in _NAMES if name in value}
        try:
            return cls(**given, outline=None if outline is None else tuple(outline))
        except TypeError as error:
            raise SpecError(f"an event has {', '.join(_NAMES)}: {error}.") from error


_NAMES = ("id", "time", "reviewer", "action", "subject", "label", "place", "blind", "undone")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reviewer says of a subject now.

    Attributes:
        subject: Its id.
        action: How it was given: confirm, relabel, reject or draw.
        label: What it is; None where it was rejected.
        reviewer: Who said so.
        time: When, in UTC; of what was drawn, the last change.
        blind: Whether the model's answer was not known.
        place: Hash of where the subject was.
        outline: Of what was drawn.
    """

    subject: str
    action: str
    label: str | None
    reviewer: str
    time: str
    blind: bool
    place: str = ""
    outline: Outline | None = None


def fold(events: Iterable[Event], reviewer: str | None = None) -> dict[str, Answer]:
    """The answers that hold after all events, by subject.

    Args:
        events: In their order.
        reviewer: Whose; None takes everybody's, of which the latest holds.
    """
    events = list(events)
    undone = _undone(events)
    answers: dict[str, Answer] = {}
    for event in events:
        if (event.reviewer, event.id) in undone or reviewer not in (None, event.reviewer):
            continue
        before = answers.get(event.subject)
        if event.subject.startswith("drawn:") and event.action != "draw" and not _owns(event, before):
            continue
        match event.action:
            case "confirm" | "relabel" | "reject" if before is None or before.outline is None:
                answers[event.subject] = _answer(event)
            case "relabel":
                answers[event.subject] = replace(before, label=event.label, time=event.time)
            case "draw":
                answers[event.subject] = _answer(event)
            case "edit":
                answers[event.subject] = replace(before, outline=event.outline, time=event.time, blind=event.blind)
            case "delete":
                del answers[event.subject]
    return answers


def _undone(events: Iterable[Event]) -> set[tuple[str, str]]:
    """(reviewer, id) of what does not count any more; nobody undoes what another did."""
    return {(event.reviewer, event.undone) for event in events if event.action == "undo"}


def _owns(event: Event, before: Answer | None) -> bool:
    return before is not None and before.reviewer == event.reviewer


def _answer(event: Event) -> Answer:
    names = ("subject", "action", "label", "reviewer", "time", "blind", "place", "outline")
    return Answer(**{name: getattr(event, name) for name in names})


def undoable(events: Iterable[Event], reviewer: str) -> Event | None:
    """The reviewer's last event that can be undone: what was seen stays seen, so a reveal cannot be."""
    events = list(events)
    undone = _undone(events)
    own = (one for one in reversed(events) if one.reviewer == reviewer and one.action not in ("undo", "reveal"))
    return next((one for one in own if (reviewer, one.id) not in undone), None)


def is_open(events: Iterable[Event], reviewer: str) -> bool:
    """Whether the model's answers have been shown to a reviewer.

    They have been after a reveal, and where something was first answered with sight of them, as in a viewer that was
    not blind. Undoing changes nothing about it.
    """
    touched = set()
    for event in events:
        if event.reviewer != reviewer or event.action == "undo":
            continue
        if event.action == "reveal" or (not event.blind and event.subject not in touched):
            return True
        touched.add(event.subject)
    return False


def checked_text(text: Any, what: str) -> str:
    """A name or a label: short and printable."""
    if not (isinstance(text, str) and text == text.strip() and text.isprintable() and 0 < len(text) <= MAX_TEXT):
        raise SpecError(f"{what} is 1 to {MAX_TEXT} printable characters, got {str(text)[:80]!r}.")
    return text


def checked_outline(points: Any) -> Outline:
    """Vertices that enclose an area, as numbers; not closed.

    Raises:
        SpecError: They do not, or are too many, or too far away to be meant.
    """
    try:
        values = np.asarray([[float(x), float(y)] for x, y in points])
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecError(f"an outline is a list of positions (x, y): {error}.") from error
    if not 3 <= len(values) <= MAX_VERTICES:
        raise SpecError(f"an outline has 3 to {MAX_VERTICES:,} vertices, got {len(values):,}. Draw a simpler one.")
    if not np.abs(values).max() <= MAX_COORDINATE:
        raise SpecError(f"an outline is in level-0 pixels within {MAX_COORDINATE:.0e} of the origin.")
    if shapely.Polygon(values).convex_hull.area <= 0:
        raise SpecError("an outline encloses an area, and this one does not. Draw at least a triangle.")
    return tuple(map(tuple, values.tolist()))


def _checked_time(text: Any) -> None:
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise SpecError(f"an event's time is ISO 8601, got {str(text)[:80]!r}.") from error
    if when.tzinfo is None:
        raise SpecError(f"an event's time has its zone, got {text!r}.")
