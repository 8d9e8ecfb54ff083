import math

import pytest
import torch

from server_app.strategies.adaptive_alpha import AdaptiveAlpha
from task import records
from tests.server_app.strategies.rounds import (
    assert_same_rounds,
    result,
    spread,
    three_of_five,
    weights_of,
)


def scores(rule: AdaptiveAlpha, **reported: float) -> list[float]:
    return weights_of(rule, records.SCORE_BEFORE, **reported)


def share(of: float, *others: float) -> float:
    """e^of over all of them."""
    return math.exp(of) / sum(math.exp(each) for each in (of, *others))


def test_a_group_counts_by_how_far_its_moving_average_is_from_1() -> None:
    rule = AdaptiveAlpha(temperature=0.1, decay=0.75)
    # (1 - 0.8) / 0.1 = 2 and (1 - 0.6) / 0.1 = 4
    assert scores(rule, A=0.8, B=0.6) == pytest.approx([share(2, 4), share(4, 2)])
    # A: 0.75 * 0.8 + 0.25 * 0.4 = 0.7; B: 0.75 * 0.6 + 0.25 * 1.0 = 0.7
    assert scores(rule, A=0.4, B=1.0) == pytest.approx([0.5, 0.5])
    # A: 0.75 * 0.7 + 0.25 * 0.3 = 0.6; B: 0.75 * 0.7 + 0.25 * 0.9 = 0.75
    assert scores(rule, A=0.3, B=0.9) == pytest.approx([share(4, 2.5), share(2.5, 4)])


def test_without_decay_the_last_score_alone_counts() -> None:
    rule = AdaptiveAlpha(temperature=0.1, decay=0.0)
    scores(rule, A=0.2, B=0.9)
    assert scores(rule, A=0.8, B=0.6) == pytest.approx([share(2, 4), share(4, 2)])


def test_at_the_default_temperature_a_score_of_0_07_less_counts_twice_as_much() -> None:
    less, more = scores(AdaptiveAlpha(), A=0.77, B=0.7)
    assert more / less == pytest.approx(2, abs=0.02)


def test_groups_that_were_missing_keep_their_average_and_newcomers_start_with_their_score() -> None:
    rule = AdaptiveAlpha(temperature=0.1, decay=0.5)
    scores(rule, A=0.8, B=0.6)
    # B: (0.6 + 0.8) / 2 = 0.7; C starts with 0.5
    assert scores(rule, B=0.8, C=0.5) == pytest.approx([share(3, 5), share(5, 3)])
    # A: (0.8 + 0.6) / 2 = 0.7; B: (0.7 + 0.5) / 2 = 0.6
    assert scores(rule, A=0.6, B=0.5) == pytest.approx([share(3, 4), share(4, 3)])


def test_from_the_fairness_threshold_on_all_groups_count_the_same() -> None:
    # mean 0.7, standard deviation 0.1: the fairness index is 1 / (1 + 1/49) = 0.98
    unequal = pytest.approx([share(2, 4), share(4, 2)])
    for threshold, expected in ((0.979, [0.5, 0.5]), (0.981, unequal), (1.0, unequal)):
        rule = AdaptiveAlpha(temperature=0.1, fairness_threshold=threshold)
        assert scores(rule, A=0.8, B=0.6) == expected


def test_the_average_goes_on_while_all_groups_count_the_same() -> None:
    rule = AdaptiveAlpha(temperature=0.1, decay=0.5, fairness_threshold=0.979)
    assert scores(rule, A=0.8, B=0.6) == [0.5, 0.5]
    # A: 0.9, B: 0.4: the fairness index is 1 / (1 + (0.25 / 0.65)^2) = 0.87
    assert scores(rule, A=1.0, B=0.2) == pytest.approx([share(1, 6), share(6, 1)])


def test_parameters_are_the_mean_under_the_weights() -> None:
    rule = AdaptiveAlpha(temperature=0.1 / math.log(3))  # 0.1 less counts three times as much
    groups = [
        result("A", (1.0, 4.0), alignment_score_before_training=0.7),
        result("B", (5.0, 0.0), alignment_score_before_training=0.6),
    ]
    found = rule.combine(torch.zeros(2, dtype=torch.float64), groups)
    assert found.tolist() == pytest.approx([0.25 * 1 + 0.75 * 5, 1.0])
    assert rule.group_weights == pytest.approx({"A": 0.25, "B": 0.75})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: expected a number above 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"decay": 1.0}, "decay = 1.0: expected a number from 0 to below 1"),
        ({"decay": -0.1}, "decay"),
        ({"fairness_threshold": 0.0}, "fairness_threshold = 0.0: expected above 0, at most 1"),
        ({"fairness_threshold": 1.1}, "fairness_threshold"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AdaptiveAlpha(**options)


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    average: dict[str, float] = {}

    def weigh(reported: dict[str, float]) -> dict[str, float]:
        for group, score in reported.items():
            average[group] = 0.5 * average.get(group, score) + 0.5 * score
        tilted = {group: math.exp((1 - average[group]) / 0.1) for group in reported}
        return {group: value / sum(tilted.values()) for group, value in tilted.items()}

    config = three_of_five("adaptive-alpha", "temperature=0.1 decay=0.5")
    weights = assert_same_rounds(config, records.SCORE_BEFORE, weigh)
    assert spread(weights[-1]) > 0.1
