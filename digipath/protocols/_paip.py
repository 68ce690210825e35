"""PAIP 2019: Jaccard index of viable tumour (task 1) and error of the tumour burden (task 2; see docs/evaluation)."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from digipath.errors import ResultError
from digipath.evaluation.challenges import PaipCase, paip_case, paip_task1, paip_task2
from digipath.evaluation.overlap import iou, total
from digipath.protocols._overlap import confusion, row_of, tally_slides, told
from digipath.protocols.files import Entry, Found, find, listing
from digipath.protocols.matching import Partner, partners
from digipath.protocols.pixelwise import Tally
from digipath.protocols.places import Classes, labels_of, place_of
from digipath.protocols.report import Report, Score, Scorer
from digipath.protocols.settings import EvaluationSettings
from digipath.protocols.tables import read_numbers

__all__ = ["paip"]

_BURDEN = "burden.csv"
_KINDS = ("mask", "outlines")
_TASK1 = "mean over all cases of the Jaccard index of viable tumour, 0 where it is below 0.65 or missing"
_TASK2 = "mean of (1 - |burden error| / 100 %) x the case's task-1 score, 0 where missing (as read here)"


@dataclass(frozen=True)
class _Files:
    """What lies in a folder.

    Attributes:
        viable: Files of viable tumour.
        whole: File of the whole tumour by key.
        burdens: Percentages by key where a table tells them, or None.
        classes: What masks mean.
    """

    viable: Found
    whole: dict[str, Entry]
    burdens: dict[str, float] | None
    classes: Classes


def paip(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge viable tumour and its burden as PAIP 2019 does; what is missing counts 0.

    Args:
        truth: Folder of masks or outlines of viable tumour, `NAME` or `NAME_viable`; for task 2 also of the whole
            tumour, `NAME_whole`, or `burden.csv` (`name,burden` in percent).
        predictions: Folder of the same, or of result folders and `burden.csv`.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    truths = _files(Path(truth), _KINDS, Classes(mask_values=settings.truth_values))
    found = _files(Path(predictions), ("result", *_KINDS), Classes(mask_values=settings.prediction_values))
    matched = partners(truths.viable, found.viable, settings)
    tallies = tally_slides([slide for slide in matched.slides if slide.prediction is not None], settings)
    cases = [_case(slide, tallies.get(slide.key), truths, found) for slide in matched.slides]
    scorer = Scorer(settings, unit="cases")
    task1 = paip_task1(cases)
    scores = [
        scorer("task 1", lambda chosen: paip_task1(chosen).score, cases, _TASK1),
        Score("task 1, median", task1.median, f"{len(cases)} cases", "median over all cases, the first tie-breaker"),
        Score("task 1 at 0.35", task1.soft, f"{len(cases)} cases", "with 0.35 for 0.65, the second tie-breaker"),
    ]
    notes = _missing(matched.missing, len(cases)) + told(list(tallies.values()))
    if reason := _no_task2(cases):
        notes.append(reason)
    else:
        scores.append(scorer("task 2", lambda chosen: paip_task2(chosen).score, cases, _TASK2))
    rows = tuple(_row(*each, tallies) for each in zip(matched.slides, cases, strict=True))
    drawings = {}
    if tallies:
        counts = total(one.counts for one in tallies.values())
        drawings = {"confusion": confusion(counts, title=f"pixels of the {len(tallies)} cases with a prediction")}
    return Report("paip", tuple(scores), rows, (*notes, *matched.notes), settings, drawings)


def _files(root: Path, kinds: tuple[str, ...], classes: Classes) -> _Files:
    found = find(root, kinds=kinds, tables=(_BURDEN,))
    viable = [_without(entry, "_viable") for entry in found.entries if not entry.key.endswith("_whole")]
    whole = [_without(entry, "_whole") for entry in found.entries if entry.key.endswith("_whole")]
    table = found.tables.get(_BURDEN)
    burdens = None if table is None else read_numbers(table, "burden", ways=("percent", "tumor_burden"))
    wholes = replace(found, entries=tuple(whole)).by_name(*kinds)
    return _Files(replace(found, entries=tuple(viable)), wholes, burdens, classes)


def _without(entry: Entry, ending: str) -> Entry:
    return replace(entry, name=entry.name[: -len(ending)]) if entry.key.endswith(ending) else entry


def _case(slide: Partner, found: Tally | None, truths: _Files, predictions: _Files) -> PaipCase:
    true = _burden(slide.key, slide.truth, truths)
    if true is not None and true > 100:
        raise ResultError(
            f"case {slide.name!r}: viable tumour is part of the whole, and its truth is {true:.1f} % of it. Are "
            "viable and whole exchanged?"
        )
    predicted = _burden(slide.key, slide.prediction, predictions)
    return PaipCase(None if found is None else iou(found.counts), predicted, true)


def _burden(key: str, viable: Entry | None, files: _Files) -> float | None:
    """In percent: what the table says, else viable over whole; 0 where there is no tumour at all."""
    if files.burdens is not None:
        return files.burdens.get(key)
    whole = files.whole.get(key)
    if viable is None or whole is None or viable.kind == "result":
        return None
    if viable.kind != whole.kind:
        raise ResultError(f"viable and whole are both masks or both outlines, got {viable.path} and {whole.path.name}.")
    part, all_of_it = _area(viable, files.classes), _area(whole, files.classes)
    if part and not all_of_it:
        raise ResultError(f"{whole.path}: the whole tumour is empty, and its viable part in {viable.path.name} is not.")
    return 100 * part / all_of_it if all_of_it else 0.0


def _area(entry: Entry, classes: Classes) -> float:
    """Share of the slide of a mask, for those of one slide may differ in size; of outlines, the area."""
    place = place_of(entry, None, EvaluationSettings(), mpp=1.0)
    labels = labels_of(entry, place, classes)
    try:
        area = labels.tumour_area_mm2() / place.pixel_mm2
    finally:
        labels.close()
    return area / place.box.area if entry.kind == "mask" else area


def _missing(names: list[str], cases: int) -> list[str]:
    return [f"{len(names)} of {cases} cases have no prediction and count 0: {listing(names)}."] if names else []


def _no_task2(cases: list[PaipCase]) -> str | None:
    without = sum(case.truth is None for case in cases)
    if without:
        return f"no task 2: {without} of {len(cases)} cases have no true burden (NAME_whole masks or {_BURDEN})."
    if all(case.burden is None for case in cases):
        return f"no task 2: no burden is predicted (NAME_whole masks or {_BURDEN})."
    return None


def _row(slide: Partner, case: PaipCase, tallies: dict[str, Tally]) -> dict:
    measures = {
        "jaccard": case.jaccard,
        "task1": paip_case(case.jaccard),
        "burden": case.burden,
        "true_burden": case.truth,
    }
    found = tallies.get(slide.key)
    return {"slide": slide.name, **measures} if found is None else row_of(found, **measures)
