import numpy as np
import pytest

from digipath.errors import ResolutionError, SpecError
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster
from digipath.inference.plan import common_heatmap_mpp, plan
from digipath.inference.predictor import FunctionPredictor
from digipath.inference.settings import InferenceSettings
from digipath.models.spec import ModelSpec


def make(slide_mpp=0.25, multiple=1, settings=None, **changes):
    frame = Frame.level0(8000, 6000, slide_mpp)
    spec = ModelSpec(**({"architecture": "f", "classes": ("other", "lesion"), "mpp": 0.5, "patch": 256} | changes))
    tissue = Raster(np.ones(frame.coarser(64).shape, bool), frame.coarser(64))
    predictor = FunctionPredictor(lambda patches: patches, spec, multiple=multiple)
    return plan(frame, predictor, tissue, settings=settings or InferenceSettings())


@pytest.mark.parametrize(
    ("mpp", "stride", "expected"),
    [(0.25, 1, 2.0), (0.25, 8, 2.0), (0.5, 1, 2.0), (0.5, 8, 4.0), (1.1, 1, 2.2), (1.1, 2, 2.2), (0.4, 1, 2.0)],
)
def test_the_heatmap_takes_the_multiple_nearest_to_two_micrometres_and_never_finer(mpp, stride, expected):
    planned = make(mpp=mpp, output_stride=stride, patch=320)
    assert planned.heatmap_frame.mpp == pytest.approx(expected)


def test_patch_and_stride_are_multiples_of_heatmap_pixels():
    planned = make(settings=InferenceSettings(overlap=0.3, heatmap_mpp=4.0))
    assert planned.unit == 8 and planned.grid.patch == (256, 256) and planned.grid.stride == (176, 176)


def test_a_bundle_patch_that_does_not_fit_is_rounded_up_and_a_wanted_one_refused():
    assert make(patch=250, multiple=32).grid.patch == (256, 256)
    with pytest.raises(SpecError, match="Use 224 or 256"):
        make(multiple=32, settings=InferenceSettings(patch=250))


@pytest.mark.parametrize("wanted", [0.3, 0.9, 2.2])
def test_a_heatmap_that_is_no_multiple_is_refused_with_the_nearest(wanted):
    with pytest.raises(SpecError, match="whole multiple"):
        make(settings=InferenceSettings(heatmap_mpp=wanted))


def test_margins_that_do_not_fit_the_heatmap_enlarge_the_patch_or_are_refused_with_one_that_does():
    assert make(margin=3).grid.patch == (258, 258)
    with pytest.raises(SpecError, match=r"Give heatmap_mpp=3 or 3\.5"):
        make(margin=3, multiple=32)
    assert make(margin=3, multiple=32, settings=InferenceSettings(heatmap_mpp=1.5)).unit == 3


def test_several_networks_share_the_common_multiple_nearest_to_two_micrometres():
    specs = {
        "a": ModelSpec(architecture="a", mpp=0.5, patch=64, output_stride=2),
        "b": ModelSpec(architecture="b", mpp=0.25, patch=64),
    }
    assert common_heatmap_mpp(specs, None) == 2.0 and common_heatmap_mpp(specs, 3.0) == 3.0
    with pytest.raises(SpecError, match="the 1 of a"):
        common_heatmap_mpp(specs, 1.5)
    odd = ModelSpec(architecture="c", mpp=0.2431, patch=64)
    with pytest.raises(SpecError, match="Leave out"):
        common_heatmap_mpp(specs | {"c": odd}, None)
    exits = [ModelSpec(architecture="exit", mpp=1.1, patch=side, output_stride=16) for side in (224, 256)]
    assert common_heatmap_mpp({"a": exits[0], "b": exits[1]}, None) == 17.6  # no coarser than each of them alone


def test_enlarging_more_than_twice_is_refused():
    assert make(slide_mpp=1.0).frame.mpp == 0.5
    with pytest.raises(ResolutionError, match="finer scan"):
        make(slide_mpp=1.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap": 50},
        {"overlap": 1.0},
        {"patch": 0},
        {"batch": -1},
        {"threads": 0},
        {"heatmap_mpp": 0.0},
        {"heatmap_mpp": float("nan")},
        {"window": "square"},
        {"threshold": 50},
        {"max_unread": -0.1},
    ],
)
def test_nonsense_is_refused_at_birth(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        InferenceSettings(**wrong)
