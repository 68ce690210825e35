"""Stains: what was mixed is found again, and two renderings of one tissue become alike."""

import warnings

import cv2
import numpy as np
import pytest

from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.slides.array import ArraySlide
from digipath.slides.stain import (
    REFERENCE,
    StainError,
    Stains,
    estimate,
    map_density,
    normalise,
    slide_stains,
    stains_for,
)

# The method leaves out a pixel that any channel hardly shows, so even pure eosin takes some red here.
BLUE = Stains(haematoxylin=(0.60, 0.72, 0.34871), eosin=(0.28, 0.90, 0.33407), maxima=(1.5, 1.4))
BROWN = Stains(haematoxylin=(0.70, 0.55, 0.45552), eosin=(0.30, 0.75, 0.58949), maxima=(2.2, 1.4))


def amounts(side=200, seed=0):
    """(side, side, 2): how much haematoxylin and eosin there is: glass, pure nuclei, pure cytoplasm and mixtures."""
    rng = np.random.default_rng(seed)
    fields = cv2.GaussianBlur(rng.standard_normal((side, side, 2)), (0, 0), 3)
    fields = np.clip(fields / fields.std((0, 1)) * 0.35 + 0.4, 0, 1)
    nuclei, cytoplasm = fields[..., 0] > 0.8, fields[..., 0] < 0.1
    fields[nuclei, 1], fields[cytoplasm, 0] = 0, 0
    fields[: side // 8] = 0
    return fields


def paint(units, stains, *, noise=0.0):
    """What a scanner sees of these units (1 is the stain's maximum) of two stains."""
    density = (units * stains.maxima) @ stains.matrix.T
    noisy = 240 * np.exp(-density) - 1 + np.random.default_rng(1).normal(0, noise, density.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def colour_difference(one, other):
    return np.abs(one.astype(float) - other).mean()


@pytest.mark.parametrize("truth", [BLUE, BROWN, REFERENCE], ids=["blue", "brown", "reference"])
@pytest.mark.parametrize("noise", [0, 2])
def test_two_known_stains_are_found_again(truth, noise):
    found = estimate(paint(amounts(), truth, noise=noise))
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=0.03)
    np.testing.assert_allclose(found.maxima, truth.maxima, rtol=0.1)


def test_the_order_of_the_stains_does_not_depend_on_how_much_there_is_of_each():
    much_eosin, much_blue = (estimate(paint(amounts() * share, BLUE)) for share in ([0.5, 1.5], [1.5, 0.5]))
    np.testing.assert_allclose(much_eosin.matrix, much_blue.matrix, atol=0.05)


def test_two_renderings_of_one_tissue_become_alike():
    """At least four times closer than they were."""
    one, other = (paint(amounts(), stains) for stains in (BLUE, BROWN))
    normal = [normalise(image, estimate(image)) for image in (one, other)]
    assert colour_difference(*normal) < colour_difference(one, other) / 4


def test_what_is_normal_already_changes_little():
    image = paint(amounts(), BLUE)
    once = normalise(image, estimate(image))
    assert colour_difference(normalise(once, estimate(once)), once) < 1.5


def test_the_reference_becomes_itself():
    image = paint(amounts(), REFERENCE)
    assert np.abs(normalise(image, REFERENCE).astype(int) - image).max() <= 1


def test_normalising_agrees_with_the_published_formula():
    image = paint(amounts(), BROWN, noise=3)
    density = -np.log((image.reshape(-1, 3).T + 1.0) / 240)
    units = np.linalg.lstsq(BROWN.matrix, density, rcond=None)[0]
    units *= np.divide(REFERENCE.maxima, BROWN.maxima)[:, None]
    published = np.clip(240 * np.exp(-REFERENCE.matrix @ units), 0, 255).T.reshape(image.shape)
    assert np.abs(normalise(image, BROWN) - published).max() <= 2


@pytest.mark.parametrize("stains", [BLUE, BROWN, REFERENCE])
def test_glass_stays_white(stains):
    glass = np.repeat(np.arange(240, 256, dtype=np.uint8), 3).reshape(1, -1, 3)
    assert normalise(glass, stains).min() >= 238


def test_a_batch_is_normalised_as_its_images_are():
    images = np.stack([paint(amounts(seed=seed), BLUE) for seed in range(3)])
    for image, normal in zip(images, normalise(images, BLUE), strict=True):
        np.testing.assert_array_equal(normal, normalise(image, BLUE))


def test_a_part_is_normalised_as_in_the_whole():
    image = np.random.default_rng(0).integers(0, 256, (700, 300, 3), dtype=np.uint8)
    np.testing.assert_array_equal(normalise(image, BLUE)[430:600, 20:70], normalise(image[430:600, 20:70], BLUE))


def test_the_identity_of_density_is_no_change():
    image = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    for white in (240.0, 256.0):
        np.testing.assert_array_equal(map_density(image, np.eye(3), white=white), image)


def test_density_is_added_in_the_fourth_column():
    image = np.full((4, 4, 3), 199, np.uint8)
    changed = map_density(image, np.column_stack([np.eye(3), [0, 0.1, 0]]))
    np.testing.assert_array_equal(changed[0, 0], [199, round(200 * np.exp(-0.1) - 1), 199])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.full((100, 100, 3), 250, np.uint8), "stained pixels"),
        (np.zeros((0, 3), np.uint8), "stained pixels"),
        (paint(amounts() * [0, 1], BLUE), "one stain"),
        (np.full((100, 100, 3), np.uint8([150, 90, 160])), "one stain"),
    ],
    ids=["glass", "nothing", "eosin", "one colour"],
)
def test_too_little_to_tell_is_an_error(image, says):
    with pytest.raises(StainError, match=says):
        estimate(image)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.uint8([1, 2, 3])])
def test_only_rgb_is_normalised(image):
    with pytest.raises(SpecError, match="uint8 RGB"):
        normalise(image, REFERENCE)


@pytest.mark.parametrize(
    "changes",
    [{"eosin": (0.5, 0.5, 0.5)}, {"eosin": REFERENCE.haematoxylin}, {"maxima": (0, 1)}, {"maxima": (1,)}],
)
def test_impossible_stains_are_refused(changes):
    fields = {"haematoxylin": REFERENCE.haematoxylin, "eosin": REFERENCE.eosin, "maxima": (1.0, 1.0)} | changes
    with pytest.raises(SpecError, match="got"):
        Stains(**fields)


def half_tissue():
    """A slide at 0.5 um/px whose left half is tissue."""
    image = np.full((800, 900, 3), 250, np.uint8)
    image[100:700, :450] = paint(amounts(600), BLUE)[:, :450]
    return image


def test_a_slides_stains_do_not_depend_on_what_is_around_its_tissue():
    image = half_tissue()
    found = slide_stains(ArraySlide(image, mpp=0.5))
    wider = np.full((1600, 1500, 3), 250, np.uint8)
    wider[512:1312, 512:1412] = image  # a whole number of squares, so that the same ones are looked at
    moved = slide_stains(ArraySlide(wider, mpp=0.5))
    np.testing.assert_allclose(found.matrix, moved.matrix, atol=0.02)
    np.testing.assert_allclose(found.maxima, moved.maxima, rtol=0.05)


def test_the_same_slide_has_the_same_stains():
    first, second = (slide_stains(ArraySlide(half_tissue(), mpp=0.5)) for _ in range(2))
    assert first == second


def test_a_slide_smaller_than_one_square_is_looked_at_whole():
    image = paint(amounts(), BLUE)[40:]
    np.testing.assert_allclose(slide_stains(ArraySlide(image, mpp=1.1)).matrix, BLUE.matrix, atol=0.05)


def test_colours_stay_where_the_stains_cannot_be_told_and_a_warning_says_so():
    slide = ArraySlide(np.full((300, 300, 3), 252, np.uint8), mpp=1.0)
    with pytest.warns(UserWarning, match="The colours of array are not normalised: stains are told from 1000"):
        assert stains_for(slide, "macenko") is None


def test_no_normalisation_reads_nothing():
    class Unread(ArraySlide):
        def read_covered(self, *_, **__):
            raise AssertionError("read")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stains_for(Unread(half_tissue(), mpp=0.5), "none") is None


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(SpecError, match="reinhard"):
        stains_for(ArraySlide(half_tissue(), mpp=0.5), "reinhard")


def test_a_real_slide_shows_haematoxylin_and_eosin(data):
    from digipath.slides.slide import open_slide

    with open_slide(data / "slides/CMU-1-Small-Region.svs") as slide:
        stains = slide_stains(slide)
        pixels = slide.read(Box(600, 900, 300, 300), slide.frame.at(1.0))
    assert stains.haematoxylin[0] > 2 * stains.eosin[0] and stains.eosin[1] > 0.75
    assert normalise(pixels, stains).shape == pixels.shape
