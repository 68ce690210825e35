"""What a result's folder says of itself, read with suspicion: it may come from somebody else.

What is a pipe or a device would keep its reader waiting for ever, what is too long would take the memory, and one
number that is none would take the whole list with it; so each of these makes one result broken, and says why.
"""

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digipath.errors import ResultError
from digipath.prepared import JOURNAL
from digipath.result_folder import read_info

__all__ = ["JOURNALS", "MAX_BYTES", "RECORD", "VALUES", "begun", "is_begun", "record"]

RECORD, VALUES = "result.json", "result.h5"

JOURNALS = (f"{JOURNAL}/journal.json", f"{JOURNAL}/first/journal.json")
"""Of what is on its way, that of a cascade's first stage last."""

MAX_BYTES = 64 * 2**20
"""Of a record, or of a journal's list: lists of some ten thousand lesions, or strips, have less."""

_STATUSES = ("ok", "incomplete", "empty")


def is_begun(folder: Path) -> bool:
    """Whether a prediction is, or was, on its way into a folder."""
    return any((folder / name).exists() for name in JOURNALS)


def record(path: Path) -> dict[str, Any]:
    """What a `result.json` says.

    Raises:
        ResultError: It is damaged, too long, or not of the kind that digipath writes.
    """
    _check_file(path)
    try:
        found = read_info(path)
        wrong = _wrong(found)
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        wrong = repr(error)[:200]
    if wrong:
        raise ResultError(f"{path} is damaged: {wrong}. Predict the slide again.")
    return found


def begun(path: Path) -> dict[str, Any]:
    """Of which slide a journal is, as a record says it; empty before it says so, or where it is damaged."""
    _check_file(path)
    try:
        slide = json.loads(path.read_bytes())["identity"]["slide"]
        return {"slide": {} if _wrong_slide(slide) else slide}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"slide": {}}


def _check_file(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ResultError(f"{path} is no file. Predict the slide again.")
    if found.st_size > MAX_BYTES:
        raise ResultError(f"{path} has {found.st_size / 2**20:,.0f} MiB, and {MAX_BYTES // 2**20} is the most.")


def _wrong(found: Mapping[str, Any]) -> str:
    """What is wrong with a record; empty if nothing that is looked at without opening the result is."""
    areas, analysis = found["areas"], found.get("analysis") or {}
    lesions, burden = (analysis.get(name) or {} for name in ("lesions", "burden"))
    numbers = [value for value in areas.values() if not isinstance(value, Mapping)]
    numbers += [value for values in areas.values() if isinstance(values, Mapping) for value in values.values()]
    numbers += [burden["percent"]] if burden.get("percent") is not None else []
    if found["status"] not in _STATUSES:
        return f"its status is {', '.join(_STATUSES)}, got {str(found['status'])[:40]!r}"
    if not all(map(_is_number, numbers)):
        return "areas and shares are finite numbers"
    if not isinstance(lesions.get("slide_class") or "", str):
        return "a slide's class is a word"
    return _wrong_slide(found["slide"])


def _wrong_slide(slide: Mapping[str, Any]) -> str:
    fingerprint, path, mpp = slide.get("fingerprint"), slide.get("path"), slide.get("mpp")
    if not isinstance(slide.get("name", ""), str) or not isinstance(path or "", str) or "\0" in (path or ""):
        return "a slide's name and path are texts"
    if fingerprint and not isinstance(fingerprint.get("bytes"), int):
        return "a slide's fingerprint has its bytes"
    if mpp is not None and not (_is_number(mpp) and mpp > 0):
        return "a slide's mpp is a number of micrometres"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
