import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath import Cascade, Segmentation, Segmenter
from digipath.errors import SpecError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.inference.cascade import coarse_plan, refined
from digipath.inference.plan import plan
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec
from digipath.slides.array import ArraySlide

pytestmark = pytest.mark.filterwarnings("ignore:.*regions could not be read", "ignore:.*of the tissue is lesion")

rng = np.random.default_rng(4)


def network(function, *, multiple=1, **changes):
    """A function of patches, which returns the lesion's probability, as a predictor that counts what it sees."""
    fields = {"architecture": "function", "classes": ("other", "lesion"), "mpp": 1.0, "patch": 64} | changes

    def counted(patches):
        predictor.seen += len(patches)
        values = np.asarray(function(patches), np.float32)
        return np.stack([1 - values, values], -1)

    predictor = FunctionPredictor(counted, ModelSpec(**fields), multiple=multiple)
    predictor.seen = 0
    return predictor


def darkness(stride=1, shade=255, **changes):
    """A segmenter: how dark each of its cells is."""

    def see(patches):
        n, height, width, _ = patches.shape
        return 1 - patches[..., 0].reshape(n, height // stride, stride, width // stride, stride).mean((2, 4)) / shade

    return network(see, output_stride=stride, **changes)


def middle(cell=64, **changes):
    """A classifier: how dark the cell in the middle of its patch is."""

    def see(patches):
        top, left = (patches.shape[1] - cell) // 2, (patches.shape[2] - cell) // 2
        return 1 - patches[:, top : top + cell, left : left + cell, 0].mean((1, 2)) / 255

    return network(see, **{"kind": "classifier", "patch": 128, "margin": 32} | changes)


def constant(p, stride=1, **changes):
    return network(lambda patches: np.full((len(patches), *[n // stride for n in patches.shape[1:3]]), p), **changes)


def always(p, **changes):
    return network(lambda patches: np.full(len(patches), p), **{"kind": "classifier", "patch": 64} | changes)


def painted(width, height, *squares):
    """White, with black boxes."""
    image = np.full((height, width, 3), 255, np.uint8)
    for square in squares:
        image[square.intersect(Box(0, 0, width, height)).slices()] = 0
    return image


def block_means(image, cell):
    """Darkness of each cell of an image, by NumPy alone; beyond its border is white."""
    height, width = (-(-side // cell) * cell for side in image.shape[:2])
    white = np.full((height, width), 255.0)
    white[: image.shape[0], : image.shape[1]] = image[..., 0]
    return 1 - white.reshape(height // cell, cell, width // cell, cell).mean((1, 3)) / 255


def everywhere(slide):
    return Raster(np.ones(slide.frame.shape, bool), slide.frame)


def run(source, slide, *, tissue=None, region=None, **changes):
    slide = slide if isinstance(slide, ArraySlide) else ArraySlide(slide, mpp=1.0)
    chosen = InferenceSettings(**{"heatmap_mpp": 4.0} | changes)
    tissue = np.ones(slide.frame.shape, bool) if tissue is None else tissue
    segmenter = Segmenter(source, settings=chosen)
    return segmenter.predict(slide, tissue=tissue, region=region, progress=False)


def lesion(result):
    return result.heatmap.array()[..., 1].astype(np.float32)


def seen_by(result):
    return [(one["stage"], one["predicted"]) for one in result.info["passes"]]


STAGES = {
    "patch 128, margin 32": (64, {}),
    "patch 299": (128, {"patch": 299, "margin": 0}),
    "patch 299, sides of 32": (128, {"patch": 299, "margin": 0, "multiple": 32}),
    "patch 320, margin 96": (128, {"patch": 320, "margin": 96, "multiple": 32}),
    "fixed 299": (127, {"patch": 299, "margin": 0, "multiple": 299}),
    "fixed 128": (64, {"multiple": 128}),
    "patch 75, sides of 2": (74, {"patch": 75, "margin": 0, "multiple": 2}),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("square", [Box(256, 128, 128, 128), Box(-9, -9, 70, 90), Box(610, 430, 99, 99)])
def test_a_planted_square_does_not_shift_through_the_first_stage(name, square):
    cell, changes = STAGES[name]
    image = painted(683, 491, square)
    frame = ArraySlide(image, mpp=1.0).frame
    result = run(Cascade(middle(cell, **changes), constant(0.9)), image, candidate=1.0, heatmap_mpp=1.0)
    expected = Raster(block_means(image, cell), frame.coarser(cell)).sample(frame.box, frame)
    np.testing.assert_allclose(lesion(result), expected, atol=1e-3)
    assert seen_by(result) == [("first", (-(-491 // cell)) * (-(-683 // cell))), ("second", 0)]


@pytest.mark.parametrize("square", [Box(256, 128, 128, 128), Box(0, 0, 33, 57), Box(610, 430, 99, 99)])
@pytest.mark.parametrize("changes", [{}, {"multiple": 64}, {"margin": 8}, {"patch": 96, "multiple": 32}])
def test_a_planted_square_does_not_shift_through_the_second_stage(square, changes):
    image = painted(683, 491, square)
    result = run(Cascade(middle(), darkness(stride=4, **changes)), image, candidate=0.0)
    assert seen_by(result)[1][1] > 0
    np.testing.assert_allclose(lesion(result), block_means(image, 4), atol=1e-3)
    assert result.covered.array().all()


def test_stages_see_the_slide_at_resolutions_of_their_own():
    square = Box(700, 300, 200, 120)
    slide = ArraySlide(painted(1301, 907, square), mpp=0.25)
    first, second = middle(mpp=0.5), darkness(stride=8, mpp=0.25, patch=128)
    result = run(Cascade(first, second), slide, candidate=0.0, heatmap_mpp=2.0)
    np.testing.assert_allclose(lesion(result), block_means(slide.read(slide.frame.box, slide.frame), 8), atol=1e-3)
    coarse = run(Cascade(first, second), slide, candidate=1.0, heatmap_mpp=2.0)
    np.testing.assert_allclose(
        lesion(coarse), np.kron(block_means(painted(1301, 907, square), 128), np.ones((16, 16)))[:114, :163], atol=1e-3
    )


def numpy_kept(width, height, cells, side, step, cell):
    """(x, y) of the patches whose central part holds a candidate, on a canvas of single pixels."""

    def parts(length):
        count = 1 + max(0, -(-(length - side) // step))
        inner = [number * step + (side - step) // 2 for number in range(1, count)]
        return list(zip([0, *inner], [*inner, length], strict=True))

    canvas = np.kron(cells, np.ones((cell, cell), bool))[:height, :width]
    rows, columns = parts(height), parts(width)
    kept = {
        (column * step, row * step): (slice(*rows[row]), slice(*columns[column]))
        for row in range(len(rows))
        for column in range(len(columns))
        if canvas[slice(*rows[row]), slice(*columns[column])].any()
    }
    return canvas, kept


@settings(max_examples=60)
@given(st.data(), st.integers(1, 500), st.integers(1, 400), st.sampled_from([0.0, 0.25, 0.5, 0.8]))
def test_every_candidate_lies_in_the_central_part_of_a_kept_patch_and_no_other_patch_is_kept(
    data, width, height, overlap
):
    cell = data.draw(st.sampled_from([16, 37, 64]))
    frame = Frame.level0(width, height, 1.0)
    cells = frame.coarser(cell)
    found = np.random.default_rng(data.draw(st.integers(0, 99))).random(cells.shape) < data.draw(st.floats(0, 0.5))
    full = Raster(np.ones(frame.shape, bool), frame)
    chosen = plan(frame, darkness(), full, settings=InferenceSettings(overlap=overlap, heatmap_mpp=4.0))
    (side, _), (step, across) = chosen.grid.patch, chosen.grid.stride
    kept = refined(chosen, Raster(found, cells)).boxes
    if chosen.grid.patch == (64, 64) and step == across:
        canvas, expected = numpy_kept(width, height, found, side, step, cell)
        assert {(box.x, box.y) for box in kept} == expected.keys()
        for central in expected.values():
            canvas[central] = False
        assert not canvas.any()
    assert bool(kept) == found.any()


def test_without_candidates_the_coarse_map_stands_everywhere():
    image = rng.integers(0, 256, (300, 420, 3), np.uint8)
    second = darkness()
    result = run(Cascade(middle(), second), image, candidate=1.0)
    frame = result.heatmap.frame
    expected = Raster(block_means(image, 64), ArraySlide(image, mpp=1.0).frame.coarser(64)).sample(frame.box, frame)
    np.testing.assert_allclose(lesion(result), expected, atol=1e-3)
    assert result.covered.array().all() and second.seen == 0
    np.testing.assert_allclose(result.heatmap.array().sum(-1), 1, atol=2e-3)


def test_with_candidates_everywhere_it_is_the_second_stage_alone():
    image = rng.integers(0, 256, (300, 427, 3), np.uint8)
    alone = run(darkness(), image)
    for first in (always(1.0), constant(1.0, patch=96)):
        result = run(Cascade(first, darkness()), image)
        np.testing.assert_array_equal(result.heatmap.array(), alone.heatmap.array())
        np.testing.assert_array_equal(result.covered.array(), alone.covered.array())


def test_outside_of_kept_patches_stands_the_coarse_map_and_inside_only_the_fine_one():
    image = painted(900, 700, Box(300, 200, 60, 60))

    def any_dark(patches):
        return np.where(patches[:, 32:96, 32:96].min((1, 2, 3)) == 0, 0.75, 0.25)

    first = network(any_dark, kind="classifier", patch=128, margin=32)
    source = Cascade(first, constant(0.5))
    result = run(source, image)
    frame = result.heatmap.frame
    chosen = Segmenter(source, settings=InferenceSettings(heatmap_mpp=4.0)).plan(
        ArraySlide(image, mpp=1.0), tissue=np.ones((700, 900), bool)
    )[1]
    cells = Frame.level0(900, 700, 1.0).coarser(64)
    found = np.zeros(cells.shape, bool)
    found[200 // 64 : 1 + 259 // 64, 300 // 64 : 1 + 359 // 64] = True
    expected = np.full(frame.shape, 0.25, np.float32)
    for box in refined(chosen, Raster(found, cells)).boxes:
        expected[box.coarser(4).intersect(frame.box).slices()] = 0.5
    np.testing.assert_array_equal(lesion(result), expected)
    assert set(np.unique(expected)) == {0.25, 0.5}


def test_thin_tissue_whose_cell_centres_are_glass_is_looked_at():
    tissue = np.zeros((512, 512), bool)
    tissue[130:134, 100:400] = True  # the middle of its cells is 30 pixels below
    first, second = always(0.75, patch=128, margin=32), constant(0.9)
    result = run(Cascade(first, second), painted(512, 512), tissue=tissue)
    assert first.seen == 6 and second.seen > 0
    np.testing.assert_array_equal(result.covered.array(), tissue[2::4, 2::4])
    np.testing.assert_allclose(lesion(result)[result.covered.array()], 0.9, atol=1e-3)
    coarse = run(Cascade(first, second), painted(512, 512), tissue=tissue, candidate=0.8)
    np.testing.assert_allclose(lesion(coarse)[tissue[2::4, 2::4]], 0.75, atol=1e-3)
    assert not lesion(coarse)[~tissue[2::4, 2::4]].any()


class Damaged(ArraySlide):
    """An array in which one box cannot be read."""

    hole = Box(0, 0, 0, 0)

    def read_covered(self, box, frame, *, kernel="box"):
        pixels, lost = super().read_covered(box, frame, kernel=kernel)
        hole = frame.box_in(box, self.frame).intersect(self.hole)
        return pixels, [*lost, *([hole] if hole.area else [])]


@pytest.mark.parametrize("p", [0.2, 0.9])
def test_what_cannot_be_read_stays_uncovered_whatever_the_first_stage_says(p):
    slide = Damaged(painted(640, 512), mpp=1.0)
    slide.hole = Box(200, 136, 32, 40)
    result = run(Cascade(always(p, margin=8, patch=80), constant(0.6)), slide)
    covered = result.covered.array()
    assert not covered[136 // 4 : 176 // 4, 200 // 4 : 232 // 4].any()
    assert result.info["status"] == "incomplete" and result.info["unread"]
    lost = np.argwhere(~covered)
    assert len(lost) <= (2 * 64 // 4) ** 2  # nothing further than the cells that it touches
    assert not lesion(result)[~covered].any()


def test_a_segmenter_may_be_the_first_stage_and_a_classifier_the_second():
    image = painted(500, 330, Box(192, 128, 96, 64))
    first, second = darkness(stride=2, patch=64), middle(32, patch=64, margin=16)
    result = run(Cascade(first, second), image, candidate=0.4, overlap=0, heatmap_mpp=8.0)
    assert result.info["passes"][1]["size"] == [64, 64]
    np.testing.assert_allclose(lesion(result), np.kron(block_means(image, 32), np.ones((4, 4)))[:42, :63], atol=1e-3)
    assert 0 < second.seen < 40


@pytest.mark.parametrize("patch", [64, 100, 96])
def test_a_segmenter_of_one_size_gives_cells_that_tile_it(patch):
    image = painted(421, 333, Box(100, 100, 120, 90))
    result = run(Cascade(darkness(patch=patch, multiple=patch), constant(1)), image, candidate=1.0, heatmap_mpp=1.0)
    cell = {64: 32, 100: 25, 96: 32}[patch]
    assert result.info["passes"][0]["size"] == [patch, patch]
    expected = np.kron(block_means(image, cell), np.ones((cell, cell)))[:333, :421]
    np.testing.assert_allclose(lesion(result), expected, atol=1e-3)


def test_cascades_of_an_ensemble_run_their_first_stage_once_and_give_the_mean():
    image = rng.integers(0, 256, (300, 420, 3), np.uint8)
    image[:, :200] //= 3
    first, one, two = middle(), darkness(), darkness(stride=2, shade=300, patch=96)
    both = run([Cascade(first, one), Cascade(first, two)], image)
    calls = first.seen
    alone = [run(Cascade(first, second), image) for second in (one, two)]
    assert calls * 3 == first.seen and seen_by(both)[0] == ("first", calls) and len(seen_by(both)) == 3
    np.testing.assert_allclose(lesion(both), np.mean([lesion(result) for result in alone], 0), atol=1e-3)
    assert both.covered.array().all()


def test_cascades_with_different_first_stages_are_refused():
    with pytest.raises(SpecError, match="share their first stage"):
        Segmenter([Cascade(middle(), darkness()), Cascade(middle(), darkness())])
    with pytest.raises(SpecError, match="cascades alone"):
        Segmenter([Cascade(middle(), darkness()), darkness()])


def test_stages_name_the_same_classes():
    with pytest.raises(SpecError, match="same classes"):
        run(Cascade(middle(classes=("other", "tumour")), darkness()), painted(100, 100))


def test_the_cascade_can_be_left_out():
    image = rng.integers(0, 256, (200, 300, 3), np.uint8)
    first = middle()
    result, alone = run(Cascade(first, darkness()), image, cascade=False), run(darkness(), image)
    np.testing.assert_array_equal(result.heatmap.array(), alone.heatmap.array())
    assert first.seen == 0 and [name for name, _ in seen_by(result)] == ["only"]


def test_the_record_says_what_each_stage_saw():
    first, second = middle(), darkness()
    result = run(Cascade(first, second), painted(640, 512, Box(256, 256, 64, 64)))
    assert seen_by(result) == [("first", first.seen), ("second", second.seen)]
    assert first.seen == 80 and 0 < second.seen < 10
    assert result.info["passes"][1]["planned"] == second.seen


def test_coarse_parts_carry_the_uncertainty_of_the_first_stage_and_none_between_networks():
    image = painted(512, 384, Box(128, 128, 64, 64))
    image[:, 300:, 0] = np.arange(212)  # no symmetric patches there
    first = network(lambda patches: patches[:, 32, 96, 0] < 128, kind="classifier", patch=128, margin=32)
    cascades = [Cascade(first, constant(p)) for p in (0.2, 0.6)]
    result = run(cascades, image, uncertainty=True, augmentations=("identity", "flip"))
    fine = np.isclose(lesion(result), 0.4, atol=1e-3)
    aleatoric, epistemic = np.moveaxis(result.uncertainty.array(), -1, 0)
    np.testing.assert_allclose(epistemic[fine], 0.04, atol=1e-6)
    np.testing.assert_allclose(aleatoric[fine], 0, atol=1e-6)
    assert 0.05 < fine.mean() < 0.95 and not epistemic[~fine].any()
    np.testing.assert_allclose(aleatoric[~fine], np.where(np.isclose(lesion(result)[~fine], 0.5), 0.25, 0), atol=1e-6)
    assert (aleatoric[~fine] == 0.25).any()


@pytest.mark.parametrize("region", [Box(130, 70, 200, 150), Box(0, 0, 33, 400), Box(500, 380, 20, 20)])
def test_inside_of_a_region_it_says_what_it_says_of_the_whole_slide(region):
    image = rng.integers(0, 256, (400, 520, 3), np.uint8)
    image[100:200, 200:330] //= 8
    source = Cascade(middle(), darkness())
    whole, part = run(source, image, candidate=0.6), run(source, image, candidate=0.6, region=region)
    inside, frame = np.zeros_like(part.covered.array()), Frame.level0(520, 400, 1.0)
    inside[frame.centres_in(region, whole.heatmap.frame).slices()] = True
    np.testing.assert_array_equal(part.covered.array(), inside)
    np.testing.assert_allclose(lesion(part)[inside], lesion(whole)[inside], atol=1e-3)
    assert not lesion(part)[~inside].any()


def test_a_result_on_disk_is_that_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Segmentation, "overview", lambda _: np.zeros((1, 1, 3), np.uint8))
    image = painted(512, 384, Box(128, 128, 100, 64))
    slide, tissue = ArraySlide(image, mpp=1.0), np.ones((384, 512), bool)
    segmenter = Segmenter(Cascade(middle(), darkness()), settings=InferenceSettings(candidate=0.3))
    memory = segmenter.predict(slide, tissue=tissue, progress=False)
    disk = segmenter.predict(slide, tissue=tissue, out=tmp_path / "result", progress=False)
    np.testing.assert_array_equal(disk.heatmap.array(), memory.heatmap.array())
    np.testing.assert_array_equal(disk.covered.array(), memory.covered.array())
    assert disk.info["passes"] == memory.info["passes"]


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([32, 75, 128, 299]), st.integers(0, 15), st.data())
def test_the_first_stage_always_finds_a_cell_in_the_middle_of_its_patch(width, height, patch, margin, data):
    multiple = data.draw(st.sampled_from([1, 2, 32, patch]))
    kind = data.draw(st.sampled_from(["classifier", "segmenter"]))
    frame = Frame.level0(width, height, 1.0)
    seen = network(len, patch=patch, margin=margin, kind=kind, multiple=multiple)
    full = Raster(np.ones(frame.shape, bool), frame)
    chosen = coarse_plan(frame, seen, full, settings=InferenceSettings(patch=64, heatmap_mpp=8.0))
    sides = chosen.grid.patch
    described = [side - 2 * chosen.grid.margin for side in sides]
    assert all(side % multiple == 0 for side in sides) and tuple(described) == chosen.grid.stride
    assert all(side % chosen.unit == 0 for side in described) and chosen.unit <= 128
    if kind == "classifier":
        assert described == [chosen.unit] * 2
    assert len(chosen.boxes) == -(-width // described[0]) * -(-height // described[1])


def test_the_second_stage_sees_its_own_patches_unless_others_are_asked_for():
    slide, full = ArraySlide(painted(900, 700, Box(300, 200, 60, 60)), mpp=1.0), np.ones((700, 900), bool)
    source = Cascade(middle(), darkness())
    for asked, expected in ((None, 64), (256, 256)):
        plans = Segmenter(source, settings=InferenceSettings(patch=asked)).plan(slide, tissue=full)
        assert [chosen.grid.patch for chosen in plans] == [(128, 128), (expected, expected)]
