import itertools
import math

import numpy as np
import pytest
from scipy import stats

from task import statistics
from task.statistics import (
    bootstrap_interval,
    first_within,
    paired_interval,
    student_interval,
    two_way_p_value,
)

# -- bootstrap over seeds --------------------------------------------------------------------------


def test_the_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([0.75] * 5) == (0.75, 0.75)


def test_the_interval_of_two_values_is_computed_by_hand():
    # means of two draws: 0 (1 in 4), 0.5 (2 in 4), 1 (1 in 4)
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


def test_the_interval_of_five_values_equals_the_quantiles_of_all_resamples():
    values = [0.1, 0.4, 0.9, 0.3, 0.35]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.015)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_an_interval_needs_two_seeds(values):
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(values)


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 1000)
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(random.normal(0.7, 0.1, 40))
        held += low <= 0.7 <= high
    assert 0.90 < held / 300 < 0.98  # a percentile bootstrap of 40 values: a bit below 0.95


def test_intervals_shrink_with_the_number_of_seeds_and_shift_with_the_values():
    random = np.random.default_rng(1)
    values = random.normal(size=64)
    low, high = bootstrap_interval(values)
    few_low, few_high = bootstrap_interval(values[:4])
    assert high - low < few_high - few_low
    assert bootstrap_interval(values + 3) == pytest.approx((low + 3, high + 3))
    assert bootstrap_interval(values) == (low, high)  # the same at every call


# -- t interval over seeds -------------------------------------------------------------------------


def test_a_t_interval_worked_out_by_hand():
    # mean 2, standard deviation 1, of the mean 1 / sqrt(3); t of 2 degrees of freedom is 4.3027
    half = 4.302653 / 3**0.5
    assert student_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    # standard deviation 0.2 / sqrt(2), of the mean 0.1; t of 1 degree of freedom is 12.7062
    assert student_interval([0.1, 0.3]) == pytest.approx((-1.07062, 1.47062), abs=1e-5)


@pytest.mark.parametrize("number", [2, 3, 5, 40])
def test_the_t_interval_is_that_of_scipy(number):
    values = np.random.default_rng(number).normal(0.7, 0.1, number).tolist()
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values) == pytest.approx((expected.low, expected.high))


def test_the_t_interval_of_equal_values_is_that_value():
    assert student_interval([0.75] * 5) == (0.75, 0.75)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_a_t_interval_needs_two_seeds(values):
    with pytest.raises(ValueError, match="at least 2"):
        student_interval(values)


def test_the_t_interval_of_three_seeds_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [student_interval(random.normal(0.7, 0.1, 3)) for _ in range(1000)]
    assert 0.93 < np.mean([low <= 0.7 <= high for low, high in intervals]) < 0.97


# -- pigeonhole bootstrap over seeds and groups ----------------------------------------------------


def slow_pigeonhole(differences_SG, num_resamples, random):
    means = []
    num_seeds, num_groups = differences_SG.shape
    for _ in range(num_resamples):
        seeds = random.integers(num_seeds, size=num_seeds)
        groups = random.integers(num_groups, size=num_groups)
        total = 0.0
        for seed in seeds:
            for group in groups:
                total += differences_SG[seed, group]
        means.append(total / num_seeds / num_groups)
    return np.array(means)


def test_the_paired_interval_equals_that_of_a_slow_loop():
    random = np.random.default_rng(0)
    seeds, groups = random.normal(0, 0.02, (4, 1)), random.normal(0.03, 0.05, (1, 6))
    differences = seeds + groups + random.normal(0, 0.01, (4, 6))
    means = slow_pigeonhole(differences, 4000, random)
    expected = np.quantile(means, [0.025, 0.975])
    spread = expected[1] - expected[0]
    assert paired_interval(differences) == pytest.approx(tuple(expected), abs=0.08 * spread)


def test_the_variance_over_resamples_is_that_of_a_slow_loop(monkeypatch):
    seen = []
    monkeypatch.setattr(
        statistics, "_percentiles", lambda means: seen.append(means) or (means.min(), means.max())
    )
    random = np.random.default_rng(3)
    differences = random.normal(0.02, 0.05, (3, 5))
    paired_interval(differences)
    (means,) = seen
    slow = slow_pigeonhole(differences, 4000, random)
    assert len(means) == statistics.NUM_RESAMPLES
    assert means.var() == pytest.approx(slow.var(), rel=0.15)
    assert means.mean() == pytest.approx(differences.mean(), abs=4 * slow.std() / 100)
    # resampling one of the two alone, or all entries as if they were independent, gives less
    entries = random.choice(differences.ravel(), (4000, 15)).mean(1)
    assert means.var() > 1.5 * entries.var()


def test_seeds_that_agree_leave_the_spread_of_the_groups_and_the_other_way_round():
    groups = np.array([[0.1, -0.1, 0.3, 0.0]])
    one, five = paired_interval(groups), paired_interval(np.repeat(groups, 5, axis=0))
    assert one == pytest.approx(five, abs=0.02)
    assert one[0] < 0.05 < one[1]
    low, high = paired_interval(np.repeat(groups.T, 5, axis=1))
    assert (low, high) == pytest.approx(one, abs=0.02)


def test_the_paired_interval_of_equal_differences_is_that_difference():
    assert paired_interval(np.full((3, 4), 0.25)) == pytest.approx((0.25, 0.25))


# -- sign flips ------------------------------------------------------------------------------------


def two_way_effects(random, num_seeds, num_groups, seed_sd):
    """Differences without any true mean: effects of seeds, of groups, and of each cell."""
    seeds = random.normal(0, seed_sd, (num_seeds, 1))
    groups = random.normal(0, 0.002, (1, num_groups))
    return seeds + groups + random.normal(0, 0.004, (num_seeds, num_groups))


def test_the_p_value_equals_one_computed_by_hand():
    differences = np.array([[0.02, 0.04], [0.03, 0.07]])  # mean 0.04
    # means of seeds .03, .05: variance .0002; of groups .025, .055: variance .00045
    error = math.sqrt(0.0002 / 2 + 0.00045 / 2)
    cauchy = 1 - 2 / math.pi * math.atan(0.04 / error)  # t with one degree of freedom
    assert two_way_p_value(differences) == pytest.approx(cauchy)
    assert two_way_p_value(-differences) == pytest.approx(cauchy)


@pytest.mark.parametrize(("num_seeds", "num_groups"), [(5, 6), (5, 14), (3, 55)])
def test_an_effect_of_seeds_alone_is_rarely_significant(num_seeds, num_groups):
    # All groups of a seed share its predictor: many groups are no evidence about other seeds.
    random = np.random.default_rng(0)
    p_values = [
        two_way_p_value(two_way_effects(random, num_seeds, num_groups, 0.003)) for _ in range(400)
    ]
    assert np.mean(np.array(p_values) < 0.05) < 0.08


def test_a_large_difference_is_significant():
    random = np.random.default_rng(0)
    assert two_way_p_value(0.05 + two_way_effects(random, 5, 6, 0.003)) < 0.001


def test_equal_differences_and_none_are_told_apart():
    assert two_way_p_value(np.zeros((2, 5))) == 1.0
    assert two_way_p_value(np.full((2, 5), 0.25)) == 0.0
    assert two_way_p_value(np.array([[0.1, -0.1], [-0.1, 0.1]])) == 1.0


# -- convergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "of_score", "of_gain"),
    [
        ([0.5, 0.7, 0.77, 0.79, 0.8], 2, 3),  # 0.95 * 0.8 = 0.76; 0.5 + 0.95 * 0.3 = 0.785
        ([0.78, 0.79, 0.8], 0, 2),  # good before training
        ([0.2, 0.96, 0.3, 0.97, 1.0], 1, 1),  # the first time counts, though it falls again
        ([0.9, 0.5, 0.8], 0, 0),  # below where it was before: it has made its way at once
        ([0.6, 0.6, 0.6], 0, 0),
        ([0.6], 0, 0),
    ],
)
def test_the_first_position_within_95_percent(scores, of_score, of_gain):
    positions = [10 * number for number in range(len(scores))]
    assert first_within(scores, positions) == 10 * of_score
    assert first_within(scores, positions, of_gain=True) == 10 * of_gain


def test_positions_may_be_of_any_unit_and_must_be_as_many_as_scores():
    assert first_within([0.0, 0.5, 1.0], [0.0, 1.5, 7.25]) == 7.25
    with pytest.raises(ValueError, match="zip"):
        first_within([0.0, 0.5, 1.0], [0.0, 1.0], of_gain=True)


def test_intervals_are_numbers_that_json_knows():
    for number in (*bootstrap_interval([1, 2]), *paired_interval(np.eye(3))):
        assert type(number) is float
        assert math.isfinite(number)
