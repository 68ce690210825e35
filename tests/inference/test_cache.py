"""The user's cache: where it is, and that no half-made entry is ever seen."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from digipath.inference.cache import cache_folder, fresh, write_text


def test_the_cache_is_where_the_platform_keeps_such_things(monkeypatch, tmp_path):
    for name in ("DIGIPATH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        found[platform] = cache_folder().relative_to(tmp_path).as_posix()
    assert found == {
        "linux": ".cache/digipath",
        "darwin": "Library/Caches/digipath",
        "win32": "AppData/Local/digipath",
    }
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "digipath"
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_an_entry_stands_only_once_it_is_whole(tmp_path):
    folder = tmp_path / "cache" / "entry"
    with fresh(folder) as making:
        (making / "one").write_text("1")
        assert not folder.exists()
    assert (folder / "one").read_text() == "1" and [path.name for path in folder.parent.iterdir()] == ["entry"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="broken"), fresh(tmp_path / "entry") as making:
        (making / "one").write_text("1")
        raise ValueError("broken")
    assert not list(tmp_path.iterdir())


def test_of_several_that_make_an_entry_at_once_one_wins_whole(tmp_path):
    together = Barrier(4)

    def make(number):
        with fresh(tmp_path / "entry") as making:
            for name in "ab":
                (making / name).write_text(str(number))
            together.wait(10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert (tmp_path / "entry" / "a").read_text() == (tmp_path / "entry" / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_an_entry_that_is_not_usable_is_replaced_and_another_kept(tmp_path):
    for number, usable in enumerate((False, False, True)):
        with fresh(tmp_path / "entry", usable=lambda folder, answer=usable: answer) as making:
            (making / str(number)).write_text("")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["entry", "entry/1"]


def test_a_small_file_is_replaced_whole(tmp_path):
    for text in ("one", "two"):
        write_text(tmp_path / "new" / "file.json", text)
        assert (tmp_path / "new" / "file.json").read_text() == text
    assert len(list((tmp_path / "new").iterdir())) == 1
