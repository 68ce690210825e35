"""The first page: every slide and result as a line of a table that is searched, filtered, sorted and leafed through."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import dash
from dash import ALL, Input, Output, State, ctx, dcc, html

from digipath.viewer.desk import Desk
from digipath.viewer.listing import COLUMNS, STATUSES, Choice, Entry, Lines, chosen
from digipath.viewer.shelf import Item

__all__ = ["Shown", "layout", "look", "register"]

_LINES = 50  # on a page: thumbnails are only asked for those
_SOON, _LATER = 2000, 15000  # milliseconds until it is looked at again, while something runs and else
_RECENT = 3.0  # seconds that what was seen is good for when it is only sorted or searched
_NOTHING = "–"
_LINKS = 3  # from a slide to its results


def layout(_: Desk) -> html.Div:
    """The page; its lines are filled in by a callback, and again when something has changed."""
    search = html.Div([html.Label("Search", htmlFor="list-search"), _search()], className="list-field")
    statuses = [_status_button(name) for name in STATUSES]
    only = html.Div(statuses, id="list-statuses", role="group", **{"aria-label": "Only those of one status"})
    return html.Div(
        [
            html.H1("Slides and results"),
            html.Div([search, only], className="list-tools"),
            html.P("Looking …", id="list-count", role="status", className="muted", **{"aria-live": "polite"}),
            _table(),
            html.Div(id="list-empty", hidden=True),
            _pager(),
            dcc.Store(id="list-view", storage_type="session"),
            dcc.Store(id="list-seen"),
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
        return _turned(rest[-1] or {}, search or "", ctx.triggered_id)

    _register_lines(app, desk)


def _register_lines(app: dash.Dash, desk: Desk) -> None:
    lines = Lines(desk)

    @app.callback(
        Output("list-lines", "children"),
        Output("list-seen", "data"),
        Output("list-table", "hidden"),
        Output("list-empty", "children"),
        Output("list-empty", "hidden"),
        Output("list-count", "children"),
        Output({"type": "list-status", "status": ALL}, "hidden"),
        Output({"type": "list-status", "status": ALL}, "aria-pressed"),
        Output({"type": "list-number", "status": ALL}, "children"),
        Output({"type": "list-head", "column": ALL}, "aria-sort"),
        Output("list-page", "children"),
        Output("list-before", "disabled"),
        Output("list-after", "disabled"),
        Output("list-tick", "interval"),
        Input("list-view", "data"),
        Input("list-tick", "n_intervals"),
        State("list-seen", "data"),
    )
    def show(view: dict[str, Any] | None, _, seen: str | None):
        shown = look(lines.get(_RECENT if ctx.triggered_id == "list-view" else 0), view or {})
        kept = shown.seen == seen  # lines that are made anew lose the focus and what was selected in them
        rows = dash.no_update if kept else [_row(desk, one) for one in shown.lines]
        wait = max(_SOON if shown.is_busy else _LATER, round(10_000 * lines.seconds))
        return rows, shown.seen, *_outputs(shown), wait

    @app.callback(
        Output({"type": "list-told", "item": ALL}, "children"),
        Input("list-tick", "n_intervals"),
        State({"type": "list-told", "item": ALL}, "id"),
        prevent_initial_call=True,
    )
    def tell(_, names: list[dict[str, str]]):
        told = {one.item.id: one.told for one in lines.get(_RECENT)}
        return [told.get(name["item"], dash.no_update) for name in names]


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


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows.

    Attributes:
        lines: Those of this page.
        found: How many fit, on all pages.
        total: How many there are.
        counts: Of each status that occurs.
        choice: What was asked for.
        page: Which one, from 0.
        pages: How many.
    """

    lines: Sequence[Entry]
    found: int
    total: int
    counts: Mapping[str, int]
    choice: Choice
    page: int
    pages: int

    @property
    def is_busy(self) -> bool:
        """Whether something runs."""
        return bool(self.counts.get("running") or self.counts.get("waiting"))

    @property
    def seen(self) -> str:
        """Changes with what the lines say, but for how far something is."""
        told = [
            replace(one, told="", item=replace(one.item, info={}, areas={}, version="", held=None))
            for one in self.lines
        ]
        pictures = [one.item.version for one in self.lines if one.status not in ("running", "begun")]
        return hashlib.sha256(repr((told, pictures)).encode()).hexdigest()[:16]


def look(lines: Sequence[Entry], view: Mapping[str, Any]) -> Shown:
    """What there is to be shown of what was asked for."""
    choice = _choice(view)
    kept = chosen(lines, choice)
    pages = max(1, -(-len(kept) // _LINES))
    page = min(view.get("page", 0), pages - 1)
    return Shown(
        lines=kept[page * _LINES : (page + 1) * _LINES],
        found=len(kept),
        total=len(lines),
        counts=Counter(one.status for one in lines),
        choice=choice,
        page=page,
        pages=pages,
    )


def _outputs(shown: Shown) -> tuple:
    """What `show` says beside the lines."""
    choice, counts = shown.choice, shown.counts
    few = shown.found < shown.total
    count = f"{shown.found} of {shown.total}" if few else f"{shown.total} slides and results"
    order = "descending" if choice.descending else "ascending"
    return (
        not shown.lines,
        [] if shown.lines else _empty(few),
        bool(shown.lines),
        count,
        [not counts.get(name) and name != choice.status for name in STATUSES],
        [str(name == choice.status).lower() for name in STATUSES],
        [str(counts.get(name, 0)) for name in STATUSES],
        [order if name == choice.column else "none" for name in COLUMNS],
        f"Page {shown.page + 1} of {shown.pages}" if shown.pages > 1 else "",
        shown.page == 0,
        shown.page + 1 >= shown.pages,
    )


def _status_button(name: str) -> html.Button:
    """A button that shows only the lines of a status; seen where that occurs."""
    number = html.Span("0", id={"type": "list-number", "status": name}, className="count")
    content = [_shape(name), f" {STATUSES[name][1]} ", number]
    name = {"type": "list-status", "status": name}
    return html.Button(content, id=name, type="button", hidden=True, **{"aria-pressed": "false"})


def _shape(status: str) -> html.Span:
    return html.Span(STATUSES[status][0], className=f"shape is-{status}", **{"aria-hidden": "true"})


def _empty(hidden: bool) -> list:
    if hidden:
        return [html.P("Nothing fits. Shorten the search, or press the chosen status again.")]
    return [
        html.H2("Nothing here yet"),
        html.P("Give slides, results, or a folder with both when starting the viewer:"),
        html.Pre("digipath view slides/ results/"),
        html.P(["A slide for trying it out is made by ", html.Code("digipath demo"), "."]),
    ]


def _table() -> html.Table:
    head = [html.Th(html.Span("Picture", className="unseen"), scope="col"), *(_head(name) for name in COLUMNS)]
    titles = html.Tr([*head, html.Th("Report", scope="col")])
    caption = html.Caption("Slides and results, and what was found in them", className="unseen")
    return html.Table([caption, html.Thead(titles), html.Tbody(id="list-lines")], id="list-table", hidden=True)


def _head(name: str) -> html.Th:
    button = html.Button(COLUMNS[name], id={"type": "list-sort", "column": name}, type="button", className="sort")
    return html.Th(button, id={"type": "list-head", "column": name}, scope="col", className=f"list-{name}")


def _row(desk: Desk, one: Entry) -> html.Tr:
    item, href = one.item, f"{desk.prefix}view/{one.item.id}"
    where = item.path.parent.name if item.held is None else "in memory"
    kind = f"result of {_slide_name(item)}" if item.kind == "result" else item.kind
    name = [dcc.Link(item.name, href=href), html.Div(f"{kind}, in {where}", className="list-where")]
    told = html.Span(one.told, id={"type": "list-told", "item": item.id})
    status = [html.Span([_shape(one.status), " ", told]), *_links(desk, one), *_problem(one)]
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


def _slide_name(item: Item) -> str:
    """The file of a result's slide; what the result calls it, where that is not at hand."""
    return item.slide_path.name if item.slide_path else str(item.info.get("slide", {}).get("name") or "a slide")


def _links(desk: Desk, one: Entry) -> list[dcc.Link]:
    """From a slide to its results."""
    few = one.results[:_LINKS]
    return [dcc.Link(f"See {name}", href=f"{desk.prefix}view/{id}", className="list-result") for name, id in few]


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
