"""The panel of layers: which are seen, how strongly, and from which probability on something is a lesion."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import dash
import numpy as np
from dash import ALL, Input, Output, State, dcc, html

from digipath.viewer import areas, colours, overlays
from digipath.viewer.desk import Desk
from digipath.viewer.layers import SHAPES, Row, rows, sought, style_of, url_of
from digipath.viewer.scene import Scene, look

__all__ = ["layout", "register", "told"]

_MEASURED = ("probability", "aleatoric", "epistemic", "total")  # what has a colour map


def layout(_: Desk, scene: Scene) -> html.Details:
    """The panel."""
    parts, number = [], 0
    every = rows(scene)
    for group in dict.fromkeys(row.group for row in every):
        inside = [row for row in every if row.group == group]
        lines = [part for n, row in enumerate(inside, 1) for part in _line(scene, row, number + n)]
        number += len(inside)
        extra = [_threshold(scene)] if group == "Above the threshold" else []
        parts.append(html.Section([html.H3(group), *extra, *lines, *_legend(inside)], className="group"))
    if not scene.answered:  # there is nothing to be above it, but callbacks look for it
        parts.append(html.Div(_threshold(scene), hidden=True))
        if scene.hidden:
            parts.insert(0, html.P("What the model says is withheld until you have answered.", className="note"))
    return html.Details([html.Summary("Layers"), *parts, _grey()], open=True, id="layers")


def _grey() -> html.Section:
    """Colours over colours are no longer those of the legend; over greys they are."""
    key = {"aria-checked": "false", "data-key": "g"}
    return html.Section(
        html.Button("Slide in grey", id="layers-grey", className="check", role="checkbox", title="Key g", **key)
    )


def _line(scene: Scene, row: Row, number: int) -> list[html.Div]:
    key = {"data-key": str(number)} if number <= 9 else {}
    stand = overlays.key(row.layer, scene.classes) if row.layer in SHAPES and not scene.hidden else {}
    colour = row.colour or stand.get("")
    check = html.Button(
        [row.label, *([_swatch(colour)] if colour else [])],
        id={"type": "layers-on", "layer": row.layer},
        className="check",
        role="checkbox",
        title=f"Key {number}" if number <= 9 else None,
        **{"aria-checked": str(row.shown).lower(), **key},
    )
    slider = dcc.Input(
        id={"type": "layers-opacity", "layer": row.layer}, type="range", min=0, max=100, step=5, value=row.opacity * 100
    )
    name = html.Span(f"Opacity of {row.label}, {row.group.lower()}", className="unseen")
    line = html.Div([check, html.Label([name, slider], className="opacity", title="Opacity")], className="layer")
    told = [html.Span([_swatch(css), what]) for what, css in stand.items() if what]
    return [line, html.Div(told, className="key")] if told else [line]


def _swatch(colour: str) -> html.Span:
    return html.Span(className="swatch", style={"background": colour})


def _threshold(scene: Scene) -> html.Div:
    own = html.Button(f"Back to {scene.threshold:g}", id="layers-own", className="quiet", title="The result's own")
    label = html.Label("Threshold", htmlFor="layers-threshold", className="grow", **{"data-key": "t"})
    value = html.Strong(f"{scene.threshold:g}", id="layers-value", className="number")
    above = html.Div(id="layers-areas", className="told", role="status", **{"aria-live": "polite"})
    return html.Div([html.Div([label, value, own], className="line"), _slider(scene), above], className="threshold")


def _slider(scene: Scene) -> dcc.Input:
    """A slider of the browser's own: a label, keys and touch come with it."""
    step = 0.01 if round(scene.threshold, 2) == scene.threshold else 0.001
    return dcc.Input(id="layers-threshold", type="range", min=0, max=1, step=step, value=scene.threshold)


def _legend(inside: Sequence[Row]) -> Iterator[html.Div]:
    """The colours of a group, where they stand for values."""
    layer = inside[0].layer
    if layer.partition("-")[0] in _MEASURED:
        stops, *_ = colours.legend(layer)
        low, high = stops[0][0], stops[-1][0]
        ramp = ", ".join(f"{colour} {(value - low) / (high - low):.1%}" for value, colour in stops)
        ticks = [html.Span(f"{low + (high - low) * part:g}") for part in (0, 0.5, 1)]
        strip = html.Div(className="ramp", style={"backgroundImage": f"linear-gradient(to right, {ramp})"})
        told = {"role": "img", "aria-label": f"Colours of {inside[0].group.lower()}, from {low:g} to {high:g}"}
        yield html.Div([strip, html.Div(ticks, className="ticks number")], className="legend", **told)


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""
    _register_threshold(app, desk)

    @app.callback(
        Output("around", "className"),
        Output("layers-grey", "aria-checked"),
        Input("layers-grey", "n_clicks"),
        prevent_initial_call=True,
    )
    def grey(clicks: int | None):
        on = bool((clicks or 0) % 2)
        return "around grey" if on else "around", str(on).lower()

    @app.callback(
        Output({"type": "layers-tiles", "layer": ALL}, "url"),
        Output({"type": "layers-tiles", "layer": ALL}, "opacity"),
        Output({"type": "layers-on", "layer": ALL}, "aria-checked"),
        *(Output(shape, "hideout") for shape in SHAPES),
        Input({"type": "layers-on", "layer": ALL}, "n_clicks"),
        Input({"type": "layers-opacity", "layer": ALL}, "value"),
        Input("layers-threshold", "value"),
        Input("version", "data"),
        Input("chosen", "data"),
        State("item", "data"),
        *(State(shape, "hideout") for shape in SHAPES),
        prevent_initial_call=True,
    )
    def show(clicks: list, opacities: list, threshold: str, _version, chosen: str | None, item: str, *before: dict):
        scene = look(desk, desk.shelf.get(item))
        now = _as_set(rows(scene), clicks, opacities)
        flat = [row for row in now if row.layer not in SHAPES]
        urls = [url_of(desk, scene, row, threshold=float(threshold)) for row in flat]
        styles = {row.layer: style_of(row, chosen=chosen) for row in now}
        wanted = [styles.get(shape, old) for shape, old in zip(SHAPES, before, strict=True)]
        drawn = [dash.no_update if new == old else new for new, old in zip(wanted, before, strict=True)]
        return urls, [row.opacity for row in flat], [str(row.shown).lower() for row in now], *drawn


def _register_threshold(app: dash.Dash, desk: Desk) -> None:
    @app.callback(
        Output("layers-areas", "children"),
        Output("layers-value", "children"),
        Input("layers-threshold", "value"),
        Input("version", "data"),
        State("item", "data"),
    )
    def tell(threshold: str, _version, item: str):
        return told(desk, look(desk, desk.shelf.get(item)), float(threshold)), f"{float(threshold):.3g}"

    @app.callback(
        Output("layers-threshold", "value"),
        Input("layers-own", "n_clicks"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def own(clicks: int | None, item: str):
        if not clicks:
            raise dash.exceptions.PreventUpdate
        return look(desk, desk.shelf.get(item)).threshold


def _as_set(every: Sequence[Row], clicks: Sequence[int | None], opacities: Sequence[str | float | None]) -> list[Row]:
    """The layers as the panel has them now: each click on a box turns it."""
    if len(every) != len(clicks):  # the result has ended meanwhile; the page is about to be made anew
        raise dash.exceptions.PreventUpdate
    return [
        replace(row, shown=row.shown ^ bool((n or 0) % 2), opacity=_part(percent))
        for row, n, percent in zip(every, clicks, opacities, strict=True)
    ]


def _part(percent: str | float | None) -> float:
    return float(np.clip(float(percent or 0) / 100, 0, 1))


def told(desk: Desk, scene: Scene, threshold: float) -> list[html.Div]:
    """How much of each class is above a threshold, and which share that is of what was looked at."""
    lines = []
    for k in sought(scene):
        found = _counted(desk, scene, k)
        area = html.Span(f"{found.mm2(threshold):,.4f} mm²", className="number")
        share = html.Span(_share(found, threshold), className="muted")
        lines.append(html.Div([html.Span(scene.classes[k]), area, share]))
    return lines


def _share(found: areas.AboveThreshold, threshold: float) -> str:
    if not found.covered_mm2:
        return "no tissue was looked at"
    return f"{found.share(threshold):.1%} of {found.covered_mm2:,.4f} mm² tissue"


def _counted(desk: Desk, scene: Scene, k: int) -> areas.AboveThreshold:
    def make() -> areas.AboveThreshold:
        with desk.opened.view(scene.item) as view:
            return areas.count(view.probability(view.classes[k]), view.covered)

    return desk.memory.get(("areas", scene.item.id, scene.version, k), make)
