"""Where a result is not sure of itself: regions for a pathologist to look at first (Khened et al. 2021).

Votes are what one network says of one turned or mirrored patch. Their variance in a pixel is the sum of "aleatoric",
over the augmentations, and "epistemic", over the networks; here everything is told in standard deviations, which are on
the scale of probabilities: 0 where all votes agree, 0.5 where half of them say 0 and the others 1.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real

import numpy as np

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Box
from digipath.geometry.layer import Layer
from digipath.geometry.polygons import Annotation, polygonize
from digipath.geometry.raster import Raster
from digipath.geometry.regions import Region, find_regions
from digipath.inference.predictor import UNCERTAINTY
from digipath.inference.sinks import FULL_DEVIATION, deviation

__all__ = ["DOUBT", "SPECK_MM2", "UNCERTAIN", "UncertainRegion", "Uncertainty"]

DOUBT = 0.15
"""The standard deviation above which a pixel is uncertain, unless another is given.

Votes that are spread evenly over a width of 0.5 have one of 0.5 / sqrt(12) = 0.144, and whatever half of the scale they
cover, 0.5 lies in it: some say lesion and some do not. Above 0.25 that holds for any votes, since a variance is at most
a quarter of the squared range (Popoviciu 1935).

Measured on the 215 held-out images of EBHI-SEG (Shi et al. 2023) with colon-lesion-light and colon-lesion-ds under all
eight augmentations: 10 % of the pixels are uncertain, and hold 42 % of those that are wrong; 31 % of them are, and 5 %
of the others.
"""

SPECK_MM2 = 0.001
"""Smaller regions are left out unless told otherwise: about ten cells of 10 um, chosen, not measured."""

UNCERTAIN = "Uncertain"
"""The class of uncertain regions among annotations."""

_AMBER = (255, 160, 0)


@dataclass(frozen=True)
class UncertainRegion:
    """One 4-connected component of the pixels whose standard deviation exceeds a threshold.

    Attributes:
        rank: From 1 for the region with the most uncertainty in it: its area times its mean.
        box: The smallest box around it, in the heatmap's frame.
        area_mm2: Area from its number of pixels, holes not included.
        centroid: (x, y) of its centre of gravity, in level-0 pixels; it may lie outside of the region.
        mean: Mean of the standard deviation over its pixels.
        maximum: Largest standard deviation in it.
        peak: (x, y) of the centre of the pixel with that value, the first in reading order, in level-0 pixels.
    """

    rank: int
    box: Box
    area_mm2: float
    centroid: tuple[float, float]
    mean: float
    maximum: float
    peak: tuple[float, float]

    @property
    def integral(self) -> float:
        """What regions are ranked by: area in mm2 times mean standard deviation."""
        return self.area_mm2 * self.mean


@dataclass(frozen=True)
class Uncertainty:
    """The standard deviations of a result, and the doubt that begins at one of them.

    Nothing is held in memory: values are made where they are looked at.

    Attributes:
        variances: (rows, columns, kinds) float32; 0 where not covered. None is refused.
        covered: Mask in the same frame of what the result says something about.
        kind: "aleatoric", "epistemic", or "total" for all there is.
        above: A pixel is uncertain above this standard deviation, 0 to below 0.5; None takes `DOUBT`.
        min_area_mm2: Smaller regions are left out.
    """

    variances: Raster | None
    covered: Raster
    kind: str = "total"
    above: float | None = None
    min_area_mm2: float = SPECK_MM2

    def __post_init__(self):
        if self.variances is None:
            raise ResultError(
                "this result was predicted without uncertainty. Predict the slide again with "
                'InferenceSettings(uncertainty=True) and augmentations ("all", for aleatoric uncertainty) or a list of '
                "several bundles (for epistemic uncertainty), or both."
            )
        self._check_kind(self.variances.channels)
        above = DOUBT if self.above is None else self.above
        if not isinstance(above, Real) or not 0 <= above < FULL_DEVIATION:
            raise SpecError(
                f"above is a standard deviation of a probability, from 0 to below {FULL_DEVIATION}, got {above!r}. "
                f"None takes {DOUBT}."
            )
        object.__setattr__(self, "above", float(above))

    def _check_kind(self, kinds: tuple[str, ...]) -> None:
        if self.kind not in ("total", *UNCERTAINTY):
            raise SpecError(f'kind is "total", "aleatoric" or "epistemic", got {self.kind!r}.')
        if self.kind != "total" and self.kind not in kinds:
            needed = "augmentations" if self.kind == UNCERTAINTY[0] else "several bundles"
            raise ResultError(
                f"this result has {' and '.join(kinds)} uncertainty, and {self.kind} was asked for. Predict the slide "
                f"again with {needed} and InferenceSettings(uncertainty=True)."
            )

    @property
    def deviation(self) -> Raster:
        """Standard deviation of the last class's probability, (rows, columns) float32, 0 to 0.5."""
        values, kinds = self.variances.values, self.variances.channels
        channels = range(len(kinds)) if self.kind == "total" else [kinds.index(self.kind)]

        def rows(wanted: slice) -> np.ndarray:
            variances = np.asarray(values[wanted])
            return deviation(sum(variances[..., channel] for channel in channels))  # NumPy's sum of so few is slow

        return Raster(Layer(self.variances.frame.shape, np.dtype(np.float32), rows), self.variances.frame)

    @property
    def mask(self) -> Raster:
        """The covered pixels that are uncertain."""
        values, covered = self.deviation.values, self.covered.values

        def rows(wanted: slice) -> np.ndarray:
            return (values[wanted] > np.float32(self.above)) & np.asarray(covered[wanted])

        return Raster(Layer(self.variances.frame.shape, np.dtype(bool), rows), self.variances.frame)

    @cached_property
    def _found(self) -> list[Region]:
        """All components but specks: the most area times mean first, equal ones in reading order."""
        found = find_regions(self.mask, self.deviation, min_area_mm2=self.min_area_mm2)
        return sorted(found, key=lambda region: -region.area_mm2 * region.mean_probability)

    @cached_property
    def _polygons(self) -> list[Annotation]:
        return polygonize(self.mask, name=UNCERTAIN, color=_AMBER, min_area_mm2=self.min_area_mm2)

    def regions(self, n: int) -> list[UncertainRegion]:
        """The n most uncertain regions, those with the largest area times mean first; equal ones in reading order."""
        return [_told(region, rank) for rank, region in enumerate(self._first(n), 1)]

    def annotations(self, n: int) -> list[Annotation]:
        """The same regions as polygons with holes, in level-0 pixels, with rank, area and deviation as measurements."""
        return [
            replace(self._polygons[region.id - 1], measurements=_measurements(_told(region, rank)))
            for rank, region in enumerate(self._first(n), 1)
        ]

    def summary(self, n: int) -> str:
        """How much is uncertain, and which are the n regions that are numbered."""
        area, covered = self.mask.area_mm2, self.covered.area_mm2
        share = f" ({area / covered:.0%})" if covered else ""
        text = f"{area:.2f} of {covered:.2f} mm² tissue{share} with {self.kind} standard deviation > {self.above:g}"
        shown, found = len(self._first(n)), len(self._found)
        regions = f"; {shown} of {found} regions numbered, by area x mean, at their largest deviation" if found else ""
        return text + regions

    def _first(self, n: int) -> list[Region]:
        if not isinstance(n, Integral) or n < 0:
            raise SpecError(f"n is how many regions are wanted, a whole number from 0, got {n!r}.")
        return self._found[:n]


def _told(region: Region, rank: int) -> UncertainRegion:
    mean, maximum = region.mean_probability, region.max_probability
    return UncertainRegion(rank, region.box, region.area_mm2, region.centroid, mean, maximum, region.peak)


def _measurements(region: UncertainRegion) -> dict[str, float]:
    return {
        "rank": region.rank,
        "area mm2": region.area_mm2,
        "mean standard deviation": region.mean,
        "max standard deviation": region.maximum,
    }
