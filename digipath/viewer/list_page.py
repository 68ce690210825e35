"""The first page: every slide and result as a line of a table that is searched, filtered, sorted and leafed through."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import dash
from dash import ALL, Input, Output, State, ctx, dcc, html

from digipath.viewer.desk import Desk
from digipath.viewer.listing import COLUMNS, STATUSES, Choice, Entry, chosen, entries

__all__ = ["layout", "register"]

_LINES = 50  # on a page: thumbnails are only asked for those
_SOON, _LATER = 2000, 15000  # milliseconds until it is looked at again, while something runs and else
_NOTHING = "–"


def layout(_: Desk) -> html.Div:
    """The page; its table is filled by a callback, and again while something runs."""
    search = html.Div([html.Label("Search", htmlFor="list-search"), _search()], className="list-field")
    statuses = html.Div(id="list-statuses", role="group", **{"aria-label": "Only those of one status"})
    return html.Div(
        [
            html.H1("Slides and results"),
            html.Div([search, statuses], className="list-tools"),
            html.P("Looking …", id="list-count", role="status", className="muted", **{"aria-live": "polite"}),
            html.Div(id="list-table"),
            _pager(),
            dcc.Store(id="list-view", storage_type="session"),
            dcc.Interval(id="list-tick", interval=_SOON),
        ],
        id="list",
    )


def register(app: dash.Dash, desk: Desk) -> None:
    """The callbacks of the page, once for the whole application."""

    @app.callback(
        Output("list-view", "data"),
        Input("list-search", "value"),
        Input({"type": "list-status", "status": ALL}, "n_clicks"),
        Input({"type": "list-sort", "column": ALL}, "n_clicks"),
        Input("list-before", "n_clicks"),
        Input("list-after", "n_clicks"),
        State("list-view", "data"),
        prevent_initial_call=True,
    )
    def turn(search: str | None, *rest: Any):
        pressed = ctx.triggered_id
        if pressed != "list-search" and not any(one["value"] for one in ctx.triggered):  # a button has only appeared
            raise dash.exceptions.PreventUpdate
        return _turned(rest[-1] or {}, search or "", pressed)

    @app.callback(
        Output("list-table", "children"),
        Output("list-statuses", "children"),
        Output("list-count", "children"),
        Output("list-page", "children"),
        Output("list-before", "disabled"),
        Output("list-after", "disabled"),
        Output("list-tick", "interval"),
        Input("list-view", "data"),
        Input("list-tick", "n_intervals"),
    )
    def show(view: dict[str, Any] | None, _):
        return _shown(desk, view or {})


def _search() -> dcc.Input:
    return dcc.Input(
        id="list-search",
        type="search",
        placeholder="Name, folder, class …",
        debounce=0.2,
        persistence=True,
        persistence_type="session",
    )


def _pager() -> html.Nav:
    before = html.Button("Previous", id="list-before", type="button", disabled=True)
    after = html.Button("Next", id="list-after", type="button", disabled=True)
    return html.Nav(
        [before, html.Span(id="list-page", className="number"), after], id="list-pager", **{"aria-label": "Pages"}
    )


def _turned(view: dict[str, Any], search: str, pressed: Any) -> dict[str, Any]:
    """What is to be seen after the search was changed, or a button was pressed, by its id."""
    before, page = _choice(view), view.get("page", 0)
    if pressed in ("list-before", "list-after"):
        return asdict(before) | {"page": max(0, page + (1 if pressed == "list-after" else -1))}
    chosen = {"search": search}
    if isinstance(pressed, dict) and "status" in pressed:
        chosen["status"] = "" if pressed["status"] == before.status else pressed["status"]
    elif isinstance(pressed, dict):
        again = pressed["column"] == before.column
        chosen |= {"column": pressed["column"], "descending": again and not before.descending}
    return asdict(replace(before, **chosen)) | {"page": 0}


def _choice(view: dict[str, Any]) -> Choice:
    return Choice(**{name: view[name] for name in asdict(Choice()) if name in view})


def _shown(desk: Desk, view: dict[str, Any]) -> tuple:
    """The outputs of `show`."""
    lines, choice = entries(desk), _choice(view)
    kept = chosen(lines, choice)
    pages = max(1, -(-len(kept) // _LINES))
    page = min(view.get("page", 0), pages - 1)
    seen = kept[page * _LINES : (page + 1) * _LINES]
    table = _table(desk, seen, choice) if seen else _empty(bool(lines))
    busy = any(one.status in ("running", "waiting") for one in lines)
    count = f"{len(kept)} of {len(lines)}" if len(kept) < len(lines) else f"{len(lines)} slides and results"
    where = f"Page {page + 1} of {pages}" if pages > 1 else ""
    turns = where, page == 0, page + 1 >= pages
    return table, _statuses(lines, choice.status), count, *turns, _SOON if busy else _LATER


def _statuses(lines: Sequence[Entry], chosen: str) -> list[html.Button]:
    """A button for each status that occurs, with how often, pressed if only those are shown."""
    counts = Counter(one.status for one in lines)
    return [
        html.Button(
            [_shape(name), f" {STATUSES[name][1]} ", html.Span(f"{counts[name]}", className="count")],
            id={"type": "list-status", "status": name},
            type="button",
            **{"aria-pressed": str(name == chosen).lower()},
        )
        for name in STATUSES
        if counts[name] or name == chosen
    ]


def _shape(status: str) -> html.Span:
    return html.Span(STATUSES[status][0], className=f"shape is-{status}", **{"aria-hidden": "true"})


def _empty(hidden: bool) -> html.Div:
    if hidden:
        return html.Div([html.P("Nothing fits. Shorten the search, or choose the status All.")], className="list-empty")
    return html.Div(
        [
            html.H2("Nothing here yet"),
            html.P("Give slides, results, or a folder with both when starting the viewer, and reload this page:"),
            html.Pre("digipath view slides/ results/"),
            html.P(["A slide for trying it out is made by ", html.Code("digipath demo"), "."]),
        ],
        className="list-empty",
    )


def _table(desk: Desk, lines: Sequence[Entry], choice: Choice) -> html.Table:
    head = [html.Th(html.Span("Picture", className="unseen"), scope="col"), *(_title(name, choice) for name in COLUMNS)]
    titles = html.Tr([*head, html.Th("Report", scope="col")])
    caption = html.Caption("Slides and results, and what was found in them", className="unseen")
    rows = [_row(desk, one) for one in lines]
    return html.Table([caption, html.Thead(titles), html.Tbody(rows)], className="list-table")


def _title(name: str, choice: Choice) -> html.Th:
    sort = ("descending" if choice.descending else "ascending") if name == choice.column else "none"
    button = html.Button(COLUMNS[name], id={"type": "list-sort", "column": name}, type="button", className="sort")
    return html.Th(button, scope="col", className=f"list-{name}", **{"aria-sort": sort})


def _row(desk: Desk, one: Entry) -> html.Tr:
    item, href = one.item, f"{desk.prefix}view/{one.item.id}"
    where = item.path.parent.name if item.held is None else "in memory"
    name = [dcc.Link(item.name, href=href), html.Div(f"{item.kind} in {where}", className="list-where")]
    status = [html.Span([_shape(one.status), " ", one.told]), *_problem(one)]
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.changed)) if item.changed else _NOTHING
    cells = [
        html.Td(_thumbnail(desk, one), className="list-picture"),
        html.Th(name, scope="row", className="list-name"),
        _cell("status", status),
        _cell("lesion", _number(one.lesion, "{:.2f}")),
        _cell("tissue", _number(one.tissue, "{:.2f}")),
        _cell("share", _number(one.share, "{:.1%}")),
        _cell("finding", one.finding or _NOTHING),
        _cell("reviewed", "{} of {}".format(*one.reviewed) if one.reviewed else _NOTHING),
        _cell("changed", changed),
        _cell("report", _report(desk, one)),
    ]
    return html.Tr(cells, key=item.id)


def _cell(name: str, content: Any) -> html.Td:
    empty = " nothing" if content == _NOTHING else ""
    return html.Td(content, className=f"list-{name}{empty}", **{"data-title": COLUMNS.get(name, "Report")})


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _problem(one: Entry) -> list:
    return [html.Div(one.item.problem, className="list-problem")] if one.status == "broken" else []


def _thumbnail(desk: Desk, one: Entry):
    if one.status == "broken":
        return html.Span("✕", className="list-no-picture", **{"aria-hidden": "true"})
    return html.Img(src=f"{desk.prefix}thumbnails/{one.item.id}?v={one.item.version}", alt="", width=72, height=54)


def _report(desk: Desk, one: Entry):
    if not one.report:
        return _NOTHING
    return html.A("Report", href=f"{desk.prefix}files/{one.item.id}/report.html", target="_blank")
