"""The frame of all pages: its colours, its one script, and where its pages lead."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dash")

from digipath.viewer import slide_page
from digipath.viewer.app import KEYS, _page, make_app
from digipath.viewer.desk import Desk
from digipath.viewer.opened import Opened
from digipath.viewer.scene import look
from digipath.viewer.shelf import Shelf

ASSETS = Path(slide_page.__file__).with_name("assets")
# What is written in one colour on another, and the contrast that WCAG 2.2 asks for: 4.5 of text, 3 of what is not.
_PAIRS = [
    *(
        (ink, ground, 4.5)
        for ink in ("ink", "muted", "accent", "danger", "good", "note")
        for ground in ("ground", "raised")
    ),
    ("on-accent", "accent", 4.5),
    *((line, ground, 3.0) for line in ("edge", "focus") for ground in ("ground", "raised")),
]


def _themes() -> dict[str, dict[str, str]]:
    style = (ASSETS / "base.css").read_text()
    found = re.findall(r"(:root[^{]*)\{([^}]*--ground[^}]*)\}", style)
    read = {name.strip(): dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", body)) for name, body in found}
    assert len(read) == 3
    return read


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", range(3))
@pytest.mark.parametrize(("ink", "ground", "least"), _PAIRS)
def test_colours_can_be_told_apart_in_light_and_dark(theme, ink, ground, least):
    colours = list(_themes().values())[theme]
    assert _contrast(colours[ink], colours[ground]) >= least


def test_the_dark_that_is_chosen_is_the_dark_that_the_system_asks_for():
    _, chosen, asked = _themes().values()
    assert chosen == asked


def test_the_script_is_short_and_neither_it_nor_a_style_fetches_anything():
    assert len((ASSETS / "viewer.js").read_text().splitlines()) < 80
    for path in [*ASSETS.glob("*.js"), *ASSETS.glob("*.css")]:
        text = path.read_text()
        assert not re.search(
            r"https?://|@import|url\(\s*['\"]?(?!data:)|fetch\(|XMLHttpRequest|eval\(|innerHTML", text
        ), path


@pytest.fixture
def desk(library):
    opened = Opened()
    yield Desk(shelf=Shelf([library]), opened=opened, prefix="/here/")
    opened.close()


def test_the_first_page_is_in_english_and_names_no_other_host(desk):
    text = make_app(desk).server.test_client().get("/here/").text
    assert '<html lang="en">' in text and "width=device-width" in text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    scripts = re.findall(r"<script src=\"([^\"]+)\"", text)
    assert scripts and all(one.startswith("/here/") for one in scripts)


def test_a_page_that_is_not_there_and_a_slide_that_is_broken_say_what_is_wrong(desk):
    broken = next(item for item in desk.shelf.items() if item.status == "broken")
    for path, said in (
        ("nowhere", "no page"),
        ("view/abc", "nothing to be seen"),
        (f"view/{broken.id}", broken.problem),
    ):
        page = _page(desk, path)
        assert "role='alert'" in str(page) and said in str(page)


def test_no_key_means_two_things_and_every_control_of_a_slides_page_has_a_name(desk):
    item = next(item for item in desk.shelf.items() if item.name == "slide" and item.kind == "result")
    parts = list(slide_page.layout(desk, item)._traverse())
    keys = [part.to_plotly_json()["props"].get("data-key") for part in parts if hasattr(part, "to_plotly_json")]
    keys = [key for key in keys if key]
    assert len(keys) == len(set(keys)) and {"0", "1", "t", "n", "p"} <= set(keys)
    for part in parts:
        if type(part).__name__ == "Button" and not getattr(part, "hidden", False):
            assert part.children or getattr(part, "title", None) or "aria-label" in part.to_plotly_json()["props"]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((), "Not segmented"),
        (("running",), "Unfinished"),
        (("broken",), "Not segmented"),
        (("running", "ok"), "Segmented"),
    ],
)
def test_a_slide_says_what_became_of_it_and_leads_there(library, monkeypatch, statuses, told):
    desk = Desk(shelf=Shelf([library]), opened=Opened())
    slide = next(one for one in desk.shelf.items() if one.name == "slide.tif")
    results = [replace(slide, id=f"{n:012x}", kind="result", name=f"run {n}", status=s) for n, s in enumerate(statuses)]
    monkeypatch.setattr(slide_page, "results_of", lambda *_: results)
    title = str(slide_page._title(desk, look(desk, slide)))
    assert f"'{told}'" in title
    assert [f"See run {n}" in title for n in range(len(statuses))] == [one != "broken" for one in statuses]
    desk.opened.close()


def test_the_list_of_keys_has_every_key_of_a_slides_page(desk):
    item = next(item for item in desk.shelf.items() if item.name == "slide" and item.kind == "result")
    props = [
        part.to_plotly_json()["props"] for part in slide_page.layout(desk, item)._traverse() if hasattr(part, "id")
    ]
    keys = {one["data-key"] for one in props if one.get("data-key")}
    told = {key for keys in KEYS for key in keys.split()} | set("123456789")
    assert keys <= told
