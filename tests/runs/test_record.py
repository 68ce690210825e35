import csv
import json
import threading
from pathlib import Path

import pytest

from digipath.errors import ResultError
from digipath.runs.record import RunRecord
from digipath.runs.task import Outcome, RunSettings, Task

ABOUT = {"networks": {"members": [{"name": "a", "hash": "1"}]}, "settings": {"overlap": 0.5}}


def tasks(out, names="abc"):
    return [Task(slide=Path(f"{name}.svs"), folder=out / name) for name in names]


def begin(out, names="abc", *, overwrite=False, about=ABOUT):
    return RunRecord(out, tasks(out, names), about=about, settings=RunSettings(overwrite=overwrite))


def ended(name, status="ok", **more):
    return Outcome(name=name, slide=f"{name}.svs", status=status, **more)


def rows(out):
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def statuses(out):
    return [(row["name"], row["status"]) for row in rows(out)]


def test_every_slide_has_a_row_from_the_start_in_the_order_of_the_tasks(tmp_path):
    record = begin(tmp_path, "cab")
    assert statuses(tmp_path) == [("c", "waiting"), ("a", "waiting"), ("b", "waiting")]
    record.add(ended("b", areas={"lesion_mm2": 1.5}, seconds=2.0, notes=("one,", "two")))
    record.add(ended("c", "failed", reason="it is bad"))
    assert statuses(tmp_path) == [("c", "failed"), ("a", "waiting"), ("b", "ok")]
    assert rows(tmp_path)[2]["lesion_mm2"] == "1.5" and rows(tmp_path)[2]["notes"] == "one, two"
    assert rows(tmp_path)[0]["reason"] == "it is bad" and rows(tmp_path)[1]["reason"].startswith("not begun")


def test_the_record_tells_settings_networks_versions_and_outcomes(tmp_path):
    record = begin(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["runs"][0]["finished"] is None
    record.add(ended("a"))
    record.finish()
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["counts"]["n_ok"] == 1 and told["counts"]["n_waiting"] == 2 and told["format_version"] == 1
    (run,) = told["runs"]
    assert run["segmenter"] == ABOUT and run["versions"]["digipath"] and run["names"] == ["a", "b", "c"]
    assert run["started"] < run["finished"] and run["settings"]["errors"] == "skip"
    assert [one["outcome"] and one["outcome"]["status"] for one in told["slides"]] == ["ok", None, None]


@pytest.mark.parametrize("status", ["skipped", "locked"])
def test_a_result_keeps_its_row_when_a_slide_is_left_out(tmp_path, status):
    begin(tmp_path).add(ended("a", "incomplete", seconds=7.0))
    later = begin(tmp_path)
    later.add(ended("a", status, reason="another"))
    later.add(ended("b", status, reason="another"))
    assert statuses(tmp_path)[:2] == [("a", "incomplete"), ("b", status)] and rows(tmp_path)[0]["seconds"] == "7.0"


def test_what_failed_is_done_once_somebody_finds_it_done(tmp_path):
    record = begin(tmp_path)
    record.add(ended("a", "failed"))
    record.add(ended("a", "locked"))
    assert statuses(tmp_path)[0] == ("a", "failed")
    record.add(ended("a", "skipped"))
    assert statuses(tmp_path)[0] == ("a", "skipped")
    record.add(ended("a", "failed"))
    assert statuses(tmp_path)[0] == ("a", "failed")


def test_the_traceback_of_a_failure_lies_in_a_file_until_the_slide_is_done(tmp_path):
    record = begin(tmp_path)
    record.add(ended("a", "failed", reason="bad", traceback="Traceback ...\nValueError: \udc80"))
    assert "ValueError" in (tmp_path / "failures/a.txt").read_text() and "ValueError" not in str(rows(tmp_path))
    record.add(ended("a", "empty"))
    assert not (tmp_path / "failures/a.txt").exists()


def test_runs_that_share_a_folder_lose_no_rows(tmp_path):
    names = [f"{number:02}" for number in range(24)]
    records = [begin(tmp_path, names[part::3]) for part in range(3)]

    def work(record, part):
        for name in names[part::3]:
            record.add(ended(name))
        record.finish()

    threads = [threading.Thread(target=work, args=one) for one in zip(records, range(3), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses(tmp_path)) == [(name, "ok") for name in names]
    assert not list(tmp_path.rglob("*.part"))


def test_the_latest_run_decides_the_order_and_earlier_slides_stay(tmp_path):
    begin(tmp_path, "ab").add(ended("a"))
    begin(tmp_path, "cb")
    assert statuses(tmp_path) == [("c", "waiting"), ("b", "waiting"), ("a", "ok")]


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"ended": "", "outcome": {}}', '{"outcome": 1}'])
def test_a_damaged_entry_counts_as_absent(tmp_path, content):
    record = begin(tmp_path)
    record.add(ended("a"))
    (tmp_path / ".run/slides/a.json").write_text(content)
    (tmp_path / ".run/runs/another.json").write_text(content)
    record.add(ended("b"))
    assert statuses(tmp_path)[:2] == [("a", "waiting"), ("b", "ok")]


def test_an_overwriting_run_that_was_stopped_goes_on_and_one_that_ended_does_not(tmp_path):
    first = begin(tmp_path, overwrite=True)
    first.add(ended("a"))
    second = begin(tmp_path, overwrite=True)
    assert second.settings.began == first.settings.began
    other = begin(tmp_path, overwrite=True, about=ABOUT | {"settings": {"overlap": 0.25}})
    assert other.settings.began > first.settings.began
    for name in "abc":
        second.add(ended(name))
    second.finish()
    assert begin(tmp_path, overwrite=True).settings.began > first.settings.began
    assert begin(tmp_path).settings.began is None


def test_an_output_that_cannot_be_written_is_an_error_before_anything_is_done(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ResultError, match="folder"):
        begin(tmp_path / "out")


def test_a_full_disk_is_told_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    record = begin(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultError, match=r"No space left.* goes on"):
        record.add(ended("a"))
    assert statuses(tmp_path)[0] == ("a", "waiting") and not list(tmp_path.rglob("*.part"))
