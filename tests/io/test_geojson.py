import json
import uuid

import numpy as np
import pytest
import shapely

from digipath.errors import AnnotationError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, polygonize, rasterize
from digipath.geometry.raster import Raster
from digipath.io import shapes
from digipath.io.geojson import read_geojson, write_geojson

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}


def feature(geometry=SQUARE, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.fixture
def read(tmp_path):
    def read(document, **options):
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "a.geojson").write_text(text)
        return read_geojson(tmp_path / "a.geojson", **options)

    return read


@pytest.fixture
def written(tmp_path):
    def written(annotations, **options):
        write_geojson(tmp_path / "a.geojson", annotations, **options)
        return json.loads((tmp_path / "a.geojson").read_text())

    return written


@pytest.mark.parametrize(
    "shape", [lambda f: f, lambda f: [f], lambda f: {"type": "FeatureCollection", "features": [f]}]
)
def test_a_feature_a_list_and_a_collection_are_read(shape, read):
    (annotation,) = read(shape(feature(name="a")))
    assert annotation == Annotation("a", shapely.Polygon(SQUARE["coordinates"][0]))


def test_a_bare_geometry_is_read(read):
    assert [annotation.name for annotation in read(SQUARE)] == [shapes.UNNAMED]


@pytest.mark.parametrize(
    ("properties", "name", "color"),
    [
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, "Tumor", (200, 0, 0)),
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}}, "Tumor", (200, 0, 0)),
        ({"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}}, "Tumor: Positive", (1, 2, 3)),
        ({"classification": "Tumor", "color": [1, 2, 3]}, "Tumor", (1, 2, 3)),
        ({"classification": {}, "name": "mine", "color": -1}, "mine", (255, 255, 255)),
        ({"classification": None}, shapes.UNNAMED, None),
        ({"isLocked": True, "objectType": "annotation"}, shapes.UNNAMED, None),
        ({"classification": {"name": "a\nb"}, "color": [1, 2]}, "a b", None),
    ],
)
def test_classes_and_colors_of_old_and_new_files_are_read(properties, name, color, read):
    (annotation,) = read(feature(**properties))
    assert (annotation.name, annotation.color) == (name, color)


@pytest.mark.parametrize("values", [{"Area": 1.5, "n": 2}, [{"name": "Area", "value": 1.5}, {"name": "n", "value": 2}]])
def test_measurements_are_read_as_an_object_and_as_a_list(values, read):
    (annotation,) = read(feature(measurements=values, metadata={"who": "me"}, classification="a", name="own"))
    assert annotation.measurements == {"Area": 1.5, "n": 2.0, "who": "me", "name": "own"}


def test_measurements_that_are_no_finite_numbers_are_counted(read):
    text = json.dumps(feature()).replace("{}", '{"measurements":{"a":NaN,"b":"NaN","c":1,"d":1%s}}' % ("0" * 400))
    with pytest.warns(UserWarning, match="3 x measurement"):
        (annotation,) = read(text)
    assert annotation.measurements == {"c": 1.0}


def test_nuclei_are_counted_and_objects_below_others_are_read(read):
    cell = feature(name="cell", childObjects=[feature(name="child")]) | {"nucleusGeometry": SQUARE}
    with pytest.warns(UserWarning, match="1 x nucleus of a cell, left out"):
        annotations = read([cell, feature(name="next")])
    assert sorted(annotation.name for annotation in annotations) == ["cell", "child", "next"]


def test_positive_and_negative_outlines_are_a_truth_mask(read):
    outlines = {"big": [[0, 0], [9, 0], [9, 9], [0, 9]], "hole": [[3, 3], [6, 3], [6, 6], [3, 6]]}
    document = {
        "positive": [{"name": "_0", "vertices": outlines["big"]}],
        "negative": [{"name": "_1", "vertices": outlines["hole"]}],
    }
    (tumor,) = read(document)
    assert tumor.name == "tumor"
    assert tumor.geometry.equals(shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6))
    assert read({"positive": [], "negative": []}) == []


def test_collections_are_taken_apart_and_empty_geometries_counted(read):
    collection = {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 2, 0]}]}
    with pytest.warns(UserWarning, match="1 x empty geometry, left out; 1 x feature without a geometry"):
        polygon, point = read(
            [feature(collection), feature({"type": "MultiPolygon", "coordinates": []}), feature(None)]
        )
    assert (polygon.geometry.area, point.geometry) == (16, shapely.Point(1, 2))


@pytest.mark.parametrize(
    ("rings", "note", "area"),
    [
        ([[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]], "self-crossing polygon, repaired", 2),
        ([[[0, 0], [4, 0], [4, 4], [0, 4]]], "not closed, closed", 16),
        ([SQUARE["coordinates"][0], [[1, 1], [2, 2], [1, 1]]], "fewer than 3 vertices", 16),
        ([[[0, 0], [4, 0], [0, 0]]], "fewer than 3 vertices", None),
        ([[[0, 0], [4, 0], [8, 0], [0, 0]]], "without an area, left out", None),
        ([SQUARE["coordinates"][0], [[1, 1], [9, 1], [9, 2], [1, 2], [1, 1]]], "repaired", 13),
    ],
)
def test_odd_outlines_are_mended_or_left_out_and_counted(rings, note, area, read):
    with pytest.warns(UserWarning, match=f"1 x .*{note}") as caught:
        annotations = read(feature({"type": "Polygon", "coordinates": rings}))
    assert len(caught) == 1
    assert sum(annotation.geometry.area for annotation in annotations) == (area or 0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (feature({"type": "Point", "coordinates": [1]}), "two numbers"),
        (feature({"type": "Point", "coordinates": ["a", 1]}), "two numbers"),
        (feature({"type": "Point", "coordinates": [None, 1]}), "finite|two numbers"),
        (feature({"type": "Point", "coordinates": 7}), "list of coordinates"),
        (feature({"type": "Polygon", "coordinates": [[[0, 0], [1], [2, 2]]]}), "two numbers"),
        (feature({"type": "Polygon", "coordinates": [{"x": 1}]}), "two numbers"),
        (feature({"type": "Circle", "coordinates": [1, 2]}), "got Circle"),
        (feature({"type": "Point", "coordinates": [1, 1e9]}), "within 1e[+]08"),
        (feature({"type": "Point", "coordinates": [1, 10**400]}), "two numbers"),
        ('{"type":"Feature","geometry":{"type":"Point","coordinates":[NaN,1]}}', "finite"),
        ('{"type":"Feature","geometry":{"type":"Point","coordinates":[1,1e999]}}', "finite"),
        ([1, 2], "got int"),
        ({"type": "FeatureCollection", "features": {}}, "a list is needed"),
        ({"a": 1}, "not GeoJSON"),
        ({"type": "Feature", "geometry": SQUARE, "properties": [1]}, "properties are a JSON object"),
        ({"positive": [{"vertices": "abc"}]}, "two numbers"),
        ("7", "got int"),
        ("", "not valid JSON"),
    ],
)
def test_damaged_files_are_refused_with_the_reason(document, message, read):
    with pytest.raises(AnnotationError, match=message):
        read(document)


def test_more_vertices_or_annotations_than_the_limit_are_refused_and_warned_of_when_written(read, written, monkeypatch):
    monkeypatch.setattr(shapes, "MAX_VERTICES", 9)
    assert len(read([feature()])) == 1
    with pytest.raises(AnnotationError, match="at most 9 vertices"):
        read([feature(), feature()])
    with pytest.warns(UserWarning, match="more than the"):
        written([Annotation("a", shapely.box(0, 0, 1, 1))] * 2)
    monkeypatch.setattr(shapes, "MAX_VERTICES", 99)
    monkeypatch.setattr(shapes, "MAX_ANNOTATIONS", 1)
    with pytest.raises(AnnotationError, match="at most 1 annotations"):
        read([feature(), feature()])


def test_what_is_written_is_what_qupath_expects(written):
    ring = shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6)
    texts = {"Area mm^2": 0.5, "who": "me", "name": "Lesion 1"}
    document = written([Annotation("lesion", ring, (255, 0, 0), texts), Annotation("plain", shapely.Point(1, 2.5))])
    assert document["type"] == "FeatureCollection"
    first, second = document["features"]
    assert first["properties"] == {
        "objectType": "annotation",
        "name": "Lesion 1",
        "classification": {"name": "lesion", "color": [255, 0, 0]},
        "measurements": {"Area mm^2": 0.5},
        "metadata": {"who": "me"},
    }
    assert len(first["geometry"]["coordinates"]) == 2
    assert second["properties"] == {"objectType": "annotation", "classification": "plain"}
    assert second["geometry"] == {"type": "Point", "coordinates": [1.0, 2.5]}


def test_ids_are_different_uuids_that_writing_again_does_not_change(written):
    same = [Annotation("a", shapely.box(0, 0, 1, 1)), Annotation("a", shapely.box(0, 0, 1, 1))]
    ids = [feature["id"] for feature in written([*same, Annotation("b", shapely.box(0, 0, 1, 1))])["features"]]
    assert len({uuid.UUID(text) for text in ids}) == 3
    assert [feature["id"] for feature in written(same)["features"]] == ids[:2]


def test_whole_numbers_are_written_without_a_fraction(tmp_path):
    write_geojson(tmp_path / "a.geojson", [Annotation("a", shapely.box(0, 0, 4.0, 2.0))])
    assert "[4,2]" in (tmp_path / "a.geojson").read_text()


def test_the_origin_is_subtracted_noted_and_added_again(written, tmp_path):
    mask = Raster(np.random.default_rng(0).random((9, 13)) > 0.5, Frame(13, 9, 4.4088, 1.0714))
    annotations = polygonize(mask)
    document = written(annotations, origin=(1234, 567.8))
    shifted = np.array(document["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(
        shifted + np.array([1234, 567.8]), shapely.get_coordinates(annotations[0].geometry.exterior)
    )
    np.testing.assert_array_equal(rasterize(read_geojson(tmp_path / "a.geojson"), mask.frame).array(), mask.values)
    del document["digipath"]  # as after QuPath wrote it again
    (tmp_path / "b.geojson").write_text(json.dumps(document))
    again = read_geojson(tmp_path / "b.geojson", origin=(1234, 567.8))
    np.testing.assert_array_equal(rasterize(again, mask.frame).array(), mask.values)


def test_measurements_come_back(tmp_path):
    annotation = Annotation("a", shapely.Point(1, 2), (1, 2, 3), {"area": 0.1, "name": "A 1", "note": "x"})
    write_geojson(tmp_path / "a.geojson", [annotation])
    assert read_geojson(tmp_path / "a.geojson") == [annotation]
