"""The table of the bcc paper, and laws of strata."""

import numpy as np
import pytest
import shapely

from digipath.data.case import Case
from digipath.data.cohort import Cohort
from digipath.data.draws import Sampler
from digipath.data.grids import Placed
from digipath.data.pool import Pool
from digipath.data.sampling import AllTissue
from digipath.data.strata import BCC_TABLE, Strata, Stratum, _draw, resample
from digipath.errors import SpecError
from digipath.geometry.polygons import Annotation
from digipath.slides.array import ArraySlide

AREA = 512 * 512
CLASSES = ("other", "Stroma", "Normal", "lesion")


def population() -> Placed:
    """Patches with the counts of Table 2, and tumour pixels for its unbalance."""
    counts = np.zeros((175_771 + 9_537, 4), np.int64)
    dense, sparse = slice(0, 5_528), slice(5_528, 9_537)
    # Tumour pixels for an unbalance of 78.48 of the patches.
    tumour = round(len(counts) * AREA / 79.48)
    counts[sparse, 3] = round(0.03 * AREA)
    counts[dense, 3] = round((tumour - counts[sparse, 3].sum()) / 5_528)
    stroma = np.r_[0:3_439, 9_537 : 9_537 + 9_096 - 3_439]  # stroma beside tumour, and without
    counts[stroma, 1] = round(0.2 * AREA)
    counts[100_000 : 100_000 + 9_458, 2] = round(0.3 * AREA)
    counts[:, 0] = AREA - counts.sum(1)
    draws = np.column_stack([np.arange(len(counts)), np.zeros((len(counts), 2), int)])
    return Placed(draws, counts, AREA)


def test_the_table_takes_209390_patches_to_255771_and_the_unbalance_from_78_to_17():
    table = [Stratum(**{**vars(each), "name": each.name or "lesion"}) for each in BCC_TABLE]
    (members, wanted), report = resample(population(), table, CLASSES, tumour="lesion")
    assert [len(each) for each in members] == [175_771, 9_537, 5_528, 9_096, 9_458]
    assert wanted == [175_771, 30_000, 10_000, 20_000, 20_000]
    assert (report["total before"], report["total after"]) == (209_390, 255_771)
    assert report["patches"] == 185_308
    assert report["pixel unbalance before"] == pytest.approx(78.48, abs=0.01)
    assert report["pixel unbalance after"] == pytest.approx(16.81, abs=0.01)


def test_an_epoch_repeats_each_patch_of_a_stratum_as_often_as_any_other_or_once_more():
    placed = population()
    table = [Stratum(name="lesion", at_least=0.0005, count=30_000), Stratum(name="lesion", at_least=0.1, count=10_000)]
    (members, wanted), report = resample(placed, table, CLASSES, tumour="lesion")
    draws = _draw(members, wanted, 0, 0)
    assert len(draws) == report["total after"] == 40_000
    times = np.bincount(draws[:, 0], minlength=len(placed.draws))
    assert set(times[5_528:9_537].tolist()) == {3, 4}
    assert set(times[:5_528].tolist()) <= {4, 5, 6}
    assert not times[9_537:].any()
    drawn = placed.counts[draws[:, 0]]
    unbalance = (drawn.sum() - drawn[:, 3].sum()) / drawn[:, 3].sum()
    assert unbalance == pytest.approx(report["pixel unbalance after"], rel=0.01)
    assert not np.array_equal(draws, _draw(members, wanted, 0, 1))
    np.testing.assert_array_equal(draws, _draw(members, wanted, 0, 0))


def test_the_unbalance_of_disjoint_strata_could_not_be_the_papers():
    largest = max(each.factor for each in BCC_TABLE)
    grown = (255_771 / (1 + 16.81)) / (209_390 / (1 + 78.48))
    assert largest == 30_000 / 9_537 < grown


@pytest.fixture(scope="module")
def slide() -> ArraySlide:
    pixels = np.full((256, 256, 3), 240, np.uint8)
    grain = np.random.default_rng(0).integers(-20, 20, (224, 224, 3))
    pixels[16:240, 16:240] = np.array([200, 120, 180]) + grain
    return ArraySlide(pixels, mpp=4.0, name="skin")


def cohort_of(slide: ArraySlide) -> Cohort:
    areas = (("Tumornest", (32, 32, 64, 64)), ("Stroma", (20, 20, 100, 100)), ("Normal", (128, 128, 160, 160)))
    case = Case(slide=slide, annotations=tuple(Annotation(name, shapely.box(*box)) for name, box in areas))
    return Cohort([case], groups={"Tumornest": "lesion", "Stroma": "other", "Normal": "other"})


def planned(cohort: Cohort, **settings) -> Sampler:
    return Strata(**settings).plan(Pool(cohort, mpp=4.0, patch=32))


def test_annotation_classes_that_training_takes_together_are_strata_of_their_own(slide):
    report = planned(cohort_of(slide)).report
    assert report["lesion >= 0.1 before"] == 1  # the nest covers one patch of the grid
    assert report["Stroma >= 0.0005 before"] == 15  # 4 x 4 patches, less the one that the nest covers
    assert report["Normal >= 0.0005 before"] == 1
    assert report["lesion < 0.0005 before"] == report["patches"] - 1
    assert report["pixel unbalance before"] > 3 * report["pixel unbalance after"]


def test_a_cohort_without_stroma_is_told_of_and_goes_without_that_stratum(slide):
    cohort = Cohort([Case(slide=slide, annotations=(Annotation("nest", shapely.box(32, 32, 70, 70)),))])
    sampler = planned(cohort)
    assert [text.split("'")[1] for text in sampler.told] == ["Stroma", "Normal"]
    assert len(sampler.epoch(0)) == sampler.report["total after"]


def test_a_class_that_nobody_knows_is_refused(slide):
    with pytest.raises(SpecError, match="'Tumour'"):
        planned(cohort_of(slide), table=(Stratum(name="Tumour"),))


def test_one_stratum_of_everything_is_every_patch_once(slide):
    cohort = cohort_of(slide)
    everything = planned(cohort, table=(Stratum(),)).epoch(0)
    assert sorted(everything.tolist()) == sorted(AllTissue().plan(Pool(cohort, mpp=4.0, patch=32)).epoch(0).tolist())


@pytest.mark.parametrize(
    "change", [{"at_least": 10}, {"at_least": 0.5, "below": 0.5}, {"factor": -1}, {"count": -1}, {"at_least": -0.1}]
)
def test_a_stratum_that_makes_no_sense_is_refused(change):
    with pytest.raises(SpecError):
        Stratum(**change)
