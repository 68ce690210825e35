import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import Cancelled, SpecError, UnreadableError
from digipath.geometry.frame import Box, Frame
from digipath.geometry.raster import Raster
from digipath.inference.engine import Tally, stream
from digipath.inference.plan import plan
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec
from digipath.slides.array import ArraySlide
from digipath.slides.stain import normalise, slide_stains
from digipath.slides.synthetic import SyntheticSettings, SyntheticSlide

rng = np.random.default_rng(1)


def spec(**changes):
    fields = {"architecture": "function", "classes": ("other", "lesion"), "mpp": 1.0, "patch": 64} | changes
    return ModelSpec(**fields)


def everywhere(frame):
    return Raster(np.ones(frame.shape, bool), frame)


def two_channels(values):
    values = np.asarray(values, np.float32)
    return np.stack([1 - values, values], -1)


def run(slide, predictor, *, tissue=None, region=None, tally=None, progress=None, **changes):
    settings = InferenceSettings(**changes)
    chosen = plan(slide.frame, predictor, tissue or everywhere(slide.frame), settings=settings, region=region)
    strips = list(stream(slide, predictor, chosen, tally=tally, progress=progress))
    assert [strip.y for strip in strips] == np.cumsum([0, *[len(s.values) for s in strips[:-1]]]).tolist()
    values, covered = (np.concatenate([getattr(s, name) for s in strips]) for name in ("values", "covered"))
    assert values.shape[:2] == covered.shape == chosen.heatmap_frame.shape
    return values, covered, chosen


def constant(p, stride=1, **changes):
    return FunctionPredictor(
        lambda patches: two_channels(np.full((len(patches), *[n // stride for n in patches.shape[1:3]]), p)),
        spec(output_stride=stride, **changes),
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([16, 48, 64, 128]),
    st.floats(0, 0.95),
    st.sampled_from(["hann", "mean"]),
    st.sampled_from([1, 2, 8]),
)
def test_a_constant_predictor_gives_that_constant_everywhere(width, height, patch, overlap, window, stride):
    slide = ArraySlide(np.zeros((height, width, 3), np.uint8), mpp=1.0)
    values, covered, chosen = run(slide, constant(0.3, stride), patch=patch, overlap=overlap, window=window)
    on_slide = np.zeros_like(covered)
    on_slide[chosen.heatmap_frame.on_slide.slices()] = True
    np.testing.assert_array_equal(covered, on_slide)
    np.testing.assert_allclose(values[covered][:, 1], 0.3, atol=1e-6)
    np.testing.assert_allclose(values[covered].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (257, 65), (640, 300), (31, 200), (1, 1)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8])
def test_an_identity_predictor_gives_the_slide_back(width, height, overlap):
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    identity = FunctionPredictor(lambda patches: two_channels(patches[..., 0] / 255), spec())
    values, _, _ = run(ArraySlide(image, mpp=1.0), identity, overlap=overlap, heatmap_mpp=1.0)
    np.testing.assert_allclose(values[..., 1], image[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 8])
@pytest.mark.parametrize("slide_mpp", [0.25, 0.5, 1.0])
def test_a_planted_square_is_not_shifted(stride, slide_mpp):
    zoom = int(1 / slide_mpp)
    image = np.full((256 * zoom, 320 * zoom, 3), 255, np.uint8)
    image[64 * zoom : 128 * zoom, 160 * zoom : 224 * zoom] = 0

    def darkness(patches):
        n, height, width, _ = patches.shape
        cells = patches[..., 0].reshape(n, height // stride, stride, width // stride, stride)
        return two_channels(1 - cells.mean((2, 4)) / 255)

    predictor = FunctionPredictor(darkness, spec(output_stride=stride))
    values, _, chosen = run(ArraySlide(image, mpp=slide_mpp), predictor, heatmap_mpp=8.0)
    expected = np.zeros(chosen.heatmap_frame.shape)
    expected[8:16, 20:28] = 1
    np.testing.assert_allclose(values[..., 1], expected, atol=1e-5)


def test_a_margin_is_read_but_not_described():
    image = rng.integers(0, 256, (150, 170, 3), np.uint8)

    def spoiled(patches):
        values = patches[..., 0] / 255
        for edge in (values[:, :8], values[:, -8:], values[:, :, :8], values[:, :, -8:]):
            edge[...] = 0.5
        return two_channels(values)

    values, _, _ = run(ArraySlide(image, mpp=1.0), FunctionPredictor(spoiled, spec(margin=8)), heatmap_mpp=1.0)
    np.testing.assert_allclose(values[..., 1], image[..., 0] / 255, atol=1e-6)


def test_a_classifier_fills_the_cells_that_it_describes():
    image = np.zeros((128, 192, 3), np.uint8)
    image[:, 64:128] = 255
    mean = FunctionPredictor(
        lambda patches: two_channels(patches[:, 16:-16, 16:-16, 0].mean((1, 2)) / 255),
        spec(kind="classifier", patch=64, margin=16),
    )
    values, _, chosen = run(ArraySlide(image, mpp=1.0), mean, heatmap_mpp=8.0, overlap=0)
    assert chosen.grid.stride == (32, 32)
    np.testing.assert_allclose(values[:, 8:16, 1], 1)
    assert values[:, :8, 1].max() == 0


def test_neither_batch_size_nor_threads_change_anything():
    image = rng.integers(0, 256, (500, 400, 3), np.uint8)
    noisy = FunctionPredictor(lambda p: two_channels(np.sin(p[..., 1].astype(np.float32)) ** 2), spec())
    runs = [
        run(ArraySlide(image, mpp=0.6), noisy, batch=batch, threads=threads, heatmap_mpp=2.0)[0]
        for batch, threads in ((1, 1), (7, 3), (64, 8))
    ]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)


def test_only_tissue_is_predicted_and_covered():
    slide = ArraySlide(np.zeros((512, 512, 3), np.uint8), mpp=1.0)
    mask = np.zeros((64, 64), bool)
    mask[8:16, 40:56] = True
    tissue = Raster(mask, slide.frame.coarser(8))
    tally = Tally()
    values, covered, chosen = run(slide, constant(0.7), tissue=tissue, tally=tally)
    np.testing.assert_array_equal(covered, np.kron(mask, np.ones((4, 4), bool)))
    assert tally.patches == len(chosen.boxes) < len(chosen.grid)
    np.testing.assert_allclose(values[covered][:, 1], 0.7, atol=1e-6)
    assert not values[~covered].any()


def test_no_tissue_is_a_result():
    slide = ArraySlide(np.zeros((100, 90, 3), np.uint8), mpp=1.0)
    nothing = Raster(np.zeros((100, 90), bool), slide.frame)
    values, covered, _ = run(slide, constant(0.7), tissue=nothing)
    assert values.shape == (50, 45, 2) and not values.any() and not covered.any()


def test_a_region_is_the_same_as_that_part_of_the_whole():
    image = rng.integers(0, 256, (400, 500, 3), np.uint8)
    identity = FunctionPredictor(lambda patches: two_channels(patches[..., 0] / 255), spec())
    slide = ArraySlide(image, mpp=1.0)
    whole, _, _ = run(slide, identity)
    part, covered, chosen = run(slide, identity, region=Box(130, 90, 200, 110))
    inside = np.zeros_like(covered)
    inside[45:100, 65:165] = True
    np.testing.assert_array_equal(covered, inside)
    np.testing.assert_array_equal(part[inside], whole[inside])
    assert len(chosen.boxes) < len(chosen.grid)


class Damaged(ArraySlide):
    """An array in which one box cannot be read."""

    hole: Box

    def read_covered(self, box, frame, *, kernel="box"):
        pixels, lost = super().read_covered(box, frame, kernel=kernel)
        hole = frame.box_in(box, self.frame).intersect(self.hole)
        return pixels, [*lost, *([hole] if hole.area else [])]


def test_what_cannot_be_read_is_not_covered():
    slide = Damaged(np.zeros((1024, 1024, 3), np.uint8), mpp=1.0)
    slide.hole = Box(300, 400, 50, 40)
    tally = Tally()
    values, covered, chosen = run(slide, constant(0.7), tally=tally)
    lost = np.zeros_like(covered)
    for box in tally.unread:
        lost[box.coarser(chosen.unit).intersect(chosen.heatmap_frame.box).slices()] = True
    np.testing.assert_array_equal(covered, ~lost)
    assert not covered[200:220, 150:175].any()
    assert lost.sum() * 4 == 50 * 40
    np.testing.assert_allclose(values[covered][:, 1], 0.7, atol=1e-6)


def test_a_slide_fails_when_too_much_tissue_is_unreadable():
    slide = Damaged(np.zeros((512, 512, 3), np.uint8), mpp=1.0)
    slide.hole = Box(0, 256, 512, 256)
    with pytest.raises(UnreadableError, match="max_unread"):
        run(slide, constant(0.7))


def test_progress_counts_every_patch_and_can_cancel():
    slide = ArraySlide(np.zeros((512, 512, 3), np.uint8), mpp=1.0)
    seen = []
    _, _, chosen = run(slide, constant(0.7), progress=seen.append, batch=4)
    assert [state.done for state in seen[-1:]] == [len(chosen.boxes)] == [seen[0].total]
    assert seen[-1].left == 0 and seen[0].rate > 0

    def stop(_):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run(slide, constant(0.7), progress=stop)


def test_every_pixel_of_the_kept_patches_is_read_once():
    slide = ArraySlide(rng.integers(0, 256, (900, 1100, 3), np.uint8), mpp=1.0)
    mask = np.zeros(slide.frame.shape, bool)
    mask[100:300, 500:900] = mask[600:880, 20:200] = True
    tally = Tally()
    _, _, chosen = run(slide, constant(0.5), tissue=Raster(mask, slide.frame), tally=tally)
    union = np.zeros((1200, 1400), bool)
    for box in chosen.boxes:
        union[box.slices()] = True
    assert tally.pixels == union.sum()


def test_a_frame_smaller_than_a_patch_shrinks_the_patch():
    slide = ArraySlide(np.zeros((70, 40, 3), np.uint8), mpp=1.0)
    predictor = constant(0.5, patch=256)
    predictor.multiple = 32
    _, _, chosen = run(slide, predictor)
    assert chosen.grid.patch == (64, 96) and len(chosen.boxes) == 1
    assert Frame.level0(40, 70, 1.0).coarser(2) == chosen.heatmap_frame


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda patches: two_channels(np.zeros((len(patches), 64, 64))), "output_stride"),
        (lambda patches: two_channels(np.zeros((len(patches), 1, 1))), "output_stride"),
        (lambda patches: two_channels(np.full((len(patches), 32, 32), np.nan)), "nan"),
        (lambda patches: two_channels(np.full((len(patches), 32, 32), 4.0)), "-3 to 4"),
    ],
)
def test_what_is_no_probability_of_every_position_is_refused(wrong, why):
    slide = ArraySlide(np.zeros((128, 128, 3), np.uint8), mpp=1.0)
    with pytest.raises(SpecError, match=why):
        run(slide, FunctionPredictor(wrong, spec(output_stride=2)))


def test_a_network_trained_on_normalised_slides_sees_normalised_slides():
    """Also where only a region is wanted: the stains are those of the whole slide."""
    image = SyntheticSlide(SyntheticSettings(width=700, height=500, mpp=1.0)).array()
    slide, tally = ArraySlide(image, mpp=1.0), Tally()
    seen = FunctionPredictor(lambda patches: two_channels(patches[..., 0] / 255), spec(stain="macenko"))
    values, covered, _ = run(slide, seen, region=Box(130, 90, 200, 110), heatmap_mpp=1.0, tally=tally)
    expected = normalise(image, slide_stains(slide))[..., 0] / 255
    np.testing.assert_allclose(values[covered][:, 1], expected[90:200, 130:330].ravel(), atol=1e-6)
    assert np.abs(expected - image[..., 0] / 255).mean() > 0.05
    assert tally.stains == slide_stains(slide) and not tally.notes


def test_a_slide_whose_stains_cannot_be_told_is_seen_as_it_is_and_a_note_says_so():
    image, tally = np.full((200, 100, 3), np.uint8([180, 120, 170])), Tally()
    seen = FunctionPredictor(lambda patches: two_channels(patches[..., 0] / 255), spec(stain="macenko"))
    values, _, _ = run(ArraySlide(image, mpp=1.0), seen, tally=tally)
    np.testing.assert_allclose(values[..., 1], 180 / 255, atol=1e-6)
    assert tally.stains is None and "one stain only" in tally.notes[0]
