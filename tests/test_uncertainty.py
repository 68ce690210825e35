import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.polygons import rasterize
from digipath.geometry.raster import Raster
from digipath.inference.engine import Strip
from digipath.inference.predictor import UNCERTAINTY
from digipath.inference.sinks import FileSink
from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.overview import draw, paint, picture_frame
from digipath.result_folder import staged
from digipath.segmentation import Segmentation
from digipath.uncertainty import DOUBT, Uncertainty

FRAME = Frame.level0(800, 600, 0.5).at(4.0)  # 100 columns, 75 rows of 8 x 8 level-0 pixels
MM2 = 4e-3**2


def deviations_of(*boxes, frame=FRAME):
    """(rows, columns, 2) float32 variances: 0.03 all over; in each box the standard deviations that are given."""
    variances = np.full((*frame.shape, 2), 0.03**2 / 2, np.float32)
    for box, aleatoric, epistemic in boxes:
        variances[box.slices()] = aleatoric**2, epistemic**2
    return variances


def result_of(variances, covered=None, kinds=UNCERTAINTY, frame=FRAME):
    """A result with a lesion in its upper left quarter."""
    heatmap = np.zeros((*frame.shape, 2), np.float16)
    heatmap[: frame.height // 2, : frame.width // 2, 1] = 0.75
    heatmap[..., 0] = 1 - heatmap[..., 1]
    everything = np.ones(frame.shape, bool)
    covered = everything if covered is None else covered
    heatmap[~covered] = 0
    info = {
        "format_version": 1,
        "slide": {"name": "a slide", "origin": [0, 0]},
        "threshold": 0.5,
        "status": "ok",
        "region": None,
        "areas": {"covered_mm2": covered.sum() * MM2, "uncovered_mm2": 0.0},
    }
    return Segmentation(
        heatmap=Raster(heatmap, frame, ("other", "lesion")),
        covered=Raster(covered, frame),
        tissue=Raster(everything, frame),
        thumbnail=Raster(np.full((*frame.shape, 3), (226, 170, 205), np.uint8), frame, ("red", "green", "blue")),
        info=info,
        uncertainty=None if variances is None else Raster(variances[..., : len(kinds)], frame, kinds),
    )


@pytest.fixture
def result():
    """Three uncertain squares and a speck of one pixel; the second square is the largest, the third the least sure."""
    return result_of(
        deviations_of(
            (Box(10, 8, 10, 10), 0.2, 0.0),
            (Box(40, 30, 20, 20), 0.0, 0.2),
            (Box(70, 50, 15, 15), 0.3, 0.4),
            (Box(90, 3, 1, 1), 0.3, 0.4),
        )
    )


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """The pictures that are drawn, on pages small enough to be quick."""
    seen = []

    def drawn(picture, *, width):
        assert width == 1200
        seen.append(picture)
        return draw(picture, width=400)

    monkeypatch.setattr("digipath.segmentation.draw", drawn)
    return seen


def test_planted_regions_are_found_and_ranked_by_area_times_mean(result):
    third, second, first = result.uncertain_regions()
    assert [region.rank for region in (third, second, first)] == [1, 2, 3]
    assert [region.box for region in (third, second, first)] == [
        Box(70, 50, 15, 15),
        Box(40, 30, 20, 20),
        Box(10, 8, 10, 10),
    ]
    assert third.area_mm2 == pytest.approx(225 * MM2) and second.area_mm2 == pytest.approx(400 * MM2)
    assert (third.mean, third.maximum) == pytest.approx((0.5, 0.5), abs=1e-6)
    assert (second.mean, first.mean) == pytest.approx((0.2, 0.2), abs=1e-6)
    assert second.integral == pytest.approx(80 * MM2, rel=1e-5)
    assert second.centroid == (400.0, 320.0)  # level-0 pixels
    assert third.peak == (70.5 * 8, 50.5 * 8)


def test_kinds_are_told_apart(result):
    boxes = {kind: [region.box.x for region in result.uncertain_regions(kind=kind)] for kind in ("total", *UNCERTAINTY)}
    assert boxes == {"total": [70, 40, 10], "aleatoric": [70, 10], "epistemic": [70, 40]}


def test_specks_are_left_out_unless_asked_for(result):
    assert len(result.uncertain_regions()) == 3
    assert [region.box.x for region in result.uncertain_regions(min_area_mm2=0)] == [70, 40, 10, 90]
    assert result.uncertain_mm2() == pytest.approx((225 + 400 + 100 + 1) * MM2)
    assert result.uncertain_mm2(0.29, kind="aleatoric") == pytest.approx(226 * MM2)


def test_at_most_n_regions_come_and_those_are_the_first(result):
    every = result.uncertain_regions()
    for n in range(5):
        assert result.uncertain_regions(n) == every[:n]
    assert result.uncertain_regions(above=0.49)[0].box == Box(70, 50, 15, 15)
    assert len(result.uncertain_regions(above=0.49)) == 1


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["total", *UNCERTAINTY]), st.sampled_from([0.0, 0.1, 0.3, None]))
def test_regions_are_those_that_scipy_finds_in_what_is_covered(seed, kind, above):
    random, frame = np.random.default_rng(seed), Frame.level0(24, 18, 4.0)
    variances = (random.random((18, 24, 2)) * 0.125).astype(np.float32)
    covered = random.random((18, 24)) < 0.7
    found = result_of(variances, covered, frame=frame).uncertain_regions(
        10**6, kind=kind, above=above, min_area_mm2=3 * MM2 * 0.999
    )
    chosen = variances.sum(-1) if kind == "total" else variances[..., UNCERTAINTY.index(kind)]
    deviation = np.sqrt(chosen)
    parts, count = ndimage.label(covered & (deviation > np.float32(DOUBT if above is None else above)))
    values = [deviation[parts == part].astype(float) for part in range(1, count + 1)]
    expected = sorted((one.sum() for one in values if len(one) >= 3), reverse=True)
    assert [region.integral / MM2 for region in found] == pytest.approx(expected, rel=1e-5)
    maxima = sorted(one.max() for one in values if len(one) >= 3)
    assert sorted(region.maximum for region in found) == pytest.approx(maxima, rel=1e-6)


def test_what_is_not_covered_is_not_uncertain(result):
    covered = np.ones(FRAME.shape, bool)
    covered[:, 60:] = False
    regions = result_of(result.uncertainty.values, covered).uncertain_regions()
    assert [region.box.x for region in regions] == [40, 10]


@pytest.mark.parametrize("kind", UNCERTAINTY)
def test_with_one_kind_alone_the_total_is_that(kind):
    variances = np.full((*FRAME.shape, 1), 0.25**2, np.float32)
    result = result_of(variances, kinds=(kind,))
    assert result.uncertain_regions() == result.uncertain_regions(kind=kind)
    (other,) = set(UNCERTAINTY) - {kind}
    needed = {"aleatoric": "augmentations", "epistemic": "several bundles"}[other]
    with pytest.raises(ResultError, match=f"has {kind} uncertainty, and {other} was asked for.*with {needed}"):
        result.uncertain_regions(kind=other)


def test_asking_a_result_without_uncertainty_says_how_to_get_it():
    result = result_of(None)
    for ask in (result.uncertain_regions, result.uncertain_mm2, result.uncertainty_overview):
        with pytest.raises(ResultError, match=r"uncertainty=True.*augmentations.*several bundles"):
            ask()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"kind": "both"}, '"total", "aleatoric" or "epistemic"'),
        ({"above": 0.5}, "standard deviation"),
        ({"above": -0.1}, "standard deviation"),
        ({"above": float("nan")}, "standard deviation"),
        ({"above": "high"}, "standard deviation"),
        ({"n": -1}, "whole number"),
        ({"n": 2.5}, "whole number"),
    ],
)
def test_questions_without_sense_are_refused(result, question, message):
    with pytest.raises(SpecError, match=message):
        result.uncertain_regions(**question)


def test_a_folder_gives_the_uncertainty_back_and_the_same_regions(result, tmp_path):
    with Segmentation.load(result.save(tmp_path / "saved")) as stored:
        assert stored.uncertainty.channels == UNCERTAINTY and stored.uncertainty.values.dtype == np.float32
        np.testing.assert_array_equal(stored.uncertainty.array(), result.uncertainty.array())
        assert stored.uncertain_regions() == result.uncertain_regions()
        again = stored.save(tmp_path / "again")
    for path in (tmp_path / "saved").iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_a_stream_and_a_saved_result_are_the_same_bytes(result, tmp_path):
    saved = result.save(tmp_path / "saved")
    (tmp_path / "streamed").mkdir()
    rasters = {"tissue": result.tissue, "thumbnail": result.thumbnail}
    with FileSink(tmp_path / "streamed", FRAME, (*result.classes, *UNCERTAINTY), rasters) as sink:
        for y in range(0, FRAME.height, 9):
            rows = slice(y, y + 9)
            values = np.concatenate(
                [result.heatmap.values[rows], result.uncertainty.values[rows]], -1, dtype=np.float32
            )
            sink.write(Strip(y, values, result.covered.values[rows]))
    files = sorted(path.name for path in (tmp_path / "streamed").iterdir())
    assert files == ["aleatoric.tif", "epistemic.tif", "heatmap.tif", "result.h5"]
    for name in files:
        assert (saved / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()


def test_uncertain_regions_are_a_class_of_their_own_in_other_programs(result, tmp_path):
    plain = result_of(None).save(tmp_path / "plain")
    folder = result.save(tmp_path / "slide")
    doubt = Uncertainty(result.uncertainty, result.covered)
    expected = doubt.mask.array().copy()
    expected[3, 90] = False  # the speck
    for name, read in (("annotations.geojson", read_geojson), ("annotations.xml", read_asap)):
        annotations = read(folder / name)
        assert [one.name for one in annotations] == ["lesion", "Uncertain", "Uncertain", "Uncertain"]
        assert annotations[:1] == read(plain / name)
        np.testing.assert_array_equal(rasterize(annotations[1:], FRAME).array(), expected)
        assert annotations[1].color is not None and annotations[1].color != annotations[0].color
    measured = [one.measurements for one in read_geojson(folder / "annotations.geojson")[1:]]
    for region, values in zip(result.uncertain_regions(), measured, strict=True):
        assert values == {
            "rank": region.rank,
            "area mm2": region.area_mm2,
            "mean standard deviation": region.mean,
            "max standard deviation": region.maximum,
        }


def test_a_run_without_uncertainty_leaves_none_of_an_earlier_one(result, tmp_path):
    folder = result.save(tmp_path / "slide")
    assert {"aleatoric.tif", "epistemic.tif", "uncertainty.png"} < {path.name for path in folder.iterdir()}
    result_of(None).save(folder)
    files = ["annotations.geojson", "annotations.xml", "heatmap.tif", "overview.png", "result.h5", "result.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    with Segmentation.load(folder) as loaded:
        assert loaded.uncertainty is None


def test_a_journal_in_the_folder_is_left_alone(result, tmp_path):
    journal = tmp_path / "slide" / ".journal"
    journal.mkdir(parents=True)
    (journal / "0.npy").write_bytes(b"strip")
    result.save(tmp_path / "slide")
    with pytest.raises(OSError, match="full"), staged(tmp_path / "slide"):
        raise OSError("the disk is full")
    assert [path.name for path in journal.iterdir()] == ["0.npy"] and (journal / "0.npy").read_bytes() == b"strip"
    assert json.loads((tmp_path / "slide" / "result.json").read_text()) == result.info


def test_the_picture_colours_outlines_and_numbers_uncertain_regions_alone(result, pictures, tmp_path):
    folder = result.save(tmp_path / "slide")
    drawn = np.asarray(Image.open(folder / "uncertainty.png"))
    np.testing.assert_array_equal(drawn, result.uncertainty_overview(1200))
    shown = pictures[-1]
    assert (shown.full, shown.threshold, shown.quantity) == (0.5, DOUBT, "deviation")
    assert "0.01 of 0.12 mm² tissue (10%) with total standard deviation > 0.15; 3 of 3 regions" in shown.caption
    result_of(deviations_of()).uncertainty_overview()
    sure = pictures[-1]
    frame = picture_frame(FRAME, width=800)
    changed = (paint(shown, frame, width=800) != paint(sure, frame, width=800)).any(-1)
    planted = [region.box for region in result.uncertain_regions()]
    scale = FRAME.downsample / frame.downsample
    for box in planted:
        left, top, right, bottom = (round(side * scale) for side in box.bounds)
        assert changed[top:bottom, left:right].all()
    allowed = np.zeros(FRAME.shape, bool)
    for box in [*planted, Box(90, 3, 1, 1)]:
        allowed[box.slices()] = True
    near = Raster(ndimage.binary_dilation(allowed, iterations=4), FRAME).resample(frame).array()
    assert not changed[~near].any()


def test_a_result_without_tissue_has_no_uncertain_regions(tmp_path):
    nothing = np.zeros(FRAME.shape, bool)
    result = result_of(np.zeros((*FRAME.shape, 2), np.float32), nothing)
    assert result.uncertain_regions() == [] and result.uncertain_mm2() == 0
    assert (result.save(tmp_path / "empty") / "uncertainty.png").is_file()


class Lazy:
    """Sliced in rows only, as a data set on disk; refuses to give everything at once."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        rows = key[0] if isinstance(key, tuple) else key
        assert isinstance(rows, slice) and rows.stop - rows.start <= 1024
        return self.values[key]


def test_uncertainty_is_read_strip_by_strip(monkeypatch):
    monkeypatch.setattr("digipath.geometry.components._STRIP_PIXELS", 1 << 16)
    monkeypatch.setattr("digipath.geometry.regions._STRIP_PIXELS", 1 << 16)
    frame = Frame.level0(128, 3000, 4.0)
    variances = deviations_of((Box(20, 900, 40, 300), 0.2, 0.1), frame=frame)
    eager = result_of(variances, frame=frame)
    lazy = Uncertainty(Raster(Lazy(variances), frame, UNCERTAINTY), Raster(Lazy(eager.covered.values), frame))
    assert lazy.regions(5) == eager.uncertain_regions(5)
    assert len(lazy.annotations(5)) == 1
