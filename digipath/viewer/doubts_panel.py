"""Uncertain regions as a list of work: the next, the one before, and which of them were looked at."""

from collections.abc import Sequence

import dash
from dash import ALL, Input, Output, State, ctx, dcc, html

from digipath.viewer import flights, measures
from digipath.viewer.desk import Desk
from digipath.viewer.overlays import Outline, outlines
from digipath.viewer.scene import Scene, look

__all__ = ["layout", "register", "step"]


def layout(desk: Desk, scene: Scene) -> html.Details | None:
    """The panel; None where the result has no uncertainty, or it is withheld."""
    doubts = outlines(desk, scene).doubts
    if not (scene.kinds and scene.finished):
        return None
    walk = [
        html.Button("Previous", id="doubts-previous", title="Key p", **{"data-key": "p"}),
        html.Button("Next", id="doubts-next", title="Key n", **{"data-key": "n"}),
        html.Span(id="doubts-count", className="muted", role="status", **{"aria-live": "polite"}),
    ]
    said = "Where the networks or the augmentations disagree most, first. Marks stay in this browser."
    empty = html.P("Nowhere is the result unsure of itself.", className="muted")
    return html.Details(
        [
            html.Summary(["Uncertain regions", html.Span(f"{len(doubts):,}", className="count")]),
            *([html.P(said, className="muted"), html.Div(walk, className="line")] if doubts else [empty]),
            html.Ol([_line(one) for one in doubts], className="work", id="doubts-list"),
            dcc.Store(id={"type": "doubts-done", "item": scene.item.id}, storage_type="local"),
        ],
        open=True,
        id="doubts-panel",
    )


def _line(one: Outline) -> html.Li:
    area = measures.area(one.measurements["area mm2"])
    spread = f"σ {one.measurements['mean standard deviation']:.2f}"
    go = flights.button(one, f"{one.number}", title=f"Fly to uncertain region {one.number}")
    name = [html.Span("Looked at: uncertain region ", className="unseen"), html.Span(one.number, className="unseen")]
    mark = html.Button(
        name,
        id={"type": "doubts-mark", "place": one.place},
        className="check",
        role="checkbox",
        title="Looked at",
        **{"aria-checked": "false"},
    )
    numbers = [html.Span(area, className="number"), html.Span(spread, className="number muted")]
    return html.Li([go, *numbers, mark])


def step(doubts: Sequence[Outline], chosen: str | None, done: Sequence[str], *, by: int) -> Outline:
    """The next one, or with `by` -1 the one before, that was not looked at; any other, if all were.

    Args:
        doubts: In their order, at least one.
        chosen: The subject that is seen now, if any.
        done: The places of those that were looked at.
        by: 1 or -1.
    """
    subjects = [one.subject for one in doubts]
    start = subjects.index(chosen) if chosen in subjects else (-1 if by > 0 else 0)
    turn = [doubts[(start + by * k) % len(doubts)] for k in range(1, len(doubts) + 1)]
    return next((one for one in turn if one.place not in done), turn[0])


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""
    _register_marks(app)

    @app.callback(
        Output("map", "viewport", allow_duplicate=True),
        Output("chosen", "data", allow_duplicate=True),
        Input("doubts-previous", "n_clicks"),
        Input("doubts-next", "n_clicks"),
        State("chosen", "data"),
        State({"type": "doubts-done", "item": ALL}, "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def walk(_, __, chosen: str | None, done: list, item: str):
        if not flights.pressed():
            raise dash.exceptions.PreventUpdate
        doubts = outlines(desk, look(desk, desk.shelf.get(item))).doubts
        one = step(doubts, chosen, _places(done), by=1 if ctx.triggered_id == "doubts-next" else -1)
        return flights.flown(desk, item, one.subject), one.subject


def _register_marks(app: dash.Dash) -> None:
    @app.callback(
        Output({"type": "doubts-done", "item": ALL}, "data"),
        Input({"type": "doubts-mark", "place": ALL}, "n_clicks"),
        State({"type": "doubts-done", "item": ALL}, "data"),
        prevent_initial_call=True,
    )
    def mark(_, done: list):
        button, places = flights.pressed(), _places(done)
        if button is None:
            raise dash.exceptions.PreventUpdate
        place = button["place"]
        return [[one for one in places if one != place] if place in places else [*places, place]]

    @app.callback(
        Output({"type": "doubts-mark", "place": ALL}, "aria-checked"),
        Output("doubts-count", "children"),
        Input({"type": "doubts-done", "item": ALL}, "data"),
        State({"type": "doubts-mark", "place": ALL}, "id"),
    )
    def show(done: list, buttons: list[dict]):
        checked = [one["place"] in _places(done) for one in buttons]
        return [str(one).lower() for one in checked], f"{sum(checked)} of {len(buttons)} looked at"


def _places(done: list) -> list[str]:
    return list(done[0] or []) if done else []
