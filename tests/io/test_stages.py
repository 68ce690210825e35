"""Files of stages: what is written is read, and the organisers' file comes out byte by byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import ResultError
from digipath.io import stages as module
from digipath.io.stages import read_stages, write_stages

words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


@settings(max_examples=10)
@given(st.dictionaries(words, words, max_size=8))
def test_what_is_written_is_read_in_its_order(tmp_path_factory, stages):
    path = tmp_path_factory.mktemp("csv") / "submission.csv"
    write_stages(path, stages)
    assert list(read_stages(path).items()) == list(stages.items())


def test_the_organisers_file_comes_out_byte_by_byte(data, tmp_path):
    theirs = data / "annotations/camelyon17/stage_labels_first50.csv"
    write_stages(tmp_path / "new/ours.csv", read_stages(theirs))
    assert (tmp_path / "new/ours.csv").read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "patient,stage\na.zip,pN0\nb.zip,pN1\n",
        "a.zip,pN0\r\n\r\nb.zip,pN1",
        "\ufeffSlide;Class\na.zip; pN0\nb.zip;pN1\n",
        "probability,slide_class,name\n0.9,pN0,a.zip\n0.8,pN1,b.zip\n",
        "name\tlabel\tnote\na.zip\tpN0\nb.zip\tpN1\tlooks fine\n",
    ],
)
def test_tables_with_a_header_or_without_are_read(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert list(read_stages(path).items()) == [("a.zip", "pN0"), ("b.zip", "pN1")]


@pytest.mark.parametrize("text", ["", "\n", "patient,stage\n"])
def test_a_file_without_lines_is_none(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert read_stages(path) == {}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("a.zip,", "line 3: 'a.zip,'"),
        (",pN0", "line 3: ',pN0'"),
        ("a.zip", "line 3: 'a.zip'"),
        ("x.zip,pN1", "line 3: 'x.zip' comes again"),
    ],
)
def test_faults_are_told_by_line(tmp_path, line, match):
    path = tmp_path / "a.csv"
    path.write_text(f"patient,stage\nx.zip,pN0\n{line}\n")
    with pytest.raises(ResultError, match=match):
        read_stages(path)


def test_more_than_two_columns_need_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a.zip,pN0,0.9\n" * 9)
    with pytest.raises(ResultError, match=r"line 1.*and 4 more"):
        read_stages(path)


def test_files_that_are_no_text_missing_or_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    with pytest.raises(ResultError, match="no such file"):
        read_stages(path)
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ResultError, match="as text"):
        read_stages(path)
    path.write_text("a.zip,pN0\n")
    monkeypatch.setattr(module, "MAX_BYTES", 4)
    with pytest.raises(ResultError, match="at most"):
        read_stages(path)


def test_a_name_without_a_stage_is_not_written(tmp_path):
    with pytest.raises(ResultError, match=r"'b\.zip'"):
        write_stages(tmp_path / "a.csv", {"a.zip": "pN0", "b.zip": " "})
    assert not (tmp_path / "a.csv").exists()
