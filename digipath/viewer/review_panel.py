"""The panel in which a reviewer answers what the model said; on the map, `digipath.viewer.review_map`."""

import time
from collections.abc import Callable
from typing import Any

import dash
from dash import ALL, Input, Output, State, dcc, html

from digipath.errors import DigipathError, SpecError
from digipath.review.blind import withheld
from digipath.review.decisions import MAX_TEXT, undoable
from digipath.review.export import EXPORTS, exported
from digipath.review.review import Review
from digipath.viewer import flights, review_map, review_told
from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["layout", "register"]

_LOOK = 4000  # milliseconds between two looks for what others saved
_QUICK = "qwe"  # keys of the first known labels
_AROUND = 0.6  # of its own size, around an outline that is flown to


def layout(desk: Desk, item: Item) -> html.Details:
    """The panel of one result."""
    review, problem = review_told.open_review(desk, item, desk.reviewer)
    if review is None:
        told = html.P(problem.removeprefix("Not saved: "), role="alert", className="note")
        return html.Details([html.Summary("Review"), told], open=True, id="review")
    return html.Details(
        [
            html.Summary(["Review", html.Span(id="review-progress", className="count")]),
            dcc.Store(id="review-changed", data=review_told.stamp(item)),
            dcc.Store(id="review-drawn", data=review_map.start()),
            dcc.Store(id="review-open", data=review.is_open),
            dcc.Interval(id="review-pulse", interval=_LOOK),
            dcc.Download(id="review-download"),
            *_who(desk),
            *_blind(review),
            html.Div(id="review-selected", **{"aria-live": "polite"}),
            *_labels(review),
            _buttons(),
            html.P(
                review_told.last_saved(review),
                id="review-status",
                role="status",
                className="told",
                **{"aria-live": "polite"},
            ),
            html.Div(review_told.work_list(review), id="review-list"),
            html.Div(review_told.drawn_list(review), id="review-drawings"),
            _folded("Agreement with the model", html.Div(id="review-agreement")),
            _folded("History", html.Div(id="review-history")),
            _exports(),
        ],
        open=True,
        id="review",
    )


def _who(desk: Desk) -> list:
    """The name under which answers are kept; a blind viewer has one for good."""
    name = dcc.Input(
        id="review-reviewer",
        type="text",
        value=desk.reviewer,
        disabled=desk.blind,
        maxLength=MAX_TEXT,
        debounce=True,
        persistence=not desk.blind,
        persistence_type="local",
        autoComplete="name",
        placeholder="Your name",
    )
    return [html.Label("Reviewer", htmlFor="review-reviewer"), name]


def _blind(review: Review) -> list:
    """What a blind reviewer has to know, and the way out."""
    if review.is_open:
        return [html.Button(id="review-reveal", hidden=True), dcc.ConfirmDialog(id="review-sure")]
    if review.reviewer == review_told.NOBODY:
        told = (
            "A blind viewer has one reviewer, who is named when it is started: digipath view --blind --reviewer NAME."
        )
    else:
        told = "Blind: what the model says of a section is shown once you gave it a label; the rest after the last one."
    sure = "Show everything that the model says? What you answer from then on does not count as blind."
    button = html.Button("Show the model's answers", id="review-reveal", className="quiet")
    return [html.P(told, className="note"), button, dcc.ConfirmDialog(id="review-sure", message=sure)]


def _labels(review: Review) -> list:
    """The known labels, one click each, and a field for any other."""
    asked = review.asked
    regions = asked.labels("region") if review.is_open else (asked.positive,)
    known = list(dict.fromkeys((*(asked.labels("section") if asked.of_kind("section") else ()), *regions)))
    quick = [_quick(label, key) for label, key in zip(known, _QUICK.ljust(len(known)), strict=False)]
    field = dcc.Input(
        id="review-label", type="text", value=asked.positive, list="review-known", maxLength=MAX_TEXT, debounce=False
    )
    options = html.Datalist([html.Option(value=label) for label in known], id="review-known")
    own = [html.Label("Other label, and label of what you draw", htmlFor="review-label"), field, options]
    return [html.Div(quick, className="review-quick", role="group", **{"aria-label": "Labels"}), *own]


def _quick(label: str, key: str) -> html.Button:
    keyed = {"title": f"Key {key}", "data-key": key} if key.strip() else {}
    return html.Button(label, id={"type": "review-quick", "label": label}, **keyed)


def _buttons() -> html.Div:
    """Each does one thing; the script clicks the one whose key was pressed."""
    lines = (
        ("confirm", "Confirm", "c"),
        ("relabel", "Relabel", "r"),
        ("reject", "Reject", "x"),
        ("undo", "Undo", "z"),
        ("next", "Next unanswered", "u"),
    )
    buttons = [
        html.Button(label, id=f"review-{name}", title=f"Key {key}", **{"data-key": key}) for name, label, key in lines
    ]
    return html.Div(buttons, className="review-buttons", role="group", **{"aria-label": "Answer"})


def _folded(title: str, inside: Any) -> html.Details:
    return html.Details([html.Summary(title), inside], className="review-more")


def _exports() -> html.Div:
    names = (("json", "Events (JSON)"), ("geojson", "QuPath (GeoJSON)"), ("xml", "ASAP (XML)"))
    buttons = [
        html.Button(label, id={"type": "review-export", "kind": kind}, className="quiet") for kind, label in names
    ]
    return html.Div([html.Span("Export ", className="muted"), *buttons], className="review-export")


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks, and those of the map's part."""
    review_map.register(app, desk)
    _register_answers(app, desk)
    _register_reveal(app, desk)
    _register_told(app, desk)
    _register_pulse(app, desk)
    _register_moves(app, desk)
    _register_export(app, desk)


def _register_answers(app: dash.Dash, desk: Desk) -> None:
    @app.callback(
        Output("review-changed", "data"),
        Output("review-status", "children"),
        Output("refresh", "data", allow_duplicate=True),
        Input("review-confirm", "n_clicks"),
        Input("review-relabel", "n_clicks"),
        Input("review-label", "n_submit"),
        Input("review-reject", "n_clicks"),
        Input("review-undo", "n_clicks"),
        Input("review-sure", "submit_n_clicks"),
        Input({"type": "review-quick", "label": ALL}, "n_clicks"),
        State("review-reviewer", "value"),
        State("review-label", "value"),
        State("chosen", "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def answer(*given: Any):
        if not (button := flights.pressed()):
            raise dash.exceptions.PreventUpdate
        name, label, chosen, item = given[-4:]
        return done(desk, desk.shelf.get(item), name, act=_act(button, chosen, label))


def _register_reveal(app: dash.Dash, desk: Desk) -> None:
    del desk

    @app.callback(Output("review-sure", "displayed"), Input("review-reveal", "n_clicks"), prevent_initial_call=True)
    def ask(clicks: int | None):
        return bool(clicks)


def _act(button: Any, chosen: str | None, label: str | None) -> Callable[[Review], Review]:
    """What a button does with a review."""
    if button == "review-undo":
        return Review.undo
    if button == "review-sure":
        return Review.reveal
    if not chosen:
        raise dash.exceptions.PreventUpdate
    if button == "review-confirm":
        return lambda review: review.confirm(chosen)
    if button == "review-reject":
        return lambda review: review.reject(chosen)
    wanted = button["label"] if isinstance(button, dict) else (label or "").strip()
    return lambda review: review.relabel(chosen, _fits(review, chosen, wanted))


def _fits(review: Review, chosen: str, label: str) -> str:
    """The label; one that is known of the other kind is refused: no section is a lesion, no region a tumour section."""
    if label in _fitting(review, chosen):
        return label
    other = "region" if chosen.startswith("section:") else "section"
    if review.asked.of_kind(other) and label in review.asked.labels(other):
        known = " or ".join(_fitting(review, chosen))
        raise SpecError(f"{label} is a label of {other}s; this is {known}, or another label that you type.")
    return label


def done(desk: Desk, item: Item, name: str | None, *, act: Callable[[Review], Review]) -> tuple:
    """Do something, and say when it was saved, or why not; the page is made anew when more may be seen than before."""
    review, problem = review_told.open_review(desk, item, name)
    if review is None:
        return dash.no_update, problem, dash.no_update
    try:
        review_told.check_named(review)
        after = act(review)
    except DigipathError as error:
        return review_told.stamp(item), review_told.failed(error), dash.no_update
    refresh = dash.no_update if after.is_open == review.is_open else time.time()
    return review_told.stamp(item), review_told.saved(after), refresh


def _register_told(app: dash.Dash, desk: Desk) -> None:
    parts = ("selected", "drawings", "agreement", "history", "progress")
    buttons = ("confirm", "relabel", "reject", "undo", "next")

    @app.callback(
        *(Output(f"review-{name}", "children") for name in parts),
        *(Output(f"review-{name}", "disabled") for name in buttons),
        Output({"type": "review-quick", "label": ALL}, "disabled"),
        Output("review-status", "children", allow_duplicate=True),
        Input("chosen", "data"),
        Input("review-changed", "data"),
        Input("review-reviewer", "value"),
        State({"type": "review-quick", "label": ALL}, "id"),
        State("item", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def tell(chosen: str | None, _, name: str, quick: list, item: str):
        review, problem = review_told.open_review(desk, desk.shelf.get(item), name)
        if review is None:
            return *([dash.no_update] * len(parts)), *([True] * len(buttons)), [True] * len(quick), problem
        told = [
            review_told.selected(review, chosen),
            review_told.drawn_list(review),
            review_told.agreement_told(review),
            review_told.history(review),
            review_told.progress(review),
        ]
        confirm, relabel, undo = _allowed(review, chosen)
        off = [not confirm, not relabel, not confirm, not undo, review.next_unanswered() is None]
        fitting = _fitting(review, chosen) if relabel else ()
        return *told, *off, [one["label"] not in fitting for one in quick], dash.no_update


def _register_pulse(app: dash.Dash, desk: Desk) -> None:
    @app.callback(
        Output("review-changed", "data", allow_duplicate=True),
        Output("refresh", "data", allow_duplicate=True),
        Input("review-pulse", "n_intervals"),
        State("review-changed", "data"),
        State("review-open", "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def look(_, before: list, was_open: bool, item: str):
        found = desk.shelf.get(item)
        now = review_told.stamp(found)
        if now == before:
            raise dash.exceptions.PreventUpdate
        is_open = "layers" not in withheld(desk, found)
        return now, dash.no_update if is_open == was_open else time.time()


def _allowed(review: Review, chosen: str | None) -> tuple[bool, bool, bool]:
    """Whether the chosen subject can be confirmed or rejected, and relabelled; and whether something can be undone."""
    named = review.reviewer != review_told.NOBODY
    drawn = review.answers.get(chosen or "")
    known = named and review.may_know(chosen or "")
    confirm = known and review.may_see(chosen)
    relabel = known or (drawn is not None and drawn.outline is not None)
    return confirm, relabel, named and undoable(review.events, review.reviewer) is not None


def _fitting(review: Review, chosen: str | None) -> tuple[str, ...]:
    """The known labels of what is chosen: of a section, or of anything else."""
    if str(chosen).startswith("section:"):
        return review.asked.labels("section")
    return review.asked.labels("region") if review.is_open else (review.asked.positive,)  # classes found are an answer


def _register_moves(app: dash.Dash, desk: Desk) -> None:
    def go(kind: str, *others: Input) -> Callable:
        return app.callback(
            Output("map", "viewport", allow_duplicate=True),
            Output("chosen", "data", allow_duplicate=True),
            Input({"type": kind, "subject": ALL}, "n_clicks"),
            *others,
            State("chosen", "data"),
            State("review-reviewer", "value"),
            State("item", "data"),
            prevent_initial_call=True,
        )

    @go("review-go", Input("review-next", "n_clicks"))
    def listed(_, __, chosen: str | None, name: str, item: str):
        return _gone(desk, item, name, chosen)

    @go("review-goto")
    def drawn(_, chosen: str | None, name: str, item: str):
        return _gone(desk, item, name, chosen)

    @app.callback(
        Output({"type": "review-go", "subject": ALL}, "aria-current"),
        Input("chosen", "data"),
        State({"type": "review-go", "subject": ALL}, "id"),
    )
    def mark(chosen: str | None, rows: list[dict]):
        return [str(one["subject"] == chosen).lower() for one in rows]

    @app.callback(
        Output({"type": "review-go-model", "subject": ALL}, "children"),
        Output({"type": "review-go-you", "subject": ALL}, "children"),
        Output({"type": "review-count", "kind": ALL}, "children"),
        Input("review-changed", "data"),
        Input("review-reviewer", "value"),
        State({"type": "review-go", "subject": ALL}, "id"),
        State({"type": "review-count", "kind": ALL}, "id"),
        State("item", "data"),
    )
    def fill(_, name: str, rows: list[dict], counts: list[dict], item: str):
        review, _problem = review_told.open_review(desk, desk.shelf.get(item), name)
        if review is None:
            raise dash.exceptions.PreventUpdate
        told = [review_told.cells(review, one["subject"]) for one in rows]
        progress = [str(review.progress(one["kind"])) for one in counts]
        return [one[0] for one in told], [one[1] for one in told], progress


def _gone(desk: Desk, item: str, name: str, chosen: str | None) -> tuple[dict[str, Any], str]:
    """The map's viewport at what a button means, and its subject."""
    button = flights.pressed()
    review, _ = review_told.open_review(desk, desk.shelf.get(item), name)
    if not button or review is None:
        raise dash.exceptions.PreventUpdate
    subject = button["subject"] if isinstance(button, dict) else getattr(review.next_unanswered(chosen), "id", None)
    if subject is None:
        raise dash.exceptions.PreventUpdate
    answer = review.answers.get(subject)
    if answer is not None and answer.outline is not None:
        return _flight(answer.outline), subject
    return flights.flown(desk, item, subject), subject


def _flight(outline: tuple[tuple[float, float], ...]) -> dict[str, Any]:
    """To an outline, with something around it."""
    xs, ys = zip(*outline, strict=True)
    x, y = (max(values) - min(values) for values in (xs, ys))
    left, right, top, bottom = (
        min(xs) - _AROUND * x,
        max(xs) + _AROUND * x,
        min(ys) - _AROUND * y,
        max(ys) + _AROUND * y,
    )
    return {"bounds": [[-bottom, left], [-top, right]], "transition": "flyToBounds"}


def _register_export(app: dash.Dash, desk: Desk) -> None:
    @app.callback(
        Output("review-download", "data"),
        Output("review-status", "children", allow_duplicate=True),
        Input({"type": "review-export", "kind": ALL}, "n_clicks"),
        State("review-reviewer", "value"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def export(_, name: str, item: str):
        button, found = flights.pressed(), desk.shelf.get(item)
        if not button:
            raise dash.exceptions.PreventUpdate
        review, problem = review_told.open_review(desk, found, name)
        if review is None:
            return dash.no_update, problem
        kind = button["kind"]
        return dcc.send_bytes(
            exported(review.asked, review.visible, kind), f"{found.name}-{EXPORTS[kind]}"
        ), f"Exported as {EXPORTS[kind]}"
