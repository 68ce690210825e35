import json
import threading

import numpy as np
import pytest

pytest.importorskip("dash")

from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec
from digipath.segmenter import Segmenter
from digipath.viewer import jobs

SPEC = ModelSpec(architecture="dark", classes=("other", "lesion"), mpp=2.0, patch=64)


class Gate:
    """A stand-in for a network that sees as many batches as it is let."""

    def __init__(self):
        self.free = threading.Semaphore(0)
        self.predictor = FunctionPredictor(self._seen, SPEC)

    def _seen(self, patches: np.ndarray) -> np.ndarray:
        assert self.free.acquire(timeout=60), "nobody opened the gate"
        lesion = 1 - patches.astype(np.float32).mean(-1) / 255
        return np.stack([1 - lesion, lesion], -1)

    def make(self, order: jobs.Order) -> Segmenter:
        return Segmenter(self.predictor, settings=InferenceSettings(batch=4), effort=order.effort)


@pytest.fixture
def gate(monkeypatch):
    """Stands in for every network that the page offers; what waits at its end is let go."""
    made = Gate()
    monkeypatch.setattr(jobs, "_from_bundle", made.make)
    yield made
    made.free.release(10**6)


def open_slide(page, url: str, name: str = "slide.tif") -> None:
    page.goto(url)
    page.wait_for_selector("#list-table tbody tr")
    page.locator("#list-table tbody th a", has_text=name).click()
    page.wait_for_selector("#segment-start")


def told(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#segment-told')?.textContent.includes(text)", arg=text)


def test_the_heatmap_grows_under_the_eyes_is_cancelled_and_goes_on(page, start_server, library, tmp_path, gate):
    out = tmp_path / "out"
    tiles = []
    page.on(
        "response", lambda answer: tiles.append(answer.url) if "/probability-1/" in answer.url and answer.ok else None
    )
    open_slide(page, start_server(library / "slide.tif", out=out))
    gate.free.release(4)
    page.click("#segment-start")
    page.wait_for_function("() => location.pathname.startsWith('/view/') && document.querySelector('.badge.running')")
    told(page, "16 of")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#map img')].some(i => i.src.includes('probability-1') && i.naturalWidth)"
    )
    assert tiles and not (out / "slide" / "result.json").exists()
    assert float(page.locator("#segment-bar").get_attribute("value")) > 0

    page.click("#segment-cancel")
    told(page, "Stopping")
    gate.free.release()
    told(page, "rows of the heatmap are kept")
    assert "Begun with" in page.locator("#segment-form").inner_text() and page.locator("#segment-start").is_visible()
    gate.free.release(10**6)
    page.click("text=Go on")
    page.wait_for_selector(".badge.ok", timeout=60000)
    told(page, "Finished")
    info = json.loads((out / "slide" / "result.json").read_text())
    assert info["resumed"] == 1 and page.locator("#layers-threshold").count() == 1


def test_the_form_says_what_each_network_is_for_and_warns(page, start_server, library, tmp_path):
    open_slide(page, start_server(library / "slide.tif", out=tmp_path / "out"))
    text = page.locator("#segment").inner_text()
    assert "Marks lesions of the colon" in text and "not a medical device" in text and "thorough" in text
    assert not page.locator("#segment-mpp").is_visible() and not page.locator("#segment-progress").is_visible()
    labels = page.locator("#segment-form label").count()
    assert labels >= page.locator("#segment-form input").count()


@pytest.mark.slow
def test_a_slide_that_fails_is_told_where_it_was_started(page, start_server, shelf_copy, tmp_path):
    open_slide(page, start_server(shelf_copy / "slide.tif", out=tmp_path / "out"))
    (shelf_copy / "slide.tif").write_bytes((shelf_copy / "slide.tif").read_bytes()[:5000])
    page.click("#segment-start")
    page.wait_for_function(
        "() => /fail|cannot|moved/.test(document.querySelector('#segment-told')?.textContent + "
        "document.querySelector('#segment-problem')?.textContent)"
    )


@pytest.mark.slow
def test_where_nothing_may_be_segmented_there_is_no_form(page, start_server, library):
    page.goto(start_server(library / "slide.tif"))
    page.wait_for_selector("#list-table tbody tr")
    page.click("text=slide.tif")
    page.wait_for_selector("#map")
    assert page.locator("#segment-start").count() == 0


@pytest.mark.slow
def test_the_list_follows_what_runs(page, start_server, library, tmp_path, gate):
    url = start_server(library / "slide.tif", out=tmp_path / "out")
    open_slide(page, url)
    gate.free.release(2)
    page.click("#segment-start")
    page.wait_for_selector("#segment-progress:not([hidden])")
    page.goto(url)
    page.wait_for_function("() => /running/.test(document.querySelector('#list-table')?.textContent)")
    gate.free.release(10**6)
    page.wait_for_function("() => /done/.test(document.querySelector('#list-table')?.textContent)")


def test_a_slide_without_mpp_asks_for_it_and_is_segmented_with_it(page, start_server, library, tmp_path, gate):
    from PIL import Image

    from digipath.slides.slide import open_slide as opened

    with opened(library / "slide.tif") as slide:
        Image.fromarray(slide.read(slide.frame.box, slide.frame)).save(tmp_path / "plain.tif")
    gate.free.release(10**6)
    open_slide(page, start_server(tmp_path / "plain.tif", out=tmp_path / "out"), "plain.tif")
    assert page.locator("#segment-mpp").is_visible()
    page.click("#segment-start")
    told(page, "no usable resolution")
    page.fill("#segment-mpp", "0.5")
    page.keyboard.press("Tab")
    page.click("#segment-start")
    page.wait_for_selector(".badge.ok", timeout=60000)
    assert json.loads((tmp_path / "out" / "plain" / "result.json").read_text())["slide"]["mpp"] == 0.5
