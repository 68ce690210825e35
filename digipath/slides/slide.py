"""What a slide is, and how a file becomes one."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import openslide

from digipath.errors import DigipathError, ResolutionError, SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.slides._fastslide import FastSlideSource, fastest
from digipath.slides._image import check_rgb_tiff, is_plain_image, is_tiff, is_whole_tiff, open_image
from digipath.slides._levels import Opening, Source
from digipath.slides._openslide import OpenSlideSource
from digipath.slides._pyramid import PyramidSlide
from digipath.slides._resolution import Resolution, contradiction, given_resolution, resolve
from digipath.slides.array import ArraySlide, ArraySource

__all__ = ["BACKENDS", "Slide", "contradiction", "describe", "open_slide"]

BACKENDS = ("auto", "openslide", "fastslide", "image")


@runtime_checkable
class Slide(Protocol):
    """An open whole-slide image from which any Box can be read in any Frame, by any number of threads.

    Attributes:
        path: The file, or None for an array.
        name: The file's stem, or the name of an array.
        frame: The slide's own pixels, and their micrometres per pixel.
        mpp_source: Where the resolution comes from: "openslide", "tiff-resolution", "image-description",
            "image-resolution", "objective-power (guess)" or "user".
        backend: What decodes the pixels: "openslide", "fastslide", "image" or "array".
        dtype: Type of the pixels: uint8, or float32 for an ArraySlide of floating point.
        bounds: The scanned area in level-0 pixels where the file tells it; QuPath's origin is its corner.
        properties: What the file says of itself.
        repairs: Level-0 boxes that were read from a coarser level, because the file is damaged there.
    """

    path: Path | None
    name: str
    frame: Frame
    mpp_source: str
    backend: str
    dtype: np.dtype
    bounds: Box | None
    properties: Mapping[str, str]
    repairs: list[Box]

    def read(self, box: Box, frame: Frame, *, kernel: str = "box") -> np.ndarray:
        """Give the pixels of `box` in `frame`, a frame of this slide such as `slide.frame.at(mpp)`.

        Any box reads as it would when cropped from the whole frame. Outside of the slide is white, and a pixel that
        is partly outside is blended with white.

        Args:
            box: Rectangle in `frame`; it may cross the border.
            frame: The resolution; down to half of the slide's own mpp, where it is enlarged (`is_enlarged`).
            kernel: How coarser pixels are made: "box" (mean over their area), "bilinear", "bicubic" or "lanczos".

        Returns:
            (box.height, box.width, 3) RGB in uint8; in float32 for an ArraySlide of floating point.

        Raises:
            UnreadableRegionError: The file is damaged there at every resolution.
            ResolutionError: The frame is more than twice as fine as the slide.
        """

    def read_covered(self, box: Box, frame: Frame, *, kernel: str = "box") -> tuple[np.ndarray, list[Box]]:
        """Give what can be read of `box`, and the level-0 boxes that cannot be, which are white."""

    def is_enlarged(self, frame: Frame) -> bool:
        """Tell whether `frame` is finer than the slide, so that its pixels are interpolated."""

    def levels(self) -> list[dict[str, float]]:
        """Give width, height and downsample of what is stored, finest first: to be shown."""

    def fingerprint(self) -> dict[str, Any]:
        """Give what identifies the file: its size in bytes and a hash of its ends."""

    def close(self) -> None:
        """Free the file."""

    def __enter__(self) -> "Slide": ...

    def __exit__(self, *exception: object) -> None: ...


def open_slide(path: str | Path | Slide, *, mpp: float | None = None, backend: str = "auto") -> Slide:
    """Open a whole-slide image or a plain image; an open Slide is given back as it is.

    Args:
        path: A file.
        mpp: Micrometres per pixel, in place of what the file says; needed where it says nothing plausible.
        backend: "auto", or the one reader to use: "openslide", which also shows the first of a TIFF's several channels,
            "fastslide" or "image".

    Raises:
        ResolutionError: The file does not tell its micrometres per pixel, and no `mpp` was given.
        SlideError: It is no slide, or it cannot be opened.

    Example:
        >>> with open_slide("slide.svs") as slide:  # doctest: +SKIP
        ...     patch = slide.read(Box(0, 0, 512, 512), slide.frame.at(0.5))
    """
    if isinstance(path, Slide):
        if mpp is not None and not math.isclose(mpp, path.frame.mpp, rel_tol=1e-6):
            raise SpecError(
                f"an open slide has its resolution, here {path.frame.mpp:g} um per pixel, got mpp={mpp:g} beside it. "
                f"Open the slide with that: open_slide(path, mpp={mpp:g})."
            )
        return path
    given = None if mpp is None else given_resolution(mpp)
    path = Path(path)
    source = _open_source(path, backend)
    try:
        found: Resolution = given or resolve(path.name, source.properties)
    except ResolutionError:
        source.close()
        raise
    opening = Opening(
        mpp=found.mpp,
        mpp_source=found.source,
        path=path,
        name=path.stem,
        bounds=_bounds(source.properties),
        reopen=(_reopen, (str(path.absolute()), mpp, backend)),
    )
    return (ArraySlide.opened if isinstance(source, ArraySource) else PyramidSlide)(source, opening)


def _reopen(path: str, mpp: float | None, backend: str) -> Slide:
    return open_slide(path, mpp=mpp, backend=backend)


def describe(path: str | Path) -> dict[str, Any]:
    """What a file is, also where its resolution is unknown.

    Returns:
        path, backend, width, height, levels (width, height, downsample), mpp and mpp_source (None where unknown),
        mpp_problem (what to do then, else None), bounds (left, top, right, bottom in level-0 pixels, or None), vendor,
        objective_power, properties.
    """
    path = Path(path)
    source = _open_source(path, "auto")
    try:
        found, problem = resolve(path.name, source.properties), None
    except ResolutionError as error:
        found, problem = None, str(error)
    source.close()
    bounds = _bounds(source.properties)
    return {
        "path": str(path),
        "backend": source.backend,
        "width": source.levels[0].width,
        "height": source.levels[0].height,
        "levels": [{"width": e.width, "height": e.height, "downsample": e.downsample} for e in source.levels],
        "mpp": found and found.mpp,
        "mpp_source": found and found.source,
        "mpp_problem": problem,
        "bounds": bounds and bounds.bounds,
        "vendor": source.properties.get("openslide.vendor"),
        "objective_power": source.properties.get("openslide.objective-power"),
        "properties": dict(source.properties),
    }


def _open_source(path: Path, backend: str) -> Source:
    """The first reader that opens the file, or one line that says why none does."""
    if backend not in BACKENDS:
        raise SpecError(f"backend is one of {', '.join(BACKENDS)}, got {backend!r}.")
    head = _head(path)
    if backend == "image":
        return open_image(path, head)
    try:
        source = OpenSlideSource(path)
    except openslide.OpenSlideError as error:
        return _open_refused(path, backend, error)
    try:
        if backend == "openslide":
            return source
        if source.properties.get("openslide.vendor") == "generic-tiff":
            check_rgb_tiff(path)
        return FastSlideSource(path, source) if backend == "fastslide" else fastest(path, source)
    except SlideError:
        source.close()
        raise


def _open_refused(path: Path, backend: str, refusal: openslide.OpenSlideError) -> Source:
    """A file that OpenSlide does not open, through the other readers."""
    reason, mirax = " ".join(str(refusal).split()), path.suffix.lower() == ".mrxs"
    if isinstance(refusal, openslide.OpenSlideUnsupportedFormatError):
        reason = "no reader knows its format"
    if backend == "fastslide":
        return FastSlideSource(path)
    if backend == "auto":
        head, unknown = _head(path), isinstance(refusal, openslide.OpenSlideUnsupportedFormatError)
        # An MRXS file starts with a small JPEG of the slide; the slide is in its folder.
        if is_plain_image(head) and not mirax:
            return open_image(path, head)
        try:
            if is_tiff(head):
                return open_image(path, head)
        except SlideError as error:
            reason = str(error) if unknown else reason
        source = None if mirax or (is_tiff(head) and not is_whole_tiff(path)) else fastest(path, None)
        if source is not None:
            return source
    hint = " An MRXS slide needs the folder of the same name beside it." if mirax else ""
    raise SlideError(f"slide {path.name} cannot be opened: {reason.rstrip('.')}.{hint}") from refusal


def _head(path: Path) -> bytes:
    """The file's first bytes; refuses what is no file."""
    if path.is_dir():
        raise SlideError(f"{path} is a folder; a slide is a file (of a DICOM slide, any one of its files).")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise SlideError(f"there is no file {path}.") from error
    except OSError as error:
        raise SlideError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise SlideError(f"{path} is empty; was it copied completely?")
    return head


def _bounds(properties: Mapping[str, str]) -> Box | None:
    try:
        return Box(*(int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")))
    except (KeyError, ValueError, DigipathError):
        return None
