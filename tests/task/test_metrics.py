import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from task.metrics import (
    FEWEST_OPTIONS,
    NUM_BINS,
    Calibration,
    Fairness,
    GroupScores,
    Mean,
    alignment_score,
    macro_mean,
)

LOWEST = 1 - math.sqrt(math.log(2))


@st.composite
def pairs_of_distributions(draw):
    size = draw(st.integers(2, 8))
    weights = st.lists(
        st.sampled_from([0.0, 0.0, 1e-6, 0.3, 1.0, 5.0]), min_size=size, max_size=size
    ).filter(any)
    p, q = np.array(draw(weights)), np.array(draw(weights))
    return p / p.sum(), q / q.sum()


@given(pairs_of_distributions())
def test_alignment_score_is_one_minus_scipys_jensen_shannon_distance(pair):
    p, q = pair
    score = alignment_score(torch.from_numpy(p), torch.from_numpy(q)).item()
    distance = jensenshannon(p, q)
    # scipy gives NaN where rounding leaves the divergence of equal distributions below zero.
    assert score == pytest.approx(1 - (0.0 if math.isnan(distance) else distance), abs=1e-7)
    assert LOWEST - 1e-12 <= score <= 1


def test_alignment_score_is_one_for_equal_and_lowest_for_disjoint_distributions():
    p = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    q = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5]])
    assert alignment_score(p, q).tolist() == pytest.approx([1.0, LOWEST], abs=1e-12)


def test_alignment_score_ignores_options_that_a_question_does_not_have():
    p, q = torch.tensor([0.1, 0.9]), torch.tensor([0.6, 0.4])
    padded = alignment_score(torch.cat((p, torch.zeros(3))), torch.cat((q, torch.zeros(3))))
    assert padded.item() == alignment_score(p, q).item()


def test_a_prediction_that_is_not_a_number_does_not_score_as_perfect():
    nan = torch.tensor([float("nan"), float("nan")])
    assert not alignment_score(nan, torch.tensor([0.5, 0.5])).item() > 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 20))
def test_means_of_parts_merge_to_the_mean_of_the_whole(values, cut):
    values = np.array(values)
    merged = Mean.of(values[:cut]) + Mean.of(values[cut:])
    assert merged.value == pytest.approx(values.mean())
    assert merged.weight == len(values)


def test_the_mean_of_nothing_is_nan():
    assert math.isnan(Mean().value)


PREDICTED = np.array([[0.2, 0.8, 0.0], [0.5, 0.3, 0.2], [0.4, 0.6, 0.0], [0.1, 0.2, 0.7]])
TRUE = np.array([[0.7, 0.3, 0.0], [0.5, 0.0, 0.5], [0.1, 0.9, 0.0], [0.4, 0.4, 0.2]])
OPTIONS = np.array([2, 3, 2, 3])
SEEN = np.array([True, False, True, False])


def scored(rows=slice(None)):
    return GroupScores.of(PREDICTED[rows], TRUE[rows], OPTIONS[rows], SEEN[rows])


def test_group_scores_split_by_seen_and_merge():
    a, b, c, d = (
        1 - jensenshannon(p[:n], q[:n]) for p, q, n in zip(PREDICTED, TRUE, OPTIONS, strict=True)
    )
    merged = scored(slice(0, 3)) + scored(slice(3, 4))
    assert (merged.all.value, merged.all.weight) == (pytest.approx((a + b + c + d) / 4), 4)
    assert (merged.seen.value, merged.seen.weight) == (pytest.approx((a + c) / 2), 2)
    assert (merged.new.value, merged.new.weight) == (pytest.approx((b + d) / 2), 2)


def test_scores_of_parts_merge_to_those_of_the_whole():
    whole, merged = scored(), scored(slice(0, 1)) + scored(slice(1, 4)) + GroupScores()
    for key, sums in whole.to_metrics().items():
        assert merged.to_metrics()[key] == pytest.approx(sums), key


def test_group_scores_do_not_change_when_options_are_padded():
    padding = np.zeros((4, 3))
    padded = GroupScores.of(
        np.hstack((PREDICTED, padding)), np.hstack((TRUE, padding)), OPTIONS, SEEN
    )
    assert padded == scored()


def test_the_top_option_is_right_when_nobody_is_chosen_more_often():
    # wrong; right, tied with another; right; wrong, though two tie above it
    assert scored().top_option == Mean(2.0, 4.0)
    assert [scored(slice(q, q + 1)).top_option.total for q in range(4)] == [0, 1, 1, 0]


def test_a_tie_of_the_predicted_top_option_is_broken_by_order():
    def top(predicted, true):
        pair = (np.array([predicted]), np.array([true]))
        return GroupScores.of(*pair, np.array([2]), np.array([True])).top_option.total

    assert (top([0.5, 0.5], [0.6, 0.4]), top([0.5, 0.5], [0.4, 0.6])) == (1, 0)
    assert top([0.9, 0.1], [0.49, 0.51]) == 0  # near is not equal


def test_calibration_sums_options_in_the_bins_of_their_predicted_shares():
    predicted = np.array([0.0, 0.05, 0.1, 0.11, 0.99, 1.0])
    true = np.array([0.2, 0.1, 0.3, 0.0, 0.5, 0.9])
    bins = Calibration.of(predicted, true)
    assert bins.options == (2, 2, 0, 0, 0, 0, 0, 0, 0, 2)  # 1.0 is not in a bin of its own
    assert bins.predicted == pytest.approx((0.05, 0.21, 0, 0, 0, 0, 0, 0, 0, 1.99))
    assert bins.true == pytest.approx((0.3, 0.3, 0, 0, 0, 0, 0, 0, 0, 1.4))
    # a bin counts by its options: |0.025 - 0.15| * 2 + |0.105 - 0.15| * 2 + |0.995 - 0.7| * 2
    assert bins.error == pytest.approx((0.25 + 0.09 + 0.59) / 6)


def test_calibration_errors_within_a_bin_cancel_and_those_of_different_bins_do_not():
    same = Calibration.of(np.array([0.51, 0.59]), np.array([0.41, 0.69]))
    assert same.error == pytest.approx(0)
    apart = Calibration.of(np.array([0.2, 0.8]), np.array([0.3, 0.7]))
    assert apart.error == pytest.approx(0.1)


def test_group_scores_count_only_options_that_exist_in_the_bins():
    bins = scored().calibration
    assert sum(bins.options) == 2 + 3 + 2 + 3
    assert sum(bins.predicted) == pytest.approx(4)
    assert sum(bins.true) == pytest.approx(4)


def test_calibrations_of_parts_merge_and_that_of_nothing_is_nan():
    random = np.random.default_rng(0)
    predicted, true = random.random(50), random.random(50)
    whole = Calibration.of(predicted, true)
    merged = Calibration.of(predicted[:20], true[:20]) + Calibration.of(predicted[20:], true[20:])
    for ours, theirs in zip(
        (merged.options, merged.predicted, merged.true),
        (whole.options, whole.predicted, whole.true),
        strict=True,
    ):
        assert ours == pytest.approx(theirs)
    assert math.isnan(Calibration().error)


def test_scores_come_back_from_the_wire_as_they_were_sent():
    scored_once = scored()
    # As many context draws, so that no bin is too small to be disclosed.
    scores = sum([scored_once] * FEWEST_OPTIONS, GroupScores())
    metrics = scores.to_metrics()
    assert len(metrics["calibration"]) == 3 * NUM_BINS
    assert all(type(number) is float for sums in metrics.values() for number in sums)
    assert GroupScores.from_metrics(metrics) == scores
    assert GroupScores.from_metrics({**metrics, "num-examples": [4]}) == scores
    swapped = metrics | {"top-option": metrics["alignment-score"]}
    assert GroupScores.from_metrics(swapped).top_option == scores.all


def test_bins_of_few_options_are_not_disclosed():
    number = FEWEST_OPTIONS
    predicted = np.array([0.05] * number + [0.55] * (number - 1))
    true = np.linspace(0, 1, len(predicted))
    calibration = Calibration.of(predicted, true)
    sent = GroupScores(calibration=calibration).to_metrics()["calibration"]
    back = GroupScores.from_metrics(GroupScores(calibration=calibration).to_metrics()).calibration
    assert back == calibration.disclosed
    assert back.options[0] == number
    assert back.true[0] == pytest.approx(true[:number].sum())
    assert sum(sent[1:NUM_BINS]) == sum(back.predicted[1:]) == sum(back.true[1:]) == 0


def test_predictions_that_are_not_finite_give_sums_that_are_not():
    calibration = Calibration.of(np.array([np.nan, 0.5]), np.array([0.5, 0.5]))
    assert math.isnan(sum(calibration.predicted))


def test_fairness_equals_numbers_computed_by_hand():
    fairness = Fairness.of({"A": 0.6, "B": 0.8, "C": 1.0})
    variance = (0.2**2 + 0 + 0.2**2) / 3  # of the population, not of a sample
    assert fairness.mean == pytest.approx(0.8)
    assert (fairness.worst, fairness.worst_group) == (0.6, "A")
    assert fairness.gap == pytest.approx(0.4)
    assert fairness.cov == pytest.approx(math.sqrt(variance) / 0.8)
    assert fairness.fairness_index == pytest.approx(1 / (1 + variance / 0.64))


@pytest.mark.parametrize(
    ("number", "expected"), [(1, 0.0), (9, 0.0), (10, 0.0), (11, 0.5), (20, 0.5), (21, 1.0)]
)
def test_the_worst_decile_is_a_tenth_of_the_groups_rounded_up(number, expected):
    """Scores 0.0, 1.0, 2.0 ...: the mean of the lowest one, two or three."""
    scores = {f"g{k}": float(k) for k in reversed(range(number))}
    scores["g0"] += 1e-9  # a mean of 0 has no coefficient of variation
    assert Fairness.of(scores).worst_decile == pytest.approx(expected, abs=1e-6)


def test_equal_groups_are_perfectly_fair():
    fairness = Fairness.of({"A": 0.7, "B": 0.7})
    assert (fairness.cov, fairness.gap, fairness.fairness_index) == (0, 0, 1)


@pytest.mark.parametrize("scores", [{}, {"A": float("nan")}, {"A": 1.0, "B": float("inf")}])
def test_fairness_of_no_group_or_of_scores_that_are_not_finite_is_an_error(scores):
    with pytest.raises(ValueError, match="finite scores of at least one group"):
        Fairness.of(scores)


def test_macro_mean_weighs_groups_equally_and_leaves_out_groups_without_questions():
    means = [Mean(1.8, 2.0), Mean(0.3, 1.0), Mean()]
    assert macro_mean(means) == pytest.approx((0.9 + 0.3) / 2)
    assert math.isnan(macro_mean([Mean()]))
