import csv
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.slides.array import ArraySlide
from digipath.slides.tissue import TissueSettings, find_tissue, tissue_mask

GLASS = (243, 242, 240)
EOSIN, HAEMATOXYLIN, DARK_NUCLEI = (214, 150, 190), (110, 80, 160), (66, 38, 92)
INKS = {"blue": (35, 60, 160), "green": (30, 130, 80), "black": (45, 42, 50), "red": (205, 35, 45)}


def glass(width=300, height=200, colour=GLASS):
    return np.full((height, width, 3), colour, np.uint8)


def noisy(image, deviation=6, seed=0):
    """As a scanner with a noisy camera and JPEG at low quality would give it."""
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    _, packed = cv2.imencode(".jpg", np.clip(image + noise, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(packed, cv2.IMREAD_COLOR)


def vignetted(image, loss=0.45):
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    distance = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2
    return (image * (1 - loss * distance)[..., None]).astype(np.uint8)


def disc(image, x, y, radius, colour=EOSIN):
    """The image with a disc whose centre and radius are in pixels."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    image[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = colour
    return image


def share(image, mpp=8.0, **settings):
    return tissue_mask(ArraySlide(image, mpp=mpp), TissueSettings(**settings)).array().mean()


TINTS = [(255, 255, 255), GLASS, (230, 230, 230), (250, 240, 205), (215, 225, 245), (205, 219, 180), (245, 228, 236)]


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("spoil", [lambda image: image, noisy, vignetted, lambda image: noisy(vignetted(image), 3)])
def test_a_blank_slide_has_no_tissue_whatever_its_tint_noise_and_light(tint, spoil):
    found = find_tissue(ArraySlide(spoil(glass(colour=tint)), mpp=8.0))
    assert not found.mask.array().any()
    assert found.mask.array().dtype == bool
    assert "0 mm2 of tissue" in found.explanation


def test_a_grey_scan_of_tissue_says_why_none_is_found():
    grey = cv2.cvtColor(disc(glass(), 150, 100, 60, HAEMATOXYLIN), cv2.COLOR_RGB2GRAY)
    found = find_tissue(ArraySlide(grey, mpp=8.0))
    assert not found.mask.array().any() and "no colours" in found.explanation
    blank = np.full_like(grey, 240)
    assert "no colours" not in find_tissue(ArraySlide(blank, mpp=8.0)).explanation


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (7, 40), (40, 1)])
@pytest.mark.parametrize("colour", [GLASS, (0, 0, 0), EOSIN])
def test_a_slide_of_a_few_pixels_has_a_mask_too(width, height, colour):
    mask = tissue_mask(ArraySlide(glass(width, height, colour), mpp=8.0))
    assert mask.array().shape == (height, width)


@pytest.mark.parametrize("mpp", [0.5, 1.0, 2.0, 8.0])
def test_a_disc_of_tissue_is_found_in_its_place_at_its_size_whatever_the_resolution(mpp):
    x, y, radius = 700, 350, 250  # um
    image = disc(glass(round(1200 / mpp), round(800 / mpp)), x / mpp, y / mpp, radius / mpp)
    mask = tissue_mask(ArraySlide(image, mpp=mpp))
    rows, columns = np.nonzero(mask.array())
    assert mask.frame.mpp == 8.0
    assert mask.area_mm2 == pytest.approx(math.pi * (radius / 1000) ** 2, rel=0.04)
    assert (columns.mean() + 0.5) * 8 == pytest.approx(x, abs=4)
    assert (rows.mean() + 0.5) * 8 == pytest.approx(y, abs=4)


def test_a_slide_coarser_than_the_mask_is_taken_as_it_is():
    mask = tissue_mask(ArraySlide(disc(glass(90, 60), 30, 20, 15), mpp=16.0))
    assert mask.frame.mpp == 16.0
    assert mask.area_mm2 == pytest.approx(math.pi * (15 * 0.016) ** 2, rel=0.06)


@pytest.mark.parametrize("colour", [EOSIN, HAEMATOXYLIN, DARK_NUCLEI])
@pytest.mark.parametrize("tint", TINTS)
def test_tissue_of_any_stain_is_found_on_glass_of_any_tint(colour, tint):
    image = disc(glass(colour=tint), 150, 100, 60, np.array(colour) * tint // 255)
    assert share(noisy(image)) == pytest.approx(math.pi * 60**2 / (300 * 200), rel=0.04)


def test_faded_tissue_is_found():
    faded = np.array(GLASS) - 0.3 * (np.array(GLASS) - EOSIN)
    assert share(noisy(disc(glass(), 150, 100, 60, faded), 3)) == pytest.approx(math.pi * 60**2 / 60_000, rel=0.04)


def test_a_slide_without_glass_is_all_tissue_though_otsu_would_divide_it():
    rng = np.random.default_rng(1)
    image = np.where(rng.random((100, 140, 1)) < 0.5, EOSIN, HAEMATOXYLIN)
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    image[:, :70] = image[:, :70] // 3 * 2 + 85  # pale on the left, dark on the right
    assert share(image) > 0.99
    assert share(image, ceiling=1.0) < 0.6


def test_black_around_the_scan_is_not_tissue():
    image = disc(glass(), 220, 100, 40)
    image[:, :130] = 0
    assert share(noisy(image)) == pytest.approx(math.pi * 40**2 / 60_000, rel=0.04)


def test_white_filling_around_tinted_glass_is_no_reason_to_call_the_glass_tissue():
    image = disc(glass(colour=(240, 236, 222)), 220, 100, 40)
    image[:, :130] = 255
    assert share(image) == pytest.approx(math.pi * 40**2 / 60_000, rel=0.04)


@pytest.mark.parametrize("noise", [0, 4])
def test_on_a_dark_background_tissue_is_what_shines(noise):
    image = disc(glass(colour=(0, 0, 0)), 100, 80, 50, (0, 0, 60))
    image[80:200:4, 50:150:4] = (20, 90, 230)
    rng = np.random.default_rng(0)
    found = find_tissue(
        ArraySlide(np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8), mpp=8.0)
    )
    assert found.dark
    assert "dark background" in found.explanation
    assert found.mask.array()[80, 100]
    assert not found.mask.array()[:, 200:].any()
    assert 0.1 < found.mask.array().mean() < 0.4


@pytest.mark.parametrize("mpp", [7.5, 3.1, 8.0])
def test_the_white_beyond_a_border_that_cuts_pixels_neither_shines_nor_hides_tissue(mpp):
    dark = tissue_mask(ArraySlide(glass(203, 151, (2, 1, 3)), mpp=mpp))
    tissue = tissue_mask(ArraySlide(glass(203, 151, HAEMATOXYLIN), mpp=mpp))
    assert not dark.array().any()
    assert tissue.array().all()


def test_a_pool_of_mucin_is_not_taken_for_glass():
    rng = np.random.default_rng(2)
    image = np.clip(np.array((150, 132, 142)) + rng.normal(0, 9, (31, 31, 1)), 0, 255).astype(np.uint8)
    assert share(disc(image, 15, 15, 5, (178, 160, 170))) == 1


@pytest.mark.parametrize("ink", INKS)
def test_a_pen_mark_on_glass_is_not_tissue(ink):
    image = glass()
    cv2.ellipse(image, (150, 100), (110, 70), 0, 0, 330, INKS[ink], 36)
    assert share(noisy(cv2.GaussianBlur(image, (0, 0), 1.5), 4)) == 0


@pytest.mark.parametrize("ink", INKS)
def test_a_pen_mark_beside_tissue_takes_none_of_it_and_across_it_only_what_it_covers(ink):
    clean = noisy(disc(glass(), 150, 100, 60))
    marked = clean.copy()
    cv2.line(marked, (0, 100), (299, 100), INKS[ink], 36)
    before, after = (tissue_mask(ArraySlide(image, mpp=8.0)).array() for image in (clean, marked))
    stroke = np.abs(np.arange(200) - 100) <= 18
    assert not after[np.abs(np.arange(200) - 100) <= 15].any()
    beside = np.abs(np.arange(200) - 100) >= 18 + 8
    assert (after & before)[beside].sum() > 0.98 * before[beside].sum()
    assert not (after & ~before)[~stroke].sum() > 20


def test_pen_is_kept_apart_and_may_be_left_in():
    image = disc(glass(), 60, 100, 30)
    cv2.line(image, (150, 20), (150, 180), INKS["green"], 36)
    slide = ArraySlide(image, mpp=8.0)
    found = find_tissue(slide)
    assert found.pen.array()[100, 150]
    assert not found.pen.array()[100, 60]
    assert not (found.pen.array() & found.mask.array()).any()
    assert "pen removed" in found.explanation
    assert tissue_mask(slide, TissueSettings(min_pen_um2=math.inf)).array()[100, 150]


def test_a_crumb_of_green_ink_on_a_margin_stays_with_its_tissue():
    image = disc(disc(glass(), 150, 100, 60), 150, 100, 8, INKS["green"])
    assert tissue_mask(ArraySlide(image, mpp=8.0)).array()[100, 150]


def test_lumina_are_tissue_and_larger_holes_are_not():
    image = disc(glass(), 150, 100, 95)
    disc(image, 90, 100, 20, GLASS)  # radius 160 um: 80,000 um2
    disc(image, 180, 100, 40, GLASS)  # radius 320 um: 320,000 um2
    slide = ArraySlide(image, mpp=8.0)
    mask = tissue_mask(slide).array()
    assert mask[100, 90]
    assert not mask[100, 180]
    assert tissue_mask(slide, TissueSettings(min_hole_um2=400_000)).array()[100, 180]
    assert not tissue_mask(slide, TissueSettings(min_hole_um2=0)).array()[100, 90]


def test_specks_are_not_tissue_and_larger_pieces_are():
    image = disc(disc(glass(), 60, 60, 4), 160, 100, 9)  # 32 um: 3,200 um2; 72 um: 16,000 um2
    slide = ArraySlide(image, mpp=8.0)
    mask = tissue_mask(slide).array()
    assert not mask[60, 60]
    assert mask[100, 160]
    assert not tissue_mask(slide, TissueSettings(min_area_um2=20_000)).array().any()


def test_glass_at_the_border_of_a_snippet_is_not_filled_and_tissue_is_not_drawn_out_to_the_border():
    image = glass(60, 60, EOSIN)
    image[:, :10] = GLASS
    mask = tissue_mask(ArraySlide(noisy(image), mpp=8.0)).array()
    assert not mask[:, :9].any()
    assert mask[:, 11:].all()
    away = glass(120, 90)
    away[7:60, 7:60] = EOSIN
    mask = tissue_mask(ArraySlide(away, mpp=8.0)).array()
    assert not mask[:6].any()
    assert not mask[:, :6].any()


class Damaged(ArraySlide):
    def read_covered(self, box, frame, *, kernel="box"):
        pixels, _ = super().read_covered(box, frame, kernel=kernel)
        pixels[40:80, 200:240] = 255
        return pixels, [Box(200 * 4, 40 * 4, 40 * 4, 40 * 4)]


def test_what_cannot_be_read_may_be_tissue():
    found = find_tissue(Damaged(disc(glass(1200, 800), 400, 400, 160), mpp=2.0))
    assert found.mask.array()[40:80, 200:240].all()
    assert found.mask.array().mean() == pytest.approx((math.pi * 40**2 + 40**2) / 60_000, rel=0.04)
    assert "0.102 mm2 not readable" in found.explanation


def test_slides_of_floating_point_give_the_same_mask():
    image = noisy(disc(glass(), 150, 100, 60))
    masks = [tissue_mask(ArraySlide(array, mpp=8.0)).array() for array in (image, image.astype("float32") / 255)]
    np.testing.assert_array_equal(*masks)


def test_wide_slides_are_not_transposed():
    image = disc(glass(400, 120), 330, 40, 30)
    mask = tissue_mask(ArraySlide(image, mpp=8.0))
    assert mask.array().shape == (120, 400)
    assert mask.array()[40, 330]
    assert mask.array()[:, :200].sum() == 0


@pytest.mark.parametrize(
    "wrong",
    [{"floor": 0.5}, {"ceiling": 8.0}, {"mpp": 0.0}, {"mpp": math.inf}, {"close_um": -1.0}, {"min_area_um2": math.nan}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        TissueSettings(**wrong)


def test_settings_can_be_varied_from_the_defaults():
    assert replace(TissueSettings(), ceiling=0.1).ceiling == 0.1


def test_colon_biopsies_keep_their_lesions_and_nearly_all_of_their_area(data):
    with (data / "ebhi-seg/index.csv").open() as file:
        rows = list(csv.DictReader(file))[::25]
    kept, lesion = [], []
    for row in rows:
        image, truth = (_read(data / "ebhi-seg" / kind, row["name"]) for kind in ("images", "masks"))
        slide = ArraySlide(image, mpp=1.1)
        mask = tissue_mask(slide).resample(slide.frame).array()
        kept.append(mask.mean())
        if row["class"] in ("adenocarcinoma", "high-grade-in"):
            lesion.append(mask[truth[..., 0] > 127].mean())
    assert np.mean(kept) >= 0.98
    assert np.mean(lesion) >= 0.99
    assert min(lesion) >= 0.95


def _read(folder, name):
    return np.asarray(Image.open(next(folder.glob(f"{name}.*"))).convert("RGB"))
