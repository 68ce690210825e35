import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from digipath.analysis.features import FEATURES
from digipath.analysis.forest import Forest
from digipath.analysis.metastasis import MetastasisClassifier
from digipath.errors import ResultError, SpecError

CLASSES = ("negative", "itc", "micro", "macro")


def slides(counts=(12, 12, 12, 12), *, seed=0):
    """Rows of features of slides of each class, further from 0 the graver the class."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(4), counts)
    return 10.0 * codes[:, None] + rng.normal(0, 1, (len(codes), len(FEATURES))) + 1, np.array(CLASSES)[codes]


def classifier(**settings):
    return MetastasisClassifier(**{"heatmap_mpp": 8.0, "n_estimators": 10} | settings)


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(*slides())


def test_slides_like_those_of_a_class_are_of_that_class(fitted):
    rows, classes = slides(seed=1)
    assert fitted.predict(rows).tolist() == classes.tolist()
    assert fitted.classes_.tolist() == list(CLASSES)
    assert fitted.score(rows, classes) == 1
    shares = fitted.predict_proba(rows)
    assert shares.shape == (48, 4)
    np.testing.assert_allclose(shares.sum(1), 1)


def test_it_keeps_the_conventions_of_scikit_learn(fitted):
    rows, classes = slides()
    assert fitted.get_params() == {"heatmap_mpp": 8.0, "n_estimators": 10, "members": 4, "seed": 0}
    copy = clone(fitted).set_params(n_estimators=3)
    with pytest.raises(NotFittedError):
        copy.predict(rows)
    assert copy.fit(rows, classes) is copy
    assert (copy.n_features_in_, copy.forest_.roots.shape) == (32, (4, 3))
    guesses = cross_val_predict(make_pipeline(FunctionTransformer(), copy), rows, classes, cv=3)
    assert np.mean(guesses == classes) > 0.9


def test_the_same_seed_gives_the_same_forests_and_another_one_others(fitted):
    rows, classes = slides()
    again, other = classifier().fit(rows, classes), classifier(seed=1).fit(rows, classes)
    for name, array in fitted.forest_.arrays().items():
        np.testing.assert_array_equal(array, again.forest_.arrays()[name])
    assert fitted.forest_.threshold.tolist() != other.forest_.threshold.tolist()


def test_trees_as_arrays_answer_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(60, 32)), rng.integers(0, 3, 60)
    grown = [RandomForestClassifier(7, random_state=seed).fit(rows, codes) for seed in range(2)]
    asked = rng.normal(size=(40, 32))
    found = Forest.of(grown, 3).probabilities(asked)
    for member, forest in zip(found, grown, strict=True):
        np.testing.assert_allclose(member, forest.predict_proba(asked), atol=1e-6)
    # a class that a forest has not met has no share
    lacking = RandomForestClassifier(3, random_state=0).fit(rows[codes < 2], 2 * codes[codes < 2])
    assert (Forest.of([lacking], 3).probabilities(asked)[..., 1] == 0).all()


def voting(votes):
    """A classifier whose members vote so, whatever they are asked: each is one tree that is one leaf."""
    made = classifier(members=len(votes), n_estimators=1).fit(*slides())
    count = len(votes)
    leaf, zero = np.full(count, -1, np.int32), np.zeros(count)
    share = np.eye(4, dtype=np.float32)[[CLASSES.index(vote) for vote in votes]]
    made.forest_ = Forest(leaf.astype(np.int16), zero, leaf, leaf, share, np.arange(count, dtype=np.int32)[:, None])
    return made


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (["itc", "itc", "macro", "negative"], "itc"),
        (["negative", "negative", "micro", "micro"], "micro"),
        (["negative", "itc", "micro", "macro"], "macro"),
        (["macro", "negative", "negative", "negative"], "negative"),
    ],
)
def test_the_majority_decides_and_of_equally_many_votes_the_gravest(votes, expected):
    assert voting(votes).predict(np.ones((2, 32))).tolist() == [expected] * 2


@pytest.mark.parametrize("counts", [(20, 3, 12, 6), (9, 0, 0, 1), (1, 1, 1, 1), (5, 4, 5, 2), (0, 30, 7, 0)])
def test_a_class_of_too_few_slides_is_repeated_and_named(counts):
    rows, classes = slides(counts)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted = classifier().fit(rows, classes)
    few = [name for name, count in zip(CLASSES, counts, strict=True) if 0 < count < 6]
    assert [str(one.message).split("'")[1] for one in told] == few
    assert fitted.counts_ == {name: count for name, count in zip(CLASSES, counts, strict=True) if count}
    if min(count for count in counts if count) > 1:
        assert fitted.score(rows, classes) > 0.9


def test_positive_slides_without_a_region_are_left_out_and_negative_ones_are_not():
    rows, classes = slides((8, 8, 8, 8))
    rows[:12] = 0  # all of the negative ones, and 4 of isolated cells
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted = classifier().fit(rows, classes)
    assert "4 slides of a positive class have no region" in str(told[0].message)
    assert fitted.left_out_ == 4
    assert fitted.counts_ == {"negative": 8, "itc": 4, "micro": 8, "macro": 8}
    assert fitted.predict(np.zeros((1, 32))).tolist() == ["negative"]


def test_another_resolution_is_refused_and_the_same_one_is_not(fitted):
    rows, _ = slides()
    assert len(fitted.predict(rows, heatmap_mpp=8.05)) == len(rows)
    for ask in (fitted.predict, fitted.predict_proba):
        with pytest.raises(SpecError, match=r"learnt from heatmaps of 8 µm per pixel, got features of 4"):
            ask(rows, heatmap_mpp=4.0)


@pytest.mark.parametrize(
    ("settings", "rows", "classes", "said"),
    [
        ({"heatmap_mpp": None}, *slides(), "heatmap.frame.mpp"),
        ({"members": 0}, *slides(), "members is a whole number"),
        ({}, slides()[0][:, :31], slides()[1], "rows of 32"),
        ({}, slides()[0], slides()[1][1:], "48 rows and 47 classes"),
        ({}, np.full((48, 32), np.nan), slides()[1], "finite"),
        ({}, slides()[0], ["pN1"] * 48, "one of negative, itc, micro, macro, got 'pN1'"),
        ({}, slides()[0], ["micro"] * 48, "at least 2 classes"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, rows, classes, said):
    with pytest.raises(SpecError, match=said):
        classifier(**settings).fit(rows, classes)


def test_a_saved_classifier_comes_back_and_answers_the_same(fitted, tmp_path):
    path = fitted.save(tmp_path / "stage.safetensors")
    back = MetastasisClassifier.load(path)
    rows = slides(seed=2)[0]
    np.testing.assert_array_equal(back.predict_proba(rows), fitted.predict_proba(rows))
    assert back.predict(rows).tolist() == fitted.predict(rows).tolist()
    assert back.get_params() == fitted.get_params()
    assert (back.counts_, back.left_out_, back.n_features_in_) == (fitted.counts_, 0, 32)
    assert [one.name for one in tmp_path.iterdir()] == ["stage.safetensors"]
    with pytest.raises(SpecError, match="8 µm per pixel"):
        back.predict(rows, heatmap_mpp=16.0)


def rewritten(path, *, change=None, told=None):
    """The saved file with other arrays, or another description."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as stored:
        description = json.loads(stored.metadata()["digipath"])
    arrays = load_file(path)
    if change:
        change(arrays)
    text = told(description) if told else json.dumps(description)
    save_file(arrays, path, metadata={"digipath": text})
    return path


def loop(arrays):
    inner = np.flatnonzero(arrays["left"] >= 0)[1]
    arrays["left"][inner] = 0


def beyond(arrays):
    arrays["right"][np.flatnonzero(arrays["left"] >= 0)[0]] = 2**30


def of_another_feature(arrays):
    arrays["feature"][np.flatnonzero(arrays["left"] >= 0)[0]] = 32


def without_scale(arrays):
    del arrays["scale"]


def halved(arrays):
    arrays["share"] = arrays["share"] / 2


def wide(arrays):
    arrays["threshold"] = arrays["threshold"].astype(np.float32)


def endless(arrays):
    depth = 5000
    nodes = 2 * depth + 1
    arrays["left"], arrays["right"] = np.full(nodes, -1, np.int32), np.full(nodes, -1, np.int32)
    inner = np.arange(0, 2 * depth, 2)
    arrays["left"][inner], arrays["right"][inner] = inner + 1, inner + 2
    arrays["feature"] = np.where(arrays["left"] >= 0, 0, -1).astype(np.int16)
    arrays["threshold"], arrays["share"] = np.zeros(nodes), np.tile(np.float32([1, 0, 0, 0]), (nodes, 1))
    arrays["roots"] = np.zeros((1, 1), np.int32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (loop, "behind its one parent"),
        (beyond, "behind its one parent"),
        (of_another_feature, "one of 32 features"),
        (without_scale, "a mean and a scale"),
        (halved, "add up to 1"),
        (wide, r"threshold \(float64\)"),
        (endless, "deeper"),
        (lambda arrays: arrays.update(roots=arrays["roots"][:3].copy()), "trees"),
        (lambda arrays: arrays.update(code=np.zeros(3)), "arrays are"),
    ],
)
def test_trees_that_could_lead_astray_are_refused(fitted, tmp_path, change, said):
    path = rewritten(fitted.save(tmp_path / "stage.safetensors"), change=change)
    with pytest.raises(ResultError, match=said):
        MetastasisClassifier.load(path)


@pytest.mark.parametrize(
    "told",
    [
        lambda told: json.dumps(told | {"format": "other"}),
        lambda told: json.dumps(told | {"version": 2}),
        lambda told: json.dumps(told | {"features": told["features"][::-1]}),
        lambda told: json.dumps(told | {"classes": ["macro", "negative", "itc", "micro"]}),
        lambda told: json.dumps(told | {"settings": {"n_estimators": 10**12, "members": 4, "seed": 0}}),
        lambda told: json.dumps(told | {"settings": []}),
        lambda told: json.dumps(told | {"heatmap_mpp": "8"}),
        lambda told: json.dumps(told | {"counts": None}),
        lambda told: "[" * 100_000,
        lambda told: "null",
    ],
)
def test_descriptions_of_something_else_are_refused(fitted, tmp_path, told):
    path = rewritten(fitted.save(tmp_path / "stage.safetensors"), told=told)
    with pytest.raises(ResultError):
        MetastasisClassifier.load(path)


@settings(max_examples=25)
@given(st.data())
def test_a_damaged_file_is_refused_or_answers_in_numbers(fitted, tmp_path_factory, data):
    path = fitted.save(tmp_path_factory.mktemp("saved") / "stage.safetensors")
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    try:
        found = MetastasisClassifier.load(path).predict_proba(np.ones((2, 32)))
    except ResultError:
        return
    assert np.isfinite(found).all()


def test_no_file_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ResultError, match="no such file"):
        MetastasisClassifier.load(tmp_path / "none.safetensors")
