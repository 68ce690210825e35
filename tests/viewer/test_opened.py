import gc
import json
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from digipath.errors import ResultError, SlideError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.inference.engine import Strip
from digipath.inference.journal import Journal
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.viewer import opened as module
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Item, Shelf


def write_slide(path, shade, *, side=128):
    pixels = np.full((side, side, 3), shade, np.uint8)
    write_pyramid(path, Frame.level0(side, side, 0.5), [(0, pixels)], channels=RGB, settings=PyramidSettings())
    return path


class Counted:
    """A slide that knows whether it is read after it was closed, and how many are open."""

    now, most = 0, 0
    lock = threading.Lock()

    def __init__(self, name):
        self.name, self.is_open, self.readers = name, True, 0
        with self.lock:
            Counted.now += 1
            Counted.most = max(Counted.most, Counted.now)

    def read(self):
        with self.lock:
            assert self.is_open
            self.readers += 1
        time.sleep(0.0005)
        with self.lock:
            assert self.is_open, "closed under a reader"
            self.readers -= 1

    def close(self):
        with self.lock:
            assert self.is_open and not self.readers
            self.is_open = False
            Counted.now -= 1


@pytest.fixture
def counted(monkeypatch):
    """Twelve items whose slides are counted."""
    Counted.now = Counted.most = 0
    monkeypatch.setattr(module, "open_shown", lambda path, mpp: Counted(path.name))
    monkeypatch.setattr(module, "stamp", lambda path: "")
    return [
        Item(id=f"{k}", kind="slide", name=f"{k}", path=Path(f"{k}"), slide_path=Path(f"{k}"), status="slide")
        for k in range(12)
    ]


def test_nothing_is_closed_under_a_reader_and_handles_stay_few(counted):
    opened, threads = Opened(limit=3), 6

    def read(k):
        with opened.slide(counted[k % len(counted)]) as slide:
            assert slide.name == str(k % len(counted))
            slide.read()

    order = np.random.default_rng(0).integers(0, 12, 600).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, order))
    assert len(opened) <= 3 and Counted.now <= 3
    assert Counted.most <= threads + 1
    opened.close()
    assert Counted.now == 0 == len(opened)


def test_one_reader_after_the_other_opens_no_more_than_the_limit(counted):
    opened = Opened(limit=3)
    for item in counted * 2:
        with opened.slide(item):
            assert Counted.now <= 3
    assert Counted.most == 3


def test_what_was_used_last_stays_open(counted):
    opened, seen = Opened(limit=2), []
    for k in (0, 1, 0, 2, 0):
        with opened.slide(counted[k]) as slide:
            seen.append(slide)
    assert seen[0] is seen[2] is seen[4]


def test_a_slide_is_opened_once_for_all_that_wait_for_it(counted, monkeypatch):
    made = []
    monkeypatch.setattr(module, "open_shown", lambda path, mpp: (time.sleep(0.02), made.append(path), Counted("0"))[2])
    opened, found = Opened(), set()

    def read(_):
        with opened.slide(counted[0]) as slide:
            found.add(id(slide))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(16)))
    assert len(made) == 1 == len(found)


def test_what_fails_to_open_leaves_nothing_behind_and_is_tried_again(counted, monkeypatch):
    opened = Opened(limit=1)

    def fail(path, mpp):
        raise SlideError(f"{path} at {mpp} is broken")

    monkeypatch.setattr(module, "open_shown", fail)
    for _ in range(3):
        with pytest.raises(SlideError), opened.slide(counted[0]):
            pass
    assert len(opened) == 0
    monkeypatch.setattr(module, "open_shown", lambda path, mpp: Counted(path.name))
    with opened.slide(counted[0]) as slide:
        slide.read()


def test_an_error_of_the_reader_gives_the_slide_back(counted):
    opened = Opened(limit=1)
    with pytest.raises(ZeroDivisionError), opened.slide(counted[0]) as slide:
        1 / 0  # noqa: B018
    with opened.slide(counted[1]):
        pass
    assert not slide.is_open


def test_of_plain_images_only_so_many_bytes_stay_in_memory(tmp_path, monkeypatch):
    from PIL import Image

    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for path in paths:
        Image.new("RGB", (100, 80)).save(path)
    shelf, opened = Shelf(paths, mpp=0.5), Opened()
    for item in shelf.items():
        with opened.slide(item):
            pass
    assert len(opened) == 4
    monkeypatch.setattr(module, "_IN_MEMORY", 2 * 100 * 80 * 3)
    for item in shelf.items():
        with opened.slide(item) as slide:
            assert slide.read(Box(0, 0, 1, 1), slide.frame).item(0) == 0
    assert len(opened) == 2


def test_a_slide_that_was_replaced_is_opened_anew(tmp_path):
    path, opened = write_slide(tmp_path / "a.tif", 40), Opened()
    item = Shelf([path]).items()[0]
    with opened.slide(item) as slide:
        assert slide.read(Box(0, 0, 1, 1), slide.frame).item(0) == 40
    write_slide(path, 90)
    with opened.slide(item) as slide:
        assert slide.read(Box(0, 0, 1, 1), slide.frame).item(0) == 90
    path.unlink()
    with pytest.raises(SlideError, match="cannot be read"), opened.slide(item):
        pass


def test_a_prediction_on_its_way_is_seen_as_far_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.viewer.shelf._PULSE", 0)
    frame = Frame.level0(160, 120, 0.5).coarser(8)
    folder = tmp_path / "running"
    journal = Journal(folder / ".journal", {"slide": {}}, frame=frame, channels=("other", "lesion"))
    shelf, opened = Shelf([tmp_path]), Opened()
    item = shelf.items()[0]
    assert item.status == "running" and item.kind == "result"
    with pytest.raises(ResultError, match="nothing is finished yet"), opened.view(item):
        pass
    values = np.full((5, 20, 2), 0.75, np.float32)
    journal.write(Strip(0, values, np.ones((5, 20), bool)), {})
    later = shelf.get(item.id)
    assert later.version != item.version
    with opened.view(later) as view:
        assert view.frame == frame and view.classes == ("other", "lesion") and view.segmentation is None
        np.testing.assert_array_equal(view.probability().array()[:, 0], [0.75] * 5 + [0] * 10)
        assert view.layers == ("probability-0", "probability-1", "mask-0", "mask-1")
        assert view.peaks("mask-1").read(frame.box, frame)[5:].max() == -1


def test_what_was_known_of_a_prediction_on_its_way_is_not_worked_out_again_and_looks_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.viewer.shelf._PULSE", 0)
    monkeypatch.setattr("digipath.viewer.reduced._STRIP", 16)
    frame = Frame.level0(560, 800, 0.5).coarser(8)
    place = tmp_path / "running" / ".journal"
    journal = Journal(place, {"slide": {}}, frame=frame, channels=("other", "lesion"))
    shelf, opened, rng = Shelf([tmp_path]), Opened(), np.random.default_rng(0)
    for y in (0, 20, 40, 60, 0):
        if y == 0 and journal.first_row:  # it was begun anew, with other values
            shutil.rmtree(place)
            journal = Journal(place, {"slide": {}}, frame=frame, channels=("other", "lesion"))
        values = rng.random((20, 70, 2), np.float32)
        journal.write(Strip(y, values, values[..., 0] > 0.3), {})
        [item] = shelf.items()
        with opened.view(item) as grown, Opened().view(item) as fresh:
            for z in (4, 16, 100):
                coarse = frame.coarser(z)
                for one, other in zip(
                    *(view.means("probability-1").read(coarse.box, coarse) for view in (grown, fresh)), strict=True
                ):
                    np.testing.assert_array_equal(one, other)
                peaks = [view.peaks("mask-1").read(coarse.box, coarse) for view in (grown, fresh)]
                np.testing.assert_array_equal(*peaks)
            assert grown.before[1] == y and bool(grown.before[0]) == bool(y)


def test_a_view_of_a_result_in_memory_leaves_it_open(library):
    from digipath.segmentation import Segmentation

    opened, shelf = Opened(limit=1), Shelf([])
    with Segmentation.load(library / "results" / "slide") as result:
        item = shelf.hold(result)
        with opened.view(item) as view:
            assert view.kinds == ("aleatoric", "epistemic", "total")
        opened.close()
        assert result.heatmap.values[0].shape
        with pytest.raises(SlideError, match="slide was not given"), opened.slide(item):
            pass


def test_closed_results_are_let_go_of(library):
    opened, shelf = Opened(limit=1), Shelf([library / "results"])
    seen = []
    for item in shelf.items():
        with opened.view(item) as view:
            view.means("probability-1").read(view.frame.box, view.frame)
            seen.append(weakref.ref(view.segmentation))
    del view
    gc.collect()
    assert seen[0]() is None and seen[1]() is not None


def test_coarser_copies_of_heatmaps_take_only_so_much_memory(library, monkeypatch):
    opened, shelf = Opened(), Shelf([library / "results"])

    def zoom_out():
        for item in shelf.items():
            with opened.view(item) as view:
                coarse = view.frame.coarser(8)
                view.means("probability-1").read(coarse.box, coarse)
                view.peaks("mask-1").read(coarse.box, coarse)
                assert view.frame.box.area * 4 / 16 < view.held < view.frame.box.area

    zoom_out()
    assert len(opened) == 2
    monkeypatch.setattr(module, "_IN_MEMORY", 15_000)
    zoom_out()
    assert len(opened) == 1


def test_a_slide_has_no_view_and_a_broken_result_none_either(library):
    items = {item.name: item for item in Shelf([library]).items() if item.kind == "slide"}
    opened = Opened()
    with pytest.raises(ResultError, match="not segmented"), opened.view(items["slide.tif"]):
        pass
    with pytest.raises(SlideError, match=r"broken\.svs"), opened.slide(items["broken.svs"]):
        pass
    with pytest.raises(SpecError, match="at least 1"):
        Opened(limit=0)


def test_a_large_picture_that_is_looked_at_stays_open_for_its_next_tile(tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.viewer.opened._IN_MEMORY", 1)
    from PIL import Image

    Image.new("RGB", (100, 80)).save(tmp_path / "large.png")
    [item], opened = Shelf([tmp_path / "large.png"], mpp=0.5).items(), Opened()
    with opened.slide(item) as first:
        pass
    with opened.slide(item) as second:
        assert second is first


@pytest.mark.parametrize("what", ["chunks", "sides", "texts", "thumbnail"])
def test_values_that_would_take_the_memory_are_refused(library, tmp_path, what):
    folder = Path(shutil.copytree(library / "results" / "second", tmp_path / "second"))
    with h5py.File(folder / "result.h5", "a") as file:
        name = "thumbnail" if what == "thumbnail" else "covered"
        old, side = file[name], 2**15 if what in ("chunks", "thumbnail") else 2**25
        kept, shape, dtype = dict(old.attrs), (side, side, *old.shape[2:]), old.dtype
        width, height, downsample, mpp, size = json.loads(kept["frame"])
        del file[name]
        if what == "texts":
            shape, dtype = (height, width), h5py.string_dtype()
        chunks = (2**15, 2**15) if what == "chunks" else (16, 16, *shape[2:])
        made = file.create_dataset(name, shape, dtype, chunks=chunks)
        made.attrs.update(kept)
        made.attrs["frame"] = json.dumps([*shape[1::-1], downsample, mpp, size])
    [item] = Shelf([folder]).items()
    with pytest.raises(ResultError, match="not as digipath writes it"), Opened().view(item):
        pass
