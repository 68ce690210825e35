import numpy as np
import openslide
import pytest

from digipath.geometry.frame import Box
from digipath.slides import _openslide
from digipath.slides._openslide import OpenSlideSource, flatten


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "boxes.tiff", "boxes_0.dcm", "fluorescence-dapi.ndpi"])
def test_pixels_are_those_of_openslide_on_white(name, direct, data, monkeypatch):
    if not direct:
        monkeypatch.setattr(_openslide, "_READ", None)
    source = OpenSlideSource(data / "slides" / name)
    with openslide.OpenSlide(data / "slides" / name) as reference:
        for index, level in enumerate(source.levels):
            box = Box(0, 0, min(300, level.width), min(200, level.height))
            rgba = np.asarray(reference.read_region((0, 0), index, (box.width, box.height))).astype(float)
            share = rgba[..., 3:] / 255
            expected = rgba[..., :3] * share + 255 * (1 - share)
            assert np.abs(source.read_level(index, box) - expected).max() <= 1


def test_flattening_is_by_share_over_the_background():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 102]]], np.uint8)
    assert flatten(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [157, 161, 165]]]
    assert flatten(rgba, (0, 0, 0)).tolist() == [[[10, 20, 30], [0, 0, 0], [4, 8, 12]]]
    premultiplied = np.array([[[30, 20, 10, 255], [0, 0, 0, 0], [12, 8, 4, 102]]], np.uint8)
    assert _openslide._flatten_premultiplied(premultiplied, (255, 255, 255)).tolist() == flatten(rgba).tolist()


def test_a_lost_file_ends_in_an_error_and_not_in_endless_openings(tmp_path, tissue_image, write_slide, damage_tile):
    path = write_slide(tmp_path / "slide.tif", [tissue_image])
    damage_tile(path, level=0, tile=0)
    source = OpenSlideSource(path)
    path.unlink()
    for _ in range(3):
        with pytest.raises(_openslide.ReadFailure):
            source.read_level(0, Box(0, 0, 64, 64))
