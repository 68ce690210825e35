"""Tissue sections with and without tumour, as in Le'Clerc Arrastia et al. 2021."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from digipath.errors import ResultError
from digipath.evaluation.sections import section_scores
from digipath.protocols._overlap import confusion
from digipath.protocols.files import chosen, listing
from digipath.protocols.report import Report, Scorer
from digipath.protocols.settings import EvaluationSettings
from digipath.protocols.tables import bare, read_columns, said

__all__ = ["sections"]

_SLIDE = ("slide", "name", "image", "file")
_TRUTH = {"slide": _SLIDE, "section": ("section", "id"), "truth": ("truth", "tumor", "tumour", "label", "class")}
_PREDICTED = {
    "slide": _SLIDE,
    "section": ("section", "id"),
    "predicted": ("predicted", "prediction", "class"),
    "area": ("largest_um2", "area_um2"),
}
_MEANINGS = {
    "accuracy": "share of sections told right",
    "sensitivity": "share of sections with tumour that are found",
    "specificity": "share of sections without tumour that are left in peace",
    "f_beta": "F_1.5 of sections",
}


class _Section(NamedTuple):
    """A section of a slide, and the two answers."""

    slide: str
    section: str
    truth: bool
    predicted: bool


def sections(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge which sections are said to have tumour.

    Args:
        truth: CSV of `slide,section,truth`, 1 or 0 (or tumor and normal, true and false).
        predictions: CSV of `slide,section,predicted`; or of `slide,section,largest_um2`, the area of the section's
            largest region of tumour, with `settings.area_um2`, from which on the section has tumour. It may be the
            same file. A section that is missing is an error.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    truths, found = _truths(Path(truth), settings), _predictions(Path(predictions), settings)
    if missing := [f"{slide} {section}" for slide, section in truths if (slide, section) not in found]:
        raise ResultError(
            f"{predictions} has a line for each of the {len(truths)} sections of the truth; {len(missing)} are "
            f"missing: {listing(missing)}."
        )
    cases = [_Section(*key, tumour, found[key]) for key, tumour in truths.items()]
    scorer = Scorer(settings, unit="sections")
    scores = tuple(
        scorer("F1.5" if name == "f_beta" else name, _statistic(name), cases, meaning)
        for name, meaning in _MEANINGS.items()
    )
    counts = _scores(cases).counts
    drawing = confusion(counts, title=f"{len(cases)} sections, F1.5 {scores[-1].value:.3f}", what="sections")
    beyond = [f"{slide} {section}" for slide, section in found if (slide, section) not in truths]
    notes = (f"{len(beyond)} sections have no truth and do not count: {listing(beyond)}.",) if beyond else ()
    rows = tuple(case._asdict() for case in cases)
    return Report("sections", scores, rows, notes, settings, {"confusion": drawing})


def _scores(cases: Sequence[_Section]):
    return section_scores([case.truth for case in cases], [case.predicted for case in cases])


def _statistic(name: str):
    return lambda cases: getattr(_scores(cases), name)


def _truths(path: Path, settings: EvaluationSettings) -> dict[tuple[str, str], bool]:
    rows = _keyed(read_columns(path, _TRUTH), path)
    return {key: said(row, "truth", path=path) for key, row in rows.items() if not chosen(key[0], settings.exclude)}


def _predictions(path: Path, settings: EvaluationSettings) -> dict[tuple[str, str], bool]:
    rows = _keyed(read_columns(path, _PREDICTED), path)
    return {key: _predicted(row, path, settings) for key, row in rows.items() if not chosen(key[0], settings.exclude)}


def _predicted(row: dict[str, str], path: Path, settings: EvaluationSettings) -> bool:
    if settings.area_um2 is None:
        if "predicted" not in row and "area" in row:
            raise ResultError(
                f"{path} gives areas of tumour; say from how many um2 on a section has tumour (area_um2, --area-um2)."
            )
        return said(row, "predicted", path=path)
    try:
        area = float(row.get("area", ""))
    except ValueError:
        area = math.nan
    if not 0 <= area < math.inf:
        raise ResultError(
            f"{path}, line {row['line']}: with area_um2 each section has its area, a number of um2 from 0 on, in the "
            f"column largest_um2, got {row.get('area', '')!r}."
        )
    return area >= settings.area_um2


def _keyed(rows: list[dict[str, str]], path: Path) -> dict[tuple[str, str], dict[str, str]]:
    keyed: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        key = (bare(row.get("slide", "")), row.get("section", ""))
        if not all(key) or key in keyed:
            fault = "comes again" if key in keyed else "lacks one of them"
            raise ResultError(f"{path}, line {row['line']}: a line is of one slide and section; this one {fault}.")
        keyed[key] = row
    if not keyed:
        raise ResultError(f"{path} has a line for each section, slide,section and what is said of it; it has none.")
    return keyed
