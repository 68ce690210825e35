import tracemalloc
from functools import partial

import numpy as np
import openslide
import pytest
import tifffile

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Frame
from digipath.io import pyramid
from digipath.io.pyramid import RGB, PyramidSettings, PyramidWriter, read_description, write_pyramid

rng = np.random.default_rng(5)


def waves(width, height, channels=None):
    y, x = np.mgrid[:height, :width]
    grey = ((np.sin(x / 31) * np.cos(y / 23) + 1) * 127.5).astype(np.uint8)
    return grey if channels is None else np.stack([np.roll(grey, 17 * i) for i in range(channels)], -1)


def strips(values, height=50):
    return ((y, values[y : y + height]) for y in range(0, len(values), height))


def read(path, level=0):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 64), (65, 63), (700, 333), (300, 1001)])
@pytest.mark.parametrize("height_of_strips", [1, 64, 100, 2000])
def test_level_0_is_exact_for_every_size_and_strip(tmp_path, width, height, height_of_strips):
    path, frame = tmp_path / "map.tif", Frame.level0(width, height, 2.0)
    values = rng.integers(0, 256, (height, width)).astype(np.uint8)
    given = strips(values, height_of_strips)
    write_pyramid(path, frame, given, channels=("lesion",), settings=PyramidSettings(tile=64))
    np.testing.assert_array_equal(tifffile.imread(path, key=0), values)
    np.testing.assert_array_equal(read(path)[..., 0], values)


@pytest.mark.parametrize("ome", [True, False])
def test_openslide_reads_every_level_at_its_place(tmp_path, ome):
    values, frame = waves(1000, 777), Frame.level0(1000, 777, 2.2)
    path, settings = tmp_path / "map.tif", PyramidSettings(tile=128, ome=ome)
    write_pyramid(path, frame, strips(values), channels=("lesion",), settings=settings)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1000, 777), (500, 389), (250, 195), (125, 98))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(2.2, abs=1e-9)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(2.2, abs=1e-9)
    for level, factor in ((1, 2), (2, 4), (3, 8)):
        coarse = read(path, level)[..., 1].astype(float)
        rows, columns = 777 // factor, 1000 // factor
        mean = values[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3))
        np.testing.assert_allclose(coarse[:rows, :columns], mean, atol=1.5)


def test_a_colour_image_keeps_its_colours_in_jpeg_and_is_exact_in_deflate(tmp_path):
    values, frame = waves(400, 300, 3), Frame.level0(400, 300, 0.5)
    for compression, tolerance in (("jpeg", 20), ("deflate", 0)):
        path, settings = tmp_path / f"{compression}.tif", PyramidSettings(compression=compression)
        write_pyramid(path, frame, strips(values), channels=RGB, settings=settings)
        assert np.abs(read(path).astype(int) - values).max() <= tolerance


def test_a_grey_image_may_be_jpeg(tmp_path):
    values, path = waves(300, 200), tmp_path / "map.tif"
    settings = PyramidSettings(compression="jpeg")
    write_pyramid(path, Frame.level0(300, 200, 2.0), strips(values), channels=("lesion",), settings=settings)
    assert np.abs(read(path)[..., 0].astype(int) - values).max() <= 5


def test_of_several_channels_each_is_kept_and_openslide_shows_the_first(tmp_path):
    values, path = waves(500, 400, 3), tmp_path / "map.tif"
    names = ("lesion", "<adenoma & co>", "µ")
    settings = PyramidSettings(tile=128)
    write_pyramid(path, Frame.level0(500, 400, 2.0), strips(values), channels=names, settings=settings)
    np.testing.assert_array_equal(read(path)[..., 0], values[..., 0])
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        np.testing.assert_array_equal(series.asarray(), np.moveaxis(values, -1, 0))
        assert [level.shape for level in series.levels] == [(3, 400, 500), (3, 200, 250), (3, 100, 125)]
        channels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]["Channel"]
    assert tuple(channel["Name"] for channel in channels) == names
    # Bio-Formats finds the channels by counting the pages that are not coarser levels.
    with tifffile.TiffFile(path) as file:
        assert [page.shape for page in file.pages] == [(400, 500)] * 3 + [(200, 250), (100, 125)]


@pytest.mark.parametrize("ome", [True, False])
def test_the_description_comes_back(tmp_path, ome):
    path, description = tmp_path / "map.tif", {"slide": "µ <a> & b", "classes": [1, 2], "nested": {"x": None}}
    with PyramidWriter(
        path,
        Frame.level0(20, 20, 2.0),
        channels=("lesion",),
        description=description,
        settings=PyramidSettings(ome=ome),
    ) as writer:
        writer.write(0, np.zeros((20, 20, 1), np.uint8))
    assert read_description(path) == description
    with tifffile.TiffFile(path) as file:
        assert file.is_ome == ome and ("xml" in file.pages[0].description) == ome


def test_a_description_that_is_not_ours_is_a_result_error(tmp_path):
    path = tmp_path / "other.tif"
    tifffile.imwrite(path, np.zeros((20, 20), np.uint8), description="Aperio")
    with pytest.raises(ResultError, match="not a pyramid"):
        read_description(path)
    with pytest.raises(ResultError, match="not a pyramid"):
        read_description(tmp_path / "missing.tif")


def test_a_large_file_becomes_a_bigtiff_that_reads_the_same(tmp_path, monkeypatch):
    values, path = waves(500, 400, 2), tmp_path / "map.tif"
    monkeypatch.setattr(pyramid, "write_pages", partial(pyramid.write_pages, classic_limit=1000))
    settings = PyramidSettings(tile=128)
    write_pyramid(path, Frame.level0(500, 400, 2.0), strips(values), channels=("a", "b"), settings=settings)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.series[0].asarray(), np.moveaxis(values, -1, 0))
    np.testing.assert_array_equal(read(path)[..., 0], values[..., 0])
    assert read(path, 2).shape == (100, 125, 3)


@pytest.mark.parametrize("mpp", [0.2271, 0.243, 0.25, 0.4990, 1.1, 2.0, 7.3])
def test_the_spacing_is_read_back_as_it_was_given(tmp_path, mpp):
    path = tmp_path / "map.tif"
    write_pyramid(path, Frame.level0(9, 9, mpp), strips(np.zeros((9, 9), np.uint8)), channels=("a",))
    with tifffile.TiffFile(path) as file:
        numerator, denominator = file.pages[0].tags["XResolution"].value
    assert 10_000 * denominator / numerator == pytest.approx(mpp, rel=1e-12)


def test_memory_does_not_grow_with_the_height(tmp_path):
    def peak(height):
        frame, rows = Frame.level0(600, height, 2.0), np.zeros((50, 600), np.uint8)
        tracemalloc.start()
        write_pyramid(tmp_path / "map.tif", frame, ((y, rows) for y in range(0, height, 50)), channels=("lesion",))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(600)  # What is loaded on first use.
    assert peak(6000) < 1.2 * peak(1500)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_no_file_and_the_old_one_as_it_was(tmp_path, error):
    path = tmp_path / "map.tif"
    path.write_bytes(b"before")
    with pytest.raises(error), PyramidWriter(path, Frame.level0(99, 99, 2.0), channels=("a",)) as writer:
        writer.write(0, np.zeros((20, 99), np.uint8))
        raise error
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("y", "shape", "dtype", "says"),
    [
        (0, (10, 30), np.float32, "are uint8, got float32"),
        (5, (10, 30), np.uint8, "starts at row 0, got one that starts at 5"),
        (0, (10, 29), np.uint8, "shape"),
        (0, (50, 30), np.uint8, "40 rows"),
        (0, (10, 30), np.uint8, "only 10 were written"),
    ],
)
def test_strips_that_do_not_fit_are_refused_in_words(tmp_path, y, shape, dtype, says):
    frame = Frame.level0(30, 40, 2.0)
    with pytest.raises(SpecError, match=says), PyramidWriter(tmp_path / "a.tif", frame, channels=("a",)) as writer:
        writer.write(y, np.zeros(shape, dtype))
    assert not list(tmp_path.iterdir())


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for bad in ({"tile": 100}, {"compression": "zip"}, {"quality": 0}):
        with pytest.raises(SpecError):
            PyramidSettings(**bad)
    with pytest.raises(SpecError, match="names"):
        PyramidWriter(tmp_path / "a.tif", Frame.level0(3, 3, 1.0), channels="lesion")
    with pytest.raises(SpecError, match="outside"):
        PyramidWriter(tmp_path / "a.tif", Frame.level0(3, 3, 1.0), channels=("a",)).write(0, np.zeros((3, 3), np.uint8))
