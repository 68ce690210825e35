"""The published rules: every boundary, every way of five nodes, and the organisers' own patients."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath.analysis.staging import (
    SLIDE_CLASSES,
    PatientStage,
    patient_stage,
    slide_class_by_rule,
    stage_patients,
    submission_rows,
)
from digipath.errors import ResultError, SpecError
from digipath.evaluation.agreement import STAGES, quadratic_kappa
from digipath.io.stages import read_stages

EVERY = list(itertools.combinations_with_replacement(SLIDE_CLASSES, 5))
FIVE = {f"patient_007_node_{node}.tif": "negative" for node in range(5)}


def test_stages_of_the_organisers_patients_follow_from_their_slides(data):
    truth = read_stages(data / "annotations/camelyon17/stage_labels_first50.csv")
    patients = {name: stage for name, stage in truth.items() if name.endswith(".zip")}
    assert len(patients) == 50 and set(patients.values()) == set(STAGES)
    slides = {name: text for name, text in truth.items() if name not in patients}
    rows = submission_rows(stage_patients(slides))
    assert list(rows.items()) == list(truth.items())
    assert quadratic_kappa(truth, rows) == 1


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, "negative"),
        (1e-6, "itc"),
        (200, "itc"),
        (math.nextafter(200, 300), "micro"),
        (2000, "micro"),
        (math.nextafter(2000, 3000), "macro"),
        (math.inf, "macro"),
    ],
)
def test_a_class_includes_its_upper_end(axis, expected):
    assert slide_class_by_rule(axis) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, "pN0"),
        ({"itc": 1}, "pN0(i+)"),
        ({"itc": 5}, "pN0(i+)"),
        ({"micro": 1}, "pN1mi"),
        ({"micro": 1, "itc": 4}, "pN1mi"),
        ({"micro": 5}, "pN1mi"),
        ({"macro": 1}, "pN1"),
        ({"macro": 1, "micro": 2, "itc": 2}, "pN1"),
        ({"macro": 3, "itc": 2}, "pN1"),
        ({"macro": 1, "micro": 3}, "pN2"),
        ({"macro": 4}, "pN2"),
        ({"macro": 5}, "pN2"),
    ],
)
def test_stages_by_hand(counts, expected):
    classes = [name for name, count in counts.items() for _ in range(count)]
    assert patient_stage(classes + ["negative"] * (5 - len(classes))) == expected


@given(st.sampled_from(EVERY), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(classes, random):
    shuffled = random.sample(classes, 5)
    assert patient_stage(shuffled) == patient_stage(classes)


@given(st.sampled_from(EVERY), st.integers(0, 4))
def test_a_graver_node_never_gives_a_lower_stage(classes, node):
    graver = list(classes)
    graver[node] = SLIDE_CLASSES[min(3, SLIDE_CLASSES.index(graver[node]) + 1)]
    assert STAGES.index(patient_stage(graver)) >= STAGES.index(patient_stage(classes))


def test_names_may_have_folders_and_other_endings_or_none():
    names = (
        "a/patient_012_node_0.tif",
        "Patient_012_node_1.svs",
        "patient_012_node_2",
        r"b\patient_012_node_3.ome.tif",
    )
    classes = dict.fromkeys((*names, "patient_012_node_4"), "Micro")
    assert stage_patients(classes) == [PatientStage("patient_012", "pN1mi", ("micro",) * 5)]


def test_all_missing_nodes_are_named():
    classes = FIVE | {"patient_003_node_1.tif": "itc", "patient_003_node_2.tif": "itc"}
    del classes["patient_007_node_4.tif"]
    with pytest.raises(
        ResultError, match=r"missing are 4: patient_003_node_0, patient_003_node_3, .*, patient_007_node_4"
    ):
        stage_patients(classes)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"patient_007_node_5.tif": "itc"}, "N from 0 to 4, got 'patient_007_node_5.tif'"),
        ({"tumor_001.tif": "macro", "x": "itc"}, "got 'tumor_001.tif', 'x'"),
        ({"patient_007_node_4.tif": "pN0"}, "patient_007_node_4.tif: 'pN0'"),
        ({"patient_007_node_4": "macro"}, "again came patient_007_node_4"),
    ],
)
def test_strange_slides_are_named(more, match):
    with pytest.raises(ResultError, match=match):
        stage_patients(FIVE | more)


def test_another_number_of_nodes_and_other_nonsense_are_refused():
    with pytest.raises(SpecError, match="5 nodes"):
        patient_stage(["negative"] * 4)
    with pytest.raises(SpecError, match="'tumour'"):
        patient_stage(["tumour"] * 5)
    for axis in (-1, math.nan):
        with pytest.raises(SpecError, match="largest_axis_um"):
            slide_class_by_rule(axis)
    with pytest.raises(SpecError, match="stage is one of"):
        PatientStage("patient_000", "pN3", ("macro",) * 5)
    with pytest.raises(ResultError, match="no slide"):
        stage_patients({})
