import json
import os
import shutil

import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.frame import Frame
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.slides._fingerprint import fingerprint_file
from digipath.viewer.shelf import Shelf


def write_slide(path, shade=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((64, 64, 3), shade, np.uint8)
    write_pyramid(path, Frame.level0(64, 64, 0.5), [(0, pixels)], channels=RGB, settings=PyramidSettings())
    return path


def write_result(folder, of, **changes):
    """A result's record, beside values that nobody reads here."""
    folder.mkdir(parents=True)
    told = {"name": of.stem, "path": str(of), "fingerprint": fingerprint_file(of), "mpp": 0.5}
    info = {"format_version": 1, "slide": told, "status": "ok", "areas": {"lesion_mm2": 1.5}} | changes
    (folder / "result.json").write_text(json.dumps(info))
    (folder / "result.h5").write_bytes(b"")
    return folder


def one(shelf, name):
    [item] = [item for item in shelf.items() if item.name == name]
    return item


@pytest.fixture
def place(tmp_path):
    """A folder with a slide, and a result of it in another folder."""
    slide = write_slide(tmp_path / "in" / "slides" / "a.tif")
    write_result(tmp_path / "in" / "results" / "a", slide)
    return tmp_path / "in"


def test_slides_and_results_are_found_in_folders(place):
    found = {(item.kind, item.name, item.status) for item in Shelf([place]).items()}
    assert found == {("slide", "a.tif", "slide"), ("result", "a", "ok")}
    item = one(Shelf([place]), "a")
    assert item.slide_path == place / "slides" / "a.tif" and not item.problem
    assert item.areas == {"lesion_mm2": 1.5} and item.mpp == 0.5 and item.info["status"] == "ok"


def test_an_item_keeps_its_id_and_is_found_by_it(place):
    shelf = Shelf([place])
    for item in shelf.items():
        assert Shelf([place]).get(item.id) == item == shelf.get(item.id)
        assert len(item.id) == 12 and set(item.id) <= set("0123456789abcdef")


def test_a_slide_and_a_result_may_be_given_by_themselves(place):
    shelf = Shelf([place / "slides" / "a.tif", place / "results" / "a"])
    assert [item.kind for item in shelf.items()] == ["result", "slide"]
    assert not shelf.allows(place / "results") and not shelf.allows(place / "slides")


def test_what_comes_and_goes_is_seen(place):
    shelf = Shelf([place])
    before = one(shelf, "a")
    write_slide(place / "b.tif", 50)
    assert one(shelf, "b.tif").status == "slide"
    (place / "results" / "a" / "result.json").write_text((place / "results" / "a" / "result.json").read_text() + " ")
    assert shelf.get(before.id).version != before.version
    gone = one(shelf, "b.tif")
    (place / "b.tif").unlink()
    with pytest.raises(SpecError, match="Go back to the list"):
        shelf.get(gone.id)


def test_folders_are_searched_four_deep(tmp_path):
    write_slide(tmp_path / "1" / "2" / "3" / "4" / "near.tif")
    write_slide(tmp_path / "1" / "2" / "3" / "4" / "5" / "far.tif")
    assert [item.name for item in Shelf([tmp_path]).items()] == ["near.tif"]


def test_hidden_files_and_pictures_are_no_slides_unless_they_are_given(place):
    write_slide(place / "._a.tif")
    write_slide(place / ".cache" / "c.tif")
    (place / "picture.png").write_bytes(b"")
    assert {item.name for item in Shelf([place]).items()} == {"a.tif", "a"}
    assert one(Shelf([place / "picture.png"]), "picture.png").status == "broken"


def test_files_in_a_result_are_not_slides(place):
    shutil.copy(place / "slides" / "a.tif", place / "results" / "a" / "heatmap.tif")
    assert {item.name for item in Shelf([place]).items()} == {"a.tif", "a"}


def test_nothing_that_is_not_there_may_be_given(tmp_path):
    with pytest.raises(SpecError, match="there is no"):
        Shelf([tmp_path / "absent"])
    assert Shelf([], out=tmp_path / "later").items() == []


def test_results_that_come_into_the_folder_for_new_ones_are_seen(place, tmp_path):
    shelf = Shelf([place / "slides"], out=tmp_path / "out")
    write_result(tmp_path / "out" / "new", place / "slides" / "a.tif")
    item = one(shelf, "new")
    assert shelf.out == tmp_path / "out" and item.slide_path == place / "slides" / "a.tif"


class TestWhatMayBeOpened:
    def test_a_path_is_allowed_under_what_was_given_only(self, place):
        shelf = Shelf([place / "slides", place / "results" / "a"])
        assert shelf.allows(place / "slides" / "a.tif") and shelf.allows(place / "slides" / "x" / "y")
        for path in ("slides/../secret", "slides/..", "results", "results/b", "slides2/a.tif", "results/a/../b"):
            assert not shelf.allows(place / path)
        assert not shelf.allows("/etc/passwd") and not shelf.allows("relative")

    def test_links_out_of_what_was_given_are_not_followed_and_counted(self, place, tmp_path):
        outside = write_slide(tmp_path / "out" / "secret.tif")
        (place / "link.tif").symlink_to(outside)
        (place / "folder").symlink_to(outside.parent)
        shelf = Shelf([place])
        assert {item.name for item in shelf.items()} == {"a.tif", "a"}
        assert {path.name for path in shelf.left_out} == {"link.tif", "folder"}
        assert not shelf.allows(place / "link.tif")
        assert one(Shelf([place, outside.parent]), "link.tif").status == "slide"

    def test_a_file_that_becomes_a_link_outwards_is_gone(self, place, tmp_path):
        shelf = Shelf([place])
        item = one(shelf, "a.tif")
        outside = write_slide(tmp_path / "secret.tif")
        item.path.unlink()
        item.path.symlink_to(outside)
        with pytest.raises(SpecError):
            shelf.get(item.id)

    @pytest.mark.parametrize("name", ["result.json", "result.h5"])
    def test_a_result_whose_files_are_links_outwards_is_broken(self, place, tmp_path, name):
        (tmp_path / name).write_bytes((place / "results" / "a" / name).read_bytes())
        (place / "results" / "a" / name).unlink()
        (place / "results" / "a" / name).symlink_to(tmp_path / name)
        item = one(Shelf([place]), "a")
        assert item.status == "broken" and "leads out" in item.problem and item.info == {}

    def test_a_link_in_a_circle_ends(self, place):
        (place / "again").symlink_to(place)
        assert {item.name for item in Shelf([place]).items()} == {"a.tif", "a"}

    def test_a_record_that_names_a_slide_outside_does_not_open_it(self, place, tmp_path):
        outside = write_slide(tmp_path / "secret.tif", 77)
        write_result(place / "results" / "sly", outside)
        item = one(Shelf([place]), "sly")
        assert item.slide_path is None and item.status == "ok" and str(outside) in item.problem
        assert one(Shelf([place, outside]), "sly").slide_path == outside


class TestWhereTheSlideOfAResultIs:
    def test_a_slide_that_was_moved_and_renamed_is_found(self, place):
        moved = place / "elsewhere" / "renamed.tif"
        moved.parent.mkdir()
        (place / "slides" / "a.tif").rename(moved)
        assert one(Shelf([place]), "a").slide_path == moved

    def test_another_slide_of_the_same_name_and_place_is_not_taken(self, place):
        write_slide(place / "slides" / "a.tif", 200)
        item = one(Shelf([place]), "a")
        assert item.slide_path is None and "give" in item.problem

    def test_another_slide_of_the_same_size_is_not_taken(self, place):
        slide = place / "slides" / "a.tif"
        content = bytearray(slide.read_bytes())
        content[-1] ^= 1
        slide.write_bytes(content)
        assert one(Shelf([place]), "a").slide_path is None

    def test_a_slide_that_comes_later_is_found(self, place):
        kept = (place / "slides" / "a.tif").read_bytes()
        (place / "slides" / "a.tif").unlink()
        shelf = Shelf([place])
        assert one(shelf, "a").slide_path is None
        (place / "back.tif").write_bytes(kept)
        assert one(shelf, "a").slide_path == place / "back.tif"

    def test_a_result_of_an_array_says_so(self, place):
        slide = place / "slides" / "a.tif"
        write_result(place / "results" / "b", slide, slide={"name": "b", "path": None, "fingerprint": None})
        item = one(Shelf([place]), "b")
        assert item.slide_path is None and "array" in item.problem and not item.has_slide


class TestWhatIsBroken:
    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            "null",
            '{"format_version": 1}',
            '{"format_version": 99}',
            '{"format_version": 1, "slide": 3, "status": "ok", "areas": {}}',
            '{"format_version": 1, "slide": {"fingerprint": {"a": 1}}, "status": "ok", "areas": {}}',
            '{"format_version": 1, "slide": {"fingerprint": 1, "path": "\\u0000"}, "status": "", "areas": {}}',
            "[" * 100_000,
        ],
    )
    def test_a_damaged_record_is_told_and_hides_nothing_else(self, place, content):
        (place / "results" / "a" / "result.json").write_text(content)
        shelf = Shelf([place])
        item = one(shelf, "a")
        assert item.status == "broken" and item.problem and item.slide_path is None
        assert one(shelf, "a.tif").status == "slide" and shelf.get(item.id) == item

    def test_a_result_without_its_values_is_told(self, place):
        (place / "results" / "a" / "result.h5").unlink()
        assert one(Shelf([place]), "a").status == "broken"

    def test_a_file_that_is_no_slide_is_told(self, place):
        (place / "no.svs").write_bytes(b"II*\0 nothing")
        (place / "empty.tif").write_bytes(b"")
        for name in ("no.svs", "empty.tif"):
            item = one(Shelf([place]), name)
            assert item.status == "broken" and name in item.problem and not item.has_slide

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read_is_told(self, place):
        (place / "slides" / "a.tif").chmod(0)
        assert one(Shelf([place]), "a.tif").status == "broken"

    def test_a_slide_without_a_resolution_is_shown_with_a_given_one_only(self, tmp_path):
        from PIL import Image

        Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
        assert one(Shelf([tmp_path / "plain.png"]), "plain.png").status == "broken"
        item = one(Shelf([tmp_path / "plain.png"], mpp=0.5), "plain.png")
        assert item.status == "slide" and item.mpp == 0.5


@pytest.mark.parametrize("name", ["result.json", "result.h5", "annotations.geojson", "review.json", ".journal"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_in_place_of_a_file_breaks_one_result_and_holds_nobody_up(place, name):
    folder = place / "results" / "a"
    if name == ".journal":
        shutil.rmtree(folder)
        (folder / name).mkdir(parents=True)
        name = ".journal/journal.json"
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    found = one(Shelf([place]), "a")
    assert found.status == "broken" and "is no file" in found.problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_slide_and_a_link_to_itself_nothing(place):
    os.mkfifo(place / "pipe.tif")
    (place / "loop.tif").symlink_to(place / "loop.tif")
    assert [item.name for item in Shelf([place]).items()] == ["a", "a.tif"]
    assert one(Shelf([place / "pipe.tif"]), "pipe.tif").status == "broken"


@pytest.mark.parametrize(
    "changes",
    [
        {"areas": {"lesion_mm2": float("nan")}},
        {"areas": {"lesion_mm2": "<b>"}},
        {"areas": {"classes_mm2": {"lesion": []}}},
        {"areas": []},
        {"status": "fine"},
        {"slide": {"name": "a", "path": "a\0b"}},
        {"slide": {"name": ["a"]}},
        {"slide": {"fingerprint": {"bytes": {}}}},
        {"slide": {"mpp": -1}},
        {"analysis": "none"},
        {"analysis": {"burden": {"percent": "all"}}},
        {"analysis": {"lesions": {"slide_class": ["macro"]}}},
    ],
)
def test_a_record_from_elsewhere_that_is_none_is_broken_and_the_others_are_listed(place, changes):
    write_result(place / "results" / "b", place / "slides" / "a.tif", **changes)
    found = one(Shelf([place]), "b")
    assert found.status == "broken" and "damaged" in found.problem
    assert one(Shelf([place]), "a").status == "ok"


def test_a_record_that_is_too_long_is_not_read(place, monkeypatch):
    monkeypatch.setattr("digipath.viewer.records.MAX_BYTES", 100)
    assert "100" not in one(Shelf([place]), "a").problem and one(Shelf([place]), "a").status == "broken"


def test_what_is_left_of_a_result_without_its_record_is_no_slide(place):
    """Its heatmap would be: and what a blind viewer withholds be seen as a slide."""
    folder = place / "results" / "a"
    (folder / "result.json").unlink()
    write_slide(folder / "heatmap.tif")
    assert [(item.name, item.status) for item in Shelf([place]).items()] == [("a", "broken"), ("a.tif", "slide")]


def test_what_is_on_its_way_is_looked_at_anew_every_few_seconds_only(place, monkeypatch):
    journal = place / "results" / "b" / ".journal" / "first" / "journal.json"
    journal.parent.mkdir(parents=True)
    journal.write_text("{}")
    shelf = Shelf([place])
    first = one(shelf, "b")
    assert first.status == "running"
    journal.write_text("{} ")
    assert one(shelf, "b").version == first.version
    monkeypatch.setattr("digipath.viewer.shelf._PULSE", 0)
    second = one(shelf, "b")
    assert second.version != first.version
    (journal.parent.parent / "journal.json").write_text("{}")  # the second stage begins
    assert one(shelf, "b").version != second.version
