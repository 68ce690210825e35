import math
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from digipath.errors import UnreadableRegionError
from digipath.geometry.frame import Box
from digipath.slides import open_slide
from digipath.slides._levels import levels_of


def halve(image, factor=2):
    """Reduced by a whole number; what is left over at the right and below is dropped, as scanners do."""
    height, width = (side // factor * factor for side in image.shape[:2])
    return cv2.resize(image[:height, :width], (width // factor, height // factor), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("backend", ["openslide", "fastslide"])
class TestOnAnyBackend:
    @pytest.fixture(autouse=True)
    def _installed(self, backend):
        if backend == "fastslide":
            pytest.importorskip("fastslide")

    @pytest.mark.parametrize("size", [(75, 62), (120, 100), (113, 94), (299, 249)])
    def test_any_box_equals_a_crop_of_the_whole_where_levels_do_not_divide(
        self, size, backend, tmp_path, tissue_image, write_slide
    ):
        level = cv2.resize(tissue_image, size, interpolation=cv2.INTER_AREA)
        slide = open_slide(write_slide(tmp_path / "slide.tif", [tissue_image, level]), backend=backend)
        assert len(slide.levels()) == 2
        rng = np.random.default_rng(0)
        for mpp in (0.5, 0.51, 0.5 * 300 / size[0], 0.5 * 250 / size[1], 1.23, 2.0, 2.1, 3.7):
            frame = slide.frame.at(mpp)
            whole = slide.read(frame.box, frame).astype(int)
            for _ in range(12):
                x, y = rng.integers(frame.width), rng.integers(frame.height)
                box = Box(int(x), int(y), 40, 30).intersect(frame.box)
                assert np.abs(slide.read(box, frame) - whole[box.slices()]).max() <= 1

    @pytest.mark.parametrize("mpp", [0.5, 0.9, 2.0, 2.2, 3.4, 4.5])
    def test_coarser_levels_lie_where_the_finest_says(self, mpp, backend, tmp_path, write_slide):
        image = np.full((251, 302, 3), 255, np.uint8)
        cv2.circle(image, (260, 190), 25, (90, 20, 120), -1)
        levels = [image, halve(image, 4), cv2.resize(image, (45, 37), interpolation=cv2.INTER_AREA)]
        slide = open_slide(write_slide(tmp_path / "slide.tif", levels), backend=backend)
        frame = slide.frame.at(mpp)
        dark = 255.0 - slide.read(frame.box, frame)[..., 1]
        x = dark.sum(0) @ (np.arange(frame.width) + 0.5) / dark.sum() * frame.downsample
        y = dark.sum(1) @ (np.arange(frame.height) + 0.5) / dark.sum() * frame.downsample
        assert (x, y) == pytest.approx((260.5, 190.5), abs=0.15)

    def test_at_a_levels_own_resolution_its_pixels_are_copied(self, backend, tmp_path, tissue_image, write_slide):
        levels = [tissue_image, halve(tissue_image), halve(tissue_image, 4)]
        slide = open_slide(write_slide(tmp_path / "slide.tif", levels), backend=backend)
        for mpp, level in zip((0.5, 1.0, 2.0, 2.0001), [*levels, levels[-1]], strict=True):
            got = slide.read(Box(0, 0, level.shape[1], level.shape[0]), slide.frame.at(mpp))
            np.testing.assert_array_equal(got, level)

    def test_what_a_level_left_over_is_the_edge_and_not_white(self, backend, tmp_path, write_slide):
        grey = np.full((250, 302, 3), 100, np.uint8)
        slide = open_slide(write_slide(tmp_path / "slide.tif", [grey, halve(grey, 4)]), backend=backend)
        frame = slide.frame.at(2.0)
        assert slide.levels()[1]["width"] == 75 and frame.width == 76
        got = slide.read(frame.box, frame)
        assert (got[:62, :75] == 100).all()
        assert (np.abs(got[:62, 75].astype(int) - (100 + 255) / 2) <= 1).all()

    def test_missing_tiles_are_white(self, backend, tmp_path, tissue_image):
        import tifffile

        def tiles():
            for y in range(0, 256, 64):
                for x in range(0, 320, 64):
                    tile = np.zeros((64, 64, 3), np.uint8)
                    part = tissue_image[y : y + 64, x : x + 64]
                    tile[: part.shape[0], : part.shape[1]] = part
                    yield None if (x, y) == (64, 64) else tile

        tifffile.imwrite(
            tmp_path / "s.tif", tiles(), shape=(250, 300, 3), dtype="uint8", tile=(64, 64), photometric="rgb",
            compression="zlib", resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        )  # fmt: skip
        # Alone, fastslide refuses such a file.
        slide = open_slide(tmp_path / "s.tif", backend="auto" if backend == "fastslide" else backend)
        expected = tissue_image.copy()
        expected[64:128, 64:128] = 255
        np.testing.assert_array_equal(slide.read(slide.frame.box, slide.frame), expected)

    def test_a_damaged_tile_is_read_from_a_coarser_level_and_noted(
        self, backend, tmp_path, tissue_image, write_slide, damage_tile
    ):
        path = write_slide(tmp_path / "slide.tif", [tissue_image, halve(tissue_image)])
        damage_tile(path, level=0, tile=6)  # The second tile of the second row.
        slide = open_slide(path, backend="auto" if backend == "fastslide" else backend)
        got = slide.read(slide.frame.box, slide.frame)
        expected = tissue_image.astype(int).copy()
        assert np.abs(got[64:128, 64:128] - expected[64:128, 64:128]).mean() < 12
        got[64:128, 64:128] = expected[64:128, 64:128]
        np.testing.assert_array_equal(got, expected)
        assert slide.repairs == [Box(64, 64, 64, 64)]
        frame = slide.frame.at(0.75)
        whole = slide.read(frame.box, frame)
        box = Box(40, 41, 80, 60)
        assert np.abs(slide.read(box, frame).astype(int) - whole[box.slices()]).max() <= 1
        slide.read(Box(70, 71, 9, 9), slide.frame)
        assert slide.repairs == [Box(64, 64, 64, 64)]

    def test_many_threads_survive_damage_that_one_of_them_meets(
        self, backend, tmp_path, tissue_image, write_slide, damage_tile
    ):
        path = write_slide(tmp_path / "slide.tif", [tissue_image])
        damage_tile(path, level=0, tile=6)
        slide = open_slide(path, backend="auto" if backend == "fastslide" else backend)
        boxes = [Box(x, y, 33, 35) for y in range(0, 250, 35) for x in range(0, 300, 33)] * 3
        barrier = threading.Barrier(8)

        def read(box):
            if barrier.n_waiting < 8 and not barrier.broken:
                barrier.wait(timeout=20)
            return slide.read_covered(box, slide.frame)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(read, boxes[: len(boxes) // 8 * 8]))
        for box, (pixels, lost) in zip(boxes, results, strict=False):
            bad = box.intersect(Box(64, 64, 64, 64))
            assert sum(each.area for each in lost) == bad.area
            inside = box.intersect(slide.frame.box)
            expected = np.full_like(pixels, 255)
            expected[: inside.height, : inside.width] = tissue_image[inside.slices()]
            if bad.area:
                expected[bad.shift(-box.x, -box.y).slices()] = 255
            np.testing.assert_array_equal(pixels, expected)

    def test_what_no_level_has_is_an_error_that_names_the_place(
        self, backend, tmp_path, tissue_image, write_slide, damage_tile
    ):
        path = write_slide(tmp_path / "slide.tif", [tissue_image, halve(tissue_image)])
        damage_tile(path, level=0, tile=6)
        damage_tile(path, level=1, tile=0)
        damage_tile(path, level=1, tile=1)
        damage_tile(path, level=1, tile=3)
        damage_tile(path, level=1, tile=4)
        slide = open_slide(path, backend="auto" if backend == "fastslide" else backend)
        with pytest.raises(UnreadableRegionError, match=r"64 x 64 px at \(64, 64\)") as error:
            slide.read(slide.frame.box, slide.frame)
        assert error.value.boxes == (Box(64, 64, 64, 64),)
        assert "\n" not in str(error.value)
        pixels, lost = slide.read_covered(slide.frame.box, slide.frame)
        assert lost == [Box(64, 64, 64, 64)]
        assert (pixels[64:128, 64:128] == 255).all()
        np.testing.assert_array_equal(pixels[:64], tissue_image[:64])


def test_levels_of_odd_downsamples_read_alike_also_when_too_large_to_keep(
    tmp_path, tissue_image, write_slide, monkeypatch
):
    monkeypatch.setattr("digipath.slides._openslide._KEPT_PIXELS", 0)
    level = cv2.resize(tissue_image, (113, 94), interpolation=cv2.INTER_AREA)
    slide = open_slide(write_slide(tmp_path / "slide.tif", [tissue_image, level]), backend="openslide")
    monkeypatch.setattr("digipath.slides._openslide._SQUARE", 32)
    frame = slide.frame.at(1.4)
    whole = slide.read(frame.box, frame).astype(int)
    for x, y in np.random.default_rng(0).integers(0, 80, (12, 2)):
        box = Box(int(x), int(y), 40, 30).intersect(frame.box)
        assert np.abs(slide.read(box, frame) - whole[box.slices()]).max() <= 1


def test_threads_read_what_one_reads(tmp_path, tissue_image, write_slide):
    slide = open_slide(write_slide(tmp_path / "slide.tif", [tissue_image, halve(tissue_image)]))
    boxes = [(Box(x, y, 70, 50), slide.frame.at(mpp)) for mpp in (0.5, 0.61, 1.3) for x in (-9, 90) for y in (0, 77)]
    alone = [slide.read(*each) for each in boxes]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone * 5, pool.map(lambda each: slide.read(*each), boxes * 5), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_whole_number_reduction_has_whole_pixels_however_it_was_rounded():
    assert [level.downsample_x for level in levels_of([(300, 250), (150, 125), (75, 62), (38, 32), (37, 31)])] == [
        1, 2, 4, 8, 8,
    ]  # fmt: skip
    wide = levels_of([(46001, 32914), (11500, 8228), (2875, 2057)])
    assert [(level.downsample_x, level.downsample_y) for level in wide] == [(1, 1), (4, 4), (16, 16)]
    odd = levels_of([(300, 250), (120, 100)])[1]
    assert (odd.downsample_x, odd.downsample_y) == (2.5, 2.5)


@pytest.mark.parametrize("backend", ["openslide", "fastslide"])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "fluorescence-dapi.ndpi", "boxes.tiff", "boxes_0.dcm"])
def test_any_box_of_a_real_slide_equals_a_crop_of_a_larger_one(name, backend, data):
    if backend == "fastslide":
        pytest.importorskip("fastslide")
    slide = open_slide(data / "slides" / name, mpp=0.25, backend=backend)
    rng = np.random.default_rng(2)
    for factor in (0.6, 1, 243 / 250, 250 / 243, 2, 4.02, 6.3, 17):
        frame = slide.frame.at(0.25 * factor)
        for _ in range(4):
            x, y = int(rng.integers(-20, frame.width)), int(rng.integers(-20, frame.height))
            large = Box(x, y, 400, 300)
            small = Box(x + int(rng.integers(0, 300)), y + int(rng.integers(0, 200)), 90, 80)
            crop = slide.read(large, frame)[small.shift(-x, -y).slices()].astype(int)
            assert np.abs(slide.read(small, frame) - crop).max() <= 1


@pytest.mark.parametrize("factor", [2, 8, 64, 256, 512])
@pytest.mark.parametrize("rounding", [math.floor, math.ceil])
@pytest.mark.parametrize(("width", "height"), [(100_000, 80_000), (46_000, 32_914), (2_220, 2_967)])
def test_a_coarse_level_of_a_pyramid_is_a_power_of_two_however_few_pixels_tell(width, height, factor, rounding):
    coarse = rounding(width / factor), rounding(height / factor)
    assert levels_of([(width, height), coarse])[1].downsample == factor
