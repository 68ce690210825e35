"""Points from tables and annotations."""

import gzip

import numpy as np
import pytest
import shapely

from digipath.errors import AnnotationError, ResultError, SpecError
from digipath.geometry.detections import Detection
from digipath.geometry.polygons import Annotation
from digipath.io.detections import write_detections
from digipath.io.geojson import write_geojson
from digipath.io.points import read_points


@pytest.mark.parametrize(
    "text",
    [
        "10,20\n30,40.5\n",
        "x,y\n10,20\n30,40.5",
        "\ufeffY;X;class\r\n20;10;a\r\n\r\n40.5;30;b\r\n",
        "id\tprobability\tx\ty\n7\t0.9\t10\t20\n8\t0.9\t30\t40.5\n",
        "0.9,10,20\n0.9,30,40.5\n",
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_tables_with_names_or_without_are_read(tmp_path, text, zipped):
    path = tmp_path / "points.csv"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert read_points(path).tolist() == [[10, 20], [30, 40.5]]


def test_the_most_probable_come_first_and_improbable_ones_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    write_detections(path, [Detection(0.5, 1, 2), Detection(0.25, 3, 4), Detection(1, 5, 6), Detection(0.5, 7, 8)])
    assert read_points(path).tolist() == [[5, 6], [1, 2], [7, 8], [3, 4]]
    assert read_points(path, min_probability=0.5).tolist() == [[5, 6], [1, 2], [7, 8]]


@pytest.mark.parametrize("text", ["", "\n\n", "x,y\n", "probability,x,y\n"])
def test_a_table_without_points_is_none(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert read_points(path).shape == (0, 2)


def test_points_of_annotations_are_read_by_class(tmp_path):
    path = tmp_path / "cells.geojson"
    cells = Annotation("lymphocyte", shapely.MultiPoint([(1, 2), (3.5, 4)]))
    write_geojson(
        path, [cells, Annotation("lymphocyte", shapely.Point(5, 6)), Annotation("x", shapely.box(0, 0, 9, 9))]
    )
    assert read_points(path, names=("lymphocyte",)).tolist() == [[1, 2], [3.5, 4], [5, 6]]
    with pytest.raises(AnnotationError, match="1 of 3 annotations are outlines"):
        read_points(path)
    with pytest.raises(AnnotationError, match="there is no class cell, but lymphocyte, x"):
        read_points(path, names=("cell",))


def test_what_a_file_does_not_tell_cannot_be_asked_for(tmp_path):
    table, cells = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text("x,y\n1,2\n")
    write_geojson(cells, [Annotation("cell", shapely.Point(1, 2))])
    for path in (table, cells):
        with pytest.raises(ResultError, match="no probabilities"):
            read_points(path, min_probability=0.5)
    with pytest.raises(SpecError, match="has no classes"):
        read_points(table, names=("cell",))
    assert np.array_equal(read_points(cells), read_points(table))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3,a\n-1,2\n", "line 3: '3,a'; line 4: '-1,2'"),
        ("1.5,10,20\n", "line 1: '1.5,10,20'"),
        ("x,y\n1,nan\n5\n", "line 2: '1,nan'; line 3: '5'"),
        ("a,b,c,d\n1,2,3,4\n", "the columns x,y or probability,x,y"),
        ("x,y,prob,score\n1,2,3,4\n", "the columns x,y or probability,x,y"),
    ],
)
def test_malformed_tables_are_told_by_line(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ResultError, match=message):
        read_points(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        read_points(tmp_path / "none.csv")
