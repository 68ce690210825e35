import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from digipath.runs.local import run
from digipath.runs.lock import Lock
from digipath.runs.task import Report, RunSettings


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def rows(out):
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["status"] for row in csv.DictReader(file)}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_all_slides_end_in_the_order_of_the_tasks_and_a_second_run_does_nothing(copying, tasks, out):
    told = []
    segmenter = copying(bad="c")
    outcomes = run(segmenter, tasks, out=out, report=Report(finished=told.append))
    assert statuses(outcomes) == ["ok", "ok", "failed", "ok"] and told == outcomes
    assert rows(out) == {"a": "ok", "b": "ok", "c": "failed", "d": "ok"}
    again = copying()
    assert statuses(run(again, tasks, out=out)) == ["skipped", "skipped", "ok", "skipped"] and again.prepared == ["c"]
    assert rows(out) == dict.fromkeys("abcd", "ok")


def test_progress_tells_which_slide_is_how_far(copying, tasks, out):
    told = []
    run(copying(), tasks[:2], out=out, report=Report(progress=lambda task, *far: told.append((task.name, *far))))
    assert told == [("a", 1, 2), ("a", 2, 2), ("b", 1, 2), ("b", 2, 2)]


def test_raise_stops_after_the_first_failure_and_everything_is_written(copying, tasks, out):
    segmenter = copying(bad="b")
    assert statuses(run(segmenter, tasks, out=out, settings=RunSettings(errors="raise"))) == ["ok", "failed"]
    assert rows(out) == {"a": "ok", "b": "failed", "c": "waiting", "d": "waiting"}
    assert (out / "failures/b.txt").is_file() and json.loads((out / "run.json").read_text())["counts"]["n_failed"] == 1
    time.sleep(0.1)
    assert segmenter.open == 0  # what was prepared ahead is closed


def test_the_next_slide_is_prepared_while_the_current_one_runs_and_at_most_one(copying, tasks, out):
    segmenter = copying()
    seen = {}

    def wait(name, number):
        if not number:  # the next one is looked at from the first batch on
            return
        expected = 2 + "abcd".index(name) if name != "d" else 4
        until = time.monotonic() + 5
        while len(segmenter.prepared) < expected and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(0.02)  # for one more, which must not come
        seen[name] = sorted(segmenter.prepared)

    segmenter.at_batch = wait
    run(segmenter, tasks, out=out)
    assert seen == {"a": list("ab"), "b": list("abc"), "c": list("abcd"), "d": list("abcd")}
    assert segmenter.most_open == 2 and segmenter.open == 0


def test_slides_that_are_done_or_locked_are_not_prepared(copying, tasks, out):
    run(copying(), tasks[1:2], out=out)
    segmenter = copying()
    with Lock(tasks[2].folder, RunSettings()):
        assert statuses(run(segmenter, tasks, out=out)) == ["ok", "skipped", "locked", "ok"]
    assert segmenter.prepared == segmenter.predicted == ["a", "d"]
    assert rows(out) == {"a": "ok", "b": "ok", "c": "locked", "d": "ok"}


def test_slides_of_another_process_are_looked_at_again_at_the_end(copying, tasks, out):
    told = []
    theirs = Lock(tasks[0].folder, RunSettings())
    segmenter = copying()
    segmenter.at_batch = lambda name, number: theirs.__exit__() if (name, number) == ("d", 0) else None
    with theirs:
        assert statuses(run(segmenter, tasks, out=out, report=Report(finished=told.append))) == ["ok"] * 4
    assert [outcome.name for outcome in told] == list("bcda") and rows(out) == dict.fromkeys("abcd", "ok")


def test_a_slide_that_fails_to_be_prepared_fails_alone(copying, tasks, out):
    assert statuses(run(copying(bad="bd"), tasks, out=out)) == ["ok", "failed", "ok", "failed"]


def test_a_slide_whose_opening_hangs_does_not_hold_up_the_others(copying, tasks, out):
    segmenter, hang = copying(), threading.Event()
    prepare = segmenter.prepare

    def slow(slide, **how):
        if slide.stem == "b":
            hang.wait(20)
        return prepare(slide, **how)

    segmenter.prepare = slow
    outcomes = run(segmenter, tasks, out=out, settings=RunSettings(time_limit=0.2))
    assert statuses(outcomes) == ["ok", "failed", "ok", "ok"] and "still being opened" in outcomes[1].reason
    hang.set()


def test_a_stop_leaves_the_run_to_be_gone_on_with(copying, tasks, out):
    def stop(name, _):
        if name == "b":
            raise KeyboardInterrupt

    segmenter = copying()
    segmenter.at_batch = stop
    with pytest.raises(KeyboardInterrupt):
        run(segmenter, tasks, out=out)
    assert rows(out) == {"a": "ok", "b": "waiting", "c": "waiting", "d": "waiting"}
    assert not list(out.rglob(".lock.*"))
    assert statuses(run(copying(), tasks, out=out)) == ["skipped", "ok", "ok", "ok"]


def test_an_overwriting_run_that_was_stopped_replaces_the_rest_alone(copying, tasks, out):
    run(copying(), tasks, out=out)
    time.sleep(0.02)
    segmenter = copying()
    segmenter.bad = "c"
    overwriting = RunSettings(overwrite=True, errors="raise")
    assert statuses(run(segmenter, tasks, out=out, settings=overwriting)) == ["ok", "ok", "failed"]
    assert statuses(run(copying(), tasks, out=out, settings=overwriting)) == ["skipped", "skipped", "ok", "ok"]
    time.sleep(0.02)
    assert statuses(run(copying(), tasks, out=out, settings=overwriting)) == ["ok"] * 4


WORKER = """
import sys, time
import numpy as np
from digipath import InferenceSettings, ModelSpec, Segmenter
from digipath.inference.predictor import FunctionPredictor
from digipath.runs.find import find_slides
from digipath.runs.local import run

def slow(patches):
    time.sleep({pause})
    dark = (patches[..., 2] < 128).astype(np.float32)
    return np.stack([1 - dark, dark], -1)

spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=64)
segmenter = Segmenter(FunctionPredictor(slow, spec), settings=InferenceSettings(batch=4, threads=1))
outcomes = run(segmenter, find_slides([{slides!r}], out={out!r}, mpp=1.0), out={out!r})
print(*(outcome.status for outcome in outcomes))
assert "tensorflow" not in sys.modules
"""


def start(slides, out, pause):
    code = WORKER.format(slides=str(slides), out=str(out), pause=pause)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(found, seconds=30):
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_two_processes_share_a_folder_and_one_that_is_killed_is_replaced(real, tasks, slides, out):
    first = start(slides, out, pause=0.05)
    wait_for(lambda: list(out.glob("*/.journal/*.npy")))
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert len(list(out.glob("*/.lock.*"))) == 1
    second = start(slides, out, pause=0.01)
    ours = statuses(run(real(batch=4), tasks, out=out))
    theirs = second.communicate(timeout=60)[0].split()
    assert second.returncode == 0 and {*ours, *theirs} <= {"ok", "skipped", "locked"}
    assert (ours + theirs).count("ok") == 4  # each slide by one of them
    assert rows(out) == dict.fromkeys("abcd", "ok") and not list(out.rglob(".lock.*"))
    assert not [path for path in out.rglob("*") if path.name.endswith(".part") or path.name == ".journal"]
