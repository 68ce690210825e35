import json
from pathlib import Path

import numpy as np
import pytest

from digipath import Cascade, Segmenter
from digipath.errors import SpecError
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import EFFORTS, InferenceSettings
from digipath.models.bundle import Bundle
from digipath.models.spec import ModelSpec
from digipath.networks import Networks

SPEC = ModelSpec(architecture="darkness", classes=("other", "lesion"), mpp=1.0, patch=64)
SLIDE = np.tile(np.linspace(60, 200, 420, dtype=np.uint8)[None, :, None], (300, 1, 3))
EVERYWHERE = np.ones(SLIDE.shape[:2], bool)


def darkness(patches):
    values = patches[..., 1] / np.float32(255)
    return np.stack([1 - values, values], -1)


def plain(function=darkness):
    return FunctionPredictor(function, SPEC)


def predict(segmenter, **arguments):
    return segmenter.predict(SLIDE, mpp=1.0, tissue=EVERYWHERE, progress=False, **arguments)


def pixels_seen(effort):
    """How many pixels the network is given, each as often as it is."""
    seen = []

    def count(patches):
        seen.append(patches.size)
        return darkness(patches)

    predict(Segmenter(plain(count), effort=effort))
    return sum(seen)


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_is_one_value_of_the_settings(effort):
    assert isinstance(EFFORTS[effort], InferenceSettings)
    assert Segmenter(plain(), effort=effort).settings is EFFORTS[effort]


def test_a_balanced_effort_is_what_is_done_without_any():
    assert list(EFFORTS) == ["fast", "balanced", "thorough"]
    assert EFFORTS["balanced"] == InferenceSettings() == Segmenter(plain()).settings


def test_the_table_of_efforts_cannot_be_changed():
    with pytest.raises(TypeError):
        EFFORTS["fast"] = InferenceSettings()


def test_a_network_without_deep_supervision_also_has_less_to_do_when_fast_and_more_when_thorough():
    fast, balanced, thorough = map(pixels_seen, ("fast", "balanced", "thorough"))
    assert fast < 0.7 * balanced < 0.7 * thorough / 2


def test_an_effort_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(SpecError, match=r"fast, balanced, thorough, got 'quick'"):
        Segmenter(plain(), effort="quick")


@pytest.mark.parametrize(
    ("wish", "text"), [({"early_exit": 1}, "deep supervision"), ({"cascade": True}, "first stage")]
)
def test_what_no_network_can_do_is_refused_when_asked_for(wish, text):
    with pytest.raises(SpecError, match=text):
        Segmenter(plain(), settings=InferenceSettings(**wish))


def test_what_no_network_can_do_is_left_out_of_an_effort_and_told(tmp_path):
    settings = InferenceSettings(early_exit=1, cascade=True)
    result = predict(Segmenter(plain(), settings=settings, effort="fast"), out=tmp_path / "slide")
    info = json.loads((tmp_path / "slide" / "result.json").read_text())
    cascade, early_exit = info["left_out"]
    assert "first stage" in cascade and early_exit.startswith("darkness:") and info["effort"] == "fast"
    np.testing.assert_array_equal(result.heatmap.array(), predict(Segmenter(plain())).heatmap.array())


@pytest.mark.parametrize("effort", [None, *EFFORTS])
def test_the_record_names_the_effort_and_the_settings_that_it_stands_for(effort):
    info = predict(Segmenter(plain(), effort=effort)).info
    settings = EFFORTS[effort or "balanced"]
    assert info["effort"] == effort
    assert {name: info["settings"][name] for name in ("overlap", "early_exit", "cascade")} == {
        "overlap": settings.overlap,
        "early_exit": settings.early_exit,
        "cascade": settings.cascade,
    }
    assert info["settings"]["augmentations"] == settings.augmentations
    assert len(info["left_out"]) == (settings.early_exit is not None)


def test_a_network_with_deep_supervision_is_left_early_when_fast_and_the_record_says_where():
    fast, balanced = (Segmenter("colon-lesion-ds", effort=effort).networks for effort in ("fast", "balanced"))
    assert fast.left_out == () and fast.early_exit == EFFORTS["fast"].early_exit
    [member] = fast.describe()["members"]
    assert member.get("early_exit") == EFFORTS["fast"].early_exit
    assert "early_exit" not in balanced.describe()["members"][0]


def test_of_several_networks_those_are_left_early_that_can_be_and_the_others_are_named():
    networks = Segmenter(["colon-lesion-ds", plain()], settings=InferenceSettings(early_exit=0), effort="fast").networks
    [told] = networks.left_out
    assert told.startswith("darkness:") and networks.early_exit == 0


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_cascade_runs_its_first_stage_unless_the_effort_says_otherwise(effort):
    networks = Segmenter(Cascade("colon-patch-classifier", "colon-lesion-light"), effort=effort).networks
    assert bool(networks.first) == (EFFORTS[effort].cascade is not False)


def test_a_supervised_network_that_ends_before_the_block_has_no_exit_there():
    bundle = Bundle.__new__(Bundle)
    bundle.spec = ModelSpec(architecture="bcc-resnet34-ds", mpp=1.0, patch=64, output_stride=8)
    bundle.folder, bundle._model, bundle._whole = Path("ends-early"), None, None
    told = Networks.of(bundle, weights=None, settings=EFFORTS["fast"], lenient=True).left_out
    assert len(told) == 1 and "block 2" in told[0] and "ends-early" in told[0]
    with pytest.raises(SpecError, match="blocks 0 to 4"):
        Networks.of(bundle, weights=None, settings=EFFORTS["fast"], lenient=False)
