"""CAMELYON17: quadratic weighted kappa of patients' stages."""

import os
from pathlib import Path

from digipath.errors import ResultError
from digipath.evaluation.agreement import STAGES, confusion_of, kappa_of, pair_stages
from digipath.io.stages import read_stages
from digipath.protocols.figures import ConfusionFigure
from digipath.protocols.files import listing
from digipath.protocols.report import Report, Scorer
from digipath.protocols.settings import EvaluationSettings

__all__ = ["camelyon17"]


def camelyon17(
    truth: str | os.PathLike, predictions: str | os.PathLike, *, settings: EvaluationSettings | None = None
) -> Report:
    """Judge stages of patients as CAMELYON17 does.

    Args:
        truth: CSV of `patient,stage`, or a folder with one; rows whose name ends in .zip are patients.
        predictions: The same of who is judged; a patient that is missing is an error.
        settings: By default `EvaluationSettings()`.
    """
    settings = settings or EvaluationSettings()
    reference, submission = read_stages(_table(Path(truth))), read_stages(_table(Path(predictions)))
    pairs = pair_stages(reference, submission)
    scorer = Scorer(settings, unit="patients")
    scores = (
        scorer("kappa", lambda chosen: kappa_of(confusion_of(chosen)), pairs, "quadratic weighted, of five stages"),
        scorer.mean("accuracy", [pair.reference == pair.submission for pair in pairs], "share of patients"),
    )
    matrix = tuple(tuple(row) for row in confusion_of(pairs).tolist())
    drawing = ConfusionFigure(f"kappa {scores[0].value:.3f}, {scores[0].of}", STAGES, matrix, "patients")
    rows = tuple({"patient": pair.patient, "truth": pair.reference, "predicted": pair.submission} for pair in pairs)
    return Report("camelyon17", scores, rows, _notes(reference, submission), settings, {"confusion": drawing})


def _table(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(each for each in path.iterdir() if each.suffix.lower() == ".csv")
    if len(found) != 1:
        raise ResultError(f"{path} holds one CSV file of patients and stages, got {len(found)}. Name the file itself.")
    return found[0]


def _notes(reference: dict[str, str], submission: dict[str, str]) -> tuple[str, ...]:
    known = {name.strip().lower() for name in reference}
    beyond = [name for name in submission if name.lower().endswith(".zip") and name.strip().lower() not in known]
    if not beyond:
        return ()
    return (f"{len(beyond)} patients are not in the truth and do not count: {listing(beyond)}.",)
