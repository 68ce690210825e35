"""The Dash application: one frame, in which the list or a slide is shown."""

from pathlib import Path

import dash
from dash import Input, Output, dcc, html

from digipath.errors import DigipathError
from digipath.viewer import layers_panel, list_page, review_panel, routes, segment_panel, slide_page
from digipath.viewer.desk import Desk

__all__ = ["KEYS", "make_app"]

_PARTS = (list_page, slide_page, layers_panel, review_panel, segment_panel)

KEYS = {
    "+ −": "zoom in and out",
    "arrows": "move the map, once it has the focus",
    "0": "show the whole slide",
    "1 … 9": "show or hide a layer",
    "t": "go to the threshold; arrows then change it",
    "g": "the slide in grey, so that colours over it are those of the legend",
    "n p": "next and previous uncertain region",
    "u": "the next section or region without an answer",
    "c r x": "confirm, relabel, reject what is chosen",
    "q w e": "give what is chosen the first, second, third label",
    "z": "undo your last answer",
    "?": "this list",
    "Esc": "close it",
}
"""What the keyboard does on the page of a slide."""

_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        {%favicon%}
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>
"""


def make_app(desk: Desk) -> dash.Dash:
    """Put the pages together, with their tiles and files; `digipath.viewer.server` serves it.

    Every script and style comes from the installed packages: nothing is asked of a network.
    """
    app = dash.Dash(
        "digipath",
        title="digipath",
        update_title=None,
        url_base_pathname=desk.prefix,
        assets_folder=str(Path(__file__).with_name("assets")),
        serve_locally=True,
        suppress_callback_exceptions=True,
        index_string=_INDEX,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        on_error=_tell,
    )
    said = html.P(id="said", **{"aria-live": "assertive"})
    app.layout = html.Div([dcc.Location(id="place"), _header(app), said, html.Main(id="page"), _help()], id="frame")
    routes.add_routes(app, desk)
    for part in _PARTS:
        part.register(app, desk)

    @app.callback(Output("page", "children"), Output("said", "children"), Input("place", "pathname"))
    def show(path: str):
        return _page(desk, app.strip_relative_path(path) or ""), ""

    return app


def _tell(error: Exception) -> None:
    """Say on the page what a user can mend, such as a result that was moved meanwhile; else it is a fault of ours."""
    if not isinstance(error, DigipathError):
        raise error
    dash.set_props("said", {"children": str(error)})


def _header(app: dash.Dash) -> html.Header:
    home = dcc.Link("digipath", href=app.get_relative_path("/"), className="home", title="All slides and results")
    note = html.Span("For research; not a medical device.", className="muted")
    keys = html.Button("Keys", title="Keyboard shortcuts (?)", **{"data-opens": "help", "data-key": "?"})
    theme = html.Button("Light / dark", id="theme", **{"data-theme-switch": "true"})
    return html.Header([home, note, html.Span(className="grow"), keys, theme])


def _help() -> html.Dialog:
    lines = [html.Div([html.Dt([html.Kbd(key)]), html.Dd(meaning)]) for key, meaning in KEYS.items()]
    close = html.Form(html.Button("Close", className="main"), method="dialog")
    return html.Dialog(
        [html.H2("Keys", id="help-title"), html.Dl(lines), close], id="help", **{"aria-labelledby": "help-title"}
    )


def _page(desk: Desk, path: str):
    """The list, one slide, or why there is neither."""
    kind, _, name = path.partition("/")
    if not path:
        return list_page.layout(desk)
    if kind != "view":
        return html.P(f"There is no page {path!r}.", role="alert", className="broken")
    try:
        return slide_page.layout(desk, desk.shelf.get(name))
    except DigipathError as error:
        return html.P(str(error), role="alert", className="broken")
