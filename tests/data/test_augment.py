"""Augmentation: image and labels stay together, and a seed says everything."""

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from digipath.data.augment import (
    NONE,
    RECIPES,
    Strengths,
    _displacement,
    augment,
    compress,
    jitter_colour,
    jitter_stain,
    move,
    recolour,
)
from digipath.errors import SpecError


def blobs(side=96):
    """An image of round dark cells on pink, and the labels that mark them."""
    labels = np.zeros((side, side), np.uint8)
    for x, y, radius in [(20, 20, 9), (70, 30, 14), (40, 70, 17)]:
        cv2.circle(labels, (x, y), radius, 1, -1)
    return np.where(labels[..., None] == 1, np.uint8([70, 40, 120]), np.uint8([230, 160, 200])), labels


GEOMETRY = [
    {"turn": 1.0, "scale": (0.8, 1.25)},
    {"deformed": 1.0, "elastic": 8.0},
    {"deformed": 1.0, "elastic": 3.0, "smoothness": 12.0, "turn": 1.0, "scale": (0.7, 1.4)},
]


@pytest.mark.parametrize("changes", GEOMETRY, ids=["turned", "deformed", "both"])
@pytest.mark.parametrize("seed", range(6))
def test_image_and_labels_move_alike(changes, seed):
    image, labels = blobs()
    strengths = replace(NONE, flip=True, quarters=True, **changes)
    moved, moved_labels = move(image, labels, rng=np.random.default_rng(seed), strengths=strengths)
    assert not np.array_equal(moved, image)
    inside = cv2.erode(moved_labels, np.ones((5, 5))) == 1
    outside = cv2.dilate(moved_labels, np.ones((5, 5))) == 0
    assert inside.sum() > 300 and moved[inside][:, 0].max() < 100
    assert moved[outside][:, 0].min() > 200


@pytest.mark.parametrize("changes", [{}, *GEOMETRY], ids=["flipped", "turned", "deformed", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_an_image_that_shows_where_it_was_tells_where_its_labels_were(changes, seed):
    """Red and green are position; the labels are what a lookup at that position says, borders between labels apart."""
    y, x = np.mgrid[:128, :128].astype(np.uint8)
    labels = ((x // 32) + 2 * (y // 48)).astype(np.uint8)
    strengths = replace(NONE, flip=True, quarters=True, **changes)
    rng = np.random.default_rng(seed)
    moved, moved_labels = move(np.dstack([x, y, y]), labels, rng=rng, strengths=strengths)
    near = np.ones((5, 5))
    sure = cv2.dilate(moved_labels, near) == cv2.erode(moved_labels, near)
    expected = (moved[..., 0] // 32) + 2 * (moved[..., 1] // 48)
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(moved_labels[sure], expected[sure])


def test_quarter_turns_and_flips_are_the_eight_exact_permutations():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    labels, exact = image[..., 0].copy(), {}
    for k in range(4):
        for step in (1, -1):
            exact[np.rot90(image, k)[:, ::step].tobytes()] = np.rot90(labels, k)[:, ::step]
    seen = set()
    for seed in range(80):
        changed, changed_labels = augment(image, labels, seed=seed, strengths=RECIPES["tiger"])
        np.testing.assert_array_equal(changed_labels, exact[changed.tobytes()])
        seen.add(changed.tobytes())
    assert seen == set(exact)


@pytest.mark.parametrize(
    ("changes", "count"), [({"flip": True}, 2), ({"quarters": True}, 4), ({"flip": True, "quarters": True}, 8)]
)
def test_flips_and_quarter_turns_are_asked_for_apart(changes, count):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    labels = image[..., 0]
    changed = {augment(image, labels, seed=seed, strengths=replace(NONE, **changes))[0].tobytes() for seed in range(80)}
    assert len(changed) == count


def test_no_strength_at_all_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    for seed in range(5):
        changed, labels = augment(image, image[..., 0], seed=seed, strengths=RECIPES["microdosimetry"])
        np.testing.assert_array_equal(changed, image)
        np.testing.assert_array_equal(labels, image[..., 0])


def test_every_change_of_no_amount_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    shares = dict.fromkeys(("deformed", "colour", "stained", "sharpened", "noisy"), 1.0)
    changed, labels = augment(image, image[..., 0], seed=0, strengths=replace(NONE, **shares))
    assert np.abs(changed.astype(int) - image).max() <= 2
    np.testing.assert_array_equal(labels, image[..., 0])


def test_a_deformation_is_as_large_as_it_says_and_smooth():
    strengths = replace(NONE, deformed=1.0, elastic=8.0)
    fields = [_displacement((256, 200), rng=np.random.default_rng(k), strengths=strengths) for k in range(40)]
    spread = np.sqrt(np.mean([(field**2).mean() for field in fields]))
    assert spread == pytest.approx(8 / np.sqrt(3), rel=0.2)  # the root mean square of an amplitude from 0 to 8
    steps = np.sqrt(np.mean([(np.diff(field, axis=0) ** 2).mean() for field in fields]))
    assert steps == pytest.approx(spread / (np.sqrt(2) * strengths.smoothness), rel=0.2)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_sizes_types_and_labels(name):
    image, labels = blobs()
    labels[:20] = 255
    for seed in range(8):
        changed, changed_labels = augment(image, labels, seed=seed, strengths=RECIPES[name])
        assert changed.shape == image.shape and changed_labels.shape == labels.shape
        assert changed.dtype == changed_labels.dtype == np.uint8
        assert {0, 1, 255} == set(np.unique(changed_labels))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_for_the_same_seed(name):
    image, labels = blobs()
    first, second = (augment(image, labels, seed=(3, 5), strengths=RECIPES[name]) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_maximum_deltas_of_digipathai_are_factors_of_one_plus_minus_them():
    """Khened et al. 2021, and the order of saturation and hue in the code that they published."""
    strengths = RECIPES["digipathai"]
    deltas = [(high - low) / 2 for low, high in (strengths.gain, strengths.contrast, strengths.saturation)]
    np.testing.assert_allclose(deltas, [64 / 255, 0.75, 0.25])
    np.testing.assert_allclose([sum(strengths.gain), sum(strengths.contrast), sum(strengths.saturation)], 2)
    assert strengths.hue == 0.04 and strengths.brightness == 0 and strengths.blur == (0, 0.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gain": (1.2, 1.2)}, lambda image, grey: image * 1.2),
        ({"contrast": (0.5, 0.5)}, lambda image, grey: 0.5 * image + 0.5 * grey.mean()),
        ({"saturation": (0.7, 0.7)}, lambda image, grey: 0.7 * image + 0.3 * grey),
        (
            {"gain": (0.9, 0.9), "contrast": (1.2, 1.2)},
            lambda image, grey: 1.2 * 0.9 * image - 0.2 * 0.9 * grey.mean(),
        ),
    ],
    ids=["brightness", "contrast", "saturation", "brightness and contrast"],
)
def test_factors_of_colour_are_those_of_the_formula(changes, expected):
    image = np.random.default_rng(0).integers(40, 200, (32, 32, 3), dtype=np.uint8)
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    changed = jitter_colour(image, rng=np.random.default_rng(1), strengths=replace(NONE, **changes))
    np.testing.assert_allclose(changed, np.clip(expected(image.astype(float), grey), 0, 255), atol=1)


def test_hue_turns_and_brightness_stays():
    image = np.random.default_rng(0).integers(60, 180, (32, 32, 3), dtype=np.uint8)
    changed = jitter_colour(image, rng=np.random.default_rng(1), strengths=replace(NONE, hue=0.04))
    grey = [pixels @ [0.299, 0.587, 0.114] for pixels in (image, changed)]
    assert np.abs(grey[0] - grey[1]).max() < 1.5 and np.abs(changed.astype(int) - image).max() > 3


def test_strengths_can_be_written_down_and_read_again():
    for strengths in RECIPES.values():
        assert Strengths(**asdict(strengths)) == strengths


def test_a_blur_of_nothing_is_no_blur():
    image, _ = blobs()
    strengths = replace(NONE, blurred=1.0, blur=(0.0, 0.0))
    np.testing.assert_array_equal(recolour(image, rng=np.random.default_rng(0), strengths=strengths), image)


def test_labels_stay_labels():
    image, labels = blobs()
    labels[:20] = 255
    for seed in range(8):
        assert set(np.unique(augment(image, labels, seed=seed)[1])) <= {0, 1, 255}


def test_the_same_seed_gives_the_same_result():
    image, labels = blobs()
    first, second, other = (augment(image, labels, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_a_generator_goes_on_where_it_was():
    rng = np.random.default_rng(0)
    image, labels = blobs()
    assert not np.array_equal(augment(image, labels, seed=rng)[0], augment(image, labels, seed=rng)[0])


def test_what_comes_in_is_not_changed():
    image, labels = blobs()
    kept = image.copy(), labels.copy()
    for seed in range(5):
        augment(image, labels, seed=seed)[0][:] = 0
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


@pytest.mark.parametrize("change", [jitter_colour, jitter_stain])
def test_no_strength_is_no_change(change):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    changed = change(image, rng=np.random.default_rng(1), strengths=NONE)
    assert np.abs(changed.astype(int) - image).max() <= 1


def test_stain_jitter_keeps_light_and_dark_apart():
    image, labels = blobs()
    for seed in range(10):
        changed = jitter_stain(image, rng=np.random.default_rng(seed), strengths=Strengths())
        assert changed[labels == 1].mean() + 40 < changed[labels == 0].mean()


def test_compression_keeps_the_order_of_colours():
    red = np.full((32, 32, 3), np.uint8([200, 30, 60]))
    np.testing.assert_allclose(compress(red, quality=90), red, atol=6)


@pytest.mark.parametrize(
    "changes",
    [
        {"turn": 1.5},
        {"scale": (1.2, 0.8)},
        {"blur": (-1, 1)},
        {"jpeg": (50, 120)},
        {"hue": -0.1},
        {"smoothness": 0},
        {"elastic": 9.0, "deformed": 0.5},
    ],
)
def test_impossible_strengths_are_refused(changes):
    with pytest.raises(SpecError, match="got"):
        Strengths(**changes)
