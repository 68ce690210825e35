import shutil

import pytest

pytest.importorskip("dash")

ROWS = "#list-table tbody tr"


@pytest.fixture
def listed(page, start_server, library):
    """The list of the library, loaded."""
    page.goto(start_server(library))
    page.wait_for_selector(ROWS)
    return page


def names(page) -> list[str]:
    return page.locator(f"{ROWS} th a").all_inner_texts()


def shown(page, expected: list[str]) -> None:
    """Wait until the list shows these, in this order."""
    page.wait_for_function(
        "names => JSON.stringify([...document.querySelectorAll('#list-table tbody th a')].map(a => a.textContent))"
        " === JSON.stringify(names)",
        arg=expected,
    )


def test_everything_is_listed_with_its_picture(listed):
    assert names(listed) == ["broken.svs", "other.tif", "second", "slide", "slide.tif"]
    assert listed.locator("#list-count").inner_text() == "5 slides and results"
    listed.wait_for_function(
        "() => [...document.images].length === 4 && [...document.images].every(i => i.complete && i.naturalWidth)"
    )
    broken = listed.locator(ROWS).first
    assert "broken" in broken.inner_text() and "cannot be opened" in broken.inner_text()


def test_it_is_searched_filtered_and_sorted_also_by_keyboard(listed):
    listed.fill("#list-search", "RESULTS")
    shown(listed, ["second", "slide"])
    assert listed.locator("#list-count").inner_text() == "2 of 5"
    lesion = listed.locator("th.list-lesion button")
    lesion.focus()
    listed.keyboard.press("Enter")
    listed.wait_for_selector("th.list-lesion[aria-sort=ascending]")
    up = names(listed)
    listed.keyboard.press("Enter")  # the focus is where it was
    listed.wait_for_selector("th.list-lesion[aria-sort=descending]")
    assert names(listed) == up[::-1] and sorted(up) == ["second", "slide"]
    listed.fill("#list-search", "")
    chip = listed.locator("#list-statuses button", has_text="broken")
    chip.click()
    shown(listed, ["broken.svs"])
    assert chip.get_attribute("aria-pressed") == "true"
    listed.fill("#list-search", "nobody")
    listed.wait_for_selector("#list-empty:not([hidden])")
    assert "Shorten the search" in listed.locator("#list-empty:not([hidden])").inner_text()


def test_a_line_leads_to_its_slide_and_the_list_is_as_it_was_left(listed):
    listed.fill("#list-search", "second")
    shown(listed, ["second"])
    listed.click("text=second")
    listed.wait_for_selector("#map")
    assert "/view/" in listed.url
    listed.go_back()
    shown(listed, ["second"])
    assert listed.input_value("#list-search") == "second"


def test_a_broken_slide_says_what_is_wrong(listed):
    listed.click("text=broken.svs")
    listed.wait_for_selector("[role=alert]")
    assert "broken.svs" in listed.locator("[role=alert]").inner_text()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_has_to_be_scrolled_sideways_and_buttons_can_be_touched(listed, width):
    listed.set_viewport_size({"width": width, "height": 900})
    assert listed.evaluate("document.documentElement.scrollWidth") <= width
    sizes = listed.evaluate(
        "[...document.querySelectorAll('#list button')].filter(b => b.getClientRects().length)"
        ".map(b => b.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 44
    assert listed.locator("th.list-name button").is_visible()


@pytest.mark.slow
def test_an_empty_folder_says_what_to_do(page, start_server, tmp_path):
    page.goto(start_server(tmp_path))
    page.wait_for_selector("#list-empty:not([hidden])")
    assert "digipath view" in page.locator("#list-empty:not([hidden])").inner_text()


@pytest.mark.slow
def test_many_results_are_leafed_through(page, start_server, library, tmp_path):
    for number in range(60):
        folder = tmp_path / f"case {number:02d}"
        folder.mkdir()
        for name in ("result.json", "result.h5"):
            shutil.copy(library / "results" / "second" / name, folder)
    page.goto(start_server(tmp_path))
    page.wait_for_selector(ROWS)
    assert page.locator(ROWS).count() == 50 and page.locator("#list-page").inner_text() == "Page 1 of 2"
    page.click("#list-after")
    shown(page, [f"case {number:02d}" for number in range(50, 60)])
    assert page.locator("#list-after").is_disabled() and not page.locator("#list-before").is_disabled()


def test_a_blind_list_shows_no_answer(page, start_server, library):
    page.goto(start_server(library, blind=True))
    page.wait_for_selector(ROWS)
    text = page.locator("#list-table").inner_text()
    assert "micro" not in text and "%" not in text and "0.0" not in text
