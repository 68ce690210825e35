import csv
import gc
import importlib.util
import json
import os
import pickle
import shutil
import signal
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from digipath import Bundle, Cascade, InferenceSettings, Segmentation, Segmenter
from digipath.errors import BundleError, SpecError
from digipath.inference.predictor import FunctionPredictor
from digipath.models.spec import ModelSpec
from digipath.runs import cluster, dispatch, local, worker
from digipath.runs.cluster import run_on
from digipath.runs.dispatch import Dispatch
from digipath.runs.find import find_slides
from digipath.runs.lock import holder_of
from digipath.runs.spec import SegmenterSpec
from digipath.runs.task import Outcome, Report, RunSettings, Task

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
SPEC = SegmenterSpec.of(Segmenter("colon-lesion-light"))


@pytest.fixture(scope="module")
def address():
    """Two workers of a scheduler, in this process, so that what a test replaces is replaced there too."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=4, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
    ) as made:
        yield made.scheduler_address


@pytest.fixture
def copied(copying, monkeypatch):
    """The segmenter of all workers, which costs nothing."""
    segmenter = copying()
    monkeypatch.setattr(worker, "_segmenter", lambda spec, threads: segmenter)
    return segmenter


def rows(out):
    with (out / "summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


# What travels


@pytest.mark.parametrize(
    "segmenter",
    [
        lambda: Segmenter(),
        lambda: Segmenter(effort="thorough"),
        lambda: Segmenter(["colon-lesion-light", "colon-lesion-ds"], weights=[1, 3]),
        lambda: Segmenter(Cascade("colon-patch-classifier", "colon-lesion-light")),
        lambda: Segmenter(settings=InferenceSettings(overlap=0.25, augmentations="all", threads=3)),
    ],
)
def test_a_segmenter_is_made_again_from_what_travels(segmenter):
    before = segmenter()
    after = SegmenterSpec.from_json(SegmenterSpec.of(before).to_json()).make()
    assert after.networks.describe() == before.networks.describe() and after.effort == before.effort
    assert after.settings == before.settings and after.networks.left_out == before.networks.left_out


def test_a_bundle_of_the_user_travels_as_its_absolute_folder(tmp_path, monkeypatch):
    shutil.copytree(Bundle.builtin("colon-lesion-light").folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    spec = SegmenterSpec.of(Segmenter("mine"))
    assert spec.members[0][0] == str(tmp_path / "mine")
    monkeypatch.chdir("/")
    assert spec.make().networks.members[0].name == "mine"


def test_networks_that_lie_in_no_folder_are_refused_with_what_to_do():
    made = FunctionPredictor(lambda patches: patches, ModelSpec(architecture="own", mpp=1.0, patch=64))
    with pytest.raises(SpecError, match="FunctionPredictor lies in none"):
        SegmenterSpec.of(Segmenter(made))


def test_another_bundle_in_the_same_place_is_refused():
    other = replace(SPEC, members=((SPEC.members[0][0], "000000000000"),))
    with pytest.raises(BundleError, match="000000000000"):
        other.make()


def test_what_a_worker_is_sent_is_small_and_holds_plain_values_only(tasks):
    spec = SegmenterSpec.of(Segmenter([Cascade("colon-patch-classifier", "colon-lesion-light")]))
    order = dispatch.write_order(tasks[0], spec=spec, settings=RunSettings(time_limit=9.0), threads=2)
    assert type(order) is str and len(pickle.dumps((worker.work, order))) < 10_000
    assert json.loads(order)["task"]["slide"].endswith("a.png")
    assert Task.from_json(json.loads(order)["task"]) == tasks[0]


# Who gets what


@needs_dask
def test_a_cluster_gives_what_the_local_loop_gives(address, copied, copying, tasks, tmp_path):
    told = []
    outcomes = run_on(address, tasks, out=tmp_path / "out", spec=SPEC, report=Report(finished=told.append))
    assert [one.name for one in outcomes] == list("abcd") and sorted(copied.predicted) == list("abcd")
    assert sorted(one.name for one in told) == list("abcd")
    others = find_slides([tasks[0].slide.parent], out=tmp_path / "local", mpp=1.0)
    expected = local.run(copying(), others, out=tmp_path / "local")
    assert [replace(one, seconds=0.0) for one in outcomes] == [replace(one, seconds=0.0) for one in expected]
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["ok"] * 4
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counts"]["n_ok"] == 4
    again = run_on(address, tasks, out=tmp_path / "out", spec=SPEC)
    assert len(copied.predicted) == 4 and {one.status for one in again} == {"skipped"}


@needs_dask
def test_a_worker_of_many_threads_has_one_slide_at_a_time(address, tasks, tmp_path, monkeypatch):
    from distributed import get_worker

    now, most, mutex = {}, [], threading.Lock()

    def segmented(segmenter, task, settings):  # noqa: ARG001
        name = get_worker().address
        with mutex:
            now[name] = now.get(name, 0) + 1
            most.append(now[name])
        time.sleep(0.05)
        with mutex:
            now[name] -= 1
        return Outcome(name=task.name, slide=str(task.slide), status="ok")

    monkeypatch.setattr(worker, "_segmenter", lambda spec, threads: None)
    monkeypatch.setattr(worker, "_segmented", segmented)
    monkeypatch.setattr(worker, "_BUSY", threading.Semaphore(99))  # by what it is handed alone
    many = [replace(tasks[0], folder=tasks[0].folder.parent / str(number)) for number in range(12)]
    outcomes = run_on(address, many, out=tmp_path / "out", spec=SPEC)
    assert [one.name for one in outcomes] == [str(number) for number in range(12)]
    assert len(now) == 2 and max(most) == 1


@needs_dask
def test_two_slides_never_run_at_once_in_a_process(address, copied, tasks, tmp_path):
    run_on(address, tasks, out=tmp_path / "out", spec=SPEC)  # both workers live in this process
    assert copied.most_open == 1


@needs_dask
def test_a_slide_that_fails_stops_no_other_unless_that_is_wished(address, copied, tasks, tmp_path):
    copied.bad = ("b",)
    outcomes = run_on(address, tasks, out=tmp_path / "out", spec=SPEC)
    assert [one.status for one in outcomes] == ["ok", "failed", "ok", "ok"]
    assert outcomes[1].reason == "slide b.png is bad." and "SlideError" in outcomes[1].traceback
    copied.bad = tuple("abcd")
    settings = RunSettings(errors="raise", overwrite=True)
    outcomes = run_on(address, tasks, out=tmp_path / "other", spec=SPEC, settings=settings)
    assert 1 <= len(outcomes) < 4 and outcomes[-1].status == "failed"


@needs_dask
def test_a_slide_that_a_worker_does_not_see_fails_and_says_why(address, copied, tasks, tmp_path):
    assert not copied.predicted
    gone = replace(tasks[0], slide=tasks[0].slide.parent / "none" / "gone.svs", folder=tasks[0].folder.parent / "gone")
    outcomes = run_on(address, [gone, tasks[1]], out=tmp_path / "out", spec=SPEC)
    assert [one.status for one in outcomes] == ["failed", "ok"]
    assert "gone.svs is not there" in outcomes[0].reason and "under the same path" in outcomes[0].reason


@needs_dask
def test_workers_of_another_version_are_refused_with_both(address, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "__version__", "99.1")
    import digipath

    with pytest.raises(SpecError, match=f"has digipath {digipath.__version__}, and the run was begun by 99.1"):
        run_on(address, tasks, out=tmp_path / "out", spec=SPEC)


@needs_dask
def test_workers_that_do_not_see_the_output_are_refused(address, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RECORD", "nowhere.json")
    with pytest.raises(SpecError, match=r"does not see .*nowhere.json"):
        run_on(address, tasks, out=tmp_path / "out", spec=SPEC)


@needs_dask
def test_a_worker_that_cannot_load_the_network_takes_no_slide_with_it(address, copied, tasks, tmp_path, monkeypatch):
    from distributed import get_worker

    broken = []

    def segmenter(spec, threads):  # noqa: ARG001
        broken.append(get_worker().address)
        if broken[-1] == broken[0]:
            raise OSError("libtensorflow is damaged")
        return copied

    monkeypatch.setattr(worker, "_segmenter", segmenter)
    outcomes = run_on(address, tasks, out=tmp_path / "out", spec=SPEC)
    assert [one.status for one in outcomes] == ["ok"] * 4 and broken.count(broken[0]) == 1

    def damaged(spec, threads):  # noqa: ARG001
        raise OSError("libtensorflow is damaged")

    monkeypatch.setattr(worker, "_segmenter", damaged)
    with pytest.raises(SpecError, match=r"no worker can take part: .* cannot make the segmenter: libtensorflow"):
        run_on(address, tasks, out=tmp_path / "other", spec=SPEC)


@needs_dask
@pytest.mark.parametrize("scheduler", ["slurm", "tls://127.0.0.1:9"])
def test_what_is_no_scheduler_is_refused_with_what_to_write(scheduler, tasks, tmp_path):
    with pytest.raises(SpecError, match="Compare it with what `dask scheduler` printed"):
        run_on(scheduler, tasks, out=tmp_path / "out", spec=SPEC)
    gc.collect()  # or Dask's broken client goes at a moment when it blocks the next one
    assert not (tmp_path / "out").exists()


def test_without_dask_the_command_to_install_it_is_named(tasks, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    with pytest.raises(SpecError, match=r"pip install 'digipath\[dask\]'"):
        run_on("local", tasks, out=tmp_path / "out", spec=SPEC)


@needs_dask
def test_a_stopped_run_lets_go_of_its_slides(address, copied, tasks, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_BUSY", threading.Semaphore(2))
    copied.bad, copied.batches, copied.at_batch = ("b",), 1000, lambda name, number: time.sleep(0.02)
    with pytest.raises(KeyboardInterrupt):
        run_on(address, tasks, out=tmp_path / "out", spec=SPEC, report=Report(finished=interrupt))
    deadline = time.monotonic() + 10
    while any(holder_of(task.folder) for task in tasks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "a" in copied.prepared and not copied.predicted
    assert not any(holder_of(task.folder) for task in tasks)


# Lost workers


@pytest.fixture
def sent(tasks):
    """A dispatch without a cluster."""
    settings = RunSettings(expiry=0.3, heartbeat=0.1)
    return Dispatch(None, tasks, spec=SPEC, settings=settings, places=[], tell=lambda text: None)


def outcome(task, status):
    return Outcome(name=task.name, slide=str(task.slide), status=status)


def test_a_slide_whose_worker_is_lost_goes_first_twice_and_then_has_failed(sent, tasks):
    slide = sent.waiting.popleft()
    for _ in range(2):
        sent._lose(slide)
        assert sent.waiting.popleft() is slide and sent.open == len(tasks) and not sent._ended
    sent._lose(slide)
    (number, ended), *others = sent._ended
    assert not others and number == 0 and ended.status == "failed" and "lost three times" in ended.reason
    assert slide not in sent.waiting and sent.open == len(tasks) - 1


def test_a_slide_that_another_run_has_comes_again_once_after_the_others(sent, tasks):
    slide = sent.waiting.popleft()
    sent._answered(slide, outcome(tasks[0], "locked"))
    assert sent.waiting.pop() is slide and slide.not_before > time.monotonic() and not sent._ended
    sent._answered(slide, outcome(tasks[0], "locked"))
    assert [(number, ended.status) for number, ended in sent._ended] == [(0, "locked")]


def test_the_lock_of_a_lost_worker_is_waited_for_until_it_would_be_dead(sent, tasks):
    slide = sent.waiting.popleft()
    sent._lose(slide)
    for _ in range(3):
        slide = sent.waiting.popleft() if sent.waiting[0] is slide else sent.waiting.pop()
        sent._answered(slide, outcome(tasks[0], "locked"))
        assert sent.waiting[-1] is slide and not sent._ended
    sent.waiting.pop().lost_at -= 1
    sent._answered(slide, outcome(tasks[0], "locked"))
    assert [(number, ended.status) for number, ended in sent._ended] == [(0, "locked")]


# With processes


@pytest.fixture
def pictures(tmp_path):
    """Three slides that take some seconds each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in "xyz":
        image = np.full((1000, 1000, 3), 244, np.uint8)
        cv2.circle(image, (500, 500), 450, (190, 150, 225), -1)
        noisy = np.clip(image + rng.integers(-30, 30, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), noisy)
    return folder


def kill_who_has(folder, killed):
    """Kill the process that works on a slide, once it has done some of it."""
    while not killed:
        holder = holder_of(folder)
        if holder is not None and holder.total / 2 < holder.done < holder.total:
            os.kill(holder.pid, signal.SIGKILL)
            killed.append(holder.pid)
        time.sleep(0.02)


@needs_dask
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_slide_and_changes_none(pictures, tmp_path):
    tasks = find_slides([pictures], out=tmp_path / "cluster", mpp=0.5)
    killed: list[int] = []
    settings = RunSettings(heartbeat=0.05)
    segmenter = Segmenter(settings=InferenceSettings(batch=2))
    spec = SegmenterSpec.of(segmenter)
    threading.Thread(target=kill_who_has, args=(tasks[1].folder, killed), daemon=True).start()
    outcomes = run_on("local", tasks, out=tmp_path / "cluster", spec=spec, settings=settings, workers=2)
    assert killed and [one.status for one in outcomes] == ["ok"] * 3
    alone = find_slides([pictures], out=tmp_path / "alone", mpp=0.5)
    expected = local.run(segmenter, alone, out=tmp_path / "alone")
    assert [one.areas for one in outcomes] == [one.areas for one in expected]
    for here, there in zip(tasks, alone, strict=True):
        with Segmentation.load(here.folder) as one, Segmentation.load(there.folder) as other:
            np.testing.assert_array_equal(one.heatmap.array(), other.heatmap.array())
    with Segmentation.load(tasks[1].folder) as result:
        assert result.info["resumed"] == 1
    assert {row["status"] for row in rows(tmp_path / "cluster").values()} == {"ok"}


@needs_dask
@pytest.mark.slow
def test_a_slide_that_kills_its_workers_fails_and_the_others_are_done(tasks, tmp_path, monkeypatch):
    def lethal(order):  # travels as it is, being no module's
        import json
        import os

        from digipath.runs.task import Outcome, Task

        task = Task.from_json(json.loads(order)["task"])
        if task.name == "b":
            os._exit(1)
        return json.dumps({"outcome": Outcome(name=task.name, slide=str(task.slide), status="ok").to_json()})

    monkeypatch.setattr(dispatch, "work", lethal)
    outcomes = run_on("local", tasks, out=tmp_path / "out", spec=SPEC, workers=2)
    assert [one.status for one in outcomes] == ["ok", "failed", "ok", "ok"]
    assert "lost three times" in outcomes[1].reason and rows(tmp_path / "out")["b"]["status"] == "failed"
