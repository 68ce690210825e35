import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import tifffile

from digipath.errors import SlideError
from digipath.geometry.frame import Box, Frame
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.slides import open_slide

fastslide = pytest.importorskip("fastslide")

from digipath.slides import _fastslide  # noqa: E402

REAL = ["CMU-1-Small-Region.svs", "fluorescence-dapi.ndpi", "boxes.tiff", "boxes_0.dcm"]


@pytest.mark.parametrize("factor", [0.7, 1, 1.02, 2, 2.7, 9.3])
@pytest.mark.parametrize("name", REAL)
def test_both_readers_give_the_same_pixels_at_the_same_place(name, factor, data):
    slides = [open_slide(data / "slides" / name, mpp=0.25, backend=each) for each in ("openslide", "fastslide")]
    assert [slide.backend for slide in slides] == ["openslide", "fastslide"]
    assert slides[0].frame == slides[1].frame
    assert slides[0].levels() == slides[1].levels()
    frame = slides[0].frame.at(0.25 * factor)
    rng = np.random.default_rng(1)
    places = [(0.0, 0.0), (1.0, 1.0), *rng.random((3, 2))]
    for x, y in places:
        box = Box(int(x * frame.width) - 150, int(y * frame.height) - 130, 300, 260)
        one, other = (slide.read(box, frame).astype(float) for slide in slides)
        difference = np.abs(one - other)
        assert difference.max() <= 5 and difference.mean() <= 1
        for step, axis in ((-1, 0), (1, 0), (-1, 1), (1, 1)):
            shifted = np.abs(one - np.roll(other, step, axis)).mean()
            # A shift by one pixel is as bad as it can be for this picture, so there is none.
            assert shifted > 0.9 * np.abs(one - np.roll(one, step, axis)).mean()


def test_auto_takes_fastslide_and_its_missing_levels_from_openslide(data):
    slide = open_slide(data / "slides" / "fluorescence-dapi.ndpi")
    assert slide.backend == "fastslide"
    assert len(slide.levels()) == 7 > len(fastslide.FastSlide.from_file_path(str(slide.path)).level_dimensions)
    frame = slide.frame.at(slide.frame.mpp * 64)
    expected = open_slide(slide.path, backend="openslide").read(frame.box, frame)
    np.testing.assert_array_equal(slide.read(frame.box, frame), expected)


def test_a_file_that_fastslide_does_not_understand_is_no_slide(data):
    with pytest.raises(SlideError, match="1 x 1 px"):
        open_slide(data / "slides" / "unopenable.tiff", mpp=0.5, backend="fastslide")


def test_a_file_on_which_the_readers_do_not_agree_is_left_to_openslide(
    tmp_path, tissue_image, write_slide, monkeypatch
):
    path = write_slide(tmp_path / "slide.tif", [tissue_image])
    read = _fastslide.FastSlideSource._read
    monkeypatch.setattr(_fastslide.FastSlideSource, "_read", lambda *args: np.roll(read(*args), 2, 1))
    assert open_slide(path).backend == "openslide"
    with pytest.raises(SlideError, match="do not agree"):
        open_slide(path, backend="fastslide")


def test_without_the_extra_openslide_reads_and_asking_for_it_names_it(tmp_path, tissue_image, write_slide, monkeypatch):
    path = write_slide(tmp_path / "slide.tif", [tissue_image])
    monkeypatch.setattr(_fastslide, "is_installed", lambda: False)
    assert open_slide(path).backend == "openslide"
    with pytest.raises(SlideError, match=r"pip install 'digipath\[fastslide\]'"):
        open_slide(path, backend="fastslide")


def test_a_call_that_never_returns_is_given_up():
    release = threading.Event()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        _fastslide._within(0.05, release.wait)
    release.set()
    assert time.monotonic() - begin < 5
    assert _fastslide._within(5, lambda: 3) == 3
    with pytest.raises(RuntimeError, match="mine"):
        _fastslide._within(5, lambda: (_ for _ in ()).throw(RuntimeError("mine")))


def test_a_damaged_jpeg_tile_on_which_fastslide_hangs_is_mended_and_python_ends(tmp_path, tissue_image):
    path = tmp_path / "slide.tif"
    level0 = np.ascontiguousarray(cv2.resize(tissue_image, (256, 256), interpolation=cv2.INTER_AREA))
    settings = PyramidSettings(tile=64, compression="jpeg")
    write_pyramid(path, Frame.level0(256, 256, 0.5), [(0, level0)], channels=RGB, settings=settings)
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    script = f"""
from digipath.slides import _fastslide, open_slide
_fastslide._SECONDS = 1.0
slide = open_slide({str(path)!r}, mpp=0.5)
before = slide.backend
slide.read(slide.frame.box, slide.frame)
print(before, slide.backend, slide.repairs)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[0] == "fastslide openslide [Box(x=192, y=0, width=64, height=64)]"
