"""Glands of a made slide: crypts with goblet cells, and the crowded glands of a tumour. Lengths are in um."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage
from scipy.spatial import cKDTree
from shapely.geometry import LinearRing, MultiLineString, MultiPolygon, Polygon
from skimage.measure import find_contours

from digipath.slides._histology import Outlines, blobs, stains

__all__ = ["crypts", "parts", "scatter", "tumour", "waves"]

_GRID = 2.0  # um: a cell of the maps on which a tumour's glands are planned.
_CORNERS = 48  # Of a crypt's outline.


def parts(geometry: shapely.Geometry) -> list[Polygon]:
    """The polygons of a geometry that are worth drawing."""
    polygons = getattr(geometry, "geoms", [geometry])
    return [polygon for polygon in polygons if polygon.geom_type == "Polygon" and polygon.area > 50]


def waves(rng: np.random.Generator, t: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """A random smooth function of the angle `t`, with the given amplitude for each number of waves, from 0."""
    phases = rng.uniform(0, 2 * np.pi, len(amplitudes))
    heights = amplitudes * rng.standard_normal(len(amplitudes))
    return np.cos(np.outer(t, np.arange(len(amplitudes))) + phases) @ heights


def scatter(rng: np.random.Generator, zone: shapely.Geometry, spacing: float, *, jitter: float = 0.45) -> np.ndarray:
    """(n, 2) points inside `zone`, about `spacing` apart: a jittered hexagonal lattice."""
    if zone.is_empty:
        return np.zeros((0, 2))
    left, top, right, bottom = zone.bounds
    x, y = np.meshgrid(np.arange(left, right, spacing), np.arange(top, bottom, spacing * np.sqrt(3) / 2))
    x = x + np.arange(len(x))[:, None] % 2 * spacing / 2
    points = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(-jitter, jitter, (x.size, 2)) * spacing
    return points[shapely.contains_xy(zone, points[:, 0], points[:, 1])]


@dataclass(frozen=True)
class _Crypts:
    """Crypts cut across: positions in them are (r, angle), with r = 1 on their outline."""

    centres: np.ndarray
    radii: np.ndarray
    aspects: np.ndarray
    turns: np.ndarray
    edges: np.ndarray  # (n, corners): unevenness of the outline.

    def place(self, index: np.ndarray, r: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
        """(n, 2) um of one position in each of the crypts `index`."""
        corner = np.rint(angle / (2 * np.pi) * _CORNERS).astype(int) % _CORNERS
        r = self.radii[index] * r * (1 + self.edges[index, corner])
        stretch = np.sqrt(self.aspects[index])
        u, v = r * np.cos(angle) * stretch, r * np.sin(angle) / stretch
        cos, sin = np.cos(self.turns[index]), np.sin(self.turns[index])
        return self.centres[index] + np.stack([u * cos - v * sin, u * sin + v * cos], -1)

    def ring(self, r: np.ndarray | float) -> np.ndarray:
        """(n, corners, 2): the outline of every crypt at `r`."""
        index = np.repeat(np.arange(len(self.radii)), _CORNERS)
        angle = np.tile(np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False), len(self.radii))
        return self.place(index, np.repeat(np.broadcast_to(r, len(self.radii)), _CORNERS), angle).reshape(
            -1, _CORNERS, 2
        )

    def around(self, rng: np.random.Generator, spacing: float, r: float) -> tuple[np.ndarray, np.ndarray]:
        """(crypt, angle) of what stands `spacing` um apart around each crypt, at `r`."""
        counts = np.maximum(3, 2 * np.pi * r * self.radii / spacing * rng.uniform(0.9, 1.1, len(self.radii))).astype(
            int
        )
        index = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = rng.uniform(0, 2 * np.pi, len(counts))
        return index, (start[index] + (number + rng.normal(0, 0.12, len(index))) / counts[index] * 2 * np.pi) % (
            2 * np.pi
        )


def crypts(zone: shapely.Geometry, rng: np.random.Generator) -> tuple[list[Outlines], shapely.Geometry]:
    """Fill `zone` with crypts: what to draw, and the area that they take."""
    shapely.prepare(zone)
    centres, radii = _packed(zone, rng)
    n = len(radii)
    if not n:
        return [], MultiPolygon()
    t = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    amplitudes = 0.12 / np.maximum(1, np.arange(7)) ** 1.2 * (np.arange(7) > 1)
    edges = np.array([waves(rng, t, amplitudes) for _ in range(n)])
    turns = 0.5 * np.sin(centres[:, 0] / 300) + 0.4 * np.cos(centres[:, 1] / 350) + rng.normal(0, 0.3, n)
    made = _Crypts(centres, radii, rng.uniform(1, 1.28, n), turns, edges)
    layers = [
        Outlines(made.ring(1.05), stains(rng, n, (14, 26, 60), (3, 5))),
        Outlines(made.ring(1.0), stains(rng, n, (92, 52, 5), (9, 5))),
        _goblets(made, rng),
        Outlines(made.ring(rng.uniform(0.13, 0.27, n)), stains(rng, n, (12, 12, 0), (4, 4))),
        _basal_nuclei(made, rng, 0.915, 3.7),
        _basal_nuclei(made, rng, 0.85, 7.0),
    ]
    return layers, shapely.union_all(shapely.polygons(made.ring(1.0)).tolist())


def _packed(zone: shapely.Geometry, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of crypts in rows, and of smaller ones in the gaps that are left."""
    border = cKDTree(shapely.get_coordinates(shapely.segmentize(shapely.boundary(zone), 4)))
    centres = scatter(rng, zone, 97, jitter=0.13)
    if len(centres) < 2:
        return np.zeros((0, 2)), np.zeros(0)
    nearest = cKDTree(centres).query(centres, 2)[0][:, 1]
    inside = border.query(centres)[0]
    radii = np.minimum(np.minimum(rng.uniform(32, 46, len(centres)), nearest / 2.12 - 3), inside + 4)
    centres, radii = centres[radii > 19], radii[radii > 19]
    places = scatter(rng, zone, 11, jitter=0.4)
    free = border.query(places)[0] + 4
    if len(centres):
        distances, index = cKDTree(centres).query(places, min(8, len(centres)))
        room = np.reshape(distances - radii[index] * 1.08, (len(places), -1)).min(1)
        free = np.minimum(free, room - 4)
    tree, found = cKDTree(places), []
    while free.max() > 17:
        at = int(free.argmax())
        radius = min(free[at], rng.uniform(30, 44))
        found.append((*places[at], radius))
        near = np.array(tree.query_ball_point(places[at], radius * 1.08 + 60))
        room = np.hypot(*(places[near] - places[at]).T) - radius * 1.08 - 4
        free[near] = np.minimum(free[near], room)
    found = np.reshape(found, (-1, 3))
    return np.concatenate([centres, found[:, :2]]), np.concatenate([radii, found[:, 2]])


def _goblets(made: _Crypts, rng: np.random.Generator) -> Outlines:
    """Pale drops of mucin that point to the lumen; where one is missing, other epithelium shows."""
    index, angle = made.around(rng, 9.7, 0.62)
    kept = rng.random(len(index)) < 0.9
    fat, start = rng.uniform(0.62, 0.98, len(made.radii))[index], rng.uniform(0.8, 1.3, len(index))
    half = np.pi / np.bincount(index)[index] * fat
    along = np.array([0.30, 0.38, 0.48, 0.60, 0.70, 0.77, 0.80])
    across = np.array([0.22, 0.5, 0.7, 0.9, 0.98, 0.75, 0.25])
    end = rng.uniform(0.9, 1.04, len(index))
    points = [
        made.place(index, r * (end if r > 0.5 else start), (angle + side * half) % (2 * np.pi))
        for r, side in zip([*along, *along[::-1]], [*-across, *across[::-1]], strict=True)
    ]
    shade = 7 * rng.standard_normal(len(made.radii))[index] + 5 * rng.standard_normal(len(index))
    amounts = np.clip(np.stack([36 + shade, 20 + 0.4 * shade, 0 * shade], 1), 0, 255)
    return Outlines(np.stack(points, 1)[kept], amounts[kept])


def _basal_nuclei(made: _Crypts, rng: np.random.Generator, r: float, spacing: float) -> Outlines:
    index, angle = made.around(rng, spacing, r)
    centres = made.place(index, r + 0.022 * rng.standard_normal(len(index)), angle)
    outward = centres - made.centres[index]
    turns = np.arctan2(outward[:, 1], outward[:, 0]) + rng.normal(0, 0.3, len(index))
    return Outlines(blobs(rng, centres, (5.8, 4.3), turns), stains(rng, len(index), (225, 85, 0), (22, 0)))


@dataclass(frozen=True)
class _Map:
    """Values on a grid over a tumour."""

    left: float
    top: float
    values: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """The value under each of (n, 2) points."""
        column, row = np.clip((points - (self.left, self.top)) / _GRID, 0, np.array(self.values.shape[::-1]) - 1).T
        return self.values[row.astype(int), column.astype(int)]

    def outlines(self, min_area: float) -> Iterator[Polygon]:
        """Where the values are above 0, as polygons."""
        contours = find_contours(np.pad(self.values, 1, constant_values=-9.0), 0.0)
        rings = [LinearRing((contour[:, ::-1] - 0.5) * _GRID + (self.left, self.top)) for contour in contours]
        for polygon in parts(shapely.build_area(MultiLineString(rings))):
            if polygon.area > min_area:
                yield Polygon(polygon.exterior, [hole for hole in polygon.interiors if Polygon(hole).area > 50])


def tumour(area: Polygon, within: shapely.Geometry, rng: np.random.Generator) -> tuple[list[Outlines], list[Polygon]]:
    """Crowded, irregular glands around the middle of `area`: what to draw, and the outlines of the glands."""
    glands, depth = _gland_map(area, within, rng)
    shape = depth.values.shape
    thickness = np.clip(41 + 8 * _noise(rng, shape, 150) + 3 * _noise(rng, shape, 30), 24, 65)
    slits = ndimage.gaussian_filter(depth.values - thickness, 2.4)
    cribriform = np.where(depth.values > 16, 20 * (_noise(rng, shape, 26) - 1.75), -9.0)
    lumen = _Map(depth.left, depth.top, np.maximum(slits, ndimage.gaussian_filter(cribriform, 1.0)))
    outlines = list(glands.outlines(2000))
    lumens = list(lumen.outlines(60))
    n = len(outlines)
    rims = [Polygon(gland.exterior).buffer(2) for gland in outlines]
    holes = [Polygon(hole) for gland in outlines for hole in gland.interiors]
    layers = [
        Outlines(_corners(rims), stains(rng, n, (25, 45, 40), (4, 5))),
        Outlines(_corners(outlines), stains(rng, n, (66, 60, 8), (9, 6))),
        Outlines(_corners(holes), stains(rng, len(holes), (30, 52, 170))),
        *_tumour_cells(depth, lumen, thickness, rng),
        Outlines(_corners(lumens), stains(rng, len(lumens), (6, 5, 0), (4, 4))),
    ]
    return layers, outlines


def _gland_map(area: Polygon, within: shapely.Geometry, rng: np.random.Generator) -> tuple[_Map, _Map]:
    """Where glands are (above 0), and how deep in its gland each place is, in um.

    Glands are the cells of a stretched, warped Voronoi diagram whose seeds lie in `area`, cut off at the border of
    `within`, less a gap of stroma around each.
    """
    left, top, right, bottom = area.buffer(90).bounds
    shape = int((bottom - top) / _GRID) + 1, int((right - left) / _GRID) + 1
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([columns * _GRID + left, rows * _GRID + top], -1).reshape(-1, 2)
    turn = rng.uniform(0, np.pi)
    stretch = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([0.78, 1.28])
    warp = [12 * _noise(rng, shape, 150) + 3 * _noise(rng, shape, 45) for _ in range(2)]
    warped = (places + np.stack(warp, -1).reshape(-1, 2)) @ stretch
    seeds = scatter(rng, shapely.box(*warped.min(0) - 150, *warped.max(0) + 150), 118, jitter=0.36)
    cell = cKDTree(seeds).query(warped)[1].reshape(shape)
    seeds = seeds @ np.linalg.inv(stretch)
    ours = shapely.contains_xy(area.buffer(-35), seeds[:, 0], seeds[:, 1])[cell]
    shapely.prepare(within)
    ours &= shapely.contains_xy(within, *places.T).reshape(shape)
    cell = np.where(ours, cell, -1)
    borders = np.zeros(shape, bool)
    borders[:-1] |= cell[1:] != cell[:-1]
    borders[:, :-1] |= cell[:, 1:] != cell[:, :-1]
    gap = np.clip(6 + 4.5 * _noise(rng, shape, 90), 2.5, 20)
    inside = np.where(ours, ndimage.distance_transform_edt(~borders) * _GRID - gap, -6.0)
    inside = ndimage.gaussian_filter(inside, 3.0)
    depth = ndimage.distance_transform_edt(inside > 0) * _GRID
    return _Map(left, top, inside), _Map(left, top, depth)


def _tumour_cells(depth: _Map, lumen: _Map, thickness: np.ndarray, rng: np.random.Generator) -> list[Outlines]:
    """Elongated, dark nuclei in several rows, upright on the gland's edge, with clear slits and debris between."""
    box = shapely.box(depth.left, depth.top, *(np.array(depth.values.shape[::-1]) * _GRID + (depth.left, depth.top)))
    cells = scatter(rng, box, 6.7, jitter=0.33)
    basal = depth.at(cells) < 0.72 * _Map(depth.left, depth.top, thickness).at(cells)
    share = np.where(basal, 0.97, 0.45)
    cells = cells[(depth.at(cells) > 2.5) & (lumen.at(cells) < -5) & (rng.random(len(cells)) < share)]
    slope = np.gradient(ndimage.gaussian_filter(depth.values, 3.5))
    upright = np.arctan2(*(_Map(depth.left, depth.top, part).at(cells) for part in slope))
    upright = upright + rng.normal(0, 0.22, len(cells))
    nuclei = stains(rng, len(cells), (185, 88, 0), (38, 0))
    outer = blobs(rng, cells, (10.5, 4.3), upright)
    inner = cells[:, None] + 0.64 * (outer - cells[:, None])
    layers = [Outlines(outer, nuclei), Outlines(inner, np.clip(nuclei - (18, 8, 0), 0, 255))]
    for share, size, mean, spread in (
        (0.16, (11, 1.7), (30, 30, 0), (12, 0)),  # Slits
        (0.012, (8, 7), (14, 14, 0), (5, 0)),  # Vacuoles
        (0.02, (4.2, 3.6), (250, 120, 0), (5, 0)),  # Dying and dividing cells
    ):
        chosen = rng.random(len(cells)) < share
        centres = cells[chosen] + rng.normal(0, 2.5, (chosen.sum(), 2))
        layers.append(Outlines(blobs(rng, centres, size, upright[chosen]), stains(rng, chosen.sum(), mean, spread)))
    return layers


def _noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), wavelength / _GRID / 4)
    return field / field.std()


def _corners(polygons: list[Polygon]) -> list[np.ndarray]:
    return [np.array(polygon.exterior.coords) for polygon in polygons]
