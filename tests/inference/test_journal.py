import contextlib
import errno
import io
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.inference.engine import Strip
from digipath.inference.journal import Journal

FRAME = Frame.level0(7, 10, 2.0)
CLASSES = ("other", "lesion")
CHANNELS = (*CLASSES, "aleatoric", "epistemic")
IDENTITY = {
    "slide": {"name": "slide", "fingerprint": "5f"},
    "settings": {"overlap": 0.5, "augmentations": ("identity", "flip"), "early_exit": None},
    "bundle": {"members": [{"name": "colon", "hash": "ab"}, {"name": "colon", "hash": "cd"}]},
    "batch": 8,
}


@pytest.fixture(scope="module", autouse=True)
def _unflushed():
    """To flush is to wait for the disk; the tests of it look at what is asked for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


def strips(heights=(4, 1, 5), channels=CHANNELS, frame=FRAME):
    rng, y = np.random.default_rng(1), 0
    for height in heights:
        covered = rng.random((height, frame.width)) < 0.7
        values = rng.random((height, frame.width, len(channels)), np.float32) * covered[..., None]
        yield Strip(y, values, covered)
        y += height


def rounded(strip, classes=2):
    """What the journal promises to keep of a strip."""
    values = strip.values.copy()
    values[..., :classes] = values[..., :classes].astype(np.float16)
    return strip._replace(values=values)


def opened(folder, identity=IDENTITY, frame=FRAME, channels=CHANNELS):
    return Journal(folder, identity, frame=frame, channels=channels)


def fill(journal, written=None):
    """Write what is missing, as a run does that goes on."""
    for number, strip in enumerate(strips()):
        if strip.y >= journal.first_row:
            journal.write(strip, {"strips": number + 1, "unread": [[1, 2, 3, 4]]})
            if written is not None:
                written.append(strip.y)
    return journal


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.y == other.y
        for name in ("values", "covered"):
            here, there = getattr(one, name), getattr(other, name)
            assert here.dtype == there.dtype
            np.testing.assert_array_equal(here, there)


def assert_whole(journal):
    assert journal.complete and journal.state == {"strips": 3, "unread": [[1, 2, 3, 4]]}
    assert_same(journal.strips(), map(rounded, strips()))


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from([CHANNELS, CLASSES, ("lesion",), ("a", "b", "c", "epistemic")]),
)
def test_what_is_written_comes_back(tmp_path_factory, heights, channels):
    frame = Frame.level0(5, sum(heights), 1.0)
    journal = opened(tmp_path_factory.mktemp("journal"), frame=frame, channels=channels)
    for number, strip in enumerate(strips(heights, channels, frame)):
        assert not journal.complete and journal.first_row == strip.y
        journal.write(strip, {"last": number})
    again = opened(journal.folder, frame=frame, channels=channels)
    classes = sum(name not in ("aleatoric", "epistemic") for name in channels)
    for one in (journal, again):
        assert one.complete and one.first_row == frame.height and one.state == {"last": len(heights) - 1}
        assert_same(one.strips(), (rounded(strip, classes) for strip in strips(heights, channels, frame)))


def test_rounding_again_changes_nothing(tmp_path):
    first = fill(opened(tmp_path / "first"))
    second = opened(tmp_path / "second")
    for strip in first.strips():
        second.write(strip, {})
    assert_same(first.strips(), second.strips())


def test_a_fresh_journal_is_empty(tmp_path):
    journal = opened(tmp_path / "out" / ".journal")
    assert (journal.first_row, journal.state, journal.complete, journal.resumed) == (0, {}, False, 0)
    assert list(journal.strips()) == []


def test_it_counts_how_often_a_run_went_on_from_strips(tmp_path):
    counts = []
    for strip in strips():
        journal = opened(tmp_path)
        counts.append(journal.resumed)
        journal.write(strip, {})
        opened(tmp_path)
    assert counts == [0, 2, 4]


class Killed(BaseException):
    """Stands for the end of a process: nothing of ours catches it."""


@pytest.fixture
def system(monkeypatch):
    """Every call that changes the disk, counted; `system(at, error)` raises at the call of that number, for ever on."""
    state = {"calls": 0, "at": None, "error": None}

    def watch(owner, name, condition=lambda *arguments: True):
        true = getattr(owner, name)

        def call(*arguments, **named):
            if condition(*arguments):
                state["calls"] += 1
                if state["at"] is not None and state["calls"] >= state["at"]:
                    raise state["error"]
            return true(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    for name in ("replace", "unlink", "mkdir", "write_bytes"):
        watch(Path, name)
    watch(Path, "open", lambda path, mode="r", *_: mode != "r" and mode != "rb")
    watch(os, "fsync")

    def begin(at, error):
        state.update(calls=0, at=at, error=error)

    def end():
        state.update(at=None)
        return state["calls"]

    begin.end = end
    return begin


def calls_of_a_run(folder, system):
    system(None, None)
    fill(opened(folder))
    return system.end()


@pytest.mark.parametrize("content", ["whole", "half"])
def test_whenever_it_is_killed_a_journal_opens_and_goes_on(tmp_path, system, monkeypatch, content):
    """The k-th call to the system, for every k, is the last; a file that was being written may be there in part."""
    total = calls_of_a_run(tmp_path / "undisturbed", system)
    assert total > 20
    if content == "half":
        cut_files_short(monkeypatch)
    finished = []
    for k in range(1, total + 1):
        folder, written = tmp_path / str(k), []
        system(k, Killed())
        with pytest.raises(Killed):
            fill(opened(folder), written)
        system.end()
        journal = opened(folder)
        assert journal.first_row in (0, 4, 5, 10) and journal.first_row >= sum(written[-1:])
        assert journal.resumed == (journal.first_row > 0)
        finished.append(journal.first_row)
        assert_whole(fill(journal))
        assert sorted(path.name for path in folder.iterdir()) == ["0.npy", "4.npy", "5.npy", "journal.json"]
    assert finished == sorted(finished) and set(finished) == {0, 4, 5, 10}


def cut_files_short(monkeypatch):
    """Before a file is written, half of it is there."""
    true = Path.write_bytes

    def write_half_first(path, content):
        with io.FileIO(path, "w") as file:
            file.write(content[: len(content) // 2])
        return true(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_half_first)


def test_a_run_that_is_killed_again_and_again_arrives(tmp_path, system):
    journal, rng = None, np.random.default_rng(1)
    while journal is None:
        system(rng.integers(10, 40), Killed())
        with contextlib.suppress(Killed):
            journal = fill(opened(tmp_path))
        system.end()
    assert_whole(journal)
    assert journal.resumed >= 2


@pytest.fixture
def events(monkeypatch):
    """What is flushed, renamed and deleted, in order: (what, name of the file)."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not say which file is flushed")
    found = []

    def watch(owner, name):
        true = getattr(owner, name)

        def noted(subject, *arguments, **named):
            path = Path(f"/proc/self/fd/{subject}").readlink() if name == "fsync" else subject
            found.append((name, re.sub(r"^\.(.*)\.\w{12}\.part$", r"\1", path.name)))
            return true(subject, *arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    watch(os, "fsync")
    watch(Path, "replace")
    watch(Path, "unlink")
    return found


def test_without_flushing_nothing_gets_its_name(tmp_path, events):
    """A power cut keeps what was flushed: contents before names, and strips before the list that speaks of them."""
    journal = opened(tmp_path / "folder")
    events.clear()
    journal.write(next(strips()), {})
    done = [(what, name) for what, name in events if what != "unlink"]
    strip = [("fsync", "0.npy"), ("replace", "0.npy"), ("fsync", "folder")]
    assert done == [*strip, ("fsync", "journal.json"), ("replace", "journal.json"), ("fsync", "folder")]


def test_nothing_is_removed_before_the_result_beside_it_is_on_the_disk(tmp_path, events):
    journal = fill(opened(tmp_path / "out" / "folder"))
    events.clear()
    journal.remove()
    assert events[:3] == [("fsync", "out"), ("unlink", "journal.json"), ("fsync", "folder")]


@pytest.mark.parametrize("call", ["write_bytes", "fsync"])
def test_a_full_disk_is_told_and_what_is_finished_stays(tmp_path, monkeypatch, call):
    journal, (first, second, _) = opened(tmp_path), strips()
    journal.write(first, {"strips": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, call) if call == "write_bytes" else (os, call)), full)
        with pytest.raises(ResultError, match=r"row 4 of 10 cannot be written: No space left on device\..*same call"):
            journal.write(second, {"strips": 2})
        assert journal.first_row == 4 and journal.state == {"strips": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npy", "journal.json"]
    assert_whole(fill(opened(tmp_path)))


def test_the_same_journal_goes_on_after_a_full_disk(tmp_path, system):
    journal = opened(tmp_path)
    system(3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ResultError, match="freeing space"):
        fill(journal)
    system.end()
    assert_whole(fill(journal))


def changed(**changes):
    return json.loads(json.dumps(IDENTITY)) | changes


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"settings": IDENTITY["settings"] | {"overlap": 0.25}}, "settings.overlap: 0.5 in the journal, 0.25 now"),
        ({"slide": {"name": "slide", "fingerprint": "60"}}, 'slide.fingerprint: "5f" in the journal, "60" now'),
        (
            {"bundle": {"members": [{"name": "colon", "hash": "ab"}, {"name": "colon", "hash": "xy"}]}},
            'bundle.members.1.hash: "cd" in the journal, "xy" now',
        ),
        ({"bundle": {"members": []}}, "bundle.members: .* now"),
        ({"batch": None}, "batch: 8 in the journal, null now"),
        ({"region": [1, 2, 3, 4]}, r"region: nothing in the journal, \[1, 2, 3, 4\] now"),
        (
            {"settings": {"overlap": 0.5, "augmentations": ["identity", "flip"]}},
            "settings.early_exit: null .* nothing now",
        ),
        ({"batch": 9, "slide": {"name": "a", "fingerprint": "b"}}, 'slide.name: "slide" in the journal, "a" now'),
    ],
)
def test_another_run_is_refused_by_the_first_difference(tmp_path, now, told):
    opened(tmp_path).write(next(strips()), {})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ResultError, match=told) as raised:
        opened(tmp_path, changed(**now))
    assert str(tmp_path) in str(raised.value) and "--overwrite" in str(raised.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_frame_and_channels_are_part_of_the_identity(tmp_path):
    opened(tmp_path).write(next(strips()), {})
    with pytest.raises(ResultError, match=r"frame\.width: 7 in the journal, 8 now"):
        opened(tmp_path, frame=Frame.level0(8, 10, 2.0))
    with pytest.raises(ResultError, match=r"channels: .*epistemic.* in the journal, .* now"):
        opened(tmp_path, channels=CLASSES)


def test_the_same_said_in_other_types_is_the_same(tmp_path):
    opened(tmp_path).write(next(strips()), {})
    same = changed() | {"batch": 8.0}
    same["settings"]["augmentations"] = ("identity", "flip")
    assert opened(tmp_path, dict(reversed(same.items()))).first_row == 4


def test_where_no_strip_is_finished_anything_may_begin(tmp_path):
    opened(tmp_path)
    journal = opened(tmp_path, changed(batch=9), channels=CLASSES)
    assert journal.first_row == journal.resumed == 0
    assert opened(tmp_path, changed(batch=9), channels=CLASSES).first_row == 0


def test_strips_that_no_list_speaks_of_are_nothing(tmp_path):
    """Without identity nobody knows what they are; they are also what a removal leaves that was cut short."""
    fill(opened(tmp_path))
    (tmp_path / "journal.json").unlink()
    journal = opened(tmp_path)
    assert journal.first_row == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["journal.json"]


def test_files_of_others_are_left_alone_and_leftovers_are_not(tmp_path):
    opened(tmp_path).write(next(strips()), {})
    others = ["notes.txt", "4.npy.bak", "mask.npy", ".DS_Store", ".notes.0123456789ab.part"]
    leftovers = ["4.npy", ".4.npy.0123456789ab.part", ".journal.json.ba9876543210.part"]
    for name in (*others, *leftovers):
        (tmp_path / name).write_text("x")
    (tmp_path / "first").mkdir()
    assert opened(tmp_path).first_row == 4
    assert {path.name for path in tmp_path.iterdir()} == {"0.npy", "journal.json", "first", *others}


def flipped(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("harm", [flipped, lambda content: content[:-9], lambda _: b"", None])
def test_a_damaged_strip_is_named_when_the_journal_is_opened(tmp_path, harm):
    fill(opened(tmp_path))
    path = tmp_path / "4.npy"
    path.write_bytes(harm(path.read_bytes())) if harm else path.unlink()
    with pytest.raises(ResultError, match=r"4\.npy is damaged.*Delete .* \(--overwrite\) to begin anew"):
        opened(tmp_path)


def test_a_strip_that_is_damaged_later_is_named_when_it_is_read(tmp_path):
    journal = fill(opened(tmp_path))
    path = tmp_path / "5.npy"
    path.write_bytes(flipped(path.read_bytes()))
    read = journal.strips()
    assert [next(read).y, next(read).y] == [0, 4]
    with pytest.raises(ResultError, match=r"5\.npy is damaged.*checksum"):
        next(read)


@pytest.mark.parametrize("values", [np.zeros((4, 7)), np.zeros((4, 7, 4), object), np.zeros((3, 7), "<f2")])
def test_an_array_of_something_else_is_no_strip_even_where_the_list_says_so(tmp_path, values):
    opened(tmp_path).write(next(strips()), {})
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    (tmp_path / "0.npy").write_bytes(file.getvalue())
    document = json.loads((tmp_path / "journal.json").read_bytes())
    document["strips"][0][2] = zlib.crc32(file.getvalue())
    (tmp_path / "journal.json").write_text(json.dumps(document))
    with pytest.raises(ResultError, match=r"0\.npy is damaged"):
        list(opened(tmp_path).strips())


@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"{", b"[]", b"\xff\xfe", b'{"format": "other", "format_version": 1}', b"[" * 10**5],
        {"strips": [[0, 4, 1], [5, 1, 1]]},
        {"strips": [[0, 11, 1]]},
        {"strips": [[0, -1, 1]]},
        {"strips": [[0, 4]]},
        {"strips": 7},
        {"strips": [None]},
        {"resumed": "often"},
        {"state": []},
        {"format_version": 0},
        {"format_version": "1"},
    ],
    ids=str,
)
def test_a_damaged_list_is_named_and_so_is_the_way_out(tmp_path, content):
    fill(opened(tmp_path))
    path = tmp_path / "journal.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_bytes()) | content).encode()
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"journal\.json is damaged.*Delete .* \(--overwrite\) to begin anew"):
        opened(tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_journal_of_a_newer_digipath_is_refused(tmp_path):
    fill(opened(tmp_path))
    path = tmp_path / "journal.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format_version": 99}))
    with pytest.raises(ResultError, match="Update digipath"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda s: s._replace(y=1), "next starts at row 0"),
        (lambda s: s._replace(values=s.values[:, 1:], covered=s.covered[:, 1:]), r"holds \(n, 7, 4\)"),
        (lambda s: s._replace(values=s.values[..., :2]), r"holds \(n, 7, 4\)"),
        (lambda s: s._replace(covered=s.covered[1:]), r"holds \(n, 7, 4\)"),
        (lambda s: s._replace(values=s.values.astype(np.float16)), "float32"),
        (lambda s: s._replace(covered=s.covered.astype(np.uint8)), "bool"),
        (lambda s: s._replace(values=s.values[:0], covered=s.covered[:0]), "10 rows"),
        (lambda s: Strip(0, np.zeros((11, 7, 4), np.float32), np.zeros((11, 7), bool)), "10 rows"),
    ],
)
def test_only_the_next_rows_of_the_heatmap_are_taken(tmp_path, wrong, why):
    journal = opened(tmp_path)
    with pytest.raises(SpecError, match=why):
        journal.write(wrong(next(strips())), {})
    assert journal.first_row == 0 and not list(tmp_path.glob("*.npy"))


def test_a_removed_journal_is_gone_and_so_is_that_of_a_first_stage(tmp_path):
    journal = fill(opened(tmp_path / ".journal"))
    fill(opened(tmp_path / ".journal" / "first"))
    journal.remove()
    assert not journal.folder.exists() and journal.first_row == 0


def test_a_removal_that_is_cut_short_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    def stop(_):
        raise Killed

    monkeypatch.setattr("shutil.rmtree", stop)
    with pytest.raises(Killed):
        fill(opened(tmp_path)).remove()
    assert opened(tmp_path).first_row == 0


def test_where_nothing_can_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultError, match="row 0 of 10 cannot be written"):
        opened(tmp_path / "file")
