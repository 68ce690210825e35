"""Which slides are judged: those with a truth, and normal slides, which need none."""

from collections.abc import Iterable
from dataclasses import dataclass

from digipath.errors import ResultError
from digipath.protocols.files import FAILURES, Entry, Found, chosen, listing
from digipath.protocols.settings import EvaluationSettings
from digipath.protocols.tables import bare, read_columns, read_numbers

__all__ = ["REFERENCE", "SCORES", "Partner", "Partners", "partners", "require_all", "slide_scores"]

REFERENCE, SCORES = "reference.csv", "slide_scores.csv"

_CLASS = ("class", "type", "label", "truth", "tumor", "tumour")
_NORMAL, _TUMOUR = ("normal", "negative"), ("tumor", "tumour")
_NAME = ("name", "slide", "image", "case", "file")


@dataclass(frozen=True)
class Partner:
    """One slide.

    Attributes:
        name: As its truth or prediction is called.
        truth: None for a normal slide.
        prediction: None where it is missing.
    """

    name: str
    truth: Entry | None
    prediction: Entry | None

    @property
    def key(self) -> str:
        """The name by which it is matched."""
        return self.name.casefold()


@dataclass(frozen=True)
class Partners:
    """All slides that a protocol judges, in the order of their names.

    Attributes:
        slides: Those with a truth, and normal ones.
        notes: What does not count, a line for each reason.
    """

    slides: tuple[Partner, ...]
    notes: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Names of slides without a prediction."""
        return [slide.name for slide in self.slides if slide.prediction is None]


def partners(truth: Found, predictions: Found, settings: EvaluationSettings) -> Partners:
    """Match truth and predictions by name.

    A slide with a file of truth is judged by that. Normal slides without one are those that the settings name and those
    that `reference.csv` beside the truth calls normal: lines `name,class`, as the organisers of CAMELYON16 give it.
    """
    truths = truth.by_name("mask", "outlines")
    found = predictions.by_name("result", "mask", "outlines", "table")
    normal, tumour = _reference(truth)
    normal |= {name.casefold(): name for name in settings.normal if not set(name) & set("*?[")}
    normal |= {entry.key: entry.name for entry in found.values() if chosen(entry.name, settings.normal)}
    if without := [entry.name for key, entry in found.items() if key in tumour and key not in truths]:
        raise ResultError(
            f"{truth.root}: a slide with tumour has its truth there, a mask or outlines; {REFERENCE} calls "
            f"{listing(without)} tumour, and there is no such file."
        )
    names = {key: entry.name for key, entry in truths.items()} | {k: n for k, n in normal.items() if k not in truths}
    kept = {key: name for key, name in sorted(names.items()) if not chosen(name, settings.exclude)}
    slides = tuple(Partner(name, truths.get(key), found.get(key)) for key, name in kept.items())
    _refuse_failed(slides, predictions)
    if not slides:
        raise ResultError(
            f"{truth.root} holds a truth for each slide: a mask (PNG, TIFF) or outlines (XML, GeoJSON, JSON) of the "
            "slide's name; it holds none, and no normal slide is named."
        )
    return Partners(slides, (*_notes(names, kept, found.values()), *_passed_over(truth), *_passed_over(predictions)))


def _refuse_failed(slides: Iterable[Partner], predictions: Found) -> None:
    """A slide that could not be predicted is not one that nobody has looked at: leaving it out would flatter."""
    folder = predictions.root / FAILURES
    failed = {path.stem.casefold() for path in folder.glob("*.txt")}
    if names := [slide.name for slide in slides if slide.prediction is None and slide.key in failed]:
        raise ResultError(
            f"{predictions.root}: {listing(names)} failed when predicted; {folder} tells why. Predict again, or "
            "exclude them by name."
        )


def _reference(truth: Found) -> tuple[dict[str, str], set[str]]:
    """Normal slides, name by key, and keys of those with tumour."""
    path = truth.tables.get(REFERENCE)
    normal, tumour = {}, set()
    columns, words = {"name": _NAME, "class": _CLASS}, {"class": (*_NORMAL, *_TUMOUR)}
    for row in read_columns(path, columns, words=words) if path is not None else ():
        name, value = bare(row.get("name", "")), row.get("class", "").lower()
        if not name or value not in (*_NORMAL, *_TUMOUR):
            raise ResultError(
                f"{path}, line {row['line']}: a line is a slide's name and normal or tumor, got "
                f"{row.get('name', '')!r},{row.get('class', '')!r}."
            )
        if value in _NORMAL:
            normal[name.casefold()] = name
        else:
            tumour.add(name.casefold())
    return normal, tumour


def _notes(names: dict[str, str], kept: dict[str, str], found: Iterable[Entry]) -> list[str]:
    notes = []
    if excluded := [name for key, name in names.items() if key not in kept]:
        notes.append(f"{len(excluded)} slides are excluded: {listing(excluded)}.")
    if unknown := [entry.name for entry in found if entry.key not in names]:
        notes.append(
            f"{len(unknown)} predictions have no truth and do not count: {listing(unknown)}. Name normal slides."
        )
    return notes


def _passed_over(found: Found) -> list[str]:
    names = found.passed_over
    return [f"{len(names)} other files in {found.root.name} are passed over: {listing(names)}."] if names else []


def require_all(matched: Partners, predictions: Found) -> None:
    """Refuse predictions in which a slide is missing, for the mean of the others is no score."""
    if missing := matched.missing:
        raise ResultError(
            f"{predictions.root} holds a prediction for each of the {len(matched.slides)} slides of the truth; "
            f"{len(missing)} are missing: {listing(missing)}. Predict them, or exclude them by name."
        )


def slide_scores(matched: Partners, predictions: Found, settings: EvaluationSettings) -> dict[str, float] | None:
    """The probability of each slide by its key where a table tells it: the settings' or `slide_scores.csv`."""
    path = settings.slide_scores or predictions.tables.get(SCORES)
    if path is None:
        return None
    scores = read_numbers(path, "probability", ways=("score", "p", "confidence"), highest=1)
    predicted = [slide for slide in matched.slides if slide.prediction is not None]
    if missing := [slide.name for slide in predicted if slide.key not in scores]:
        raise ResultError(f"{path} has a probability for each slide; missing are {listing(missing)}.")
    return scores
