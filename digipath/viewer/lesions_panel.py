"""The regions of a result as a table that is sorted, and from which one flies to each of them."""

from collections.abc import Callable, Sequence
from typing import Any

import dash
from dash import ALL, Input, Output, State, dcc, html

from digipath.viewer import flights, measures
from digipath.viewer.desk import Desk
from digipath.viewer.overlays import LARGEST, Outline, drawn, outlines
from digipath.viewer.scene import Scene, look

__all__ = ["layout", "ordered", "register"]

_AT_ONCE = 25
_FIRST = {"column": "area mm2", "falling": True, "lines": _AT_ONCE}

# Heading and how it is written, by the name of the measurement; a column that no region has is left out.
_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "number": ("Region", str),
    "area mm2": ("Area", measures.area),
    "major axis um": ("Length\u00a0µm", lambda value: f"{value:,.0f}"),
    "mean probability": ("Mean p", lambda value: f"{value:.2f}"),
    "max probability": ("Max p", lambda value: f"{value:.2f}"),
}


def layout(desk: Desk, scene: Scene) -> html.Details | None:
    """The panel; None where there is no answer to be listed."""
    if not (scene.answered and scene.finished):
        return None
    regions = outlines(desk, scene).regions
    return html.Details(
        [
            html.Summary(["Regions", html.Span(f"{len(regions):,}", className="count")]),
            html.P(_said(len(regions), scene.threshold, drawn(regions).tolerance * scene.mpp), className="muted"),
            html.Div(_table(regions, _FIRST), id="lesions-table", className="scroll", hidden=not regions),
            html.Button("Show more", id="lesions-more", className="quiet", hidden=len(regions) <= _AT_ONCE),
            dcc.Store(id="lesions-view", data=_FIRST),
        ],
        open=True,
        id="lesions",
    )


def _said(count: int, threshold: float, off: float = 0) -> str:
    if not count:
        return f"Nothing is above the result's threshold of {threshold:g}."
    some = f" {LARGEST:,} of {count:,} are shown on the slide, the largest." if count > LARGEST else ""
    rough = f" Their outlines are drawn to within {off:.2g} µm; numbers and files are exact." if off else ""
    return f"At the result's threshold of {threshold:g}.{some}{rough}"


def _value(one: Outline, column: str) -> float:
    return one.number if column == "number" else float(one.measurements.get(column, float("nan")))


def ordered(regions: Sequence[Outline], column: str, *, falling: bool) -> list[Outline]:
    """Regions by a measurement; those that lack it last, equal ones by their number."""

    def key(one: Outline) -> tuple[bool, float]:
        value = _value(one, column)
        return value != value, -value if falling else value

    return sorted(regions, key=key)


def _table(regions: Sequence[Outline], view: dict[str, Any]) -> html.Table:
    columns = [name for name in _COLUMNS if name == "number" or any(name in one.measurements for one in regions)]
    several = len({one.name for one in regions}) > 1
    lines = ordered(regions, view["column"], falling=view["falling"])[: view["lines"]]
    head = [_heading(name, view) for name in columns] + ([html.Th("Class", scope="col")] if several else [])
    body = [_line(one, columns, several) for one in lines]
    caption = html.Caption("Regions of the model; the first column flies there", className="unseen")
    return html.Table([caption, html.Thead(html.Tr(head)), html.Tbody(body)])


def _heading(name: str, view: dict[str, Any]) -> html.Th:
    order = ("descending" if view["falling"] else "ascending") if view["column"] == name else "none"
    label = html.Button(_COLUMNS[name][0], id={"type": "lesions-sort", "column": name}, className="sort")
    look = "" if name == "number" else "number"
    return html.Th(label, scope="col", className=look, **{"aria-sort": order})


def _line(one: Outline, columns: Sequence[str], several: bool) -> html.Tr:
    first = html.Th(flights.button(one, str(one.number), title=f"Fly to region {one.number}"), scope="row")
    rest = [html.Td(_told(one, name), className="number") for name in columns if name != "number"]
    return html.Tr([first, *rest, *([html.Td(one.name)] if several else [])])


def _told(one: Outline, name: str) -> str:
    return _COLUMNS[name][1](one.measurements[name]) if name in one.measurements else "–"


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""

    @app.callback(
        Output("lesions-view", "data"),
        Output("lesions-table", "children"),
        Output("lesions-more", "hidden"),
        Input({"type": "lesions-sort", "column": ALL}, "n_clicks"),
        Input("lesions-more", "n_clicks"),
        State("lesions-view", "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def turn(_, __, view: dict[str, Any], item: str):
        button = flights.pressed()
        if button is None:
            raise dash.exceptions.PreventUpdate
        view = turned(view, button)
        regions = outlines(desk, look(desk, desk.shelf.get(item))).regions
        return view, _table(regions, view), len(regions) <= view["lines"]


def turned(view: dict[str, Any], button: str | dict[str, str]) -> dict[str, Any]:
    """How the table is seen after a heading or "Show more" was pressed: the same heading again turns the order."""
    if isinstance(button, str):
        return view | {"lines": view["lines"] * 4}
    column = button["column"]
    falling = not view["falling"] if column == view["column"] else column != "number"
    return view | {"column": column, "falling": falling}
