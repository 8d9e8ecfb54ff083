import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.errors import ConfigError
from task.reward_aggregation import AGGREGATIONS, AdaptiveAlpha, make_aggregation

GROUPS = ("A", "B")
LOG3 = math.log(3)
# Shares sigmoid(score): ln 3 is 3/4, -ln 3 is 1/4, 0 is 1/2.
SCORES = np.array([[LOG3, -LOG3], [0.0, LOG3], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [0.0, LOG3 / 2, 0.0]),
        ("min", [-LOG3, 0.0, 0.0]),
        ("max", [LOG3, LOG3, 0.0]),
        # Geometric means of the shares: sqrt(3/4 * 1/4) = 0.4330127, log-odds
        # ln(0.4330127 / 0.5669873) = -0.2695698; sqrt(1/2 * 3/4) = 0.6123724, log-odds
        # ln(0.6123724 / 0.3876276) = 0.4572955; sqrt(1/2 * 1/2) = 1/2, log-odds 0.
        ("nash", [-0.2695698, 0.4572955, 0.0]),
    ],
)
def test_rules_give_what_is_computed_by_hand(name, expected):
    assert make_aggregation(name)(SCORES, GROUPS) == pytest.approx(expected, abs=1e-6)


def test_adaptive_alpha_gives_what_is_computed_by_hand_over_two_calls():
    rule = AdaptiveAlpha(temperature=0.5, decay=0.75)
    # Mean shares of the responses: A (3/4 + 1/2 + 1/2) / 3 = 0.5833333, B (1/4 + 3/4 + 1/2) / 3 =
    # 0.5. A first call has no past. Exponents (1 - 0.5833333) / 0.5 = 0.8333333 and 1; weights
    # 1 / (1 + e^0.1666667) = 0.4584295 and 0.5415705.
    first = rule(SCORES, GROUPS)
    assert rule.alignment == pytest.approx({"A": 0.5833333, "B": 0.5})
    assert rule.weights == pytest.approx({"A": 0.4584295, "B": 0.5415705})
    # Response 0: ln 3 * (0.4584295 - 0.5415705) = -0.0913397; 1: ln 3 * 0.5415705 = 0.5949759.
    assert first == pytest.approx([-0.0913397, 0.5949759, 0.0], abs=1e-6)
    # Now A's share is 1/4, B's 3/4. A: 0.75 * 0.5833333 + 0.25 * 0.25 = 0.5, B: 0.75 * 0.5 + 0.25 *
    # 0.75 = 0.5625. Exponents 1 and 0.875; A's weight 1 / (1 + e^-0.125) = 0.5312094.
    second = rule(np.array([[-LOG3, LOG3]]), GROUPS)
    assert rule.alignment == pytest.approx({"A": 0.5, "B": 0.5625})
    assert rule.weights == pytest.approx({"A": 0.5312094, "B": 0.4687906})
    # ln 3 * (0.4687906 - 0.5312094) = -0.0685740.
    assert second == pytest.approx([-0.0685740], abs=1e-6)


def test_adaptive_alpha_remembers_groups_by_name():
    rule = AdaptiveAlpha(temperature=0.5, decay=0.75)
    rule(SCORES, GROUPS)
    # As above with the columns exchanged, and a newcomer without a past: 1/2 of it.
    scores = rule(np.array([[LOG3, -LOG3, 0.0]]), ("B", "A", "C"))
    assert rule.alignment == pytest.approx({"A": 0.5, "B": 0.5625, "C": 0.5})
    # e^-0.125 = 0.8824969, so that weights are 1, 0.8824969 and 1 over 2.8824969.
    assert rule.weights == pytest.approx({"B": 0.3061571, "A": 0.3469214, "C": 0.3469214})
    assert scores == pytest.approx([LOG3 * (0.3061571 - 0.3469214)], abs=1e-6)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.5621765), (0.1, 0.9241418)])
def test_a_low_temperature_lets_the_worst_served_count_more(temperature, share):
    rule = AdaptiveAlpha(temperature=temperature)
    # Shares 3/4 and 1/2, 0.25 apart: B's weight is 1 / (1 + e^(-0.25 / temperature)).
    rule(np.array([[LOG3, 0.0]]), GROUPS)
    assert rule.weights["B"] == pytest.approx(share)


def test_groups_that_fare_alike_count_the_same_from_the_threshold_on():
    # Shares 3/4 and 1/2: mean 0.625, deviation 0.125, CoV 0.2, FI = 1 / 1.04 = 0.9615385.
    scores = np.array([[LOG3, 0.0]])
    for threshold, alike in ((0.96, True), (0.962, False), (1.0, False)):
        rule = AdaptiveAlpha(fairness_threshold=threshold)
        rule(scores, GROUPS)
        assert (rule.weights["A"] == 0.5) is alike, threshold


def test_the_fairness_switch_looks_at_the_past_as_well():
    rule = AdaptiveAlpha(fairness_threshold=0.96, decay=0.9)
    rule(np.array([[LOG3, LOG3]]), GROUPS)
    # A's alignment 0.9 * 0.75 + 0.1 * 0.25 = 0.7 beside 0.75: far above the threshold, though this
    # call's shares 1/4 and 3/4 alone have FI = 1 / (1 + 0.5^2) = 0.8.
    rule(np.array([[-LOG3, LOG3]]), GROUPS)
    assert rule.weights == {"A": 0.5, "B": 0.5}


every_rule = pytest.mark.parametrize("name", AGGREGATIONS)


@every_rule
@given(scores=st.lists(st.floats(-600, 600), min_size=1, max_size=4), number=st.integers(1, 5))
def test_identical_groups_give_their_own_score_back(name, scores, number):
    same = np.repeat(np.array(scores)[:, None], number, axis=1)
    names = [str(index) for index in range(number)]
    assert make_aggregation(name)(same, names) == pytest.approx(scores, rel=1e-6, abs=1e-9)


@every_rule
@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=4))
def test_a_score_lies_between_those_of_the_groups(name, rows):
    scores = np.array(rows)
    given_back = make_aggregation(name)(scores, ("A", "B", "C"))
    assert given_back.shape == (len(rows),)
    assert (given_back >= scores.min(axis=1) - 1e-6).all()
    assert (given_back <= scores.max(axis=1) + 1e-6).all()


@every_rule
@pytest.mark.filterwarnings("error")
def test_extreme_scores_stay_finite(name):
    rows = [[1e4, 1e4], [-1e4, -1e4], [1e4, -1e4], [0.0, -1e4], [0.0, 1e4]]
    for scores in ([row] for row in rows):
        for threshold in (1.0, 0.5):
            options = {"fairness_threshold": threshold} if name == "adaptive-alpha" else {}
            rule = make_aggregation(name, **options)
            assert np.isfinite(rule(np.array(scores, dtype=np.float32), GROUPS)).all()


def test_groups_that_are_all_served_as_badly_as_can_be_are_alike():
    rule = AdaptiveAlpha(fairness_threshold=0.5)
    rule(np.full((2, 2), -1e4), GROUPS)
    assert rule.weights == {"A": 0.5, "B": 0.5}


@every_rule
@pytest.mark.filterwarnings("error")
def test_no_responses_give_no_scores_and_leave_no_trace(name):
    rule = make_aggregation(name)
    assert rule(np.zeros((0, 2)), GROUPS).shape == (0,)
    assert rule(SCORES, GROUPS) == pytest.approx(make_aggregation(name)(SCORES, GROUPS))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("median", {}, r"^Unknown aggregation 'median': expected one of mean, min, max, nash, "),
        ("nahs", {}, "Did you mean 'nash'"),
        ("mean", {"decay": 0.5}, "'mean' does not take the options decay: it takes none"),
        ("adaptive-alpha", {"alpha": 1.0}, "alpha: it takes temperature, decay, fairness_thresh"),
        ("adaptive-alpha", {"temperature": 0.0}, "temperature = 0.0: expected a number above 0"),
        ("adaptive-alpha", {"temperature": float("nan")}, "temperature = nan: expected"),
        ("adaptive-alpha", {"decay": 1.0}, "decay = 1.0: expected a number from 0 to below 1"),
        ("adaptive-alpha", {"decay": -0.1}, "decay = -0.1: expected"),
        ("adaptive-alpha", {"fairness_threshold": 0.0}, "fairness_threshold = 0.0: expected"),
        ("adaptive-alpha", {"fairness_threshold": 1.5}, "fairness_threshold = 1.5: expected"),
    ],
)
def test_a_rule_that_there_is_not_is_one_error(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_aggregation(name, **options)
