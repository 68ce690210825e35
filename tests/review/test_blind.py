"""Blind reviews: what is withheld, until when, and what counts as blind."""

from types import SimpleNamespace

import pytest

from digipath.errors import SpecError
from digipath.review.agreement import agreement
from digipath.review.blind import AREAS, FILES, LAYERS, OTHERS, REGIONS, withheld
from digipath.review.review import Review

TRIANGLE = [(600, 600), (700, 600), (700, 700)]


def _blind(folder, name="Ada"):
    return Review.open(folder, name, blind=True)


def _withheld(folder, name="Ada", *, blind=True, reviewer=""):
    desk, item = SimpleNamespace(blind=blind, reviewer=name), SimpleNamespace(kind="result", path=folder)
    return withheld(desk, item, reviewer)


def test_everything_of_the_model_is_withheld_until_all_sections_are_answered(result):
    everything = {LAYERS, REGIONS, AREAS, FILES, OTHERS}
    assert _withheld(result) == everything | {"section:1", "section:2", "section:3"}
    review = _blind(result).relabel("section:2", "normal section")
    assert _withheld(result) == everything | {"section:1", "section:3"}
    review = review.relabel("section:1", "normal section").relabel("section:3", "tumour section")
    assert review.is_open
    assert review.events[-1].action == "reveal"
    assert _withheld(result) == {OTHERS}


def test_nothing_is_withheld_where_nobody_is_blind(result):
    assert _withheld(result, blind=False) == frozenset()


@pytest.mark.parametrize("name", ["Ben", "ada", "Ada ", "\x00"])
def test_another_name_opens_nothing(result, name):
    _blind(result).reveal()
    assert LAYERS not in _withheld(result)
    assert LAYERS in _withheld(result, reviewer=name)
    assert LAYERS in _withheld(result, name)
    assert LAYERS in _withheld(result, "")


def test_where_nothing_can_be_known_of_the_answers_everything_is_withheld(result, tmp_path):
    _blind(result).reveal()
    (result / "review.json").write_text("{")
    assert {LAYERS, "section:*"} < _withheld(result)
    assert {LAYERS, "section:*"} < _withheld(tmp_path / "running")


def test_while_blind_an_answer_is_a_label_and_regions_wait(result):
    review = _blind(result)
    for act in (review.confirm, review.reject):
        with pytest.raises(SpecError, match="withheld"):
            act("section:1")
    for region in ("region:1", "region:9"):  # nor is it told which there are
        with pytest.raises(SpecError, match="none that is shown in a blind review"):
            review.relabel(region, "lesion")
        with pytest.raises(SpecError, match="withheld"):
            review.reject(region)
    assert review.progress("region").total == 0
    assert review.next_unanswered().id == "section:1"
    assert not (result / "review.json").exists()
    review = review.relabel("section:1", "normal section")
    assert review.may_see("section:1")
    assert review.confirm("section:1").answers["section:1"].label == "tumour section"


def test_only_what_was_said_before_the_model_was_shown_counts_as_blind(result):
    review = _blind(result).relabel("section:1", "normal section")  # the model says tumour
    review = review.relabel("section:1", "tumour section")  # after a look at what the model says
    review = review.reveal().confirm("section:2")
    assert [one.blind for one in review.events] == [True, False, False, False]
    assert agreement(review, "section").accuracy == 1
    blind = agreement(review, "section", blind=True)
    assert (blind.n, blind.accuracy) == (1, 0)


def test_undoing_does_not_make_an_answer_blind_again(result):
    review = _blind(result).relabel("section:1", "normal section").undo().relabel("section:1", "tumour section")
    assert not review.events[-1].blind
    assert agreement(review, "section", blind=True).n == 0


def test_who_has_seen_the_model_in_an_open_viewer_is_not_blind_any_more(result):
    Review.open(result, "Ada").confirm("section:1")
    review = _blind(result)
    assert review.is_open
    assert not review.relabel("section:2", "normal section").events[-1].blind
    assert not _blind(result, "Ben").is_open


def test_a_result_without_sections_is_opened_by_a_reveal_only(tmp_path, remake):
    folder = remake(tmp_path / "bare", sections=0)
    review = _blind(folder).draw(TRIANGLE, "lesion", subject="drawn:" + "a" * 32)
    assert review.events[-1].blind
    assert LAYERS in _withheld(folder)
    assert review.reveal().is_open
    assert len(review.reveal().reveal().events) == 2
    assert LAYERS not in _withheld(folder)


def test_two_reviewers_do_not_see_each_other(result):
    ada = _blind(result).relabel("section:1", "normal section")
    ben = _blind(result, "Ben").relabel("section:1", "tumour section").reveal()
    assert {one.reviewer for one in ben.visible} == {"Ben"}
    assert {one.reviewer for one in ben.latest.values()} == {"Ben"}
    assert ada.reload().latest["section:1"].label == "normal section"
    assert {one.reviewer for one in Review.open(result, "Cem").visible} == {"Ada", "Ben"}
