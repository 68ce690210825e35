"""Reviews on the map: what was answered, and the reviewer's own outlines, which are drawn, edited and deleted there.

dash-leaflet 1.1's `EditControl` tells in one property, `geojson`, everything that is in its group: each outline with
the number that Leaflet gave it in this browser. What it does with layers that it did not draw itself (read in its
source): it lists them once, when it is mounted; it can only do so once Leaflet.draw is loaded, which the first control
of a page brings; and what was drawn stays in its group whatever React shows. So

- a page begins with a control that is alone, and when that is there, a new group with the saved outlines takes its
  place, and again after every change: what is seen is what is saved;
- a control's first message says which number is which outline, by their vertices; later ones are compared with that.

Nothing is deleted because something is missing in a first message, and a message that is heard twice acts once.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import dash
import dash_leaflet as dl
import numpy as np
import shapely
from dash import ALL, Input, Output, State, ctx
from dash.development.base_component import Component

from digipath.errors import DigipathError
from digipath.review.export import holds
from digipath.review.review import Review
from digipath.viewer import review_told
from digipath.viewer.desk import Desk
from digipath.viewer.shelf import Item

__all__ = ["changes", "layers", "on_map", "register", "shapes_of", "start"]

_EDIT = {"type": "review-edit", "n": ALL}
_NONE = {"polyline": False, "circle": False, "marker": False, "circlemarker": False}
_STYLE = {"color": "#1c7ed6", "weight": 3, "fillOpacity": 0.08}
_PRECISION = 2  # decimals of a level-0 pixel
_MOST = 1000  # answered regions that are outlined, the last ones

Outline = list[list[float]]


def layers(desk: Desk, item: Item) -> list[Component]:
    """What is put into the map of one result, in panes, as Leaflet's order is that of drawing, which changes.

    Below the model's outlines (400): what others drew. Above them: the answers, through which one clicks
    (`assets/review.css`). Above all: the control with the reviewer's own outlines.
    """
    if (
        item.kind != "result"
        or item.status == "running"
        or review_told.open_review(desk, item, desk.reviewer)[0] is None
    ):
        return []
    drawings = dl.LayerGroup([_group(0, {}, {})], id="review-group")
    panes = (("below", 390, _drawn("review-shapes")), ("above", 420, _drawn("review-answers")), ("own", 430, drawings))
    return [dl.Pane(layer, name=f"review-{name}", style={"zIndex": z}) for name, z, layer in panes]


def _drawn(id: str) -> dl.GeoJSON:
    return dl.GeoJSON(
        id=id,
        data=_collection([]),
        hideout=_look(None),
        style={"variable": "digipath.viewer.shape"},
        onEachFeature={"variable": "digipath.viewer.tell"},
    )


def _look(chosen: str | None) -> dict[str, Any]:
    return {"shown": True, "opacity": 1, "chosen": chosen}


def start() -> dict[str, Any]:
    """What is known of the map when a page begins: `n` counts the groups, `ids` says which outline has which number."""
    return {"page": uuid.uuid4().hex, "n": 0, "shapes": {}, "ids": None}


def _group(n: int, shapes: Mapping[str, Outline], labels: Mapping[str, str]) -> dl.FeatureGroup:
    """The control with the reviewer's outlines in its group."""
    outlines = [
        dl.Polygon(
            [dl.Tooltip(review_told.name_of(subject, labels.get(subject)), sticky=True)],
            id={"type": "review-shape", "subject": subject, "n": n},
            positions=[[-y, x] for x, y in outline],
            className="review-own",
            pathOptions=_STYLE,
        )
        for subject, outline in shapes.items()
    ]
    drawn = {"shapeOptions": _STYLE, "showArea": False}
    control = dl.EditControl(
        id={"type": "review-edit", "n": n},
        position="bottomright",
        draw={**_NONE, "polygon": {**drawn, "allowIntersection": False}, "rectangle": drawn},
        edit={"poly": {"allowIntersection": False}},
    )
    return dl.FeatureGroup([*outlines, control], id={"type": "review-drawings", "n": n})


def shapes_of(review: Review) -> tuple[dict[str, Outline], dict[str, str]]:
    """The vertices (x, y) and the labels of what the reviewer drew, by subject."""
    own = [one for one in review.answers.values() if one.outline is not None]
    shapes = {one.subject: np.asarray(one.outline).round(_PRECISION).tolist() for one in own}
    return shapes, {one.subject: str(one.label) for one in own}


def on_map(geojson: Mapping[str, Any] | None) -> dict[str, Outline]:
    """The outlines that a control tells, by their number in the browser; (x, y), not closed."""
    found = {}
    for feature in (geojson or {}).get("features") or ():
        number, geometry = feature["properties"].get("_leaflet_id"), feature["geometry"]
        if number is not None and geometry["type"] == "Polygon":
            ring = np.asarray(geometry["coordinates"][0], float)[:-1] * (1, -1)
            found[str(number)] = (ring.round(_PRECISION) + 0.0).tolist()
    return found


def changes(known: Mapping[str, Any], seen: Mapping[str, Outline]) -> tuple[dict[str, str], list[tuple]]:
    """Which number is which outline, and what the reviewer did since the last message.

    Args:
        known: What is known of the map, as of `start`.
        seen: Of `on_map`.

    Returns:
        Subject by number, and ("draw", subject, outline), ("edit", subject, outline) or ("delete", subject) of each
        change.
    """
    ids, shapes = known["ids"], known["shapes"]
    first = ids is None
    if first:
        ids, free = {}, dict(shapes)
        for number, outline in seen.items():
            same = next((subject for subject, was in free.items() if was == outline), None)
            if same is not None:
                ids[number] = same
                del free[same]
    done: list[tuple] = []
    for number, outline in seen.items():
        if number not in ids:
            ids = ids | {number: _subject(known, number)}
            done.append(("draw", ids[number], outline))
        elif outline != shapes.get(ids[number]):
            done.append(("edit", ids[number], outline))
    if not first:
        done += [("delete", subject) for number, subject in ids.items() if number not in seen]
    return ids, done


def _subject(known: Mapping[str, Any], number: str) -> str:
    """The same for the same outline, so that a message that is heard twice draws it once."""
    place = f"{known['n']} {number}"
    return f"drawn:{uuid.uuid5(uuid.UUID(known['page']), place).hex}"


def _do(review: Review, change: tuple, label: str) -> Review:
    """One change, unless it is done already."""
    kind, subject, *outline = change
    before = review.answers.get(subject)
    if kind == "draw":
        return review.draw(outline[0], label, subject=subject)
    if before is None or (kind == "edit" and [list(point) for point in before.outline] == outline[0]):
        return review
    return review.edit(subject, outline[0]) if kind == "edit" else review.delete(subject)


def answered(review: Review) -> dict[str, Any]:
    """GeoJSON of what was answered, by anybody whom the reviewer may see."""
    asked = review.asked
    found = [one for one in review.latest.values() if one.outline is None and holds(one, asked)]
    return _collection(
        [
            _feature(
                asked.subjects[one.subject].geometry, one.subject, review_told.COLORS[one.action], review_told.said(one)
            )
            for one in found[-_MOST:]
        ]
    )


def beneath(review: Review) -> dict[str, Any]:
    """GeoJSON of what others drew."""
    features = []
    for one in review.latest.values():
        if one.outline is not None and one.reviewer != review.reviewer:
            shape = shapely.Polygon(one.outline)
            features.append(_feature(shape, one.subject, review_told.COLORS["draw"], review_told.said(one), dash="6 4"))
    return _collection(features)


def _feature(shape: Any, subject: str, color: str, told: str, *, dash: str | None = None) -> dict[str, Any]:
    flipped = shapely.transform(shape, lambda points: points * np.array([1, -1]))
    name = f"{review_told.name_of(subject)}: {told}"
    properties = {"subject": subject, "name": name, "color": color, "told": name, "dash": dash}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(flipped), "properties": properties}


def _collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": features}


def _renewed(known: Mapping[str, Any], review: Review) -> tuple[list[Component], dict[str, Any]]:
    """A new group with what is saved, and what is known of the map then."""
    shapes, labels = shapes_of(review)
    n = known["n"] + 1
    return [_group(n, shapes, labels)], {"page": known["page"], "n": n, "shapes": shapes, "labels": labels, "ids": None}


def register(app: dash.Dash, desk: Desk) -> None:
    """Its callbacks."""

    @app.callback(
        Output("review-group", "children"),
        Output("review-drawn", "data"),
        Output("review-changed", "data", allow_duplicate=True),
        Output("review-status", "children", allow_duplicate=True),
        Input(_EDIT, "geojson"),
        State(_EDIT, "id"),
        State("review-drawn", "data"),
        State("review-reviewer", "value"),
        State("review-label", "value"),
        State("item", "data"),
        prevent_initial_call=True,
    )
    def listen(told: list, controls: list[dict], known: dict, name: str, label: str, item: str):
        return heard(desk, desk.shelf.get(item), known, said=(told, controls, name, label))

    @app.callback(
        Output("review-group", "children", allow_duplicate=True),
        Output("review-drawn", "data", allow_duplicate=True),
        Output("review-shapes", "data"),
        Output("review-answers", "data"),
        Output("review-shapes", "hideout"),
        Output("review-answers", "hideout"),
        Input("review-changed", "data"),
        Input("review-reviewer", "value"),
        Input("chosen", "data"),
        State("review-drawn", "data"),
        State("item", "data"),
        prevent_initial_call="initial_duplicate",
    )
    def redraw(_, name: str, chosen: str | None, known: dict, item: str):
        review, problem = review_told.open_review(desk, desk.shelf.get(item), name)
        looks = (_look(chosen), _look(chosen))
        if problem:
            return dash.no_update, dash.no_update, _collection([]), _collection([]), *looks
        shapes, labels = shapes_of(review)
        same = (shapes, labels) == (known["shapes"], known.get("labels", {}))
        early = known["n"] == 0 and known["ids"] is None  # Leaflet.draw may not be there yet
        group = (dash.no_update, dash.no_update) if same or early else _renewed(known, review)
        return *group, beneath(review), answered(review), *looks

    @app.callback(
        Output("chosen", "data", allow_duplicate=True),
        Input("review-shapes", "clickData"),
        Input({"type": "review-shape", "subject": ALL, "n": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def choose(clicked: dict | None, _: Sequence[int | None]):
        if ctx.triggered_id == "review-shapes":
            return clicked["properties"]["subject"]
        if not any(one["value"] for one in ctx.triggered):
            raise dash.exceptions.PreventUpdate
        return ctx.triggered_id["subject"]


def heard(desk: Desk, item: Item, known: dict[str, Any], *, said: tuple) -> tuple:
    """Act on what a control told: the new group, what is known then, when it was saved, and what is said of it."""
    told, controls, name, label = said
    latest = [one for one, control in zip(told, controls, strict=True) if control["n"] == known["n"]]
    if not latest or latest[0] is None or ctx.triggered_id["n"] != known["n"]:
        raise dash.exceptions.PreventUpdate  # a control that is gone
    ids, done = changes(known, on_map(latest[0]))
    review, problem = review_told.open_review(desk, item, name)
    if problem:
        return dash.no_update, known | {"ids": ids}, dash.no_update, problem if done else dash.no_update
    if not done:
        shapes, _ = shapes_of(review)
        renewed = _renewed(known, review) if shapes != known["shapes"] else (dash.no_update, known | {"ids": ids})
        return *renewed, dash.no_update, dash.no_update
    try:
        review_told.check_named(review)
        for change in done:
            review = _do(review, change, (label or "").strip())
        status = review_told.saved(review)
    except DigipathError as error:
        status, review = review_told.failed(error), review.reload()
    return *_renewed(known, review), review_told.stamp(item), status
