import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from digipath.errors import ResolutionError, SlideError, SpecError
from digipath.geometry.frame import Box
from digipath.slides import ArraySlide, Slide, describe, open_slide


def test_an_open_slide_is_given_back(tissue_image):
    slide = ArraySlide(tissue_image, mpp=0.5)
    assert isinstance(slide, Slide)
    assert open_slide(slide) is slide


def test_what_is_given_wins_over_what_the_file_says(tmp_path, tissue_image, write_slide):
    path = write_slide(tmp_path / "slide.tif", [tissue_image], mpp=0.5)
    assert open_slide(path).frame.mpp == pytest.approx(0.5)
    slide = open_slide(str(path), mpp=0.25)
    assert (slide.frame.mpp, slide.mpp_source) == (0.25, "user")
    assert open_slide(path, mpp=25.0).frame.mpp == 25.0


def test_without_a_resolution_a_slide_is_asked_for_it_and_can_still_be_described(tmp_path, tissue_image, write_slide):
    path = write_slide(tmp_path / "slide.tif", [tissue_image, tissue_image[::2, ::2]], mpp=None)
    with pytest.raises(ResolutionError, match=r"mpp=.*--mpp"):
        open_slide(path)
    about = describe(path)
    assert (about["width"], about["height"], about["mpp"], about["mpp_source"]) == (300, 250, None, None)
    assert "--mpp" in about["mpp_problem"]
    assert [level["downsample"] for level in about["levels"]] == [1, 2]
    slide = open_slide(path, mpp=0.5)
    np.testing.assert_array_equal(slide.read(slide.frame.box, slide.frame), tissue_image)


@pytest.mark.parametrize(("suffix", "dpi"), [("jpg", 72), ("png", 96), ("tif", 300), ("png", None)])
def test_an_image_editors_dots_per_inch_are_no_resolution(suffix, dpi, tmp_path, tissue_image):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(tissue_image).save(path, **({"dpi": (dpi, dpi)} if dpi else {}))
    with pytest.raises(ResolutionError, match=r"mpp=.*--mpp"):
        open_slide(path)
    assert describe(path)["mpp"] is None
    assert open_slide(path, mpp=0.5).frame.width == 300


@pytest.mark.parametrize("kind", ["tiled", "png"])
def test_a_copy_in_another_process_opens_the_same_file_in_the_same_way(kind, tmp_path, tissue_image, write_slide):
    if kind == "tiled":
        path = write_slide(tmp_path / "slide.tif", [tissue_image])
    else:
        path = tmp_path / "slide.png"
        Image.fromarray(tissue_image).save(path)
    with open_slide(path, mpp=0.3) as slide:
        sent = pickle.dumps(slide)
        assert len(sent) < 1000
        copy = pickle.loads(sent)
        assert (copy.frame, copy.mpp_source, copy.backend) == (slide.frame, "user", slide.backend)
        np.testing.assert_array_equal(copy.read(Box(3, 4, 50, 60), copy.frame), tissue_image[4:64, 3:53])


def test_a_fingerprint_is_of_the_content_and_not_of_the_name(tmp_path, tissue_image, write_slide):
    path = write_slide(tmp_path / "slide.tif", [tissue_image])
    copy = tmp_path / "copy.tif"
    shutil.copy(path, copy)
    one = open_slide(path).fingerprint()
    assert one == open_slide(copy).fingerprint()
    assert one["bytes"] == path.stat().st_size
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert open_slide(copy).fingerprint() != one
    with pytest.raises(SpecError, match="no file"):
        ArraySlide(tissue_image, mpp=1).fingerprint()


def test_a_closed_slide_says_that_it_is_closed(tmp_path, tissue_image, write_slide):
    for backend in ("auto", "openslide"):
        slide = open_slide(write_slide(tmp_path / "slide.tif", [tissue_image]), backend=backend)
        slide.close()
        slide.close()
        with pytest.raises(SlideError, match="closed"):
            slide.read(Box(0, 0, 4, 4), slide.frame)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("missing.svs", None, "there is no file"),
        ("empty.svs", b"", "is empty"),
        ("notes.txt", b"Dear diary, this is no slide at all.", "no reader knows its format"),
        ("broken.tif", b"II*\0\x08\0\0\0", "broken.tif"),
        ("broken.tif", b"II*\0\xff\xff\xff\xff" + b"\xff" * 400, "broken.tif"),
        ("broken.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "broken.png is damaged"),
        ("broken.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 30, "broken.jpg is damaged"),
        ("slide.mrxs", b"\xff\xd8\xff\xe0" + b"\0" * 30, "folder of the same name"),
    ],
)
def test_what_is_no_slide_is_refused_in_one_line(name, content, match, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for attempt in (open_slide, describe):
        with pytest.raises(SlideError, match=match) as error:
            attempt(path)
        assert "\n" not in str(error.value)


def test_a_folder_and_an_unknown_backend_are_refused(tmp_path):
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)
    with pytest.raises(SpecError, match="backend"):
        open_slide(tmp_path / "slide.svs", backend="bioformats")


def test_mirax_like_bounds_are_kept_in_level0_pixels(tmp_path, tissue_image, write_slide, monkeypatch):
    from digipath.slides._openslide import OpenSlideSource

    path = write_slide(tmp_path / "slide.tif", [tissue_image])
    assert open_slide(path, backend="openslide").bounds is None
    original = OpenSlideSource.__init__

    def with_bounds(self, path):
        original(self, path)
        self.properties |= {
            f"openslide.bounds-{k}": v for k, v in zip(("x", "y", "width", "height"), "9876", strict=True)
        }

    monkeypatch.setattr(OpenSlideSource, "__init__", with_bounds)
    for backend in ("openslide", "auto"):
        assert open_slide(path, backend=backend).bounds == Box(9, 8, 7, 6)
    assert describe(path)["bounds"] == (9, 8, 16, 14)


@pytest.mark.parametrize(
    ("name", "size", "mpp"),
    [
        ("CMU-1-Small-Region.svs", (2220, 2967), 0.499),
        ("fluorescence-dapi.ndpi", (3968, 4864), 0.2282),
        ("boxes_0.dcm", (16, 16), 0.499),
    ],
)
def test_real_slides_open_with_their_resolution(name, size, mpp, data):
    with open_slide(data / "slides" / name) as slide:
        assert (slide.frame.width, slide.frame.height) == size
        assert slide.frame.mpp == pytest.approx(mpp, abs=1e-4)
        assert slide.mpp_source == "openslide"
        assert slide.properties["openslide.vendor"]


def test_a_real_tiff_in_printers_dots_is_asked_for_its_resolution(data):
    path = data / "slides" / "boxes.tiff"
    with pytest.raises(ResolutionError, match=r"352.8.*--mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.read(slide.frame.box, slide.frame).shape == (250, 300, 3)


def test_a_real_file_that_cannot_be_opened_says_why_in_one_line(data):
    with pytest.raises(SlideError, match=r"unopenable.tiff cannot be opened: Unsupported TIFF compression") as error:
        open_slide(data / "slides" / "unopenable.tiff", mpp=0.5)
    assert "\n" not in str(error.value)


def test_a_real_file_whose_tiles_are_damaged_opens_and_fails_when_read(data):
    with open_slide(data / "slides" / "unreadable.svs") as slide, pytest.raises(SlideError, match="damaged"):
        slide.read(slide.frame.box, slide.frame)
