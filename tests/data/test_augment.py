"""Augmentation: image and labels stay together, and a seed says everything."""

import cv2
import numpy as np
import pytest

from digipath.data.augment import Strengths, augment, compress, jitter_colour, jitter_stain, move
from digipath.errors import SpecError

NONE = {
    "scale": (1, 1),
    "brightness": 0,
    "contrast": (1, 1),
    "saturation": (1, 1),
    "hue": 0,
    "stain": 0,
    "stain_shift": 0,
}


def blobs(side=96):
    """An image of round dark cells on pink, and the labels that mark them."""
    labels = np.zeros((side, side), np.uint8)
    for x, y, radius in [(20, 20, 9), (70, 30, 14), (40, 70, 17)]:
        cv2.circle(labels, (x, y), radius, 1, -1)
    return np.where(labels[..., None] == 1, np.uint8([70, 40, 120]), np.uint8([230, 160, 200])), labels


@pytest.mark.parametrize("seed", range(12))
def test_image_and_labels_move_alike(seed):
    image, labels = blobs()
    moved, moved_labels = move(image, labels, rng=np.random.default_rng(seed), strengths=Strengths())
    inside = cv2.erode(moved_labels, np.ones((3, 3))) == 1
    outside = cv2.dilate(moved_labels, np.ones((3, 3))) == 0
    assert inside.sum() > 300 and moved[inside][:, 0].max() < 100
    assert moved[outside][:, 0].min() > 200


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
    changed = change(image, rng=np.random.default_rng(1), strengths=Strengths(**NONE))
    assert np.abs(changed.astype(int) - image).max() <= 1


def test_only_flips_and_quarter_turns_are_left_without_strength():
    shares = dict.fromkeys(("turn", "colour", "stained", "blurred", "sharpened", "compressed", "noisy"), 0)
    image, labels = blobs()
    changed, _ = augment(image, labels, seed=3, strengths=Strengths(**shares))
    assert any(
        np.array_equal(changed, side[::step]) for k in range(4) for step in (1, -1) for side in [np.rot90(image, k)]
    )


def test_stain_jitter_keeps_light_and_dark_apart():
    image, labels = blobs()
    for seed in range(10):
        changed = jitter_stain(image, rng=np.random.default_rng(seed), strengths=Strengths())
        assert changed[labels == 1].mean() + 40 < changed[labels == 0].mean()


def test_compression_keeps_the_order_of_colours():
    red = np.full((32, 32, 3), np.uint8([200, 30, 60]))
    np.testing.assert_allclose(compress(red, quality=90), red, atol=6)


@pytest.mark.parametrize("changes", [{"turn": 1.5}, {"scale": (1.2, 0.8)}, {"blur": (0, 1)}, {"jpeg": (50, 120)}])
def test_impossible_strengths_are_refused(changes):
    with pytest.raises(SpecError, match="got"):
        Strengths(**changes)
