"""What a review's panel says: of the subject that is chosen, the work list, the history and the agreement."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from dash import html
from dash.development.base_component import Component

from digipath.errors import DigipathError, SpecError
from digipath.review.agreement import Agreement, agreement
from digipath.review.decisions import Answer, Event
from digipath.review.ledger import NAME
from digipath.review.review import Review
from digipath.review.subjects import signature
from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = [
    "COLORS",
    "NOBODY",
    "agreement_told",
    "cells",
    "check_named",
    "drawn_list",
    "failed",
    "history",
    "last_saved",
    "name_of",
    "open_review",
    "progress",
    "said",
    "saved",
    "selected",
    "stamp",
    "work_list",
]

NOBODY = "nobody yet"
"""Who looks on without a name: sees, and cannot answer."""

COLORS = {"confirm": "#2b8a3e", "relabel": "#e8590c", "reject": "#868e96", "draw": "#1c7ed6"}
"""Of answers on the map."""

_LISTED = 100  # of each kind
_EVENTS = 30
_VERBS = {"confirm": "confirmed", "relabel": "labelled", "reject": "rejected", "draw": "drew", "edit": "moved"}
_VERBS |= {"delete": "deleted", "undo": "undid the last", "reveal": "was shown what the model says"}


def open_review(desk: Desk, item: Item, name: str | None) -> tuple[Review | None, str]:
    """The review under a name, or why there is none; a blind viewer knows one name only, whatever the page says."""
    who = desk.reviewer if desk.blind else (name or "").strip() or desk.reviewer
    try:
        return Review.open(item.path, who or NOBODY, blind=desk.blind), ""
    except DigipathError as error:
        return None, failed(error)


def check_named(review: Review) -> None:
    """Refuse answers of nobody."""
    if review.reviewer == NOBODY:
        how = "Start the viewer with --reviewer." if review.blind else "Type yours above."
        raise SpecError(f"answers have a reviewer's name. {how}")


def stamp(item: Item) -> list[int]:
    """Changes whenever the review is saved."""
    return list(signature(item.path / NAME))


def saved(review: Review) -> str:
    """When the last event was saved."""
    return f"Saved {_clock(review.events[-1].time)}" if review.events else ""


def last_saved(review: Review) -> str:
    """When the reviewer did something last."""
    own = [one for one in review.events if one.reviewer == review.reviewer]
    return f"Last saved {_clock(own[-1].time)}" if own else ""


def failed(error: Exception) -> str:
    """Why something was not done."""
    return f"Not saved: {error}"


def _clock(time: str) -> str:
    """The time of day, and of another day its date too."""
    local = datetime.fromisoformat(time).astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M}"


def name_of(subject: str, label: str | None = None) -> str:
    """A subject as a person calls it."""
    kind, _, number = subject.partition(":")
    name = f"outline {number[:4]}" if kind == "drawn" else f"{kind} {number}"
    return name.capitalize() if label is None else f"{name.capitalize()}: {label}"


def said(answer: Answer) -> str:
    """An answer in a few words."""
    label = "nothing" if answer.label is None else answer.label
    return f"{_VERBS[answer.action]} as {label} by {answer.reviewer}"


def progress(review: Review) -> str:
    """How far the review is, in sections, or, of a result that has none, in regions."""
    if review.asked.of_kind("section"):
        return _so_far(review, "section")
    return _so_far(review, "region")


def _so_far(review: Review, kind: str) -> str:
    found = review.progress(kind)
    return f"{found.answered:,} of {found.total:,} {kind}s answered"


def _model(review: Review, subject: str) -> str:
    """What the model says of a subject, if it may be shown."""
    if not review.may_know(subject):
        return "–"
    return review.asked.subjects[subject].label if review.may_see(subject) else "withheld"


def selected(review: Review, subject: str | None) -> list[Component]:
    """Of the subject that is chosen: its name, what the model says, what the reviewer said; first, who that is."""
    return [*_unnamed(review), *_chosen(review, subject)]


def _unnamed(review: Review) -> list[Component]:
    """Why nothing can be answered yet; a blind panel says so itself."""
    if review.reviewer != NOBODY or review.blind:
        return []
    return [html.P("Give your name first: answers are kept under it.", className="note")]


def _chosen(review: Review, subject: str | None) -> list[Component]:
    answer = review.answers.get(subject or "")
    if not subject or (not review.may_know(subject) and answer is None):
        return [html.P("Choose a section or region: on the slide, or in the list below.", className="muted")]
    mine = review.answer(subject)
    stale = [] if mine is not None or answer is None else [html.Dd("stale: the result has changed", className="note")]
    told = "–" if mine is None else (mine.label or "nothing (rejected)")
    model = [] if subject.startswith("drawn:") else [html.Dt("Model"), html.Dd(_model(review, subject))]
    lines = [*model, html.Dt("You"), html.Dd(told, id="review-yours"), *stale]
    return [html.H3(name_of(subject), id="review-subject"), html.Dl(lines)]


def work_list(review: Review) -> list[Component]:
    """The sections, and the regions where they may be shown; their cells are filled by `cells`.

    The rows stay as they are while a page is shown: a click on one that is replaced meanwhile would be lost.
    """
    parts: list[Component] = [_key()] if review.asked.subjects else []
    for kind in ("section", "region") if review.is_open else ("section",):
        found = [one.id for one in review.asked.of_kind(kind)]
        if found:
            more = f" The first {_LISTED} are listed." if len(found) > _LISTED else ""
            count = html.Span(str(review.progress(kind)), id={"type": "review-count", "kind": kind})
            rows = [_row(review, one, "review-go") for one in found[:_LISTED]]
            parts.append(_table([f"{kind.capitalize()}s: ", count, f".{more}"], rows))
    return parts


def _key() -> html.Div:
    """What the colours of answers on the map stand for."""
    names = {"confirm": "confirmed", "relabel": "relabelled", "reject": "rejected", "draw": "drawn"}
    swatches = [
        html.Span([html.Span(className="swatch", style={"background": COLORS[one]}), names[one]]) for one in names
    ]
    return html.Div(swatches, className="key")


def drawn_list(review: Review) -> list[Component]:
    """What the reviewer drew, and how many answers are stale."""
    parts: list[Component] = []
    drawn = [one.subject for one in review.answers.values() if one.outline is not None]
    if drawn:
        rows = [_row(review, one, "review-goto") for one in drawn[-_LISTED:]]
        parts.append(_table(f"{len(drawn)} drawn", rows))
    if review.stale:
        count = len(review.stale)
        told = "answer is" if count == 1 else "answers are"
        parts.append(html.P(f"{count} {told} stale: the result has changed there since.", className="note"))
    return parts


def _table(caption: Any, rows: list[html.Tr]) -> html.Div:
    heads = [html.Th(name, scope="col") for name in ("Subject", "Model", "You")]
    table = html.Table([html.Caption(caption), html.Thead(html.Tr(heads)), html.Tbody(rows)])
    return html.Div(table, className="scroll review-list")


def _row(review: Review, subject: str, kind: str) -> html.Tr:
    go = html.Button(name_of(subject), id={"type": kind, "subject": subject}, className="fly", title="Show it")
    model, you = cells(review, subject)
    own = {"id": {"type": f"{kind}-you", "subject": subject}}, {"id": {"type": f"{kind}-model", "subject": subject}}
    return html.Tr([html.Th(go, scope="row"), html.Td(model, **own[1]), html.Td(you, **own[0])])


def cells(review: Review, subject: str) -> tuple[Any, Any]:
    """What the model says of a subject, if it may be shown, and what the reviewer said."""
    answer = review.answer(subject)
    you = html.Span("not yet", className="muted") if answer is None else _sign(answer)
    return _model(review, subject), you


def _sign(answer: Answer) -> html.Span:
    label = "nothing" if answer.label is None else answer.label
    return html.Span(label, className=f"review-{answer.action}", title=said(answer))


def history(review: Review) -> list[Component]:
    """The last events that the reviewer may see, the latest first."""
    events = review.visible
    lines = [html.Li(_event(one)) for one in reversed(events[-_EVENTS:])]
    more = [html.P(f"… and {len(events) - _EVENTS:,} before.", className="muted")] if len(events) > _EVENTS else []
    return [html.Ol(lines, reversed=True, start=len(events)), *more] if lines else [html.P("Nothing yet.")]


def _event(event: Event) -> str:
    what = f" {name_of(event.subject).lower()}" if event.subject else ""
    label = f" as {event.label}" if event.label and event.action in ("confirm", "relabel", "draw", "reject") else ""
    blind = " (blind)" if event.blind else ""
    return f"{_clock(event.time)} {event.reviewer} {_VERBS[event.action]}{what}{label}{blind}"


def agreement_told(review: Review) -> list[Component]:
    """How well the model agrees with the reviewer, on sections and on regions, and before it was shown."""
    kinds = [("section", False, "Sections"), ("section", True, "Sections, blind answers")]
    kinds += [("region", False, "Regions")] if review.is_open else []  # what was drawn is held against all of them
    parts = []
    for kind, blind, title in kinds:
        found = agreement(review, kind, blind=blind)
        if found.n:
            parts.append(
                html.Section([html.H3(f"{title}: {found.n} compared"), *_scores(found, kind), _confusion(found)])
            )
    return parts or [html.P("Nothing to compare yet.", className="muted")]


def _scores(found: Agreement, kind: str) -> Iterator[Component]:
    scores = [
        ("Accuracy", found.accuracy),
        ("Kappa", found.kappa),
        ("Sensitivity", found.sensitivity),
        *([("Specificity", found.specificity)] if kind == "section" else []),  # nobody counts what is nowhere
    ]
    lines: list[Any] = []
    for name, value in scores:
        lines += [html.Dt(name), html.Dd("too few" if math.isnan(value) else f"{value:.2f}", className="number")]
    yield html.Dl(lines, className="review-scores")


def _confusion(found: Agreement) -> html.Div:
    kept = [k for k in range(len(found.labels)) if found.confusion[k].any() or found.confusion[:, k].any()]
    names = [found.labels[k] for k in kept]
    head = html.Tr(
        [html.Th("You \\ model", scope="col"), *(html.Th(name, scope="col", className="number") for name in names)]
    )
    rows = [_counts(found, k, kept) for k in kept]
    caption = html.Caption("Rows are yours, columns the model's", className="unseen")
    return html.Div(html.Table([caption, html.Thead(head), html.Tbody(rows)]), className="scroll")


def _counts(found: Agreement, row: int, kept: Sequence[int]) -> html.Tr:
    cells = [html.Td(str(found.confusion[row, k]), className="number") for k in kept]
    return html.Tr([html.Th(found.labels[row], scope="row"), *cells])
