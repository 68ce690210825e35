import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import measure
from sklearn.metrics import roc_auc_score

from digipath.errors import DigipathError, ResultError
from digipath.evaluation.detection import detections_by_maxima, detections_by_region
from digipath.evaluation.froc import FrocCase, froc
from digipath.evaluation.lesions import lesions_from_mask
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.detections import read_detections
from digipath.io.pyramid import PyramidSettings, write_pyramid
from digipath.protocols import camelyon16
from digipath.slides.slide import describe

SIDE = 100  # pixels of level 5, 32 x 32 level-0 pixels
LEVEL5 = Frame.level0(SIDE * 32, SIDE * 32, 0.243).coarser(32)
NORMAL = ("normal_*",)


def boxes(*places):
    mask = np.zeros((SIDE, SIDE), bool)
    for x, y, width, height in places:
        mask[y : y + height, x : x + width] = True
    return mask


TRUTH = {
    "tumor_1": boxes((10, 10, 20, 50), (60, 10, 20, 50)),
    "tumor_2": boxes((10, 10, 20, 50), (60, 60, 5, 5)),  # the second is isolated tumour cells
}
CSV = {
    # the left lesion twice, and a false positive; the right lesion is missed
    "Tumor_1": "0.9,640,640\n0.5,700,900\n0.6,1500,3000\n",
    "Tumor_2": "0.8,640,640\n0.7,1984,1984\n",  # the lesion, and the isolated cells: neither
    "Normal_1": "0.85,5,5\n",
}
QUICK = {"truth_downsample": 32, "normal": NORMAL}


@pytest.fixture
def folders(truth, predictions, put):
    for name, mask in TRUTH.items():
        put.mask(truth / f"{name}_evaluation_mask.png", mask, 255)
    for name, text in CSV.items():
        put.table(predictions / f"{name}.csv", text)
    return truth, predictions


def test_score_and_auc_are_those_worked_by_hand(folders, quick):
    report = camelyon16(*folders, settings=quick(**QUICK))
    # Three lesions; hits at 0.9 and 0.8, one missed (0); false positives at 0.85 and 0.6 on three images. Of the
    # thresholds the smallest, 0, is lost. So (0, 0), (0, 1/3), (1/3, 1/3), (1/3, 2/3), (2/3, 2/3).
    assert report["sensitivity at 1/4"] == pytest.approx(1 / 3)
    assert report["sensitivity at 1/2"] == pytest.approx(2 / 3)
    assert report["FROC score"] == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    assert report["slide AUC"] == roc_auc_score([1, 1, 0], [0.9, 0.8, 0.85]) == 0.5
    first, second = report.cases[1:]
    assert (first["lesions"], first["to_find"], first["found"], first["false_positives"]) == (2, 2, 1, 1)
    assert (second["lesions"], second["isolated_tumour_cells"], second["false_positives"]) == (2, 1, 0)
    assert "3 slides, 2 with tumour: 3 lesions to find, 1 of isolated tumour cells." in report.notes


def test_the_score_is_that_of_the_functions_underneath(folders, quick):
    truth, predictions = folders
    cases = [
        FrocCase(
            name,
            read_detections(predictions / f"{name}.csv"),
            lesions_from_mask(Raster(TRUTH[name.lower()], LEVEL5)) if name.lower() in TRUTH else None,
        )
        for name in CSV
    ]
    report = camelyon16(truth, predictions, settings=quick(**QUICK))
    expected = froc(cases)
    assert report["FROC score"] == expected.score
    assert report.drawings["froc"].sensitivities == tuple(expected.sensitivities.tolist())


def test_slides_without_a_csv_do_not_count_and_are_told(folders, put, quick):
    truth, predictions = folders
    before = camelyon16(truth, predictions, settings=quick(**QUICK))
    put.mask(truth / "tumor_3.png", TRUTH["tumor_1"])
    put.table(predictions / "stranger.csv", "0.9,1,1\n")
    report = camelyon16(truth, predictions, settings=quick(**QUICK))
    assert report["FROC score"] == before["FROC score"]
    assert any("1 of 4 slides have no prediction and do not count" in note for note in report.notes)
    assert any("no truth and do not count: stranger" in note for note in report.notes)


def test_an_empty_csv_counts_as_a_slide_where_nothing_is_found(folders, quick):
    (folders[1] / "Tumor_1.csv").write_text("")
    report = camelyon16(*folders, settings=quick(**QUICK))
    assert report.cases[1]["found"] == 0 and report.cases[1]["probability"] == 0
    assert report["sensitivity at 8"] == pytest.approx(1 / 3)


def test_an_empty_mask_and_a_reference_name_normal_slides_too(folders, put, quick):
    truth, predictions = folders
    expected = camelyon16(truth, predictions, settings=quick(**QUICK))
    (truth / "reference.csv").write_text("Normal_1,Normal,None,None\nTumor_1,Tumor,IDC,Macro\n")
    by_reference = camelyon16(truth, predictions, settings=quick(truth_downsample=32))
    (truth / "reference.csv").write_bytes(
        b"\xef\xbb\xbfname,class\r\nD:\\c16\\Normal_1.TIF,Normal\r\nTumor_1.tiff,Tumor\r\n"
    )
    from_windows = camelyon16(truth, predictions, settings=quick(truth_downsample=32))
    (truth / "reference.csv").unlink()
    put.mask(truth / "normal_1.png", boxes())
    by_mask = camelyon16(truth, predictions, settings=quick(truth_downsample=32))
    for report in (by_reference, from_windows, by_mask):
        assert [score.value for score in report.scores] == [score.value for score in expected.scores]


def test_truth_as_outlines_or_as_a_pyramid_of_its_own_mpp_gives_the_same(folders, quick):
    truth, predictions = folders
    expected = camelyon16(truth, predictions, settings=quick(**QUICK))
    for path in truth.iterdir():
        path.unlink()
    left, right = (
        [[x * 32, y * 32], [(x + 20) * 32, y * 32], [(x + 20) * 32, (y + 50) * 32], [x * 32, (y + 50) * 32]]
        for x, y in ((10, 10), (60, 10))
    )
    outlines = {"positive": [{"name": "a", "vertices": left}, {"name": "b", "vertices": right}], "negative": []}
    (truth / "tumor_1.json").write_text(json.dumps(outlines))
    rows = TRUTH["tumor_2"].astype(np.uint8)
    write_pyramid(truth / "tumor_2_mask.tif", LEVEL5, [(0, rows)], channels=("tumour",))
    report = camelyon16(truth, predictions, settings=quick(normal=NORMAL, mpp=0.243))
    assert [score.value for score in report.scores] == [score.value for score in expected.scores]


@pytest.mark.parametrize(
    ("way", "detect"), [("maxima", detections_by_maxima), ("regions", detections_by_region)], ids=["maxima", "regions"]
)
def test_heatmaps_become_detections(truth, predictions, put, quick, way, detect):
    heat = np.where(TRUTH["tumor_1"], 0.75, 0.125)
    heat[90:, 90:] = 0.875
    put.mask(truth / "tumor_1.png", TRUTH["tumor_1"])
    put.result(predictions / "tumor_1", heat, LEVEL5)
    put.result(predictions / "normal_1", np.full((SIDE, SIDE), 0.25), LEVEL5)
    report = camelyon16(truth, predictions, settings=quick(normal=NORMAL, detections=way))
    found = detect(Raster(heat.astype(np.float16), LEVEL5), threshold=0.5)
    lesions = lesions_from_mask(Raster(TRUTH["tumor_1"], LEVEL5))
    assert report["FROC score"] == froc([FrocCase("a", found, lesions), FrocCase("b", [], None)]).score
    assert [row["detections"] for row in report.cases] == [0, len(found)]
    assert [row["probability"] for row in report.cases] == [0.25, 0.875]
    assert report["slide AUC"] == 1


def test_nothing_is_detected_where_a_result_covers_nothing(truth, predictions, put, quick):
    put.mask(truth / "tumor_1.png", TRUTH["tumor_1"])
    covered = np.zeros((SIDE, SIDE), bool)
    covered[:, :50] = True
    put.result(predictions / "tumor_1", np.where(TRUTH["tumor_1"], 0.75, 0.125), LEVEL5, covered=covered)
    report = camelyon16(truth, predictions, settings=quick(detections="regions"))
    assert report.cases[0]["detections"] == 1 and report.cases[0]["found"] == 1
    assert np.isnan(report["slide AUC"]) and "roc" not in report.drawings


def test_a_table_of_slide_scores_takes_the_place_of_the_highest_probability(folders, quick, tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("name,probability\nTumor_1,0.9\nTumor_2,0.8\nNormal_1,0.1\n")
    assert camelyon16(*folders, settings=quick(**QUICK, slide_scores=table))["slide AUC"] == 1


def test_a_broken_file_fails_and_is_named(folders, quick):
    truth, predictions = folders
    (predictions / "Tumor_2.csv").write_text("0.8,640\n")
    with pytest.raises(ResultError, match=r"Tumor_2\.csv: each line is probability,x,y"):
        camelyon16(truth, predictions, settings=quick(**QUICK))
    (predictions / "Tumor_2.csv").unlink()
    (predictions / "Tumor_2").mkdir()
    with pytest.raises(ResultError, match="no complete result"):
        camelyon16(truth, predictions, settings=quick(**QUICK))
    (predictions / "Tumor_2").rmdir()
    (truth / "tumor_1_evaluation_mask.png").write_bytes(b"no image")
    with pytest.raises(DigipathError, match="tumor_1_evaluation_mask"):
        camelyon16(truth, predictions, settings=quick(**QUICK))


def test_a_detection_beside_the_slide_fails(folders, quick):
    with pytest.raises(ResultError, match=r"outside of it.*level-0 pixels"):
        camelyon16(*folders, settings=quick(normal=NORMAL))  # the masks of level 5 taken for level 0


def test_predictions_of_no_slide_of_the_truth_fail(folders, quick):
    truth, predictions = folders
    for path in predictions.iterdir():
        path.unlink()
    with pytest.raises(ResultError, match="none of them has a prediction"):
        camelyon16(truth, predictions, settings=quick(**QUICK))


def test_lesions_grow_beyond_outlines_where_nothing_tells_the_size_of_the_slide(truth, predictions, put, quick):
    # Grown on all four sides its major axis is 284 um; cut off on two, 261 um, it were isolated tumour cells.
    corners = [[x, y] for x, y in ((1000, 1000), (1768, 1000), (1768, 1768), (1000, 1768))]
    outlines = {"positive": [{"name": "lesion", "vertices": corners}], "negative": []}
    put.table(truth / "tumor_1.json", json.dumps(outlines))
    for far in ("", "0.1,9000,9000\n"):
        put.table(predictions / "tumor_1.csv", f"0.9,1050,1050\n{far}")
        (row,) = camelyon16(truth, predictions, settings=quick()).cases
        assert (row["to_find"], row["isolated_tumour_cells"]) == (1, 0)


def write_levels(path, values, count=6, **more):
    """A pyramid as OpenSlide knows it; each level has the top left of four pixels."""
    more = {"tile": (256, 256), "compression": "zlib", "photometric": "minisblack"} | more
    with tifffile.TiffWriter(path) as file:
        for level in range(count):
            file.write(values, subfiletype=1 if level else 0, metadata=None, **more)
            values = values[: len(values) // 2 * 2 : 2, : values.shape[1] // 2 * 2 : 2]


def at_corners(level5, right=0, below=0):
    """Level-0 pixels, 255 in the top left quarter of those of level 5; at their centres there is nothing."""
    values = np.zeros((level5.shape[0], 32, level5.shape[1], 32), np.uint8)
    values[:, :8, :, :8] = 255 * level5[:, None, :, None]
    return np.pad(values.reshape(level5.shape[0] * 32, -1), ((0, below), (0, right)))


def by_organisers(values):
    """Numbers of lesions, and those of isolated tumour cells, as in `Evaluation_FROC.py`."""
    distances = ndimage.distance_transform_edt(255 - values.astype(int))
    labels = measure.label(ndimage.binary_fill_holes(distances < 75 / (0.243 * 32 * 2)), connectivity=2)
    return labels, {p.label for p in measure.regionprops(labels) if p.axis_major_length < 275 / (0.243 * 32)}


@pytest.mark.parametrize("as_colours", [False, True])
def test_lesions_are_those_of_level_five_of_a_pyramidal_mask(truth, predictions, put, quick, as_colours):
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.random((100, 120)), 2)
    values = at_corners(noise > np.quantile(noise, 0.97), right=20, below=9)
    colours = np.stack([values] * 3, -1) if as_colours else values
    write_levels(truth / "tumor_1.tif", colours, photometric="rgb" if as_colours else "minisblack")
    with tifffile.TiffFile(truth / "tumor_1.tif") as file:
        stored = file.pages[5].asarray()
    assert stored.shape[:2] == (100, 120)
    labels, itc = by_organisers(stored[..., 0] if as_colours else stored)
    places = rng.integers(0, (120 * 32, 100 * 32), (200, 2)).tolist()
    put.table(predictions / "tumor_1.csv", "".join(f"0.5,{x},{y}\n" for x, y in places))
    (row,) = camelyon16(truth, predictions, settings=quick()).cases
    hits = [labels[int(y / 32), int(x / 32)] for x, y in places]
    assert (row["lesions"], row["isolated_tumour_cells"]) == (labels.max(), len(itc))
    assert row["found"] == len(set(hits) - {0} - itc) > 0
    assert row["false_positives"] == hits.count(0) > 0
    assert 0 < len(itc) < labels.max()


@pytest.mark.parametrize("case", ["no level of 32", "averaged", "another resolution"])
def test_other_masks_are_looked_at_under_the_centres_of_level_five(truth, predictions, put, quick, case):
    values = at_corners(boxes((10, 10, 20, 50))[:70, :40])
    if case == "averaged":
        frame, small = Frame.level0(1280, 2240, 0.243), PyramidSettings(tile=64)
        write_pyramid(truth / "tumor_1.tif", frame, [(0, values)], channels=("tumour",), settings=small)
        assert [level["downsample"] for level in describe(truth / "tumor_1.tif")["levels"]][5] == 32
    else:
        write_levels(truth / "tumor_1.tif", values, count=5 if case == "no level of 32" else 6)
    put.table(predictions / "tumor_1.csv", "0.9,640,640\n")
    put.mask(truth / "tumor_2.png", np.kron(boxes((10, 10, 50, 50)), np.ones((32, 32))), 255)  # there to be found
    put.table(predictions / "tumor_2.csv", "0.9,20,20\n")
    settings = quick(mpp=0.5) if case == "another resolution" else quick()
    reported = camelyon16(truth, predictions, settings=settings).cases
    put.mask(truth / "tumor_1.png", values // 255, 255)
    (truth / "tumor_1.tif").unlink()
    assert camelyon16(truth, predictions, settings=settings).cases == reported
