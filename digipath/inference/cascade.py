"""A coarse look at all of the tissue, and a fine one where it matters (Guo et al. 2019, v3_DCNN).

The first stage, a patch classifier, gives one value for every cell of 128 x 128 pixels. The second, a segmenter, then
sees half overlapping patches, those alone whose central part holds a candidate, of its own size unless the settings
ask for larger ones (`patch`; 2560 px in the paper, for networks trained on 321 to 1280); everywhere else the first
stage's probability stands.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from digipath.geometry.frame import Box, Frame
from digipath.geometry.grid import PatchGrid
from digipath.geometry.raster import Raster
from digipath.inference.engine import Pass, Strip
from digipath.inference.plan import Plan, plan, seen_frame
from digipath.inference.predictor import Predictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec

__all__ = ["Cascade", "Coarse", "coarse_plan", "filled", "refined"]

# Pixels of the first stage per value: Guo et al. 2019 for a classifier. A segmenter has finer values to give.
_CELL = {"classifier": 128, "segmenter": 32}
# A coverage that is only rounding.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Cascade:
    """Two stages of networks, where `Segmenter` takes a bundle; of several cascades it runs a shared first stage once.

    Attributes:
        first: Bundle, or list of bundles, that looks everywhere; a classifier as in the paper, or any other.
        second: Bundle, or list of bundles, that looks where the first found candidates.

    Example:
        >>> cascade = Cascade("colon-patch-classifier", "colon-lesion-light")
    """

    first: Any
    second: Any


@dataclass(frozen=True)
class Coarse:
    """What the first stage found.

    Attributes:
        values: Its channels, one pixel a cell.
        covered: Where it says something.
        candidates: Mask of the cells to be looked at again.
    """

    values: Raster
    covered: Raster
    candidates: Raster

    @classmethod
    def of(cls, values: Raster, covered: Raster, lesion: int, threshold: float) -> "Coarse":
        """Take the cells whose channel `lesion` exceeds a threshold for candidates."""
        found = (values.array()[:, :, lesion] > threshold) & covered.array()
        return cls(values, covered, Raster(found, values.frame))


class _Seen(NamedTuple):
    """What a plan asks of a predictor."""

    spec: ModelSpec
    multiple: int


def coarse_plan(
    frame: Frame, predictor: Predictor, tissue: Raster, *, settings: InferenceSettings, region: Box | None = None
) -> Plan:
    """The first stage's patches: one for each cell that holds tissue, with the cell in its middle.

    Takes the arguments of `plan`. The cell is 128 pixels wide, or what a classifier's margin leaves of its patch if
    that is less; around it a patch has what the network was trained with, and a pixel more where that has no middle.
    """
    seen, cell = _around_cells(predictor)
    settings = replace(settings, overlap=0, patch=None, heatmap_mpp=seen.spec.mpp * cell)
    if region is not None:  # whole cells
        cells = seen_frame(frame, seen.spec.mpp).coarser(cell)
        region = cells.box_in(frame.box_in(region, cells), frame)
    return replace(plan(frame, seen, tissue, settings=settings, region=region), masked=False)


def _around_cells(predictor: Predictor) -> tuple[_Seen, int]:
    """The predictor with the margin that leaves one cell of its patch, and the cell's side in pixels."""
    spec, multiple = predictor.spec, predictor.multiple
    fixed, most = multiple == spec.patch, min(_CELL[spec.kind], spec.patch - 2 * spec.margin)
    if spec.kind != "classifier":
        cells = range(most // spec.output_stride * spec.output_stride, spec.output_stride, -spec.output_stride)
        tiled = (cell for cell in cells if _tiles(spec, cell, None if fixed else multiple))
        return _Seen(spec, multiple), next(tiled, spec.output_stride)
    cell, patch = most, spec.patch
    if fixed:
        cell -= (patch - cell) % 2
    elif multiple % 2 == 0:  # no odd cell is in the middle of an even patch
        cell = max(2, cell - cell % 2)
    while patch % multiple or (patch - cell) % 2:
        patch += 1
    return _Seen(replace(spec, patch=patch, margin=(patch - cell) // 2), multiple), cell


def _tiles(spec: ModelSpec, cell: int, multiple: int | None) -> bool:
    """Whether a patch without its margins is a whole number of cells; where `multiple` is given, one can be made so."""
    if multiple is None:
        return (spec.patch - 2 * spec.margin) % cell == 0
    return 2 * spec.margin % math.gcd(cell, multiple) == 0


def refined(chosen: Plan, candidates: Raster) -> Plan:
    """The plan with those patches alone whose central part holds a candidate; central parts tile the slide."""
    central = [_central(chosen.grid, box) for box in chosen.boxes]
    share = candidates.coverage(central, chosen.frame)
    kept = (box for box, part in zip(chosen.boxes, share.tolist(), strict=True) if part > _NOTHING)
    return replace(chosen, boxes=tuple(kept))


def _central(grid: PatchGrid, box: Box) -> Box:
    """As much of a box as lies between it and its neighbours; at the border of the slide, all that is beyond."""
    described, edges = box.shrink(grid.margin), []
    for start, side, step, count in (
        (described.x, described.width, grid.stride[0], grid.columns),
        (described.y, described.height, grid.stride[1], grid.rows),
    ):
        before, number = (side - step) // 2, start // step
        edges.append(
            (start if number == 0 else start + before, start + (side if number == count - 1 else before + step))
        )
    (left, right), (top, bottom) = edges
    return Box(left, top, right - left, bottom - top)


def filled(strips: Iterable[Strip], one: Pass, coarse: Coarse) -> Iterator[Strip]:
    """Strips of the second stage, with the first's values where it was not run; not where it could not read."""
    chosen = one.plan
    for y, values, covered in strips:
        box = Box(0, y, chosen.heatmap_frame.width, len(values))
        wanted = chosen.wanted.intersect(box)
        missing = np.zeros_like(covered)
        inside = wanted.shift(0, -y).slices()
        missing[inside] = chosen.tissue.sample(wanted, chosen.heatmap_frame) & ~covered[inside]
        missing[inside] &= coarse.covered.sample(wanted, chosen.heatmap_frame)
        for damaged in one.tally.unread:
            lost = damaged.coarser(chosen.unit).intersect(box).shift(0, -y)
            missing[lost.slices()] = False
        if missing.any():
            values[missing] = coarse.values.sample(box, chosen.heatmap_frame)[missing]
        yield Strip(y, values, covered | missing)
