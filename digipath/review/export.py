"""Answers as polygons for QuPath and ASAP, to be trained or measured with.

What was rejected is not among them, but for sections, which are of the other class then. Answers that went stale are
left out. Who said so, how and when are texts beside the measurements.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import shapely

from digipath.errors import AnnotationError, ResultError
from digipath.geometry.polygons import Annotation, repair
from digipath.io.asap import write_asap
from digipath.io.geojson import write_geojson
from digipath.review import ledger
from digipath.review.decisions import Answer, Event, fold
from digipath.review.subjects import Asked

__all__ = ["EXPORTS", "OUTLINES", "annotations_of", "exported", "holds", "write_asap_of", "write_outlines"]

OUTLINES = "review.geojson"

EXPORTS = {"json": ledger.NAME, "geojson": OUTLINES, "xml": "review.xml"}
"""Names of the files that are handed on, by their kind."""

_COLORS = {"tumour section": (200, 0, 0), "normal section": (0, 130, 60)}  # as in digipath.analysis.judged


def holds(answer: Answer, asked: Asked) -> bool:
    """Whether the result has still what was answered, where it was; if not, the answer is stale."""
    if answer.outline is not None:
        return True
    subject = asked.subjects.get(answer.subject)
    return subject is not None and subject.place == answer.place


def annotations_of(asked: Asked, answers: Mapping[str, Answer]) -> list[Annotation]:
    """Polygons of the answers that hold, in level-0 pixels, in the order of the subjects; drawn ones last."""
    order = {name: place for place, name in enumerate(asked.subjects)}
    chosen = sorted(answers.values(), key=lambda one: order.get(one.subject, len(order)))
    found = (_annotation(one, asked) for one in chosen if one.label is not None and holds(one, asked))
    return [one for one in found if one is not None]


def _annotation(answer: Answer, asked: Asked) -> Annotation | None:
    if answer.outline is None:
        geometry = asked.subjects[answer.subject].geometry
    else:
        geometry = shapely.Polygon(answer.outline)
        geometry = geometry if geometry.is_valid else repair(geometry)
    if geometry is None:
        return None
    texts = {"name": answer.subject.partition(":")[0], "subject": answer.subject, "answer": answer.action}
    texts |= {"reviewer": answer.reviewer, "time": answer.time, "blind": "yes" if answer.blind else "no"}
    return Annotation(answer.label, geometry, color_of(answer.label), texts)


def color_of(label: str) -> tuple[int, int, int]:
    """The color of a label: always the same, and dark enough to be seen on a stained slide."""
    red, green, blue = (byte * 200 // 255 for byte in hashlib.sha256(label.encode()).digest()[:3])
    return _COLORS.get(label, (red, green, blue))


def write_outlines(folder: Path, asked: Asked, answers: Mapping[str, Answer]) -> None:
    """Write `review.geojson` for QuPath, from its origin."""
    try:
        write_geojson(folder / OUTLINES, annotations_of(asked, answers), origin=asked.origin)
    except (OSError, AnnotationError) as error:
        raise ResultError(f"the answer is saved, but {folder / OUTLINES} could not be written: {error}.") from error


def write_asap_of(path: str | os.PathLike, asked: Asked, answers: Mapping[str, Answer]) -> None:
    """Write the answers for ASAP, which counts from the slide's corner; each label is a group."""
    write_asap(path, annotations_of(asked, answers))


def exported(asked: Asked, events: Sequence[Event], kind: str) -> bytes:
    """The content of one of `EXPORTS`: the events themselves, or the last answers that follow from them."""
    if kind == "json":
        return ledger.encoded(asked.slide, events)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / EXPORTS[kind]
        if kind == "geojson":
            write_outlines(path.parent, asked, fold(events))
        else:
            write_asap_of(path, asked, fold(events))
        return path.read_bytes()
