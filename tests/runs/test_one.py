import json
import os
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from digipath import Segmentation
from digipath.errors import Cancelled
from digipath.runs.lock import Lock
from digipath.runs.one import run_one
from digipath.runs.task import RunSettings

PLAIN = RunSettings()
QUICK = RunSettings(expiry=30, heartbeat=0.05)


@pytest.fixture
def task(tasks):
    return tasks[0]


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_slide_is_segmented_once_and_then_skipped_with_its_areas(copying, task):
    segmenter = copying()
    first, second = (run_one(segmenter, task, PLAIN) for _ in range(2))
    assert (first.status, second.status) == ("ok", "skipped") and segmenter.predicted == segmenter.prepared == ["a"]
    assert first.areas == second.areas and first.areas["lesion_mm2"] > 0 and "lesion" in first.summary
    assert first.name == "a" and first.slide.endswith("a.png") and first.seconds > 0
    assert "result.json" in files(task.folder) and not any(name.startswith(".lock") for name in files(task.folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mpp": 0.5}, "mpp was 1 and is 0.5"),
        ({"mpp": None}, "mpp was 1 and is not given"),
        ({"region": (0, 0, 50, 50)}, "the region was all"),
        ({"tissue": "t.png"}, "the tissue was found and is given as the file t.png"),
    ],
)
def test_a_result_of_another_question_is_refused_with_the_first_difference(copying, task, change, said):
    segmenter = copying()
    run_one(segmenter, task, PLAIN)
    if "tissue" in change:
        change = {"tissue": task.slide.parent / "t.png"}
    outcome = run_one(segmenter, replace(task, **change), PLAIN)
    assert outcome.status == "failed" and said in outcome.reason and "--overwrite" in outcome.reason
    assert segmenter.predicted == ["a"]


def test_a_result_of_other_settings_is_refused_and_then_replaced(copying, task):
    run_one(copying(), task, PLAIN)
    other = copying(overlap=0.25, threads=3)
    outcome = run_one(other, task, PLAIN)
    assert outcome.status == "failed" and "overlap was 0.5 and is 0.25" in outcome.reason and not other.predicted
    assert run_one(other, task, RunSettings(overwrite=True)).status == "ok"
    assert run_one(copying(overlap=0.25, batch=9), task, PLAIN).status == "skipped"  # they change nothing


def test_a_slide_that_changed_is_refused(copying, task):
    segmenter = copying()
    run_one(segmenter, task, PLAIN)
    with task.slide.open("ab") as file:
        file.write(b"more")
    assert "other contents" in run_one(segmenter, task, PLAIN).reason


def test_a_tissue_file_that_changed_is_refused(real, task):
    path = task.slide.parent / "tissue.json"
    square = [[60, 60], [160, 60], [160, 160], [60, 160], [60, 60]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [square]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    given = replace(task, tissue=path)
    assert [run_one(real(), given, PLAIN).status for _ in range(2)] == ["ok", "skipped"]
    assert "the tissue was given as" in run_one(real(), task, PLAIN).reason
    later = time.time() + 10
    os.utime(path, (later, later))
    assert "changed since" in run_one(real(), given, PLAIN).reason


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("out of\nluck"), "unexpected RuntimeError: out of luck"), (Cancelled("enough"), "enough")],
)
def test_whatever_goes_wrong_is_the_slides_failure_and_leaves_nothing(copying, task, error, said):
    def fail(*_):
        raise error

    segmenter = copying()
    outcome = run_one(segmenter, task, PLAIN, progress=fail)
    assert outcome.status == "failed" and outcome.reason == said and "Traceback" in outcome.traceback
    assert not task.folder.exists() and segmenter.closed == ["a"]
    assert run_one(copying(bad="a"), task, PLAIN).reason == "slide a.png is bad."


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_stop_goes_through_and_releases_the_lock(copying, task, error):
    def stop(*_):
        raise error

    with pytest.raises(error):
        run_one(copying(), task, PLAIN, progress=stop)
    assert not task.folder.exists()


def test_a_slide_that_another_process_has_is_left_to_it(copying, task):
    segmenter = copying()
    with Lock(task.folder, PLAIN):
        outcome = run_one(segmenter, task, PLAIN)
    assert outcome.status == "locked" and f"process {os.getpid()}" in outcome.reason and not segmenter.prepared


def test_a_slide_that_was_taken_over_is_not_written(copying, task):
    def lose(*_):
        (task.folder / ".lock.1").unlink(missing_ok=True)
        time.sleep(0.2)

    segmenter = copying(batches=3)
    segmenter.at_batch = lose
    assert run_one(segmenter, task, QUICK).status == "locked" and not segmenter.predicted


def test_overwriting_replaces_what_is_older_than_the_run(copying, task):
    segmenter = copying()
    run_one(segmenter, task, PLAIN)
    written = (task.folder / "result.json").stat().st_mtime
    assert run_one(segmenter, task, RunSettings(overwrite=True, began=written)).status == "skipped"
    assert run_one(segmenter, task, RunSettings(overwrite=True, began=written + 1)).status == "ok"
    assert run_one(segmenter, task, RunSettings(overwrite=True)).status == "ok" and segmenter.predicted == ["a"] * 3


def test_overwriting_begins_an_older_journal_anew_and_goes_on_with_its_own(real, task):
    segmenter = real(batch=1)
    stop_after(segmenter, task, 2)
    began = (task.folder / ".journal/journal.json").stat().st_mtime
    assert run_one(segmenter, task, RunSettings(overwrite=True, began=began)).status == "ok"
    assert resumed(task) == 1
    (task.folder / "result.json").unlink()
    stop_after(segmenter, task, 2)
    assert run_one(segmenter, task, RunSettings(overwrite=True, began=time.time() + 1)).status == "ok"
    assert resumed(task) == 0


def test_a_damaged_result_is_refused_and_then_replaced(copying, task):
    segmenter = copying()
    run_one(segmenter, task, PLAIN)
    (task.folder / "result.json").write_text("{")
    outcome = run_one(segmenter, task, PLAIN)
    assert outcome.status == "failed" and "damaged" in outcome.reason
    assert run_one(segmenter, task, RunSettings(overwrite=True)).status == "ok"


def test_a_slide_over_its_time_fails_keeps_its_journal_and_goes_on_with_more(real, task):
    def slow(patches):
        time.sleep(0.02)
        return np.stack([patches[..., 0] / 255, 1 - patches[..., 0] / 255], -1)

    segmenter = real(slow, batch=1, threads=1)
    outcome = run_one(segmenter, task, RunSettings(time_limit=0.5))
    assert outcome.status == "failed" and outcome.reason.startswith("time limit: 0.5 s") and outcome.seconds < 5
    assert files(task.folder) == [".journal"]
    assert run_one(segmenter, task, PLAIN).status == "ok" and resumed(task) == 1


def test_what_a_killed_process_left_half_written_is_swept(copying, task):
    (task.folder / ".a.0123456789ab.part").mkdir(parents=True)
    (task.folder / ".result.json.0123456789ab.part").write_text("{")
    assert run_one(copying(), task, PLAIN).status == "ok"
    assert not [name for name in files(task.folder) if name.endswith(".part")]


def test_what_was_prepared_ahead_is_used_and_closed_in_any_case(copying, task):
    segmenter = copying()
    for status in ("ok", "skipped"):
        ahead = Future()
        ahead.set_result(segmenter.prepare(task.slide, mpp=1.0))
        assert run_one(segmenter, task, PLAIN, prepared=ahead).status == status
        assert segmenter.closed == ["a"] and not segmenter.open
        segmenter.closed.clear()


def test_preparing_counts_for_the_time_limit(copying, task):
    outcome = run_one(copying(), task, RunSettings(time_limit=0.05), prepared=Future())
    assert outcome.status == "failed" and "still being opened" in outcome.reason


def stop_after(segmenter, task, patches):
    """Leave a journal."""

    def stop(state):
        if state.done >= patches and list(task.folder.glob(".journal/*.npy")):
            raise Cancelled("stop")

    assert run_one(segmenter, task, PLAIN, progress=stop).status == "failed"
    assert (task.folder / ".journal/journal.json").is_file()


def resumed(task):
    with Segmentation.load(task.folder) as result:
        return result.info["resumed"]
