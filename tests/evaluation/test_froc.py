"""FROC: quirks by hand, an independent rewriting of what the organisers' programs do, and laws."""

import bisect

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from digipath.errors import ResultError, SpecError
from digipath.evaluation.froc import RULES, FrocCase, Points, froc, froc_of, mark
from digipath.evaluation.lesions import Lesions
from digipath.geometry.detections import Detection
from digipath.geometry.frame import Frame
from digipath.geometry.raster import Raster

WIDTH, HEIGHT = 40, 10


def lesions(count, itc=()):
    """Lesion n covers level-5 columns 4 n - 4 to 4 n - 3 of all rows; every other two columns are none."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(1, count + 1):
        labels[:, 4 * number - 4 : 4 * number - 2] = number
    frame = Frame.level0(32 * WIDTH, 32 * HEIGHT, 0.243).coarser(32)
    return Lesions(Raster(labels, frame), frozenset(itc), (300.0,) * count)


def hit(probability, number):
    return Detection(probability, (4 * number - 4) * 32 + 5, 100)


def miss(probability):
    return Detection(probability, 32 * (WIDTH - 1), 10)


def at(result):
    return [round(value, 6) for value in result.sensitivities_at]


def test_a_case_worked_by_hand_with_camelyon16s_rules():
    cases = [
        # Three lesions, one of them isolated tumour cells; lesion 1 is hit twice, lesion 3 is missed.
        FrocCase("Tumor_001", [hit(0.9, 1), hit(0.6, 1), hit(0.75, 2), miss(0.8), miss(0.5)], lesions(3, {2})),
        FrocCase("Normal_001", [miss(0.7)], None),
        FrocCase("Tumor_002", [hit(0.55, 1)], lesions(1)),
    ]
    result = froc(cases)
    # False positives .8, .5, .7; lesions .9, 0 (isolated), 0 (missed), .55. Smallest threshold 0, skipped. 3 images and
    # 1 + 1 + 1 = 3 lesions (the isolated one is none).
    # threshold   .5    .55   .7    .8    .9   (0, 0)
    # FP          3     2     2     1     0    0
    # TP          2     2     1     1     1    0
    np.testing.assert_allclose(result.fps_per_unit, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(result.sensitivities, [0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(result.thresholds, [np.inf, 0.9, 0.8, 0.7, 0.55, 0.5], rtol=1e-6)
    # At 1/4: 1/3. At 1/2, between (1/3, 1/3) and (2/3, 1/3): 1/3. From 1 on: 2/3.
    assert at(result) == [0.333333, 0.333333] + [0.666667] * 4
    assert result.score == pytest.approx((2 / 3 + 4 * 2 / 3) / 6)
    assert (result.to_find, result.units) == (3, 3)


def test_plain_rules_give_the_same_case_its_curve():
    cases = [FrocCase("a", [hit(0.9, 1), miss(0.8), hit(0.7, 2)], lesions(3)), FrocCase("b", None, None)]
    result = froc(cases, rules="plain")
    # 2 images. Thresholds .9: (0, 1/3); .8: (.5, 1/3); .7: (.5, 2/3). np.interp takes the last of equal places.
    np.testing.assert_allclose(result.fps_per_unit, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(result.sensitivities, [0, 1 / 3, 1 / 3, 2 / 3])
    assert at(result) == [0.333333] + [0.666667] * 5


def test_sensitivity_is_interpolated_linearly_between_false_positives():
    cases = [FrocCase("a", [hit(0.9, 1), *[Detection(0.8, 1279, y) for y in range(4)], hit(0.8, 2)], lesions(2))]
    # (0, 0), (0, 1/2) at .9, (4, 1) at .8: 1/2 + FP / 8.
    assert at(froc(cases, rules="plain")) == [0.53125, 0.5625, 0.625, 0.75, 1, 1]


def test_quirk_the_smallest_score_is_lost_where_nothing_is_missed():
    faultless = [FrocCase("a", [hit(0.9, 1), hit(0.8, 2), hit(0.7, 3)], lesions(3))]
    assert at(froc(faultless)) == [0.666667] * 6
    assert at(froc(faultless, rules="plain")) == [1] * 6
    # All at one score: that is the smallest, and there is no curve but (0, 0).
    alike = [FrocCase("a", [hit(0.9, n) for n in (1, 2, 3)], lesions(3))]
    assert froc(alike).score == 0
    # A score below: of a false positive, or of isolated tumour cells (found or not, they sit at 0).
    assert froc([FrocCase("a", [*faultless[0].detections, miss(0.1)], lesions(3))]).score == 1
    assert froc([FrocCase("a", [*faultless[0].detections, hit(1.0, 4)], lesions(4, {4}))]).score == 1


@pytest.mark.parametrize("rules", ["camelyon16", "plain"])
@pytest.mark.parametrize("probability", [0.8, 0.9])
def test_a_lesion_and_false_positives_of_one_score_come_together(rules, probability):
    # Also where single precision would put the lesion above (0.8 becomes 0.800000012) or below (0.9: 0.899999976).
    # One image: (0, 0), (4, 1/3): FP / 12.
    found = [hit(probability, 1), *[Detection(probability, 1279, y) for y in range(4)]]
    assert at(froc([FrocCase("a", found, lesions(3))], rules=rules))[:2] == [0.020833, 0.041667]


def test_quirk_an_image_without_a_result_does_not_exist():
    cases = [FrocCase("a", [hit(0.9, 1), miss(0.5)], lesions(2)), FrocCase("b", None, lesions(4))]
    assert (froc(cases).to_find, froc(cases).units) == (2, 1)
    assert (froc(cases, rules="plain").to_find, froc(cases, rules="plain").units) == (6, 2)
    empty = [cases[0], FrocCase("b", [], lesions(4))]  # an empty file is a result
    assert (froc(empty).to_find, froc(empty).units) == (6, 2)


def test_detections_in_isolated_tumour_cells_are_neither_hits_nor_false():
    result = mark(FrocCase("a", [hit(0.9, 1), hit(0.8, 2)], lesions(2, {1})))
    assert (result.false.tolist(), result.hits.tolist(), result.to_find) == ([], [0.0, pytest.approx(0.8)], 1)


def test_a_detection_outside_of_the_slide_is_an_error_that_names_the_image():
    with pytest.raises(ResultError, match="Tumor_009: detections lie on the slide"):
        froc([FrocCase("Tumor_009", [Detection(0.5, 32 * WIDTH, 5)], lesions(1))])


def test_tigers_case_worked_by_hand():
    # 8 pixels at 0.5 um: (0, 8) is hit from 8 away, not from 8.5. 0.02 mm2.
    truth = Points([[100, 100], [200, 100], [300, 100], [400, 100]], mpp=0.5)
    found = [
        Detection(0.9, 108, 100),
        Detection(0.8, 200, 108.5),
        Detection(0.7, 205, 100),
        Detection(0.6, 300, 100),
        Detection(0.6, 301, 100),
        Detection(0.2, 50, 50),
    ]
    result = froc([FrocCase("roi", found, truth, mm2=0.02)], rules="tiger")
    # .9: TP 1, FP 0.  .8: FP 1.  .7: TP 2.  .6: TP 3, FP 2 (one of the two is left).  .2: FP 3.   Per mm2: x 50.
    np.testing.assert_allclose(result.fps_per_unit, [0, 0, 50, 50, 100, 150])
    np.testing.assert_allclose(result.sensitivities, [0, 0.25, 0.25, 0.5, 0.75, 0.75])
    # 10, 20 -> 0 per mm2; 50 -> the last at 50; 100 -> 100; 200 and 300 lie behind the end.
    assert at(result) == [0.25, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert result.score == pytest.approx(3.25 / 6)


def test_tigers_points_are_hit_by_micrometres_not_by_pixels():
    for mpp, places in [(0.5, 8), (0.25, 16), (1.0, 4)]:
        cases = [FrocCase("roi", [Detection(0.9, places, 0)], Points([[0, 0]], mpp), mm2=1)]
        assert froc(cases, rules="tiger").score == 1
        cases = [FrocCase("roi", [Detection(0.9, places + 0.1, 0)], Points([[0, 0]], mpp), mm2=1)]
        assert froc(cases, rules="tiger").score == 0


def test_nothing_to_be_found_is_an_error():
    for rules in RULES:
        with pytest.raises(ResultError, match="something to be found"):
            froc([FrocCase("a", [miss(0.5)], None, mm2=1)], rules=rules)
    with pytest.raises(ResultError, match="something to be found"):
        froc([FrocCase("a", None, lesions(2))])
    assert froc([FrocCase("a", None, Points([[1, 1]], 0.5), mm2=1)], rules="tiger").score == 0


def test_what_does_not_go_together_is_refused():
    with pytest.raises(SpecError, match="rules are one of"):
        froc([FrocCase("a", [], None)], rules="camelyon17")
    with pytest.raises(SpecError, match="Points"):
        froc([FrocCase("a", [], lesions(1), mm2=1)], rules="tiger")
    with pytest.raises(SpecError, match="Lesions"):
        froc([FrocCase("a", [], Points([[1, 1]], 0.5))])
    with pytest.raises(SpecError, match="area above 0"):
        froc([FrocCase("a", [], Points([[1, 1]], 0.5))], rules="tiger")
    with pytest.raises(SpecError, match="same rules, got camelyon16, plain"):
        froc_of(mark(FrocCase("a", [], lesions(1)), rules=rules) for rules in ("plain", "camelyon16"))
    with pytest.raises(ResultError, match="number 2"):
        froc([FrocCase("a", [hit(0.1, 1), (1.5, 0, 0)], lesions(1))])


# --- Rewritten from the organisers' programs, apart from the package.


def camelyon_by_organisers(cases):
    false, true, lesions_in_all, images = [], [], 0, 0
    for case in cases:
        if case.detections is None:
            continue
        images += 1
        if case.truth is None:
            false += [float(p) for p, _, _ in case.detections]
            continue
        mask = case.truth.labels.array()
        best = np.zeros(int(mask.max()), np.float32)
        for p, x, y in case.detections:
            label = int(mask[int(y / 32), int(x / 32)])
            if label == 0:
                false.append(float(p))
            elif label not in case.truth.itc and p > best[label - 1]:
                best[label - 1] = p
        true += list(best)
        lesions_in_all += len(best) - len(case.truth.itc)
    fps, tps = [], []
    for threshold in sorted(set(false + true))[1:]:
        fps.append((np.asarray(false) >= threshold).sum())
        tps.append((np.asarray(true) >= threshold).sum())
    fps, tps = np.array([*fps, 0]) / float(images), np.array([*tps, 0]) / float(lesions_in_all)
    return fps, tps, np.mean(np.interp([0.25, 0.5, 1, 2, 4, 8], fps[::-1], tps[::-1]))


def tiger_by_organisers(cases):
    thresholds = sorted({p for case in cases for p, _, _ in case.detections}, reverse=True)
    fps, tps = [], []
    for threshold in thresholds:
        fp = tp = 0
        for case in cases:
            left = [(x, y) for p, x, y in case.detections if p >= threshold]
            for point in case.truth.xy * case.truth.mpp:
                distances = [np.hypot(*(np.array(place) * case.truth.mpp - point)) for place in left]
                if distances and min(distances) <= 4:
                    del left[int(np.argmin(distances))]
                    tp += 1
            fp += len(left)
        fps.append(fp / sum(case.mm2 for case in cases))
        tps.append(tp / sum(len(case.truth.xy) for case in cases))
    if not fps or fps[0] != 0:
        fps, tps = [0, *fps], [0, *tps]
    chosen = [tps[bisect.bisect_right(fps, target) - 1] for target in (10, 20, 50, 100, 200, 300)]
    return chosen


# Numbers of single precision, in which the organisers keep some of them.
probabilities = st.one_of(st.integers(0, 10).map(lambda n: float(np.float32(n / 10))), st.floats(0, 1, width=32))
detections = st.lists(
    st.builds(Detection, probabilities, st.integers(0, 32 * WIDTH - 1), st.integers(0, 32 * HEIGHT - 1)), max_size=12
)


@st.composite
def camelyon_cases(draw):
    cases = []
    for number in range(draw(st.integers(1, 5))):
        count = draw(st.integers(0, 6))
        itc = draw(st.sets(st.integers(1, count), max_size=count)) if count else ()
        found = draw(st.one_of(st.none(), detections, detections))
        cases.append(FrocCase(str(number), found, lesions(count, itc) if count else None))
    assume(any(case.truth and case.truth.to_find and case.detections is not None for case in cases))
    return cases


@settings(max_examples=40)
@given(camelyon_cases())
def test_camelyon16s_curve_is_that_of_the_organisers_program(cases):
    fps, tps, score = camelyon_by_organisers(cases)
    result = froc(cases)
    np.testing.assert_array_equal(result.fps_per_unit, fps[::-1])
    np.testing.assert_array_equal(result.sensitivities, tps[::-1])
    assert result.score == score


@st.composite
def tiger_cases(draw):
    places = st.tuples(st.integers(0, 40), st.integers(0, 40))
    cells = st.lists(places, max_size=8, unique=True)
    # Odd offsets of thousandths: no two distances are alike, for whom the organisers' order is a matter of chance.
    offset = st.integers(0, 10**6).map(lambda n: n / 1e6 * 0.37)
    found = st.lists(
        st.tuples(probabilities, places, offset, offset).map(lambda d: Detection(d[0], d[1][0] + d[2], d[1][1] + d[3])),
        max_size=14,
    )
    cases = [
        FrocCase(str(n), draw(found), Points(draw(cells), draw(st.sampled_from([0.5, 0.25]))), mm2=0.01 * (n + 1))
        for n in range(draw(st.integers(1, 3)))
    ]
    assume(sum(len(case.truth.xy) for case in cases))
    return cases


@settings(max_examples=40)
@given(tiger_cases())
def test_tigers_sensitivities_are_those_of_matching_anew_at_each_threshold(cases):
    result = froc(cases, rules="tiger")
    assert result.sensitivities_at == pytest.approx(tiger_by_organisers(cases))
    assert result.score == pytest.approx(np.mean(result.sensitivities_at))


# --- Laws.


@settings(max_examples=15)
@given(camelyon_cases(), st.sampled_from(["camelyon16", "plain"]))
def test_a_curve_never_falls_and_stays_between_0_and_1(cases, rules):
    result = froc(cases, rules=rules)
    assert (np.diff(result.fps_per_unit) >= 0).all() and (np.diff(result.sensitivities) >= 0).all()
    assert (np.diff(result.thresholds) < 0).all()
    assert (result.fps_per_unit[0], result.sensitivities[0]) == (0, 0)
    assert 0 <= result.score <= 1 and result.sensitivities.max() <= 1


@settings(max_examples=15)
@given(camelyon_cases(), st.randoms(use_true_random=False), st.sampled_from(["camelyon16", "plain"]))
def test_the_order_of_slides_and_detections_does_not_matter(cases, random, rules):
    shuffled = [
        FrocCase(c.name, c.detections and random.sample(c.detections, len(c.detections)), c.truth)
        for c in random.sample(cases, len(cases))
    ]
    assert froc(shuffled, rules=rules).score == froc(cases, rules=rules).score


@settings(max_examples=15)
@given(camelyon_cases(), st.floats(0.001, 1))
def test_another_false_positive_never_raises_the_plain_score(cases, probability):
    more = [*cases[1:], FrocCase("more", [*(cases[0].detections or ()), miss(probability)], cases[0].truth)]
    assert froc(more, rules="plain").score <= froc(cases, rules="plain").score + 1e-12


@settings(max_examples=15)
@given(camelyon_cases(), st.floats(0.001, 1))
def test_another_false_positive_never_raises_camelyon16s_score_where_a_lesion_is_missed(cases, probability):
    # Elsewhere it may: it takes the place of the smallest score, which is lost.
    missed = FrocCase("missed", [], lesions(1))
    more = FrocCase("missed", [miss(probability)], lesions(1))
    assert froc([*cases, more]).score <= froc([*cases, missed]).score + 1e-12


@settings(max_examples=15)
@given(tiger_cases(), probabilities)
def test_another_false_positive_never_raises_tigers_score(cases, probability):
    far = FrocCase("a", [*cases[0].detections, Detection(probability, 500, 500)], cases[0].truth, cases[0].mm2)
    assert froc([far, *cases[1:]], rules="tiger").score <= froc(cases, rules="tiger").score


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0.01, 1))
def test_a_perfect_detector_scores_1(counts, probability):
    cases = [FrocCase(str(i), [hit(probability, n + 1) for n in range(c)], lesions(c)) for i, c in enumerate(counts)]
    assert froc(cases, rules="plain").score == 1
    assert froc([*cases, FrocCase("sure", [miss(0.005)], None)]).score == 1  # with a score to lose
    cells = Points(np.arange(10).reshape(5, 2) * 100, 0.5)
    roi = FrocCase("roi", [Detection(probability, x, y) for x, y in cells.xy], cells, mm2=1)
    assert froc([roi], rules="tiger").score == 1


def test_marks_can_be_kept_and_drawn_again():
    cases = [FrocCase("a", [hit(0.9, 1), miss(0.3)], lesions(2)), FrocCase("b", [hit(0.8, 2)], lesions(3))]
    marks = [mark(case) for case in cases]
    assert froc_of(marks[i] for i in (0, 1, 1)).score == froc([cases[0], cases[1], cases[1]]).score
