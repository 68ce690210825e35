"""Where to look on a slide, as the user says it: a file, an array, a function, or nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import rasterize
from digipath.geometry.raster import Raster
from digipath.io.annotations import read_annotations
from digipath.slides.slide import Slide
from digipath.slides.tissue import find_tissue

__all__ = ["FoundTissue", "TissueSource", "clip", "resolve_tissue"]

TissueSource: TypeAlias = str | Path | np.ndarray | Raster | Callable[[Slide], np.ndarray | Raster] | None

_MPP = 8.0
_ANNOTATIONS = (".geojson", ".json", ".xml", ".gz")


@dataclass(frozen=True)
class FoundTissue:
    """Where to look on a slide, and why there.

    Attributes:
        mask: True where there is tissue.
        explanation: How it was found, or who gave it.
        dark: Whether the slide's background is dark, as in fluorescence.
        given: Whether the user said where it is.
    """

    mask: Raster
    explanation: str
    dark: bool = False
    given: bool = False


def resolve_tissue(source: TissueSource, slide: Slide) -> FoundTissue:
    """Find the tissue, or take the user's word for it.

    Args:
        source: A mask image (not 0 is tissue), GeoJSON, ASAP or ImageScope file; an array that covers the slide, at any
            size of equal aspect; a Raster; a function of the slide that returns an array or a Raster; None finds the
            tissue.
        slide: The slide.

    Raises:
        SpecError: It does not fit the slide, or cannot be read.
    """
    if source is None:
        found = find_tissue(slide)
        return FoundTissue(found.mask, found.explanation, found.dark)
    return FoundTissue(_given(source, slide), f"given as {_kind(source)}", given=True)


def _given(source: str | Path | np.ndarray | Raster | Callable, slide: Slide) -> Raster:
    if callable(source):
        source = source(slide)
    if isinstance(source, Raster):
        if source.frame.slide_size != slide.frame.slide_size:
            raise SpecError(
                f"a tissue raster belongs to its slide of {slide.frame.slide_size} level-0 pixels, "
                f"got one of {source.frame.slide_size}."
            )
        if source.channels:
            raise SpecError(f"a tissue raster is one layer, got channels {', '.join(source.channels)}.")
        return source if source.values.dtype == bool else Raster(source.array() != 0, source.frame)
    if isinstance(source, str | Path):
        path = Path(source)
        if "".join(path.suffixes[-1:]).lower() in _ANNOTATIONS:
            corner = (slide.bounds.x, slide.bounds.y) if slide.bounds else None
            return rasterize(read_annotations(path, origin=corner), _frame(slide, _MPP))
        source = _read_image(path)
    return _cover(np.asarray(source), slide)


def _kind(source: str | Path | np.ndarray | Raster | Callable) -> str:
    if isinstance(source, str | Path):
        return f"the file {Path(source).name}"
    return "a function" if callable(source) else "an array"


def _frame(slide: Slide, mpp: float) -> Frame:
    return slide.frame.at(max(mpp, slide.frame.mpp))


def _cover(mask: np.ndarray, slide: Slide) -> Raster:
    """An array that covers the slide, as a raster of about its own resolution."""
    if mask.ndim != 2 or not mask.size:
        raise SpecError(f"a tissue mask has the shape (rows, columns), got {mask.shape}.")
    (rows, columns), (width, height) = mask.shape, slide.frame.slide_size
    if abs(columns * height / width - rows) > 1.5 and abs(rows * width / height - columns) > 1.5:
        raise SpecError(
            f"a tissue mask covers its slide, {width} x {height} pixels, at equal aspect; got {columns} x {rows} "
            f"(width x height). Resize it, or turn it if rows and columns are swapped."
        )
    frame = _frame(slide, slide.frame.mpp * max(width / columns, height / rows))
    index = [
        np.minimum(((np.arange(n) + 0.5) * frame.downsample * side / extent).astype(int), side - 1)
        for n, side, extent in zip(frame.shape, mask.shape, (height, width), strict=True)
    ]
    return Raster(mask[np.ix_(*index)] != 0, frame)


def _read_image(path: Path) -> np.ndarray:
    """The image's values as they are: as grey levels, a dark colour and a fraction would be 0."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGB") if image.mode == "CMYK" else image)
    except FileNotFoundError:
        raise SpecError(f"there is no tissue file {path}.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise SpecError(
            f"a tissue file is an image, GeoJSON, ASAP or ImageScope XML; {path.name} cannot be read as one ({error})."
        ) from error
    if values.ndim == 2:
        return values
    return values[..., : 3 if values.shape[2] >= 3 else 1].any(axis=-1)  # the last of two or four is opacity


def clip(tissue: Raster, region: Box, slide: Slide) -> Raster:
    """A copy of the mask without what lies outside of a region in level-0 pixels, whole pixels kept at its border."""
    values = np.zeros(tissue.frame.shape, bool)
    inside = slide.frame.box_in(region, tissue.frame).intersect(tissue.frame.box).slices()
    values[inside] = tissue.values[inside]
    return Raster(values, tissue.frame)
