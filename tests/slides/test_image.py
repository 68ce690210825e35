import struct
from contextlib import suppress

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from digipath.errors import SlideError
from digipath.slides import open_slide


def read_all(path):
    slide = open_slide(path, mpp=0.5)
    return slide.read(slide.frame.box, slide.frame)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif"])
def test_a_lossless_image_reads_as_its_pixels(suffix, tmp_path, tissue_image):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(tissue_image).save(path, lossless=True)
    np.testing.assert_array_equal(read_all(path), tissue_image)
    assert open_slide(path, mpp=0.5).name == "image"


def test_a_jpeg_is_recognised_by_its_content_and_not_by_its_name(tmp_path, tissue_image):
    path = tmp_path / "image.tiff"
    Image.fromarray(tissue_image).save(path, "JPEG", quality=95, subsampling=0)
    slide = open_slide(path, mpp=0.5)
    assert slide.backend == "image"
    assert np.abs(read_all(path).astype(int) - tissue_image).mean() < 4


def test_palette_grey_and_transparency_become_rgb_on_white(tmp_path, tissue_image):
    picture = Image.fromarray(tissue_image)
    picture.quantize(64).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_all(tmp_path / "palette.png"), np.asarray(picture.quantize(64).convert("RGB")))
    picture.convert("L").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_all(tmp_path / "grey.png")[..., 2], np.asarray(picture.convert("L")))
    alpha = np.full(tissue_image.shape[:2], 255, np.uint8)
    alpha[:40] = 0
    Image.fromarray(np.dstack([tissue_image, alpha])).save(tmp_path / "alpha.png")
    got = read_all(tmp_path / "alpha.png")
    assert (got[:40] == 255).all()
    np.testing.assert_array_equal(got[40:], tissue_image[40:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation, tmp_path, tissue_image):
    upright = np.asarray(tissue_image)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif)
    np.testing.assert_array_equal(read_all(path), upright)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "F"])
def test_pixels_that_would_be_clipped_or_recoloured_are_refused(mode, tmp_path):
    if mode == "CMYK":
        path = tmp_path / "image.jpg"
        Image.new("CMYK", (30, 20)).save(path)
    else:
        path = tmp_path / "image.tif"
        array = np.zeros((20, 30), np.uint16 if mode == "I;16" else np.float32)
        tifffile.imwrite(path, array, photometric="minisblack")
    with pytest.raises(SlideError, match="8-bit RGB"):
        open_slide(path, mpp=0.5)


def test_sixteen_bit_colour_is_scaled_and_not_clipped(tmp_path, tissue_image):
    deep = tissue_image.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_all(tmp_path / "deep.png"), tissue_image)


def test_an_unnamed_fourth_sample_is_not_transparency(tmp_path, tissue_image):
    array = np.dstack([tissue_image, np.zeros(tissue_image.shape[:2], np.uint8)])
    tifffile.imwrite(tmp_path / "four.tif", array, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_all(tmp_path / "four.tif"), tissue_image)


def test_jpeg_2000_reads_and_white_zero_tiffs_are_turned(tmp_path, tissue_image):
    Image.fromarray(tissue_image).save(tmp_path / "image.jp2", irreversible=False)
    np.testing.assert_array_equal(read_all(tmp_path / "image.jp2"), tissue_image)
    tifffile.imwrite(tmp_path / "turned.tif", 255 - tissue_image[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_all(tmp_path / "turned.tif")[..., 1], tissue_image[..., 0])


def test_sixteen_bit_grey_png_is_refused(tmp_path):
    Image.fromarray(np.full((20, 30), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SlideError, match="8-bit RGB"):
        open_slide(tmp_path / "deep.png", mpp=0.5)


def test_a_large_strip_tiff_is_mapped_and_not_loaded(tmp_path, tissue_image):
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, tissue_image, photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    slide = open_slide(path)
    assert (slide.frame.mpp, slide.mpp_source, slide.backend) == (0.5, "tiff-resolution", "image")
    assert isinstance(slide._source.array, np.memmap)
    np.testing.assert_array_equal(slide.read(slide.frame.box, slide.frame), tissue_image)


@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"planarconfig": "separate"}, {"bigtiff": True}])
def test_strip_tiffs_of_any_layout_read_as_their_pixels(options, tmp_path, tissue_image):
    separate = "planarconfig" in options
    array = np.moveaxis(tissue_image, 2, 0) if separate else tissue_image
    tifffile.imwrite(tmp_path / "strips.tif", array, photometric="rgb", **options)
    np.testing.assert_array_equal(read_all(tmp_path / "strips.tif"), tissue_image)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_several_channels_or_pages_are_no_slide(tile, tmp_path):
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(
        path, np.zeros((4, 128, 160), np.uint8), photometric="minisblack", tile=tile, metadata={"axes": "CYX"}
    )
    with pytest.raises(SlideError, match="4 along C") as error:
        open_slide(path, mpp=0.5)
    assert "\n" not in str(error.value)
    if tile:
        assert open_slide(path, mpp=0.5, backend="openslide").frame.width == 160


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("digipath.slides._image.MAX_PIXELS", 1000)
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    with pytest.raises(SlideError, match=r"40 x 30 px.*tiled TIFF"):
        open_slide(tmp_path / "large.png", mpp=0.5)


def test_an_image_beyond_pillows_own_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "large.png")
    assert (read_all(tmp_path / "large.png") == 9).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_half_an_image_is_damaged(suffix, tmp_path, tissue_image):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(tissue_image).save(path, **({"compression": "tiff_lzw"} if suffix == "tif" else {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError) as error:
        open_slide(path, mpp=0.5)
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_damaged_directory_of_a_tiff_is_an_error_of_ours(tile, tmp_path, tissue_image, monkeypatch):
    monkeypatch.setattr("digipath.slides.slide.fastest", lambda _, fallback: fallback)
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, tissue_image, photometric="rgb", tile=tile, compression="zlib")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        fields = {tag.code: tag.offset for tag in file.pages[0].tags}
    for code in (256, 257, 258, 262, 277, 278 if tile is None else 322):
        for place, value in ((0, 0), (2, 0), (4, 9), (8, 0), (8, 200)):
            damaged = bytearray(whole)
            damaged[fields[code] + place] = value
            path.write_bytes(damaged)
            with suppress(SlideError):  # some do no harm
                read_all(path)


def test_the_first_half_of_a_copied_slide_is_no_slide(tmp_path, tissue_image):
    path = tmp_path / "half.svs"
    tifffile.imwrite(path, tissue_image, photometric="rgb", tile=(64, 64), compression="zlib")
    whole = path.read_bytes()
    tiles_first = struct.pack("<2sHI", b"II", 42, len(whole))  # the directory lies behind the tiles, as in an SVS
    path.write_bytes(tiles_first + whole[8 : len(whole) // 2])
    with pytest.raises(SlideError, match=r"cannot be opened.*copy it again"):
        open_slide(path, mpp=0.5)
    with pytest.raises(SlideError):
        open_slide(path, mpp=0.5, backend="fastslide")


def test_a_tiff_that_does_not_hold_its_pixels_is_kept_from_fastslide_which_would_crash(
    tmp_path, tissue_image, monkeypatch
):
    asked = []
    monkeypatch.setattr("digipath.slides.slide.fastest", lambda path, _: asked.append(path))
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, tissue_image, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags[273].offset
    whole = path.read_bytes()
    for damaged in (whole[:place] + b"\x11\x2e" + whole[place + 2 :], whole[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(SlideError, match="cannot be opened"):
            open_slide(path, mpp=0.5)
    assert asked == []
