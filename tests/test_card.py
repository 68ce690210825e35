"""The card that notebooks show of a result."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.segmentation import Segmentation

TAGS = {"div", "img", "table", "caption", "tbody", "tr", "th", "td", "p", "ul", "li", "strong"}
NASTY = "<script>alert('1')</script> \"&amp;\x00"


class Parts(HTMLParser):
    """Tags with their attributes, and all text; that tags nest is checked on the way."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    @property
    def image(self):
        (attributes,) = (attributes for tag, attributes in self.tags if tag == "img")
        return attributes


def result_of(*, name="slide", shape=(200, 300), classes=("other", "lesion"), pixels=None, lost=0.0, **info):
    frame = Frame.level0(*shape[::-1], 8.0)
    tissue = np.zeros(frame.shape, bool)
    tissue[10:-10, 10:-10] = info.get("status") != "empty"
    values = np.zeros((*frame.shape, len(classes)), np.float16)
    values[..., 0] = tissue
    values[40:80, 40:100] = np.eye(len(classes))[-1] * tissue[40:80, 40:100, None]
    pixels = np.full((*frame.shape, 3), 220, np.uint8) if pixels is None else pixels
    record = {
        "slide": {"name": name, "width": shape[1], "height": shape[0], "mpp": 8.0, "mpp_source": "user"},
        "bundle": {"members": [{"name": "a-net", "hash": "0123456789ab"}]},
        "areas": {
            "covered_mm2": tissue.sum() * 64e-6,
            "uncovered_mm2": lost,
            "classes_mm2": {
                name: (values[..., 1 + index] > 0.5).sum() * 64e-6 for index, name in enumerate(classes[1:])
            },
        },
        **{"status": "ok", "threshold": 0.5, "region": None, "unread": [], "notes": []},
    }
    masks = Raster(tissue, frame), Raster(tissue, frame), Raster(pixels, frame, ("red", "green", "blue"))
    return Segmentation(Raster(values, frame, classes), *masks, info=record | info)


def test_it_says_slide_status_areas_threshold_scale_network_and_that_nothing_is_missing():
    words = Parts(result_of()._repr_html_()).words
    for told in (
        *("slide", "ok: all tissue", "0.15 mm² lesion in 3.23 mm² tissue (5%) at p > 0.5", "Threshold 0.5"),
        *("300 x 200 pixels; 8 µm per pixel, from: user", "a-net (0123456789ab)"),
        "Not covered nothing of the tissue found",
    ):
        assert told in words


def test_each_class_has_its_area_where_there_are_several():
    words = Parts(result_of(classes=("other", "stroma", "tumour"))._repr_html_()).words
    assert "Area of stroma 0.00 mm²" in words and "Area of tumour 0.15 mm²" in words


def test_what_is_not_covered_and_what_to_know_is_told():
    notes = [f"note {number}" for number in range(20)]
    partial = result_of(
        lost=1.25, status="incomplete", unread=[[0, 0, 5, 5]] * 3, region=[10, 20, 1000, 500], notes=notes
    )
    words = Parts(partial._repr_html_()).words
    assert "incomplete: some tissue is not covered" in words
    assert "1.25 mm² of tissue; 3 regions that could not be read; everything outside of the region 1,000 x 500" in words
    assert "Before believing it note 0" in words and "note 7" in words and "note 8" not in words and "12 more" in words


def test_the_picture_is_a_small_jpeg_with_words_for_who_cannot_see_it():
    image = Parts(result_of(name="a slide")._repr_html_()).image
    kind, data = image["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.width == 600 == int(image["width"])
    assert image["alt"].startswith("The slide a slide with probability of lesion") and "0.15 mm²" in image["alt"]


@pytest.mark.parametrize("shape", [(200, 300), (900, 600), (90, 4000), (4000, 90)])
def test_it_is_small_whatever_the_slide_shows(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert len(result_of(shape=shape, pixels=noise, notes=["long " * 1000] * 50)._repr_html_()) < 400_000


def test_every_text_is_escaped():
    html = result_of(
        name=NASTY,
        classes=("other", NASTY, f"{NASTY}2"),
        bundle={"members": [{"name": NASTY, "hash": NASTY}]},
        status=NASTY,
        notes=[NASTY],
    )._repr_html_()
    parts = Parts(html)
    assert {tag for tag, _ in parts.tags} <= TAGS
    assert "<script" not in re.sub(r'"[^"]*"', "", html) and "\0" not in html  # a "<" in an attribute is but a sign
    assert parts.words.count("<script>alert('1')</script>") >= 5
    assert not any(name.startswith("on") for _, attributes in parts.tags for name in attributes)


def test_nothing_is_loaded_and_rows_have_headers():
    html = result_of()._repr_html_()
    assert not re.search(r"https?:|<script|<style|<link|url\(", html)
    headers = [attributes for tag, attributes in Parts(html).tags if tag == "th"]
    assert headers and all(one["scope"] == "row" for one in headers)


def test_an_empty_result_and_an_old_record_have_a_card():
    empty = result_of(status="empty")
    assert "empty: no tissue was found" in Parts(empty._repr_html_()).words
    old = result_of()
    for key in ("bundle", "unread", "notes"):
        del old.info[key]
    for key in ("width", "height", "mpp"):
        del old.info["slide"][key]
    assert "Networks not recorded" in Parts(old._repr_html_()).words
