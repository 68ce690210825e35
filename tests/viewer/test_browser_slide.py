"""The page of a slide in a real browser: what is seen is what the result holds."""

import contextlib
import re
import shutil
import warnings
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("dash")


from digipath.io.geojson import read_geojson
from digipath.segmentation import Segmentation
from digipath.viewer.shelf import Shelf

SOON = 30_000

# Of a picture, as the browser draws it: its size, opacity in its first and last corner, and how its reds differ.
_SEEN = """async (address) => {
  const one = new Image();
  one.src = address;
  await one.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: one.width, height: one.height });
  const pen = canvas.getContext("2d");
  pen.drawImage(one, 0, 0);
  const { data } = pen.getImageData(0, 0, one.width, one.height), reds = data.filter((_, n) => n % 4 === 0);
  const spread = reds.reduce((a, b) => Math.max(a, b)) - reds.reduce((a, b) => Math.min(a, b));
  return { size: [one.width, one.height], ends: [data[3], data[data.length - 1]], spread };
}"""


def url_of(base: str, library, name: str) -> str:
    item = next(one for one in Shelf([library]).items() if one.name == name)
    return f"{base}view/{item.id}"


@pytest.fixture
def shown(page, start_server, library):
    """A page with the result that has everything, its map ready; and all URLs that were asked for."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url_of(start_server(library), library, "slide"))
    page.wait_for_selector("#map path.leaflet-interactive", timeout=SOON)
    page.wait_for_selector("#layers-areas > div", timeout=SOON)
    page.wait_for_function("() => document.querySelectorAll('#map img.leaflet-tile-loaded').length > 3", timeout=SOON)
    return page, asked


def layer_tiles(page, layer: str) -> list[str]:
    sources = page.eval_on_selector_all("#map img.leaflet-tile", "images => images.map(image => image.src)")
    return [one for one in sources if f"/{layer}/" in one]


def waiting_for_tiles(page, part: str) -> None:
    loaded = "[...document.querySelectorAll('#map img.leaflet-tile-loaded')]"
    there = f"part => {loaded}.some(image => image.src.includes(part) && image.complete && image.naturalWidth === 256)"
    page.wait_for_function(there, arg=part, timeout=SOON)


def check(page, layer: str):
    """The box in front of a layer's name."""
    return page.locator(f'button[id*=\'"layer":"{layer}"\']')


def test_a_slide_is_shown_with_its_heatmap_and_no_other_host_is_asked_for_anything(shown):
    page, asked = shown
    own = urlsplit(page.url).netloc
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {own}
    for layer in ("slide", "probability-1"):
        url = layer_tiles(page, layer)[0]
        found = page.evaluate(_SEEN, url)
        assert found["size"] == [256, 256] and found["spread"] > 20
    assert not layer_tiles(page, "mask-1")  # it is not ticked
    ends = [page.evaluate(_SEEN, url)["ends"] for url in layer_tiles(page, "slide")]
    assert [255, 0] in ends  # the slide ends in them
    assert page.locator("h1").inner_text() == "slide" and page.title() == "slide – digipath"
    assert "1,400 × 1,000 px" in page.locator(".title").inner_text()


def test_every_control_has_a_name_that_a_screen_reader_can_tell(shown):
    page, _ = shown
    told = page.locator("body").aria_snapshot().splitlines()
    controls = [line.strip() for line in told if re.match(r"\s*- '?(button|slider|checkbox|link|textbox|radio)", line)]
    nameless = [line for line in controls if not re.match(r"- '?\w+ \"\S", line)]
    assert len(controls) > 40 and nameless == []
    assert page.get_by_role("slider", name="Threshold", exact=True).get_attribute("id") == "layers-threshold"


def test_zooming_asks_for_finer_tiles_and_the_scale_bar_stays_right(shown):
    page, _ = shown
    before = page.locator("#measures-scale").inner_text()
    page.keyboard.press("+")
    page.wait_for_function("old => document.getElementById('measures-scale').textContent !== old", arg=before)
    waiting_for_tiles(page, "/slide/11/")  # level 0 of 1,400 pixels
    page.wait_for_timeout(300)
    um = float(page.locator("#measures-scale").inner_text().split()[0])
    pixels = page.locator("#measures-bar").bounding_box()["width"]
    page.mouse.move(300, 400)
    page.wait_for_function("() => document.getElementById('measures-pointer').textContent.startsWith('x')")
    at = _pointed(page)
    page.mouse.move(300 + round(pixels), 400)
    page.wait_for_timeout(200)
    assert _pointed(page) - at == pytest.approx(um, rel=0.03)
    page.keyboard.press("0")
    page.wait_for_function("old => document.getElementById('measures-scale').textContent === old", arg=before)


def _pointed(page) -> float:
    return float(re.match(r"x ([-\d.]+) µm", page.locator("#measures-pointer").inner_text())[1])


def test_layers_come_and_go_by_click_and_by_key_and_grow_fainter(shown):
    page, _ = shown
    page.keyboard.press("1")
    tiles = "[...document.querySelectorAll('#map img.leaflet-tile')]"
    page.wait_for_function(f"() => !{tiles}.some(image => image.src.includes('probability'))")
    assert check(page, "probability-1").get_attribute("aria-checked") == "false"
    check(page, "total").click()
    waiting_for_tiles(page, "/total/")
    slider = page.locator('input[id*=\'"layer":"total"\']')
    slider.fill("20")
    over = "[...document.querySelectorAll('#map .leaflet-layer')]"
    page.wait_for_function(f"() => {over}.some(layer => layer.style.opacity === '0.2')")
    seen = "[...document.querySelectorAll('#map path')].filter(path => path.getAttribute('stroke') !== 'none').length"
    before = page.evaluate(seen)
    check(page, "doubts").click()
    page.wait_for_function(f"() => {seen} > {before}")
    check(page, "doubts").click()
    page.wait_for_function(f"() => {seen} === {before}")
    grey = "getComputedStyle(document.querySelector('#map .ground')).filter"
    assert page.evaluate(grey) == "none"
    page.keyboard.press("g")
    page.wait_for_function(f"() => {grey} === 'grayscale(1)'")


def test_the_threshold_moves_the_mask_and_tells_the_exact_area(shown, library):
    page, _ = shown
    check(page, "mask-1").click()
    waiting_for_tiles(page, "t=0.5")
    page.keyboard.press("t")
    assert page.evaluate("document.activeElement.id") == "layers-threshold"
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    waiting_for_tiles(page, "t=0.57")
    with Segmentation.load(library / "results" / "slide") as result:
        mm2, covered = result.lesion_mm2(0.57), result.covered.area_mm2
    told = f"{mm2:.4f} mm²"
    page.wait_for_function("told => document.getElementById('layers-areas').innerText.includes(told)", arg=told)
    assert f"{mm2 / covered:.1%}" in page.locator("#layers-areas").inner_text()
    assert page.locator("#layers-value").inner_text() == "0.57"
    page.click("#layers-own")
    waiting_for_tiles(page, "t=0.5")
    assert all("t=0.5" in one for one in layer_tiles(page, "mask-1"))


def test_the_table_flies_to_a_region_which_then_tells_its_measurements_under_the_pointer(shown, library):
    page, _ = shown
    page.locator("#lesions-table th button.sort", has_text="Mean p").click()
    page.wait_for_selector("#lesions-table th[aria-sort=descending] button:has-text('Mean p')")
    means = [float(one) for one in page.locator("#lesions-table tbody td:nth-child(4)").all_inner_texts()]
    assert means == sorted(means, reverse=True) and len(means) == 5
    before = page.locator("#inset-view, .inset-view").first.get_attribute("d")
    button = page.get_by_role("button", name="Fly to region 5", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("old => document.querySelector('.inset-view').getAttribute('d') !== old", arg=before)
    page.wait_for_selector("#lesions-table button[aria-current=true]")
    page.wait_for_timeout(600)
    chosen = page.locator("#map path[stroke-width='4']")
    box = chosen.bounding_box()
    assert box["width"] > 100 and 0 < box["x"] < 900  # it is large, and on the map
    _hover(page, "#map path[stroke-width='4']")
    text = page.locator(".leaflet-tooltip").inner_text()
    polygons = read_geojson(library / "results" / "slide" / "annotations.geojson")
    [found] = [one.measurements for one in polygons if one.name == "lesion" and one.measurements["number"] == 5]
    told = dict(re.findall(r"([a-z ]+): ([\d.,]+) µm", text))
    numbers = {name: float(value.replace(",", "")) for name, value in told.items()}
    assert text.startswith("Region 5: lesion")
    assert numbers["major axis"] == pytest.approx(found["major axis um"], rel=1e-3)
    assert numbers["area"] == pytest.approx(found["area mm2"] * 1e6, rel=1e-3)
    assert page.locator("#map path.leaflet-interactive:not([tabindex='-1'])").count() == 0  # no stops of the Tab key


def _hover(page, selector: str) -> None:
    """Point at somewhere inside of an outline; its box may have none of it in the middle."""
    x, y = page.evaluate(
        """selector => {
            const path = document.querySelector(selector), box = path.getBoundingClientRect();
            for (let n = 1; n < 400; n += 1) {
                const x = box.x + box.width * ((n * 0.618) % 1), y = box.y + (box.height * n) / 400;
                if (document.elementFromPoint(x, y) === path) return [x, y];
            }
            return [0, 0];
        }""",
        selector,
    )
    page.mouse.move(x, y)
    page.wait_for_selector(".leaflet-tooltip", timeout=SOON)


def test_uncertain_regions_are_walked_through_and_ticked_and_stay_ticked(shown):
    page, _ = shown
    page.keyboard.press("n")
    page.wait_for_selector("#doubts-list li:nth-child(1) button[aria-current=true]")
    page.locator("#doubts-list li:nth-child(2) button.check").click()
    page.wait_for_selector("#doubts-list li:nth-child(2) button[aria-checked=true]")
    page.keyboard.press("n")
    page.wait_for_selector("#doubts-list li:nth-child(3) button[aria-current=true]")  # the second was looked at
    page.keyboard.press("p")
    page.wait_for_selector("#doubts-list li:nth-child(1) button[aria-current=true]")
    page.reload()
    page.wait_for_selector("#doubts-list li:nth-child(2) button[aria-checked=true]", timeout=SOON)
    assert "1 of 20" in page.locator("#doubts-count").inner_text()


def test_a_click_on_the_small_picture_goes_there(shown):
    page, _ = shown
    page.keyboard.press("+")
    page.wait_for_timeout(500)
    before = page.locator(".inset-view").get_attribute("d")
    page.locator("#inset").click(position={"x": 20, "y": 20})
    page.wait_for_function("old => document.querySelector('.inset-view').getAttribute('d') !== old", arg=before)


def test_dark_is_chosen_and_kept_and_the_keys_are_told(shown):
    page, _ = shown
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    dark = page.evaluate(ground)
    page.reload()
    page.wait_for_selector("#theme", timeout=SOON)
    assert dark != light and page.evaluate(ground) == dark
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible() and "uncertain region" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_a_result_that_is_under_way_grows_and_becomes_a_finished_one_where_one_looks(
    page, start_server, library, tmp_path
):
    shutil.copy(library / "slide.tif", tmp_path / "slide.tif")
    _segment(tmp_path, batches=5)
    page.goto(url_of(start_server(tmp_path), tmp_path, "result"))
    waiting_for_tiles(page, "/probability-1/")
    page.wait_for_selector("#layers-areas > div", timeout=SOON)
    first = page.locator("#layers-areas").inner_text()
    _segment(tmp_path, batches=8)
    page.wait_for_function("old => document.getElementById('layers-areas').innerText !== old", arg=first, timeout=SOON)
    _segment(tmp_path, batches=1000)
    page.wait_for_selector(".badge:has-text('Segmented')", timeout=SOON)
    page.wait_for_selector("#lesions-table", timeout=SOON)


def _segment(folder, *, batches: int) -> None:
    """Go on with a result, and be stopped after so many batches."""
    from digipath.inference.predictor import FunctionPredictor
    from digipath.inference.settings import InferenceSettings
    from digipath.models.spec import ModelSpec
    from digipath.segmenter import Segmenter

    seen = []

    def predictor(patches):
        seen.append(1)
        if len(seen) > batches:
            raise KeyboardInterrupt
        shade = 1 - patches.astype(np.float32).mean(-1) / 255
        return np.stack([1 - shade, shade], -1)

    spec = ModelSpec(architecture="shade", classes=("other", "lesion"), mpp=1.0, patch=64)
    segmenter = Segmenter(FunctionPredictor(predictor, spec), settings=InferenceSettings(batch=8))
    with contextlib.suppress(KeyboardInterrupt), warnings.catch_warnings(action="ignore"):  # it begins anew
        segmenter.predict(folder / "slide.tif", out=folder / "result", progress=False).close()


def test_what_vanishes_while_it_is_looked_at_is_told_in_words(page, start_server, library, tmp_path):
    shutil.copytree(library / "results" / "second", tmp_path / "second")
    page.goto(url_of(start_server(tmp_path), tmp_path, "second"))
    page.wait_for_selector("#layers-areas > div", timeout=SOON)
    assert "is not among what was given" in page.locator(".title").inner_text()  # its slide
    shutil.rmtree(tmp_path / "second")
    page.get_by_role("button", name="Fly to region 1", exact=True).click()
    page.wait_for_selector("#said:not(:empty)", timeout=SOON)
    assert "there is nothing to be seen" in page.locator("#said").inner_text()


@pytest.mark.parametrize("name", ["broken.svs", "slide.tif"])
def test_what_is_broken_says_so_and_a_segmented_slide_leads_to_its_result(page, start_server, library, name):
    complaints = []
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.goto(url_of(start_server(library), library, name))
    page.wait_for_selector("h1", timeout=SOON)
    if name == "broken.svs":
        assert "cannot be opened" in page.get_by_role("alert").inner_text()
    else:
        waiting_for_tiles(page, "/slide/")
        assert page.locator(".badge").inner_text() == "Segmented" and not page.locator("#layers").count()
        page.get_by_role("link", name="See slide").click()  # its result
        page.wait_for_selector("#layers", timeout=SOON)
    assert not complaints


def test_on_a_tablet_the_panels_are_below_and_everything_is_large_enough_to_touch(browser, start_server, library):
    context = browser.new_context(viewport={"width": 768, "height": 1024}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(url_of(start_server(library), library, "slide"))
    page.wait_for_selector("#layers-areas > div", timeout=SOON)
    stage, panels = page.locator(".stage").bounding_box(), page.locator(".panels").bounding_box()
    assert panels["y"] >= stage["y"] + stage["height"] - 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 768
    controls = "#layers button, .panels summary, header button, .leaflet-control-zoom a, .fit"
    heights = "all => all.map(one => [one.textContent, one.getBoundingClientRect().height])"
    small = [name for name, height in page.eval_on_selector_all(controls, heights) if 0 < height < 43.5]
    assert small == []
    context.close()
