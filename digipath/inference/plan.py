"""What will be read and predicted, decided before anything is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from digipath.errors import ResolutionError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.grid import PatchGrid
from digipath.geometry.raster import Raster
from digipath.inference.batching import rule
from digipath.inference.predictor import Predictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec

__all__ = ["Plan", "common_heatmap_mpp", "plan", "seen_frame"]

# Heatmaps are looked at on this scale: fine enough for a gland, coarse enough for a slide to fit in memory.
_HEATMAP_MPP = 2.0
# Beyond this, networks of different resolution have nothing sensible in common.
_COARSEST_COMMON = 16.0


@dataclass(frozen=True)
class Plan:
    """The patches of one slide, and the frames that they are read from and written to.

    Attributes:
        settings: What was asked for.
        slide_frame: The slide at level 0.
        grid: The patches, in the frame that the network sees.
        boxes: The boxes of the grid that will be predicted, in order.
        heatmap_frame: The frame of the result.
        unit: Pixels of the network's frame per heatmap pixel, along each axis.
        batch: Patches in a batch.
        tissue: Where there is tissue.
        region: What was asked for, in level-0 pixels; None is the whole slide.
        masked: Whether only pixels whose centre is tissue are covered, or everything that is predicted.
    """

    settings: InferenceSettings
    slide_frame: Frame
    grid: PatchGrid
    boxes: tuple[Box, ...]
    heatmap_frame: Frame
    unit: int
    batch: int
    tissue: Raster
    region: Box | None
    masked: bool = True

    @property
    def frame(self) -> Frame:
        """The frame that the network sees."""
        return self.grid.frame

    @property
    def wanted(self) -> Box:
        """The heatmap pixels that the result speaks of: their centres lie on the slide, and in the region."""
        if not self.masked:
            return self.heatmap_frame.box
        if self.region is None:
            return self.heatmap_frame.on_slide
        return self.slide_frame.centres_in(self.region, self.heatmap_frame)

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue inside of what was asked for: the mask's own pixels are large and overhang its border."""
        wanted = self.region or self.slide_frame.box
        share = self.tissue.coverage([wanted], self.slide_frame)[0]
        return float(share * wanted.area * self.slide_frame.pixel_mm2)

    def memory(self, channels: int) -> int:
        """Bytes that the heatmap and its masks take when they are kept in memory."""
        return self.heatmap_frame.width * self.heatmap_frame.height * (2 * channels + 2)


def plan(
    frame: Frame, predictor: Predictor, tissue: Raster, *, settings: InferenceSettings, region: Box | None = None
) -> Plan:
    """Decide what to read.

    Args:
        frame: The slide at level 0.
        predictor: Whose patches they are.
        tissue: Mask of the tissue, in any frame of the slide.
        settings: What the user asks for.
        region: Only this part of the slide, in level-0 pixels.

    Raises:
        ResolutionError: The slide is coarser than twice the network's mpp.
        SpecError: Patch and heatmap do not fit the network.
    """
    spec = predictor.spec
    seen = seen_frame(frame, spec.mpp)
    unit = _unit(spec, settings)
    patch = _patch(seen, spec, settings, _Sides.of(spec, unit, predictor.multiple))
    stride = tuple(_stride(side - 2 * spec.margin, unit, settings.overlap) for side in patch)
    grid, heatmap_frame = PatchGrid(seen, patch, stride, spec.margin), seen.coarser(unit)
    if region is not None:
        _check_region(region, frame, heatmap_frame)
    return Plan(
        settings=settings,
        slide_frame=frame,
        grid=grid,
        boxes=tuple(_kept(grid, tissue, settings.min_tissue, region and frame.box_in(region, seen))),
        heatmap_frame=heatmap_frame,
        unit=unit,
        batch=settings.batch or rule(patch),
        tissue=tissue,
        region=region,
    )


def common_heatmap_mpp(specs: Mapping[str, ModelSpec], wanted: float | None) -> float:
    """The resolution of one heatmap for several networks: a whole multiple of what each of them returns.

    Args:
        specs: The networks' specifications by name.
        wanted: What the user asks for, or None for the common multiple nearest to 2 um per pixel.

    Raises:
        SpecError: There is none, or `wanted` is none; it names the network.
    """
    finest = {name: Fraction(spec.mpp * spec.output_stride).limit_denominator(10_000) for name, spec in specs.items()}
    if wanted is not None:
        for name, value in finest.items():
            if not math.isclose(wanted / value, max(1, round(wanted / value)), rel_tol=1e-6):
                raise SpecError(
                    f"heatmap_mpp is a whole multiple of every network's um per output pixel, and {wanted:.10g} is "
                    f"none of the {float(value):.10g} of {name}. Use a multiple of {_common(finest):.10g}."
                )
        return wanted
    common = _common(finest)
    if common > max(_COARSEST_COMMON, *map(float, finest.values())):  # an early exit alone may be coarser
        each = ", ".join(f"{name} {float(value):g}" for name, value in finest.items())
        raise SpecError(
            f"the networks of an ensemble return values that one heatmap can hold: um per output pixel are {each}, and "
            f"the finest that is a whole multiple of all is {common:g}. Leave out the one that does not fit."
        )
    return common * max(1, round(_HEATMAP_MPP / common))


def _common(values: Mapping[str, Fraction]) -> float:
    """The least common multiple."""
    numerator = math.lcm(*(value.numerator for value in values.values()))
    return numerator / math.gcd(*(value.denominator for value in values.values()))


def seen_frame(frame: Frame, mpp: float) -> Frame:
    """The slide as the network sees it."""
    if frame.mpp > 2 * mpp * (1 + 1e-6):
        raise ResolutionError(
            f"the network sees {mpp:g} um per pixel and the slide has {frame.mpp:g}: enlarging more than twice "
            f"would invent detail. Use a finer scan, or a bundle for {frame.mpp:g} um per pixel."
        )
    return frame if math.isclose(frame.mpp, mpp, rel_tol=1e-9) else frame.at(mpp)


def _check_region(region: Box, frame: Frame, heatmap_frame: Frame):
    if not frame.centres_in(region, heatmap_frame).area:
        raise SpecError(
            f"a region holds the centre of a heatmap pixel, {heatmap_frame.mpp:g} um wide, or nothing could be said of "
            f"it; got {region.width * frame.mpp:g} x {region.height * frame.mpp:g} um. Give a larger one."
        )


def _unit(spec: ModelSpec, settings: InferenceSettings) -> int:
    """Pixels of the network's frame per heatmap pixel: a whole multiple of the output stride."""
    finest = spec.mpp * spec.output_stride
    wanted = settings.heatmap_mpp or _HEATMAP_MPP
    factor = max(1, round(wanted / finest))
    if settings.heatmap_mpp and not math.isclose(factor * finest, wanted, rel_tol=1e-3):
        near = sorted({max(1, math.floor(wanted / finest)), math.ceil(wanted / finest)})
        raise SpecError(
            f"heatmap_mpp is a whole multiple of the network's {finest:g} um per output pixel, got {wanted:g}. "
            f"Use {' or '.join(f'{n * finest:g}' for n in near)}."
        )
    return factor * spec.output_stride


@dataclass(frozen=True)
class _Sides:
    """The sides that a patch may have: `first`, and that plus any number of `step`s."""

    first: int
    step: int

    @classmethod
    def of(cls, spec: ModelSpec, unit: int, multiple: int) -> "_Sides":
        """A whole number of `multiple`s, that without its margins is a whole number of heatmap pixels."""
        step = math.lcm(unit, multiple)
        fitting = (side for side in range(multiple, step + 1, multiple) if (side - 2 * spec.margin) % unit == 0)
        if (first := next(fitting, None)) is None:
            units = range(spec.output_stride, 2 * unit, spec.output_stride)
            fit = [spec.mpp * n for n in units if not 2 * spec.margin % math.gcd(n, multiple)][-2:]
            raise SpecError(
                f"a patch without its margins of {spec.margin} pixels is a whole number of heatmap pixels, and those "
                f"of {spec.mpp * unit:g} um do not fit. Give heatmap_mpp={' or '.join(f'{n:g}' for n in fit)}."
            )
        return cls(first, step)

    def up(self, side: int) -> int:
        """The smallest that is at least `side`."""
        return self.first + max(0, -(-(side - self.first) // self.step)) * self.step


def _patch(frame: Frame, spec: ModelSpec, settings: InferenceSettings, sides: _Sides) -> tuple[int, int]:
    """(width, height) of a patch: what was asked for, or less where the whole frame is smaller."""
    asked = settings.patch or sides.up(spec.patch)
    if (fits := sides.up(asked)) != asked:
        more = f" and {sides.first % sides.step} more" if sides.first % sides.step else ""
        raise SpecError(
            f"the side of a patch is a multiple of {sides.step} pixels{more} for this network and heatmap, "
            f"got {asked}. Use {max(sides.first, fits - sides.step)} or {fits}."
        )
    if spec.margin * 2 >= asked:
        raise SpecError(f"a patch is larger than its margins of {spec.margin} pixels, got {asked}.")
    width, height = (min(asked, sides.up(side + 2 * spec.margin)) for side in (frame.width, frame.height))
    return width, height


def _stride(described: int, unit: int, overlap: float) -> int:
    """Distance between patches: the described size less the overlap, in whole heatmap pixels."""
    return max(unit, int(described * (1 - overlap) / unit + 1e-9) * unit)


def _kept(grid: PatchGrid, tissue: Raster, min_tissue: float, region: Box | None) -> list[Box]:
    kept = []
    # Row by row: a slide of 100,000 px has half a million boxes at its own resolution, and most are not kept.
    for row in range(grid.rows):
        boxes = [grid.box(row, column) for column in range(grid.columns)]
        described = [box.shrink(grid.margin) for box in boxes]
        share = tissue.coverage(described, grid.frame)
        for box, inner, part in zip(boxes, described, share.tolist(), strict=True):
            if part > min_tissue and (region is None or inner.intersect(region).area):
                kept.append(box)
    return kept
