"""The file `review.json`, damaged, hostile, full, and shared by processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from digipath.errors import DigipathError, ResultError
from digipath.review import ledger
from digipath.review.review import Review


def _document(result) -> dict:
    Review.open(result, "Ada").confirm("section:1")
    return json.loads((result / "review.json").read_text())


def _other_slide(document):
    document["slide"]["fingerprint"] = {"bytes": 8}


def _newer(document):
    document["format_version"] = 2


def _no_version(document):
    document["format_version"] = None


def _events_are_a_text(document):
    document["events"] = "confirm"


def _strange_event(document):
    document["events"].append({"action": "confirm"})


def _twice(document):
    document["events"] *= 2


def _nested(document):
    nested = []
    for _ in range(300):
        nested = [nested]
    document["events"][0]["geometry"] = {"coordinates": nested}


def _markup(document):
    document["events"][0]["label"] = "<img src=x onerror=alert(1)>\x1b[2J"


@pytest.mark.parametrize(
    "spoil",
    [_other_slide, _newer, _no_version, _events_are_a_text, _strange_event, _twice, _nested, _markup],
)
def test_a_file_that_is_no_review_of_this_slide_is_refused_and_never_overwritten(result, spoil):
    document = _document(result)
    review = Review.open(result, "Ada")
    spoil(document)
    (result / "review.json").write_text(json.dumps(document))
    _refused(result, review)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}', b"NaN"]
)
def test_a_damaged_file_is_refused_and_never_overwritten(result, content):
    review = Review.open(result, "Ada")
    (result / "review.json").write_bytes(content)
    _refused(result, review)


def _refused(result, review):
    before = (result / "review.json").read_bytes()
    with pytest.raises(ResultError, match=r"review\.json"):
        Review.open(result, "Ada")
    for act in (lambda: review.confirm("section:2"), review.undo, review.reveal):
        with pytest.raises(DigipathError):
            act()
    assert (result / "review.json").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_is_refused_and_not_waited_for(result):
    os.mkfifo(result / "review.json")
    with pytest.raises(ResultError, match="no file"):
        Review.open(result, "Ada")


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_a_lock_that_is_a_link_makes_no_file_elsewhere(result, tmp_path):
    (result / ".review.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResultError, match="cannot be written to"):
        Review.open(result, "Ada").confirm("section:1")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_too_large_is_not_read(result, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_BYTES", 1000)
    review = Review.open(result, "Ada")
    with pytest.raises(ResultError, match="is full"):
        for _ in range(10):
            review = review.confirm("section:1")
    assert 0 < (result / "review.json").stat().st_size <= 1000
    (result / "review.json").write_bytes(b" " * 1001)
    with pytest.raises(ResultError, match="MiB"):
        Review.open(result, "Ada")


def test_a_full_file_takes_no_more_events(result, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_EVENTS", 2)
    review = Review.open(result, "Ada").confirm("section:1").confirm("section:2")
    with pytest.raises(ResultError, match="at most 2 events"):
        review.confirm("section:3")
    assert len(review.reload().events) == 2


def test_what_cannot_be_written_is_told_and_the_old_file_stays(result, monkeypatch):
    review = Review.open(result, "Ada").confirm("section:1")
    before = (result / "review.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match="not saved"):
        review.confirm("section:2")
    assert (result / "review.json").read_bytes() == before
    assert not list(result.glob("*.part"))
    assert not list(result.glob(".*.part"))


def test_a_lock_that_is_held_is_waited_for_and_then_told(result, monkeypatch):
    monkeypatch.setattr(ledger, "_WAIT", 0.05)
    review = Review.open(result, "Ada")
    with ledger._locked(result), pytest.raises(ResultError, match="another program"):
        review.confirm("section:1")
    assert review.confirm("section:1").events


ANSWER = """
    import sys
    from digipath.review.review import Review
    review = Review.open(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    for n in range(int(sys.argv[3])):
        review = review.confirm(f"section:{n % 3 + 1}")
        print("saved", flush=True)
"""


def _process(result, name: str, times: int) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(ANSWER), str(result), name, str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_answer_at_once_lose_nothing(result):
    running = [_process(result, name, 10) for name in ("Ada", "Ben")]
    for one in running:
        assert one.communicate(timeout=60)[0].count("saved") == 10
    events = Review.open(result, "Ada").events
    assert sorted(event.reviewer for event in events) == ["Ada"] * 10 + ["Ben"] * 10


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals that cannot be caught")
def test_a_process_that_is_killed_while_it_saves_loses_no_saved_answer_and_blocks_nobody(result):
    process = _process(result, "Ada", 2000)
    saved = 0
    for line in process.stdout:
        saved += line == "saved\n"
        if saved == 15:
            process.kill()
            break
    rest, _ = process.communicate(timeout=60)
    saved += rest.count("saved\n")
    review = Review.open(result, "Ada")
    assert saved <= len(review.events) <= saved + 1
    assert len(review.confirm("section:1").events) == len(review.events) + 1
