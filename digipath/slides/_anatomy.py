"""Where things lie in a made piece of colon wall, as outlines in um, the lowest layer first."""

from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import LineString, MultiPolygon, Polygon

from digipath.slides._glands import crypts, parts, scatter, tumour, waves
from digipath.slides._histology import Outlines, blobs, stains

__all__ = ["Anatomy", "plan"]


@dataclass(frozen=True)
class Anatomy:
    """What to draw, and the outlines of the tumours' glands."""

    layers: tuple[Outlines, ...]
    lesions: tuple[Polygon, ...]


@dataclass(frozen=True)
class _Zones:
    """The tissue and what it is divided into."""

    tissue: shapely.Geometry
    mucosa: shapely.Geometry
    muscle: shapely.Geometry
    tumours: shapely.Geometry


def plan(size: tuple[float, float], *, lesions: int, rng: np.random.Generator) -> Anatomy:
    """Lay out a piece of colon of `size` (width, height) um with this many tumours."""
    zones = _zones(size, lesions, rng)
    made = [tumour(area, zones.tissue.buffer(-6), rng) for area in parts(zones.tumours)]
    glands = shapely.union_all([gland for _, outlines in made for gland in outlines])
    normal, taken = crypts(zones.mucosa.difference(glands.buffer(9)).buffer(-8), rng)
    layers = [
        _fill(zones.tissue, (8, 40, 220)),
        _fill(zones.mucosa, (24, 48, 130)),
        _fill(zones.muscle, (26, 84, 60)),
        _fill(zones.tumours.buffer(-12), (30, 52, 170)),
        *(layer for drawn, _ in made for layer in drawn),
        *_cells(zones, shapely.union(taken.buffer(2), glands.buffer(1)), rng),
        *normal,
    ]
    return Anatomy(tuple(layer for layer in layers if len(layer.points)), tuple(parts(glands)))


def _zones(size: tuple[float, float], lesions: int, rng: np.random.Generator) -> _Zones:
    """A rounded piece of tissue; its lower edge is muscle and submucosa, the rest is mucosa with the tumours."""
    width, height = size
    t = np.linspace(0, 2 * np.pi, 900, endpoint=False)
    order = np.arange(42)
    radius = (np.abs(np.cos(t)) ** 3.2 + np.abs(np.sin(t)) ** 3.2) ** (-1 / 3.2)
    radius *= 1 + waves(rng, t, 0.1 / np.maximum(order, 1) ** 1.1 * (order > 1))
    radius = np.minimum(radius, 1.12)
    corners = np.stack(
        [0.5 * width + 0.43 * width * radius * np.cos(t), 0.5 * height + 0.43 * height * radius * np.sin(t)], 1
    )
    tissue = Polygon(corners).buffer(0)
    x = np.linspace(0, width, 200)
    order = np.arange(9)
    y = 0.86 * height + waves(rng, x / width * 2 * np.pi, 0.018 * height / np.maximum(order, 1) * (order > 0))
    border = list(zip(x, y, strict=True))
    mucosa = tissue.intersection(Polygon([(0, 0), (width, 0), *border[::-1]]).buffer(0))
    muscle = LineString(border).buffer(17, cap_style="flat").intersection(tissue)
    return _Zones(tissue, mucosa, muscle, _tumours(mucosa, lesions, rng))


def _tumours(mucosa: shapely.Geometry, count: int, rng: np.random.Generator) -> shapely.Geometry:
    """Side by side in the mucosa, rounded and uneven."""
    left, top, right, bottom = mucosa.bounds
    pitch = (right - left) / max(1, count)
    size = float(np.clip(0.4 * min(pitch, bottom - top), 90, 480))
    t = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    order = np.arange(12)
    areas = []
    for number in range(count):
        x = left + pitch * (number + 0.5 + rng.uniform(-0.08, 0.08))
        y = top + (bottom - top) * rng.uniform(0.42, 0.58)
        radius = size * rng.uniform(0.85, 1.1) * (1 + waves(rng, t, 0.3 / np.maximum(order, 1) ** 1.2 * (order > 1)))
        areas.append(Polygon(np.stack([x + 1.05 * radius * np.cos(t), y + radius * np.sin(t)], 1)).buffer(0))
    return shapely.union_all(areas).intersection(mucosa.buffer(-25)) if areas else MultiPolygon()


def _cells(zones: _Zones, taken: shapely.Geometry, rng: np.random.Generator) -> list[Outlines]:
    """Cells of the stroma: lymphocytes, eosinophils, vessels with blood, fibroblasts and muscle."""
    within = zones.tissue.buffer(-5)
    shapely.prepare(taken)

    def spots(zone: shapely.Geometry, spacing: float, share: float) -> np.ndarray:
        points = scatter(rng, zone.intersection(within), spacing)
        points = points[rng.random(len(points)) < share]
        return points[~shapely.contains_xy(taken, points[:, 0], points[:, 1])]

    lamina = zones.mucosa.difference(zones.tumours.buffer(-5))
    lymphocytes = spots(lamina, 8.6, 0.5)
    n = len(lymphocytes)
    off_centre = lymphocytes + rng.normal(0, 0.9, lymphocytes.shape)
    eosinophils = spots(lamina, 30, 0.35)
    layers = [
        Outlines(blobs(rng, lymphocytes, (7.6, 6.4)), stains(rng, n, (50, 70, 0), (10, 10))),
        Outlines(blobs(rng, off_centre, (5.2, 4.5)), stains(rng, n, (222, 85, 0), (28, 0))),
        Outlines(blobs(rng, eosinophils, (7, 6)), stains(rng, len(eosinophils), (12, 170, 0), (0, 18))),
        *_vessels(spots(zones.tissue, 150, 0.6), rng),
    ]
    for zone, spacing, share, haematoxylin in (
        (zones.tumours.buffer(-10), 11.5, 0.6, 190),
        (zones.muscle, 15, 0.6, 180),
        (zones.tissue.difference(zones.mucosa), 34, 0.4, 180),
        (zones.mucosa, 20, 0.6, 195),
    ):
        spindles = spots(zone, spacing, share)
        turns = 1.2 * np.sin(spindles[:, 0] / 170) + 1.1 * np.cos(spindles[:, 1] / 140)
        turns = turns * (zone is not zones.muscle) + rng.normal(0, 0.33, len(spindles))
        shape = blobs(rng, spindles, (11, 2.5), turns)
        layers.append(Outlines(shape, stains(rng, len(spindles), (haematoxylin, 75, 0), (25, 0))))
    return layers


def _vessels(centres: np.ndarray, rng: np.random.Generator) -> list[Outlines]:
    """Small vessels with red blood cells."""
    n, turns = len(centres), rng.uniform(0, 2 * np.pi, len(centres))
    wall = blobs(rng, centres, (30, 14), turns)
    lumen = centres[:, None] + 0.8 * (wall - centres[:, None])
    blood = np.repeat(centres, 9, 0) + rng.normal(0, 3.2, (9 * n, 2))
    return [
        Outlines(wall, stains(rng, n, (30, 70, 40))),
        Outlines(lumen, stains(rng, n, (6, 10, 0))),
        Outlines(blobs(rng, blood, (5.5, 5)), stains(rng, 9 * n, (8, 150, 0), (0, 15))),
    ]


def _fill(zone: shapely.Geometry, amounts: tuple[float, float, float]) -> Outlines:
    polygons = [np.array(part.exterior.coords) for part in parts(zone)]
    return Outlines(polygons, np.tile(amounts, (len(polygons), 1)))
