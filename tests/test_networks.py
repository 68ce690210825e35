import json
from dataclasses import replace

import numpy as np
import pytest

from digipath import Cascade, InferenceSettings, Segmenter
from digipath.errors import ResultError, SpecError
from digipath.inference.predictor import FunctionPredictor
from digipath.models.spec import ModelSpec
from digipath.segmenter import discard
from digipath.slides.array import ArraySlide

rng = np.random.default_rng(5)


def redness(name="redness", **changes):
    spec = ModelSpec(**({"architecture": name, "mpp": 1.0, "patch": 64} | changes))
    cut = (slice(None), slice(spec.margin, spec.patch - spec.margin), slice(spec.margin, spec.patch - spec.margin), 0)

    def values(patches):
        red = patches[..., 0] / 255 if spec.kind == "segmenter" else patches[cut].mean((1, 2))[:, None, None] / 255
        return np.stack([1 - red, red], -1).astype(np.float32)

    return FunctionPredictor(values, spec)


CLASSIFIER = redness("classifier", kind="classifier", margin=16)


@pytest.fixture(scope="module")
def image():
    image = np.full((320, 448, 3), 30, np.uint8)
    image[100:180, 200:330] = 220
    image[..., 1] = rng.integers(0, 60, image.shape[:2])
    return image


def everywhere(slide):
    return np.ones(slide.frame.shape, bool)


def predict(segmenter, slide, **further):
    return segmenter.predict(slide, mpp=1.0, tissue=everywhere, progress=False, **further)


def test_a_slide_can_be_prepared_before_it_is_predicted(image):
    segmenter = Segmenter(redness())
    slide = ArraySlide(image, mpp=1.0)
    with segmenter.prepare(slide, tissue=everywhere) as prepared:
        assert prepared.patches == len(segmenter.plan(slide, tissue=everywhere)[0].boxes)
    prepared = segmenter.prepare(slide, tissue=everywhere)
    one, other = segmenter.predict(prepared, progress=False), predict(segmenter, image)
    np.testing.assert_array_equal(one.heatmap.array(), other.heatmap.array())
    for wrong in (
        lambda: segmenter.predict(segmenter.prepare(slide, tissue=everywhere), mpp=1.0),
        lambda: Segmenter(redness()).predict(segmenter.prepare(slide, tissue=everywhere)),
    ):
        with pytest.raises(SpecError, match="prepared"):
            wrong()


def test_an_ensemble_of_cascades_runs_their_first_stage_once(image):
    calls = []
    first = FunctionPredictor(
        lambda patches: calls.append(len(patches)) or CLASSIFIER.function(patches), CLASSIFIER.spec
    )
    two = [redness("a"), redness("b", output_stride=1)]
    once = predict(Segmenter(Cascade(first, two)), image)
    number = sum(calls)
    calls.clear()
    shared = predict(Segmenter([Cascade(first, one) for one in two]), image)
    assert sum(calls) == number > 0
    np.testing.assert_array_equal(once.heatmap.array(), shared.heatmap.array())
    stages = [(one["stage"], one["networks"]) for one in shared.info["passes"]]
    assert stages == [("first", ["classifier"]), ("second", ["a", "b"])]
    assert shared.info["passes"][1]["predicted"] < len(
        Segmenter(redness()).plan(image, mpp=1.0, tissue=everywhere)[0].boxes
    )


def test_a_cascade_can_be_left_out_and_must_be_there_when_it_is_asked_for(image):
    alone, cascade = Segmenter(redness()), Cascade(CLASSIFIER, redness())
    without = Segmenter(cascade, settings=InferenceSettings(cascade=False))
    np.testing.assert_array_equal(predict(alone, image).heatmap.array(), predict(without, image).heatmap.array())
    with pytest.raises(SpecError, match=r"Cascade\(first, second\)"):
        Segmenter(redness(), settings=InferenceSettings(cascade=True))
    with pytest.raises(SpecError, match="share their first stage"):
        Segmenter([cascade, Cascade(redness("other", kind="classifier"), redness())])
    with pytest.raises(SpecError, match="cascades alone, or of none"):
        Segmenter([cascade, redness()])


def test_weights_that_are_not_the_members_are_refused_at_once():
    with pytest.raises(SpecError, match="one for each of 2"):
        Segmenter([redness("a"), redness("b")], weights=[1, 2, 3])


def test_several_networks_and_their_uncertainty_are_in_the_record_and_in_the_folder(image, tmp_path):
    settings = InferenceSettings(augmentations="all", uncertainty=True, heatmap_mpp=2.0)
    segmenter = Segmenter([redness("a"), redness("b", mpp=0.5)], settings=settings, weights=[3, 1])
    kept, streamed = predict(segmenter, image), predict(segmenter, image, out=tmp_path / "out")
    for name in ("heatmap", "uncertainty", "covered"):
        np.testing.assert_array_equal(getattr(kept, name).array(), getattr(streamed, name).array())
    info = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [one["weight"] for one in info["bundle"]["members"]] == [3.0, 1.0] and len(info["passes"]) == 2
    assert kept.uncertainty.channels == ("aleatoric", "epistemic") and info["areas"]["uncertain_mm2"] >= 0
    assert (tmp_path / "out" / "aleatoric.tif").exists() and not (tmp_path / "out" / ".journal").exists()


def test_an_interrupted_prediction_goes_on_or_is_discarded(image, tmp_path):
    def stop(state):
        if state.done > 40:
            raise KeyboardInterrupt

    settings = InferenceSettings(batch=4)
    model = redness()
    with pytest.raises(KeyboardInterrupt):
        Segmenter(model, settings=settings).predict(
            image, mpp=1.0, tissue=everywhere, out=tmp_path / "out", progress=stop
        )
    assert (tmp_path / "out" / ".journal").exists() and not (tmp_path / "out" / "result.json").exists()
    other = replace(settings, overlap=0.25)
    with pytest.raises(ResultError, match="overlap"):
        predict(Segmenter(model, settings=other), image, out=tmp_path / "out")
    resumed = predict(Segmenter(model, settings=replace(settings, threshold=0.3)), image, out=tmp_path / "out")
    assert (
        resumed.info["resumed"] == 1 and resumed.info["passes"][0]["predicted"] == resumed.info["passes"][0]["planned"]
    )
    whole = predict(Segmenter(model, settings=settings), image)
    np.testing.assert_array_equal(resumed.heatmap.array(), whole.heatmap.array())
    discard(tmp_path / "out")
    assert (tmp_path / "out" / "result.json").exists()


def test_functions_of_another_process_or_object_are_not_gone_on_with(image, tmp_path):
    def stop(state):
        if state.done > 40:
            raise KeyboardInterrupt

    settings = InferenceSettings(batch=4)
    with pytest.raises(KeyboardInterrupt):
        Segmenter(redness(), settings=settings).predict(
            image, mpp=1.0, tissue=everywhere, out=tmp_path / "out", progress=stop
        )
    with pytest.warns(UserWarning, match="no Bundle"):
        result = predict(Segmenter(redness(), settings=settings), image, out=tmp_path / "out")
    assert result.info["resumed"] == 0
