import numpy as np
import pytest
import tifffile

from digipath.errors import ResultError
from digipath.evaluation.froc import FrocCase, Points, froc
from digipath.geometry.frame import Frame
from digipath.io.detections import read_detections
from digipath.protocols import tiger

TRUTH = np.array([[0, 1, 1, 1], [2, 6, 6, 2], [3, 4, 5, 7]], np.uint8)
SAID = np.array([[1, 1, 1, 2], [2, 2, 6, 1], [0, 4, 6, 7]], np.uint8)
# Tumour: 2 right, 1 missed, 1 too much beside the pixel that is not annotated. Stroma: 3 right, 1 missed, 2 too much.
TUMOUR, STROMA = 2 * 2 / (2 * 2 + 1 + 1), 2 * 3 / (2 * 3 + 1 + 2)


def test_dice_of_tumour_and_stroma_is_the_one_worked_by_hand(truth, predictions, put, quick):
    put.mask(truth / "roi.png", TRUTH)
    put.mask(predictions / "roi.png", SAID)
    report = tiger(truth, predictions, settings=quick())
    assert report["Dice of tumour"] == TUMOUR and report["Dice of stroma"] == STROMA
    assert report.cases == ({
        "region": "roi", "dice_tumour": TUMOUR, "tumour_pixels": 3, "dice_stroma": STROMA, "stroma_pixels": 4,
    },)  # fmt: skip
    assert any(note.startswith("no detection") for note in report.notes)


def test_regions_are_summed_before_dice(truth, predictions, put, quick):
    put.mask(truth / "a.png", TRUTH)
    put.mask(predictions / "a.png", SAID)
    put.mask(truth / "b.png", np.ones((10, 10)))
    put.mask(predictions / "b.png", np.ones((10, 10)))
    report = tiger(truth, predictions, settings=quick())
    assert report["Dice of tumour"] == 2 * 102 / (2 * 102 + 2) and report["Dice of stroma"] == STROMA
    assert np.isnan(report.cases[1]["dice_stroma"]) and report.to_json()["cases"][1]["dice_stroma"] is None


def test_a_heatmap_of_named_classes_is_judged_by_its_most_probable_one(truth, predictions, put, quick):
    put.mask(truth / "roi.png", TRUTH)
    frame = Frame.level0(4, 3, 0.5)
    classes = ("Other", "Tumour", "stroma", "inflamed stroma")
    heat = np.stack([~np.isin(SAID, (1, 2, 6)), SAID == 1, SAID == 2, SAID == 6], -1)
    put.result(predictions / "roi", heat, frame, classes=classes)
    report = tiger(truth, predictions, settings=quick())
    assert (report["Dice of tumour"], report["Dice of stroma"]) == (TUMOUR, STROMA)


def test_classes_that_are_not_tigers_are_refused(truth, predictions, put, quick):
    put.mask(truth / "roi.png", TRUTH)
    put.result(predictions / "roi", np.zeros((3, 4)), Frame.level0(4, 3, 0.5), classes=("other", "gland"))
    with pytest.raises(ResultError, match="to be judged as TIGER's; got gland"):
        tiger(truth, predictions, settings=quick())


def test_cells_are_found_within_4_um_and_counted_per_mm2(truth, predictions, put, quick):
    put.mask(truth / "roi.png", np.ones((400, 500)))  # at 0.5 um per pixel 0.05 mm2
    put.mask(predictions / "roi.png", np.ones((400, 500)))
    put.table(truth / "roi.csv", "x,y\n100,100\n200,200\n300,300\n")
    # The first is 8 pixels away and found, the second 9 and false; two more of a cell that is taken.
    put.table(predictions / "roi.csv", "0.9,108,100\n0.8,209,200\n0.7,300,300\n0.6,301,300\n")
    report = tiger(truth, predictions, settings=quick())
    # Sensitivity 1/3 without a false positive, 2/3 from 1 / 0.05 = 20 per mm2 on.
    assert report["sensitivity at 10"] == pytest.approx(1 / 3)
    assert report["sensitivity at 20"] == pytest.approx(2 / 3)
    assert report["FROC score"] == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    points = Points([[100, 100], [200, 200], [300, 300]], 0.5)
    case = FrocCase("roi", read_detections(predictions / "roi.csv"), points, 0.05)
    assert report["FROC score"] == froc([case], rules="tiger").score
    assert report.cases[0]["cells"] == 3 and report.cases[0]["mm2"] == pytest.approx(0.05)
    assert report.drawings["froc"].steps and report["Dice of tumour"] == 1


def test_areas_may_come_from_a_table_and_points_from_geojson(truth, predictions, put, quick):
    from shapely import Point

    from digipath.geometry.polygons import Annotation
    from digipath.io.geojson import write_geojson

    write_geojson(truth / "roi.geojson", [Annotation("lymphocyte", Point(100, 100))])
    put.table(predictions / "roi.csv", "0.9,100,100\n")
    with pytest.raises(ResultError, match=r"its mask or its area in areas\.csv"):
        tiger(truth, predictions, settings=quick())
    put.table(truth / "areas.csv", "name,mm2\nroi,0.25\n")
    report = tiger(truth, predictions, settings=quick())
    assert report["FROC score"] == 1 and report.cases[0]["mm2"] == 0.25
    assert any(note.startswith("no segmentation") for note in report.notes)


def test_hits_are_as_far_as_the_mask_says_also_where_a_table_tells_the_area(truth, predictions, put, quick):
    labels = np.ones((600, 700), np.uint8)
    tifffile.imwrite(truth / "roi.tif", labels, resolution=(40_000, 40_000), resolutionunit="CENTIMETER")  # 0.25 um
    put.table(truth / "roi.csv", "x,y\n100,100\n")
    put.table(predictions / "roi.csv", "0.9,116,100\n")  # 4 um
    for area in (None, "name,mm2\nC:\\rois\\ROI.tif,0.25\n"):
        if area is not None:
            put.table(truth / "areas.csv", area)
        report = tiger(truth, predictions, settings=quick())
        assert report["FROC score"] == 1
    assert report.cases[0]["mm2"] == 0.25


def test_a_region_that_is_missing_fails_and_so_does_nothing_at_all(truth, predictions, put, quick):
    for name in ("a", "b"):
        put.mask(truth / f"{name}.png", TRUTH)
    with pytest.raises(ResultError, match="it holds none of them"):
        tiger(truth, predictions, settings=quick())
    put.mask(predictions / "a.png", SAID)
    with pytest.raises(ResultError, match="for segmentation, b have none"):
        tiger(truth, predictions, settings=quick())
    assert len(tiger(truth, predictions, settings=quick(exclude=("b",))).cases) == 1


def test_wrong_points_are_told_with_their_line(truth, predictions, put, quick):
    put.mask(truth / "roi.png", TRUTH)
    put.table(truth / "roi.csv", "x,y\n1,2\n3\n")
    put.table(predictions / "roi.csv", "0.9,1,1\n")
    with pytest.raises(ResultError, match=r"roi\.csv, line 3"):
        tiger(truth, predictions, settings=quick())
