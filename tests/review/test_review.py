"""Reviews on the disk."""

import hashlib
import threading
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from digipath.errors import ResultError, SpecError
from digipath.review.review import Review

SQUARE = [(600, 600), (700, 600), (700, 700), (600, 700)]
OWN = {"review.json", "review.geojson", ".review.lock"}
DRAWN = "drawn:" + "d" * 32


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if path.name not in OWN]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _act(review: Review, what: str, number: int) -> Review:
    match what:
        case "confirm":
            return review.confirm(f"section:{number}")
        case "relabel":
            return review.relabel(f"region:{number}", "in situ")
        case "reject":
            return review.reject(f"region:{number}")
        case "draw":
            return review.draw(SQUARE, "lesion", subject=f"drawn:{number:032x}")
        case "undo":
            return review.undo()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["confirm", "relabel", "reject", "draw", "undo"]), st.integers(1, 3))))
def test_whatever_is_done_the_models_files_stay_and_a_reload_gives_the_same(result, steps):
    before, review = _hashes(result), Review.open(result, "Ada")
    for what, number in steps:
        try:
            review = _act(review, what, number)
        except SpecError as error:
            assert "could be undone" in str(error)
    again = Review.open(result, "Ada")
    assert again.events == review.events
    assert again.answers == review.answers
    assert _hashes(result) == before
    assert {path.name for path in result.iterdir()} - set(before) <= OWN


def test_answers_are_counted_and_the_next_one_without_is_found(result):
    review = Review.open(result, "Ada")
    assert str(review.progress("section")) == "0 of 3 answered"
    review = review.confirm("section:1").reject("section:2").reject("region:3")
    assert review.answer("section:2").label == "tumour section"  # of two classes it is the other one
    assert review.answer("region:3").label is None
    assert (review.progress("section").answered, review.progress("region").answered) == (2, 1)
    assert review.next_unanswered("section:1").id == "section:3"
    assert review.next_unanswered("region:2").id == "section:3"
    assert review.confirm("section:3").next_unanswered("section:3").id == "region:1"


def test_what_is_drawn_can_be_edited_relabelled_deleted_and_all_of_it_undone(result):
    review = Review.open(result, "Ada").draw(SQUARE, "lesion", subject=DRAWN)
    assert review.draw(SQUARE, "lesion", subject=DRAWN).events == review.events  # saying it twice draws it once
    review = review.edit(DRAWN, SQUARE[:3]).relabel(DRAWN, "in situ")
    assert (len(review.answers[DRAWN].outline), review.answers[DRAWN].label) == (3, "in situ")
    review = review.delete(DRAWN)
    assert DRAWN not in review.answers
    review = review.undo().undo()
    assert (len(review.answers[DRAWN].outline), review.answers[DRAWN].label) == (3, "lesion")
    review = review.undo()
    assert len(review.answers[DRAWN].outline) == 4
    assert not review.undo().answers


def test_nobody_changes_what_another_drew(result):
    Review.open(result, "Ada").draw(SQUARE, "lesion", subject=DRAWN)
    ben = Review.open(result, "Ben")
    for change in (ben.delete, lambda subject: ben.edit(subject, SQUARE), lambda subject: ben.relabel(subject, "x")):
        with pytest.raises(SpecError, match="only one's own"):
            change(DRAWN)


@pytest.mark.parametrize("subject", ["section:9", "region:0", "nothing", "../result.json"])
def test_what_the_result_does_not_have_cannot_be_answered(result, subject):
    with pytest.raises(SpecError, match="no "):
        Review.open(result, "Ada").confirm(subject)
    assert not (result / "review.json").exists()


def test_an_outline_beside_the_slide_is_refused(result):
    with pytest.raises(SpecError, match="beside it"):
        Review.open(result, "Ada").draw([(2000, 0), (2100, 0), (2100, 50)], "lesion", subject=DRAWN)


@pytest.mark.parametrize("name", ["", "  ", "A" * 61, "A\x00", "Ada\nBen", None])
def test_a_reviewer_has_a_name(result, name):
    with pytest.raises(SpecError, match="name"):
        Review.open(result, name)


def test_answers_go_stale_when_the_result_has_something_else_there(result, remake):
    review = Review.open(result, "Ada").confirm("section:1").reject("region:1").draw(SQUARE, "lesion", subject=DRAWN)
    remake(result, shift=5)
    again = review.reload()
    assert {one.subject for one in again.stale} == {"section:1", "region:1"}
    assert again.answer("section:1") is None
    assert again.progress("section").answered == 0
    assert again.answer(DRAWN) is not None  # what was drawn is of the slide, not of the result
    assert again.confirm("section:1").answer("section:1") is not None
    remake(result)
    assert [one.subject for one in review.reload().stale] == ["section:1"]  # the last answer was of the other result


def test_an_answer_stays_when_only_the_models_mind_has_changed(result):
    Review.open(result, "Ada").confirm("section:1")
    text = (result / "result.json").read_text()
    (result / "result.json").write_text(text.replace("tumour section", "normal section"))
    review = Review.open(result, "Ada")
    assert review.asked.subjects["section:1"].label == "normal section"
    assert review.answer("section:1").label == "tumour section"


def test_threads_that_answer_at_once_lose_nothing(result):
    failed = []

    def answer(name: str) -> None:
        try:
            review = Review.open(result, name)
            for n in range(10):
                review = review.confirm(f"section:{n % 3 + 1}")
        except BaseException as error:  # a thread's would be lost
            failed.append(error)

    threads = [threading.Thread(target=answer, args=(f"reviewer {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    events = Review.open(result, "Ada").events
    assert len(events) == 40
    assert all(sum(one.reviewer == f"reviewer {n}" for one in events) == 10 for n in range(4))


def test_there_is_nothing_to_review_where_there_is_no_result(tmp_path):
    with pytest.raises(ResultError, match="no complete result"):
        Review.open(tmp_path, "Ada")
