"""Whether a folder may take the result of a slide: it must never lie over another one, or over something else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from digipath import __version__
from digipath.errors import ResultError
from digipath.inference.journal import identity_in
from digipath.prepared import JOURNAL
from digipath.result_folder import read_info
from digipath.runs.done import difference
from digipath.runs.task import Task
from digipath.segmenter import Segmenter
from digipath.slides._fingerprint import fingerprint_file

__all__ = ["may_hold"]

_RESULT = "result.json"


def may_hold(folder: Path, task: Task, segmenter: Segmenter) -> bool:
    """Whether a folder is free, or holds this slide, segmented in this way: its result, or the beginning of one."""
    try:
        content = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if _RESULT in content:
        return _is_result_of(folder / _RESULT, replace(task, folder=folder), segmenter)
    begun = identity_in(folder / JOURNAL)
    if begun:
        return _is_beginning_of(begun, task, segmenter)
    return all(name.startswith(".") for name in content)  # else it is somebody's, such as the data of an MRXS slide


def _is_result_of(path: Path, task: Task, segmenter: Segmenter) -> bool:
    try:
        return difference(read_info(path), path, segmenter=segmenter, task=task) is None
    except (ResultError, KeyError, TypeError):  # damaged: it stays, and is another's
        return False


def _is_beginning_of(begun: Mapping[str, Any], task: Task, segmenter: Segmenter) -> bool:
    """Whether a journal is of this slide, these networks and these settings, as far as `Journal` will compare them."""
    settings = json.loads(json.dumps(asdict(segmenter.settings)))
    slide = begun["slide"]
    given = slide["mpp_source"] == "user"
    return (
        begun["digipath"] == __version__
        and slide["fingerprint"] == fingerprint_file(task.slide)
        and given == (task.mpp is not None)
        and (not given or slide["mpp"] == task.mpp)
        and begun["networks"] == json.loads(json.dumps(segmenter.networks.describe()))
        and all(settings.get(name) == value for name, value in begun["settings"].items())
    )
