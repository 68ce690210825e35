"""The 32 features of Khened et al. 2021, Table 5, by which a slide's metastases are told apart.

M. Khened, A. Kori, H. Rajkumar, G. Krishnamurthi and B. Srinivasan, "A generalized deep learning framework for
whole-slide image segmentation and analysis" (Scientific Reports 11, 2021). The table has eleven rows; its first is of
two thresholds, and five are of five statistics: 2 + 1 + 1 + 1 + 5 · 5 + 1 + 1 = 32. The code of its authors has 31: it
lacks the major axis at 0.9, and measures extents at 0.5. Here are the 32 of the table, every one of its threshold.

What the table leaves open is as in that code: a pixel is tumour at >= 0.9 and at > 0.5, pixels that touch at a corner
are one region, and the largest region is the one of the largest area. Four things are not. Lengths and areas are
micrometres instead of pixels of a heatmap, so that the "count of non-zero pixels" is an area. The ratio has both areas
at one resolution. Features of 0.5 are not 0 just because no region reaches 0.9. Nothing is rounded.

Statistics are those of the regions as they are, none drawn from a larger number: the variance is divided by their
number, skewness and kurtosis (3 less, 0 for a normal distribution) are not corrected for bias, as SciPy's. All are 0
without a region; variance, skewness and kurtosis are 0 for a single one, and where all are equal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from digipath.errors import SpecError
from digipath.geometry.raster import Raster
from digipath.geometry.shapes import Shape, measure

__all__ = ["FEATURES", "lesion_features"]

_STATISTICS = ("max", "mean", "variance", "skewness", "kurtosis")
_MEASURES = (
    ("area", "um2", "um4"),
    ("perimeter", "um", "um2"),
    *((name, "", "") for name in ("eccentricity", "extent", "solidity")),
)
_STRIP_PIXELS = 1 << 22


def _names(measure: str, unit: str, squared: str) -> list[str]:
    units = (unit, unit, squared, "", "")
    return ["_".join(filter(None, (measure, name, one))) for name, one in zip(_STATISTICS, units, strict=True)]


# In the table's order; at 0.9 where no threshold is in the name.
FEATURES = (
    "largest_region_major_axis_um",
    "largest_region_major_axis_at_50_um",
    "largest_region_area_at_50_um2",
    "tumour_tissue_ratio",
    "tumour_area_um2",
    *(name for each in _MEASURES for name in _names(*each)),
    "mean_probability",
    "region_count",
)


def lesion_features(
    heatmap: Raster, *, tissue: Raster | None = None, covered: Raster | None = None
) -> dict[str, float]:
    """The features of a slide's heatmap, in the order of `FEATURES`; each is 0 where there is no region.

    - `largest_region_major_axis_um`, `largest_region_major_axis_at_50_um`: of the region of the largest area, at >= 0.9
      and at > 0.5; `largest_region_area_at_50_um2`: its area at > 0.5.
    - `tumour_tissue_ratio`: area of all pixels at >= 0.9, which is `tumour_area_um2`, over the area of tissue.
    - `area_…`, `perimeter_…`, `eccentricity_…`, `extent_…`, `solidity_…`: maximum, mean, variance, skewness and
      kurtosis over the regions at >= 0.9, measured by `digipath.geometry.shapes.measure`.
    - `mean_probability`: mean of these regions' mean probabilities; `region_count`: their number.

    Names end with their unit: um, um2, um4 (of an area's variance); those without one are pure numbers. The heatmap is
    looked at in strips, so that it may lie on disk.

    Args:
        heatmap: Single-layer probabilities of tumour.
        tissue: Mask of tissue, at any resolution; by default all that is covered is tissue.
        covered: Mask in the heatmap's frame of what is looked at; by default all pixels on the slide.
    """
    _check(heatmap, tissue, covered)
    sure = measure(_above(heatmap, covered, 0.9, equal=True), heatmap)
    likely = measure(_above(heatmap, covered, 0.5, equal=False))[:1]
    area = sum(shape.area_um2 for shape in sure)
    tissue_um2 = _tissue_um2(heatmap, tissue, covered)
    values = [
        *(shapes[0].major_axis_um if shapes else 0.0 for shapes in (sure, likely)),
        likely[0].area_um2 if likely else 0.0,
        area / tissue_um2 if tissue_um2 else 0.0,
        area,
        *(value for name, *units in _MEASURES for value in _statistics(sure, "_".join(filter(None, (name, units[0]))))),
        float(np.mean([shape.mean_probability for shape in sure])) if sure else 0.0,
        float(len(sure)),
    ]
    return dict(zip(FEATURES, values, strict=True))


def _check(heatmap: Raster, tissue: Raster | None, covered: Raster | None) -> None:
    if heatmap.channels or np.dtype(heatmap.values.dtype).kind != "f":
        raise SpecError(
            "features are of a single layer of probabilities, got "
            f"{'the channels ' + ', '.join(heatmap.channels) if heatmap.channels else heatmap.values.dtype}. "
            "Take one layer with .channel(name); divide whole numbers of up to 255 by 255."
        )
    if covered is not None and covered.frame != heatmap.frame:
        raise SpecError(
            f"covered is in the heatmap's frame, got {covered.frame} for {heatmap.frame}. "
            "Bring it there with .resample(heatmap.frame)."
        )
    if tissue is not None and tissue.frame.slide_size != heatmap.frame.slide_size:
        raise SpecError(
            f"tissue and heatmap are of one slide, got {tissue.frame.slide_size} and {heatmap.frame.slide_size} "
            "level-0 pixels."
        )


@dataclass(frozen=True)
class _Above:
    """Where probabilities reach a threshold, worked out where it is looked at; sliced like an array of booleans."""

    values: Any
    covered: Any
    threshold: float
    equal: bool

    dtype = np.dtype(bool)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, where: Any) -> np.ndarray:
        values = np.asarray(self.values[where])
        above = values >= self.threshold if self.equal else values > self.threshold
        return above if self.covered is None else above & (np.asarray(self.covered[where]) != 0)


def _above(heatmap: Raster, covered: Raster | None, threshold: float, *, equal: bool) -> Raster:
    return Raster(_Above(heatmap.values, None if covered is None else covered.values, threshold, equal), heatmap.frame)


def _tissue_um2(heatmap: Raster, tissue: Raster | None, covered: Raster | None) -> float:
    """Area of the tissue that is covered."""
    frame, pixels = heatmap.frame, 0
    if tissue is None and covered is None:
        return frame.on_slide.area * frame.mpp**2
    for box in frame.rows(max(1, _STRIP_PIXELS // frame.width)):
        counted = (
            np.ones((box.height, box.width), bool) if covered is None else np.asarray(covered.values[box.slices()]) != 0
        )
        if tissue is not None:
            counted = counted & (tissue.sample(box, frame) != 0)
        pixels += np.count_nonzero(counted)
    return pixels * frame.mpp**2


def _statistics(shapes: list[Shape], attribute: str) -> list[float]:
    """Maximum, mean, variance, skewness and kurtosis of a measure."""
    if not shapes:
        return [0.0] * len(_STATISTICS)
    values = np.array([getattr(shape, attribute) for shape in shapes])
    mean = values.mean()
    deviations = values - mean
    variance = np.mean(deviations**2)
    # Equal regions differ by rounding alone, whose skewness would mean nothing.
    if np.ptp(values) <= 1e-9 * abs(mean):
        return [float(values.max()), float(mean), 0.0, 0.0, 0.0]
    skewness, kurtosis = (np.mean(deviations**power) / variance ** (power / 2) for power in (3, 4))
    return [float(one) for one in (values.max(), mean, variance, skewness, kurtosis - 3)]
