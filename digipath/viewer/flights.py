"""Buttons that fly to a place on the slide and mark it there; the place that was chosen last."""

from typing import Any

import dash
from dash import ALL, Input, Output, State, ctx, html

from digipath.viewer.desk import Desk
from digipath.viewer.overlays import Outline, flight, outlines
from digipath.viewer.scene import look

__all__ = ["button", "flown", "pressed", "register"]


def button(one: Outline, label: str, *, title: str = "Show on the slide") -> html.Button:
    """A button that flies to an outline; there is one at most for each subject on a page."""
    told = {"title": title, "aria-label": title}
    return html.Button(label, id={"type": "fly", "subject": one.subject}, className="fly", **told)


def pressed() -> Any:
    """The id of the button that was pressed; None where buttons only appeared."""
    return ctx.triggered_id if any(one["value"] for one in ctx.triggered) else None


def flown(desk: Desk, item: str, subject: str) -> dict[str, Any]:
    """The map's new viewport, at a subject of an item."""
    scene = look(desk, desk.shelf.get(item))
    one = outlines(desk, scene).find(subject)
    return dash.no_update if one is None else flight(scene, one)


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""

    @app.callback(
        Output("map", "viewport", allow_duplicate=True),
        Output("chosen", "data", allow_duplicate=True),
        Input({"type": "fly", "subject": ALL}, "n_clicks"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def fly(_, item: str):
        if not (button := pressed()):
            raise dash.exceptions.PreventUpdate
        return flown(desk, item, button["subject"]), button["subject"]

    @app.callback(
        Output("chosen", "data", allow_duplicate=True),
        Input("regions", "clickData"),
        Input("sections", "clickData"),
        Input("doubts", "clickData"),
        prevent_initial_call=True,
    )
    def choose(*clicked: dict | None):
        if not any(clicked):
            raise dash.exceptions.PreventUpdate
        return ctx.triggered[0]["value"]["properties"]["subject"]

    @app.callback(
        Output({"type": "fly", "subject": ALL}, "aria-current"),
        Input("chosen", "data"),
        Input({"type": "fly", "subject": ALL}, "id"),
    )
    def mark(chosen: str | None, buttons: list[dict]):
        return [str(one["subject"] == chosen).lower() for one in buttons]
