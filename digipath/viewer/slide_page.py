"""The page of one slide: the map with everything that lies over it, and the panels beside it."""

from typing import Any

import dash
import dash_leaflet as dl
from dash import Input, Output, State, dcc, html
from dash.development.base_component import Component

from digipath.errors import DigipathError
from digipath.viewer import (
    doubts_panel,
    flights,
    layers,
    layers_panel,
    lesions_panel,
    measures,
    review_map,
    review_panel,
    sections_panel,
    segment_panel,
)
from digipath.viewer.desk import Desk
from digipath.viewer.listing import MADE
from digipath.viewer.overlays import collection, outlines
from digipath.viewer.scene import Scene, facts, look, results_of
from digipath.viewer.shelf import Item

__all__ = ["layout", "register"]

_PULSE = 2000  # milliseconds between two looks at what is running
_STATES = {
    "slide": "Not segmented",
    "running": "Unfinished",
    "ok": "Segmented",
    "incomplete": "Incomplete",
    "empty": "No tissue found",
}
_DRAWN = {
    "style": {"variable": "digipath.viewer.shape"},
    "onEachFeature": {"variable": "digipath.viewer.tell"},
}


def layout(desk: Desk, item: Item, *, bounds: list | None = None) -> html.Div:
    """The page.

    Args:
        desk: The viewer.
        item: What is shown; of a broken one the page says what is wrong.
        bounds: What the map shows at first, as it tells them; None shows the whole slide.
    """
    if item.status == "broken":
        return _broken(desk, item, item.problem)
    try:
        scene = look(desk, item)
        return _page(desk, scene, bounds or scene.bounds)
    except DigipathError as error:
        return _broken(desk, item, str(error))


def _broken(desk: Desk, item: Item, problem: str) -> html.Div:
    """What is wrong; with the panel that asks for a resolution, where that is all that is missing."""
    back = dcc.Link("Back to the list", href=desk.prefix)
    said = html.Div([html.P("This cannot be shown."), html.P(problem, className="problem")], role="alert")
    parts = [html.H1(item.name), said, back]
    if item.kind == "slide" and segment_panel.lacks_mpp(item):
        panel = html.Div(segment_panel.layout(desk, item), className="panels")
        parts += [dcc.Store(id="item", data=item.id), dcc.Store(id="refresh"), dcc.Store(id="seen"), panel]
    return html.Div(parts, className="broken", id="slide")


def _page(desk: Desk, scene: Scene, bounds: list) -> html.Div:
    item = scene.item
    stores = [
        dcc.Store(id="item", data=item.id),
        dcc.Store(id="chosen"),
        dcc.Store(id="refresh"),
        dcc.Store(id="seen", data=bounds),
        dcc.Store(id="state", data=_state(scene)),
        dcc.Store(id="version", data=scene.version),
        dcc.Interval(id="pulse", interval=_PULSE, disabled=item.status != "running"),
    ]
    panels = html.Aside(_panels(desk, scene), className="panels", **{"aria-label": "Panels"})
    return html.Div(
        [*stores, _title(desk, scene), html.Div([_stage(desk, scene, bounds), panels], className="bench")], id="slide"
    )


def _state(scene: Scene) -> str:
    """What decides which panels there are; when it changes, the page is made anew."""
    return f"{scene.item.status} {bool(scene.classes)} {scene.hidden}"


def _title(desk: Desk, scene: Scene) -> html.Div:
    item = scene.item
    seen = (*MADE, "running")
    made = [one for one in results_of(desk, item) if one.status in seen] if item.kind == "slide" else []
    status = item.status if not made else "ok" if {one.status for one in made} & {*MADE} else "running"
    badge = html.Span(_STATES.get(status, status), className=f"badge {status}", role="status")
    links = [dcc.Link(f"See {one.name}", href=f"{desk.prefix}view/{one.id}", className="result") for one in made[:3]]
    line = html.P(" · ".join(facts(scene)), className="muted number")
    problem = [html.P(item.problem, className="note", role="status")] if item.problem else []
    name = html.Div([html.H1(item.name), badge, *links], className="name")
    return html.Div([name, line, *problem], className="title")


def _panels(desk: Desk, scene: Scene) -> list[Component]:
    item, parts = scene.item, []
    if item.kind == "result":
        parts = [panel.layout(desk, scene) for panel in (layers_panel, lesions_panel, doubts_panel, sections_panel)]
        if scene.finished and item.held is None:
            parts.append(review_panel.layout(desk, item))
    if item.slide_path is not None:
        parts.append(segment_panel.layout(desk, item))
    return [part for part in parts if part is not None]


def _stage(desk: Desk, scene: Scene, bounds: list) -> html.Section:
    fit = html.Button("Fit", id="fit", title="Show the whole slide (key 0)", className="fit", **{"data-key": "0"})
    inset = measures.inset(scene, f"{desk.prefix}thumbnails/{scene.item.id}?v={scene.item.version}")
    around = [_map(desk, scene, bounds), inset, fit]
    label = f"Map of {scene.item.name}. Arrow keys move it, plus and minus zoom."
    return html.Section(
        [html.Div(around, id="around", className="around"), measures.layout(scene)],
        className="stage",
        **{"aria-label": label},
    )


def _map(desk: Desk, scene: Scene, bounds: list) -> dl.Map:
    (south, west), (north, east) = bounds
    return dl.Map(
        [*_ground(desk, scene), *_over(desk, scene)],
        id="map",
        crs="Simple",
        bounds=bounds,
        center=[(south + north) / 2, (west + east) / 2],  # without it, dash-leaflet 1.1 cannot compare a first move
        minZoom=-max(0, (max(scene.width, scene.height) - 1).bit_length() - 6),
        maxZoom=layers.ENLARGED,
        zoomSnap=0.5,
        attributionControl=False,
        fadeAnimation=False,
        eventHandlers=measures.pointer_handler(),
    )


def _ground(desk: Desk, scene: Scene) -> list[Component]:
    """The slide itself; of a result without its slide, the small picture that came with it."""
    if scene.item.has_slide:
        row = layers.Row(layer="slide", label="Slide", group="Slide", shown=True, opacity=1)
        layer = layers.tile_layer(desk, scene, row, z_index=0)
        layer.id = "ground"
        return [_small(desk, scene, "beneath", -1), layer]  # seen until a tile is there, and in place of seams
    return [_small(desk, scene, "ground", 0)]


def _small(desk: Desk, scene: Scene, id: str, z_index: int) -> dl.ImageOverlay:
    """The slide's small picture, as large as the slide."""
    url = f"{desk.prefix}thumbnails/{scene.item.id}?v={scene.item.version}"
    return dl.ImageOverlay(
        id=id, url=url, bounds=scene.bounds, pane="tilePane", zIndex=z_index, className="ground", interactive=False
    )


def _over(desk: Desk, scene: Scene) -> list[Component]:
    if scene.item.kind != "result":
        return []
    rows = {row.layer: layers.style_of(row) for row in layers.rows(scene)}
    found = outlines(desk, scene)
    unseen = {"shown": False, "opacity": 1, "chosen": None}
    drawn = [
        dl.Pane(
            dl.GeoJSON(
                id=shape,
                data=collection(getattr(found, shape), scene.classes),
                hideout=rows.get(shape, unseen),
                **_DRAWN,
            ),
            name=f"digipath-{shape}",
            style={"zIndex": 401 + n},  # Leaflet's own pane of outlines has 400
        )
        for n, shape in enumerate(layers.SHAPES)
    ]
    reviewed = review_map.layers(desk, scene.item) if scene.item.held is None else []
    return [*layers.tile_layers(desk, scene), *drawn, *reviewed]


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks, and those of its parts."""
    for part in (measures, flights, lesions_panel, doubts_panel):
        part.register(app, desk)

    @app.callback(
        Output("map", "viewport", allow_duplicate=True),
        Input("fit", "n_clicks"),
        State("frame", "data"),
        prevent_initial_call=True,
    )
    def fit(clicks: int | None, frame: dict):
        if not clicks:  # the button only appeared
            raise dash.exceptions.PreventUpdate
        bounds = [[-frame["height"], 0], [0, frame["width"]]]
        return {"bounds": bounds, "transition": "flyToBounds", "options": {"duration": 0.4}}

    _register_renewal(app, desk)


def _register_renewal(app: dash.Dash, desk: Desk) -> None:
    """The page is made anew when something ended, or another part of it asks for that."""

    @app.callback(
        Output("page", "children", allow_duplicate=True),
        Output("version", "data"),
        Input("pulse", "n_intervals"),
        State("item", "data"),
        State("state", "data"),
        State("version", "data"),
        State("seen", "data"),
        prevent_initial_call=True,
    )
    def follow(beats: int | None, item: str, state: str, version: str, bounds: list):
        if not beats:
            raise dash.exceptions.PreventUpdate
        try:
            scene = look(desk, desk.shelf.get(item))
        except DigipathError:  # while a result is put in place of its beginning; it is looked at again soon
            raise dash.exceptions.PreventUpdate from None
        if _state(scene) != state:
            return layout(desk, scene.item, bounds=bounds), dash.no_update
        return dash.no_update, dash.no_update if scene.version == version else scene.version

    @app.callback(
        Output("page", "children", allow_duplicate=True),
        Input("refresh", "data"),
        State("item", "data"),
        State("seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(reason: Any, item: str, bounds: list):
        if reason is None:
            raise dash.exceptions.PreventUpdate
        return layout(desk, desk.shelf.get(item), bounds=bounds)
