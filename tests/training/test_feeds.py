"""What a run learns from and is judged by, and the parts of a cohort that are refused."""

import dataclasses

import numpy as np
import pytest

from digipath.data.augment import RECIPES as AUGMENTATIONS
from digipath.data.cohort import Case, Cohort
from digipath.data.sampling import Tiles
from digipath.errors import TrainingError
from digipath.geometry.raster import Raster
from digipath.slides.array import ArraySlide
from digipath.training.feeds import feeds_of, parts_of
from digipath.training.recipes import recipe


def case(name, *, lesion=True, split="train"):
    noise = np.random.default_rng(len(name)).integers(0, 30, (96, 96, 3))
    image = (np.array([200, 80, 160]) + noise).astype(np.uint8)  # as tissue, beside some glass
    image[:8, :8] = 245
    slide = ArraySlide(image, mpp=1.0, name=name)
    mask = np.zeros((96, 96), bool)
    mask[20:40, 50:70] = lesion
    return Case(slide=slide, mask=Raster(mask, slide.frame), split=split)


def tiles(**changes):
    given = {"mpp": 1.0, "patch": 32, "batch": 4, "sampling": Tiles(), "augmentation": AUGMENTATIONS["light"]}
    return dataclasses.replace(recipe("microdosimetry"), **(given | changes))


def feeds(cohort, chosen):
    return feeds_of(parts_of(cohort), chosen, threads=1)


def test_validation_shows_every_patch_once_as_it_is_in_every_epoch():
    cohort = Cohort([case("one"), case("other", split="val")])
    val = feeds(cohort, tiles(pasted=1.0, seed=3))["val"]
    corners = val.draws(0)[:, 1:].tolist()
    assert sorted(corners) == sorted([x, y] for x in (0, 32, 64) for y in (0, 32, 64))
    whole = cohort[1].slide.read(cohort[1].slide.frame.box, cohort[1].slide.frame)
    assert [val.make(5, number)[0].shape[0] for number in range(val.count(5))] == [4, 4, 1]
    for number in range(3):
        images, labels = val.make(5, number)
        for image, label, (x, y) in zip(images, labels, corners[4 * number :], strict=False):
            np.testing.assert_array_equal(image, whole[y : y + 32, x : x + 32])
            np.testing.assert_array_equal(label == 1, cohort[1].mask.values[y : y + 32, x : x + 32])


@pytest.mark.parametrize("bare", ["train", "val"])
def test_a_part_without_tumour_teaches_and_judges_nothing(bare):
    cohort = Cohort([case(split, lesion=split != bare, split=split) for split in ("train", "val")])
    with pytest.raises(TrainingError, match=f"'{bare}' must show the class 'lesion', and none of its 9 patches"):
        feeds(cohort, tiles())


def test_a_part_that_fills_no_batch_says_how_many_patches_there_are():
    cohort = Cohort([case("one"), case("other", split="val")])
    with pytest.raises(TrainingError, match=r"a batch of 64 patches and gives 9.*--set batch=9"):
        feeds(cohort, tiles(batch=64))


def test_cases_in_no_split_are_told_and_both_parts_are_needed():
    cases = [case("one"), case("other", split="val"), case("forgotten", split=None), case("held", split="test")]
    with pytest.warns(UserWarning, match=r"1 of 4 cases are in no split and so left out \(forgotten\)"):
        parts = parts_of(Cohort(cases))
    assert [each.name for part in parts.values() for each in part] == ["one", "other"]
    with pytest.raises(TrainingError, match=r"none of 'val'.*--val 0\.2"):
        parts_of(Cohort(cases[:1]))
