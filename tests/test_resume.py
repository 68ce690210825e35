"""A slide's prediction that is stopped at any moment goes on, and arrives where an undisturbed one does."""

import dataclasses
import errno
import itertools
import json
import os
import subprocess
import sys
import time
import warnings

import cv2
import numpy as np
import pytest

from digipath import Cascade, Segmentation, Segmenter
from digipath.errors import Cancelled, ResultError
from digipath.geometry.frame import Box
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.models.spec import ModelSpec
from digipath.slides.array import ArraySlide
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

SPEC = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=64)
SETTINGS = InferenceSettings(batch=7)


class Killed(BaseException):
    """Stands for the end of a process: nothing of ours catches it."""


class Network(FunctionPredictor):
    """Darkness, and a little of what else is in the batch: other batches would give another heatmap.

    It counts the patches that it has seen, and dies after some calls until it is revived. It is one object all the
    time: that is how a predictor is recognised that is no bundle.
    """

    def __init__(self, calls=None, *, death=Killed, spec=SPEC):
        super().__init__(self.look, spec)
        self.left, self.death, self.seen = calls, death, 0

    def look(self, patches):
        if self.left == 0:
            raise self.death
        self.left = None if self.left is None else self.left - 1
        self.seen += len(patches)
        values = 0.9 - 0.7 * (patches[..., 1] / np.float32(255)) + 0.1 * patches.mean(dtype=np.float64) / 255
        return np.stack([1 - values, values], -1).astype(np.float32)

    def revive(self, calls=None):
        self.left, self.seen = calls, 0


def paint(path):
    image = np.full((420, 330, 3), 244, np.uint8)
    cv2.ellipse(image, (150, 200), (130, 185), 0, 0, 360, (225, 150, 190), -1)
    cv2.circle(image, (140, 150), 60, (120, 60, 110), -1)
    noise = np.random.default_rng(1).integers(-9, 9, image.shape)
    cv2.imwrite(str(path), np.clip(image + noise, 0, 255).astype(np.uint8)[..., ::-1])
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("slides") / "slide.png")


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Overviews are drawn from the rasters alone, and to flush is to wait for the disk."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("digipath.segmentation.draw", lambda *_, **__: np.zeros((1, 1, 3), np.uint8))
        patched.setattr(os, "fsync", lambda _: None)
        yield


def segmenter(network, **changes):
    return Segmenter(network, settings=dataclasses.replace(SETTINGS, **changes))


def predict(chosen, slide, out, *, progress=False, mpp=1.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return chosen.predict(slide, out=out, mpp=mpp, progress=progress)


def stopped(calls, slide, out, **arguments):
    """A network that died after some calls, and is well again."""
    network = Network(calls)
    with pytest.raises(Killed):
        predict(segmenter(network), slide, out, **arguments)
    network.revive()
    return network


def files(folder):
    """The content of each file of a result, without what differs between two runs of the same."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    info = json.loads(found.pop("result.json"))
    del info["seconds"], info["waited_share"]
    info["versions"].pop("keras backend", None)  # of who exports a network, which is done once
    return found | {"result.json": info, "resumed": info.pop("resumed")}


def assert_same(folder, other, *, resumed):
    one, two = files(folder), files(other)
    assert (one.pop("resumed"), two.pop("resumed")) == (resumed, 0)
    assert one.keys() == two.keys()
    assert one["result.json"] == two["result.json"]
    assert [name for name in one if one[name] != two[name]] == []


def first_row(folder):
    path = folder / ".journal" / "journal.json"
    strips = json.loads(path.read_bytes())["strips"] if path.is_file() else []
    return sum(strips[-1][:2]) if strips else 0


def expected_again(slide, row):
    """How many patches are predicted from the batch on that holds the first patch which touches a row.

    Where that is the last batch, which is smaller, the one before leads.
    """
    (plan,) = segmenter(Network()).plan(slide, mpp=1.0)
    touches = [box.bottom - plan.grid.margin > row * plan.unit for box in plan.boxes]
    first = min(touches.index(True), len(touches) - plan.batch) if row else 0
    return len(touches) - first // plan.batch * plan.batch


@pytest.fixture(scope="module")
def undisturbed(slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "slide"
    predict(segmenter(Network()), slide, folder)
    return folder


@pytest.mark.parametrize("calls", [1, 6, 11, 14])
def test_a_run_that_dies_after_any_batch_arrives_where_an_undisturbed_one_does(slide, undisturbed, tmp_path, calls):
    network = stopped(calls, slide, tmp_path)
    row = first_row(tmp_path)
    assert [path.name for path in tmp_path.glob("*")] == ([".journal"] if row else [])
    predict(segmenter(network), slide, tmp_path)
    assert network.seen == expected_again(slide, row)
    assert_same(tmp_path, undisturbed, resumed=int(row > 0))


@pytest.mark.parametrize("death", [KeyboardInterrupt, ValueError])
def test_a_run_that_dies_again_and_again_arrives_too(slide, undisturbed, tmp_path, death):
    rows, network = [], Network(death=death)
    for _ in range(20):
        network.revive(4)
        try:
            predict(segmenter(network), slide, tmp_path)
        except death:
            rows.append(first_row(tmp_path))
        else:
            break
    assert len(rows) > 2 and rows == sorted(set(rows))
    assert_same(tmp_path, undisturbed, resumed=len(rows) - rows.count(0))


def test_who_cancels_can_go_on(slide, undisturbed, tmp_path):
    def cancel(state):
        if state.done > 60:
            raise Cancelled("enough")

    network, seen = Network(), []
    with pytest.raises(Cancelled):
        predict(segmenter(network), slide, tmp_path, progress=cancel)
    predict(segmenter(network), slide, tmp_path, progress=seen.append)
    assert seen[0].before == seen[0].done - 7 > 0 and seen[-1].done == seen[-1].total
    assert_same(tmp_path, undisturbed, resumed=1)


def dies_at_the_end(chosen, slide, out, **arguments):
    def die(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Segmentation, "write_products", die)
        predict(chosen, slide, out, **arguments)


def test_what_dies_while_it_puts_the_result_together_predicts_nothing_again(slide, undisturbed, tmp_path):
    network = Network()
    dies_at_the_end(segmenter(network), slide, tmp_path)
    network.revive()
    predict(segmenter(network), slide, tmp_path)
    assert network.seen == 0
    assert_same(tmp_path, undisturbed, resumed=1)


def test_an_old_result_stays_until_the_new_one_is_whole(slide, undisturbed, tmp_path):
    predict(segmenter(Network(), patch=96), slide, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    network = stopped(9, slide, tmp_path)
    assert (tmp_path / ".journal").is_dir()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    predict(segmenter(network), slide, tmp_path)
    assert_same(tmp_path, undisturbed, resumed=1)


@pytest.mark.parametrize(
    "changes", [{"overlap": 0.25}, {"batch": 8}, {"window": "mean"}, {"min_tissue": 0.5}, {"augmentations": "all"}]
)
def test_other_settings_are_refused_by_name(slide, tmp_path, changes):
    network = stopped(9, slide, tmp_path)
    row = first_row(tmp_path)
    with pytest.raises(ResultError, match=rf"{next(iter(changes))}.*: .* in the journal, .* now"):
        predict(segmenter(network, **changes), slide, tmp_path)
    assert network.seen == 0 and first_row(tmp_path) == row > 0


def test_a_network_that_cannot_be_recognised_begins_anew_and_says_so(slide, undisturbed, tmp_path):
    stopped(9, slide, tmp_path)
    network = Network()
    with pytest.warns(UserWarning, match="cannot be recognised"):
        segmenter(network).predict(slide, out=tmp_path, mpp=1.0, progress=False)
    assert network.seen == expected_again(slide, 0)
    assert_same(tmp_path, undisturbed, resumed=0)


def test_a_slide_that_changed_is_refused_by_name(tmp_path):
    slide = paint(tmp_path / "slide.png")
    network = stopped(9, slide, tmp_path / "out")
    image = cv2.imread(str(slide))
    image[200, 150] += 9
    cv2.imwrite(str(slide), image)
    with pytest.raises(ResultError, match=r"fingerprint.*: .* in the journal, .* now"):
        predict(segmenter(network), slide, tmp_path / "out")
    assert network.seen == 0 and first_row(tmp_path / "out") > 0


def test_a_slide_that_moved_is_the_same(tmp_path):
    slide = paint(tmp_path / "slide.png")
    network = stopped(9, slide, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    predict(segmenter(network), slide.rename(tmp_path / "elsewhere" / "slide.png"), tmp_path / "out")
    assert 0 < network.seen < 100


@pytest.mark.parametrize("changes", [{"threshold": 0.8}, {"threads": 1}])
def test_what_changes_no_value_of_the_heatmap_may_change(slide, tmp_path, undisturbed, changes):
    network = stopped(9, slide, tmp_path)
    result = predict(segmenter(network, **changes), slide, tmp_path)
    assert result.info["resumed"] == 1
    assert (tmp_path / "result.h5").read_bytes() == (undisturbed / "result.h5").read_bytes()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_costs_nothing(slide, undisturbed, tmp_path, monkeypatch):
    written, true, network = itertools.count(), os.fsync, Network()

    def flush(handle):
        full() if next(written) > 20 else true(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush)
        with pytest.raises(ResultError, match="No space left on device") as raised:
            predict(segmenter(network), slide, tmp_path)
    assert "\n" not in str(raised.value)
    row = first_row(tmp_path)
    assert row > 0
    network.revive()
    predict(segmenter(network), slide, tmp_path)
    assert network.seen == expected_again(slide, row)
    assert_same(tmp_path, undisturbed, resumed=1)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB of its own; where none can be had, the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("a disk of one's own can only be mounted by root, on Linux")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("room", [24, 80, 220])
def test_on_a_disk_that_is_really_full_the_same_call_goes_on_once_there_is_space(slide, undisturbed, small_disk, room):
    """KiB that are left: for no strip, for some, and for all of them but not for the result."""
    filler, out, network = small_disk / "filler", small_disk / "out", Network()
    filler.write_bytes(bytes(3 * 2**20 - 1024 * room))
    with pytest.raises(ResultError, match="No space left on device") as raised:
        predict(segmenter(network), slide, out)
    assert "\n" not in str(raised.value)
    row = first_row(out)
    filler.unlink()
    network.revive()
    predict(segmenter(network), slide, out)
    assert network.seen == (0 if row == 210 else expected_again(slide, row))
    assert_same(out, undisturbed, resumed=int(row > 0))


class Judge(Network):
    """A classifier in which a patch with a dark middle is a candidate."""

    def __init__(self, calls=None):
        super().__init__(calls, spec=dataclasses.replace(SPEC, kind="classifier", patch=48, margin=8))

    def look(self, patches):
        return super().look(patches).mean((1, 2))


def cascade(first, second, **changes):
    wide = {"candidate": 0.4, "patch": 128} | changes
    return Segmenter(Cascade(first, second), settings=dataclasses.replace(SETTINGS, **wide))


@pytest.fixture(scope="module")
def undisturbed_cascade(slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade") / "slide"
    first, second = Judge(), Network()
    predict(cascade(first, second), slide, folder)
    assert first.seen > second.seen > 20
    return folder


@pytest.mark.parametrize("calls", [2, 6, 9])
def test_a_cascade_that_dies_in_its_first_stage_goes_on_there(slide, undisturbed_cascade, tmp_path, calls):
    first, second = Judge(calls), Network()
    with pytest.raises(Killed):
        predict(cascade(first, second), slide, tmp_path)
    before = first.seen
    assert second.seen == 0
    first.revive()
    predict(cascade(first, second), slide, tmp_path)
    total = json.loads((undisturbed_cascade / "result.json").read_bytes())["passes"][0]["predicted"]
    assert total <= before + first.seen <= before + total
    assert_same(tmp_path, undisturbed_cascade, resumed=int(first.seen < total))


@pytest.mark.parametrize("calls", [0, 2, 3])
def test_a_cascade_that_dies_in_its_second_stage_repeats_nothing_of_the_first(
    slide, undisturbed_cascade, tmp_path, calls
):
    first, second = Judge(), Network(calls)
    with pytest.raises(Killed):
        predict(cascade(first, second), slide, tmp_path)
    first.revive()
    second.revive()
    predict(cascade(first, second), slide, tmp_path)
    assert first.seen == 0 < second.seen
    assert_same(tmp_path, undisturbed_cascade, resumed=1)


def test_a_cascade_keeps_the_batches_of_its_first_stage_though_others_are_found(slide, tmp_path, monkeypatch):
    first, second = Judge(6), Network()
    monkeypatch.setattr("digipath.inference.program.find_batch", lambda *_, **__: 7)
    with pytest.raises(Killed):
        predict(cascade(first, second, batch=None), slide, tmp_path)
    first.revive()
    monkeypatch.setattr("digipath.inference.program.find_batch", lambda *_, **__: 9)
    result = predict(cascade(first, second, batch=None), slide, tmp_path)
    assert result.info["resumed"] == 1 and [one["batch"] for one in result.info["passes"]] == [7, 7]


def test_a_cascade_whose_first_stage_cannot_be_recognised_begins_anew(slide, undisturbed_cascade, tmp_path):
    with pytest.raises(Killed):
        predict(cascade(Judge(6), Network()), slide, tmp_path)
    with pytest.warns(UserWarning, match="cannot be recognised"):
        cascade(Judge(), Network()).predict(slide, out=tmp_path, mpp=1.0, progress=False)
    assert_same(tmp_path, undisturbed_cascade, resumed=0)


def ensemble(fine, coarse):
    """Two networks that see the slide at two resolutions, each in a pass of its own, in two views."""
    settings = dataclasses.replace(SETTINGS, uncertainty=True, augmentations=("identity", "flip"))
    return Segmenter([fine, coarse], settings=settings)


def coarse():
    return Network(spec=dataclasses.replace(SPEC, mpp=2.0))


@pytest.fixture(scope="module")
def undisturbed_ensemble(slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "slide"
    predict(ensemble(Network(), coarse()), slide, folder)
    assert (folder / "epistemic.tif").is_file()
    return folder


@pytest.mark.parametrize("calls", [6, 18])
def test_an_ensemble_of_several_resolutions_goes_on_with_its_uncertainty(slide, undisturbed_ensemble, tmp_path, calls):
    members = Network(calls), coarse()
    with pytest.raises(Killed):
        predict(ensemble(*members), slide, tmp_path)
    row = first_row(tmp_path)
    members[0].revive()
    predict(ensemble(*members), slide, tmp_path)
    assert_same(tmp_path, undisturbed_ensemble, resumed=int(row > 0))


class Damaged(ArraySlide):
    """A slide of which a part cannot be read."""

    def read_covered(self, box, frame, *, kernel="box"):
        pixels, lost = super().read_covered(box, frame, kernel=kernel)
        hole = frame.box_in(box, self.frame).intersect(Box(120, 190, 40, 30))
        return pixels, [*lost, *([hole] if hole.area else [])]


@pytest.mark.parametrize("calls", [9])
def test_what_cannot_be_read_is_the_same_in_a_run_that_goes_on(slide, tmp_path, calls):
    image = cv2.imread(str(slide))[..., ::-1]
    predict(segmenter(Network()), Damaged(image, mpp=1.0), tmp_path / "undisturbed", mpp=None)
    network = stopped(calls, Damaged(image, mpp=1.0), tmp_path / "out", mpp=None)
    row = first_row(tmp_path / "out")
    result = predict(segmenter(network), Damaged(image, mpp=1.0), tmp_path / "out", mpp=None)
    assert result.status == "incomplete"
    assert_same(tmp_path / "out", tmp_path / "undisturbed", resumed=int(row > 0))


def test_a_normalised_slide_is_recorded_alike_whenever_the_run_died(tmp_path):
    made = SyntheticSlide(SyntheticSettings(width=320, height=260, mpp=1.0, lesions=1))
    slide, spec = ArraySlide(made.array(), mpp=1.0), dataclasses.replace(SPEC, stain="macenko")
    predict(segmenter(Network(spec=spec)), slide, tmp_path / "undisturbed", mpp=None)
    network = Network(spec=spec)
    dies_at_the_end(segmenter(network), slide, tmp_path / "out", mpp=None)
    predict(segmenter(network), slide, tmp_path / "out", mpp=None)
    assert_same(tmp_path / "out", tmp_path / "undisturbed", resumed=1)


CHILD = """
import sys
from digipath import Cascade, Segmenter
from digipath.inference.settings import InferenceSettings

def tell(state):
    print(state.done, state.total, flush=True)

slide, out, bundle = sys.argv[1:]
source = Cascade("colon-patch-classifier", bundle[1:]) if bundle[0] == "+" else bundle
Segmenter(source, settings=InferenceSettings(patch=224, batch=2)).predict(slide, out=out, progress=tell)
print("done", flush=True)
"""


class Child:
    """A process of its own that predicts a slide."""

    def __init__(self, slide, out, bundle):
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(slide), str(out), bundle]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def lines(self, count):
        """Wait for so many batches, or the end; returns the last line."""
        return next(itertools.islice(self.process.stdout, count - 1, None), None)

    def until_all_is_predicted(self):
        """Wait until the last batch is predicted; of a cascade that of either stage."""
        next(line for line in self.process.stdout if len(set(line.split())) == 1)

    def finish(self):
        """Wait for the end, and see that it is a good one."""
        output, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        return output

    def kill(self):
        """SIGKILL, which no program can handle."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def tall_slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("tall") / "slide.tif"
    made = SyntheticSlide(SyntheticSettings(width=1000, height=5000, mpp=1.0))
    write_pyramid(path, made.frame, made.strips(), channels=RGB, settings=PyramidSettings(compression="jpeg"))
    return path


def kept(folder):
    """How many rows lie in the journals of a result, of both stages of a cascade."""
    lists = [json.loads(path.read_bytes())["strips"] for path in (folder / ".journal").rglob("journal.json")]
    return sum(sum(strips[-1][:2]) for strips in lists if strips)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["colon-lesion-light", "+colon-lesion-light"], ids=["one", "cascade"])
def test_kill_9_at_ten_moments_of_a_real_run_changes_nothing(tall_slide, tmp_path, bundle):
    """The first before the network is there, the last when it has nothing more to do, the others in between."""
    out = tmp_path / "out"
    batches = len(Child(tall_slide, tmp_path / "undisturbed", bundle).finish().splitlines())
    begin = time.perf_counter()
    child = Child(tall_slide, tmp_path / "started", bundle)
    child.lines(1)
    start = time.perf_counter() - begin
    child.kill()
    rng, rows = np.random.default_rng(1), []
    for number in range(10):
        child = Child(tall_slide, out, bundle)
        if number == 0:
            time.sleep(rng.uniform(0, start))
        elif number < 9:
            child.lines(int(rng.integers(batches // 14, batches // 9)))
            time.sleep(rng.uniform(0, 0.1))
        else:
            child.until_all_is_predicted()
            time.sleep(rng.uniform(0, 0.3))
        child.kill()
        rows.append(kept(out))
    assert rows == sorted(rows) and len(set(rows)) > 5
    assert not (out / "result.json").exists()
    Child(tall_slide, out, bundle).finish()
    assert_same(out, tmp_path / "undisturbed", resumed=sum(row > 0 for row in rows))
