import gzip
import json
import warnings

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from digipath.errors import AnnotationError
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, polygonize, rasterize
from digipath.geometry.raster import Raster
from digipath.io.annotations import read_annotations
from digipath.io.asap import write_asap
from digipath.io.geojson import write_geojson
from digipath.io.imagescope import write_imagescope

FORMATS = {"a.geojson": write_geojson, "a.geojson.gz": write_geojson, "a.xml": write_asap, "b.xml": write_imagescope}
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=10))
ISLANDS = np.zeros((11, 11), bool)
ISLANDS[1:10, 1:10], ISLANDS[2:9, 2:9], ISLANDS[3:8, 3:8], ISLANDS[4:7, 4:7], ISLANDS[5, 5] = 1, 0, 1, 0, 1


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(mask=masks | st.just(ISLANDS), downsample=st.sampled_from([1.0, 4.4088, 0.37, 32.0]))
def test_mask_to_polygons_to_file_to_polygons_to_mask_is_identical(name, mask, downsample, tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / name
    mask = Raster(mask, Frame(mask.shape[1], mask.shape[0], downsample, 0.25 * downsample))
    annotations = polygonize(mask, color=(200, 0, 0))
    FORMATS[name](path, annotations)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_annotations(path)
    np.testing.assert_array_equal(rasterize(again, mask.frame).array(), mask.values)
    assert again == annotations


@pytest.mark.parametrize("name", FORMATS)
def test_points_lines_and_colors_survive(name, tmp_path):
    annotations = [
        Annotation('tumor & <stroma> "é"', shapely.box(0.1, 0.2, 10.3, 1e5 / 3), (1, 2, 3)),
        Annotation("mitosis", shapely.Point(1 / 3, 2.5), (255, 0, 128)),
        Annotation("ruler", shapely.LineString([(0, 0), (1.25, 3), (7, 7)])),
    ]
    FORMATS[name](tmp_path / name, annotations)
    again = read_annotations(tmp_path / name)
    assert len(again) == 3
    for one, other in zip(annotations, again, strict=True):
        assert (one.name, one.color) == (other.name, other.color)
        assert one.geometry.equals(other.geometry)


@pytest.mark.parametrize("name", FORMATS)
def test_several_polygons_in_one_annotation_cover_the_same(name, tmp_path):
    parts = shapely.MultiPolygon([shapely.box(0, 0, 9, 9) - shapely.box(2, 2, 4, 4), shapely.box(12, 0, 15, 3)])
    FORMATS[name](tmp_path / name, [Annotation("a", parts)])
    assert shapely.union_all([a.geometry for a in read_annotations(tmp_path / name)]).equals(parts)


@pytest.mark.parametrize("name", FORMATS)
def test_no_annotations_are_a_file_too(name, tmp_path):
    FORMATS[name](tmp_path / name, [])
    assert read_annotations(tmp_path / name) == []


@pytest.mark.parametrize("name", FORMATS)
def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_beside_them(name, tmp_path):
    annotations = polygonize(Raster(ISLANDS, Frame(11, 11, 2.5, 1.0)))
    FORMATS[name](tmp_path / name, annotations)
    first = (tmp_path / name).read_bytes()
    FORMATS[name](tmp_path / name, annotations)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_failure_while_writing_keeps_the_file_that_was_there(name, tmp_path):
    path = tmp_path / name
    FORMATS[name](path, [])
    before = path.read_bytes()
    annotation = Annotation("a", shapely.Point(0, 0))
    object.__setattr__(annotation, "name", object())
    with pytest.raises((AttributeError, TypeError)):
        FORMATS[name](path, [annotation])
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_real_file_is_read(data):
    files = [path for folder in ("asap", "qupath") for path in sorted((data / "annotations" / folder).iterdir())]
    assert len(files) == 14
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            annotations = read_annotations(path)
        assert annotations
        for annotation in annotations:
            assert annotation.geometry.is_valid


@pytest.mark.parametrize("name", ["Tumor_025", "Tumor_107", "Tumor_091"])
def test_camelyon_truth_is_right_at_the_centres_of_pixels(name, data):
    path = data / "annotations" / "camelyon16-polygons" / f"{name}.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotations = read_annotations(path)
    geometries = [annotation.geometry for annotation in annotations]
    frame = Frame.level0(100_000, 220_000, 0.243).at(8.0)
    mask = rasterize(annotations, frame).array()
    rng = np.random.default_rng(0)
    vertices = shapely.get_coordinates(geometries)
    near = rng.choice(vertices, 3000) + rng.normal(0, 100, (3000, 2))
    column, row = np.clip(near / frame.downsample, 0, [frame.width - 1, frame.height - 1]).astype(int).T
    x, y = (column + 0.5) * frame.downsample, (row + 0.5) * frame.downsample
    shapely.prepare(geometries)
    inside = np.any([shapely.contains_xy(geometry, x, y) for geometry in geometries], axis=0)
    np.testing.assert_array_equal(mask[row, column], inside)


def test_the_content_decides_not_the_name(tmp_path):
    square = Annotation("a", shapely.box(0, 0, 4, 4))
    write_geojson(tmp_path / "x.geojson", [square])
    for name, content in {
        "wrong.xml": (tmp_path / "x.geojson").read_bytes(),
        "zipped.json": gzip.compress((tmp_path / "x.geojson").read_bytes()),
        "marked.txt": b"\xef\xbb\xbf" + (tmp_path / "x.geojson").read_bytes(),
        "wide.txt": (tmp_path / "x.geojson").read_text().encode("utf-16"),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert read_annotations(tmp_path / name) == [square]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with ''"),
        (b"\x89PNG\r\n", "GeoJSON; this one begins"),
        (b"<html></html>", "ASAP XML, ImageScope XML or GeoJSON"),
        (b"<!-- <ASAP_Annotations> --><html/>", "ASAP XML"),
        (b"{]", "not valid JSON"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(tmp_path / "a")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        read_annotations(tmp_path / "a.xml")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path)
    with pytest.raises(AnnotationError, match="no folder"):
        write_geojson(tmp_path / "none" / "a.geojson", [])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["Polygon", "Point", "Feature", "a", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "features", "geometry", "coordinates", "properties", "positive", "vertices", "digipath"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    value=values,
    place=st.sampled_from(["", "geometry", "coordinates", "properties", "classification", "measurements", "origin"]),
)
def test_whatever_json_a_file_holds_it_is_read_or_refused_with_our_error(value, place, tmp_path_factory):
    polygon = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 0]]]}
    feature = {"type": "Feature", "geometry": polygon, "properties": {"classification": "a"}}
    document = {"type": "FeatureCollection", "digipath": {"origin": [0, 0]}, "features": [feature]}
    for holder in (feature, polygon, feature["properties"], document["digipath"]):
        if place in holder or place == "measurements":
            holder[place] = value
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document if place else value))
    _read_or_refuse(path)


@settings(deadline=None)
@given(at=st.integers(0, 10**6), damage=st.binary(max_size=3), write=st.sampled_from([write_asap, write_imagescope]))
def test_a_damaged_xml_file_is_read_or_refused_with_our_error(at, damage, write, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.xml"
    write(
        path, [Annotation("a", shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6)), Annotation("b", shapely.Point(1, 2))]
    )
    content = path.read_bytes()
    at %= len(content)
    path.write_bytes(content[:at] + damage + content[at + len(damage) + 1 :])
    _read_or_refuse(path)


def _read_or_refuse(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_annotations(path)
        except AnnotationError as error:
            assert str(path) in str(error)
