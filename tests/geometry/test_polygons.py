import warnings

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from digipath.errors import AnnotationError, SpecError
from digipath.geometry import scanline
from digipath.geometry.frame import Frame
from digipath.geometry.polygons import Annotation, cut_out, polygonize, rasterize, rasterize_labels, repair
from digipath.geometry.raster import Raster

DOWNSAMPLES = [1.0, 4.4088, 0.37, 32.0, 1 / 3]
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def raster(mask, downsample=1.0):
    mask = np.asarray(mask, bool)
    return Raster(mask, Frame(mask.shape[1], mask.shape[0], downsample, 0.25 * downsample))


def square(*bounds, name="lesion"):
    return Annotation(name, shapely.box(*bounds))


# Mask to polygons and back.


@settings(deadline=None)
@given(masks, st.sampled_from(DOWNSAMPLES))
def test_a_mask_polygonized_and_rasterized_is_the_same_mask_and_every_polygon_is_valid(mask, downsample):
    mask = raster(mask, downsample)
    annotations = polygonize(mask)
    assert all(annotation.geometry.is_valid for annotation in annotations)
    assert all(annotation.geometry.geom_type == "Polygon" for annotation in annotations)
    np.testing.assert_array_equal(rasterize(annotations, mask.frame).array(), mask.values)


@settings(deadline=None)
@given(masks)
def test_the_area_of_the_polygons_is_that_of_the_pixels(mask):
    area = sum(annotation.geometry.area for annotation in polygonize(raster(mask, 4.4088)))
    assert area == pytest.approx(mask.sum() * 4.4088**2)


@settings(deadline=None)
@given(masks)
def test_polygons_of_one_mask_do_not_overlap_and_touch_in_points_at_most(mask):
    geometries = [annotation.geometry for annotation in polygonize(raster(mask))]
    for index, one in enumerate(geometries):
        for other in geometries[:index]:
            assert one.intersection(other).length == 0


@settings(deadline=None)
@given(masks)
def test_outlines_have_vertices_at_corners_only_and_shells_turn_the_other_way_than_holes(mask):
    for annotation in polygonize(raster(mask)):
        rings = shapely.get_rings(annotation.geometry)
        assert shapely.is_ccw(rings).tolist() == [True] + [False] * (len(rings) - 1)
        for ring in rings:
            steps = np.diff(shapely.get_coordinates(ring), axis=0)
            assert ((steps != 0).sum(1) == 1).all()
            horizontal = steps[:, 0] != 0
            assert (horizontal[1:] != horizontal[:-1]).all()


@pytest.mark.parametrize(
    ("mask", "holes"),
    [
        ([[1, 0], [0, 1]], [0, 0]),  # a corner only: two regions
        ([[1, 1, 1], [1, 0, 1], [1, 1, 0]], [1]),  # a hole that touches the outline at a corner
        ([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], [2]),  # two holes that touch
        ([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], [1, 0]),  # an island
        ([[0, 1, 0], [1, 0, 1], [0, 1, 0]], [0, 0, 0, 0]),
        ([[0, 0], [0, 0]], []),
        ([[1, 1], [1, 1]], [0]),
    ],
)
def test_holes_islands_and_corners_are_told_apart(mask, holes):
    annotations = polygonize(raster(mask))
    assert [len(annotation.geometry.interiors) for annotation in annotations] == holes
    np.testing.assert_array_equal(rasterize(annotations, raster(mask).frame).array(), np.array(mask, bool))


def test_polygonizing_reads_a_mask_of_any_type_and_gives_name_and_color():
    (annotation,) = polygonize(raster(np.array([[0, 7]])), name="gland", color=(1, 2, 3))
    assert (annotation.name, annotation.color) == ("gland", (1, 2, 3))
    assert annotation.geometry.equals(shapely.box(1, 0, 2, 1))


def test_simplified_outlines_stay_valid_and_move_by_no_more_than_asked():
    rng = np.random.default_rng(0)
    mask = raster(np.kron(rng.random((12, 12)) > 0.4, np.ones((4, 4))) * (rng.random((48, 48)) > 0.1), 8.0)
    for exact, simple in zip(polygonize(mask), polygonize(mask, simplify_um=3.0), strict=True):
        assert simple.geometry.is_valid
        assert shapely.hausdorff_distance(exact.geometry, simple.geometry) <= 3.0 / 0.25
    with pytest.raises(SpecError, match="simplify_um"):
        polygonize(mask, simplify_um=-1)


# Polygons to mask.


@st.composite
def stars(draw):
    """A polygon round a point, with a hole where it fits."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    angle = np.sort(rng.uniform(0, 2 * np.pi, draw(st.integers(3, 12))))
    around = np.stack([np.cos(angle), np.sin(angle)], 1)
    centre = rng.uniform(-5, 45, 2)
    shell = centre + around * rng.uniform(2, 25, (len(angle), 1))
    if draw(st.booleans()):
        shell = np.round(shell)  # vertices and edges through centres of pixels
    polygon = shapely.Polygon(shell, [centre + around * 1.5])
    return repair(polygon) or shapely.box(0, 0, 1, 1)


@settings(deadline=None)
@given(st.lists(stars(), min_size=1, max_size=4), st.sampled_from([1.0, 2.0, 4.4088]), st.sampled_from([8, 1 << 20]))
def test_a_pixel_is_in_when_its_centre_is(polygons, downsample, strip):
    frame = Frame(int(40 / downsample) + 1, int(30 / downsample) + 1, downsample, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("_STRIP_PIXELS", "_CROSSINGS", "_VERTICES"):
            patch.setattr(scanline, limit, strip)
        mask = rasterize([Annotation("a", polygon) for polygon in polygons], frame).array()
    y, x = (np.indices(frame.shape) + 0.5) * downsample
    inside = np.any([shapely.contains_xy(polygon, x, y) for polygon in polygons], axis=0)
    centres = shapely.points(x, y)
    far = np.all([shapely.distance(polygon.boundary, centres) > 1e-9 for polygon in polygons], axis=0)
    np.testing.assert_array_equal(mask[far], inside[far])


@settings(deadline=None)
@given(st.lists(stars(), min_size=1, max_size=4), st.randoms())
def test_the_order_of_annotations_does_not_matter_to_a_mask(polygons, random):
    frame = Frame(20, 15, 2.0, 0.5)
    annotations = [Annotation("a", polygon) for polygon in polygons]
    mask = rasterize(annotations, frame).array()
    random.shuffle(annotations)
    np.testing.assert_array_equal(rasterize(annotations, frame).array(), mask)


def test_neighbours_that_share_an_outline_through_centres_share_no_pixel_and_leave_none_out():
    left, right = (
        shapely.Polygon([(0, 0), (2.5, 0), (4.5, 4), (0, 4)]),
        shapely.Polygon([(2.5, 0), (8, 0), (8, 4), (4.5, 4)]),
    )
    frame = Frame.level0(8, 4, 0.5)
    first, second = (rasterize([Annotation("a", polygon)], frame).array().astype(int) for polygon in (left, right))
    np.testing.assert_array_equal(first + second, 1)


def test_what_lies_outside_of_the_frame_is_cropped():
    frame = Frame.level0(4, 3, 0.5)
    assert rasterize([square(-100, -100, 100, 100)], frame).array().all()
    assert not rasterize([square(50, 50, 60, 60), square(-9, -9, -1, -1)], frame).array().any()
    np.testing.assert_array_equal(np.argwhere(rasterize([square(-5, 1, 1, 2)], frame).array()), [[1, 0]])


def test_a_slide_that_is_not_square_keeps_its_axes():
    mask = rasterize([square(6, 0, 10, 2)], Frame.level0(10, 4, 0.5)).array()
    assert mask.shape == (4, 10)
    assert mask[:2, 6:].all() and mask.sum() == 8


def test_overlapping_polygons_are_in_once_and_invalid_ones_are_filled_as_outlined():
    bow_tie = shapely.Polygon([(0, 0), (8, 8), (8, 0), (0, 8)])
    frame = Frame.level0(8, 8, 0.5)
    mask = rasterize([Annotation("a", bow_tie), square(0, 0, 4, 8), square(0, 0, 4, 8)], frame).array()
    assert mask[:, :4].all()
    assert mask[4, 7] and not mask[0, 5]


def test_points_and_lines_cover_nothing_and_are_counted_in_one_warning():
    annotations = [
        Annotation("a", shapely.Point(1, 1)),
        Annotation("b", shapely.LineString([(0, 0), (3, 3)])),
        Annotation("a", shapely.MultiPoint([(1, 1), (2, 2)])),
        square(0, 0, 2, 2, name="a"),
    ]
    frame = Frame.level0(4, 4, 0.5)
    with pytest.warns(UserWarning, match="3 of 4 annotations are points or lines") as caught:
        mask = rasterize(annotations, frame)
    assert len(caught) == 1
    assert mask.array().sum() == 4
    with pytest.warns(UserWarning, match="3 of 4") as caught:
        rasterize_labels(annotations, frame, classes=["b", "a"])
    assert len(caught) == 1


def test_no_annotations_make_an_empty_mask_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not rasterize([], Frame.level0(3, 2, 0.5)).array().any()
    assert polygonize(raster(np.zeros((2, 2)))) == []


# Labels.


def test_the_later_class_wins_whatever_the_order_of_the_annotations():
    annotations = [square(0, 0, 3, 1, name="tumor"), square(2, 0, 5, 1, name="stroma")]
    frame = Frame.level0(6, 1, 0.5)
    classes = ["background", "stroma", "tumor"]
    for order in (annotations, annotations[::-1]):
        labels = rasterize_labels(order, frame, classes=classes)
        assert labels.values.dtype == np.uint8
        assert labels.array().tolist() == [[2, 2, 2, 1, 1, 0]]
    assert rasterize_labels(annotations, frame, classes=classes, uncovered=255).array()[0, 5] == 255


def test_an_unknown_class_is_named_with_the_known_ones():
    with pytest.raises(AnnotationError, match="stroma, tumor; got necrosis too"):
        rasterize_labels([square(0, 0, 1, 1, name="necrosis")], Frame.level0(2, 2, 1.0), classes=["stroma", "tumor"])


@pytest.mark.parametrize("classes", [[], ["a", "a"], [str(i) for i in range(256)]])
def test_classes_are_one_to_255_different_names(classes):
    with pytest.raises(SpecError, match="255 different"):
        rasterize_labels([], Frame.level0(2, 2, 1.0), classes=classes)


# Annotations.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", shapely.Point(0, 0)), "named by its class"),
        (("a\0b", shapely.Point(0, 0)), "printable"),
        (("a", shapely.Polygon()), "an empty Polygon"),
        (("a", shapely.GeometryCollection([shapely.Point(0, 0)])), "one annotation of each part"),
        (("a", "POINT (0 0)"), "got str"),
        (("a", shapely.Point(0, np.nan)), "not empty|nan"),
        (("a", shapely.LineString([(0, 0), (np.inf, 1)])), "inf"),
        (("a", shapely.Point(0, 1e9)), "1e[+]08"),
        (("a", shapely.Point(0, 0), (1, 2)), "red, green, blue"),
        (("a", shapely.Point(0, 0), (1, 2, 300)), "0 to 255"),
        (("a", shapely.Point(0, 0), None, {"area": float("nan")}), "finite"),
    ],
)
def test_an_annotation_refuses_nonsense(arguments, message):
    with pytest.raises(AnnotationError, match=message):
        Annotation(*arguments)


def test_an_annotation_drops_a_third_coordinate_and_makes_plain_numbers():
    annotation = Annotation("a", shapely.Point(1, 2, 3), np.array([1, 2, 3]), {"area": np.float32(0.5), "note": "text"})
    assert annotation == Annotation("a", shapely.Point(1, 2), (1, 2, 3), {"area": 0.5, "note": "text"})
    assert not annotation.geometry.has_z


# Repairing and cutting.


def test_repairing_keeps_what_an_outline_goes_round_also_twice():
    pentagram = shapely.Polygon([(np.cos(a), np.sin(a)) for a in np.arange(5) * 0.8 * np.pi])
    assert repair(pentagram).contains(shapely.Point(0, 0))
    bow_tie = repair(shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]))
    assert (bow_tie.geom_type, bow_tie.area) == ("MultiPolygon", 2.0)
    assert repair(shapely.Polygon([(0, 0), (1, 1), (2, 2)])) is None


def test_an_exclusion_is_cut_from_larger_polygons_and_leaves_islands_points_and_lines():
    point = Annotation("mark", shapely.Point(5, 5))
    island, hole = square(4, 4, 6, 6), shapely.box(3, 3, 7, 7)
    whole, island_again, point_again = cut_out([square(0, 0, 10, 10), island, point], [hole])
    assert (whole.geometry.area, len(whole.geometry.interiors)) == (84, 1)
    assert (island_again, point_again) == (island, point)


def test_an_exclusion_across_an_outline_takes_off_what_it_covers():
    (rest,) = cut_out([square(0, 0, 10, 10)], [shapely.box(8, -1, 12, 11)])
    assert rest.geometry.equals(shapely.box(0, 0, 8, 10))
    both = [shapely.box(-1, -1, 5, 11), shapely.box(5, -1, 11.1, 11)]
    assert cut_out([square(0, 0, 10, 10)], both) == []


def test_an_exclusion_is_cut_from_a_self_crossing_polygon_too():
    bow_tie = Annotation("a", shapely.Polygon([(0, 0), (8, 8), (8, 0), (0, 8)]))
    (rest,) = cut_out([bow_tie], [shapely.box(0, 0, 3, 8)])
    assert rest.geometry.area == 17
