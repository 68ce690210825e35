import numpy as np
import pytest
import shapely
import tifffile

from digipath import Segmenter
from digipath.cli import main
from digipath.geometry.polygons import rasterize
from digipath.inference.predictor import FunctionPredictor
from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.io.imagescope import read_imagescope
from digipath.models.spec import ModelSpec
from digipath.segmentation import Segmentation


def darkness(patches):
    values = (patches[..., 2] < 128).astype(np.float32) * np.float32(0.8)
    return np.stack([1 - values, values], -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A result with a large disc, a speck and a hole."""
    image = np.full((400, 520, 3), (225, 150, 190), np.uint8)
    y, x = np.indices(image.shape[:2])
    away = np.hypot(x - 250, y - 200)
    image[(away < 120) & (away > 40)] = (120, 60, 110)
    image[20:28, 480:488] = (120, 60, 110)
    spec = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=4.0, patch=64)
    out = tmp_path_factory.mktemp("made") / "result"
    tissue = np.ones((40, 52), bool)
    segmenter = Segmenter(FunctionPredictor(darkness, spec))
    segmenter.predict(image, mpp=4.0, tissue=tissue, progress=False, out=out).close()
    return out


def test_outlines_in_all_formats_are_the_mask(folder, tmp_path):
    files = {"geojson": "a.geojson", "asap": "a.xml", "imagescope": "b.xml"}
    options = [part for kind, name in files.items() for part in (f"--{kind}", str(tmp_path / name))]
    assert main(["export", str(folder), "--threshold", "0.6", *options]) == 0
    with Segmentation.load(folder) as result:
        expected = result.mask(0.6)
        assert expected.values.any()
        for kind, read in (("geojson", read_geojson), ("asap", read_asap), ("imagescope", read_imagescope)):
            found = rasterize(read(tmp_path / files[kind]), expected.frame)
            np.testing.assert_array_equal(found.values, expected.values, err_msg=kind)


def test_specks_and_vertices_are_left_out_and_areas_stay_those_of_the_mask(folder, tmp_path):
    whole, less = tmp_path / "whole.geojson", tmp_path / "less.geojson.gz"
    assert main(["export", str(folder), "--geojson", str(whole)]) == 0
    assert main(["export", str(folder), "--geojson", str(less), "--min-area", "0.01", "--simplify", "8"]) == 0
    before, after = read_geojson(whole), read_geojson(less)
    assert len(before) == 2 and len(after) == 1
    assert shapely.get_num_coordinates(after[0].geometry) < shapely.get_num_coordinates(before[0].geometry) / 4
    assert after[0].measurements["area mm2"] == before[0].measurements["area mm2"]
    assert shapely.hausdorff_distance(after[0].geometry, before[0].geometry) <= 2 + 1e-6  # 8 um of 4 um a pixel


def test_a_mask_is_0_and_255_at_the_heatmaps_resolution(folder, tmp_path):
    assert main(["export", str(folder), "--mask", str(tmp_path / "mask.tif"), "--class", "lesion"]) == 0
    with Segmentation.load(folder) as result, tifffile.TiffFile(tmp_path / "mask.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), np.where(result.mask().array(), 255, 0))
        numerator, denominator = page.tags["XResolution"].value
        assert 1e4 / (numerator / denominator) == pytest.approx(result.heatmap.frame.mpp, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--geojson"),
        (["--mask", "m.tif", "--class", "stroma"], "lesion"),
        (["--geojson", "a.geojson", "--simplify", "-1"], "simplify_um"),
        (["--dicom-seg", "a.dcm", "--probability", "--threshold", "0.5"], "--probability or --threshold"),
    ],
)
def test_what_makes_no_sense_is_told_and_nothing_written(folder, tmp_path, monkeypatch, capsys, options, word):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["export", str(folder), *options])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (1, 2) and word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
