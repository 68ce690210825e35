"""Laws of where patches lie."""

import numpy as np
import pytest
import shapely

from digipath.data.case import Case
from digipath.data.cohort import Cohort
from digipath.data.labels import label_source
from digipath.data.pool import Pool
from digipath.data.sampling import (
    AllTissue,
    Grid,
    HardNegatives,
    Images,
    Strata,
    Tiles,
    TumourNormal,
    WholePatches,
    _moved,
)
from digipath.errors import SpecError
from digipath.geometry.frame import Box
from digipath.geometry.polygons import Annotation
from digipath.geometry.raster import Raster
from digipath.slides.array import ArraySlide

PATCH = 32


def stained(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Pink with grain."""
    grain = np.random.default_rng(seed).integers(-20, 20, (height, width, 3))
    return np.clip(np.array([200, 120, 180]) + grain, 0, 255).astype(np.uint8)


def slide(name: str, *, tissue: Box | None = None, side: int = 400) -> ArraySlide:
    """Tissue on glass, at 4 um per pixel."""
    pixels = np.full((side, side, 3), 240, np.uint8)
    box = tissue or Box(40, 40, 300, 300)
    pixels[box.slices()] = stained(box.height, box.width)
    return ArraySlide(pixels, mpp=4.0, name=name)


def area(left: int, top: int, right: int, bottom: int) -> Annotation:
    return Annotation("tumour", shapely.box(left, top, right, bottom))


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """A slide with a large tumour, one with a small one, one without, and an empty one."""
    return Cohort(
        [
            Case(slide=slide("large"), annotations=(area(60, 60, 180, 260),)),
            Case(slide=slide("small"), annotations=(area(300, 300, 310, 309),)),
            Case(slide=slide("normal"), label="other"),
            Case(slide=slide("glass", tissue=Box(0, 0, 0, 0)), label="other"),
        ]
    )


@pytest.fixture
def pool(cohort) -> Pool:
    return Pool(cohort, mpp=4.0, patch=PATCH, threads=2)


def tumour_pixels(cohort: Cohort, draws: np.ndarray, *, patch: int = PATCH, mpp: float = 4.0) -> np.ndarray:
    counts = []
    for case, x, y in draws.tolist():
        frame = cohort[case].slide.frame.at(mpp)
        labels = label_source(cohort[case], cohort).read(Box(x, y, patch, patch), frame)
        counts.append(int((labels == 1).sum()))
    return np.array(counts)


@pytest.mark.parametrize("jitter", [0, 16, 128])
def test_even_draws_hold_tumour_and_odd_ones_none_even_after_being_moved(cohort, pool, jitter):
    sampler = TumourNormal(per_slide=40, jitter=jitter).plan(pool, seed=1)
    for epoch in range(3):
        pixels = tumour_pixels(cohort, sampler.epoch(epoch))
        assert len(pixels) == 2 * 2 * 40  # two slides have tumour
        assert (pixels[::2] > 0).all()
        assert (pixels[1::2] == 0).all()


def test_moved_patches_stay_on_the_slide(pool):
    draws = TumourNormal(per_slide=50).plan(pool).epoch(0)
    assert draws[:, 1:].min() >= 0
    assert draws[:, 1:].max() <= 400 - PATCH


def test_a_centre_is_moved_uniformly_in_a_disc():
    free = np.tile(np.array([0, 500, 500, -500, 500, -500, 500]), (20_000, 1))
    shift = _moved(free, 128, np.random.default_rng(0))[:, 1:] - 500
    distance = np.hypot(*shift.T)
    assert 126 < distance.max() < 128.8  # of whole pixels
    assert (distance < 128 / np.sqrt(2)).mean() == pytest.approx(0.5, abs=0.01)  # half of the area
    assert np.abs(shift.mean(0)).max() < 1


def test_draws_are_a_function_of_seed_and_epoch_whatever_the_threads(cohort):
    plans = [
        TumourNormal(per_slide=30).plan(Pool(cohort, mpp=4.0, patch=PATCH, threads=threads), seed=5)
        for threads in (1, 4)
    ]
    later = plans[0].epoch(3)
    plans[1].epoch(0)
    np.testing.assert_array_equal(plans[1].epoch(3), later)
    assert not np.array_equal(plans[0].epoch(2), later)
    other = TumourNormal(per_slide=30).plan(Pool(cohort, mpp=4.0, patch=PATCH), seed=6)
    assert not np.array_equal(other.epoch(3), later)


def test_a_slide_without_tissue_is_told_of_and_gives_nothing(pool):
    sampler = TumourNormal(per_slide=20).plan(pool)
    assert len(sampler.told) == 1
    assert "glass: no tissue" in sampler.told[0]
    assert 3 not in sampler.epoch(0)[:, 0]


def test_a_tumour_too_small_to_be_found_is_told_of():
    tiny = Case(slide=slide("tiny"), annotations=(area(101, 101, 102, 102),))
    both = Cohort([tiny, Case(slide=slide("large"), annotations=(area(60, 60, 180, 260),))])
    sampler = TumourNormal(per_slide=5).plan(Pool(both, mpp=4.0, patch=64))
    assert "tiny: its tumour falls between pixels of 16 um" in sampler.told[0]


def test_a_cohort_without_tumour_says_what_to_do():
    pool = Pool(Cohort([Case(slide=slide("normal"), label="other")]), mpp=4.0, patch=PATCH)
    with pytest.raises(SpecError, match="no case has a tumour patch"):
        TumourNormal(per_slide=5).plan(pool)


def test_ignored_tissue_gives_no_normal_patches():
    labels = np.full((400, 400), 2, np.uint8)
    labels[40:340, 40:190] = 0
    labels[100:120, 50:100] = 1
    made = slide("part")
    cohort = Cohort([Case(slide=made, mask=Raster(labels, made.frame))], mask_values={0: "other", 1: "lesion", 2: None})
    draws = TumourNormal(per_slide=60, jitter=0).plan(Pool(cohort, mpp=4.0, patch=PATCH)).epoch(0)
    assert (draws[1::2, 1] + PATCH // 2 < 190 + PATCH).all()


def test_draws_are_counted_in_the_frame_of_the_recipe(cohort):
    sampler = TumourNormal(per_slide=30).plan(Pool(cohort, mpp=8.0, patch=16))
    draws = sampler.epoch(0)
    assert draws[:, 1:].max() <= 200 - 16
    pixels = tumour_pixels(cohort, draws, patch=16, mpp=8.0)
    assert (pixels[::2] > 0).all()
    assert (pixels[1::2] == 0).all()


def test_validation_covers_the_tissue_once_and_never_changes(cohort, pool):
    sampler = Grid().plan(pool, seed=1)
    draws = sampler.epoch(0)
    np.testing.assert_array_equal(draws, Grid().plan(Pool(cohort, mpp=4.0, patch=PATCH), seed=2).epoch(7))
    for case in range(3):
        seen = np.zeros((416, 416), int)
        for x, y in draws[draws[:, 0] == case, 1:].tolist():
            seen[y : y + PATCH, x : x + PATCH] += 1
        assert seen.max() == 1
        assert (seen[40:340, 40:340] == 1).all()
    assert 3 not in draws[:, 0]


def test_a_limited_grid_is_spread_over_all(pool):
    every, some = Grid().plan(pool).epoch(0), Grid(limit=20).plan(pool).epoch(0)
    assert len(some) == 20
    assert set(map(tuple, some.tolist())) <= set(map(tuple, every.tolist()))
    assert set(some[:, 0].tolist()) == {0, 1, 2}


def test_all_tissue_is_the_grid_in_a_new_order_each_epoch(pool):
    every = Grid().plan(pool).epoch(0).tolist()
    sampler = AllTissue().plan(pool, seed=2)
    first, second = sampler.epoch(0).tolist(), sampler.epoch(1).tolist()
    assert first != second
    assert sorted(first) == sorted(second) == sorted(every)


def test_overlapping_patches_are_as_many_times_more(pool):
    assert len(AllTissue(stride=PATCH // 2).plan(pool).epoch(0)) > 3.4 * len(AllTissue().plan(pool).epoch(0))


def test_a_balanced_epoch_has_all_tumour_patches_and_other_normal_ones(cohort, pool):
    sampler = AllTissue(balance=1.0).plan(pool)
    tumour, normal = sampler.report["tumour_patches"], sampler.report["normal_patches"]
    assert 0 < tumour < normal
    seen = []
    for epoch in range(2):
        draws = sampler.epoch(epoch)
        pixels = tumour_pixels(cohort, draws)
        assert (pixels > 0).sum() == (pixels == 0).sum() == tumour
        seen.append(set(map(tuple, draws[pixels == 0].tolist())))
    assert seen[0] != seen[1]
    assert len(sampler.epoch(0)) < len(AllTissue(balance=2.0).plan(pool).epoch(0)) == 3 * tumour


def test_whole_patches_cover_what_is_labelled_once_and_drop_the_rest():
    labels = np.full((400, 400), 9, np.uint8)
    labels[100:230, 90:300] = 0
    labels[120:150, 90:120] = 1
    made = slide("regions")
    cohort = Cohort([Case(slide=made, mask=Raster(labels, made.frame))], mask_values={0: "other", 1: "lesion", 9: None})
    sampler = WholePatches().plan(Pool(cohort, mpp=4.0, patch=PATCH))
    assert sampler.outside == 0
    seen = np.zeros((416, 416), int)
    for _, x, y in sampler.epoch(0).tolist():
        seen[y : y + PATCH, x : x + PATCH] += 1
        assert (labels[y : y + PATCH, x : x + PATCH] != 9).any()
    assert seen.max() == 1
    assert (seen[:400, :400][labels != 9] == 1).all()


def test_tiles_lie_in_the_slide_after_down_sampling(pool):
    sampler = Tiles(downsample=2.0, stride=PATCH // 2).plan(pool)
    assert sampler.mpp == 8.0
    draws = sampler.epoch(0)
    assert draws[:, 1:].max() < 200
    assert (draws[:, 1:] % (PATCH // 2) == 0).all()
    np.testing.assert_array_equal(np.sort(Tiles().plan(pool).epoch(0), 0), np.sort(Grid().plan(pool).epoch(0), 0))


def test_hard_negatives_show_errors_on_normal_tissue_evenly_between_the_others(cohort, pool):
    wrong = np.zeros((100, 100), bool)  # at a quarter of the resolution
    wrong[70:74, 20:24] = wrong[30, 30] = True  # the second is inside of the tumour
    errors = {"large": Raster(wrong, cohort[0].slide.frame.coarser(4))}
    base = TumourNormal(per_slide=30)
    sampler = HardNegatives(base=base, errors=errors, share=0.25, per_slide=50).plan(pool, seed=4)
    mixed, plain = sampler.epoch(2), base.plan(pool, seed=4).epoch(2)
    assert len(mixed) == 160
    hard = np.array([row not in plain.tolist() for row in mixed.tolist()])
    assert hard.sum() == 40
    np.testing.assert_array_equal(mixed[~hard], plain)
    assert (hard.reshape(-1, 8).sum(1) == 2).all()
    assert (mixed[hard, 0] == 0).all()
    for x, y in mixed[hard, 1:].tolist():  # the wrong region, not the tumour
        assert 80 - PATCH < x < 96
        assert 280 - PATCH < y < 296
    np.testing.assert_array_equal(
        HardNegatives(base=base, errors=errors, share=0.25, per_slide=50).plan(pool, seed=4).epoch(2), mixed
    )


def test_no_errors_are_told_of():
    made = slide("normal")
    cohort = Cohort([Case(slide=made, label="other")])
    errors = {"normal": Raster(np.zeros((400, 400), bool), made.frame)}
    sampler = HardNegatives(base=AllTissue(), errors=errors).plan(Pool(cohort, mpp=4.0, patch=PATCH))
    assert "no hard negatives" in sampler.told[-1]
    assert len(sampler.epoch(0)) > 0


@pytest.fixture(scope="module")
def photographs() -> Cohort:
    made = [ArraySlide(stained(PATCH, PATCH, seed=index), mpp=1.0, name=str(index)) for index in range(12)]
    labels = ["normal"] * 2 + ["tumour"] * 10
    patients = ["a", "b", *["c"] * 9, "d"]
    cases = [
        Case(slide=each, label=label, patient=patient)
        for each, label, patient in zip(made, labels, patients, strict=True)
    ]
    return Cohort(cases, groups={"normal": "other", "tumour": "lesion"})


def test_images_are_drawn_by_class_and_patients_by_the_root_of_their_images(photographs):
    sampler = Images(shares={"normal": 3, "tumour": 1}, per_epoch=8000).plan(Pool(photographs, mpp=1.0, patch=PATCH))
    draws = sampler.epoch(0)
    assert draws.shape == (8000, 3)
    assert (draws[:, 1:] == 0).all()
    share = np.bincount(draws[:, 0], minlength=12) / 8000
    assert share[:2].sum() == pytest.approx(0.75, abs=0.03)
    assert share[2:11].sum() / share[11] == pytest.approx(3, rel=0.2)  # nine images of one patient against one


def test_images_without_shares_come_as_often_as_they_are(photographs):
    draws = Images().plan(Pool(photographs, mpp=1.0, patch=PATCH)).epoch(1)
    assert len(draws) == 12


def test_an_image_of_another_size_than_the_patch_is_cut_or_lies_in_its_middle():
    cases = [
        Case(slide=ArraySlide(stained(side, side), mpp=1.0, name=str(side)), label="other") for side in (20, PATCH, 50)
    ]
    draws = Images(per_epoch=300).plan(Pool(Cohort(cases), mpp=1.0, patch=PATCH)).epoch(0)
    assert (draws[draws[:, 0] == 0, 1:] == -6).all()
    assert (draws[draws[:, 0] == 1, 1:] == 0).all()
    large = draws[draws[:, 0] == 2, 1:]
    assert large.min() == 0
    assert large.max() == 50 - PATCH


def test_shares_that_miss_a_label_are_refused(photographs):
    with pytest.raises(SpecError, match="'tumour' is in one of them alone"):
        Images(shares={"normal": 1.0}).plan(Pool(photographs, mpp=1.0, patch=PATCH))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TumourNormal(per_slide=0),
        lambda: TumourNormal(jitter=-1),
        lambda: Grid(stride=0),
        lambda: Grid(limit=0),
        lambda: AllTissue(stride=0),
        lambda: AllTissue(balance=0),
        lambda: Tiles(downsample=0.5),
        lambda: Strata(table=()),
        lambda: Strata(stride=0),
        lambda: HardNegatives(base=Grid(), errors={}, share=1.0),
        lambda: Images(per_epoch=0),
        lambda: Images(shares={"a": -1.0}),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(SpecError):
        make()
