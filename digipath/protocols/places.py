"""How large a slide is, where only its truth and its prediction are at hand, and what its pixels are in truth.

Size and micrometres per pixel come from the first that knows them: the prediction, where it is a result of digipath;
the slide itself, in the folder that the settings name; the masks. Of these the largest is as large as the slide, unless
the settings say how much smaller truth is. Outlines are in level-0 pixels; without any of these their slide reaches as
far as they and the detections do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from digipath.data.case import Case
from digipath.data.classes import ClassRules
from digipath.data.cohort import Cohort
from digipath.data.labels import LabelSource, label_source
from digipath.data.mask_files import MaskFile, open_mask, reduction
from digipath.errors import CohortError, DigipathError, ResolutionError, ResultError
from digipath.geometry.detections import Detection
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.io.annotations import read_annotations
from digipath.protocols.files import Entry
from digipath.protocols.settings import EvaluationSettings
from digipath.protocols.tiles import TiledMask, is_grey_tiles, level_values
from digipath.segmentation import Segmentation
from digipath.slides.array import ArraySlide
from digipath.slides.slide import describe

__all__ = ["CLASSES", "Classes", "labels_of", "level0_of", "level_labels", "mask_frame", "origin_of", "place_of"]

CLASSES = ("other", "lesion")

_BEYOND = 1.05  # of a side; outlines drawn by hand may reach over the slide's edge


@dataclass(frozen=True)
class Classes:
    """What masks and outlines mean: see `ClassRules`."""

    names: tuple[str, ...] = CLASSES
    mask_values: Mapping[int, str | None] | None = None
    groups: Mapping[str, str | None] | None = None


def level0_of(frame: Frame) -> Frame:
    """The slide's own pixels, from any frame of it."""
    return Frame.level0(*frame.slide_size, frame.mpp / frame.downsample)


def place_of(
    truth: Entry | None,
    prediction: Entry | Segmentation | None,
    settings: EvaluationSettings,
    *,
    mpp: float,
    detections: Sequence[Detection] = (),
) -> Frame:
    """The slide's own pixels.

    Args:
        truth: Its file.
        prediction: Its result, or the file.
        settings: Where slides are, and what files do not say.
        mpp: Micrometres per level-0 pixel, where nothing tells it.
        detections: Of a slide of outlines, so that all lie on it.
    """
    if isinstance(prediction, Segmentation):
        return level0_of(prediction.heatmap.frame)
    name = next(entry.name for entry in (truth, prediction) if entry is not None)
    if settings.slides is not None:
        return _of_slide(name, settings)
    files = [entry for entry in (truth, prediction) if entry is not None]
    x, y = _reach([entry for entry in files if entry.kind == "outlines"])
    if masks := [entry for entry in files if entry.kind == "mask"]:
        place = _of_masks(masks, settings, mpp=mpp, truth=truth)
        if x > _BEYOND * place.width or y > _BEYOND * place.height:
            raise ResultError(
                f"slide {name!r}: outlines are in level-0 pixels and reach to ({x:.0f}, {y:.0f}), and the mask beside "
                f"them has {place.width} x {place.height}, so it is smaller than the slide. Name the folder of the "
                "slides (--slides)."
            )
        return place
    x, y = max([x, *(found.x for found in detections)]), max([y, *(found.y for found in detections)])
    return Frame.level0(int(x) + 1, int(y) + 1, settings.mpp or mpp)


def _reach(outlines: list[Entry]) -> tuple[float, float]:
    """The largest x and y of all outlines, 0 without any."""
    corners = [shapely.bounds(one.geometry)[2:] for entry in outlines for one in read_annotations(entry.path)]
    x, y = np.array(corners, float).reshape(-1, 2).max(0, initial=0)
    return float(x), float(y)


def _of_slide(name: str, settings: EvaluationSettings) -> Frame:
    folder = settings.slides
    if not folder.is_dir():
        raise ResultError(f"{folder}: slides lie in a folder, and there is none of this name.")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.stem.casefold() == name.casefold()]
    if len(found) != 1:
        listed = f"{len(found)}: {', '.join(path.name for path in found)}" if found else "none"
        raise ResultError(f"{folder} holds one slide of each name; of {name!r} it holds {listed}.")
    known = describe(found[0])
    mpp = settings.mpp or known["mpp"]
    if mpp is None:
        raise ResolutionError(f"{known['mpp_problem']}")
    return Frame.level0(known["width"], known["height"], mpp)


def _of_masks(masks: list[Entry], settings: EvaluationSettings, *, mpp: float, truth: Entry | None) -> Frame:
    factor = settings.truth_downsample or 1.0
    sides = []
    for entry in masks:
        scale = factor if entry is truth else 1.0
        sides.append((tuple(round(side * scale) for side in open_mask(entry.path).size), entry, scale))
    size, entry, scale = max(sides, key=lambda side: side[0][0] * side[0][1])
    own = _mask_mpp(entry.path)
    if settings.truth_downsample is None and entry is truth and own and settings.mpp and own / settings.mpp > 1.01:
        scale = own / settings.mpp
        size = tuple(round(side * scale) for side in size)
    return Frame.level0(*size, settings.mpp or (own / scale if own else mpp))


def _mask_mpp(path: Path) -> float | None:
    """What a TIFF says; the resolution of other images is that of a screen or a printer."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        return describe(path)["mpp"]
    except DigipathError:
        return None


def origin_of(prediction: Entry | Segmentation | None) -> tuple[float, float] | None:
    """From where QuPath counts the pixels of this slide, where a result tells it."""
    return tuple(prediction.info["slide"]["origin"]) if isinstance(prediction, Segmentation) else None


def labels_of(
    entry: Entry, place: Frame, classes: Classes, *, origin: tuple[float, float] | None = None
) -> LabelSource:
    """The class of every pixel of a slide, from a mask of any size or from outlines.

    Args:
        entry: The file.
        place: The slide's own pixels.
        classes: What masks and outlines mean.
        origin: What the positions of a GeoJSON file count from, where it does not say so itself.
    """
    blank = np.broadcast_to(np.uint8(255), place.shape)  # takes no memory
    slide = ArraySlide(blank, mpp=place.mpp, name=entry.name)
    tiles = None
    if entry.kind == "mask":
        mask = open_mask(entry.path)
        tiles = _tiles(mask, place, entry) if is_grey_tiles(mask) else None
        case = Case(slide=slide, mask=tiles or entry.path)
    else:
        case = Case(slide=slide, annotations=tuple(read_annotations(entry.path, origin=origin)))
    cohort = Cohort((case,), classes=classes.names, groups=classes.groups, mask_values=classes.mask_values)
    source = label_source(case, cohort, slide=slide)
    return source if tiles is None else _TileLabels(source, tiles.values)


@dataclass(frozen=True)
class _TileLabels:
    """Labels of a large mask, with its file."""

    source: LabelSource
    tiles: TiledMask

    def read(self, box: Box, frame: Frame) -> np.ndarray:
        """See LabelSource."""
        return self.source.read(box, frame)

    def tumour_area_mm2(self) -> float:
        """See LabelSource."""
        return self.source.tumour_area_mm2()

    def close(self) -> None:
        """Free the file."""
        self.tiles.close()


def _tiles(mask: MaskFile, place: Frame, entry: Entry) -> Raster:
    """A large mask as a raster of its slide."""
    scale, _ = reduction(mask.size, place.slide_size, case=entry.name)
    frame = Frame(*mask.size, scale, place.mpp * scale, place.slide_size)
    return Raster(TiledMask(mask.path), frame)


def level_labels(entry: Entry, place: Frame, classes: Classes, *, downsample: int) -> Raster | None:
    """The class of every pixel of a level that a pyramidal mask as large as its slide stores.

    Args:
        entry: The file.
        place: The slide's own pixels.
        classes: What masks mean.
        downsample: Level-0 pixels per pixel of the level; those of the file may differ by 1 %.

    Returns:
        uint8 labels in a frame of the level's own size, or None where there is no such level, or it was averaged, so
        that it holds values between those that mean something.
    """
    mask = open_mask(entry.path) if entry.kind == "mask" else None
    values = level_values(mask, downsample) if mask is not None and mask.size == place.slide_size else None
    if values is None:
        return None
    rules = ClassRules(classes.names, classes.groups, classes.mask_values)
    try:
        labels = rules.of_mask(values, None, case=entry.name, lossy=mask.lossy)
    except CohortError:
        return None
    height, width = labels.shape
    return Raster(labels, Frame(width, height, downsample, place.mpp * downsample, place.slide_size))


def mask_frame(path: Path, place: Frame) -> Frame:
    """The pixels of a mask as a frame of its slide."""
    columns = open_mask(path).size[0]
    scale = place.width / columns
    whole = round(scale)
    if whole >= 1 and abs(columns * whole - place.width) < whole:
        return place.coarser(whole)
    return place.at(place.mpp * scale)
