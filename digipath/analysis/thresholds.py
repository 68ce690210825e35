"""Which tissue sections have tumour: two thresholds, how they are found, and by which trained network to judge.

After J. Le'Clerc Arrastia et al., "Deeply supervised UNet for semantic segmentation to assist dermatopathological
assessment of basal cell carcinoma" (Journal of Imaging 7, 2021), 2.4 and 2.5. Of the regions of a section where the
heatmap is above the prediction threshold, those smaller than the area threshold are left out; a section has tumour if
one is left. So what counts is a section's largest region, `SectionTumour.largest_um2`.

Both thresholds are those of the highest F_1.5 on validation sections, from a grid; so is the network, among the best
five epochs by IoU. The paper does not say its grid. The four optima that it publishes, `PRESETS`, are multiples of 0.05
and of 1,280 um2, and so are the default grids.

**Ties.** Often many thresholds have the same score. Of the best cells the one is taken that is furthest from any cell
with a lower score and from the border of the grid (in steps along either axis or both), as a slightly other slide is
then least likely to change anything; among equals, the one closest to their middle, then the one of the lower area,
then of the lower prediction threshold. Between networks of the same F_beta the more accurate wins, then the first.

**Results per decoder block** (the paper's Table 5): predict with the network cut after each block, measure the sections
of each result, and compare at the thresholds of the whole network:

    for block in range(5):
        segmenter = Segmenter("bundles/bcc-ds", settings=InferenceSettings(early_exit=block))
        for slide, truth in slides:
            result = segmenter.predict(slide)
            sections = find_sections(result.tissue)
            tumour = section_tumour(sections, result.heatmap.channel("tumour"), PREDICTIONS)
            examples.setdefault(f"psi_{block}", []).extend(section_examples(tumour, truth))
    compare(examples, PRESETS["bcc-resnet34-ds"])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from digipath.analysis.sections import SectionTumour
from digipath.errors import SpecError
from digipath.evaluation.overlap import Counts
from digipath.evaluation.sections import SectionScores

__all__ = [
    "AREAS_UM2",
    "PREDICTIONS",
    "PRESETS",
    "Fit",
    "SectionExample",
    "SectionThresholds",
    "Selection",
    "compare",
    "fit_thresholds",
    "section_examples",
    "select_model",
]

PREDICTIONS = tuple(round(0.05 * step, 2) for step in range(1, 20))
AREAS_UM2 = tuple(1280.0 * step for step in range(17))


@dataclass(frozen=True)
class SectionThresholds:
    """When a section has tumour.

    Attributes:
        prediction: Pixels are tumour above this probability.
        area_um2: A region of them that is smaller is left out; at 0 any pixel is enough.
    """

    prediction: float
    area_um2: float

    def __post_init__(self):
        if not (0 <= self.prediction <= 1 and 0 <= self.area_um2 < np.inf):
            raise SpecError(
                "thresholds are a prediction from 0 to 1 and a finite area of at least 0 um2, got "
                f"{self.prediction} and {self.area_um2}."
            )

    def met_by(self, area_um2: float) -> bool:
        """Whether a section whose largest region above `prediction` has this area has tumour."""
        return area_um2 > 0 and area_um2 >= self.area_um2


# Table 3 of the paper: the highest F_1.5 on its validation sections.
PRESETS = {
    "bcc-unet": SectionThresholds(0.45, 8960.0),
    "bcc-resnet34": SectionThresholds(0.60, 3840.0),
    "bcc-resnet34-ds": SectionThresholds(0.60, 5120.0),
    "bcc-resnet34-linear": SectionThresholds(0.65, 2560.0),
}


@dataclass(frozen=True, eq=False)
class SectionExample:
    """A section with its truth, to find thresholds by.

    Attributes:
        tumour: Whether it has tumour.
        predictions: (n,) prediction thresholds, rising.
        areas_um2: (n,) area of its largest region above each; never rises.
    """

    tumour: bool
    predictions: np.ndarray
    areas_um2: np.ndarray

    def __post_init__(self):
        predictions, areas = np.asarray(self.predictions, float), np.asarray(self.areas_um2, float)
        if predictions.ndim != 1 or predictions.shape != areas.shape or not len(areas):
            raise SpecError(f"an example has an area at each prediction threshold, got {areas.shape} of these.")
        if not ((np.diff(predictions) > 0).all() and (np.diff(areas) <= 0).all() and areas[-1] >= 0):
            raise SpecError(
                "prediction thresholds rise and areas never do, as less and less is above a threshold; got "
                f"{predictions.tolist()} with {areas.tolist()} um2."
            )
        object.__setattr__(self, "predictions", predictions)
        object.__setattr__(self, "areas_um2", areas)

    def at(self, prediction: float) -> float:
        """The area above one of the prediction thresholds."""
        near = np.flatnonzero(np.isclose(self.predictions, prediction, rtol=0, atol=1e-9))
        if not len(near):
            raise SpecError(
                f"areas are known above {', '.join(f'{p:g}' for p in self.predictions)}; got the prediction threshold "
                f"{prediction:g}. Measure the sections with it among the thresholds."
            )
        return float(self.areas_um2[near[0]])


def section_examples(tumour: Sequence[SectionTumour], truth: Sequence[bool]) -> list[SectionExample]:
    """The sections of a slide with their truth, in the same order.

    Args:
        tumour: Of `section_tumour`.
        truth: Whether each has tumour.
    """
    if len(tumour) != len(truth):
        raise SpecError(
            f"every section has its truth, got {len(tumour)} sections and {len(truth)} truths. Look at the slide's "
            "sections, and at join_um and min_area_mm2 of find_sections."
        )
    return [SectionExample(bool(has), one.predictions, one.largest_um2) for one, has in zip(tumour, truth, strict=True)]


@dataclass(frozen=True, eq=False)
class Fit:
    """What the search for thresholds found.

    Attributes:
        best: The thresholds.
        scores: What they achieve on the sections that they were found by.
        grid: (predictions, areas) F_beta at every pair of thresholds.
        predictions: (n,) prediction thresholds of the grid's rows.
        areas_um2: (m,) area thresholds of its columns.
    """

    best: SectionThresholds
    scores: SectionScores
    grid: np.ndarray
    predictions: np.ndarray
    areas_um2: np.ndarray


def fit_thresholds(
    examples: Sequence[SectionExample],
    *,
    predictions: Sequence[float] | None = None,
    areas: Sequence[float] = AREAS_UM2,
    beta: float = 1.5,
) -> Fit:
    """The thresholds with the highest F_beta on some sections, and the score of all others.

    Args:
        examples: Sections of all validation slides, some with tumour and some without.
        predictions: Prediction thresholds to try, rising, of those that the areas are known at; by default all.
        areas: Area thresholds to try, in um2, rising.
        beta: Weight of sensitivity against precision; the paper has 1.5.
    """
    if len({example.tumour for example in examples}) < 2:
        raise SpecError(
            "thresholds are found by sections with tumour and sections without, got "
            f"{sum(example.tumour for example in examples)} with and "
            f"{sum(not example.tumour for example in examples)} without."
        )
    rows = np.array(examples[0].predictions if predictions is None else predictions, float)
    columns = np.array(areas, float)
    for name, axis in (("predictions", rows), ("areas", columns)):
        if axis.ndim != 1 or not len(axis) or not (np.diff(axis) > 0).all() or axis[0] < 0:
            raise SpecError(f"{name} are one or more rising numbers from 0 on, got {axis.tolist()}.")
    known = np.array([[example.at(prediction) for prediction in rows] for example in examples])
    truth = np.array([example.tumour for example in examples])
    hits, alarms = (_above(known[truth == value], columns) for value in (True, False))
    weighted = (1 + beta**2) * hits
    grid = weighted / (weighted + beta**2 * (truth.sum() - hits) + alarms)
    row, column = _most_central(grid)
    best = SectionThresholds(float(rows[row]), float(columns[column]))
    return Fit(best, _scores(examples, best, beta), grid, rows, columns)


def _above(known: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(predictions, areas) number of sections with tumour at each pair, from their (sections, predictions) areas."""
    least = np.maximum(areas, np.nextafter(0, 1))  # at 0, a section without any tumour has none
    rising = np.sort(known, 0)
    return np.stack([len(rising) - np.searchsorted(column, least, "left") for column in rising.T])


def _most_central(grid: np.ndarray) -> tuple[int, int]:
    """Row and column of the best cell; of equal ones as in this module's description."""
    best = grid >= grid.max() - 1e-12
    depth = ndimage.distance_transform_cdt(np.pad(best, 1), "chessboard")[1:-1, 1:-1]
    cells = np.argwhere(best & (depth == depth.max()))
    away = ((cells - cells.mean(0)) ** 2).sum(1).round(9)
    row, column = cells[np.lexsort((cells[:, 0], cells[:, 1], away))[0]]
    return int(row), int(column)


def _scores(examples: Sequence[SectionExample], thresholds: SectionThresholds, beta: float) -> SectionScores:
    said = np.array([thresholds.met_by(example.at(thresholds.prediction)) for example in examples], bool)
    return SectionScores(counts=Counts.of(said, np.array([example.tumour for example in examples], bool)), beta=beta)


@dataclass(frozen=True, eq=False)
class Selection:
    """The network and the thresholds that belong together.

    Attributes:
        name: Of the network, such as its epoch.
        fit: Its thresholds and scores.
        fits: The fits of all, by name.
    """

    name: str
    fit: Fit
    fits: Mapping[str, Fit]


def select_model(
    epochs: Mapping[str, Sequence[SectionExample]],
    *,
    areas: Sequence[float] = AREAS_UM2,
    beta: float = 1.5,
) -> Selection:
    """Choose a network and both thresholds together, by F_beta on the same validation sections.

    Args:
        epochs: By name, for each network, such as the best five epochs by IoU, its examples; the sections are the same,
            in the same order.
        areas: Area thresholds to try, in um2.
        beta: Weight of sensitivity against precision.
    """
    truths = {name: [example.tumour for example in examples] for name, examples in epochs.items()}
    if not truths or any(truth != next(iter(truths.values())) for truth in truths.values()):
        raise SpecError(
            "networks are chosen by the same sections in the same order, got "
            f"{', '.join(f'{len(truth)} sections of {name}' for name, truth in truths.items()) or 'no network'} "
            "whose truth is not the same."
        )
    fits = {name: fit_thresholds(examples, areas=areas, beta=beta) for name, examples in epochs.items()}
    name = max(fits, key=lambda one: (round(fits[one].scores.f_beta, 12), fits[one].scores.accuracy))
    return Selection(name, fits[name], fits)


def compare(
    examples: Mapping[str, Sequence[SectionExample]], thresholds: SectionThresholds, *, beta: float = 1.5
) -> list[dict[str, float | int | str | None]]:
    """The scores of several networks, or of the blocks of one decoder, at the same thresholds.

    Args:
        examples: By name, the sections as measured with each.
        thresholds: For all.
        beta: Weight of sensitivity against precision.

    Returns:
        A row of each: "name", "accuracy", "sensitivity", "specificity", "f_beta" (None where undefined), "sections",
        "fp", "fn".
    """
    return [{"name": name} | _scores(sections, thresholds, beta).row() for name, sections in examples.items()]
