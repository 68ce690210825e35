import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from digipath.errors import ResultError
from digipath.evidence import AnalysisSettings
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.report import write_report
from digipath.segmentation import Segmentation

VOID = {"meta", "img", "link", "br"}
NASTY = "<script>alert('1')</script> \"&amp;\x00"


class Page(HTMLParser):
    """Tags with their attributes and all text; that tags nest is checked on the way."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def result_of(*, name="slide", uncertain=False, path="/home/some one/secret/slide.svs", lesions=True, **info):
    frame = Frame.level0(300, 200, 8.0)
    viable, tissue = np.zeros(frame.shape, bool), np.zeros(frame.shape, bool)
    tissue[10:190, 10:140] = tissue[10:190, 180:290] = True
    if lesions:
        viable[30:60, 30:90] = viable[100:104, 100:103] = viable[150:170, 30:60] = True
    values = np.stack([~viable, viable], -1).astype(np.float16) * tissue[..., None].astype(np.float16)
    covered = tissue.copy()
    covered[10:20, 10:140] = False
    record = {
        "format_version": 1,
        "slide": {"name": name, "path": path, "origin": [0, 0], "mpp": 8.0, "mpp_source": "user"},
        "bundle": {
            "members": [{"name": "/models/of others here/colon-lesion", "hash": "3ad074cfeeaa"}],
            "spec": {"mpp": 8.0},
        },
        "versions": {"digipath": "0.1.0"},
        "settings": {"overlap": 0.5, "runtime": "auto"},
        "tissue": "given as the file mask.png",
        "threshold": 0.5,
        "status": "incomplete",
        "region": None,
        "unread": [[0, 0, 5, 5]],
        "areas": {"tissue_mm2": 2.7, "covered_mm2": 2.6, "uncovered_mm2": 0.08, "lesion_mm2": 0.1},
        "notes": [f"{path} was read from C:\\Users\\me\\slides\\slide.svs twice."],
    } | info
    uncertainty = None
    if uncertain:
        variances = (0.04 * viable[..., None]).astype(np.float32)
        uncertainty = Raster(variances, frame, ("aleatoric",))
    picture = np.full((*frame.shape, 3), 240, np.uint8)
    picture[tissue] = (200, 120, 170)
    rasters = (
        Raster(values, frame, ("other", "lesion")),
        Raster(covered, frame),
        Raster(tissue, frame),
        Raster(picture, frame, ("red", "green", "blue")),
    )
    return Segmentation(*rasters, info=record, uncertainty=uncertainty)


def page_of(result, path, *, analysed=True):
    found = result.analyse(AnalysisSettings(join_um=100.0)) if analysed else None
    return write_report(result, path / "report.html", findings=found).read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Pictures small enough to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("digipath.report_pictures._WIDE", 300)
        patch.setattr("digipath.segmentation.draw", lambda picture, width: np.zeros((1, 1, 3), np.uint8))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return page_of(result_of(uncertain=True), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_stands_by_itself_and_runs_nothing(text, page):
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    sources = [one[name] for _, one in page.tags for name in ("src", "href", "xlink:href") if name in one]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style and "url(" not in style and "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert not [name for _, one in page.tags for name in one if name.startswith("on")]
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    without_xmlns = text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in without_xmlns and "https://" not in without_xmlns


def test_a_screen_reader_can_tell_pictures_tables_and_headings(page):
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1 and len(page.all("main")) == 1
    pictures = [one for one in page.all("svg") if one.get("role") == "img"]
    assert len(pictures) == len(page.all("figure")) == 4 and all(len(one["aria-label"]) > 8 for one in pictures)
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["scope"] in ("col", "row") for one in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption")) == len(page.all("thead"))


def test_everything_that_was_concluded_is_there_with_units_and_definitions(page):
    for said in (
        *("For research use only", "Slide class", "micro", "Tumour burden", "Sections with tumour", "1 of 2"),
        *("3 lesions", "Longest axis, µm", "Solidity:", "Whole tumour:", "tumour section", "normal section"),
        *("largest_region_major_axis_um", "0.0800 mm²", "Regions that could not be read", "colon-lesion"),
        *("3ad074cfeeaa", "versions".title(), "8 µm per pixel (user)", "not covered", "Standard deviation"),
        *("Khened et al. 2021", "Le'Clerc Arrastia et al. 2021", "Bandi et al. 2019", "mask.png", "not fitted"),
    ):
        assert said in page.words, said


def test_the_longest_axes_are_drawn_and_numbered(page):
    lines = [one for one in page.all("line") if one["stroke"] == "#14141c"]
    assert len(lines) == 3
    x1, y1, x2, y2 = (float(lines[-1][name]) for name in ("x1", "y1", "x2", "y2"))  # the largest, on top
    assert (x1 + x2) / 2 == pytest.approx(60, abs=0.2) and (y1 + y2) / 2 == pytest.approx(45, abs=0.2)
    assert x2 - x1 == pytest.approx(4 * 60 / 12**0.5, rel=0.01)  # of the ellipse of a bar
    assert len(page.all("polygon")) == 2 and len(page.all("rect")) == 4 + 4


def test_no_folder_is_named(text):
    for hidden in ("/home", "some one", "secret", "Users", "/models", "others", "\\"):
        assert hidden not in re.sub(r"base64,[^\"]*", "", text)
    assert "slide.svs was read from slide.svs twice" in text


def test_texts_of_others_are_shown_and_never_run(tmp_path):
    result = result_of(name=NASTY, notes=["</style><img src=x onerror=alert(1)>"], status=NASTY)
    text = page_of(result, tmp_path)
    page = Page(text)
    assert not page.all("script") and not [one for one in page.all("img") if one["src"] == "x"]
    assert "<script>alert('1')</script>" in page.words and "onerror=alert(1)" in page.words
    assert "\x00" not in text and "\ufffd" in text


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (r"C:\Users\Jane Doe\my old slides\a.svs twice", "a.svs twice"),
        ("/home/jane doe/slides/c.svs, and /b/d.svs too", "c.svs, and d.svs too"),
        (r"\\server\share one\x\b.tif", "b.tif"),
        ("file:///home/jane/x.svs", "x.svs"),
        ("https://example.org/a/b, 1/2 and/or 3 mm / 4 mm", "https://example.org/a/b, 1/2 and/or 3 mm / 4 mm"),
        ("read 50/50; see /proc", "read 50/50; see /proc"),
    ],
)
def test_of_paths_in_texts_the_last_part_is_left(tmp_path, told, shown):
    page = Page(page_of(result_of(notes=[f"It said: {told}."]), tmp_path, analysed=False))
    assert f"It said: {shown}." in page.words


def test_a_report_of_a_folder_takes_what_its_record_holds(tmp_path):
    result = result_of()
    folder = result.save(tmp_path / "a result")
    write_report(folder, tmp_path / "before.html")
    assert "was not analysed" in (tmp_path / "before.html").read_text()
    result.analyse(folder=folder)
    assert write_report(folder, tmp_path / "after.html").read_text().count("<figure") == 3
    assert str(tmp_path) not in (tmp_path / "after.html").read_text()


@pytest.mark.parametrize("gone", ["notes", "unread", "settings", "versions", "bundle", "tissue"])
def test_records_of_older_results_lack_things_and_are_reported_all_the_same(gone, tmp_path):
    result = result_of(lesions=False)
    del result.info[gone]
    assert "research use" in page_of(result, tmp_path, analysed=False)


def test_without_tissue_there_is_a_page_that_says_so(tmp_path):
    result = result_of(lesions=False, status="empty")
    nothing = Raster(np.zeros(result.covered.frame.shape, bool), result.covered.frame)
    areas = dict.fromkeys(("tissue_mm2", "covered_mm2", "uncovered_mm2", "lesion_mm2"), 0.0)
    empty = Segmentation(result.heatmap, nothing, nothing, result.thumbnail, info=result.info | {"areas": areas})
    words = Page(page_of(empty, tmp_path)).words
    assert "undefined" in words and "it has no class" in words and "No section was found" in words


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ({"format_version": 99, "class": "lesion"}, "newer digipath"),
        ({"class": "lesion"}, "damaged"),
        ([], "damaged"),
        ({"format_version": 1, "class": "lesion", "burden": {"percent": 3}}, "damaged"),
    ],
    ids=["newer", "no version", "no object", "half of it"],
)
def test_an_analysis_of_a_newer_digipath_or_a_damaged_one_is_refused(analysis, said, tmp_path):
    result = result_of(analysis=analysis)
    with pytest.raises(ResultError, match=said):
        write_report(result, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be"):
        write_report(result_of(), tmp_path / "file" / "report.html")


def test_numbers_come_from_the_record_as_they_are(tmp_path):
    result = result_of()
    found = result.analyse(AnalysisSettings(sections=False))
    words = Page(write_report(result, tmp_path / "page.html", findings=found).read_text()).words
    assert f"{found.burden.percent:.1f} %" in words and f"{found.largest_axis_um:,.0f}" in words
    assert json.loads(json.dumps(found.to_json()))["lesions"]["count"] == 3
