"""PAIP, DigestPath and pixels: protocols of masks."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from digipath.errors import DigipathError, ResultError
from digipath.evaluation import overlap
from digipath.evaluation.calibration import Calibration
from digipath.evaluation.challenges import PaipCase, digestpath_dice, paip_task1, paip_task2, slide_ious
from digipath.evaluation.overlap import Counts
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import polygonize
from digipath.geometry.raster import Raster
from digipath.io.asap import write_asap
from digipath.io.geojson import write_geojson
from digipath.io.imagescope import write_imagescope
from digipath.io.pyramid import write_pyramid
from digipath.protocols import digestpath, paip, pixels

SIDE = 20
FRAME = Frame.level0(SIDE, SIDE, 0.5)


def first(count, side=SIDE):
    """A mask of so many first pixels in reading order."""
    mask = np.zeros(side * side, bool)
    mask[:count] = True
    return mask.reshape(side, side)


@pytest.fixture
def two(truth, predictions, put):
    """A slide with 40 lesion pixels, of which 30 are found with 10 that are none; and one without any lesion."""
    put.mask(truth / "a.png", first(40), 255)
    put.mask(truth / "b.png", first(0))
    put.mask(predictions / "a_mask.png", np.roll(first(40), 10))
    put.mask(predictions / "b_mask.png", first(0))
    return truth, predictions


COUNTS = [Counts(tp=30, fp=10, fn=10, tn=350), Counts(tn=400)]


def test_pixels_are_those_counted_by_hand(two, quick):
    report = pixels(*two, settings=quick())
    assert {name: report.cases[0][name] for name in ("tp", "fp", "fn", "tn")} == {
        "tp": 30,
        "fp": 10,
        "fn": 10,
        "tn": 350,
    }
    assert report["Dice (pooled)"] == 0.75 and report["Dice (per slide)"] == (0.75 + 1) / 2
    assert report["IoU (pooled)"] == 30 / 50 and report["accuracy (pooled)"] == 780 / 800
    assert report["sensitivity (per slide)"] == report["precision (per slide)"] == 0.75  # of the one that has it
    assert report["F1.5 (pooled)"] == pytest.approx(0.75)
    assert report["mIoU"] == pytest.approx(((30 / 50 + 350 / 370) / 2 + 1) / 2)
    assert report["Tumor-mIoU"] == pytest.approx((30 / 50 + 350 / 370) / 2)
    assert report.drawings["confusion"].matrix == ((750, 10), (10, 30)) and "reliability" not in report.drawings


def test_pixels_are_the_measures_underneath(two, quick):
    report, pooled = pixels(*two, settings=quick()), overlap.total(COUNTS)
    for name in ("accuracy", "sensitivity", "specificity", "precision"):
        measure = getattr(overlap, name)
        assert report[f"{name} (pooled)"] == measure(pooled)
        assert report[f"{name} (per slide)"] == overlap.per_image(measure, COUNTS).mean
    assert report["mIoU"] == slide_ious(COUNTS).miou.mean and report["Tumor-mIoU"] == slide_ious(COUNTS).tumor_miou.mean


def test_what_truth_ignores_and_a_result_does_not_cover_is_left_out_and_counted(truth, predictions, put, quick):
    labels = first(40).astype(np.uint8)
    labels[-1] = 255  # 20 ignored
    put.mask(truth / "a.png", labels)
    covered, tissue = np.ones((SIDE, SIDE), bool), np.ones((SIDE, SIDE), bool)
    covered[0, :10] = covered[-1, :5] = False  # 10 of the lesion, and 5 that are ignored anyway
    covered[5] = tissue[5] = False  # no tissue: nothing is predicted there, and that counts
    put.result(predictions / "a", np.where(first(60), 0.75, 0.25), FRAME, covered=covered, tissue=tissue)
    values = {0: "other", 1: "lesion", 255: None}
    report = pixels(truth, predictions, settings=quick(truth_values=values))
    row = report.cases[0]
    assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (30, 20, 0, 320)
    assert (row["ignored"], row["uncovered"]) == (20, 10)
    assert any(
        "20 pixels that the truth ignores (5.00%) and 10 that a result does not cover (2.50%)" in n
        for n in report.notes
    )
    expected = Calibration()
    expected.add(np.where(first(60), 0.75, 0.25), np.where(labels == 255, 255, labels), counted=covered)
    assert report["ECE"] == pytest.approx(expected.ece)
    assert sum(each.pixels for each in report.drawings["reliability"].rows) == 350
    with pytest.raises(DigipathError, match="mask_values"):
        pixels(truth, predictions, settings=quick())


def test_what_a_result_was_not_asked_for_is_left_out(truth, predictions, put, quick):
    put.mask(truth / "a.png", first(40))
    covered = np.zeros((SIDE, SIDE), bool)
    covered[:10] = True
    put.result(predictions / "a", np.full((SIDE, SIDE), 0.75), FRAME, covered=covered, region=[0, 0, 20, 10])
    row = pixels(truth, predictions, settings=quick()).cases[0]
    assert (row["tp"], row["fp"], row["fn"], row["tn"], row["uncovered"]) == (40, 160, 0, 0, 200)


def test_truth_of_any_size_and_kind_is_the_same(truth, predictions, put, quick):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:12, 2:10] = True
    outlines = polygonize(Raster(mask, FRAME))
    write_geojson(truth / "geojson.geojson", outlines)
    write_asap(truth / "asap.xml", outlines)
    write_imagescope(truth / "imagescope.xml", outlines)
    positive = {"positive": [[[2, 4], [10, 4], [10, 12], [2, 12]]], "negative": []}
    (truth / "json.json").write_text(json.dumps(positive))
    put.mask(truth / "png.png", mask, 255)
    put.mask(truth / "half.png", mask[::2, ::2])
    write_pyramid(truth / "tiff.tif", FRAME, [(0, mask.astype(np.uint8))], channels=("lesion",))
    for path in list(truth.iterdir()):
        put.result(predictions / path.stem, np.where(mask, 0.75, 0.25), FRAME)
    report = pixels(truth, predictions, settings=quick())
    assert {row["slide"]: (row["tp"], row["tn"]) for row in report.cases} == {
        name: (16, 84) if name == "half" else (64, 336)
        for name in ("geojson", "asap", "imagescope", "json", "png", "half", "tiff")
    }
    assert report["Dice (pooled)"] == 1
    assert any("compared at 0.5 to 1 um per pixel" in note for note in report.notes)
    same = pixels(truth, predictions, settings=quick(compare_mpp=0.5))
    assert {(row["tp"], row["tn"]) for row in same.cases} == {(64, 336)} and not same.notes


def test_normal_slides_are_counted_in_pixels_as_large_as_those_of_the_others(truth, predictions, put, quick):
    put.mask(truth / "a.png", first(20, 10))
    for name in ("a", "normal"):
        put.result(predictions / name, np.full((SIDE, SIDE), 0.25), FRAME)
    report = pixels(truth, predictions, settings=quick(normal=("normal",)))
    assert [row["tn"] for row in report.cases] == [80, 100] and report.cases[0]["fn"] == 20


def test_outlines_are_judged_in_the_pixels_of_the_predicted_mask(truth, predictions, put, quick):
    mask = first(40)
    write_asap(truth / "a.xml", polygonize(Raster(mask, FRAME)))
    put.mask(predictions / "a.png", mask, 255)
    assert pixels(truth, predictions, settings=quick())["IoU (pooled)"] == 1


def test_sizes_come_from_the_slides_where_masks_do_not_tell_them(truth, predictions, put, quick, tmp_path):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:20, 6:16] = True
    write_asap(truth / "a.xml", polygonize(Raster(mask, FRAME)))
    put.mask(predictions / "a.png", mask[::2, ::2])
    with pytest.raises(ResultError, match=r"reach to \(16, 20\).*10 x 10.*--slides"):
        pixels(truth, predictions, settings=quick())
    (tmp_path / "slides").mkdir()
    settings = quick(slides=tmp_path / "slides")
    with pytest.raises(ResultError, match="of 'a' it holds none"):
        pixels(truth, predictions, settings=settings)
    rows = np.full((SIDE, SIDE, 3), 200, np.uint8)
    write_pyramid(tmp_path / "slides" / "A.tif", FRAME, [(0, rows)], channels=("red", "green", "blue"))
    report = pixels(truth, predictions, settings=settings)
    assert report["IoU (pooled)"] == 1 and report.cases[0]["tp"] == 40


def test_other_classes_and_thresholds_can_be_judged(truth, predictions, put, quick):
    put.mask(truth / "a.png", first(40))
    heat = np.zeros((SIDE, SIDE, 3))
    heat[..., 1] = np.where(first(40), 0.375, 0.125)
    put.result(predictions / "a", heat, FRAME, classes=("other", "gland", "lesion"))
    report = pixels(truth, predictions, settings=quick(class_name="gland", threshold=0.25))
    assert report["Dice (pooled)"] == 1
    with pytest.raises(ResultError, match="has the classes other, gland, lesion, got 'stroma'"):
        pixels(truth, predictions, settings=quick(class_name="stroma"))


@pytest.mark.parametrize("protocol", [pixels, digestpath])
def test_a_missing_prediction_is_an_error(two, quick, protocol):
    (two[1] / "b_mask.png").unlink()
    with pytest.raises(ResultError, match=r"1 are missing: b\."):
        protocol(*two, settings=quick())
    assert len(protocol(*two, settings=quick(exclude=("b",))).cases) == 1


@pytest.mark.parametrize("protocol", [pixels, digestpath, paip])
def test_a_broken_file_fails_and_is_named(two, quick, protocol):
    (two[1] / "a_mask.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DigipathError, match=r"a_mask\.png"):
        protocol(*two, settings=quick())


def test_masks_of_another_shape_fail(two, put, quick):
    put.mask(two[1] / "a_mask.png", np.ones((SIDE, SIDE // 2)))
    with pytest.raises(DigipathError, match="equal aspect"):
        pixels(*two, settings=quick())


def test_digestpath_gives_every_reading_of_dice_and_the_auc(two, put, quick):
    truth, predictions = two
    put.table(predictions / "slide_scores.csv", "name,probability\na,0.25\nb,0.75\n")
    report, expected = digestpath(truth, predictions, settings=quick()), digestpath_dice(COUNTS)
    assert report["Dice (per image)"] == expected.images.mean == 0.875
    assert report["Dice (per image with lesion)"] == expected.lesions.mean == 0.75
    assert report["Dice (pooled)"] == expected.pooled == 0.75
    assert report["slide AUC"] == 0
    assert "1 images have no lesion in truth and prediction." in report.notes


def test_digestpath_without_probabilities_has_no_auc_and_says_so(two, quick):
    report = digestpath(*two, settings=quick())
    assert "slide AUC" not in [score.name for score in report.scores]
    assert any("no AUC: 2 images have no probability" in note for note in report.notes)


def test_a_lesion_that_is_not_covered_makes_a_lesion_image_all_the_same(truth, predictions, put, quick):
    put.mask(truth / "a.png", first(20))
    put.mask(truth / "b.png", first(0))
    covered = ~first(20)
    put.result(predictions / "a", np.full((SIDE, SIDE), 0.75), FRAME, covered=covered)
    put.result(predictions / "b", np.full((SIDE, SIDE), 0.25), FRAME)
    assert digestpath(truth, predictions, settings=quick())["slide AUC"] == 1


@pytest.fixture
def liver(truth, predictions, put):
    """Jaccard indices of 0.8 and 0.6, and a case without a prediction; burdens of 50, 25 and 100 %."""
    for name, viable, whole in (("a", 10, 20), ("b", 10, 40), ("c", 10, 10)):
        put.mask(truth / f"{name}_viable.png", first(viable))
        put.mask(truth / f"{name}_whole.png", first(whole), 255)
    put.mask(predictions / "a.png", first(8))
    put.mask(predictions / "b.png", first(6))
    return truth, predictions


def test_paip_is_the_one_worked_by_hand(liver, put, quick):
    put.table(liver[1] / "burden.csv", "name,burden\na,60\nb,25\nc,100\n")
    report = paip(*liver, settings=quick())
    assert report["task 1"] == pytest.approx(0.8 / 3)  # 0.8, 0.6 below 0.65, and missing
    assert report["task 1, median"] == 0 and report["task 1 at 0.35"] == pytest.approx(1.4 / 3)
    assert report["task 2"] == pytest.approx(0.8 * 0.9 / 3)
    cases = [PaipCase(0.8, 60, 50), PaipCase(0.6, 25, 25), PaipCase(None, 100, 100)]
    assert (report["task 1"], report["task 2"]) == (paip_task1(cases).score, paip_task2(cases).score)
    assert any("1 of 3 cases have no prediction and count 0: c." in note for note in report.notes)
    assert [row["task1"] for row in report.cases] == [0.8, 0, 0]


def test_paip_takes_burdens_from_whole_masks_of_the_prediction_too(liver, put, quick):
    put.mask(liver[1] / "a_whole.png", first(10))  # viable 8 of 10: 80 %
    report = paip(*liver, settings=quick())
    assert report["task 2"] == pytest.approx(0.8 * 0.7 / 3)
    assert [row["burden"] for row in report.cases] == [80, None, None]


def test_paip_without_burdens_has_no_task_2_and_says_so(liver, quick):
    report = paip(*liver, settings=quick())
    assert any(note.startswith("no task 2: no burden is predicted") for note in report.notes)
    (liver[0] / "b_whole.png").unlink()
    notes = paip(*liver, settings=quick()).notes
    assert any(note.startswith("no task 2: 1 of 3 cases have no true burden") for note in notes)


def test_paip_tells_exchanged_masks(liver, quick):
    truth, predictions = liver
    (truth / "a_whole.png").rename(truth / "x.png")
    (truth / "a_viable.png").rename(truth / "a_whole.png")
    (truth / "x.png").rename(truth / "a_viable.png")
    with pytest.raises(ResultError, match=r"case 'a': viable tumour is part of the whole.*200.0 %.*exchanged"):
        paip(truth, predictions, settings=quick())


def test_paip_counts_a_heatmap_at_the_truths_level_0(truth, predictions, put, quick):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:10, :10] = True
    put.mask(truth / "a.png", mask)
    put.result(predictions / "a", np.where(mask[::2, ::2], 0.75, 0.25), FRAME.coarser(2))
    row = paip(truth, predictions, settings=quick()).cases[0]
    assert row["jaccard"] == 1 and row["tp"] == 100


def test_intervals_are_those_of_the_bootstrap(two, quick):
    from digipath.evaluation.bootstrap import bootstrap

    report = pixels(*two, settings=quick(resamples=50, seed=3))
    expected = bootstrap(lambda chosen: overlap.dice(overlap.total(chosen)), COUNTS, resamples=50, seed=3)
    assert report.scores[0].interval == expected
    again = pixels(*two, settings=quick(resamples=50, seed=3))
    assert [str(score) for score in again.scores] == [str(score) for score in report.scores]
    assert not math.isnan(expected.low)


def test_masks_may_be_jpeg_as_those_of_digestpath(truth, predictions, put, quick):
    y, x = np.mgrid[:45, :67]
    mask = np.hypot(x - 30, y - 20) < 15
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(truth / "a_mask.JPG", quality=75)
    put.mask(predictions / "a.png", mask)
    assert pixels(truth, predictions, settings=quick())["IoU (pooled)"] == 1
