import gc
import threading
import tracemalloc
from contextlib import contextmanager

import h5py
import numpy as np
import pytest

from digipath.errors import ResultError, SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.io.store import StoreWriter, open_store, read_rasters, write_rasters

rng = np.random.default_rng(3)
FRAME = Frame(300, 517, 4.0, 2.2, (1198, 2066))


def heatmap(frame=FRAME, channels=("background", "lesion")):
    return Raster(rng.random((*frame.shape, len(channels))).astype(np.float16), frame, channels)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "result.h5"


@pytest.mark.parametrize("height", [1, 37, 256, 300, 517])
def test_strips_of_any_height_give_the_raster_back_bit_for_bit(path, height):
    values, mask = heatmap(), Raster(rng.random(FRAME.shape) < 0.5, FRAME)
    with StoreWriter(path, description={"slide": "ä"}) as writer:
        writer.add("heatmap", FRAME, channels=values.channels)
        writer.add("covered", FRAME, dtype=bool)
        for box in FRAME.rows(height):
            writer.write("heatmap", box.y, values.values[box.y : box.bottom])
            writer.write("covered", box.y, mask.values[box.y : box.bottom])
    with open_store(path) as store:
        assert store.description == {"slide": "ä"} and list(store) == ["covered", "heatmap"]
        assert store["heatmap"].frame == FRAME and store["heatmap"].channels == values.channels
        for name, raster in (("heatmap", values), ("covered", mask)):
            read = store[name].array()
            assert read.dtype == raster.values.dtype
            np.testing.assert_array_equal(read, raster.values)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, np.float32])
def test_whole_rasters_of_any_type_survive_the_round_trip(path, dtype):
    rasters = {"a": Raster((rng.random((5, 7)) * 9).astype(dtype), Frame.level0(7, 5, 0.25)), "b": heatmap()}
    write_rasters(path, rasters)
    for name, raster in read_rasters(path).items():
        assert raster.frame == rasters[name].frame and raster.values.dtype == rasters[name].values.dtype
        np.testing.assert_array_equal(raster.values, rasters[name].values)


def test_an_opened_raster_behaves_like_one_in_memory(path):
    values = heatmap()
    write_rasters(path, {"heatmap": values})
    with open_store(path) as store:
        lazy, box = store["heatmap"], Box(-5, 400, 100, 200)
        np.testing.assert_array_equal(lazy.crop(box), values.crop(box))
        np.testing.assert_array_equal(lazy.channel("lesion").values, values.channel("lesion").values)
        np.testing.assert_array_equal(np.asarray(lazy.values), values.values)
        coarse = FRAME.coarser(3)
        np.testing.assert_array_equal(lazy.resample(coarse).values, values.resample(coarse).values)


def test_many_threads_read_the_same_values(path):
    values = heatmap()
    write_rasters(path, {"heatmap": values})
    differences = []
    with open_store(path) as store:

        def read(seed):
            for y, x in np.random.default_rng(seed).integers(0, 250, (30, 2)):
                box = Box(int(x), int(y), 50, 50)
                differences.append(np.abs(store["heatmap"].crop(box) - values.crop(box)).max())

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(differences) == 240 and max(differences) == 0


def test_memory_does_not_grow_with_the_height(path):
    def peak(height):
        frame, rows = Frame.level0(600, height, 2.0), np.zeros((50, 600), np.float16)
        tracemalloc.start()
        with StoreWriter(path) as writer:
            writer.add("heatmap", frame)
            for y in range(0, height, 50):
                writer.write("heatmap", y, rows)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(600)  # What is loaded on first use.
    assert peak(6000) < 1.1 * peak(1500)


def test_an_exception_leaves_no_file_and_the_old_one_as_it_was(path):
    write_rasters(path, {"a": heatmap()})
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), StoreWriter(path) as writer:
        writer.add("a", FRAME)
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@contextmanager
def room_for(count):
    """No file of this process grows beyond so many bytes; that looks like a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("error")
def test_wherever_the_disk_is_full_that_is_said_and_the_library_lives_on(path):
    """HDF5 itself would end the process, some time later."""
    values = heatmap()
    write_rasters(path, {"heatmap": values})
    whole = path.read_bytes()
    for room in [*range(0, 5000, 1000), *range(5000, len(whole), 97_000), len(whole) - 1]:
        with room_for(room), pytest.raises(OSError, match=r"^\[Errno \d+\] [\w ]+$"):
            write_rasters(path, {"heatmap": values})
        gc.collect()
        assert [one.name for one in path.parent.iterdir()] == [path.name] and path.read_bytes() == whole
    with room_for(len(whole)):
        write_rasters(path, {"heatmap": values})
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("y", "shape", "dtype", "says"),
    [
        (0, (10, 300, 2), np.float32, "are float16, got float32"),
        (5, (10, 300, 2), np.float16, "starts at row 0, got one that starts at 5"),
        (0, (10, 299, 2), np.float16, "shape"),
        (0, (600, 300, 2), np.float16, "517 rows"),
        (0, (10, 300, 2), np.float16, "only 10 were written"),
    ],
)
def test_strips_that_do_not_fit_are_refused_in_words(path, y, shape, dtype, says):
    with pytest.raises(SpecError, match=says), StoreWriter(path) as writer:
        writer.add("heatmap", FRAME, channels=("a", "b"))
        writer.write("heatmap", y, np.zeros(shape, dtype))
    assert not list(path.parent.iterdir())


def test_names_that_cannot_be_kept_are_refused(path):
    with pytest.raises(SpecError, match="outside"):
        StoreWriter(path).add("a", FRAME)
    with StoreWriter(path) as writer:
        with pytest.raises(SpecError, match="slash"):
            writer.add("a/b", FRAME)
        with pytest.raises(SpecError, match="begun by"):
            writer.write("a", 0, np.zeros((1, 300), np.float16))


def test_a_file_that_is_missing_cut_short_or_something_else_is_a_result_error(path):
    with pytest.raises(ResultError, match="does not exist"):
        open_store(path)
    write_rasters(path, {"a": heatmap()})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"GIF89a" * 100):
        path.write_bytes(content)
        with pytest.raises(ResultError, match="damaged"):
            open_store(path)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
    with pytest.raises(ResultError, match="not one of digipath's"):
        open_store(path)


def test_a_flipped_bit_is_found_when_it_is_read(path):
    write_rasters(path, {"a": heatmap()})
    with h5py.File(path) as file:
        where = file["a"].id.get_chunk_info(0).byte_offset + 1000
    content = bytearray(path.read_bytes())
    content[where] ^= 4
    path.write_bytes(content)
    with open_store(path) as store, pytest.raises(ResultError, match="damaged"):
        store["a"].array()


def test_a_newer_format_is_refused(path):
    write_rasters(path, {"a": heatmap()})
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(ResultError, match="Update digipath"):
        open_store(path)


def test_values_of_a_closed_store_say_so(path):
    write_rasters(path, {"a": heatmap()})
    with open_store(path) as store:
        raster = store["a"]
    with pytest.raises(ResultError, match="closed"):
        raster.array()
