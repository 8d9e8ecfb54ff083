import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from task.metrics import Fairness, GroupScores, Mean, alignment_score, macro_mean

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


def test_group_scores_split_by_seen_and_merge():
    first = GroupScores.of(np.array([0.2, 0.4, 0.9]), np.array([True, False, True]))
    second = GroupScores.of(np.array([0.6]), np.array([False]))
    merged = first + second
    assert (merged.all.value, merged.all.weight) == (pytest.approx(2.1 / 4), 4)
    assert (merged.seen.value, merged.seen.weight) == (pytest.approx(1.1 / 2), 2)
    assert (merged.new.value, merged.new.weight) == (pytest.approx(1.0 / 2), 2)


def test_fairness_equals_numbers_computed_by_hand():
    fairness = Fairness.of({"A": 0.6, "B": 0.8, "C": 1.0})
    variance = (0.2**2 + 0 + 0.2**2) / 3  # of the population, not of a sample
    assert fairness.mean == pytest.approx(0.8)
    assert (fairness.worst, fairness.worst_group) == (0.6, "A")
    assert fairness.gap == pytest.approx(0.4)
    assert fairness.cov == pytest.approx(math.sqrt(variance) / 0.8)
    assert fairness.fairness_index == pytest.approx(1 / (1 + variance / 0.64))


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
