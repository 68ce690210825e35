import json
import os
import shutil
import threading

import numpy as np
import pytest

from digipath.geometry.frame import Box, Frame
from digipath.inference.engine import Strip
from digipath.inference.journal import Journal
from digipath.inference.unfinished import finished

CLASSES = ("other", "lesion")
CHANNELS = (*CLASSES, "aleatoric", "epistemic")
FRAME = Frame.level0(7, 60, 2.0)


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


def constant(y, height, value, channels=CHANNELS, frame=FRAME):
    """A strip that holds one value everywhere, so that a torn one would show."""
    values = np.full((height, frame.width, len(channels)), value, np.float32)
    return Strip(y, values, np.ones((height, frame.width), bool))


def opened(folder, channels=CHANNELS, frame=FRAME):
    return Journal(folder, {"a": 1}, frame=frame, channels=channels)


def test_where_nothing_is_finished_there_is_nothing(tmp_path):
    assert finished(tmp_path / "nowhere") is None
    opened(tmp_path)
    assert finished(tmp_path) is None
    (tmp_path / "journal.json").write_text("{")
    assert finished(tmp_path) is None
    (tmp_path / "journal.json").write_text(json.dumps({"format_version": 1, "strips": [[0, 4]], "frame": {}}))
    assert finished(tmp_path) is None


def test_what_is_finished_is_what_was_written_and_zero_below(tmp_path):
    journal, rng, whole = opened(tmp_path), np.random.default_rng(0), np.zeros((60, 7, 4), np.float32)
    versions = set()
    for y, height in ((0, 5), (5, 1), (6, 20), (26, 3)):
        whole[y : y + height] = rng.random((height, 7, 4), np.float32)
        journal.write(Strip(y, whole[y : y + height], whole[y : y + height, :, 1] > 0.4), {})
        seen = finished(tmp_path)
        versions.add(seen.version)
        assert (seen.frame, seen.channels, seen.rows) == (FRAME, CHANNELS, y + height)
        np.testing.assert_array_equal(seen.heatmap.array(), whole[..., :2].astype(np.float16))
        np.testing.assert_array_equal(seen.uncertainty.array(), whole[..., 2:])
        np.testing.assert_array_equal(seen.covered.array(), whole[..., 1] > 0.4)
    assert len(versions) == 4
    values = seen.heatmap.array()
    for key in (np.s_[3:29, 2:5], np.s_[28:40, :, 1], np.s_[..., 0], np.s_[5:6], np.s_[10:4], np.s_[2:50:3, 1:]):
        np.testing.assert_array_equal(seen.heatmap.values[key], values[key])
    np.testing.assert_array_equal(
        seen.heatmap.crop(Box(-2, 20, 6, 50))[:, 2:], np.pad(values[20:, :4], ((0, 10), (0, 0), (0, 0)))
    )
    assert seen.heatmap.channel("lesion").array().dtype == np.float16


def test_without_uncertainty_there_is_none(tmp_path):
    opened(tmp_path, CLASSES).write(constant(0, 3, 0.5, CLASSES), {})
    assert finished(tmp_path).uncertainty is None


def test_of_a_cascade_the_first_stage_is_seen_until_the_second_has_something(tmp_path):
    second, coarse = opened(tmp_path), Frame.level0(4, 30, 4.0)
    first = opened(tmp_path / "first", frame=coarse)
    assert finished(tmp_path) is None
    first.write(constant(0, 30, 0.25, frame=coarse), {})
    assert finished(tmp_path).frame == coarse
    second.write(constant(0, 2, 0.5), {})
    assert finished(tmp_path).frame == FRAME


def test_a_strip_that_is_not_as_it_was_listed_is_not_there(tmp_path):
    journal = opened(tmp_path)
    for y in (0, 10, 20):
        journal.write(constant(y, 10, 0.5), {})
    before = finished(tmp_path)
    content = (tmp_path / "10.npy").read_bytes()
    (tmp_path / "10.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "20.npy").unlink()
    for name in ("covered", "heatmap"):
        np.testing.assert_array_equal(getattr(before, name).array()[10:], 0)
        assert getattr(before, name).array()[:10].all()


def test_reading_writes_nothing(tmp_path):
    opened(tmp_path).write(constant(0, 10, 0.5), {})
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    finished(tmp_path).heatmap.array()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == before


def test_while_it_is_written_removed_and_begun_anew_no_strip_is_ever_torn(tmp_path):
    """Each run writes another constant; whatever a reader meets, a row holds one value, and is covered as a whole."""
    folder, stop, faults = tmp_path / "journal", threading.Event(), []

    def write():
        try:
            for run in range(1, 200):
                journal = opened(folder)
                for y in range(0, 60, 6):
                    journal.write(constant(y, 6, run / 256), {})
                if run % 2:
                    journal.remove()
                else:
                    shutil.rmtree(folder)
                if stop.is_set():
                    return
        except Exception as error:
            faults.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    looks, most = 0, 0
    while looks < 150 and writer.is_alive():
        seen = finished(folder)
        if seen is not None:
            looks += 1
            heatmap, covered = seen.heatmap.array(), seen.covered.array()
            most = max(most, int(covered.any(1).sum()))
            strips = heatmap.reshape(10, 6, -1)
            assert (strips == strips[:, :1, :1]).all()
            assert not covered[seen.rows :].any() and not heatmap[seen.rows :].any()
    stop.set()
    writer.join()
    assert not faults and looks and most


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": {"width": 1e400, "height": 1, "downsample": 1.0, "mpp": 1.0, "slide_size": [1, 1]}},
        {"frame": []},
        {"strips": [[0, 10**9, 0]]},
        {"strips": [[-5, 5, 0]]},
        {"channels": 5},
    ],
)
def test_a_journal_of_somebody_else_that_claims_what_cannot_be_is_none(tmp_path, changes):
    opened(tmp_path).write(constant(0, 5, 0.5), {})
    found = json.loads((tmp_path / "journal.json").read_text())
    (tmp_path / "journal.json").write_text(json.dumps(found | changes))
    assert finished(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_strip_that_is_a_pipe_or_too_long_is_not_there(tmp_path):
    journal = opened(tmp_path)
    journal.write(constant(0, 5, 0.5), {})
    journal.write(constant(5, 5, 0.5), {})
    (tmp_path / "0.npy").unlink()
    os.mkfifo(tmp_path / "0.npy")
    (tmp_path / "5.npy").write_bytes((tmp_path / "5.npy").read_bytes() + bytes(10_000))
    assert not finished(tmp_path).covered.array().any()
