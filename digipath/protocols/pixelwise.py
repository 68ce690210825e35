"""Truth and prediction of a slide held against each other pixel by pixel, strip by strip.

They are compared in the pixels of the truth's mask, as challenges do, a normal slide without one in pixels as large as
those of the others' masks; where truth is outlines, in those of the prediction. The settings may name another
resolution. Classes are looked up under pixel centres and never averaged.

Left out, and counted: what truth ignores, and what a result does not cover though it was asked to: tissue that could
not be read, and what lies outside of its region. What a result did not take for tissue is no lesion; leaving that out
would hide what tissue detection has lost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from digipath.data.classes import IGNORED
from digipath.data.labels import LabelSource
from digipath.errors import ResultError
from digipath.evaluation.calibration import Calibration
from digipath.evaluation.overlap import Counts
from digipath.geometry.frame import Box, Frame
from digipath.geometry.layer import Layer
from digipath.geometry.raster import Raster
from digipath.protocols.files import Entry
from digipath.protocols.matching import Partner
from digipath.protocols.places import Classes, labels_of, level0_of, mask_frame, origin_of, place_of
from digipath.protocols.settings import EvaluationSettings
from digipath.segmentation import Segmentation

__all__ = ["Pair", "Part", "Tally", "boxes", "class_of", "highest", "opened", "pairs", "tally", "threshold_of"]

_STRIP_PIXELS = 1 << 25
_ROWS = 512


class Part(NamedTuple):
    """What is predicted in a strip.

    Attributes:
        lesion: (rows, columns) boolean.
        counted: Where something is said.
    """

    lesion: np.ndarray
    counted: np.ndarray


@dataclass(frozen=True)
class Pair:
    """The truth and the prediction of one slide, open.

    Attributes:
        name: Of the slide.
        truth: Its classes; None where no pixel is lesion.
        prediction: A result, or the classes of a mask or outlines.
        frame: The pixels in which they are compared.
        settings: Threshold and class of a result.
    """

    name: str
    truth: LabelSource | None
    prediction: Segmentation | LabelSource
    frame: Frame
    settings: EvaluationSettings

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_) -> None:
        for each in (self.truth, self.prediction):
            if each is not None:
                each.close()

    def predicted(self, box: Box) -> Part:
        """What is predicted in a box of the frame."""
        if isinstance(self.prediction, Segmentation):
            return _of_result(self.prediction, box, self)
        labels = self.prediction.read(box, self.frame)
        return Part(labels == 1, labels != IGNORED)

    def true(self, box: Box, frame: Frame) -> np.ndarray:
        """(rows, columns) uint8 classes in truth, 255 to be ignored, in a box of a frame of the slide."""
        if self.truth is None:
            return np.zeros((box.height, box.width), np.uint8)
        return self.truth.read(box, frame)


@dataclass(frozen=True)
class Tally:
    """What the comparison of one slide counted.

    Attributes:
        name: Of the slide.
        counts: Pixels.
        mpp: Micrometres per pixel that was counted.
        tumour: Whether the truth has any lesion, also where it does not count.
        calibration: Where there are probabilities; else without a pixel.
    """

    name: str
    counts: Counts
    mpp: float
    tumour: bool
    calibration: Calibration = field(default_factory=Calibration)


def opened(entry: Entry | None, settings: EvaluationSettings) -> Entry | Segmentation | None:
    """A prediction's result, open; a file as it is."""
    if entry is None or entry.kind != "result":
        return entry
    result = Segmentation.load(entry.path)
    try:
        class_of(result, settings)
    except ResultError:
        result.close()
        raise
    return result


def class_of(result: Segmentation, settings: EvaluationSettings) -> int:
    """Channel of the class that is judged."""
    name = settings.class_name or result.classes[-1]
    if name not in result.classes:
        raise ResultError(
            f"result {result.info['slide']['name']!r} has the classes {', '.join(result.classes)}, got {name!r}."
        )
    return result.classes.index(name)


def threshold_of(result: Segmentation, settings: EvaluationSettings) -> float:
    """Above which a pixel is lesion."""
    return result.threshold if settings.threshold is None else settings.threshold


def pairs(slides: Sequence[Partner], settings: EvaluationSettings) -> Iterator[tuple[Partner, Pair]]:
    """Truth and prediction of each slide, open until the next one comes; normal slides come last.

    Args:
        slides: Each with a prediction.
        settings: What files do not say.
    """
    scales: set[float] = set()
    for slide in sorted(slides, key=lambda slide: slide.truth is None):
        like = next(iter(scales)) if len(scales) == 1 else None
        with _compared(slide, settings, like=like) as pair:
            if slide.truth is not None and slide.truth.kind == "mask":
                scales.add(pair.frame.downsample)
            yield slide, pair


def _compared(slide: Partner, settings: EvaluationSettings, *, like: float | None = None) -> Pair:
    """Open truth and prediction of a slide.

    Args:
        slide: With a prediction; without a truth it is normal.
        settings: What files do not say.
        like: Level-0 pixels per pixel in which a normal slide is compared.
    """
    found = opened(slide.prediction, settings)
    try:
        place = place_of(slide.truth, found, settings, mpp=1.0)
        source = None
        if slide.truth is not None:
            source = labels_of(slide.truth, place, Classes(mask_values=settings.truth_values), origin=origin_of(found))
        frame = _frame(slide, found, place, like)
        if isinstance(found, Entry):
            found = labels_of(found, place, Classes(mask_values=settings.prediction_values))
    except BaseException:
        if isinstance(found, Segmentation):
            found.close()
        raise
    frame = frame if settings.compare_mpp is None else place.at(settings.compare_mpp)
    return Pair(slide.name, source, found, frame, settings)


def _frame(slide: Partner, found: Entry | Segmentation, place: Frame, like: float | None) -> Frame:
    if slide.truth is not None and slide.truth.kind == "mask":
        return mask_frame(slide.truth.path, place)
    if slide.truth is None and like is not None:
        return place.at(place.mpp * like)
    if isinstance(found, Segmentation):
        return found.heatmap.frame
    return mask_frame(found.path, place) if found.kind == "mask" else place


def boxes(frame: Frame) -> Iterator[Box]:
    """Strips of the pixels whose centre lies on the slide."""
    on = frame.on_slide
    rows = max(_ROWS, _STRIP_PIXELS // on.width // _ROWS * _ROWS)
    for y in range(0, on.height, rows):
        yield Box(0, y, on.width, min(rows, on.height - y))


def tally(pair: Pair) -> Tally:
    """Count all pixels of a slide."""
    counts, tumour = Counts(), False
    for box in boxes(pair.frame):
        truth, part = pair.true(box, pair.frame), pair.predicted(box)
        counts += Counts.of(part.lesion, truth, counted=part.counted)
        tumour |= bool((truth == 1).any())
    return Tally(pair.name, counts, pair.frame.mpp, tumour, _calibration(pair))


def _calibration(pair: Pair) -> Calibration:
    """Each probability of a heatmap once, in its own pixels, however fine the truth."""
    calibration, result = Calibration(), pair.prediction
    if isinstance(result, Segmentation):
        frame, heatmap = result.heatmap.frame, _channel(result, class_of(result, pair.settings))
        for box in boxes(frame):
            truth = pair.true(box, frame)
            calibration.add(heatmap.crop(box), truth, counted=result.covered.crop(box))
    return calibration


def _of_result(result: Segmentation, box: Box, pair: Pair) -> Part:
    frame, channel = pair.frame, class_of(result, pair.settings)
    threshold = threshold_of(result, pair.settings)
    covered = result.covered.sample(box, frame)
    probability = _channel(result, channel).sample(box, frame)
    counted = (covered | ~result.tissue.sample(box, frame)) & _asked(result, box, frame)
    return Part((probability > threshold) & covered, counted)


def _channel(result: Segmentation, channel: int) -> Raster:
    """One class of the heatmap, read where it is looked at."""
    heatmap = result.heatmap
    layer = Layer(heatmap.frame.shape, heatmap.values.dtype, lambda rows: heatmap.values[rows, :, channel])
    return Raster(layer, heatmap.frame)


def _asked(result: Segmentation, box: Box, frame: Frame) -> np.ndarray:
    """Where in a box the result was asked to say something."""
    inside = np.zeros((box.height, box.width), bool)
    region = result.info["region"]
    wanted = box if region is None else level0_of(frame).centres_in(Box(*region), frame).intersect(box)
    inside[wanted.shift(-box.x, -box.y).slices()] = True
    return inside


def highest(result: Segmentation, settings: EvaluationSettings) -> float:
    """The highest probability of the class anywhere that the result covers; 0 where it covers nothing."""
    channel, best = class_of(result, settings), 0.0
    for box in boxes(result.heatmap.frame):
        rows = slice(box.y, box.bottom)
        covered = np.asarray(result.covered.values[rows])
        values = np.asarray(result.heatmap.values[rows, :, channel])
        best = max(best, float(values.max(initial=0, where=covered)))
    return best
