import h5py
import numpy as np
import pytest
import tifffile

from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.inference.engine import Strip
from digipath.inference.predictor import UNCERTAINTY
from digipath.inference.sinks import FileSink, MemorySink, classes_of, deviation, strips_of
from digipath.io.pyramid import read_description
from digipath.io.store import read_rasters

FRAME = Frame.level0(70, 45, 1.0)
CLASSES = ("other", "lesion")
CHANNELS = (*CLASSES, *UNCERTAINTY)


def strips(channels=CHANNELS, *, rows=13, seed=0):
    """Random values with the awkward ones among them: 0, the largest, and a variance that rounding left below 0."""
    random = np.random.default_rng(seed)
    values = random.random((*FRAME.shape, len(channels))).astype(np.float32)
    classes = len(classes_of(channels))
    values[..., classes:] *= 0.25
    values[0, :3, classes:] = np.array([0, 0.25, -1e-9], np.float32)[:, None]
    covered = random.random(FRAME.shape) < 0.8
    covered[0, :3] = True
    values[~covered] = 0
    for y in range(0, FRAME.height, rows):
        yield Strip(y, values[y : y + rows], covered[y : y + rows])


def memory(channels=CHANNELS):
    sink = MemorySink(FRAME, channels)
    for strip in strips(channels):
        sink.write(strip)
    return sink


def written(folder, source, channels=CHANNELS):
    """Bytes of every file by name."""
    folder.mkdir()
    tissue = Raster(np.ones((9, 14), bool), FRAME.at(5.0))
    with FileSink(folder, FRAME, channels, {"tissue": tissue}) as sink:
        for strip in source:
            sink.write(strip)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kinds", [(), UNCERTAINTY[:1], UNCERTAINTY[1:], UNCERTAINTY])
@pytest.mark.parametrize("classes", [("lesion",), CLASSES, ("other", "lesion", "benign")])
def test_uncertainties_are_told_from_classes(classes, kinds):
    assert classes_of((*classes, *kinds)) == classes
    sink = MemorySink(FRAME, (*classes, *kinds))
    assert sink.heatmap.channels == classes
    assert (sink.uncertainty.channels if kinds else sink.uncertainty) == (kinds or None)


@pytest.mark.parametrize("channels", [CLASSES, CHANNELS, ("other", "lesion", "benign", "aleatoric")])
def test_a_result_is_the_same_bytes_from_a_stream_from_memory_and_from_files(tmp_path, channels):
    streamed = written(tmp_path / "streamed", strips(channels), channels)
    kept = memory(channels)
    from_memory = strips_of(kept.heatmap, kept.covered, kept.uncertainty)
    assert written(tmp_path / "memory", from_memory, channels) == streamed
    rasters = read_rasters(tmp_path / "streamed" / "result.h5")
    from_files = strips_of(rasters["heatmap"], rasters["covered"], rasters.get("uncertainty"))
    assert written(tmp_path / "files", from_files, channels) == streamed


def test_strips_of_a_result_hold_what_was_written():
    kept = memory()
    values = np.concatenate([strip.values for strip in strips_of(kept.heatmap, kept.covered, kept.uncertainty)])
    original = np.concatenate([strip.values for strip in strips()])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[..., 2:], original[..., 2:])
    np.testing.assert_array_equal(values[..., :2], original[..., :2].astype(np.float16))


def test_variances_are_exact_in_hdf5_and_deviations_in_tiffs_that_say_so(tmp_path):
    names = set(written(tmp_path / "result", strips()))
    assert names == {"result.h5", "heatmap.tif", "aleatoric.tif", "epistemic.tif"}
    variances = np.concatenate([strip.values for strip in strips()])[..., 2:]
    with h5py.File(tmp_path / "result" / "result.h5") as file:
        assert file["uncertainty"].dtype == np.float32 and file["heatmap"].dtype == np.float16
        np.testing.assert_array_equal(file["uncertainty"][...], variances)
    for index, kind in enumerate(UNCERTAINTY):
        path = tmp_path / "result" / f"{kind}.tif"
        shown = tifffile.imread(path, level=0)
        expected = np.sqrt(np.clip(variances[..., index].astype(float), 0, None))
        np.testing.assert_allclose(shown / 255 * 0.5, expected, atol=0.5 / 255 / 2 + 1e-6)
        assert shown[0, :3].tolist() == [0, 255, 0]
        said = read_description(path)
        assert said == {
            "values": f"{kind} standard deviation of the probability of lesion",
            "value of 0": 0.0,
            "value of 255": 0.5,
        }
        with tifffile.TiffFile(path) as file:
            assert f'Name="{kind} standard deviation, 0-255 is 0-0.5"' in file.pages[0].description


def test_without_uncertainty_nothing_of_it_is_written(tmp_path):
    assert set(written(tmp_path / "result", strips(CLASSES), CLASSES)) == {"result.h5", "heatmap.tif"}
    assert set(read_rasters(tmp_path / "result" / "result.h5")) == {"heatmap", "covered", "tissue"}


def test_a_failing_stream_leaves_no_file(tmp_path):
    def broken():
        yield next(iter(strips()))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        written(tmp_path / "result", broken())
    assert not list((tmp_path / "result").iterdir())


def test_a_deviation_is_the_root_of_a_variance_within_its_limits():
    values = deviation(np.array([-1e-7, 0, 0.01, 0.25, 0.2500001]))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [0, 0, 0.1, 0.5, 0.5], atol=1e-7)
