"""The panel from which a slide is segmented: by which network, how thoroughly; how far it is; and stop.

On the page of a slide that is started there, the page of its growing result takes its place as soon as there is
something to be seen, at the same place of the slide; and that of the finished result at the end.
"""

from collections.abc import Sequence
from typing import Any

import dash
from dash import Input, Output, State, dcc, html

from digipath.errors import DigipathError, ResolutionError, SlideError, SpecError
from digipath.inference.unfinished import finished
from digipath.prepared import JOURNAL
from digipath.runs.lock import holder_of
from digipath.slides.slide import open_slide
from digipath.viewer.desk import Desk
from digipath.viewer.jobs import Job, Order
from digipath.viewer.offers import EFFORT_LINES, Offer, begun_with, offers
from digipath.viewer.scene import results_of
from digipath.viewer.shelf import Item

__all__ = ["lacks_mpp", "layout", "register"]

_SOON, _LATER = 1000, 10000  # milliseconds until it is looked at again, while something runs and else
_WARNING = (
    "For research; not a medical device. The built-in networks know lesions of the colon in H&E-stained sections "
    "alone; elsewhere their answers mean nothing."
)


def layout(desk: Desk, item: Item) -> html.Details | html.Div:
    """The panel of a slide or a result; hidden where nothing is segmented from the viewer."""
    if desk.jobs is None or item.held is not None:
        return html.Div(id="segment", hidden=True)
    is_begun, items = item.status == "running", desk.shelf.items()
    is_open = is_begun or item.kind == "slide" or desk.jobs.of(item) is not None
    parts = [
        html.Summary("Segment"),
        _progress(),
        html.P(id="segment-told", className="segment-told"),
        html.P(id="segment-said", className="unseen", role="status", **{"aria-live": "polite"}),
        *_results(desk, item),
        _form(item, offers(desk.shelf, items)),
        html.P(_WARNING, className="segment-warning muted"),
        dcc.Store(id="segment-started"),
        dcc.Store(id="segment-stopped"),
        dcc.Interval(id="segment-tick", interval=_SOON),
        dcc.Location(id="segment-go", refresh=item.status == "broken"),  # from a page without a map to a whole new one
    ]
    return html.Details(parts, open=is_open, id="segment", className="begun" if is_begun else "")


def _form(item: Item, found: Sequence[Offer]) -> html.Div:
    problem = html.P(id="segment-problem", role="alert")
    if item.status != "running":
        start = html.Button("Start", id="segment-start", type="button", className="main")
        return html.Div([*_choices(item, found, Order()), problem, start], id="segment-form")
    begun = begun_with(item)
    unsure = ", with uncertainty" if begun.uncertainty else ""
    how = html.P(f"Begun with {begun.bundle or 'another network'}, {begun.effort}{unsure}.", className="muted")
    other = html.Details([html.Summary("In another way"), *_choices(item, found, begun)], className="segment-other")
    start = html.Button("Go on", id="segment-start", type="button", className="main")
    return html.Div([how, problem, start, other], id="segment-form")


def _choices(item: Item, found: Sequence[Offer], order: Order) -> list[html.Fieldset | html.Div]:
    """The fields of the form, as an order fills them in."""
    values = [one.value for one in found]
    bundles = [
        {"value": one.value, "label": _label(one.name, _line(one)), "disabled": bool(one.problem)} for one in found
    ]
    efforts = [{"value": name, "label": _label(name, line)} for name, line in EFFORT_LINES.items()]
    unsure = [
        {"value": "yes", "label": _label("uncertainty", "also say where it is unsure: eight views of every patch")}
    ]
    chosen = order.bundle if order.bundle in values else values[0]
    mpp = dcc.Input(id="segment-mpp", type="number", min=0, step="any", placeholder="such as 0.25")
    name = html.Label("Micrometres per pixel at full resolution", htmlFor="segment-mpp")
    return [
        _choice("Network", dcc.RadioItems(bundles, chosen, id="segment-bundle", className="segment-brief")),
        _choice("Effort", dcc.RadioItems(efforts, order.effort, id="segment-effort")),
        _choice("And", dcc.Checklist(unsure, ["yes"] if order.uncertainty else [], id="segment-unsure")),
        html.Div([name, mpp], id="segment-mpp-field", hidden=not lacks_mpp(item)),
    ]


def _results(desk: Desk, item: Item) -> list[html.P]:
    """Links to the other results of this slide."""
    found = results_of(desk, item)
    if not found:
        return []
    links = [html.Li(dcc.Link(one.name, href=_page(desk, one))) for one in found]
    return [
        html.P("Results of this slide:" if item.kind == "slide" else "Other results of this slide:"),
        html.Ul(links),
    ]


def _choice(title: str, choices: dcc.RadioItems | dcc.Checklist) -> html.Fieldset:
    return html.Fieldset([html.Legend(title), choices])


def _label(name: str, line: str) -> html.Span:
    return html.Span([html.B(name), html.Span(line, className="segment-line muted")])


def _line(one: Offer) -> str:
    return f"cannot be used: {one.problem}" if one.problem else one.purpose


def _progress() -> html.Div:
    bar = html.Progress(id="segment-bar", max="1", **{"aria-label": "Patches predicted"})
    stop = html.Button("Cancel", id="segment-cancel", type="button")
    return html.Div([bar, stop], id="segment-progress", hidden=True)


def register(app: dash.Dash, desk: Desk) -> None:
    """The callbacks of the panel, once for the whole application."""
    if desk.jobs is None:
        return

    @app.callback(
        Output("segment-started", "data"),
        Output("segment-problem", "children"),
        Input("segment-start", "n_clicks"),
        State("item", "data"),
        State("segment-bundle", "value"),
        State("segment-effort", "value"),
        State("segment-unsure", "value"),
        State("segment-mpp", "value"),
        prevent_initial_call=True,
    )
    def start(clicks: int | None, name: str, *asked: Any):
        if not clicks:
            raise dash.exceptions.PreventUpdate
        try:
            item = desk.shelf.get(name)
            return desk.jobs.start(item, _order(desk, item, *asked)).id, ""
        except DigipathError as error:
            return dash.no_update, str(error)

    @app.callback(
        Output("segment-stopped", "data"),
        Input("segment-cancel", "n_clicks"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def cancel(clicks: int | None, name: str):
        if clicks and (job := desk.jobs.of(desk.shelf.get(name))) is not None:
            desk.jobs.cancel(job.id)
        return clicks

    _register_progress(app, desk)


def _register_progress(app: dash.Dash, desk: Desk) -> None:
    @app.callback(
        Output("segment-form", "hidden"),
        Output("segment-mpp-field", "hidden"),
        Output("segment-progress", "hidden"),
        Output("segment-bar", "value"),
        Output("segment-cancel", "disabled"),
        Output("segment-told", "children"),
        Output("segment-said", "children"),
        Output("segment-tick", "interval"),
        Input("segment-tick", "n_intervals"),
        Input("segment-started", "data"),
        Input("segment-stopped", "data"),
        State("item", "data"),
    )
    def show(_ticks, _started, _cancelled, name: str):
        return _shown(desk, desk.shelf.get(name))

    @app.callback(
        Output("item", "data", allow_duplicate=True),
        Output("refresh", "data", allow_duplicate=True),
        Output("segment-go", "pathname"),
        Input("segment-told", "children"),
        State("segment-started", "data"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def go(_told, started: str | None, name: str):
        item = _elsewhere(desk, started, desk.shelf.get(name))
        if item is None:
            raise dash.exceptions.PreventUpdate
        return item.id, item.version, _page(desk, item)


def _order(desk: Desk, item: Item, bundle: str, effort: str, unsure: list[str] | None, mpp: float | None) -> Order:
    """What the form asks for; what it does not offer is refused."""
    usable = {one.value for one in offers(desk.shelf, desk.shelf.items()) if not one.problem}
    if bundle not in usable or effort not in EFFORT_LINES:
        raise SpecError(f"a network is one of those that the page offers, got {bundle!r}, {effort!r}. Reload the page.")
    return Order(bundle=bundle, effort=effort, uncertainty=bool(unsure), mpp=mpp or _known_mpp(item))


def _known_mpp(item: Item) -> float | None:
    """What was told of the slide before, in place of what its file says."""
    given = item.kind == "slide" or item.info.get("slide", {}).get("mpp_source") == "user"
    return item.mpp if given else None


def lacks_mpp(item: Item) -> bool:
    """Whether a slide is broken in so far as its file does not say its resolution."""
    if item.kind != "slide" or item.status != "broken":
        return False
    try:
        open_slide(item.path).close()
    except ResolutionError:
        return True
    except (SlideError, OSError):
        return False
    return False


def _shown(desk: Desk, item: Item) -> tuple:
    """The outputs of `show`."""
    job = desk.jobs.of(item)
    holder = holder_of(item.path) if item.status == "running" and (job is None or not job.is_open) else None
    if holder is not None:
        far = _share(holder.done, holder.total)
        told = "Another process segments this slide."
        return True, True, False, far, True, told if desk.blind else f"Another {holder}.", told, _SOON
    if job is None:
        return False, not lacks_mpp(item), True, None, True, "", "", _LATER
    told, said = _told(desk, item, job)
    ending = job.state == "finished" and item.status == "running"  # the page of the result is about to come
    hidden = job.is_open or ending, not (job.asks_mpp or lacks_mpp(item)), not job.is_open
    return *hidden, _share(job.done, job.total), job.stopping, told, said, _SOON if job.is_open else _LATER


def _share(done: int, total: int) -> str | None:
    """For a bar; None while nothing is known."""
    return str(round(done / total, 4)) if total else None


def _told(desk: Desk, item: Item, job: Job) -> tuple[list, str]:
    """(what is seen of a job, what is read out: less often)."""
    if job.state == "waiting":
        told = f"Waits for {desk.jobs.before(job)} before it."
        return [told], told
    if job.is_open:
        known = job.total and not desk.blind  # how many patches a second stage looks at is the first one's answer
        stage = f"{job.done:,} of {job.total:,} patches" if known else "Segmenting." if job.total else ""
        left = f"about {_duration(job.left)} left" if known and job.left is not None and job.done < job.total else ""
        stopping = "Stopping with this batch." if job.stopping else ""
        seen = ", ".join(part for part in (stage, left) if part)
        tenths = 10 * (10 * job.done // job.total) if job.total else 0
        said = f"Segmenting, {tenths} %." if job.total else "Segmentation begun."
        return [" ".join(part for part in (seen, stopping or job.message) if part)], said
    if job.state == "finished" and desk.blind:  # how much it found is the model's answer
        return ["Finished.", *_link(desk, item, job)], "Finished."
    told = {"finished": "Finished: ", "failed": "It failed: ", "cancelled": ""}[job.state] + job.message
    return [told, *_link(desk, item, job)], told


def _link(desk: Desk, item: Item, job: Job) -> list:
    """To the result, from another page."""
    result = _item_of(desk, job) if job.state == "finished" and item.path != job.folder else None
    return [] if result is None else [" ", dcc.Link("See the result", href=_page(desk, result))]


def _elsewhere(desk: Desk, started: str | None, item: Item) -> Item | None:
    """What should be seen now in place of an item: the growing or finished result of what was started on its page."""
    job = desk.jobs.of(item)
    if job is None or job.id != started or job.folder in (None, item.path):
        return None
    is_seen = job.state == "finished" or (job.is_open and finished(job.folder / JOURNAL) is not None)
    return _item_of(desk, job) if is_seen else None


def _item_of(desk: Desk, job: Job) -> Item | None:
    """The result of a job, if there is something of it."""
    return next((one for one in desk.shelf.items() if one.path == job.folder), None)


def _page(desk: Desk, item: Item) -> str:
    return f"{desk.prefix}view/{item.id}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
