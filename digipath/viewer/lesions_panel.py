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

_ROWS = 25  # at once: hundreds of buttons make every click wait
_FIRST = {"column": "area mm2", "falling": True, "page": 0}

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
    table, told, _, last = _page(regions, _FIRST)
    return html.Details(
        [
            html.Summary(["Regions", html.Span(f"{len(regions):,}", className="count")]),
            html.P(_said(len(regions), scene.threshold, drawn(regions).tolerance * scene.mpp), className="muted"),
            html.Div(table, id="lesions-table", className="scroll", hidden=not regions),
            html.Div(_pager(told), className="line", hidden=last),
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


def _pager(told: str) -> list:
    before = html.Button("Previous", id="lesions-before", disabled=True, **{"aria-label": "Previous regions"})
    after = html.Button("Next", id="lesions-after", **{"aria-label": "Next regions"})
    return [before, after, html.Span(told, id="lesions-told", className="muted number", role="status")]


def _page(regions: Sequence[Outline], view: dict[str, Any]) -> tuple[html.Table, str, bool, bool]:
    """(the rows of a page, which these are, whether they are the first, whether they are the last)."""
    last = max(0, -(-len(regions) // _ROWS) - 1)
    page = min(view["page"], last)
    begin, end = page * _ROWS, min((page + 1) * _ROWS, len(regions))
    lines = ordered(regions, view["column"], falling=view["falling"])[begin:end]
    return _table(regions, lines, view), f"{begin + 1:,} to {end:,} of {len(regions):,}", page == 0, page == last


def _table(regions: Sequence[Outline], lines: Sequence[Outline], view: dict[str, Any]) -> html.Table:
    columns = [name for name in _COLUMNS if name == "number" or any(name in one.measurements for one in regions)]
    several = len({one.name for one in regions}) > 1
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
        Output("lesions-told", "children"),
        Output("lesions-before", "disabled"),
        Output("lesions-after", "disabled"),
        Input({"type": "lesions-sort", "column": ALL}, "n_clicks"),
        Input("lesions-before", "n_clicks"),
        Input("lesions-after", "n_clicks"),
        State("lesions-view", "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def turn(_, __, ___, view: dict[str, Any], item: str):
        button = flights.pressed()
        if button is None:
            raise dash.exceptions.PreventUpdate
        view = turned(view, button)
        regions = outlines(desk, look(desk, desk.shelf.get(item))).regions
        return view, *_page(regions, view)


def turned(view: dict[str, Any], button: str | dict[str, str]) -> dict[str, Any]:
    """How the table is seen after a heading or a button was pressed: the same heading again turns the order."""
    if isinstance(button, str):
        return view | {"page": max(0, view["page"] + (1 if button == "lesions-after" else -1))}
    column = button["column"]
    falling = not view["falling"] if column == view["column"] else column != "number"
    return view | {"column": column, "falling": falling, "page": 0}
