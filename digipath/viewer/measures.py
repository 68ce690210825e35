"""How large things are and where: a scale bar, the place under the pointer, and the slide in small."""

import math

import dash
import dash_leaflet as dl
from dash import Input, Output, State, dcc, html

from digipath.viewer.desk import Desk
from digipath.viewer.scene import Scene

__all__ = ["area", "inset", "layout", "length", "register", "scale_bar"]

_LONGEST = 140  # screen pixels of the scale bar
_INSET = 168  # screen pixels of the longer side of the small picture
_HANDLER = {"variable": "digipath.viewer.point"}


def scale_bar(mpp: float, zoom: float, *, longest: float = _LONGEST) -> tuple[float, float]:
    """The roundest length that fits.

    Args:
        mpp: Micrometres per level-0 pixel.
        zoom: Of the map: at 0 a level-0 pixel is one of the screen, at 1 it is two.
        longest: In pixels of the screen.

    Returns:
        Micrometres, 1, 2 or 5 times a power of ten, and their pixels on the screen.

    Example:
        >>> scale_bar(0.5, 0)
        (50.0, 100.0)
    """
    per_pixel = mpp / 2**zoom
    power = 10.0 ** math.floor(math.log10(longest * per_pixel))
    um = max(step * power for step in (1, 2, 5) if step * power <= longest * per_pixel)
    return um, um / per_pixel


def length(um: float) -> str:
    """A length as a person says it."""
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def area(mm2: float) -> str:
    """An area with its unit: of what is small in µm², as 0.0000 mm² says nothing.

    Example:
        >>> area(0.27654), area(0.00031)
        ('0.277 mm²', '310 µm²')
    """
    if mm2 >= 0.01 or mm2 == 0:
        return f"{mm2:,.3f} mm²"
    return f"{mm2 * 1e6:,.0f} µm²"


def layout(scene: Scene) -> html.Div:
    """The line below the map; the page's script writes into the second part (see `assets/viewer.js`)."""
    bar = html.Div([html.Div(id="measures-bar", className="bar"), html.Span(id="measures-scale")], className="scale")
    pointer = {"data-mpp": repr(scene.mpp)}
    return html.Div(
        [
            bar,
            html.Span("", id="measures-pointer", className="muted number", **pointer),
            dcc.Store(id="frame", data={"width": scene.width, "height": scene.height, "mpp": scene.mpp}),
        ],
        className="measures",
    )


def inset(scene: Scene, picture: str) -> html.Div:
    """The whole slide in small with a frame around what the map shows; a click goes there.

    The keyboard has the map's own keys, so that this is nothing to step through with it.

    Args:
        scene: The slide.
        picture: URL of its thumbnail.
    """
    scale = _INSET / max(scene.width, scene.height)
    size = {"width": f"{max(24, scene.width * scale):.0f}px", "height": f"{max(24, scene.height * scale):.0f}px"}
    still = dict.fromkeys(("zoomControl", "dragging", "keyboard", "scrollWheelZoom", "doubleClickZoom"), False)
    still |= dict.fromkeys(("boxZoom", "touchZoom", "attributionControl"), False)
    small = dl.Map(
        [
            dl.ImageOverlay(url=picture, bounds=scene.bounds, interactive=False),
            dl.Rectangle(id="inset-view", bounds=scene.bounds, interactive=False, className="inset-view"),
        ],
        id="inset",
        crs="Simple",
        center=scene.centre,
        bounds=scene.bounds,
        minZoom=-24,
        zoomSnap=0,
        trackViewport=False,
        style=size,
        **still,
    )
    return html.Div(small, className="inset", title="Click to go there", **{"aria-hidden": "true"})


def pointer_handler() -> dict[str, dict[str, str]]:
    """What the map does with movements of the pointer."""
    return {"mousemove": _HANDLER, "mouseout": _HANDLER}


def register(app: dash.Dash, desk: Desk) -> None:  # noqa: ARG001
    """Its callbacks."""

    @app.callback(
        Output("measures-bar", "style"),
        Output("measures-scale", "children"),
        Input("map", "zoom"),
        State("frame", "data"),
    )
    def scale(zoom: float | None, frame: dict | None):
        if zoom is None or not frame:
            raise dash.exceptions.PreventUpdate
        um, pixels = scale_bar(frame["mpp"], zoom)
        return {"width": f"{pixels:.1f}px"}, length(um)

    @app.callback(
        Output("inset-view", "bounds"), Output("seen", "data"), Input("map", "bounds"), State("frame", "data")
    )
    def visible(bounds: list | None, frame: dict | None):
        if not bounds or not frame:
            raise dash.exceptions.PreventUpdate
        (south, west), (north, east) = bounds
        down, right = -frame["height"], frame["width"]
        return [[max(south, down), max(west, 0)], [min(north, 0), min(east, right)]], bounds

    @app.callback(
        Output("map", "viewport", allow_duplicate=True), Input("inset", "clickData"), prevent_initial_call=True
    )
    def go(click: dict | None):
        if not click:
            raise dash.exceptions.PreventUpdate
        return {"center": [click["latlng"]["lat"], click["latlng"]["lng"]], "transition": "panTo"}
