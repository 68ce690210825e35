"""Outlines on the map, and the lists beside it."""

import numpy as np
import pytest
import shapely

pytest.importorskip("dash")

from digipath.geometry.polygons import Annotation, rasterize
from digipath.review.subjects import ask
from digipath.segmentation import Segmentation
from digipath.viewer import doubts_panel, lesions_panel, measures
from digipath.viewer.desk import Desk
from digipath.viewer.opened import Opened
from digipath.viewer.overlays import LARGEST, Outline, collection, drawn, flight, key, outlines
from digipath.viewer.scene import look
from digipath.viewer.shelf import Shelf


def scene_of(desk: Desk, name: str):
    return look(desk, next(item for item in desk.shelf.items() if item.name == name))


@pytest.fixture
def desk(library):
    opened = Opened()
    yield Desk(shelf=Shelf([library]), opened=opened)
    opened.close()


def square(n: int, side: float) -> Outline:
    return Outline(f"region:{n}", "lesion", shapely.box(n, 0, n + side, side), {"area mm2": side})


def test_regions_and_sections_are_called_what_a_review_calls_them(desk, library):
    found, asked = outlines(desk, scene_of(desk, "slide")), ask(library / "results" / "slide")
    for shapes, kind in ((found.regions, "region"), (found.sections, "section")):
        assert [(one.subject, one.name) for one in shapes] == [(one.id, one.label) for one in asked.of_kind(kind)]
        assert shapes and found.find(shapes[-1].subject) is shapes[-1]
    assert found.find("region:999") is None


def test_on_the_map_regions_cover_the_mask_of_the_result(desk, library):
    features = collection(outlines(desk, scene_of(desk, "second")).regions)["features"]
    back = [shapely.transform(shapely.geometry.shape(one["geometry"]), _upright) for one in features]
    with Segmentation.load(library / "results" / "second") as result:
        drawn = rasterize([Annotation("lesion", one) for one in back], result.heatmap.frame)
        np.testing.assert_array_equal(drawn.array(), result.mask().array())


def _upright(points):
    return points * [1, -1]


def test_of_many_regions_the_largest_are_drawn_small_ones_above():
    many = [square(n, 1 + n % 7) for n in range(1, LARGEST + 500)]
    features = collection(many)["features"]
    sizes = [shapely.geometry.shape(one["geometry"]).area for one in features]
    assert len(features) == LARGEST and sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= sorted((one.geometry.area for one in many), reverse=True)[LARGEST - 1]
    said = lesions_panel._said(len(many), 0.5)
    assert "2,000 of 2,499 are shown" in said


def rough(n: int, vertices: int = 1000) -> Outline:
    """A disc whose border goes up and down."""
    turn = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = 100 + np.where(np.arange(vertices) % 2, 2, 0)
    points = np.stack([300 * n + radius * np.cos(turn), radius * np.sin(turn)], -1)
    return Outline(f"region:{n}", "lesion", shapely.Polygon(points))


def test_of_very_many_vertices_fewer_are_drawn_no_further_off_than_is_told_and_few_are_left_as_they_are():
    many = [rough(n) for n in range(300)]
    found = drawn(many)
    assert shapely.get_num_coordinates(found.geometries).sum() <= 100_000 < 300 * 1000
    off = [
        shapely.hausdorff_distance(one.geometry, shape)
        for one, shape in zip(found.outlines, found.geometries, strict=True)
    ]
    assert 0 < max(off) <= found.tolerance and "drawn to within" in lesions_panel._said(300, 0.5, found.tolerance)
    few = drawn(many[:50])
    assert few.tolerance == 0 and all(
        one.geometry is shape for one, shape in zip(few.outlines, few.geometries, strict=True)
    )


def test_outlines_have_the_colours_that_are_told_beside_them():
    for classes in (("other", "lesion"), ("background", "adenoma", "carcinoma")):
        told = key("regions", classes)
        for name in classes[1:]:
            one = Outline("region:1", name, shapely.box(0, 0, 1, 1))
            colour = collection([one], classes)["features"][0]["properties"]["color"]
            assert colour == told.get(name, told.get(""))
        assert len(set(told.values())) == len(told) == len(classes) - 1
    for name, colour in key("sections", ()).items():
        section = Outline("section:1", f"{name} section", shapely.box(0, 0, 1, 1))
        assert collection([section])["features"][0]["properties"]["color"] == colour


@pytest.mark.parametrize("mm2", [1e-6, 3.1e-4, 0.00999, 0.01, 1.25])
def test_no_area_reads_as_nothing(mm2):
    number, unit = measures.area(mm2).split(" ")
    scale = {"µm²": 1e-6, "mm²": 1}[unit]
    assert float(number.replace(",", "")) * scale == pytest.approx(mm2, rel=0.05)
    assert measures.area(0) == "0.000 mm²"


def test_what_is_flown_to_is_seen_whole_and_with_something_around_it(desk):
    scene = scene_of(desk, "slide")
    for one in (*outlines(desk, scene).regions, square(1, 1)):
        (south, west), (north, east) = flight(scene, one)["bounds"]
        left, top, right, bottom = one.geometry.bounds
        assert west < left < right < east and south < -bottom < -top < north
        assert (east - west) * scene.mpp >= 119


def test_in_a_blind_study_sections_are_only_places(library):
    blind = Desk(shelf=Shelf([library]), opened=Opened(), reviewer="Ada", blind=True)
    found = outlines(blind, scene_of(blind, "slide"))
    assert not (found.regions or found.doubts or found.outlines) and len(found.sections) == 2
    for feature in collection(found.sections)["features"]:
        assert "tumour" not in str(feature)
    blind.opened.close()


def test_a_result_in_memory_has_the_regions_of_its_folder(desk, library):
    with Segmentation.load(library / "results" / "slide") as result:
        item = desk.shelf.hold(result)
        held, stored = outlines(desk, look(desk, item)), outlines(desk, scene_of(desk, "slide"))
        assert sum(one.geometry.area for one in held.regions) == pytest.approx(result.lesion_mm2() / (0.5e-3) ** 2)
        assert [one.place for one in held.doubts] == [one.place for one in stored.doubts]


def test_tables_are_sorted_by_any_column_with_what_lacks_it_last():
    regions = [Outline(f"region:{n}", "a", shapely.box(0, 0, 1, 1), {"area mm2": v}) for n, v in ((1, 2.0), (2, 5.0))]
    regions.append(Outline("region:3", "a", shapely.box(0, 0, 1, 1)))
    assert [one.number for one in lesions_panel.ordered(regions, "area mm2", falling=True)] == [2, 1, 3]
    assert [one.number for one in lesions_panel.ordered(regions, "area mm2", falling=False)] == [1, 2, 3]
    assert [one.number for one in lesions_panel.ordered(regions, "number", falling=True)] == [3, 2, 1]


def test_pressing_a_heading_twice_turns_its_order_and_another_begins_with_the_largest():
    view = {"column": "area mm2", "falling": True, "page": 0}
    view = lesions_panel.turned(view, {"column": "area mm2"})
    assert view["falling"] is False
    view = lesions_panel.turned(view, {"column": "mean probability"})
    assert (view["column"], view["falling"]) == ("mean probability", True)
    for button, page in (("after", 1), ("after", 2), ("before", 1), ("before", 0), ("before", 0)):
        view = lesions_panel.turned(view, f"lesions-{button}")
        assert view["page"] == page
    view = lesions_panel.turned(view | {"page": 3}, {"column": "mean probability"})
    assert view["page"] == 0  # of another order the first


@pytest.mark.parametrize("count", [0, 1, 25, 26, 60])
def test_leafing_through_the_table_shows_every_region_once_and_never_a_long_table(count):
    regions, seen = [square(n, 1) for n in range(1, count + 1)], []
    for page in range(5):
        body, told, first, last = lesions_panel._page(regions, {"column": "number", "falling": False, "page": page})
        rows = body.children[-1].children
        assert len(rows) <= 25 and first == (page == 0)
        seen += [row.children[0].children.children for row in rows]
        if last:
            break
    assert seen == [str(n) for n in range(1, count + 1)] and (str(count) in told or count <= 25)


def test_walking_through_uncertain_regions_goes_round_and_passes_over_what_was_looked_at():
    doubts = [Outline(f"doubt:{n}", "Uncertain", shapely.box(n, 0, n + 1, 1)) for n in range(1, 5)]
    done = [doubts[1].place]
    walk = [None]
    for _ in range(4):
        walk.append(doubts_panel.step(doubts, walk[-1], done, by=1).subject)
    assert walk[1:] == ["doubt:1", "doubt:3", "doubt:4", "doubt:1"]
    assert doubts_panel.step(doubts, "doubt:3", done, by=-1).subject == "doubt:1"
    assert doubts_panel.step(doubts, None, done, by=-1).subject == "doubt:4"
    everything = [one.place for one in doubts]
    assert doubts_panel.step(doubts, "doubt:4", everything, by=1).subject == "doubt:1"
