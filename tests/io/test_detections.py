"""Files of detections: what is written is read, and what is malformed is told by number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import ResultError
from digipath.geometry.detections import Detection
from digipath.io import detections as module
from digipath.io.detections import read_detections, write_detections

wholes = st.integers(0, 300_000)
some = st.lists(st.builds(Detection, st.floats(0, 1), wholes, wholes), max_size=20)


@settings(max_examples=20)
@given(some, st.booleans())
def test_what_is_written_is_read_exactly(tmp_path_factory, found, header):
    path = tmp_path_factory.mktemp("csv") / "Test_001.csv"
    write_detections(path, found, header=header)
    assert read_detections(path) == found


def test_the_organisers_program_reads_what_is_written(tmp_path):
    path = tmp_path / "results/Test_001.csv"
    write_detections(path, [Detection(0.9, 1234.5, 77.0), Detection(1e-7, 0, 3)])
    rows = []
    for line in path.read_text().splitlines():  # as they do: no header, whole numbers
        fields = line.rstrip().split(",")
        rows.append((float(fields[0]), int(fields[1]), int(fields[2])))
    assert rows == [(0.9, 1234, 77), (1e-7, 0, 3)]


@pytest.mark.parametrize(
    "text",
    [
        "0.9,10,20\n0.5,30,40\n",
        "probability,x,y\n0.9,10,20\n0.5,30,40",
        "Confidence, X coordinate, Y coordinate\r\n0.9, 10, 20\r\n0.5, 30, 40\r\n\r\n",
        "x,y,probability\n10,20.0,0.9\n30.0,40,5e-1\n",
        "\ufeff0.9,10,20\n\n0.5,30,40\n",
        '"probability","x","y"\n"0.9","10","20"\n0.5,30,40\n',
    ],
)
def test_files_with_a_header_or_without_are_read(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert read_detections(path) == [(0.9, 10, 20), (0.5, 30, 40)]


@pytest.mark.parametrize("text", ["", "\n", "probability,x,y\n"])
def test_a_file_without_detections_is_none(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert read_detections(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "0.9;10;20",
        "0.9,10",
        "0.9,10,20,30",
        "1.2,10,20",
        "-0.1,1,1",
        "nan,1,1",
        "0.5,inf,1",
        "0.5,-3,1",
        "p,x,y",
        "a,b,c",
    ],
)
def test_malformed_lines_are_told_by_number(tmp_path, line):
    path = tmp_path / "a.csv"
    path.write_text(f"0.9,1,2\n{line}\n0.8,3,4\n")
    with pytest.raises(ResultError, match=r"a\.csv: each line is probability,x,y.*line 2:"):
        read_detections(path)


def test_many_malformed_lines_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x y p\n" * 12)
    with pytest.raises(ResultError, match=r"line 1: .*line 5: .*and 7 more"):
        read_detections(path)


def test_a_file_that_is_missing_too_large_or_no_text_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    with pytest.raises(ResultError, match="no such file"):
        read_detections(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="cannot be read as text"):
        read_detections(path)
    path.write_text("0.5,1,1\n" * 9)
    monkeypatch.setattr(module, "MAX_DETECTIONS", 8)
    with pytest.raises(ResultError, match="at most 8 detections, got 9"):
        read_detections(path)
    monkeypatch.setattr(module, "MAX_BYTES", 50)
    with pytest.raises(ResultError, match="at most"):
        read_detections(path)


@pytest.mark.parametrize("wrong", [(1.5, 1, 1), (0.5, -1, 1), (0.5, float("nan"), 1), (0.5, 1), ("a", 1, 2)])
def test_detections_without_sense_are_not_written(tmp_path, wrong):
    with pytest.raises(ResultError):
        write_detections(tmp_path / "a.csv", [wrong])
    assert list(tmp_path.iterdir()) == []
