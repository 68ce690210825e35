import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dash")

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from digipath.geometry.frame import Frame
from digipath.inference.engine import Strip
from digipath.inference.journal import Journal
from digipath.runs.lock import Lock
from digipath.runs.task import RunSettings
from digipath.viewer.desk import Desk
from digipath.viewer.list_page import _outputs, _row, _turned, layout, look
from digipath.viewer.listing import COLUMNS, STATUSES, Choice, Entry, Lines, chosen, entries
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Item, Shelf


def desk_of(*sources: Path, **options) -> Desk:
    return Desk(shelf=Shelf(sources), opened=Opened(), **options)


def line(number: int, **changes) -> Entry:
    item = Item(id=f"{number:012x}", kind="result", name=f"slide {number}", path=Path(f"/{number}"), status="ok")
    return replace(Entry(item=item, status="ok", told="done"), **changes)


LINES = [
    line(0),
    line(1, lesion=2.0, tissue=4.0, share=0.5, finding="micro, burden 3 %", reviewed=(1, 4)),
    line(2, lesion=0.0, tissue=9.0, share=0.0, finding="negative", reviewed=(0, 0)),
    line(3, status="broken", told="broken"),
    line(4, lesion=1.0, tissue=2.0, share=0.5, finding="macro", reviewed=(4, 4)),
    line(5, status="running", told="running, 40 %", finding="burden 7 %"),
]


@given(st.sampled_from([*COLUMNS]), st.booleans(), st.randoms())
def test_every_order_shows_every_line_once_and_does_not_depend_on_the_order_before(
    column, descending, rng: random.Random
):
    choice = Choice(column=column, descending=descending)
    mixed = LINES[:]
    rng.shuffle(mixed)
    found = chosen(mixed, choice)
    assert found == chosen(LINES, choice) and sorted(one.item.id for one in found) == [one.item.id for one in LINES]


@pytest.mark.parametrize(
    ("column", "up"),
    [
        ("lesion", [2, 4, 1]),
        ("tissue", [4, 1, 2]),
        ("share", [2, 1, 4]),
        ("finding", [5, 2, 1, 4]),
        ("reviewed", [2, 1, 4]),
        ("status", [5, 0, 1, 2, 4, 3]),
    ],
)
def test_lines_are_sorted_by_their_values_and_those_without_one_are_last_both_ways(column, up):
    def numbers(descending):
        return [int(one.item.id, 16) for one in chosen(LINES, Choice(column=column, descending=descending))]

    rest = [n for n in range(6) if n not in up]
    assert numbers(False) == up + rest and numbers(True)[len(up) :] == rest
    assert sorted(numbers(True)[: len(up)]) == sorted(up) and numbers(True)[0] in (up[-1], 0, 1)


def test_a_search_takes_lines_that_have_all_of_its_words_whatever_their_case():
    assert [one.item.name for one in chosen(LINES, Choice(search="MICRO slide"))] == ["slide 1"]
    assert chosen(LINES, Choice(search="micro macro")) == []
    assert [one.item.name for one in chosen(LINES, Choice(status="broken"))] == ["slide 3"]


def test_what_is_on_the_shelf_has_a_line_each(library):
    found = {one.item.name: one for one in entries(desk_of(library))}
    assert {name: one.status for name, one in found.items()} == {
        "broken.svs": "broken",
        "slide.tif": "segmented",
        "other.tif": "segmented",
        "slide": "ok",
        "second": "ok",
    }
    result = found["slide"]
    assert result.lesion > 0 and result.share == pytest.approx(result.lesion / result.tissue)
    assert result.finding.startswith(("micro", "itc")) and "burden" in result.finding
    assert found["second"].finding == "" and found["slide.tif"].lesion is None
    alone = entries(desk_of(library / "slide.tif"))
    assert [one.status for one in alone] == ["slide"] and set(found) > {"slide.tif"}


def test_a_slide_leads_to_its_results_and_a_result_names_its_slide(library):
    desk = desk_of(library)
    lines = {one.item.path.name + one.item.kind: one for one in entries(desk)}
    for result, slide in (("slide", "slide.tif"), ("second", "other.tif")):
        one = lines[result + "result"]
        assert lines[slide + "slide"].results == ((result, one.item.id),)
        assert f"result of {slide}, in results" in str(_row(desk, one))
        assert f"/view/{one.item.id}" in str(_row(desk, lines[slide + "slide"]))
    desk.opened.close()


def test_a_blind_list_tells_no_area_class_or_report(library, tmp_path):
    folder = Path(shutil.copytree(library / "results" / "slide", tmp_path / "slide"))
    (folder / "report.html").write_text("<p>macro")
    (seen,), (blind,) = entries(desk_of(tmp_path)), entries(desk_of(tmp_path, blind=True))
    assert seen.report and seen.lesion
    assert (blind.lesion, blind.tissue, blind.share, blind.finding, blind.report) == (None, None, None, "", False)
    assert chosen([blind], Choice(search="micro")) == []


def test_answers_of_a_review_are_counted(library, tmp_path):
    from digipath.review.review import Review

    folder = Path(shutil.copytree(library / "results" / "slide", tmp_path / "slide"))
    assert entries(desk_of(tmp_path))[0].reviewed is None
    review = Review.open(folder, "Ada").confirm("section:1").confirm("region:1")
    count = len(review.asked.subjects)
    assert entries(desk_of(tmp_path))[0].reviewed == (2, count)
    assert entries(desk_of(tmp_path, reviewer="Ada"))[0].reviewed == (2, count)
    assert entries(desk_of(tmp_path, reviewer="Bob"))[0].reviewed == (0, count)
    sections = len(review.asked.of_kind("section"))  # in a blind study nobody learns how many regions there are
    assert entries(desk_of(tmp_path, reviewer="Bob", blind=True))[0].reviewed == (0, sections)
    assert entries(desk_of(tmp_path, blind=True))[0].reviewed is None
    (folder / "review.json").write_text("{")
    assert entries(desk_of(tmp_path))[0].reviewed is None


def test_what_is_begun_is_running_only_while_somebody_is_at_it(tmp_path):
    frame = Frame.level0(4, 4, 2.0)
    slide = {"name": "one", "path": None, "fingerprint": None, "width": 4, "height": 4, "mpp": 2.0}
    journal = Journal(tmp_path / "one" / ".journal", {"slide": slide}, frame=frame, channels=("other", "lesion"))
    journal.write(Strip(0, np.zeros((2, 4, 2), np.float32), np.ones((2, 4), bool)), {})
    (found,) = entries(desk_of(tmp_path))
    assert (found.status, found.told) == ("begun", "unfinished")
    with Lock(tmp_path / "one", RunSettings(heartbeat=0.05, expiry=60)) as lock:
        assert entries(desk_of(tmp_path))[0].status == "running"
        lock.beat(1, 4)
        lock._write(lock._holder)
        assert entries(desk_of(tmp_path))[0].told == "running, 25%"


def test_a_slide_that_another_process_segments_is_not_called_unsegmented(library, tmp_path):
    slide = Path(shutil.copy(library / "slide.tif", tmp_path / "slide.tif"))
    told = json.loads((library / "results" / "slide" / "result.json").read_text())["slide"] | {"path": str(slide)}
    folder, frame = tmp_path / "results" / "slide", Frame.level0(4, 4, 2.0)
    Journal(folder / ".journal", {"slide": told}, frame=frame, channels=("other", "lesion"))
    status = {one.item.kind: one.status for one in entries(desk_of(tmp_path))}
    assert status == {"slide": "begun", "result": "begun"}
    with Lock(folder, RunSettings()):
        assert {one.status for one in entries(desk_of(tmp_path))} == {"running"}


def test_pressing_a_column_sorts_by_it_and_again_the_other_way_round():
    once = _turned({}, "", {"type": "list-sort", "column": "lesion"})
    assert (once["column"], once["descending"], once["page"]) == ("lesion", False, 0)
    twice = _turned(once, "", {"type": "list-sort", "column": "lesion"})
    assert twice["descending"] and _turned(twice, "", {"type": "list-sort", "column": "name"})["descending"] is False


def test_search_and_status_begin_at_the_first_page_and_turning_keeps_them():
    view = _turned({"page": 3}, "macro", "list-search")
    view = _turned(view, "macro", {"type": "list-status", "status": "ok"})
    assert (view["search"], view["status"], view["page"]) == ("macro", "ok", 0)
    view = _turned(_turned(view, "macro", "list-after"), "macro", "list-after")
    assert (view["search"], view["page"]) == ("macro", 2)
    assert _turned(view, "macro", "list-before")["page"] == 1
    assert _turned(view, "macro", {"type": "list-status", "status": "ok"})["status"] == ""


class Many:
    """A shelf of that many results."""

    def __init__(self, count: int):
        self.made = [line(n).item for n in range(count)]

    def items(self) -> list[Item]:
        return self.made


def test_of_two_thousand_slides_fifty_are_sent_at_a_time():
    desk = Desk(shelf=Many(2000), opened=Opened())
    pages = [look(entries(desk), {"page": page}) for page in (0, 39, 50)]
    assert [(shown.page, shown.pages, len(shown.lines)) for shown in pages] == [(0, 40, 50), (39, 40, 50), (39, 40, 50)]
    assert (pages[0].found, pages[0].total) == (2000, 2000)
    assert _outputs(pages[0])[-3:] == ("Page 1 of 40", True, False)
    assert _outputs(pages[1])[-3:] == ("Page 40 of 40", False, True)
    sent = json.dumps([_row(desk, one) for one in pages[0].lines], default=lambda part: part.to_plotly_json())
    assert len(sent) < 250_000


def test_where_nothing_is_to_be_seen_it_says_what_to_do(tmp_path):
    told = _outputs(look(entries(desk_of(tmp_path)), {}))
    assert told[0] is True and told[2] is False and "digipath view" in str(told[1])
    told = _outputs(look(entries(Desk(shelf=Many(3), opened=Opened())), {"search": "nobody"}))
    assert "Shorten the search" in str(told[1]) and told[3] == "0 of 3"


def test_lines_are_sent_again_only_when_they_say_something_else():
    shown = look(entries(Desk(shelf=Many(3), opened=Opened())), {})
    running = [replace(one, status="running", told="running") for one in shown.lines]
    further = [replace(one, told="running, 10%", item=replace(one.item, version="1")) for one in running]
    done = [replace(one, item=replace(one.item, version="2")) for one in shown.lines]
    seen = [replace(shown, lines=lines).seen for lines in (running, further, shown.lines, done)]
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_what_was_seen_is_kept_for_a_while(library):
    lines = Lines(desk_of(library / "slide.tif"))
    first = lines.get(0)
    assert lines.get(60) is first and lines.get(0) is not first and lines.seconds > 0


def test_every_status_has_a_shape_of_its_own_and_words():
    shapes, words = zip(*STATUSES.values(), strict=True)
    assert len(set(shapes)) == len(set(words)) == len(STATUSES)


def test_headers_say_by_what_the_table_is_sorted(library):
    told = _outputs(look(entries(desk_of(library)), {"column": "lesion", "descending": True}))
    assert dict(zip(COLUMNS, told[7], strict=True)) == dict.fromkeys(COLUMNS, "none") | {"lesion": "descending"}
    assert layout(None).id == "list"
