import io

import numpy as np
from PIL import Image

from digipath.analysis.judged import draw_grid, judge_sections
from digipath.analysis.sections import find_sections
from digipath.analysis.thresholds import PRESETS, SectionExample, SectionThresholds, fit_thresholds
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.io.geojson import read_geojson, write_geojson


def slide():
    """Two sections at 8 um/px; the left one has 10 regions of 1,024 um2, the right one a region of 10,240 um2."""
    tissue, heatmap = np.zeros((100, 200), bool), np.zeros((100, 200), np.float32)
    tissue[10:90, 10:80] = tissue[10:90, 120:190] = True
    for x in range(10):
        heatmap[20:24, 15 + 6 * x : 19 + 6 * x] = 0.9
    heatmap[40:50, 130:146] = 0.9
    frame = Frame.level0(3200, 1600, 0.5).at(8.0)
    return Raster(tissue, frame), Raster(heatmap, frame)


def test_a_section_has_tumour_when_one_region_is_large_enough_not_all_together():
    tissue, heatmap = slide()
    left, right = judge_sections(find_sections(tissue), heatmap, PRESETS["bcc-unet"])
    assert (left.tumour, left.tumour_um2, left.largest_um2) == (False, 10_240, 1024)
    assert (right.tumour, right.tumour_um2, right.largest_um2) == (True, 10_240, 10_240)
    assert [one.tumour for one in judge_sections(find_sections(tissue), heatmap, SectionThresholds(0.45, 0))] == [1, 1]
    assert [one.tumour for one in judge_sections(find_sections(tissue), heatmap, SectionThresholds(0.95, 0))] == [0, 0]


def test_the_table_and_the_annotations_say_the_same(tmp_path):
    tissue, heatmap = slide()
    judged = judge_sections(find_sections(tissue), heatmap, PRESETS["bcc-unet"])
    rows = [one.row() for one in judged]
    assert [(row["section"], row["class"]) for row in rows] == [(1, "normal section"), (2, "tumour section")]
    write_geojson(tmp_path / "sections.geojson", [one.annotation() for one in judged])
    for row, read in zip(rows, read_geojson(tmp_path / "sections.geojson"), strict=True):
        x, y, right, bottom = read.geometry.bounds
        assert (row["x"], row["y"], row["width"], row["height"]) == (x, y, right - x, bottom - y)
        assert read.name == row["class"]
        assert read.measurements["tissue mm2"] == row["tissue_mm2"]
        assert read.measurements["largest tumour region um2"] == row["largest_um2"]


def test_the_grid_is_a_picture():
    fit = fit_thresholds([SectionExample(True, [0.5], [9000]), SectionExample(False, [0.5], [2000])])
    image = np.asarray(Image.open(io.BytesIO(draw_grid(fit, title="validation"))).convert("RGB"))
    assert image.shape[:2] == (550, 880)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
