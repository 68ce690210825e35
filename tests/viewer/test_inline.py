"""A result inside of a notebook: who can see it, from where, and until when."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("dash")

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.segmentation import Segmentation
from digipath.slides._fingerprint import fingerprint_file
from digipath.slides.array import ArraySlide
from digipath.viewer import inline


@pytest.fixture(autouse=True)
def ended():
    """No server outlives its test."""
    yield
    for key in list(inline._served):
        inline.InlineView("", 600, "", key).close()


@pytest.fixture
def stored(library):
    with Segmentation.load(library / "results" / "slide") as result:
        yield result


def in_memory(*, name="array", path=None, fingerprint=None, size=(300, 200), mpp=1.0):
    frame = Frame.level0(*size, mpp)
    tissue = Raster(np.ones(frame.shape, bool), frame)
    pixels = Raster(np.full((*frame.shape, 3), 200, np.uint8), frame, ("red", "green", "blue"))
    heatmap = Raster(np.full((*frame.shape, 2), 0.5, np.float16), frame, ("other", "lesion"))
    info = {
        "slide": {"name": name, "path": path, "fingerprint": fingerprint, "mpp": mpp, "origin": [0, 0]},
        "areas": {"tissue_mm2": 0.06, "covered_mm2": 0.06, "uncovered_mm2": 0.0, "lesion_mm2": 0.0},
        **{"status": "ok", "threshold": 0.5, "region": None},
    }
    return Segmentation(heatmap, tissue, tissue, pixels, info=info)


def answer(url):
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def tile(view, layer):
    """The tile that holds the whole slide in one pixel, or some."""
    prefix, _, item = view.url.partition("view/")
    return answer(f"{prefix}tiles/{item}/{layer}/0/0/0")


def test_it_is_served_to_this_machine_alone_under_a_path_that_nobody_guesses(stored):
    first = urlsplit(stored.view().url)
    assert first.hostname == "127.0.0.1"
    prefix = first.path.split("/")[1]
    assert len(prefix) >= 32
    assert answer(f"http://127.0.0.1:{first.port}/")[0] == 404
    assert answer(f"http://127.0.0.1:{first.port}/view/{first.path.rsplit('/')[-1]}")[0] == 404
    assert answer(f"http://127.0.0.1:{first.port}/{prefix}/")[0] == 200


def test_slide_and_heatmap_of_a_folder_can_be_seen_and_each_run_has_another_path(stored):
    view = stored.view()
    assert tile(view, "slide")[0] == tile(view, "probability-1")[0] == 200
    before = view.url
    view.close()
    assert urlsplit(stored.view().url).path.split("/")[1] != urlsplit(before).path.split("/")[1]


def test_one_result_is_served_once_until_it_is_closed(stored):
    first, second = stored.view(), stored.view(height=300)
    assert first.url == second.url and (first.height, second.height) == (600, 300)
    second.close()
    second.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(first.url, timeout=5)


def test_a_result_whose_folder_is_gone_is_shown_from_what_is_open(library, tmp_path):
    folder = Path(shutil.copytree(library / "results" / "second", tmp_path / "result"))
    with Segmentation.load(folder) as result:
        folder.rename(tmp_path / "elsewhere")
        assert tile(result.view(), "probability-1")[0] == 200


def test_a_result_in_memory_is_shown_over_its_small_picture_or_over_the_slide_that_is_given():
    result = in_memory()
    assert tile(result.view(), "probability-1")[0] == 200
    slide = ArraySlide(np.full((200, 300, 3), 90, np.uint8), mpp=1.0)
    assert tile(result.view(slide=slide), "slide")[0] == 200
    with pytest.raises(SpecError, match=r"\(300, 200\) pixels, got one of \(50, 40\)"):
        result.view(slide=ArraySlide(np.zeros((40, 50, 3), np.uint8), mpp=1.0))


def test_the_slide_of_a_result_in_memory_is_found_if_it_is_still_the_same(library):
    path = library / "slide.tif"
    fingerprint = fingerprint_file(path)
    known = {"path": str(path), "size": (1400, 1000), "mpp": 0.5}
    assert tile(in_memory(**known, fingerprint=fingerprint).view(), "slide")[0] == 200
    changed = in_memory(**known, fingerprint=fingerprint | {"sha256_ends": "0" * 64})
    assert tile(changed.view(), "slide")[0] != 200


def test_a_notebook_shows_a_frame_with_a_title_and_a_link(stored):
    view = stored.view(height=444)
    html = view._repr_html_()
    assert f'src="{view.url}"' in html and 'height="444"' in html
    assert 'title="digipath: the slide slide with what was found"' in html and f'<a href="{view.url}"' in html


def test_names_are_escaped():
    html = in_memory(name='"><script>alert(1)</script>').view()._repr_html_()
    assert 'title="digipath: the slide &quot;&gt;' in html


def test_without_the_extra_the_error_says_what_to_install(stored, monkeypatch):
    monkeypatch.setattr(inline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r'pip install "digipath\[viewer\]"'):
        stored.view()


@pytest.mark.parametrize("height", [0, 10**6])
def test_a_height_that_no_page_has_is_refused(stored, height):
    with pytest.raises(SpecError, match="height is 200 to 4,000"):
        stored.view(height=height)
