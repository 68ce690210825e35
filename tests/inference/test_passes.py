from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.geometry.raster import Raster
from digipath.inference.engine import Pass, stream_pass
from digipath.inference.passes import stream_passes
from digipath.inference.plan import plan
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.program import program
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec
from digipath.slides.array import ArraySlide

rng = np.random.default_rng(3)


def lesion(values):
    values = np.asarray(values, np.float32)
    return np.stack([1 - values, values], -1)


def constant(p, stride=1, **changes):
    fields = {"architecture": f"constant {p}", "mpp": 1.0, "patch": 64, "output_stride": stride} | changes
    return FunctionPredictor(
        lambda patches: lesion(np.full((len(patches), *[n // stride for n in patches.shape[1:3]]), p)),
        ModelSpec(**fields),
    )


def redness(**changes):
    fields = {"architecture": "redness", "mpp": 1.0, "patch": 64} | changes
    return FunctionPredictor(lambda patches: lesion(patches[..., 0] / 255), ModelSpec(**fields))


def run(members, slide, *, weights=None, first_row=0, **changes):
    chosen = InferenceSettings(**changes)
    named = {f"{number} {one.spec.architecture}": one for number, one in enumerate(members)}
    made = program(named, weights=weights, first={}, settings=chosen)
    everywhere = Raster(np.ones(slide.frame.shape, bool), slide.frame)
    passes = made.passes(slide.frame, everywhere, None)
    strips = list(stream_passes(slide, passes, first_row=first_row))
    assert [strip.y for strip in strips] == np.cumsum([first_row, *[len(s.values) for s in strips[:-1]]]).tolist()
    values, covered = (np.concatenate([getattr(s, name) for s in strips]) for name in ("values", "covered"))
    assert values.shape == (passes[0].plan.heatmap_frame.height - first_row, values.shape[1], len(made.channels))
    return values, covered, passes


def slide_of(width, height, mpp=1.0):
    return ArraySlide(rng.integers(0, 256, (height, width, 3), np.uint8), mpp=mpp)


def test_networks_of_one_resolution_and_patch_read_the_slide_once():
    slide = slide_of(300, 200)
    _, _, together = run([constant(0.2), constant(0.6, stride=2), constant(0.7)], slide)
    _, _, apart = run([constant(0.2), constant(0.6, patch=32), constant(0.7, mpp=2.0)], slide)
    assert [len(one.names) for one in together] == [3] and len(apart) == 3


@pytest.mark.parametrize("other", [{"mpp": 0.5}, {"patch": 48}, {"margin": 8}, {"mpp": 2.0, "patch": 96}])
def test_the_mean_of_constants_is_their_weighted_mean_and_their_variance_exact(other):
    slide = slide_of(333, 190, mpp=0.5)
    values, covered, passes = run(
        [constant(0.2), constant(0.8, **other)], slide, uncertainty=True, heatmap_mpp=4.0, augmentations="all"
    )
    assert len(passes) == 2 and passes[0].predictor.channels[2:] == ("aleatoric", "epistemic")
    np.testing.assert_allclose(values[covered][:, 1], 0.5, atol=1e-6)
    np.testing.assert_allclose(values[covered][:, 2], 0, atol=1e-9)
    np.testing.assert_allclose(values[covered][:, 3], 0.09, atol=1e-6)
    weighed, covered, _ = run([constant(0.2), constant(0.8, **other)], slide, weights=[3, 1], heatmap_mpp=4.0)
    np.testing.assert_allclose(weighed[covered][:, 1], 0.35, atol=1e-6)


def test_variances_within_and_between_passes_add_up_to_that_of_all_networks():
    slide = slide_of(200, 150)
    p = [0.1, 0.35, 0.4, 0.9]
    members = [constant(p[0]), constant(p[1]), constant(p[2], patch=32), constant(p[3], patch=32)]
    values, covered, passes = run(members, slide, uncertainty=True)
    assert len(passes) == 2
    np.testing.assert_allclose(values[covered][:, 1], np.mean(p), atol=1e-6)
    np.testing.assert_allclose(values[covered][:, 3], np.var(p), atol=1e-6)


def test_a_planted_square_is_where_it_is_for_every_member_of_a_mixed_ensemble():
    image = np.full((512, 640, 3), 0, np.uint8)
    image[128:256, 320:448] = 255
    members = [redness(), redness(mpp=0.5, patch=96), redness(mpp=2.0, patch=32, margin=4)]
    values, _, passes = run(members, ArraySlide(image, mpp=0.5), heatmap_mpp=8.0)
    expected = np.zeros((32, 40))
    expected[8:16, 20:28] = 1
    assert len(passes) == 3
    np.testing.assert_allclose(values[..., 1], expected, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 149), st.integers(1, 9), st.booleans(), st.floats(0, 0.9))
def test_later_rows_are_streamed_as_they_were_from_the_first_row_on(first_row, batch, several, overlap):
    slide = ArraySlide(np.random.default_rng(0).integers(0, 256, (300, 170, 3), np.uint8), mpp=1.0)
    members = [redness(), *([redness(patch=48)] if several else [])]
    whole, covered, _ = run(members, slide, batch=batch, overlap=overlap)
    part, part_covered, passes = run(members, slide, batch=batch, overlap=overlap, first_row=first_row)
    np.testing.assert_array_equal(part, whole[first_row:])
    np.testing.assert_array_equal(part_covered, covered[first_row:])
    for one in passes:
        needed = [box.bottom > first_row * one.plan.unit for box in one.plan.boxes]
        first = min(needed.index(True), max(0, len(needed) - batch)) if first_row else 0
        grid = one.plan.grid
        width, height = (-(-side // cell) * cell for side, cell in zip(grid.patch, grid.cell, strict=True))
        assert one.tally.patches == len(needed)
        assert one.tally.pixels <= width * height * (len(needed) - first // batch * batch)


def test_only_patches_from_the_batch_of_the_first_needed_one_are_predicted_again():
    seen = []
    counted = FunctionPredictor(
        lambda patches: seen.append(len(patches)) or lesion(patches[..., 0] / 255),
        ModelSpec(architecture="counted", mpp=1.0, patch=64),
    )
    slide = slide_of(256, 640)
    everywhere = Raster(np.ones(slide.frame.shape, bool), slide.frame)
    chosen = plan(slide.frame, counted, everywhere, settings=InferenceSettings(batch=4))
    list(stream_pass(slide, Pass(counted, chosen), first_row=160))
    first = next(number for number, box in enumerate(chosen.boxes) if box.bottom > 320)
    assert sum(seen) == len(chosen.boxes) - first // 4 * 4 < len(chosen.boxes)


def test_what_one_pass_does_not_cover_is_not_covered():
    slide = slide_of(400, 300)
    mask = np.zeros(slide.frame.shape, bool)
    mask[:, :70] = True
    made = program(
        {"a": constant(0.4), "b": constant(0.8, patch=32)}, weights=None, first={}, settings=InferenceSettings()
    )
    passes = made.passes(slide.frame, Raster(mask, slide.frame), None)
    passes[1].plan = replace(passes[1].plan, boxes=passes[1].plan.boxes[5:])
    strips = list(stream_passes(slide, passes))
    values, covered = (np.concatenate([getattr(s, name) for s in strips]) for name in ("values", "covered"))
    assert not covered[:8, :16].any() and covered[20:, :30].all() and not values[~covered].any()
    np.testing.assert_allclose(values[covered][:, 1], 0.6, atol=1e-6)


@pytest.mark.parametrize(
    ("members", "changes", "why"),
    [
        ([constant(0.5), constant(0.5, mpp=0.2431)], {}, "Leave out the one"),
        ([constant(0.5), constant(0.5, mpp=0.75)], {"heatmap_mpp": 2.0}, r"the 0.75 of 1 constant 0.5.*multiple of 3"),
        ([constant(0.5), constant(0.5, stride=4)], {"heatmap_mpp": 2.0}, r"the 4 of 1 constant 0.5.*multiple of 4"),
        ([constant(0.5)], {"uncertainty": True}, "augmentations"),
        ([constant(0.5), constant(0.5, classes=("a", "b"))], {}, "classes"),
        ([constant(0.5), constant(0.5, mpp=2.0, classes=("a", "b"))], {}, "same classes"),
    ],
)
def test_networks_that_do_not_fit_each_other_are_refused_by_name(members, changes, why):
    with pytest.raises(SpecError, match=why):
        run(members, slide_of(100, 100), **changes)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_are_positive_and_one_for_each(weights):
    with pytest.raises(SpecError, match="weights"):
        run([constant(0.2), constant(0.4)], slide_of(100, 100), weights=weights)
