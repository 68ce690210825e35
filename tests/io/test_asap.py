import re
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely

from digipath.errors import AnnotationError
from digipath.geometry.polygons import Annotation
from digipath.io.asap import read_asap, write_asap
from digipath.io.shapes import UNNAMED

HOLED = shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6)
SQUARE, HOLE = [(0, 0), (9, 0), (9, 9), (0, 9)], [(3, 3), (6, 3), (6, 6), (3, 6)]


def annotation(points, name="Annotation 0", kind="Polygon", group="None", color="#F4FA58"):
    lines = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
    head = f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="{color}">'
    return f"{head}<Coordinates>{lines}</Coordinates></Annotation>"


@pytest.fixture
def read(tmp_path):
    def read(*annotations, groups=""):
        body = f"<Annotations>{''.join(annotations)}</Annotations><AnnotationGroups>{groups}</AnnotationGroups>"
        (tmp_path / "a.xml").write_text(f'<?xml version="1.0"?><ASAP_Annotations>{body}</ASAP_Annotations>')
        return read_asap(tmp_path / "a.xml")

    return read


def test_the_original_camelyon17_annotation_is_three_tumor_polygons_in_the_color_of_their_group(data):
    annotations = read_asap(data / "annotations" / "asap" / "patient_004_node_4.xml")
    assert [(a.name, a.color, a.geometry.geom_type) for a in annotations] == [("Tumor", (255, 0, 0), "Polygon")] * 3
    assert shapely.get_coordinates(annotations[0].geometry)[0].tolist() == [12711.2998, 88778.1016]


def test_every_type_becomes_its_geometry_and_unknown_ones_are_counted(read):
    with pytest.warns(UserWarning, match="1 x annotation of the unknown type 'Blob', left out") as caught:
        annotations = read(
            annotation([(1, 2)], kind="Dot"),
            annotation([(1, 2), (3, 4)], kind="PointSet"),
            annotation([(1, 2), (3, 4)], kind="Measurement"),
            annotation(SQUARE, kind="Spline"),
            annotation(SQUARE, kind="Rectangle", name="mine"),
            annotation(SQUARE, kind="Blob"),
        )
    assert len(caught) == 1
    assert [a.geometry.geom_type for a in annotations] == ["Point", "MultiPoint", "LineString", "Polygon", "Polygon"]
    assert [a.name for a in annotations] == [UNNAMED] * 4 + ["mine"]


def test_coordinates_are_put_in_order_and_may_have_a_comma(read):
    points = annotation([("0,5", "0"), (4, 0), (4, 4)])
    shuffled = re.sub('Order="([0-2])"', lambda m: f'Order="{(int(m[1]) + 1) % 3}"', points)
    (triangle,) = read(shuffled)
    assert shapely.get_coordinates(triangle.geometry)[:3].tolist() == [[4, 4], [0.5, 0], [4, 0]]


@pytest.mark.parametrize(("tumor", "excluded"), [("_0", "_2"), ("_1", "_2"), ("Tumor", "Exclusion")])
def test_exclusions_are_cut_out_of_the_other_groups(tumor, excluded, read):
    (left,) = read(annotation(SQUARE, group=tumor), annotation(HOLE, group=excluded))
    assert left.name == tumor
    assert left.geometry.equals(HOLED)


def test_a_group_called_2_alone_is_a_class_of_its_own(read):
    assert [a.name for a in read(annotation(SQUARE, group="Tumor"), annotation(HOLE, group="_2"))] == ["Tumor", "_2"]


def test_holes_are_outlines_in_a_group_below_that_of_their_polygon(tmp_path):
    write_asap(
        tmp_path / "a.xml", [Annotation("lesion", HOLED, (255, 0, 0)), Annotation("lesion hole", shapely.Point(1, 1))]
    )
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [(a.get("Name"), a.get("PartOfGroup"), a.get("Type")) for a in root.iter("Annotation")] == [
        ("lesion 0", "lesion", "Polygon"),
        ("lesion 0 hole 1", "lesion holes", "Polygon"),
        ("lesion hole 1", "lesion hole", "Dot"),
    ]
    groups = {group.get("Name"): group.get("PartOfGroup") for group in root.iter("Group")}
    assert groups == {"lesion": "None", "lesion hole": "None", "lesion holes": "lesion"}
    # ASAP refuses a file in which an annotation is in a group that is not listed.
    assert {a.get("PartOfGroup") for a in root.iter("Annotation")} <= set(groups)


def test_a_hole_whose_name_was_changed_is_still_cut_out(tmp_path):
    write_asap(tmp_path / "a.xml", [Annotation("lesion", HOLED)])
    text = (tmp_path / "a.xml").read_text().replace("lesion 0 hole 1", "my hole")
    (tmp_path / "a.xml").write_text(text)
    (again,) = read_asap(tmp_path / "a.xml")
    assert again.geometry.equals(HOLED)


def test_positions_keep_full_precision_and_whole_numbers_have_no_fraction(tmp_path):
    write_asap(tmp_path / "a.xml", [Annotation("a", shapely.LineString([(13.2264, 0), (1 / 3, 7)]))])
    assert 'X="13.2264" Y="0"' in (tmp_path / "a.xml").read_text()
    (line,) = read_asap(tmp_path / "a.xml")
    np.testing.assert_array_equal(shapely.get_coordinates(line.geometry), [(13.2264, 0), (1 / 3, 7)])


def test_odd_outlines_are_counted_in_one_warning(read):
    with pytest.warns(
        UserWarning, match="1 x outline of fewer than 3.*1 x self-crossing.*1 x .* without a position"
    ) as caught:
        annotations = read(
            annotation([(0, 0), (1, 1)]), annotation([(0, 0), (2, 2), (2, 0), (0, 2)]), annotation([], kind="Dot")
        )
    assert len(caught) == 1
    assert [a.geometry.area for a in annotations] == [2]


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "x", ""])
def test_positions_that_are_no_numbers_are_refused(value, read):
    with pytest.raises(AnnotationError, match="positions are"):
        read(annotation([(value, 1), (2, 2), (3, 1)]))


def test_another_root_a_document_type_and_a_cut_file_are_refused(tmp_path):
    for text, message in {
        "<Annotations/>": "begin with <ASAP_Annotations>",
        '<!DOCTYPE a [<!ENTITY b "c">]><ASAP_Annotations/>': "not XML as annotations are written",
        "<ASAP_Annotations><Annotations>": "cut short",
    }.items():
        (tmp_path / "b.xml").write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_asap(tmp_path / "b.xml")
