import numpy as np
import pytest
import tifffile
from PIL import Image

from digipath.data import mask_files
from digipath.data.mask_files import open_mask
from digipath.errors import ResultError
from digipath.geometry.frame import Frame
from digipath.protocols import pixels
from digipath.protocols.tiles import TiledMask, is_grey_tiles, level_values

RNG = np.random.default_rng(0)


def write(path, values, **more):
    tifffile.imwrite(path, values, tile=(32, 48), **({"compression": "zlib", "photometric": "minisblack"} | more))


@pytest.fixture
def large(monkeypatch):
    """Masks of a thousand pixels are large."""
    monkeypatch.setattr(mask_files, "MAX_PIXELS", 1000)


@pytest.mark.parametrize(
    "box", [(0, 100, 0, 90), (31, 33, 0, 90), (70, 100, 47, 49), (64, 64, 0, 90), (99, 100, 89, 90)]
)
def test_any_slice_is_that_of_the_whole(tmp_path, box):
    values = RNG.integers(0, 255, (100, 90), np.uint8)
    write(tmp_path / "mask.tif", values)
    mask = TiledMask(tmp_path / "mask.tif")
    top, bottom, left, right = box
    for _ in range(2):
        np.testing.assert_array_equal(mask[top:bottom, left:right], values[top:bottom, left:right])
    mask.close()


def test_what_counts_from_white_is_turned_round(tmp_path):
    values = RNG.integers(0, 255, (40, 50), np.uint8)
    write(tmp_path / "mask.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(TiledMask(tmp_path / "mask.tif")[0:40, 0:50], 255 - values)


@pytest.mark.usefixtures("large")
def test_only_large_grey_tiles_without_loss_are_read_so(tmp_path):
    values = RNG.integers(0, 2, (40, 50), np.uint8)
    write(tmp_path / "grey.tif", values)
    write(tmp_path / "colours.tif", np.stack([values] * 3, -1), photometric="rgb")
    write(tmp_path / "small.tif", values[:20, :20])
    known = {name: is_grey_tiles(open_mask(tmp_path / f"{name}.tif")) for name in ("grey", "colours", "small")}
    assert known == {"grey": True, "colours": False, "small": False}


@pytest.mark.usefixtures("large")
def test_a_large_mask_is_judged_as_a_small_one(truth, predictions, put, quick):
    mask = np.zeros((200, 150), np.uint8)
    mask[30:120, 40:130] = 255
    write(truth / "a.tif", mask)
    put.result(predictions / "a", np.full((50, 38), 0.75), Frame.level0(150, 200, 0.5).coarser(4))
    row = pixels(truth, predictions, settings=quick()).cases[0]
    assert (row["tp"], row["fp"]) == (90 * 90, 200 * 150 - 90 * 90)


def write_two_levels(path, values, **more):
    with tifffile.TiffWriter(path) as file:
        for level in (values, values[::2, ::2]):
            more["subfiletype"] = 0 if level is values else 1
            file.write(level, tile=(32, 32), metadata=None, **({"photometric": "minisblack"} | more))


def test_a_level_is_read_as_it_is_stored_and_0_where_nothing_is(tmp_path):
    values, path = RNG.integers(0, 255, (160, 192), np.uint8), tmp_path / "mask.tif"
    write_two_levels(path, values)
    expected = values[::2, ::2].copy()
    np.testing.assert_array_equal(level_values(open_mask(path), 2.0), expected)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[1]
        for code, numbers in ((324, page.dataoffsets), (325, page.databytecounts)):
            page.tags[code].overwrite([numbers[0], 0, *numbers[2:]])
    expected[:32, 32:64] = 0
    np.testing.assert_array_equal(level_values(open_mask(path), 2.01), expected)
    assert level_values(open_mask(path), 2.03) is level_values(open_mask(path), 1.0) is None


def test_colours_and_palettes_and_other_images_have_no_level_of_values(tmp_path):
    values = RNG.integers(0, 255, (96, 96), np.uint8)
    write_two_levels(tmp_path / "palette.tif", values, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    write_two_levels(tmp_path / "colours.tif", np.stack([values, values, values // 2], -1), photometric="rgb")
    tifffile.imwrite(tmp_path / "strips.tif", values)
    Image.fromarray(values).save(tmp_path / "plain.png")
    for name in ("palette.tif", "colours.tif", "strips.tif", "plain.png"):
        assert level_values(open_mask(tmp_path / name), 2.0) is None, name


def test_damage_is_told(tmp_path):
    write(tmp_path / "mask.tif", RNG.integers(0, 255, (100, 90), np.uint8))
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        place = file.pages[0].dataoffsets[3]
    data = bytearray((tmp_path / "mask.tif").read_bytes())
    data[place : place + 200] = bytes(200)
    (tmp_path / "mask.tif").write_bytes(data)
    mask = TiledMask(tmp_path / "mask.tif")
    assert mask[0:32, 0:90].shape == (32, 90)
    with pytest.raises(ResultError, match=r"mask\.tif is damaged"):
        mask[32:64, 0:90]
