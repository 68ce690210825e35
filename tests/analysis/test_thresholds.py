import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath.analysis.sections import SectionTumour
from digipath.analysis.thresholds import (
    AREAS_UM2,
    PREDICTIONS,
    PRESETS,
    SectionExample,
    SectionThresholds,
    compare,
    fit_thresholds,
    section_examples,
    select_model,
)
from digipath.errors import SpecError
from digipath.evaluation.sections import section_scores

FEW, AREAS = (0.2, 0.5, 0.8), (0.0, 1000.0, 2000.0, 5000.0)


@st.composite
def examples(draw, least=2, most=8):
    areas = st.lists(st.sampled_from([0, 500, 1000, 2000, 3000, 9000]), min_size=3, max_size=3)
    sections = [
        SectionExample(draw(st.booleans()), FEW, sorted(draw(areas), reverse=True))
        for _ in range(draw(st.integers(least, most)))
    ]
    return [SectionExample(True, FEW, [9000, 500, 0]), SectionExample(False, FEW, [0, 0, 0]), *sections]


def said(sections, thresholds):
    return [thresholds.met_by(section.at(thresholds.prediction)) for section in sections]


@settings(max_examples=30, deadline=None)
@given(examples())
def test_the_grid_is_what_judging_every_section_at_every_pair_gives(sections):
    fit = fit_thresholds(sections, areas=AREAS)
    truth = [section.tumour for section in sections]
    for row, prediction in enumerate(FEW):
        for column, area in enumerate(AREAS):
            scores = section_scores(truth, said(sections, SectionThresholds(prediction, area)))
            assert fit.grid[row, column] == pytest.approx(scores.f_beta)
    assert fit.scores.f_beta == pytest.approx(fit.grid.max())


@settings(max_examples=30, deadline=None)
@given(examples(), st.randoms())
def test_the_order_of_sections_changes_nothing(sections, random):
    shuffled = random.sample(sections, len(sections))
    assert fit_thresholds(shuffled, areas=AREAS).best == fit_thresholds(sections, areas=AREAS).best


@settings(max_examples=30, deadline=None)
@given(examples())
def test_higher_thresholds_never_find_more_sections(sections):
    found = np.array([[sum(said(sections, SectionThresholds(p, a))) for a in AREAS] for p in FEW])
    assert (np.diff(found, axis=0) <= 0).all()
    assert (np.diff(found, axis=1) <= 0).all()


def separable():
    """Tumour sections of 10,000 um2 or more up to 0.8; normal ones of less than 4,000, and that up to 0.4."""
    predictions = np.array(PREDICTIONS)
    tumour = [SectionExample(True, predictions, 10_000.0 * (predictions < 0.8) * size) for size in (1, 2, 5)]
    normal = [SectionExample(False, predictions, 3900.0 * (predictions < 0.4) * size) for size in (0, 0.5, 1)]
    return tumour + normal


def test_of_equal_pairs_the_one_furthest_from_any_lower_score_is_taken():
    fit = fit_thresholds(separable())
    assert fit.scores.f_beta == 1
    perfect = fit.grid == 1
    # Up to 8,960 um2 are perfect from 0.40 to 0.75, and from 5,120 um2 on below that too; the middle is of 2 x 2 cells.
    assert perfect[7:15, :8].all()
    assert perfect[0, 4:8].all()
    assert not perfect[:, 8:].any()
    assert not perfect[15:].any()
    assert (fit.best.prediction, fit.best.area_um2) == (0.55, 3840.0)


def test_an_area_threshold_of_0_asks_for_some_tumour_and_a_region_of_just_the_threshold_stays():
    assert not SectionThresholds(0.5, 0).met_by(0)
    assert SectionThresholds(0.5, 0).met_by(0.1)
    assert SectionThresholds(0.5, 1280).met_by(1280)
    assert not SectionThresholds(0.5, 1280).met_by(1279)


def test_the_published_optima_are_on_the_default_grid():
    assert len(PRESETS) == 4
    for thresholds in PRESETS.values():
        assert thresholds.prediction in PREDICTIONS
        assert thresholds.area_um2 in AREAS_UM2


def test_network_and_thresholds_are_chosen_together_and_the_more_accurate_of_equals():
    good = separable()
    bad = [SectionExample(one.tumour, one.predictions, one.areas_um2 * 0 + 5000) for one in good]
    chosen = select_model({"epoch 3": bad, "epoch 5": good, "epoch 9": good})
    assert chosen.name == "epoch 5"
    assert chosen.fit.best == fit_thresholds(good).best
    assert set(chosen.fits) == {"epoch 3", "epoch 5", "epoch 9"}
    with pytest.raises(SpecError, match="same sections"):
        select_model({"epoch 3": good, "epoch 5": good[::-1]})
    with pytest.raises(SpecError, match="no network"):
        select_model({})


def test_blocks_of_a_decoder_are_compared_at_the_same_thresholds():
    good = separable()
    coarse = [SectionExample(one.tumour, one.predictions, one.areas_um2 * 0.5) for one in good]
    rows = compare({"psi_0": coarse, "psi_4": good}, PRESETS["bcc-resnet34-ds"])
    assert [row["name"] for row in rows] == ["psi_0", "psi_4"]
    assert [(row["accuracy"], row["fn"], row["fp"]) for row in rows] == [(pytest.approx(5 / 6), 1, 0), (1, 0, 0)]


def test_examples_hold_the_largest_regions_of_a_slides_sections():
    found = SectionTumour(1, np.array(FEW), np.array([900.0, 500, 0]), np.array([600.0, 500, 0]))
    example = section_examples([found], [True])[0]
    assert example.tumour
    assert example.at(0.2) == 600
    with pytest.raises(SpecError, match="its truth"):
        section_examples([found], [])
    with pytest.raises(SpecError, match=r"known above 0[.]2, 0[.]5, 0[.]8"):
        example.at(0.3)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SpecError, match="never do"):
        SectionExample(True, FEW, [1, 2, 3])
    with pytest.raises(SpecError, match="with tumour and sections without"):
        fit_thresholds([SectionExample(True, FEW, [3, 2, 1])])
    with pytest.raises(SpecError, match="rising"):
        fit_thresholds(separable(), areas=[2, 1])
    for prediction, area in ((1.5, 0), (0.5, -1), (0.5, np.nan)):
        with pytest.raises(SpecError, match="thresholds are"):
            SectionThresholds(prediction, area)
