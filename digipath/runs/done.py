"""Whether a slide was done before, and with what differences from what is asked now."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from digipath.errors import SlideError
from digipath.inference.settings import InferenceSettings
from digipath.runs.task import Task
from digipath.segmenter import Segmenter
from digipath.slides._fingerprint import fingerprint_file

__all__ = ["difference", "identity"]

# They say how fast a slide is done, and change its result no further than rounding.
_SPEED = ("threads", "batch")


def identity(segmenter: Segmenter) -> dict[str, Any]:
    """What decides a segmenter's results, as JSON can hold it: networks with hashes and weights, and settings.

    A network of the user's own has no hash; it is known by its name and its specification.
    """
    networks = segmenter.networks.describe()
    if not segmenter.networks.recognised:
        networks |= {"spec": asdict(segmenter.program.spec)}
    settings = {name: value for name, value in asdict(segmenter.settings).items() if name not in _SPEED}
    return json.loads(json.dumps({"networks": networks, "settings": settings}))


def difference(info: dict[str, Any], result: Path, *, segmenter: Segmenter, task: Task) -> str | None:
    """The first thing in which a result is not what is asked for now; None where there is none.

    Args:
        info: What the result's `result.json` holds.
        result: That file: a tissue file that was changed later makes a difference.
        segmenter: What would segment the slide.
        task: The slide, as it is asked for.
    """
    return next(_differences(info, result, segmenter, task), None)


def _differences(info: dict[str, Any], result: Path, segmenter: Segmenter, task: Task) -> Iterator[str]:
    if (info["slide"]["fingerprint"] or {}) != _fingerprint(task.slide):
        yield f"it is of {info['slide']['path']}, a file with other contents"
    now = identity(segmenter)
    networks = {name: value for name, value in info["bundle"].items() if name != "spec" or "spec" in now["networks"]}
    yield from _unlike(networks, now["networks"], "of the networks, ")
    defaults = {one.name: one.default for one in fields(InferenceSettings)}
    asked = json.loads(json.dumps(defaults)) | info["settings"]  # an older digipath had fewer
    yield from (f"{name} {told}" for name in now["settings"] for told in _unlike(asked[name], now["settings"][name]))
    yield from _differences_of_slide(info, result, task)


def _differences_of_slide(info: dict[str, Any], result: Path, task: Task) -> Iterator[str]:
    was_given, mpp = info["slide"]["mpp_source"] == "user", info["slide"]["mpp"]
    if was_given != (task.mpp is not None) or (was_given and not math.isclose(mpp, task.mpp, rel_tol=1e-9)):
        given = f"{task.mpp:g}" if task.mpp is not None else "not given"
        yield f"mpp was {mpp:g}{'' if was_given else ' by the slide'} and is {given}"
    tissue = f"given as the file {task.tissue.name}" if task.tissue else None
    before = info["tissue"] if info["tissue"].startswith("given as ") else None
    if before != tissue:
        yield f"the tissue was {before or 'found'} and is {tissue or 'to be found'}"
    elif task.tissue and task.tissue.is_file() and task.tissue.stat().st_mtime > result.stat().st_mtime:
        yield f"{task.tissue} has changed since"
    if (info["region"] and tuple(info["region"])) != task.region:
        yield f"the region was {info['region'] or 'all'} and is {list(task.region) if task.region else 'all'}"


def _unlike(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two pieces of JSON differ, and how."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _unlike(before.get(name), now.get(name), f"{place}{name} ")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from _unlike(*pair, f"{place}{number + 1} ")
    elif before != now:
        yield f"{place}was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fingerprint(slide: Path) -> dict[str, Any]:
    try:
        return fingerprint_file(slide)
    except OSError as error:
        raise SlideError(f"{slide} cannot be read: {error.strerror}. Is it still there?") from error
