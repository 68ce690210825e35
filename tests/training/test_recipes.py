"""Every number of the papers, and what can be replaced."""

import dataclasses
import json

import pytest

from digipath.errors import SpecError
from digipath.models.catalog import known
from digipath.training.recipes import RECIPES, cosine, recipe, replaced, stepped


@pytest.mark.parametrize("one", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_names_a_network_that_can_be_built_and_says_all_of_itself_in_json(one):
    assert known(one.architecture)
    assert json.loads(json.dumps(one.describe(), allow_nan=False))["name"] == one.name
    assert set(one.chosen) <= {part.name for part in dataclasses.fields(one)}


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["bcc-unet"].batch = 1


def test_digipathai_freezes_for_two_epochs_and_steps_as_the_published_code():
    one = recipe("digipathai-densenet121")
    assert (one.freeze, one.patch, one.batch, one.epochs, one.amsgrad) == (2, 256, 16, 100, True)
    assert one.rates == ((0, 1e-5), (2, 2e-4), (15, 1e-4), (50, 5e-5), (70, 2e-5), (80, 1e-5))
    assert one.loss == "hybrid" and one.bundle_patch == 1024 and one.sampling.jitter == 128
    deeplab = recipe("digipathai-deeplab")
    assert deeplab.freeze == 0 and deeplab.rates[0] == (0, 5e-6)


def test_bcc_falls_by_a_fifth_each_five_epochs_and_keeps_five():
    one = recipe("bcc-resnet34-ds")
    assert (one.patch, one.batch, one.epochs, one.keep, one.monitor, one.loss) == (512, 64, 40, 5, "iou", "focal")
    assert [start for start, _ in one.rates] == list(range(0, 40, 5))
    assert one.rates[0][1] == 5e-4 and one.rates[7][1] == pytest.approx(5e-4 * 0.8**7)


def test_tiger_trains_25_epochs_and_divides_the_rate_by_ten_at_the_fifteenth():
    for name in ("tiger-unet-vgg16", "tiger-unet-resnet34", "tiger-fpn-resnet34"):
        one = recipe(name)
        assert (one.patch, one.batch, one.epochs, one.rates) == (512, 16, 25, ((0, 1e-4), (15, 1e-5)))
        assert one.loss == "soft-dice" and one.mpp == 0.5


def test_v3_dcnn_has_three_patch_sizes_and_a_classifier_of_a_tenth():
    for patch in (321, 768, 1280):
        one = recipe(f"v3-dcnn-{patch}")
        assert (one.patch, one.bundle_patch, one.output_stride, one.loss) == (patch, 2560, 8, "pixel")
        assert (one.sampling.stride, one.sampling.balance) == (None, 1.0)  # side by side, whatever the patch
    one = recipe("v3-dcnn-classifier")
    assert (one.patch, one.width, one.kind, one.sampling.stride) == (299, 0.1, "classifier", 128)


def test_a_stepped_table_multiplies():
    assert stepped(1.0, factor=0.5, every=2, epochs=5) == ((0, 1.0), (2, 0.5), (4, 0.25))


def test_a_cosine_falls_from_the_start_to_its_last_share():
    table = cosine(1e-3, epochs=10)
    rates = [rate for _, rate in table]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] == pytest.approx(2e-5) and rates == sorted(rates, reverse=True)
    assert cosine(1e-3, epochs=1) == ((0, pytest.approx(1e-3)),)


def test_fields_are_replaced_by_text_also_within_sampling_and_augmentation():
    one = replaced(
        recipe("digipathai-densenet121"),
        {
            "batch": "4",
            "weights": "None",
            "sampling.per_slide": "7",
            "augmentation.turn": "0.25",
            "rates": "((0, 1e-3),)",
        },
    )
    assert (one.batch, one.weights, one.sampling.per_slide, one.augmentation.turn) == (4, None, 7, 0.25)
    assert one.rates == ((0, 1e-3),)
    assert replaced(one, {"weights": "encoder.safetensors"}).weights == "encoder.safetensors"
    assert replaced(one, {"augmentation": "tiger"}).augmentation == recipe("tiger-fpn-resnet34").augmentation


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bacth": "4"}, "Did you mean 'batch'"),
        ({"augmentation.trun": "1"}, "Did you mean 'turn'"),
        ({"batch.size": "4"}, "no fields of its own"),
        ({"batch": "four"}, "whole number"),
        ({"batch": "0"}, "from 1 up"),
        ({"loss": "'dice'"}, "loss is one of"),
        ({"loss": "patch"}, "classifier"),
        ({"rates": "((5, 1e-3),)"}, "from epoch 0"),
        ({"rates": "0.1"}, "rates"),
        ({"monitor": "accuracy"}, "monitor is one of"),
        ({"average": "1"}, "average is a number"),
        ({"mpp": "fine"}, "mpp"),
        ({"augmentation": "strong"}, "one of digipathai, bcc"),
        ({"augmentation.turn": "often"}, "turn of Strengths cannot be 'often'"),
        ({"sampling": "Tiles"}, "sampling is a configuration"),
        ({"sampling.stride": "half"}, "stride of Strata cannot be 'half'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_nearest_name(changes, told):
    with pytest.raises(SpecError, match=told):
        replaced(recipe("bcc-unet"), changes)


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(SpecError, match="mean 'bcc-resnet34-ds'"):
        recipe("bcc-resnet34ds")
