"""The basal cell carcinoma paper's networks: what the text says of their sides, weights and cuts."""

import dataclasses

import keras
import numpy as np
import pytest

from digipath.errors import BundleError, SpecError
from digipath.inference.keras_runtime import KerasPredictor
from digipath.models.bcc import Decoder, early_exit, halving, plain
from digipath.models.blocks import Head
from digipath.models.bundle import Bundle, last_output
from digipath.models.catalog import build, rebuild
from digipath.models.spec import ModelSpec

PATCHES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
SPEC = ModelSpec(architecture="bcc-unet-ds", mpp=1.0, patch=64, width=0.125)


def values(model, patches=PATCHES):
    return [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(model(patches, training=False))]


def unit_parameters(before, after, kernel=3):
    """A convolution without bias, and the four vectors of its batch normalisation."""
    return kernel**2 * before * after + 4 * after


def counted(*, base, scores):
    """All parameters of the own encoder, its decoder and `scores`, the blocks with a score map of two classes."""
    total = unit_parameters(3, base, kernel=7)
    for before, after in [(base * 2**step, base * 2 ** (step + 1)) for step in range(4)]:
        total += unit_parameters(before, after) + unit_parameters(after, after)
    x, blocks = 16 * base, [(8, 8), (4, 4), (2, 2), (1, 1), (0.5, 0)]
    for block, (filters, skip) in enumerate((int(base * one), base * two) for one, two in blocks):
        total += unit_parameters(x + skip, filters) + unit_parameters(filters, filters)
        total += 2 * filters + 2 if block in scores else 0
        x = filters
    return total


@pytest.fixture(scope="module")
def supervised():
    return rebuild(SPEC)


@pytest.mark.parametrize("base", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_every_parameter_is_accounted_for(base):
    counts = [build(name, width=base / 64).count_params() for name in ("bcc-unet", "bcc-unet-ds", "bcc-unet-linear")]
    every = counted(base=base, scores=range(5))
    assert counts == [counted(base=base, scores=[4]), every, every + 5]


def test_each_output_of_deep_supervision_doubles_the_side_of_the_one_before(supervised):
    shapes = supervised.compute_output_shape((1, 512, 512, 3))
    assert [shape[1:3] for shape in shapes] == [(32 * 2**block,) * 2 for block in range(5)]
    shapes = supervised.compute_output_shape((1, 128, 64, 3))
    assert [shape[1:3] for shape in shapes] == [(128 // 16 * 2**block, 64 // 16 * 2**block) for block in range(5)]


def test_every_output_sums_to_one_in_float32(supervised):
    for psi in values(supervised):
        assert psi.dtype == np.float32
        np.testing.assert_allclose(psi.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("block", range(5))
def test_an_early_exit_gives_the_same_as_that_output_of_the_whole_network(supervised, block):
    cut = early_exit(supervised, block)
    np.testing.assert_array_equal(values(cut)[0], values(supervised)[block])
    assert {id(weight) for weight in cut.weights} <= {id(weight) for weight in supervised.weights}


def test_an_early_exit_leaves_the_later_blocks_out(supervised):
    names = [layer.name for layer in early_exit(supervised, 1).layers]
    assert "block_1_2_conv" in names and not any(name.startswith(("block_2", "score_0")) for name in names)


@pytest.mark.parametrize("block", [-1, 5, 1.5, True, "0"])
def test_a_block_that_is_not_there_is_refused(supervised, block):
    with pytest.raises(SpecError, match="0 to 4, got"):
        early_exit(supervised, block)


@pytest.mark.parametrize("name", ["bcc-unet", "bcc-unet-linear"])
def test_an_early_exit_needs_deep_supervision(name):
    with pytest.raises(SpecError, match="needs a network with deep supervision"):
        early_exit(build(name, width=0.125), 0)


@pytest.mark.parametrize("block", range(5))
def test_a_cut_bundle_is_stored_as_the_plain_network_of_its_stride(supervised, block, tmp_path):
    cut = Bundle(supervised, SPEC).early_exit(block)
    assert (cut.spec.architecture, cut.spec.output_stride) == ("bcc-unet", 16 // 2**block)
    loaded = Bundle.load(cut.save(tmp_path / "cut"))
    assert (tmp_path / "cut" / "weights.safetensors").is_file() and loaded.hash == cut.hash
    np.testing.assert_allclose(values(loaded.model)[0], values(supervised)[block], atol=0.02)


@pytest.mark.parametrize("block", range(5))
def test_a_stored_network_is_cut_without_being_built_and_is_the_same_then(supervised, block, tmp_path):
    stored = Bundle(supervised, SPEC).save(tmp_path / "whole")
    cut, built = Bundle.load(stored).early_exit(block), Bundle.load(stored).early_exit(block)
    hash_before, key = cut.hash, cut.key
    assert cut._model is None and cut._whole[0]._model is None and cut.sides == (None, None)
    assert {weight.path for weight in built.model.weights} == set(cut._tensors())
    assert hash_before == built.hash and key == cut.key == built.key == Bundle(supervised, SPEC).early_exit(block).key
    saved = Bundle.load(cut.save(tmp_path / "cut"))
    assert saved.hash == hash_before


def test_the_key_tells_networks_apart(supervised, tmp_path):
    bundle = Bundle(supervised, SPEC)
    keys = {bundle.key, *(bundle.early_exit(block).key for block in range(5))}
    keys.add(Bundle(supervised, dataclasses.replace(SPEC, threshold=0.4)).key)
    assert len(keys) == 7 and {len(key) for key in keys} == {32}
    loaded = Bundle.load(bundle.save(tmp_path / "whole"))
    assert loaded.key == bundle.key and (loaded.model and loaded.key == bundle.key)


def test_a_catalogue_network_without_deep_supervision_is_refused_before_it_is_built(tmp_path):
    spec = dataclasses.replace(SPEC, architecture="bcc-unet")
    plain_bundle = Bundle.load(Bundle(rebuild(spec), spec).save(tmp_path / "plain"))
    with pytest.raises(SpecError, match="needs a network with deep supervision"):
        plain_bundle.early_exit(0)
    with pytest.raises(SpecError, match="0 to 4, got 5"):
        Bundle.load(Bundle(rebuild(SPEC), SPEC).save(tmp_path / "whole")).early_exit(5)
    assert plain_bundle._model is None


def test_a_network_of_ones_own_with_deep_supervision_is_cut_too(supervised):
    own = Bundle(supervised, dataclasses.replace(SPEC, architecture="mine"))
    cut = own.early_exit(2)
    assert (cut.spec.architecture, cut.spec.output_stride) == ("mine", 4) and cut.key != own.key


def test_a_cut_network_under_the_name_of_the_whole_is_refused(supervised):
    with pytest.raises(BundleError, match="name it 'bcc-unet'"):
        Bundle(early_exit(supervised, 3), dataclasses.replace(SPEC, output_stride=2))


def test_the_linear_merge_begins_as_the_plain_network():
    linear, single = (build(name, width=0.125) for name in ("bcc-unet-linear", "bcc-unet"))
    paths = {weight.path: weight for weight in linear.weights}
    for weight in single.weights:
        paths[weight.path].assign(weight)
    np.testing.assert_array_equal(paths["merge/w"], [0, 0, 0, 0, 1])
    np.testing.assert_allclose(values(linear)[0], values(single)[0], atol=1e-6)


def test_the_linear_merge_is_a_softmax_of_weighted_enlarged_scores():
    linear = build("bcc-unet-linear", width=0.125)
    linear.get_layer("merge").w.assign([0.159, -0.1645, 0.1603, -0.2963, 0.0036])  # the paper's
    scores = keras.Model(linear.input, [linear.get_layer(f"score_{block}").output for block in range(5)])
    summed = 0
    for weight, score in zip(linear.get_layer("merge").w.numpy(), values(scores), strict=True):
        summed = summed + weight * keras.ops.image.resize(score, (64, 96), interpolation="bilinear")
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(summed))
    np.testing.assert_allclose(values(linear)[0], expected, atol=1e-5)


def test_every_weight_of_the_merge_learns_from_the_first_step():
    linear = build("bcc-unet-linear", width=0.125)
    before = {weight.path: weight.numpy() for weight in linear.trainable_weights}
    linear.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    patches = PATCHES[:, :32, :32]
    for _ in range(2):
        linear.train_on_batch(patches, (patches[..., 0] > 128).astype(np.uint8))
    moved = {weight.path for weight in linear.trainable_weights if np.any(weight.numpy() != before[weight.path])}
    assert {"merge/w", *(f"score_{block}/kernel" for block in range(5))} <= moved
    assert np.all(linear.get_layer("merge").w.numpy() != [0, 0, 0, 0, 1])


def test_a_merge_survives_keras_own_format(tmp_path):
    linear = build("bcc-unet-linear", width=0.125)
    linear.get_layer("merge").w.assign([1, 2, 3, 4, 5])
    own = dataclasses.replace(SPEC, architecture="mine")
    loaded = Bundle.load(Bundle(linear, own).save(tmp_path / "own")).model
    np.testing.assert_array_equal(values(loaded)[0], values(linear)[0])


@pytest.mark.parametrize(("name", "outputs"), [("bcc-unet", 1), ("bcc-unet-ds", 3), ("bcc-unet-linear", 1)])
def test_a_coarser_network_has_fewer_blocks(name, outputs):
    model = build(name, width=0.125, output_stride=4)
    assert len(model.outputs) == outputs
    assert model.outputs[-1].name and values(model)[-1].shape == (2, 16, 24, 2)
    assert not any(layer.name.startswith("block_3") for layer in model.layers)


def test_the_decoder_halves_channels_whatever_the_encoder():
    assert halving(1024) == (512, 256, 128, 64, 32)
    assert halving(512) == (256, 128, 64, 32, 16)
    encoder = keras.Model(image := keras.Input((None, None, 3), dtype="uint8"), pyramid(image, channels=48))
    model = plain(encoder, Decoder(filters=halving(48)), Head(), name="own")
    assert [model.get_layer(f"block_{block}_2_conv").filters for block in range(5)] == [24, 12, 8, 8, 8]
    assert values(model)[0].shape == (2, 64, 96, 2)
    mobile = halving(1280, width=0.25)  # an encoder of keras.applications stays as it is, the decoder does not
    assert mobile == (160, 80, 40, 16, 8)


def pyramid(image, *, channels):
    """Five maps at stride 2, 4, 8, 16 and 32."""
    x = keras.layers.Rescaling(1 / 255)(image)
    return [keras.layers.Conv2D(channels, 1, strides=2**step)(x) for step in range(1, 6)]


@pytest.mark.parametrize("wrong", [{"filters": (8,) * 4}, {"filters": (8,) * 5, "output_stride": 32}])
def test_a_decoder_that_cannot_be_is_refused(wrong):
    with pytest.raises(SpecError, match="got"):
        Decoder(**wrong)


def test_the_own_encoder_has_no_weights_to_start_from():
    with pytest.raises(SpecError, match="no weights for the encoder 'unet'"):
        build("bcc-unet", weights="imagenet", width=0.125)


def test_deep_supervision_is_applied_by_its_last_output_alone(supervised):
    bundle, patches = Bundle(supervised, SPEC), PATCHES[:, :, :64]
    np.testing.assert_allclose(KerasPredictor(bundle)(patches), values(supervised, patches)[-1], atol=1e-5)
    layers = {layer.name for layer in last_output(supervised).layers}
    assert "psi_4" in layers and not layers & {f"score_{block}" for block in range(4)}


def test_a_sigmoid_has_one_channel_at_every_block():
    model = build("bcc-unet-ds", activation="sigmoid", width=0.125)
    assert [output.shape[-1] for output in model.outputs] == [1] * 5
