"""The built-in network on real files: a result, or one clear line."""

import json

import cv2
import numpy as np
import pytest

from digipath import Segmenter
from digipath.cli import main
from digipath.errors import ResolutionError, SlideError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import rasterize
from digipath.io.geojson import read_geojson
from digipath.models.bundle import Bundle, builtin_names
from digipath.slides.slide import open_slide


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter()


@pytest.mark.parametrize(
    ("name", "mpp", "status"),
    [
        ("slides/CMU-1-Small-Region.svs", None, "ok"),
        ("slides/fluorescence-dapi.ndpi", None, "ok"),
        ("slides/boxes.tiff", 0.5, "ok"),
        ("slides/boxes_0.dcm", None, "empty"),
        ("ebhi-seg/images/adenocarcinoma_GT2001837-1-400-001.jpg", 1.1, "ok"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_real_file_gives_a_result(segmenter, data, tmp_path, name, mpp, status):
    result = segmenter.predict(data / name, mpp=mpp, out=tmp_path / "out", progress=False)
    assert result.status == status
    assert len(list((tmp_path / "out").iterdir())) == 6
    with open_slide(data / name, mpp=mpp) as slide:
        assert result.heatmap.frame.slide_size == slide.frame.slide_size
    mask = result.mask()
    again = rasterize(read_geojson(tmp_path / "out" / "annotations.geojson"), mask.frame)
    np.testing.assert_array_equal(again.array(), mask.array())


def test_a_dark_background_is_noted(segmenter, data):
    with pytest.warns(UserWarning, match="dark"):
        segmenter.predict(data / "slides/fluorescence-dapi.ndpi", progress=False)


@pytest.mark.parametrize("name", ["boxes.tiff", "unopenable.tiff", "unreadable.svs"])
def test_what_cannot_be_segmented_is_one_line_and_exit_code_one(data, tmp_path, capsys, name):
    assert main(["predict", str(data / "slides" / name), "-o", str(tmp_path / "out"), "-q"]) == 1
    error = capsys.readouterr().err
    assert error.count("digipath: error:") == 1 and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / name.partition(".")[0]).exists()


def test_an_image_without_scale_asks_for_it(segmenter, data):
    with pytest.raises(ResolutionError, match="--mpp"):
        segmenter.predict(data / "ebhi-seg/images/adenocarcinoma_GT2001837-1-400-001.jpg", progress=False)
    with pytest.raises(SlideError, match="cannot be opened"):
        segmenter.predict(data / "slides/unopenable.tiff", progress=False)


def test_png_jpeg_and_array_of_one_image_agree(segmenter, data, tmp_path):
    image = cv2.imread(str(data / "camelyon16-patches/images" / sorted_names(data)[0]))[..., ::-1]
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    results = [segmenter.predict(source, mpp=1.0, progress=False) for source in (tmp_path / "image.png", image)]
    np.testing.assert_array_equal(results[0].heatmap.array(), results[1].heatmap.array())


def sorted_names(data):
    return sorted(path.name for path in (data / "camelyon16-patches/images").iterdir())


def test_lesions_of_unseen_cases_are_found(segmenter, data):
    """Pooled Dice over some images of the cases that the built-in network never saw, through the whole main line."""
    rows = [row.split(",") for row in (data / "ebhi-seg/index.csv").read_text().splitlines()[1:]]
    names = [(row[0], row[2] in ("adenocarcinoma", "high-grade-in")) for row in rows if row[3] == "val"][::5]
    overlap = total = 0
    for name, lesion in names:
        result = segmenter.predict(data / "ebhi-seg/images" / f"{name}.jpg", mpp=1.1, progress=False)
        truth = cv2.imread(str(data / "ebhi-seg/masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        found = result.mask().resample(Frame.level0(*truth.shape[::-1], 1.1)).array()
        overlap += 2 * (found & truth & lesion).sum()
        total += found.sum() + (truth & lesion).sum()
    assert overlap / total > 0.8


def test_the_demo_recognises_its_planted_lesions(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    dice = float(out.partition("planted lesions: ")[2].split()[0])
    assert dice > 0.7
    info = json.loads((tmp_path / "demo" / "result" / "result.json").read_text())
    assert info["status"] == "ok" and (tmp_path / "demo" / "slide.tif").is_file()


def test_the_doctor_finds_this_machine_well(capsys):
    assert main(["doctor"]) == 0
    assert "a made slide came back" in capsys.readouterr().out


def test_the_bundles_are_listed_with_their_cards(capsys):
    assert main(["bundles"]) == 0
    listed = capsys.readouterr().out
    for name in builtin_names():
        assert f"{name}:" in listed or f"{name} (default):" in listed
        assert main(["bundles", name]) == 0
        card = capsys.readouterr().out
        assert "medical" in card and Bundle.builtin(name).hash in card
