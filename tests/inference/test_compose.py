from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath.errors import SpecError
from digipath.inference.compose import PAIRS, Ensemble, TestTimeAugmentation
from digipath.inference.predictor import UNCERTAINTY, FunctionPredictor
from digipath.inference.settings import TRANSFORMS
from digipath.models.spec import ModelSpec

rng = np.random.default_rng(7)


def spec(**changes):
    return ModelSpec(**({"architecture": "tiny", "classes": ("other", "lesion"), "mpp": 1.0, "patch": 48} | changes))


def probabilities(patches, lesion):
    lesion = np.broadcast_to(lesion, patches.shape[:3])
    return np.stack([1 - lesion, lesion], axis=-1).astype(np.float32)


def constant(value, **changes):
    return FunctionPredictor(lambda patches: probabilities(patches, value), spec(**changes))


def lopsided(seed, **changes):
    """A member whose values depend on where a pixel lies: no symmetry holds."""
    field = np.random.default_rng(seed).random((24, 24))

    def values(patches):
        height, width = patches.shape[1:3]
        return probabilities(patches, patches[..., 0] / 255 * field[:height, :width])

    return FunctionPredictor(values, spec(**changes))


def pointwise(**changes):
    """A member that turns with its patch."""
    return FunctionPredictor(lambda patches: probabilities(patches, patches.mean(-1) / 255), spec(**changes))


def blocky(stride, seed=0):
    """A lopsided member with an output stride."""
    fine = lopsided(seed)

    def values(patches):
        maps = fine(patches)
        n, h, w, c = maps.shape
        return maps.reshape(n, h // stride, stride, w // stride, stride, c).mean((2, 4))

    return FunctionPredictor(values, spec(output_stride=stride), multiple=stride)


def stack(members, patches, transforms=TRANSFORMS):
    """All maps of the last class, (members, transforms, n, rows, columns), by NumPy alone."""

    def turned(member, name):
        transform, inverse = PAIRS[name]
        return inverse(member(np.ascontiguousarray(transform(patches))))[..., -1].astype(np.float64)

    return np.array([[turned(member, name) for name in transforms] for member in members])


shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
seeds = st.integers(0, 2**32 - 1)


def images(height=6, width=4, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def test_the_table_has_the_names_of_the_settings():
    assert tuple(PAIRS) == TRANSFORMS


@given(shapes, st.sampled_from(TRANSFORMS))
def test_each_inverse_undoes_its_transform_and_the_other_way_round(shape, name):
    array = np.arange(np.prod(shape)).reshape(shape)
    transform, inverse = PAIRS[name]
    np.testing.assert_array_equal(inverse(transform(array)), array)
    np.testing.assert_array_equal(transform(inverse(array)), array)


def test_the_eight_are_a_group_of_different_views():
    array = np.arange(16).reshape(1, 4, 4, 1)
    keys = {transform(array).tobytes() for transform, _ in PAIRS.values()}
    assert len(keys) == 8
    for one, _ in PAIRS.values():
        for other, undo in PAIRS.values():
            assert one(other(array)).tobytes() in keys and one(undo(array)).tobytes() in keys
    assert all(np.shares_memory(transform(array), array) for transform, _ in PAIRS.values())


def test_a_quarter_turn_is_counter_clockwise_and_a_mirroring_comes_first():
    corner = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    for name, expected in (
        ("rotate90", [[2, 4], [1, 3]]),
        ("flip", [[2, 1], [4, 3]]),
        ("flip-rotate90", [[1, 3], [2, 4]]),
    ):
        np.testing.assert_array_equal(PAIRS[name][0](corner)[0, :, :, 0], expected)


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.sets(st.sampled_from(TRANSFORMS), min_size=1))
def test_augmentation_is_the_mean_and_the_variance_of_the_whole_stack(seed, height, width, transforms):
    patches, member = images(height, width, seed=seed), lopsided(seed)
    augmented = TestTimeAugmentation(member, transforms=tuple(transforms), variance=True)
    values, maps = augmented(patches), stack([member], patches, transforms)[0]
    assert values.dtype == np.float32 and augmented.channels == ("other", "lesion", "aleatoric")
    np.testing.assert_allclose(values[..., 1], maps.mean(0), atol=1e-6)
    np.testing.assert_allclose(values[..., 2], maps.var(0), atol=1e-6)
    np.testing.assert_allclose(values[..., :2].sum(-1), 1, atol=1e-6)


def test_the_identity_alone_gives_the_members_values_exactly():
    patches, member = images(), lopsided(1)
    np.testing.assert_array_equal(TestTimeAugmentation(member, transforms=("identity",))(patches), member(patches))
    with_variance = TestTimeAugmentation(member, transforms=("identity",), variance=True)(patches)
    np.testing.assert_array_equal(with_variance[..., :2], member(patches))
    assert not with_variance[..., 2].any()


def test_a_member_that_turns_with_its_patch_is_certain_and_unchanged():
    patches = images()
    values = TestTimeAugmentation(pointwise(), variance=True)(patches)
    np.testing.assert_array_equal(values[..., :2], pointwise()(patches))
    assert not values[..., 2].any()
    assert TestTimeAugmentation(lopsided(1), variance=True)(patches)[..., 2].max() > 1e-3


def test_the_mean_over_all_eight_turns_with_the_patch():
    patches, augmented = images(5, 7), TestTimeAugmentation(lopsided(3), variance=True)
    for transform, _ in PAIRS.values():
        np.testing.assert_allclose(augmented(transform(patches)), transform(augmented(patches)), atol=1e-6)


def test_members_are_handed_contiguous_patches_in_both_orientations():
    seen = []

    def values(patches):
        seen.append((patches.shape[1:3], patches.flags.c_contiguous, patches.dtype))
        return probabilities(patches, 0.5)

    TestTimeAugmentation(FunctionPredictor(values, spec()))(images(6, 4))
    assert seen == [((6, 4) if quarters % 2 == 0 else (4, 6), True, np.uint8) for quarters in [0, 1, 2, 3] * 2]


def test_patches_and_a_members_own_memory_are_left_as_they_are():
    patches, kept = images(4, 4), np.empty((2, 4, 4, 2), np.float32)

    def reused(given):  # one memory for every answer, as some runtimes have
        kept[:] = probabilities(given, given[..., 0] / 255 * np.linspace(0, 1, 4))
        return kept

    before, member = patches.copy(), FunctionPredictor(reused, spec())
    values = TestTimeAugmentation(member, variance=True)(patches)
    np.testing.assert_array_equal(patches, before)
    np.testing.assert_allclose(values[..., 2], stack([member], patches)[0].var(0), atol=1e-6)


def test_a_classifier_is_turned_like_a_segmenter():
    def values(patches):
        return probabilities(patches[:, :1, :1], patches[:, :1, :1, 0] / 255)  # the upper left corner decides

    patches, member = images(), FunctionPredictor(values, spec(kind="classifier"))
    result = Ensemble([TestTimeAugmentation(member, variance=True)] * 2, variance=True)(patches)
    corners = patches[:, [0, 0, -1, -1], [0, -1, 0, -1], 0] / 255
    assert result.shape == (2, 1, 1, 4)
    np.testing.assert_allclose(result[:, 0, 0, 1], corners.mean(1), atol=1e-6)
    np.testing.assert_allclose(result[:, 0, 0, 2], corners.var(1), atol=1e-6)


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_two_constants_disagree_by_half_their_distance_squared(p, q):
    members = [TestTimeAugmentation(constant(value), variance=True) for value in (p, q)]
    ensemble = Ensemble(members, variance=True)
    values = ensemble(images(2, 2))
    assert ensemble.channels == ("other", "lesion", *UNCERTAINTY)
    np.testing.assert_allclose(values[..., 1], (p + q) / 2, atol=1e-6)
    np.testing.assert_allclose(values[..., 3], ((p - q) / 2) ** 2, atol=1e-6)
    assert not values[..., 2].any()


@given(seeds, st.lists(st.floats(0.01, 100), min_size=1, max_size=4))
def test_aleatoric_and_epistemic_sum_to_the_variance_of_the_whole_stack(seed, weights):
    patches, members = images(3, 4, seed=seed), [lopsided(seed + n) for n in range(len(weights))]
    augmented = [TestTimeAugmentation(member, variance=True) for member in members]
    values = Ensemble(augmented, weights=weights, variance=True)(patches)
    maps, shares = stack(members, patches), np.array(weights) / sum(weights)
    mean = np.tensordot(shares, maps.mean(1), 1)
    np.testing.assert_allclose(values[..., 1], mean, atol=1e-6)
    np.testing.assert_allclose(values[..., 2], np.tensordot(shares, maps.var(1), 1), atol=1e-6)
    np.testing.assert_allclose(values[..., 3], np.tensordot(shares, (maps.mean(1) - mean) ** 2, 1), atol=1e-6)
    total = np.tensordot(shares, ((maps - mean) ** 2).mean(1), 1)
    np.testing.assert_allclose(values[..., 2] + values[..., 3], total, atol=1e-6)


def test_nested_ensembles_sum_to_the_same_variance():
    patches, members = images(), [lopsided(n) for n in range(4)]
    pairs = [Ensemble(members[:2], variance=True), Ensemble(members[2:], variance=True)]
    nested = Ensemble(pairs, variance=True)
    np.testing.assert_allclose(nested(patches), Ensemble(members, variance=True)(patches), atol=1e-6)
    turned = TestTimeAugmentation(Ensemble(members, variance=True), variance=True)
    assert nested.channels == ("other", "lesion", "epistemic") and turned.channels == ("other", "lesion", *UNCERTAINTY)
    np.testing.assert_allclose(turned(patches)[..., 2:].sum(-1), stack(members, patches).var((0, 1)), atol=1e-6)


def test_an_augmented_members_own_channels_are_averaged():
    patches, members = images(4, 4), [lopsided(n) for n in range(2)]
    augmented = TestTimeAugmentation(Ensemble(members, variance=True))
    assert augmented.channels == ("other", "lesion", "epistemic")
    np.testing.assert_allclose(augmented(patches)[..., 2], stack(members, patches).var(0).mean(0), atol=1e-6)


def test_an_ensemble_without_weights_is_the_plain_mean_of_all_channels():
    values = Ensemble([constant(0.1), constant(0.4)])(images())
    np.testing.assert_allclose(values, probabilities(images(), 0.25), atol=1e-6)


def test_equal_members_give_exactly_their_values():
    values = Ensemble([lopsided(1)] * 3, variance=True)(images())
    np.testing.assert_array_equal(values[..., :2], lopsided(1)(images()))
    assert not values[..., 2].any()


def test_only_the_ratios_of_weights_matter():
    patches, members = images(), [lopsided(n, threshold=0.2 + n / 4) for n in range(3)]
    ensembles = [Ensemble(members, weights=w, variance=True) for w in ([1, 2, 3], (0.1, 0.2, 0.3), np.array([2, 4, 6]))]
    for ensemble in ensembles:
        assert ensemble.weights == pytest.approx((1 / 6, 2 / 6, 3 / 6)) and sum(ensemble.weights) == pytest.approx(1)
        assert ensemble.spec.threshold == pytest.approx((0.2 + 2 * 0.45 + 3 * 0.7) / 6)
        np.testing.assert_allclose(ensemble(patches), ensembles[0](patches), atol=1e-6)
    assert Ensemble(members, weights=[1e308] * 3).weights == pytest.approx((1 / 3,) * 3)


def test_a_weight_counts_like_as_many_members():
    patches, (one, two) = images(), (lopsided(1), lopsided(2))
    weighted = Ensemble([one, two], weights=[3, 1], variance=True)(patches)
    np.testing.assert_allclose(weighted, Ensemble([one, one, one, two], variance=True)(patches), atol=1e-6)


def test_the_order_of_members_does_not_matter():
    patches, members = images(4, 4), [lopsided(1, threshold=0.4), lopsided(2, threshold=0.7), blocky(2, seed=3)]
    expected = Ensemble(members, weights=[1, 2, 3], variance=True)
    for order in permutations(range(3)):
        ensemble = Ensemble([members[n] for n in order], weights=[[1, 2, 3][n] for n in order], variance=True)
        np.testing.assert_allclose(ensemble(patches), expected(patches), atol=1e-6)
        assert ensemble.spec.threshold == pytest.approx(expected.spec.threshold)
        assert (ensemble.spec.output_stride, ensemble.multiple) == (2, 2)


def test_different_strides_are_averaged_down_to_their_least_common_multiple():
    patches, members = images(12, 24), [blocky(1, seed=1), blocky(2, seed=2), blocky(3, seed=3)]
    ensemble = Ensemble(members, variance=True)
    assert (ensemble.spec.output_stride, ensemble.multiple) == (6, 6)
    fine = stack([lopsided(n) for n in (1, 2, 3)], patches, ["identity"])[:, 0]
    means = fine.reshape(3, 2, 2, 6, 4, 6).mean((3, 5))
    values = ensemble(patches)
    assert values.shape == (2, 2, 4, 3) and values.dtype == np.float32
    np.testing.assert_allclose(values[..., 1], means.mean(0), atol=1e-6)
    np.testing.assert_allclose(values[..., 2], means.var(0), atol=1e-6)


def test_the_sides_of_patches_suit_every_member():
    members = [FunctionPredictor(lambda patches: patches, spec(), multiple=n) for n in (4, 6)]
    assert Ensemble(members).multiple == 12
    assert TestTimeAugmentation(members[1]).multiple == 6


@pytest.mark.parametrize(
    "change",
    [
        {"mpp": 0.5},
        {"patch": 96},
        {"classes": ("lesion", "other")},
        {"kind": "classifier"},
        {"margin": 4},
        {"resampling": "lanczos"},
        {"stain": "macenko"},
    ],
)
def test_members_that_differ_are_refused_with_field_values_and_names(change):
    members = [constant(0.5), constant(0.5), constant(0.5, **change)]
    members[0].bundle, members[2].bundle = SimpleNamespace(name="colon-a"), SimpleNamespace(name="colon-b")
    (field, value), mine = next(iter(change.items())), getattr(members[0].spec, next(iter(change)))
    with pytest.raises(SpecError) as error:
        Ensemble([members[0], members[1], TestTimeAugmentation(members[2])])
    text = str(error.value)
    assert f"share their {field}, got {mine} in colon-a" in text and f"{value} in colon-b (member 3)" in text


def test_members_with_different_channels_are_refused():
    members = [constant(0.5), TestTimeAugmentation(constant(0.5), variance=True)]
    with pytest.raises(SpecError, match=r"share their channels, got .*member 1 \(tiny\).*aleatoric.*member 2 \(tiny\)"):
        Ensemble(members)


def test_an_ensemble_has_members():
    with pytest.raises(SpecError, match="at least one member"):
        Ensemble([])


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], []])
def test_there_is_a_weight_for_each_member(weights):
    with pytest.raises(SpecError, match=f"2 members, got {len(weights)}"):
        Ensemble([constant(0.1), constant(0.2)], weights=weights)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1", None])
def test_weights_are_positive_and_finite(wrong):
    with pytest.raises(SpecError, match=f"positive, finite number, got {wrong!r}"):
        Ensemble([constant(0.1), constant(0.2)], weights=[1, wrong])


@pytest.mark.parametrize("name", UNCERTAINTY)
def test_no_class_is_called_like_a_channel_of_uncertainty(name):
    member = constant(0.5, classes=("other", name))
    for compose in (TestTimeAugmentation, lambda one: Ensemble([one])):
        with pytest.raises(SpecError, match=f"Rename the class '{name}'"):
            compose(member)


@pytest.mark.parametrize("transforms", [("rotate45",), (), ("flip", "flip")])
def test_unknown_repeated_and_missing_transforms_are_refused(transforms):
    with pytest.raises(SpecError, match="augmentations are different names of identity, rotate90"):
        TestTimeAugmentation(constant(0.5), transforms=transforms)
