import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from digipath import __version__
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec
from digipath.prepared import JOURNAL
from digipath.runs.task import Task
from digipath.segmenter import Segmenter
from digipath.slides._fingerprint import fingerprint_file
from digipath.viewer.places import may_hold

SPEC = ModelSpec(architecture="dark", classes=("other", "lesion"), mpp=2.0, patch=64)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(FunctionPredictor(lambda patches: np.zeros((*patches.shape[:3], 2), np.float32), SPEC))


@pytest.fixture
def task(tmp_path) -> Task:
    (tmp_path / "slide.svs").write_bytes(b"pixels")
    return Task(slide=tmp_path / "slide.svs", folder=tmp_path)


def begun(folder: Path, task: Task, segmenter: Segmenter, *, stage: str = "", **changes) -> Path:
    """A folder with the beginning of a result."""
    slide = {"fingerprint": fingerprint_file(task.slide), "mpp": 0.25, "mpp_source": "openslide"}
    settings = {name: value for name, value in asdict(segmenter.settings).items() if name != "batch"}
    identity = {
        "digipath": __version__,
        "slide": slide,
        "networks": segmenter.networks.describe(),
        "settings": settings,
    }
    identity |= changes
    (folder / JOURNAL / stage).mkdir(parents=True)
    (folder / JOURNAL / stage / "journal.json").write_text(json.dumps({"identity": identity, "strips": [[0, 1, 0]]}))
    return folder


def test_a_folder_that_is_not_there_or_holds_nothing_but_hidden_files_is_free(tmp_path, task, segmenter):
    assert may_hold(tmp_path / "new", task, segmenter)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock.1").touch()
    (tmp_path / "empty" / JOURNAL).mkdir()
    assert may_hold(tmp_path / "empty", task, segmenter)


@pytest.mark.parametrize("name", ["notes.txt", "Data0000.dat", "slide.svs"])
def test_a_folder_of_somebody_is_not(tmp_path, task, segmenter, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("mine")
    assert not may_hold(tmp_path / "other", task, segmenter)
    assert not may_hold(tmp_path / "other" / name, task, segmenter)


@pytest.mark.parametrize("content", ["{", "{}", '{"format_version": 99}', '{"format_version": 1, "slide": {}}'])
def test_a_damaged_or_newer_result_stays(tmp_path, task, segmenter, content):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text(content)
    assert not may_hold(tmp_path / "other", task, segmenter)


def test_a_beginning_is_gone_on_with_by_the_same_alone(tmp_path, task, segmenter):
    assert may_hold(begun(tmp_path / "same", task, segmenter), task, segmenter)
    assert may_hold(begun(tmp_path / "first", task, segmenter, stage="first"), task, segmenter)
    assert not may_hold(begun(tmp_path / "older", task, segmenter, stage="first", digipath="0.0.1"), task, segmenter)
    other = {"fingerprint": {"bytes": 1}, "mpp": 0.25, "mpp_source": "openslide"}
    told = {"fingerprint": fingerprint_file(task.slide), "mpp": 0.5, "mpp_source": "user"}
    changes = {
        "version": {"digipath": "0.0.1"},
        "slide": {"slide": other},
        "mpp": {"slide": told},
        "networks": {"networks": {"members": [{"name": "another", "hash": None}]}},
        "settings": {"settings": {"overlap": 0.25}},
    }
    for name, change in changes.items():
        assert not may_hold(begun(tmp_path / name, task, segmenter, **change), task, segmenter), name
    given = Task(slide=task.slide, folder=task.folder, mpp=0.5)
    assert may_hold(tmp_path / "mpp", given, segmenter)


def test_settings_that_change_no_strip_do_not_part_a_beginning_from_its_end(tmp_path, task, segmenter):
    folder = begun(tmp_path / "same", task, segmenter)
    quicker = Segmenter(segmenter.networks.members[0], settings=InferenceSettings(batch=7))
    assert may_hold(folder, task, quicker)
