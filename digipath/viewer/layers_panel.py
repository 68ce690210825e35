"""What lies over the slide: which layers are seen, how strongly, and from which probability on something is a lesion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dash
import dash_leaflet as dl
import numpy as np
from dash import ALL, Input, Output, State, dcc, html

from digipath.viewer import areas, colours, tiles
from digipath.viewer.desk import Desk
from digipath.viewer.scene import Scene, look

__all__ = ["SHAPES", "Row", "layout", "register", "rows", "style_of", "tile_layer", "tile_layers"]

SHAPES = ("regions", "sections", "doubts", "outlines")
"""Layers of outlines; the ids of their GeoJSON on the map."""

_NOTHING = "data:image/gif;base64,R0lGODlhAQABAAD/ACwAAAAAAQABAAACADs="  # one clear pixel: nothing is asked for
_TILE = 256


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer that can be shown.

    Attributes:
        layer: Its name: of tiles as in their URLs, else one of `SHAPES`.
        label: What a person calls it.
        group: Heading under which it stands.
        shown: Whether it is seen at first.
        opacity: At first, 0 to 1.
    """

    layer: str
    label: str
    group: str
    shown: bool = False
    opacity: float = 0.7


def rows(scene: Scene) -> list[Row]:
    """All layers of a scene, in the order of the panel and of the keys 1 to 9."""
    return [*_heat(scene), *_outlined(scene), *_doubtful(scene), *_seen(scene)]


def _heat(scene: Scene) -> Iterator[Row]:
    last = len(scene.classes) - 1
    numbered = [(k, name) for k, name in enumerate(scene.classes) if k or last == 0]  # the first is what is no lesion
    for k, name in reversed(numbered):
        yield Row(layer=f"probability-{k}", label=name, group="Probability", shown=k == last, opacity=0.5)
    for k, name in reversed(numbered):
        yield Row(layer=f"mask-{k}", label=name, group="Above the threshold", shown=False, opacity=0.6)


def _outlined(scene: Scene) -> Iterator[Row]:
    if scene.answered and scene.item.status != "running":
        yield Row(layer="regions", label="Regions", group="Outlines", shown=True, opacity=1)
        if _analysis(scene).get("sections"):
            yield Row(layer="sections", label="Sections", group="Outlines", opacity=1)
        if {"burden", "tils"} & _analysis(scene).keys():
            yield Row(layer="outlines", label="Whole tumour", group="Outlines", opacity=1)
        if scene.kinds:
            yield Row(layer="doubts", label="Uncertain regions", group="Outlines", opacity=1)


def _doubtful(scene: Scene) -> Iterator[Row]:
    if scene.kinds:
        meant = {"aleatoric": "Over augmentations", "epistemic": "Over networks", "total": "Both together"}
        kinds = [*(("total",) if len(scene.kinds) > 1 else ()), *scene.kinds]
        for kind in kinds:
            yield Row(layer=kind, label=f"{meant[kind]} ({kind})", group="Standard deviation", opacity=0.7)


def _seen(scene: Scene) -> Iterator[Row]:
    if scene.item.kind == "result":
        yield Row(layer="tissue", label="Tissue", group="Slide", opacity=0.4)
        lost = bool(scene.areas.get("uncovered_mm2"))
        yield Row(layer="uncovered", label="Tissue not covered", group="Slide", shown=lost, opacity=0.7)


def _analysis(scene: Scene) -> dict:
    return scene.item.info.get("analysis") or {}


def tile_layer(desk: Desk, scene: Scene, row: Row, *, z_index: int) -> dl.TileLayer:
    """The tiles of one layer; of one that is not shown nothing is asked of the server.

    Zoom 0 of the map is level 0. Tiles of all zooms count from the slide's corner, (0, 0) on the map.
    """
    levels = tiles.Tiling(scene.width, scene.height).levels
    return dl.TileLayer(
        id={"type": "layers-tiles", "layer": row.layer},
        url=_url(desk, scene, row.layer, scene.threshold) if row.shown else _NOTHING,
        opacity=row.opacity,
        zIndex=z_index,
        bounds=scene.bounds,
        noWrap=True,
        tileSize=_TILE,
        zoomOffset=levels,
        minZoom=-levels,
        minNativeZoom=-levels,
        maxNativeZoom=0,
        maxZoom=3,
    )


def tile_layers(desk: Desk, scene: Scene) -> list[dl.TileLayer]:
    """Those of all layers that are not outlines, those of the panel's end below."""
    flat = [row for row in rows(scene) if row.layer not in SHAPES]
    return [tile_layer(desk, scene, row, z_index=len(flat) - n + 1) for n, row in enumerate(flat)]


def _url(desk: Desk, scene: Scene, layer: str, threshold: float) -> str:
    chosen = threshold if layer.startswith("mask-") else None
    return tiles.tile_url(scene.item, layer, prefix=desk.prefix, version=scene.version, threshold=chosen)


def style_of(row: Row, *, chosen: str | None = None) -> dict:
    """What the outlines of a layer are drawn by (`assets/viewer.js`): seen or not, how strongly, and the chosen one."""
    return {"shown": row.shown, "opacity": row.opacity, "chosen": chosen}


def layout(desk: Desk, scene: Scene) -> html.Details:  # noqa: ARG001
    """The panel."""
    parts, number = [], 0
    every = rows(scene)
    for group in dict.fromkeys(row.group for row in every):
        inside = [row for row in every if row.group == group]
        lines = [_line(row, number + n) for n, row in enumerate(inside, 1)]
        number += len(inside)
        extra = [_threshold(scene)] if group == "Above the threshold" else []
        parts.append(html.Section([html.H3(group), *extra, *lines, *_legend(inside)], className="group"))
    if not scene.answered:  # there is nothing to be above it, but callbacks look for it
        parts.append(html.Div(_slider(scene), hidden=True))
        if scene.hidden:
            parts.insert(0, html.P("What the model says is withheld until you have answered.", className="note"))
    return html.Details([html.Summary("Layers"), *parts], open=True, id="layers")


def _line(row: Row, number: int) -> html.Div:
    key = {"data-key": str(number)} if number <= 9 else {}
    check = html.Button(
        row.label,
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
    return html.Div([check, html.Label([name, slider], className="opacity", title="Opacity")], className="layer")


def _threshold(scene: Scene) -> html.Div:
    own = html.Button(f"Back to {scene.threshold:g}", id="layers-own", className="quiet", title="The result's own")
    label = html.Label("Threshold", htmlFor="layers-threshold", className="grow")
    value = html.Output(f"{scene.threshold:g}", id="layers-value", htmlFor="layers-threshold", className="number")
    above = html.Div(id="layers-areas", className="told", role="status", **{"aria-live": "polite"})
    return html.Div([html.Div([label, value, own], className="line"), _slider(scene), above], className="threshold")


def _slider(scene: Scene) -> dcc.Input:
    """A slider of the browser's own: a label, keys and touch come with it."""
    step = 0.01 if round(scene.threshold, 2) == scene.threshold else 0.001
    return dcc.Input(id="layers-threshold", type="range", min=0, max=1, step=step, value=scene.threshold)


def _legend(inside: Sequence[Row]) -> Iterator[html.Div]:
    """The colours of a group, where they stand for values."""
    layer = inside[0].layer
    if layer.startswith("probability-") or layer in ("aleatoric", "epistemic", "total"):
        stops, label, unit = colours.legend(layer)
        low, high = stops[0][0], stops[-1][0]
        ramp = ", ".join(f"{colour} {(value - low) / (high - low):.1%}" for value, colour in stops)
        ticks = [html.Span(f"{low + (high - low) * part:g}") for part in (0, 0.5, 1)]
        strip = html.Div(className="ramp", style={"background": f"linear-gradient(to right, {ramp})"})
        told = {"role": "img", "aria-label": f"{label} {unit}, from {low:g} to {high:g}".strip()}
        yield html.Div([strip, html.Div(ticks, className="ticks number")], className="legend", **told)


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""

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
        now = [
            Row(
                layer=row.layer,
                label=row.label,
                group=row.group,
                shown=row.shown ^ bool((n or 0) % 2),
                opacity=_part(o),
            )
            for row, n, o in zip(rows(scene), clicks, opacities, strict=True)
        ]
        flat = [row for row in now if row.layer not in SHAPES]
        urls = [_url(desk, scene, row.layer, float(threshold)) if row.shown else _NOTHING for row in flat]
        styles = {row.layer: style_of(row, chosen=chosen) for row in now}
        kept = [styles.get(shape, old) for shape, old in zip(SHAPES, before, strict=True)]
        drawn = [dash.no_update if new == old else new for new, old in zip(kept, before, strict=True)]
        return urls, [row.opacity for row in flat], [str(row.shown).lower() for row in now], *drawn

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
    def own(_, item: str):
        return look(desk, desk.shelf.get(item)).threshold


def _part(percent: str | float | None) -> float:
    return float(np.clip(float(percent or 0) / 100, 0, 1))


def told(desk: Desk, scene: Scene, threshold: float) -> list[html.Div]:
    """How much of each class is above a threshold, and which share that is of what was looked at."""
    lines = []
    for row in _heat(scene):
        if row.layer.startswith("mask-"):
            found = _counted(desk, scene, int(row.layer.removeprefix("mask-")))
            area = html.Span(f"{found.mm2(threshold):,.4f} mm²", className="number")
            share = html.Span(f"{found.share(threshold):.1%} of {found.covered_mm2:,.4f} mm² tissue", className="muted")
            lines.append(html.Div([html.Span(row.label), area, share]))
    return lines


def _counted(desk: Desk, scene: Scene, k: int) -> areas.AboveThreshold:
    def make() -> areas.AboveThreshold:
        with desk.opened.view(scene.item) as view:
            return areas.count(view.probability(view.classes[k]), view.covered)

    return desk.memory.get(("areas", scene.item.id, scene.version, k), make)
