"""Answers handed on to QuPath and ASAP."""

import json

import pytest
import shapely

from digipath.io.asap import read_asap
from digipath.io.geojson import read_geojson
from digipath.review.export import annotations_of, write_asap_of
from digipath.review.review import Review

BOW = [(600, 600), (700, 700), (700, 600), (600, 700)]  # crosses itself


@pytest.fixture
def review(result) -> Review:
    """One of each answer."""
    review = Review.open(result, "Ada").confirm("section:1").reject("section:2")
    review = review.confirm("region:1").reject("region:2").relabel("region:3", 'in "situ" <&>')
    return review.draw([(600.5, 600), (700, 600), (700, 700)], "lesion", subject="drawn:" + "1" * 32)


def _told(annotations):
    return sorted((one.name, shapely.normalize(one.geometry).wkt) for one in annotations)


def test_the_geojson_that_is_saved_with_every_answer_reads_back(review):
    saved = read_geojson(review.folder / "review.geojson")
    assert _told(saved) == _told(annotations_of(review.asked, review.latest))
    assert [one.name for one in saved] == ["tumour section"] * 2 + ["lesion", 'in "situ" <&>', "lesion"]
    assert saved[0].measurements["reviewer"] == "Ada"
    document = json.loads((review.folder / "review.geojson").read_text())
    assert document["digipath"]["origin"] == [30, 40]
    assert document["features"][2]["geometry"]["coordinates"][0][0][0] < 250  # QuPath counts from the origin


def test_asaps_xml_reads_back(review, tmp_path):
    write_asap_of(tmp_path / "review.xml", review.asked, review.latest)
    assert _told(read_asap(tmp_path / "review.xml")) == _told(annotations_of(review.asked, review.latest))


def test_an_undone_answer_is_gone_from_the_file_too(review):
    before = len(read_geojson(review.folder / "review.geojson"))
    review.undo()
    assert len(read_geojson(review.folder / "review.geojson")) == before - 1


def test_an_outline_that_crosses_itself_is_exported_as_what_it_goes_round(result):
    review = Review.open(result, "Ada").draw(BOW, "lesion", subject="drawn:" + "2" * 32)
    (found,) = annotations_of(review.asked, review.latest)
    assert found.geometry.is_valid
    assert found.geometry.area == 5000


def test_stale_answers_are_not_handed_on(review, remake):
    remake(review.folder, shift=7)
    again = review.reload()
    assert [one.measurements["subject"] for one in annotations_of(again.asked, again.latest)] == ["drawn:" + "1" * 32]
