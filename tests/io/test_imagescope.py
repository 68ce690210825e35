from xml.etree import ElementTree

import numpy as np
import pytest
import shapely

from digipath.errors import AnnotationError
from digipath.geometry.polygons import Annotation
from digipath.io.imagescope import read_imagescope, write_imagescope

HOLED = shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 6, 6)
SQUARE, HOLE = [(0, 0), (9, 0), (9, 9), (0, 9)], [(3, 3), (6, 3), (6, 6), (3, 6)]


def region(points, kind=0, identity=1, negative=0, owner=0):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    head = f'<Region Id="{identity}" Type="{kind}" NegativeROA="{negative}" InputRegionId="{owner}">'
    return f"{head}<Attributes/><Vertices>{vertices}</Vertices></Region>"


def layer(*regions, name="tumor", color=255):
    head = f'<Annotation Id="4" Name="{name}" LineColor="{color}"><Attributes/>'
    return f"{head}<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions><Plots/></Annotation>"


@pytest.fixture
def read(tmp_path):
    def read(*layers):
        (tmp_path / "a.xml").write_text(f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>')
        return read_imagescope(tmp_path / "a.xml")

    return read


def test_layers_are_classes_and_their_colors_are_blue_green_red(read):
    annotations = read(layer(region(SQUARE), color=65280), layer(region(HOLE), name="", color=16711680 + 1))
    assert [(a.name, a.color) for a in annotations] == [("tumor", (0, 255, 0)), ("layer 4", (1, 0, 255))]


@pytest.mark.parametrize("corners", [[(0, 0), (20, 10)], [(0, 0), (20, 0), (20, 10), (0, 10)]])
def test_rectangles_and_ellipses_are_polygons(corners, read):
    rectangle, ellipse = read(layer(region(corners, 1), region(corners, 2)))
    assert rectangle.geometry.equals(shapely.box(0, 0, 20, 10))
    assert ellipse.geometry.area == pytest.approx(np.pi * 10 * 5, rel=1e-3)
    assert ellipse.geometry.bounds == (0, 0, 20, 10)


def test_arrows_rulers_and_points_are_lines_and_points(read):
    with pytest.warns(UserWarning, match="1 x region of the unknown type 9, read as a line"):
        annotations = read(
            layer(
                region([(1, 2), (3, 4)], 3),
                region([(1, 2), (1, 2)], 3),
                region([(1, 2), (3, 4)], 4),
                region([(5, 6)], 5),
                region([(1, 2), (3, 4)], 9),
            )
        )
    kinds = [a.geometry.geom_type for a in annotations]
    assert kinds == ["LineString", "Point", "LineString", "Point", "LineString"]


@pytest.mark.parametrize("owner", [0, 1])
def test_negative_regions_are_holes_of_their_layer(owner, read):
    outer, other = read(
        layer(region(SQUARE, identity=1), region(HOLE, identity=2, negative=1, owner=owner)),
        layer(region(SQUARE, identity=1), name="other"),
    )
    assert outer.geometry.equals(HOLED)
    assert other.geometry.equals(shapely.box(0, 0, 9, 9))


def test_an_island_in_a_hole_stays(read):
    island = [(4, 4), (5, 4), (5, 5), (4, 5)]
    outer, inner = read(layer(region(SQUARE), region(HOLE, identity=2, negative=1), region(island, identity=3)))
    assert (outer.geometry.area, inner.geometry.area) == (72, 1)


def test_what_is_written_has_layers_by_class_and_color_and_holes_that_name_their_region(tmp_path):
    annotations = [
        Annotation("a", shapely.box(20, 0, 21, 1), (255, 128, 1)),
        Annotation("b", HOLED),
        Annotation("a", HOLED, (255, 128, 1)),
    ]
    write_imagescope(tmp_path / "a.xml", annotations, mpp=0.25)
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert root.get("MicronsPerPixel") == "0.25"
    assert [(one.get("Name"), one.get("LineColor")) for one in root] == [
        ("a", str(255 + 128 * 256 + 65536)),
        ("b", None),
    ]
    regions = [(r.get("Id"), r.get("NegativeROA"), r.get("InputRegionId")) for r in root.iter("Region")]
    assert regions == [("1", "0", "0"), ("2", "0", "0"), ("3", "1", "2"), ("4", "0", "0"), ("5", "1", "4")]
    assert read_imagescope(tmp_path / "a.xml") == [annotations[0], annotations[2], annotations[1]]


def test_odd_regions_are_counted_in_one_warning(read):
    with pytest.warns(
        UserWarning, match="1 x region without a vertex.*1 x outline of fewer.*1 x self-crossing"
    ) as caught:
        annotations = read(layer(region([]), region([(0, 0), (1, 1)]), region([(0, 0), (2, 2), (2, 0), (0, 2)])))
    assert len(caught) == 1
    assert len(annotations) == 1


def test_positions_that_are_no_numbers_and_another_root_are_refused(read, tmp_path):
    with pytest.raises(AnnotationError, match="positions are"):
        read(layer(region([("nan", 0), (1, 1), (2, 0)])))
    (tmp_path / "b.xml").write_text("<ASAP_Annotations/>")
    with pytest.raises(AnnotationError, match="begin with <Annotations>"):
        read_imagescope(tmp_path / "b.xml")
