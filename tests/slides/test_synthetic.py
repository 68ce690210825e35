import itertools

import numpy as np
import openslide
import pytest

from digipath.errors import SpecError
from digipath.io.pyramid import RGB, PyramidSettings, write_pyramid
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

SMALL = {"width": 900, "height": 700, "mpp": 0.5, "lesions": 1}


@pytest.fixture(scope="module")
def slide():
    return SyntheticSlide(SyntheticSettings(**SMALL))


@pytest.fixture(scope="module")
def image(slide):
    return slide.array()


def test_the_same_seed_makes_the_same_slide_and_another_seed_another(slide, image):
    again = SyntheticSlide(SyntheticSettings(**SMALL))
    np.testing.assert_array_equal(again.array(), image)
    assert again.lesions == slide.lesions
    other = SyntheticSlide(SyntheticSettings(**SMALL, seed=1))
    assert other.lesions != slide.lesions and np.abs(other.array().astype(int) - image).mean() > 10


def test_strips_follow_each_other_and_a_row_does_not_depend_on_its_strip(slide, image):
    y = 0
    for top, rows in slide.strips():
        assert top == y and rows.shape[1:] == (900, 3) and rows.dtype == np.uint8
        y += len(rows)
    assert y == 700
    cut = slide._stainer.paint(333, 40, 900).astype(int)
    assert np.abs(cut - image[333:373]).max() <= 1


def test_the_truth_lies_in_the_slide_and_its_parts_do_not_meet(slide):
    assert slide.lesions
    for gland in slide.lesions:
        left, top, right, bottom = gland.bounds
        assert gland.is_valid and left > 0 and top > 0 and right < 900 and bottom < 700
    assert all(not one.intersects(other) for one, other in itertools.combinations(slide.lesions, 2))


@pytest.mark.parametrize("mpp", [0.5, 1.1, 2.0])
def test_the_mask_has_the_area_of_the_outlines_in_every_frame(slide, mpp):
    mask = slide.mask(slide.frame.at(mpp))
    assert mask.values.dtype == bool
    assert mask.area_mm2 == pytest.approx(sum(g.area for g in slide.lesions) * 0.25e-6, rel=0.03)


def test_without_lesions_the_truth_is_empty():
    slide = SyntheticSlide(SyntheticSettings(width=500, height=450, lesions=0))
    assert slide.lesions == () and not slide.mask(slide.frame).values.any()


def test_tumour_is_darker_than_the_rest_and_glass_is_nearly_white(slide, image):
    truth = slide.mask(slide.frame).values
    glass = image[:8, :8]
    assert glass.min() > 240 and glass.std() > 0.1
    tissue = (image.min(2) < 225) & ~truth
    assert 0.3 < (tissue | truth).mean() < 0.95
    assert image[truth].mean() < image[tissue].mean() - 10


def test_tumour_and_normal_tissue_have_the_colours_of_the_compartments_in_real_photographs(image, slide):
    truth = slide.mask(slide.frame).values
    tissue = (image.min(2) < 225) & ~truth
    # Quartiles over EBHI-SEG's training images, widened by ten.
    for pixels, low, high in (
        (image[truth], (85, 40, 140), (140, 95, 200)),
        (image[tissue], (110, 75, 140), (195, 150, 230)),
    ):
        assert ((pixels.mean(0) > low) & (pixels.mean(0) < high)).all()


def test_at_half_the_resolution_it_is_the_same_slide(slide, image):
    half = SyntheticSlide(SyntheticSettings(width=450, height=350, mpp=1.0, lesions=1))
    for one, other in zip(half.lesions, slide.lesions, strict=True):
        assert one.area * 4 == pytest.approx(other.area)
    mean = image.reshape(350, 2, 450, 2, 3).mean((1, 3))
    assert np.corrcoef(half.array().ravel(), mean.ravel())[0, 1] > 0.9


def test_written_as_a_pyramid_it_opens_as_a_slide(slide, image, tmp_path):
    path = tmp_path / "slide.tif"
    settings = PyramidSettings(compression="jpeg")
    write_pyramid(path, slide.frame, slide.strips(), channels=RGB, settings=settings)
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == (900, 700) and float(opened.properties["openslide.mpp-x"]) == 0.5
        pixels = np.asarray(opened.read_region((0, 0), 0, (900, 700)).convert("RGB"))
    assert np.abs(pixels.astype(int) - image).mean() < 8


@pytest.mark.parametrize("bad", [{"mpp": 8}, {"width": 100}, {"lesions": -1}, {"seed": -1}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(SpecError):
        SyntheticSettings(**bad)
