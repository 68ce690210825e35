import pytest
from sklearn.metrics import cohen_kappa_score

from digipath.errors import ResultError
from digipath.evaluation.agreement import STAGES, quadratic_kappa
from digipath.io.stages import read_stages
from digipath.protocols import camelyon17

TRUTH = (
    "patient,stage\npatient_1.zip,pN0\npatient_1_node_0.tif,negative\npatient_2.zip,pN1\npatient_3.zip,pN2\n"
    "patient_4.zip,pN0(i+)\n"
)


def test_kappa_is_the_one_worked_by_hand(truth, predictions, put, quick):
    put.table(truth / "t.csv", TRUTH)
    put.table(predictions / "p.csv", "patient,stage\npatient_1.zip,pn0\npatient_2.zip,pN1\npatient_3.zip,pN1\n"
              "patient_4.zip,pN0\npatient_9.zip,pN0\n")  # fmt: skip
    report = camelyon17(truth / "t.csv", predictions, settings=quick())
    # Places 0 3 4 1 against 0 3 3 0: observed 1 + 1; by chance, over 4, the squares of all pairs of places.
    chance = sum((a - b) ** 2 for a in (0, 3, 4, 1) for b in (0, 3, 3, 0)) / 4
    assert report["kappa"] == pytest.approx(1 - 2 / chance)
    places = [0, 3, 4, 1], [0, 3, 3, 0]
    assert report["kappa"] == pytest.approx(cohen_kappa_score(*places, labels=range(5), weights="quadratic"))
    assert report["kappa"] == quadratic_kappa(read_stages(truth / "t.csv"), read_stages(predictions / "p.csv"))
    assert report["accuracy"] == 0.5
    assert report.notes == ("1 patients are not in the truth and do not count: patient_9.zip.",)
    assert report.drawings["confusion"].labels == STAGES
    assert report.drawings["confusion"].matrix[4] == (0, 0, 0, 1, 0)
    assert report.cases[3] == {"patient": "patient_4.zip", "truth": "pN0(i+)", "predicted": "pN0"}


def test_a_missing_patient_is_an_error(truth, predictions, put, quick):
    put.table(truth / "t.csv", TRUTH)
    put.table(predictions / "p.csv", "patient_1.zip,pN0\npatient_2.zip,pN1\n")
    with pytest.raises(ResultError, match=r"missing are 2: patient_3.zip, patient_4.zip"):
        camelyon17(truth, predictions, settings=quick())


def test_a_folder_holds_one_table(truth, predictions, quick):
    with pytest.raises(ResultError, match="one CSV file of patients"):
        camelyon17(truth, predictions, settings=quick())
