import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from digipath.errors import SpecError
from digipath.evaluation.sections import section_scores

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=25)
@given(pairs)
def test_scores_are_those_of_scikit_learn_where_these_are_defined(sections):
    truth, said = map(list, zip(*sections, strict=True))
    scores = section_scores(truth, said)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    if any(truth):
        assert scores.sensitivity == pytest.approx(metrics.recall_score(truth, said))
        assert scores.f_beta == pytest.approx(metrics.fbeta_score(truth, said, beta=1.5, zero_division=0))
    if not all(truth):
        assert scores.specificity == pytest.approx(metrics.recall_score(truth, said, pos_label=False))


def test_the_papers_test_row_follows_from_its_sections():
    # Table 4, ResNet34-UNet + DS: 30 false positives and 44 false negatives of 1,119 tumour and 843 normal sections.
    truth = np.repeat([True, False], [1119, 843])
    said = np.repeat([True, False, True, False], [1119 - 44, 44, 30, 843 - 30])
    row = section_scores(truth, said).row()
    assert [round(row[name], 3) for name in ("accuracy", "sensitivity", "specificity", "f_beta")] == [
        0.962,
        0.961,
        0.964,
        0.964,
    ]
    assert (row["sections"], row["fp"], row["fn"]) == (1962, 30, 44)


def test_undefined_scores_are_as_documented():
    normal, tumour = section_scores([False], [False]), section_scores([True], [False])
    assert math.isnan(normal.sensitivity)
    assert normal.row()["sensitivity"] is None
    assert (normal.specificity, normal.f_beta) == (1, 1)
    assert math.isnan(tumour.specificity)
    assert (tumour.sensitivity, tumour.f_beta) == (0, 0)


@pytest.mark.parametrize(("truth", "said"), [([], []), ([True], [True, False]), ([1, 0], [1, 0]), (["Tumor"], [True])])
def test_what_is_no_list_of_the_same_sections_is_refused(truth, said):
    with pytest.raises(SpecError):
        section_scores(truth, said)
