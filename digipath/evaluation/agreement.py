"""How well stages of patients agree with the reference: CAMELYON17's quadratic weighted kappa.

    pairs = pair_stages(reference, submission)          name -> stage, as read from the two CSV files
    quadratic_kappa(reference, submission)              the challenge's score
    kappa_of(confusion_of(pairs))                       the same of any pairs, for example of a bootstrap's resample

After the organisers' page and their `evaluation.py` (camelyon17.grand-challenge.org/Evaluation; Bandi et al., "From
detection of individual metastases to classification of lymph node status at the patient level: the CAMELYON17
challenge", IEEE TMI 2019): of both files the rows whose name ends in .zip are patients, all others are passed over;
stages are compared in lower case; each patient of the reference must be in the submission; patients of the submission
alone do not count. The score is `cohen_kappa_score(..., labels=<the five stages>, weights="quadratic")` of
scikit-learn.

**Undefined.** Where all patients have one and the same stage in reference and submission, kappa is 0 / 0: chance would
agree as well. It is NaN then, as in scikit-learn, although all agree.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from digipath.errors import ResultError, SpecError

__all__ = ["STAGES", "StagePair", "confusion_of", "kappa_of", "pair_stages", "quadratic_kappa"]

STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")

_PLACES = {stage.lower(): place for place, stage in enumerate(STAGES)}
_PATIENT = ".zip"


class StagePair(NamedTuple):
    """What two say of one patient."""

    patient: str
    reference: str
    submission: str


def pair_stages(reference: Mapping[str, str], submission: Mapping[str, str]) -> list[StagePair]:
    """The patients of the reference with both stages, spelt as in `STAGES`, in the reference's order.

    Args:
        reference: Stage by name; names that end in .zip are patients, and what others are of does not matter.
        submission: The same of who is judged.

    Raises:
        ResultError: The reference has no patient, patients are missing from the submission, or stages are unknown; all
            such patients are named.
    """
    truth, said = _patients(reference), _patients(submission)
    if not truth:
        raise ResultError(
            f"a reference has rows of patients, such as 'patient_000.zip,pN0'; none of its {len(reference)} names ends "
            f"in {_PATIENT}. Take the file with the patients' stages."
        )
    if missing := [name for name in truth if name not in said]:
        raise ResultError(
            f"a submission has a stage for each of the reference's {len(truth)} patients; missing are "
            f"{len(missing)}: {', '.join(missing)}."
        )
    _check_known(truth, "reference")
    _check_known({name: said[name] for name in truth}, "submission")
    return [StagePair(name, _spelt(stage), _spelt(said[name])) for name, stage in truth.items()]


def _patients(stages: Mapping[str, str]) -> dict[str, str]:
    """Of the rows that are patients, the stage by the name in lower case."""
    rows = [(name.strip().lower(), stage.strip().lower()) for name, stage in stages.items()]
    rows = [(name, stage) for name, stage in rows if name.endswith(_PATIENT)]
    found = dict(rows)
    if len(found) < len(rows):
        raise ResultError("a patient has one stage; some names differ in nothing but capitals. Keep one row of each.")
    return found


def _spelt(stage: str) -> str:
    return STAGES[_PLACES[stage]]


def _check_known(stages: Mapping[str, str], whose: str) -> None:
    if unknown := [f"{name}: {stage!r}" for name, stage in stages.items() if stage not in _PLACES]:
        raise ResultError(f"stages are {', '.join(STAGES)}; the {whose} has {', '.join(unknown)}.")


def confusion_of(pairs: Iterable[StagePair]) -> np.ndarray:
    """(5, 5) numbers of patients; rows are the reference's stages, columns the submission's, in `STAGES`' order."""
    matrix = np.zeros((len(STAGES), len(STAGES)), np.int64)
    for pair in pairs:
        matrix[_PLACES[pair.reference.lower()], _PLACES[pair.submission.lower()]] += 1
    return matrix


def kappa_of(confusion: np.ndarray) -> float:
    """Quadratic weighted kappa of a confusion matrix (Cohen 1968): 1 - disagreement / disagreement by chance.

    A disagreement weighs the square of the distance between the two classes. 1 is perfect, 0 is chance, and NaN where
    both always say one and the same class.

    Args:
        confusion: (n, n) numbers of cases, classes in their order.
    """
    matrix = np.asarray(confusion, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not (matrix >= 0).all():
        raise SpecError(f"a confusion matrix is square and counts cases, got shape {matrix.shape}.")
    places = np.arange(len(matrix))
    weights = (places[:, None] - places[None, :]) ** 2
    cases = matrix.sum()
    by_chance = float((weights * np.outer(matrix.sum(1), matrix.sum(0))).sum())
    return 1 - float((weights * matrix).sum()) * float(cases) / by_chance if by_chance else math.nan


def quadratic_kappa(reference: Mapping[str, str], submission: Mapping[str, str]) -> float:
    """CAMELYON17's score, NaN where it is undefined; see the module.

    Args:
        reference: Stage by name; names that end in .zip are patients, and what others are of does not matter.
        submission: The same of who is judged.

    Example:
        >>> truth = {"patient_1.zip": "pN0", "patient_2.zip": "pN1", "patient_3.zip": "pN2"}
        >>> round(quadratic_kappa(truth, truth | {"patient_3.zip": "pn1"}), 4)
        0.9333
    """
    return kappa_of(confusion_of(pair_stages(reference, submission)))
