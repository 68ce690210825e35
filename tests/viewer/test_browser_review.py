"""Reviews in a real browser: answered, drawn, reloaded, seen by a second one, and blind."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("dash")
pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Error, expect

from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.review.review import Review
from digipath.viewer.shelf import Shelf

SQUARE = [(500, 380), (900, 380), (900, 780), (500, 780)]
DRAWN = "drawn:" + "a" * 32


@pytest.fixture(autouse=True)
def patience():
    """Machines that test are busy."""
    expect.set_options(timeout=20_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture
def place(shelf_copy, start_server) -> SimpleNamespace:
    """The folder of a result, and the address of its page."""
    item = next(one for one in Shelf([shelf_copy]).items() if one.kind == "result" and one.name == "slide")

    def serve(**options) -> str:
        root = start_server(shelf_copy, **options)
        return f"{root}view/{item.id}"

    return SimpleNamespace(folder=item.path, serve=serve, id=item.id)


def _open(page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#review-list table").first).to_be_visible()
    expect(page.locator(".leaflet-draw-draw-polygon")).to_be_visible()


def _saved(place) -> list[tuple[str, str, str | None]]:
    events = json.loads((place.folder / "review.json").read_text())["events"]
    return [(one["action"], one["subject"].partition(":")[0], one["label"]) for one in events]


def _choose(page, name: str) -> None:
    page.locator("#review-list").get_by_role("button", name=name, exact=True).click()
    expect(page.locator("#review-subject")).to_have_text(name)


def _press(page, key: str, count: int, place) -> None:
    """Press a key, and wait until there are so many events."""
    page.locator("body").press(key)
    expect(page.locator("#review-history li")).to_have_count(count)
    assert len(_saved(place)) == count


def test_answers_are_saved_at_once_undone_kept_over_a_reload_and_seen_by_a_second_browser(place, page, browser):
    url = place.serve()
    _open(page, url)
    page.get_by_label("Reviewer").fill("Ada")
    page.get_by_label("Reviewer").press("Enter")
    expect(page.locator("#review-undo")).to_be_disabled()
    _choose(page, "Section 1")
    _press(page, "c", 1, place)
    expect(page.locator("#review-status")).to_have_text(re.compile(r"Saved \d\d:\d\d:\d\d"))
    page.locator("body").press("u")
    expect(page.locator("#review-subject")).to_have_text("Section 2")
    _press(page, "w", 2, place)
    _choose(page, "Region 1")
    _press(page, "x", 3, place)
    _choose(page, "Region 2")
    page.get_by_label("Other label").fill("crypt <b>&amp;")
    page.get_by_label("Other label").press("Enter")
    expect(page.locator("#review-history li")).to_have_count(4)
    assert _saved(place) == [
        ("confirm", "section", "tumour section"),
        ("relabel", "section", "normal section"),
        ("reject", "region", None),
        ("relabel", "region", "crypt <b>&amp;"),
    ]
    page.locator("#review-undo").click()
    expect(page.locator("#review-history li")).to_have_count(5)
    expect(page.locator("#review-yours")).to_have_text("–")
    page.reload()
    expect(page.locator("#review-progress")).to_have_text("2 of 2 sections answered")
    expect(page.get_by_label("Reviewer")).to_have_value("Ada")
    second = browser.new_page()
    _open(second, url)
    expect(second.locator("#review-history li")).to_have_count(5)
    expect(second.locator("#review-progress")).to_have_text(
        "0 of 2 sections answered"
    )  # that is Ada's, and this is nobody yet
    second.close()


@pytest.mark.slow
def test_a_click_on_the_map_chooses_what_is_there(place, page):
    _open(page, place.serve(reviewer="Ada"))
    region = page.locator(".leaflet-digipath-regions-pane path").last
    region.click(force=True)
    expect(page.locator("#review-subject")).to_have_text(re.compile(r"(Region|Section) \d"))


def _draw(page) -> None:
    """A triangle in the middle of the map, by the mouse."""
    box = page.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.locator(".leaflet-draw-draw-polygon").click()
    for dx, dy in ((0, 0), (90, 0), (90, 90), (0, 0)):
        page.mouse.move(x + dx, y + dy, steps=3)
        page.mouse.click(x + dx, y + dy, delay=30)
        page.wait_for_timeout(250)  # Leaflet takes quicker ones for a double click


@pytest.mark.slow
def test_outlines_are_drawn_edited_deleted_and_brought_back(place, page, browser):
    url = place.serve(reviewer="Ada")
    _open(page, url)
    page.get_by_label("Other label").fill("missed")
    _draw(page)
    expect(page.locator("#review-history li")).to_have_count(1)
    assert _saved(place) == [("draw", "drawn", "missed")]
    page.locator("path.review-own").click(force=True, position={"x": 70, "y": 30})
    expect(page.locator("#review-subject")).to_have_text(re.compile("Outline"))
    page.reload()
    expect(page.locator("path.review-own")).to_have_count(1)

    (before,) = Review.open(place.folder, "Ada").answers.values()
    page.wait_for_timeout(500)
    page.locator(".leaflet-draw-edit-edit").click()
    expect(page.locator(".leaflet-editing-icon")).to_have_count(6)  # three vertices, and the middles between them
    handle = page.locator(".leaflet-editing-icon").first.bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 5)
    page.mouse.down()
    page.mouse.move(handle["x"] - 30, handle["y"] - 20, steps=5)
    page.mouse.up()
    page.locator(".leaflet-draw-actions:visible").get_by_text("Save").click()
    expect(page.locator("#review-history li")).to_have_count(2)
    (after,) = Review.open(place.folder, "Ada").answers.values()
    assert sum(one != other for one, other in zip(before.outline, after.outline, strict=True)) == 1

    second = browser.new_page()
    _open(second, url)
    expect(second.locator("path.review-own")).to_have_count(1)
    page.wait_for_timeout(500)
    page.locator(".leaflet-draw-edit-remove").click()
    outline = page.locator("path.review-own").bounding_box()
    page.mouse.click(outline["x"] + outline["width"] * 0.7, outline["y"] + outline["height"] * 0.4)
    page.locator(".leaflet-draw-actions:visible").get_by_text("Save").click()
    expect(page.locator("#review-history li")).to_have_count(3)
    expect(second.locator("path.review-own")).to_have_count(0)  # it looks every few seconds
    page.locator("body").press("z")
    expect(page.locator("path.review-own")).to_have_count(1)
    assert [one[0] for one in _saved(place)] == ["draw", "edit", "delete", "undo"]
    second.close()


@pytest.mark.slow
def test_what_is_downloaded_reads_back(place, page, tmp_path):
    Review.open(place.folder, "Ada").confirm("section:1").draw(SQUARE, "missed", subject=DRAWN)
    _open(page, place.serve(reviewer="Ada"))
    for label, read in (("QuPath (GeoJSON)", read_geojson), ("ASAP (XML)", read_asap), ("Events (JSON)", None)):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        if read is None:
            assert json.loads(path.read_text()) == json.loads((place.folder / "review.json").read_text())
        else:
            assert [one.name for one in read(path)] == ["tumour section", "missed"]


def _urls_of_layers(place) -> list[str]:
    layers = ("probability-1", "mask-1?t=0.5", "mask-1", "aleatoric", "epistemic", "total", "uncovered")
    tiles = [f"tiles/{place.id}/{one.replace('?', '/11/0/0?')}" for one in layers if "?" in one]
    tiles += [f"tiles/{place.id}/{one}/11/0/0" for one in layers if "?" not in one]
    files = ("annotations.geojson", "annotations.xml", "overview.png", "uncertainty.png", "result.json", "report.html")
    return tiles + [f"files/{place.id}/{name}" for name in files]


def test_a_blind_page_and_every_address_withhold_the_model_until_the_last_section_is_answered(place, page):
    Review.open(place.folder, "Ben").confirm("section:1").draw(SQUARE, "of Ben", subject=DRAWN)
    url = place.serve(reviewer="Ada", blind=True)
    root = url.partition("view/")[0]
    told: list[str] = []
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda answer: told.append(_text(answer)))
    _open(page, url)
    expect(page.locator("#review-selected")).to_contain_text("Choose")
    page.wait_for_timeout(1500)
    assert not [one for one in asked if "/tiles/" in one and "/slide/" not in one]
    for secret in ("largest_um2", "mean probability", "area mm2", "slide class", "Ben"):
        assert not [one for one in told if secret in one], secret
        assert secret not in page.content()
    withheld = [root + one for one in _urls_of_layers(place)]
    assert {page.request.get(one).status for one in withheld} <= {403, 404, 422}
    assert page.request.get(f"{withheld[0]}?reviewer=Ben").status >= 400
    assert page.request.get(withheld[0], headers={"Cookie": "reviewer=Ben"}).status >= 400

    _choose(page, "Section 1")
    expect(page.locator("#review-confirm")).to_be_disabled()
    expect(page.locator("#review-selected")).to_contain_text("withheld")
    page.locator("body").press("w")
    expect(page.locator("#review-selected")).to_contain_text("tumour section")  # what the model says of this one
    assert page.request.get(withheld[0]).status >= 400
    _choose(page, "Section 2")
    page.locator("body").press("q")
    expect(page.locator("#lesions")).to_be_visible()
    assert page.request.get(withheld[0]).status == 200
    for name in ("review.json", "review.geojson", "review.xml"):  # the others stay apart
        assert page.request.get(f"{root}files/{place.id}/{name}").status == 403
    assert "Ben" not in page.content()


def _text(answer) -> str:
    """What pages and callbacks were told; scripts of Dash hold every word."""
    kind = answer.headers.get("content-type", "")
    if "json" not in kind and "html" not in kind:
        return ""
    try:
        return answer.text()
    except Error:  # the page had gone on
        return ""


@pytest.mark.slow
def test_a_blind_reviewer_may_ask_to_be_shown_and_is_asked_whether_they_are_sure(place, page):
    _open(page, place.serve(reviewer="Ada", blind=True))
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#review-reveal").click()
    page.wait_for_timeout(500)
    assert not (Path(place.folder) / "review.json").exists()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#review-reveal").click()
    expect(page.locator("#lesions")).to_be_visible()
    assert _saved(place) == [("reveal", "", None)]


@pytest.mark.slow
def test_a_damaged_review_is_told_and_the_rest_of_the_page_works(place, page):
    (place.folder / "review.json").write_text("{")
    page.goto(place.serve(reviewer="Ada"))
    expect(page.locator("#review")).to_contain_text("It is left as it is")
    page.locator(".leaflet-digipath-regions-pane path").last.click(force=True)
    page.wait_for_timeout(1000)  # a callback of the review would fail now, which the fixture tells
    assert (place.folder / "review.json").read_text() == "{"
