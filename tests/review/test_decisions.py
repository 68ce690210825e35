"""Events and their fold."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from digipath.errors import SpecError
from digipath.review.decisions import MAX_VERTICES, Event, fold, is_open, undoable

PLACE = "0" * 32
TRIANGLE = ((0.0, 0.0), (10.0, 0.0), (0.0, 10.0))
NAMES = ("Ada", "Ben")
DRAWN = tuple(f"drawn:{digit * 32}" for digit in "ab")


def _answer(reviewer, subject, action):
    label = None if action == "reject" else "lesion"
    return Event(reviewer=reviewer, action=action, subject=subject, label=label, place=PLACE)


def _shape(reviewer, subject, action):
    told = {"draw": {"label": "lesion", "outline": TRIANGLE}, "edit": {"outline": TRIANGLE[::-1]}, "delete": {}}
    return Event(reviewer=reviewer, action=action, subject=subject, **told[action])


events = st.one_of(
    st.builds(
        _answer,
        st.sampled_from(NAMES),
        st.sampled_from(["section:1", "section:2", "region:1"]),
        st.sampled_from(["confirm", "relabel", "reject"]),
    ),
    st.builds(_shape, st.sampled_from(NAMES), st.sampled_from(DRAWN), st.sampled_from(["draw", "edit", "delete"])),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(events, max_size=12), st.data())
def test_folding_after_an_undo_is_folding_without_the_event(history, data):
    reviewer = data.draw(st.sampled_from(NAMES))
    undone = set()
    for _ in range(data.draw(st.integers(0, 4))):
        last = undoable(history, reviewer)
        if last is None:
            break
        undone.add(last.id)
        history = [*history, Event(reviewer=reviewer, action="undo", undone=last.id)]
    without = [event for event in history if event.id not in undone and event.action != "undo"]
    for whose in (None, *NAMES):
        assert fold(history, whose) == fold(without, whose)


@settings(max_examples=50, deadline=None)
@given(st.lists(events, max_size=12))
def test_what_one_does_changes_nothing_of_what_the_other_said(history):
    own = [event for event in history if event.reviewer == "Ada"]
    assert fold(history, "Ada") == fold(own)


@given(events)
def test_an_event_is_the_same_after_it_was_written_and_read(event):
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_undo_goes_back_one_by_one_and_never_to_what_another_did():
    history = [_answer("Ada", "section:1", "confirm"), _answer("Ben", "section:1", "reject")]
    assert undoable(history, "Ada") == history[0]
    history.append(Event(reviewer="Ada", action="undo", undone=history[0].id))
    assert undoable(history, "Ada") is None
    forged = [*history, Event(reviewer="Ada", action="undo", undone=history[1].id)]
    assert fold(forged, "Ben")["section:1"].action == "reject"


def test_only_the_one_who_drew_it_changes_or_deletes_it():
    history = [_shape("Ada", DRAWN[0], "draw"), _shape("Ben", DRAWN[0], "delete"), _shape("Ben", DRAWN[0], "edit")]
    assert fold(history)[DRAWN[0]].outline == TRIANGLE


def test_what_was_seen_stays_seen_when_it_is_undone():
    blind = Event(reviewer="Ada", action="relabel", subject="section:1", label="lesion", place=PLACE, blind=True)
    assert not is_open([blind, _answer("Ada", "section:1", "confirm")], "Ada")  # its own answer was shown by then
    sighted = _answer("Ada", "section:2", "confirm")
    undone = Event(reviewer="Ada", action="undo", undone=sighted.id)
    assert is_open([blind, sighted, undone], "Ada")
    assert not is_open([blind, sighted, undone], "Ben")
    assert is_open([blind, Event(reviewer="Ben", action="reveal")], "Ben")


@pytest.mark.parametrize(
    "wrong",
    [
        {"reviewer": ""},
        {"reviewer": " Ada"},
        {"reviewer": "A\nda"},
        {"reviewer": "A" * 61},
        {"reviewer": "Ada\u202e"},
        {"label": "x" * 61},
        {"label": None},
        {"label": 3},
        {"action": "erase"},
        {"action": ["confirm"]},
        {"subject": "section:../1"},
        {"subject": ""},
        {"subject": "section:1\n"},
        {"subject": "drawn:" + "a" * 32},
        {"place": "f"},
        {"place": ""},
        {"time": "yesterday"},
        {"time": "2021-01-01T00:00:00"},
        {"blind": 1},
        {"id": ""},
        {"id": "<script>"},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}},
        {"more": 1},
    ],
)
def test_an_event_that_makes_no_sense_is_refused(wrong):
    value = _answer("Ada", "section:1", "confirm").to_json()
    with pytest.raises(SpecError):
        Event.from_json(value | wrong)


@pytest.mark.parametrize(
    "ring",
    [
        [],
        [[0, 0], [1, 1]],
        [[0, 0], [1, 0], [2, 0], [0, 0]],
        [[0, 0], [1, 0], [1, 1]],
        [[0, 0], [1, float("nan")], [1, 1], [0, 0]],
        [[0, 0], [1, float("inf")], [1, 1], [0, 0]],
        [[0, 0], [1, 10**400], [1, 1], [0, 0]],
        [[0, 0], [1e9, 0], [1, 1], [0, 0]],
        [[0, 0], ["a", 0], [1, 1], [0, 0]],
        [[0, 0], None, [1, 1], [0, 0]],
        [[k, k * k] for k in range(MAX_VERTICES + 1)] + [[0, 0]],
        "outline",
        None,
        {"x": 1},
    ],
)
def test_an_outline_that_encloses_nothing_or_too_much_is_refused(ring):
    value = _shape("Ada", DRAWN[0], "draw").to_json()
    with pytest.raises(SpecError):
        Event.from_json(value | {"geometry": {"type": "Polygon", "coordinates": [ring]}})
