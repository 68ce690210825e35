"""The review's panel and its part of the map, without a browser."""

import json
from datetime import datetime, timedelta

import pytest

pytest.importorskip("dash")

import dash

from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.review.export import exported
from digipath.review.review import Review
from digipath.viewer import review_map, review_panel, review_told
from digipath.viewer.desk import Desk
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf

SQUARE = [[300.0, 300.0], [700.0, 300.0], [700.0, 700.0], [300.0, 700.0]]
TRIANGLE = SQUARE[:3]
DRAWN = "drawn:" + "a" * 32


def _desk(folder, **options) -> tuple[Desk, object]:
    desk = Desk(shelf=Shelf([folder]), opened=Opened(), **options)
    item = next(one for one in desk.shelf.items() if one.kind == "result" and one.name == "slide")
    return desk, item


def _texts(component) -> str:
    """Everything that a component says."""
    if isinstance(component, list | tuple):
        return " ".join(map(_texts, component))
    if hasattr(component, "children"):
        return _texts(component.children)
    return "" if component is None else str(component)


def _all(component):
    """A component and everything in it."""
    yield component
    inside = getattr(component, "children", None)
    for one in inside if isinstance(inside, list | tuple) else [inside]:
        if hasattr(one, "to_plotly_json"):
            yield from _all(one)


def _told(shapes: dict[int, list]) -> dict:
    """What an edit control tells of outlines by their number."""
    features = [
        {
            "type": "Feature",
            "properties": {"type": "polygon", "_leaflet_id": number},
            "geometry": {"type": "Polygon", "coordinates": [[[x, -y] for x, y in [*outline, outline[0]]]]},
        }
        for number, outline in shapes.items()
    ]
    return {"type": "FeatureCollection", "features": features}


def test_a_first_message_says_which_number_is_which_and_deletes_nothing():
    known = review_map.start() | {"n": 1, "shapes": {DRAWN: SQUARE, "drawn:" + "b" * 32: TRIANGLE}}
    ids, done = review_map.changes(known, review_map.on_map(_told({7: SQUARE})))
    assert ids == {"7": DRAWN}
    assert done == []


def test_what_is_new_moved_or_gone_since_then_was_drawn_edited_or_deleted():
    known = review_map.start() | {"n": 1, "shapes": {DRAWN: SQUARE}, "ids": {"7": DRAWN}}
    ids, ((kind, subject, outline),) = review_map.changes(known, review_map.on_map(_told({7: SQUARE, 9: TRIANGLE})))
    assert (kind, outline, ids["9"]) == ("draw", TRIANGLE, subject)
    assert review_map.changes(known, review_map.on_map(_told({7: SQUARE, 9: TRIANGLE})))[0] == ids  # heard twice
    assert review_map.changes(known, review_map.on_map(_told({7: TRIANGLE})))[1] == [("edit", DRAWN, TRIANGLE)]
    assert review_map.changes(known, {})[1] == [("delete", DRAWN)]
    assert review_map.changes(known, review_map.on_map(_told({7: SQUARE})))[1] == []


def test_what_leaflet_cannot_say_as_one_ring_is_left_alone():
    line = {"geometry": {"type": "LineString", "coordinates": []}, "properties": {"_leaflet_id": 3}}
    assert review_map.on_map({"features": [line]}) == {}
    assert review_map.on_map(None) == {}


def test_buttons_answer_and_say_when_it_was_saved(shelf_copy):
    desk, item = _desk(shelf_copy, reviewer="Ada")
    stamp, status, refresh = review_panel.done(desk, item, "Ada", act=lambda review: review.confirm("section:1"))
    assert stamp == review_told.stamp(item)
    assert status.startswith("Saved ")
    assert refresh is dash.no_update
    review = Review.open(item.path, "Ada")
    assert "1 of 2 answered" in _texts(review_told.work_list(review))
    assert "Ada confirmed section 1 as tumour section" in _texts(review_told.history(review))
    assert "Kappa too few" in _texts(review_told.agreement_told(review))


def test_what_cannot_be_done_is_said(shelf_copy):
    desk, item = _desk(shelf_copy)
    _, status, _ = review_panel.done(desk, item, "Ada", act=lambda review: review.confirm("section:9"))
    assert status.startswith("Not saved: the result has no 'section:9'")
    _, status, _ = review_panel.done(desk, item, " ", act=lambda review: review.confirm("section:1"))
    assert "Type yours above" in status
    _, status, _ = review_panel.done(desk, item, "A\u202eda", act=lambda review: review.confirm("section:1"))
    assert "printable" in status
    assert not (item.path / "review.json").exists()


def test_who_has_not_given_a_name_is_told_why_nothing_can_be_answered(shelf_copy):
    desk, item = _desk(shelf_copy)
    nobody, _ = review_told.open_review(desk, item, "")
    assert "Give your name" in _texts(review_told.selected(nobody, "section:1"))
    assert not any(review_panel._allowed(nobody, "section:1"))
    ada, _ = review_told.open_review(desk, item, "Ada")
    assert "Give your name" not in _texts(review_told.selected(ada, "section:1"))


def test_a_label_of_the_other_kind_is_refused_and_any_other_is_taken(shelf_copy):
    desk, item = _desk(shelf_copy)
    for chosen, label in (("section:1", "lesion"), ("region:1", "tumour section")):
        act = review_panel._act("review-relabel", chosen, label)
        said = review_panel.done(desk, item, "Ada", act=act)[1]
        assert "Not saved" in said and f"{label} is a label of" in said
        act = review_panel._act("review-relabel", chosen, "artefact")
        assert "Saved" in review_panel.done(desk, item, "Ada", act=act)[1]
    labels = {one.subject: one.label for one in Review.open(item.path, "Ada").answers.values()}
    assert labels == {"section:1": "artefact", "region:1": "artefact"}


def test_what_was_saved_another_day_is_told_with_its_date():
    now = datetime.now().astimezone()
    before = now - timedelta(days=2)
    assert review_told._clock(now.isoformat()) == f"{now:%H:%M:%S}"
    assert review_told._clock(before.isoformat()) == f"{before:%Y-%m-%d %H:%M}"


def test_a_damaged_review_is_told_in_place_of_the_panel_and_left_as_it_is(shelf_copy):
    desk, item = _desk(shelf_copy, reviewer="Ada")
    (item.path / "review.json").write_text("{")
    assert "It is left as it is" in _texts(review_panel.layout(desk, item))
    assert review_panel.done(desk, item, "Ada", act=Review.undo)[1].startswith("Not saved")
    assert (item.path / "review.json").read_text() == "{"


def test_every_control_has_a_name_and_every_key_one_button(library):
    desk, item = _desk(library)
    parts = list(_all(review_panel.layout(desk, item)))
    labelled = {one.htmlFor for one in parts if getattr(one, "htmlFor", None)}
    assert {"review-reviewer", "review-label"} <= labelled
    keys = [part["data-key"] for part in (one.to_plotly_json()["props"] for one in parts) if "data-key" in part]
    assert sorted(keys) == sorted("crxzuqwe")
    status = next(one for one in parts if getattr(one, "id", None) == "review-status")
    assert status.to_plotly_json()["props"]["aria-live"] == "polite"


def _blind(folder, **options):
    return _desk(folder, blind=True, reviewer="Ada", **options)


def test_a_blind_panel_says_nothing_of_the_model_until_a_section_is_answered(shelf_copy):
    desk, item = _blind(shelf_copy)
    review, _ = review_told.open_review(desk, item, "Ada")
    told = _texts([review_told.selected(review, "section:1"), review_told.work_list(review)])
    assert told.count("withheld") == 3
    assert "tumour" not in told
    assert "egion" not in told
    assert review_panel._allowed(review, "section:1") == (False, True, False)
    assert review_panel._allowed(review, "region:1") == (False, False, False)
    for region in ("region:1", "region:99"):  # asked by hand; nobody learns which there are
        assert "Choose" in _texts(review_told.selected(review, region))
        assert review_told.cells(review, region)[0] == "–"
    assert review_map.answered(review)["features"] == []
    review = review.relabel("section:1", "normal section")
    assert "Model tumour section" in _texts(review_told.selected(review, "section:1"))
    assert "Model withheld" in _texts(review_told.selected(review, "section:2"))


def test_the_last_blind_answer_makes_the_page_anew(shelf_copy):
    desk, item = _blind(shelf_copy)
    for n, last in ((1, False), (2, True)):
        answer = review_panel.done(desk, item, None, act=lambda review, n=n: review.relabel(f"section:{n}", "x"))
        assert (answer[2] is not dash.no_update) == last
    assert not desk.hidden(item)


def test_a_blind_viewer_knows_one_name_whatever_the_page_says(shelf_copy):
    desk, item = _blind(shelf_copy)
    Review.open(item.path, "Ben").reveal()
    review, _ = review_told.open_review(desk, item, "Ben")
    assert review.reviewer == "Ada"
    assert not review.is_open
    nobody, _ = _desk(shelf_copy, blind=True)
    _, status, _ = review_panel.done(nobody, item, "Ben", act=Review.reveal)
    assert "--reviewer" in status
    assert nobody.hidden(item)


def test_while_blind_no_button_tells_which_classes_the_model_has_found(shelf_copy):
    path = shelf_copy / "results" / "slide" / "result.json"
    record = json.loads(path.read_text())
    record["areas"]["classes_mm2"]["necrosis"] = 0.01
    path.write_text(json.dumps(record))
    annotations = path.with_name("annotations.geojson")
    annotations.write_text(annotations.read_text().replace('"lesion"', '"necrosis"', 1))
    desk, item = _blind(shelf_copy)
    review, _ = review_told.open_review(desk, item, "Ada")
    assert "necrosis" in review.asked.labels("region")
    assert review_panel._fitting(review, "drawn:" + "0" * 32) == (review.asked.positive,)
    assert "necrosis" in review_panel._fitting(review.reveal(), "region:1")


def test_while_blind_nothing_tells_how_drawings_lie_to_the_models_regions(shelf_copy):
    desk, item = _blind(shelf_copy)
    review, _ = review_told.open_review(desk, item, "Ada")
    review = review.draw([(1390, 990), (1395, 990), (1395, 995)], "lesion", subject=DRAWN)
    assert "Regions" not in _texts(review_told.agreement_told(review))
    assert "Regions" in _texts(review_told.agreement_told(review.reveal()))


def test_what_is_exported_reads_back(shelf_copy, tmp_path):
    _, item = _desk(shelf_copy)
    review = Review.open(item.path, "Ada").confirm("section:1").reject("region:1").draw(SQUARE, "x", subject=DRAWN)
    for kind, read in (("geojson", read_geojson), ("xml", read_asap)):
        path = tmp_path / f"review.{kind}"
        path.write_bytes(exported(review.asked, review.visible, kind))
        assert [one.name for one in read(path)] == ["tumour section", "x"]
    events = json.loads(exported(review.asked, review.visible, "json"))["events"]
    assert [one["action"] for one in events] == ["confirm", "reject", "draw"]


def test_a_blind_export_has_nothing_of_others(shelf_copy):
    desk, item = _blind(shelf_copy)
    Review.open(item.path, "Ben").confirm("section:1").draw(SQUARE, "x", subject=DRAWN)
    review, _ = review_told.open_review(desk, item, "Ada")
    for after in (review, review.reveal()):
        for kind in ("json", "geojson", "xml"):
            assert b"Ben" not in exported(after.asked, after.visible, kind)
        assert "Ben" not in _texts(
            [review_told.history(after), review_told.work_list(after), review_told.drawn_list(after)]
        )
        assert "Ben" not in json.dumps([review_map.answered(after), review_map.beneath(after)])


def test_others_drawings_are_seen_and_not_editable_where_nobody_is_blind(shelf_copy):
    _, item = _desk(shelf_copy)
    Review.open(item.path, "Ben").draw(SQUARE, "x", subject=DRAWN)
    review = Review.open(item.path, "Ada")
    assert review_map.shapes_of(review) == ({}, {})
    (feature,) = review_map.beneath(review)["features"]
    assert "by Ben" in feature["properties"]["told"]
    assert review_map.shapes_of(Review.open(item.path, "Ben")) == ({DRAWN: SQUARE}, {DRAWN: "x"})
