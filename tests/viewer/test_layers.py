"""Layers: which there are, what is asked for, and what is withheld."""

import pytest

pytest.importorskip("dash")

from digipath.segmentation import Segmentation
from digipath.viewer import layers, layers_panel
from digipath.viewer.desk import Desk, Memory
from digipath.viewer.opened import Opened
from digipath.viewer.scene import facts, look
from digipath.viewer.shelf import Shelf
from digipath.viewer.tiles import Tiling


@pytest.fixture
def desk(library):
    opened = Opened()
    yield Desk(shelf=Shelf([library]), opened=opened)
    opened.close()


def scene_of(desk: Desk, name: str):
    return look(desk, next(item for item in desk.shelf.items() if item.name == name))


def test_every_layer_of_tiles_is_one_that_there_are_tiles_of(desk):
    for name in ("slide", "second"):
        scene = scene_of(desk, name)
        flat = [row.layer for row in layers.rows(scene) if row.layer not in layers.SHAPES]
        with desk.opened.view(scene.item) as view:
            assert set(flat) <= set(view.layers)
            assert {"probability-1", "mask-1", "tissue", "uncovered", *view.kinds} == set(flat)


def test_a_slide_that_was_not_segmented_has_no_layers_but_its_size(desk):
    scene = scene_of(desk, "slide.tif")
    assert layers.rows(scene) == [] and not scene.answered and not scene.finished
    assert list(facts(scene)) == ["1,400 × 1,000 px", "0.70 × 0.50 mm", "0.5 µm per pixel"]


def test_uncertainty_is_among_the_layers_of_results_that_have_it_alone(desk):
    names = [{row.layer for row in layers.rows(scene_of(desk, name))} for name in ("slide", "second")]
    assert {"total", "doubts", "sections"} <= names[0] and not {"total", "doubts", "sections"} & names[1]


def test_of_a_layer_that_is_not_shown_nothing_is_asked_of_the_server(desk):
    scene = scene_of(desk, "slide")
    for row in layers.rows(scene):
        if row.layer not in layers.SHAPES:
            url = layers.url_of(desk, scene, row, threshold=0.5)
            assert url.startswith("/tiles/" if row.shown else "data:")


def test_zoom_0_of_the_map_is_level_0_and_the_threshold_is_part_of_a_masks_url(desk):
    scene = scene_of(desk, "slide")
    row = layers.Row(layer="mask-1", label="", group="", shown=True)
    tile_layer = layers.tile_layer(desk, scene, row, z_index=1)
    assert tile_layer.zoomOffset == Tiling(1400, 1000).levels == 11 and tile_layer.maxNativeZoom == 0
    assert tile_layer.bounds == [[-1000, 0], [0, 1400]]
    assert tile_layer.url.endswith("&t=0.5") and "{z}/{x}/{y}" in tile_layer.url
    assert layers.url_of(desk, scene, row, threshold=0.25).endswith("&t=0.25")


def test_areas_beside_the_threshold_are_those_of_the_result(desk, library):
    scene = scene_of(desk, "slide")
    with Segmentation.load(library / "results" / "slide") as result:
        for threshold in (0.2, 0.5, 0.93):
            (line,) = layers_panel.told(desk, scene, threshold)
            name, area, share = (part.children for part in line.children)
            mm2, covered = result.lesion_mm2(threshold), result.covered.area_mm2
            assert (name, area) == ("lesion", f"{mm2:.4f} mm²")
            assert share == f"{mm2 / covered:.1%} of {covered:.4f} mm² tissue"


def test_in_a_blind_study_nothing_is_left_of_the_answer(library):
    blind = Desk(shelf=Shelf([library]), opened=Opened(), reviewer="Ada", blind=True)
    scene = scene_of(blind, "slide")
    assert scene.hidden and not scene.classes and not scene.kinds
    assert {row.layer for row in layers.rows(scene)} == {"sections", "tissue", "uncovered"}
    assert layers_panel.told(blind, scene, 0.5) == []
    blind.opened.close()


def test_a_memory_makes_things_once_and_forgets_what_was_not_used_for_longest():
    memory, made = Memory(limit=2), []
    for key in "aabaca":
        memory.get(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c"]
    memory.get("b", lambda: made.append("b"))
    assert made == ["a", "b", "c", "b"]
