import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from digipath.errors import ResultError
from digipath.runs import lock
from digipath.runs.lock import Holder, Lock, Locked, holder_of
from digipath.runs.task import RunSettings

QUICK = RunSettings(expiry=0.3, heartbeat=0.05)


def leave(folder, number=1, **changes):
    """A lock that some process left."""
    folder.mkdir(exist_ok=True)
    holder = replace(lock._this_process(300.0), **changes)
    (folder / f".lock.{number}").write_bytes(lock._encoded(holder))
    return holder


def gone():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return {"pid": process.pid, "born": "1"}


def test_a_lock_is_there_inside_of_its_block_alone(tmp_path):
    folder = tmp_path / "one"
    with Lock(folder, QUICK):
        assert holder_of(folder).pid == os.getpid() and [path.name for path in folder.iterdir()] == [".lock.1"]
        with pytest.raises(Locked, match=f"process {os.getpid()} on"), Lock(folder, QUICK):
            pass
        assert holder_of(folder) is not None
    assert not folder.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_lock_is_released_on_all_ways_out_and_files_stay(tmp_path, error):
    with pytest.raises(error), Lock(tmp_path, QUICK):
        (tmp_path / "kept").touch()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_dead_process_of_this_machine_loses_its_lock_at_once(tmp_path):
    leave(tmp_path, 4, **gone())
    assert holder_of(tmp_path) is None
    with Lock(tmp_path, QUICK):
        assert [path.name for path in tmp_path.iterdir()] == [".lock.5"]


def test_a_later_process_of_the_same_number_is_another_one(tmp_path):
    leave(tmp_path, born="1")
    assert holder_of(tmp_path) is None


@pytest.mark.parametrize("elsewhere", [{"host": "far"}, {"system": "another container"}])
def test_a_process_elsewhere_loses_its_lock_after_its_own_expiry(tmp_path, elsewhere):
    leave(tmp_path, **gone(), **elsewhere, beat=time.time() - 50, expiry=60)
    assert holder_of(tmp_path) is not None
    with pytest.raises(Locked), Lock(tmp_path, QUICK):  # whatever the own expiry is
        pass
    leave(tmp_path, **gone(), **elsewhere, beat=time.time() - 61, expiry=60)
    assert holder_of(tmp_path) is None


def test_a_lock_can_be_waited_for(tmp_path):
    first = Lock(tmp_path, QUICK)
    first.__enter__()
    threading.Timer(0.2, lambda: first.__exit__(None, None, None)).start()
    with Lock(tmp_path, replace(QUICK, wait=20)):
        assert holder_of(tmp_path) is not None


def test_the_heartbeat_tells_how_far_the_slide_is(tmp_path):
    with Lock(tmp_path, QUICK) as held:
        before = holder_of(tmp_path).beat
        held.beat(3, 7)
        time.sleep(0.5)  # longer than the expiry
        holder = holder_of(tmp_path)
        assert holder.beat > before and (holder.done, holder.total) == (3, 7) and "3 of 7 patches" in str(holder)


def test_a_slide_that_hangs_over_its_limit_loses_its_heartbeat(tmp_path):
    with Lock(tmp_path, replace(QUICK, time_limit=0.1)):
        time.sleep(0.2)
        assert holder_of(tmp_path) is not None
        time.sleep(0.8)
        with Lock(tmp_path, QUICK):
            pass


def test_who_was_taken_over_notices_and_harms_nobody(tmp_path):
    with Lock(tmp_path, QUICK) as slow:
        mine = json.loads((tmp_path / ".lock.1").read_text())
        (tmp_path / ".lock.1").write_bytes(lock._encoded(Holder(**mine | {"token": "another"})))
        time.sleep(0.2)
        with pytest.raises(Locked, match="took it over"):
            slow.beat(1, 2)
    assert json.loads((tmp_path / ".lock.1").read_text())["token"] == "another"


def test_a_lock_that_was_removed_does_not_come_back(tmp_path):
    with Lock(tmp_path, QUICK) as held:
        (tmp_path / ".lock.1").unlink()
        time.sleep(0.2)
        assert not list(tmp_path.iterdir())
        with pytest.raises(Locked):
            held.beat(1, 2)


@pytest.mark.parametrize("damage", [None, {"beat": "now"}, {"expiry": None}])
def test_a_lock_that_says_nothing_is_dead_once_it_is_old(tmp_path, damage):
    path = tmp_path / ".lock.1"
    path.write_text("{" if damage is None else json.dumps(asdict(leave(tmp_path)) | damage))
    assert holder_of(tmp_path) is not None
    os.utime(path, (1, 1))
    assert holder_of(tmp_path) is None


def test_a_lock_of_a_newer_version_is_understood(tmp_path):
    (tmp_path / ".lock.1").write_text(json.dumps(asdict(leave(tmp_path)) | {"mood": "good"}))
    assert holder_of(tmp_path) is not None


@pytest.mark.parametrize("begin", ["free", "dead", "without links"])
def test_only_one_of_many_has_a_lock_at_a_time(tmp_path, begin, monkeypatch):
    folder = tmp_path / "one"
    if begin == "dead":
        leave(folder, 3, host="far", beat=0.0)
    if begin == "without links":
        monkeypatch.setattr(os, "link", refuse)
    inside, most, entered, wrong = [], [], [], []

    def try_often():
        for _ in range(12):
            try:
                with Lock(folder, replace(QUICK, expiry=30)):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
                    entered.append(1)
            except Locked:
                time.sleep(0.001)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=try_often) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and max(most) == 1 and len(entered) > 5 and not folder.exists()


def refuse(*_):
    raise PermissionError("no links here")


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "one").touch()
    with pytest.raises(ResultError, match="folder"), Lock(tmp_path / "one", QUICK):
        pass
