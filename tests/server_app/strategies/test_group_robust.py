import math

import numpy as np
import pytest
import torch

from server_app.strategies.group_robust import GroupRobust
from task import records
from tests.server_app.strategies.rounds import (
    assert_same_rounds,
    losses,
    result,
    spread,
    three_of_five,
)

LN2, LN3, LN4 = map(math.log, (2, 3, 4))


def test_weights_are_multiplied_by_the_exponential_of_the_loss_before_they_are_used() -> None:
    rule = GroupRobust(weight_learning_rate=1.0)
    assert losses(rule, A=0.0, B=LN2, C=LN4) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert losses(rule, A=0.0, B=LN2, C=LN4) == pytest.approx([1 / 21, 4 / 21, 16 / 21])
    assert losses(rule, A=LN4, B=0.0, C=-LN4) == pytest.approx([4 / 12, 4 / 12, 4 / 12])


def test_the_step_is_the_loss_times_the_weight_learning_rate() -> None:
    assert losses(GroupRobust(weight_learning_rate=0.5), A=0.0, B=2 * LN3) == pytest.approx(
        [0.25, 0.75]
    )
    assert losses(GroupRobust(weight_learning_rate=0), A=9.0, B=0.0) == [0.5, 0.5]


def test_groups_that_were_missing_keep_their_weight_and_newcomers_have_an_average_one() -> None:
    rule = GroupRobust(weight_learning_rate=1.0)
    assert losses(rule, A=0.0, B=LN3) == pytest.approx([0.25, 0.75])  # 0.5, 1.5 of an equal part
    assert losses(rule, B=0.0, C=0.0) == pytest.approx([1.5 / 2.5, 1 / 2.5])  # 1.2 and 0.8
    assert losses(rule, A=0.0, B=0.0, C=0.0) == pytest.approx([0.2, 0.48, 0.32])


def test_parameters_are_the_mean_under_the_new_weights() -> None:
    rule = GroupRobust(weight_learning_rate=1.0)
    groups = [
        result("A", (1.0, 0.0), loss_before_training=0.0),
        result("B", (5.0, -4.0), loss_before_training=LN3),
    ]
    found = rule.combine(torch.zeros(2, dtype=torch.float64), groups)
    assert found.tolist() == pytest.approx([0.25 * 1 + 0.75 * 5, -3.0])
    assert rule.group_weights == pytest.approx({"A": 0.25, "B": 0.75})


def test_groups_whose_weight_has_vanished_still_have_one_when_they_meet_alone() -> None:
    rule = GroupRobust(weight_learning_rate=1.0)
    losses(rule, A=0.0, B=1000.0, C=0.0)  # e^-1000 is 0 to a computer
    groups = [result(name, loss_before_training=0.0) for name in "AC"]
    assert np.isfinite(rule.weigh(groups)).all()


def test_a_step_below_0_is_refused() -> None:
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"weight_learning_rate = .*expected >= 0"):
            GroupRobust(weight_learning_rate=wrong)


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    kept: dict[str, float] = {}

    def weigh(reported: dict[str, float]) -> dict[str, float]:
        grown = {g: kept.get(g, 1.0) * math.exp(8 * loss) for g, loss in reported.items()}
        weights = {group: value / sum(grown.values()) for group, value in grown.items()}
        kept.update({group: weight * len(weights) for group, weight in weights.items()})
        return weights

    config = three_of_five("group-robust", "weight-learning-rate=8.0")
    weights = assert_same_rounds(config, records.LOSS_BEFORE, weigh)
    assert spread(weights[-1]) > 0.1
