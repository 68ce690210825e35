import gzip

import pytest

from digipath.errors import AnnotationError
from digipath.io import documents
from digipath.io.documents import head, json_of, read_document, replacing, xml_events


def test_a_file_above_the_limit_is_refused_also_when_it_unpacks_to_that(tmp_path):
    (tmp_path / "plain").write_bytes(b"x" * 101)
    (tmp_path / "zipped").write_bytes(gzip.compress(b"x" * 101))
    for name in ("plain", "zipped"):
        assert len(read_document(tmp_path / name, limit=101)) == 101
        with pytest.raises(AnnotationError, match="at most"):
            read_document(tmp_path / name, limit=100)
        assert head(tmp_path / name, 5) == b"xxxxx"


def test_json_of_too_many_parts_or_too_deep_is_refused(monkeypatch):
    with pytest.raises(AnnotationError, match="not valid JSON"):
        json_of(b"[" * 100_000, "a")
    monkeypatch.setattr(documents, "_MAX_BRACKETS", 3)
    assert json_of(b"[[1],[2]]", "a") == [[1], [2]]
    with pytest.raises(AnnotationError, match="at most 3"):
        json_of(b"[[1],[2],[3]]", "a")


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a><a/>",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        "<a><b></a>",
        "",
        '<?xml version="1.0" encoding="none-such"?><a/>',
    ],
)
def test_document_types_entities_and_broken_xml_are_refused(text):
    with pytest.raises(AnnotationError, match="not XML as annotations are written"):
        list(xml_events(text.encode(), "a"))


def test_a_failed_write_leaves_nothing(tmp_path):
    for name in ("a.txt", "a.gz"):
        with pytest.raises(KeyError), replacing(tmp_path / name) as file:
            file.write("half")
            raise KeyError
    assert list(tmp_path.iterdir()) == []
