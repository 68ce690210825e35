"""Which layers can lie over a slide, and how each of them gets onto the map."""

from collections.abc import Iterator
from dataclasses import dataclass

import dash_leaflet as dl

from digipath.viewer import colours, tiles
from digipath.viewer.desk import Desk
from digipath.viewer.scene import Scene

__all__ = ["ENLARGED", "SHAPES", "Row", "rows", "sought", "style_of", "tile_layer", "tile_layers", "url_of"]

SHAPES = ("outlines", "sections", "regions", "doubts")
"""Layers of outlines, the lowest first: what is large hides nothing. The ids of their GeoJSON on the map."""

ENLARGED = 3
"""The map's last zoom, beyond level 0: eight pixels of the screen for one of the slide."""

_NOTHING = "data:image/gif;base64,R0lGODlhAQABAAD/ACwAAAAAAQABAAACADs="  # one clear pixel: nothing is asked for
_KINDS = {"total": "Total", "aleatoric": "Aleatoric", "epistemic": "Epistemic"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer that can be shown.

    Attributes:
        layer: Its name: of tiles as in their URLs, else one of `SHAPES`.
        label: What a person calls it.
        group: Heading under which it stands.
        shown: Whether it is seen at first.
        opacity: At first, 0 to 1.
        colour: As in CSS, of what has a single one.
    """

    layer: str
    label: str
    group: str
    shown: bool = False
    opacity: float = 0.7
    colour: str | None = None


def sought(scene: Scene) -> list[int]:
    """Indices of the classes that are looked for, the lesion first; without the first class, which is all the rest."""
    every = list(range(len(scene.classes)))
    return (every[1:] or every)[::-1]


def rows(scene: Scene) -> list[Row]:
    """All layers of a scene, in the order of the panel and of the keys 1 to 9."""
    return [*_heat(scene), *_outlined(scene), *_doubtful(scene), *_seen(scene)]


def _heat(scene: Scene) -> Iterator[Row]:
    named = [(k, scene.classes[k]) for k in sought(scene)]
    for k, name in named:
        first = k == len(scene.classes) - 1
        yield Row(layer=f"probability-{k}", label=name, group="Probability", shown=first, opacity=0.65)
    for k, name in named:
        colour = _css(colours.mask_colour(f"mask-{k}", len(scene.classes)))
        yield Row(layer=f"mask-{k}", label=f"Mark {name}", group="Above the threshold", opacity=0.6, colour=colour)


def _outlined(scene: Scene) -> Iterator[Row]:
    analysis, group = scene.item.info.get("analysis") or {}, "Outlines"
    if scene.answered and scene.finished:
        yield Row(layer="regions", label="Regions", group=group, shown=True, opacity=1)
    if analysis.get("sections"):
        yield Row(layer="sections", label="Sections", group=group, shown=scene.hidden, opacity=1)
    if scene.answered and {"burden", "tils"} & analysis.keys():
        yield Row(layer="outlines", label="Whole tumour", group=group, opacity=1)
    if scene.kinds and scene.finished:
        yield Row(layer="doubts", label="Uncertain regions", group=group, opacity=1)


def _doubtful(scene: Scene) -> Iterator[Row]:
    for kind, label in _KINDS.items():
        if kind in scene.kinds:
            yield Row(layer=kind, label=label, group="Standard deviation", opacity=0.7)


def _seen(scene: Scene) -> Iterator[Row]:
    if scene.finished:
        tissue, lost = (_css(colours.mask_colour(layer)) for layer in ("tissue", "uncovered"))
        yield Row(layer="tissue", label="Tissue", group="Slide", opacity=0.4, colour=tissue)
        missing = bool(scene.areas.get("uncovered_mm2"))
        yield Row(layer="uncovered", label="Tissue not covered", group="Slide", shown=missing, colour=lost)


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def url_of(desk: Desk, scene: Scene, row: Row, *, threshold: float) -> str:
    """Where the tiles of a layer are; of one that is not shown, a picture of nothing that is not asked for."""
    if not row.shown:
        return _NOTHING
    chosen = threshold if row.layer.startswith("mask-") else None
    return tiles.tile_url(scene.item, row.layer, prefix=desk.prefix, version=scene.version, threshold=chosen)


def tile_layer(desk: Desk, scene: Scene, row: Row, *, z_index: int) -> dl.TileLayer:
    """The tiles of one layer.

    Zoom 0 of the map is level 0. Tiles of all zooms count from the slide's corner, (0, 0) on the map.
    """
    levels = tiles.Tiling(scene.width, scene.height).levels
    return dl.TileLayer(
        id={"type": "layers-tiles", "layer": row.layer},
        url=url_of(desk, scene, row, threshold=scene.threshold),
        opacity=row.opacity,
        zIndex=z_index,
        bounds=scene.bounds,
        noWrap=True,
        tileSize=tiles.SIDE,
        zoomOffset=levels,
        minZoom=-levels,
        minNativeZoom=-levels,
        maxNativeZoom=0,
        maxZoom=ENLARGED,
        className="ground" if row.layer == "slide" else "layer-tiles",
        eventHandlers={"add": {"variable": "digipath.viewer.steady"}},
    )


def tile_layers(desk: Desk, scene: Scene) -> list[dl.TileLayer]:
    """Those of all layers that are not outlines, in the panel's order; what comes first there lies above."""
    flat = [row for row in rows(scene) if row.layer not in SHAPES]
    return [tile_layer(desk, scene, row, z_index=len(flat) - n) for n, row in enumerate(flat)]


def style_of(row: Row, *, chosen: str | None = None) -> dict:
    """What the outlines of a layer are drawn by (`assets/viewer.js`): seen or not, how strongly, and the chosen one.

    A choice in another layer is left out: thousands of outlines are not drawn anew for what is none of theirs.
    """
    own = chosen if chosen and chosen.partition(":")[0] == row.layer.removesuffix("s") else None
    return {"shown": row.shown, "opacity": row.opacity, "chosen": own}
