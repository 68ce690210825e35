import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dash")

from digipath.errors import SpecError
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import EFFORTS, InferenceSettings
from digipath.inference.unfinished import finished
from digipath.io.pyramid import RGB, write_pyramid
from digipath.models.spec import ModelSpec
from digipath.segmentation import Segmentation
from digipath.segmenter import Segmenter
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide
from digipath.viewer.jobs import Jobs, Order
from digipath.viewer.shelf import Shelf

SPEC = ModelSpec(architecture="dark", classes=("other", "lesion"), mpp=2.0, patch=64)


class Gate:
    """A stand-in for a network that sees as many batches as it is let."""

    def __init__(self, batches: int = 10**6):
        self.free = threading.Semaphore(batches)
        self.predictor = FunctionPredictor(self._seen, SPEC)
        self.made = []

    def _seen(self, patches: np.ndarray) -> np.ndarray:
        if not self.free.acquire(timeout=20):
            raise TimeoutError("nobody opened the gate")
        shade = 1 - patches.mean((1, 2, 3), keepdims=True, dtype=np.float32)[..., 0] / 255
        lesion = np.broadcast_to(shade, patches.shape[:3])
        return np.stack([1 - lesion, lesion], -1)

    def make(self, order: Order) -> Segmenter:
        self.made.append(order)
        overlap = EFFORTS[order.effort].overlap
        return Segmenter(self.predictor, settings=InferenceSettings(batch=4, overlap=overlap), effort=order.effort)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Most of the time of a small slide goes into waiting for the disk and into its picture."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("digipath.segmentation.draw", lambda *_, **__: np.zeros((4, 4, 3), np.uint8))


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """A folder with slide.tif, other.tif and broken.svs."""
    folder = tmp_path_factory.mktemp("slides")
    for name, seed in (("slide", 0), ("other", 1)):
        made = SyntheticSlide(SyntheticSettings(seed=seed, width=800, height=600))
        write_pyramid(folder / f"{name}.tif", made.frame, made.strips(), channels=RGB)
    (folder / "broken.svs").write_bytes(b"II*\0 this is no slide")
    return folder


@pytest.fixture
def begin(tmp_path):
    """A function of a gate that makes the jobs of a viewer; they are closed at the end, whatever waits at the gate."""
    made = []

    def begun(gate: Gate, out: Path = tmp_path / "out") -> Jobs:
        made.append((gate, Jobs(out, make=gate.make)))
        return made[-1][1]

    yield begun
    for gate, jobs in made:
        gate.free.release(10**6)
        jobs.close()


def item_of(path: Path):
    return next(item for item in Shelf([path.parent]).items() if item.path == path.resolve())


def wait(condition, seconds: float = 20.0):
    """What a condition gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


def ended(jobs: Jobs, job):
    return wait(lambda: not jobs.get(job.id).is_open and jobs.get(job.id))


def test_a_job_makes_the_result_that_a_segmenter_makes(slides, begin):
    gate = Gate()
    jobs = begin(gate)
    job = ended(jobs, jobs.start(item_of(slides / "slide.tif")))
    assert (job.state, job.folder) == ("finished", jobs.out / "slide") and job.done == job.total > 0
    assert "mm²" in job.message and job.seconds > 0 and job.left is None
    alone = gate.make(Order()).predict(slides / "slide.tif", progress=False)
    with Segmentation.load(job.folder) as result:
        np.testing.assert_array_equal(result.heatmap.array(), alone.heatmap.array())
        assert result.status == "ok"
    assert sorted(path.name for path in job.folder.iterdir() if path.name.startswith(".")) == []


def test_two_starts_of_one_slide_are_one_job(slides, begin):
    gate = Gate(0)
    jobs, item = begin(gate), item_of(slides / "slide.tif")
    first = jobs.start(item)
    assert jobs.start(item).id == jobs.start(item, Order(effort="fast")).id == first.id
    gate.free.release(10**6)
    ended(jobs, first)
    again = ended(jobs, jobs.start(item))
    assert again.id != first.id and again.state == "finished" and "done before" in again.message
    assert [job.id for job in jobs.all()] == [first.id, again.id] and jobs.of(item) == again


def test_the_heatmap_is_there_before_the_end(slides, begin):
    gate = Gate(2)
    jobs, item = begin(gate), item_of(slides / "slide.tif")
    job = jobs.start(item)
    job = wait(lambda: (seen := jobs.of(item)).done == 8 and seen)
    assert job.state == "running" and job.total > 8 and job.left > 0
    seen = wait(lambda: finished(job.folder / ".journal"))
    assert 0 < seen.rows < seen.frame.height and seen.heatmap.array().any()
    running = next(one for one in Shelf([job.folder.parent]).items() if one.path == job.folder)
    assert running.status == "running" and jobs.of(running) == job
    gate.free.release(10**6)
    assert ended(jobs, job).state == "finished"


def test_what_is_cancelled_goes_on_where_it_was(slides, begin):
    gate = Gate(2)
    jobs, item = begin(gate), item_of(slides / "slide.tif")
    job = jobs.start(item)
    wait(lambda: jobs.of(item).done == 8)
    jobs.cancel(job.id)
    assert jobs.of(item).stopping and jobs.of(item).state == "running"
    gate.free.release()
    job = ended(jobs, job)
    assert job.state == "cancelled" and "rows of the heatmap are kept" in job.message and "goes on" in job.message
    assert not (job.folder / "result.json").exists() and not [*job.folder.glob(".lock*")]
    gate.free.release(10**6)
    again = ended(jobs, jobs.start(item))
    assert (again.state, again.folder) == ("finished", job.folder)
    info = json.loads((job.folder / "result.json").read_text())
    assert info["resumed"] == 1
    alone = gate.make(Order()).predict(slides / "slide.tif", progress=False)
    with Segmentation.load(job.folder) as result:
        np.testing.assert_array_equal(result.heatmap.array(), alone.heatmap.array())


def test_those_that_wait_are_done_in_order_or_cancelled_before_they_begin(slides, begin):
    gate = Gate(0)
    jobs = begin(gate)
    first, second = (jobs.start(item_of(slides / name)) for name in ("slide.tif", "other.tif"))
    wait(lambda: jobs.get(first.id).state == "running")
    assert jobs.get(second.id).state == "waiting" and (jobs.before(first), jobs.before(second)) == (0, 1)
    jobs.cancel(second.id)
    gate.free.release(10**6)
    assert ended(jobs, first).state == "finished"
    assert jobs.get(second.id).state == "cancelled" and not (jobs.out / "other").exists()
    jobs.cancel(first.id)
    jobs.cancel("nobody")
    assert jobs.get(first.id).state == "finished" and jobs.get("nobody") is None


def test_of_those_that_have_ended_only_so_many_are_remembered(slides, begin, monkeypatch):
    monkeypatch.setattr("digipath.viewer.jobs._REMEMBERED", 2)
    gate = Gate(0)
    jobs = begin(gate)
    first = jobs.start(item_of(slides / "slide.tif"))
    wait(lambda: jobs.get(first.id).state == "running")
    for _ in range(5):
        last = jobs.start(item_of(slides / "other.tif"))
        jobs.cancel(last.id)
    assert len(jobs.all()) == 4 and jobs.get(first.id).state == "running" and jobs.get(last.id).state == "cancelled"
    gate.free.release(10**6)
    assert ended(jobs, first).state == "finished"


def test_no_result_ever_lies_over_another(slides, begin, tmp_path):
    """Another slide of the same name, the same slide in another way, and folders of somebody else."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(slides / "other.tif", tmp_path / "elsewhere" / "slide.tif")
    (tmp_path / "out" / "other").mkdir(parents=True)
    (tmp_path / "out" / "other" / "notes.txt").write_text("mine")
    jobs = begin(Gate())
    first = item_of(slides / "slide.tif")
    starts = [
        (first, Order()),
        (first, Order(effort="fast")),
        (item_of(tmp_path / "elsewhere" / "slide.tif"), Order()),
        (item_of(tmp_path / "elsewhere" / "slide.tif"), Order(effort="fast")),
        (item_of(slides / "other.tif"), Order()),
        (first, Order()),
        (first, Order(effort="fast")),
    ]
    ends = [ended(jobs, jobs.start(item, order)) for item, order in starts]
    assert [job.state for job in ends] == ["finished"] * len(ends)
    names = [job.folder.name for job in ends]
    assert names == [
        *("slide", "slide-fast", "slide-balanced", "slide.tif-fast", "other-balanced"),
        *("slide", "slide-fast"),
    ]
    assert [*(tmp_path / "out" / "other").iterdir()] == [tmp_path / "out" / "other" / "notes.txt"]
    assert "done before" in ends[-1].message and "done before" not in ends[-3].message


def test_a_slide_that_fails_is_told_in_a_line_and_the_next_one_goes_on(slides, begin):
    jobs = begin(Gate())
    failed, fine = (jobs.start(item_of(slides / name)) for name in ("broken.svs", "slide.tif"))
    told = ended(jobs, failed)
    assert told.state == "failed" and "broken.svs" in told.message and "\n" not in told.message
    assert ended(jobs, fine).state == "finished"


def test_a_network_that_fails_is_told_too(slides, begin):
    def fails(_):
        raise ValueError("no such\nnetwork")

    gate = Gate()
    gate.make = fails
    jobs = begin(gate)
    told = ended(jobs, jobs.start(item_of(slides / "slide.tif")))
    assert (told.state, told.message) == ("failed", "unexpected ValueError: no such network")


def test_a_slide_without_mpp_asks_for_it_and_takes_it(begin, tmp_path, slides):
    from PIL import Image

    from digipath.slides.slide import open_slide

    with open_slide(slides / "slide.tif") as slide:
        pixels = slide.read(slide.frame.box, slide.frame)
    Image.fromarray(pixels).save(tmp_path / "plain.tif")
    jobs, item = begin(Gate()), item_of(tmp_path / "plain.tif")
    told = ended(jobs, jobs.start(item))
    assert told.state == "failed" and told.asks_mpp and "no usable resolution" in told.message
    told = ended(jobs, jobs.start(item, Order(mpp=0.5)))
    assert told.state == "finished" and not told.asks_mpp


def test_a_result_without_its_slide_is_not_segmented(slides, begin):
    jobs = begin(Gate())
    item = item_of(ended(jobs, jobs.start(item_of(slides / "slide.tif"))).folder)
    assert item.kind == "result" and item.slide_path is None
    with pytest.raises(SpecError, match=r"only a result is there.*give"):
        jobs.start(item)


@pytest.mark.slow
def test_the_last_network_is_kept_and_no_other(slides, begin):
    gate = Gate()
    jobs = begin(gate)
    for name, order in (("slide", Order()), ("other", Order()), ("other", Order(effort="fast")), ("slide", Order())):
        ended(jobs, jobs.start(item_of(slides / f"{name}.tif"), order))
    assert [order.effort for order in gate.made] == ["balanced", "fast", "balanced"]


def test_closing_stops_what_runs_and_keeps_what_is_finished(slides, begin):
    gate = Gate(2)
    jobs = begin(gate)
    first, second = (jobs.start(item_of(slides / name)) for name in ("slide.tif", "other.tif"))
    wait(lambda: jobs.get(first.id).done == 8)
    threading.Timer(0.1, gate.free.release, [10**6]).start()
    jobs.close()
    assert [jobs.get(job.id).state for job in (first, second)] == ["cancelled", "cancelled"]
    assert not [thread for thread in threading.enumerate() if thread.name == "segmenting" and thread is jobs._thread]
    assert finished(jobs.out / "slide" / ".journal").rows
    with pytest.raises(SpecError, match="being stopped"):
        jobs.start(item_of(slides / "slide.tif"))


def test_nothing_that_learns_is_imported_before_the_first_job():
    code = (
        "import sys; from digipath.viewer import jobs; jobs.Jobs('out');"
        "print([name for name in ('keras', 'tensorflow', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
