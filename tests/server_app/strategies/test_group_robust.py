import math

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


def test_groups_that_were_missing_keep_their_weight_and_newcomers_begin_with_that_of_no_loss() -> (
    None
):
    rule = GroupRobust(weight_learning_rate=1.0)
    assert losses(rule, A=0.0, B=LN3) == pytest.approx([1 / 4, 3 / 4])
    assert losses(rule, B=0.0, C=LN2) == pytest.approx([3 / 5, 2 / 5])
    assert losses(rule, A=0.0, B=0.0, C=0.0) == pytest.approx([1 / 6, 3 / 6, 2 / 6])


def test_rounds_in_which_groups_are_absent_do_not_erase_what_they_lost() -> None:
    rule = GroupRobust(weight_learning_rate=0.1)
    for _ in range(5):
        assert losses(rule, A=2.0, B=2.0) == pytest.approx([0.5, 0.5])
        assert losses(rule, C=0.1, D=0.1) == pytest.approx([0.5, 0.5])
    # in five rounds each: 5 * 0.1 * 2.0 = 1 and 5 * 0.1 * 0.1 = 0.05
    high, low = math.exp(1.0), math.exp(0.05)
    both = 2 * (high + low)
    expected = [high / both, high / both, low / both, low / both]
    assert losses(rule, A=0.0, B=0.0, C=0.0, D=0.0) == pytest.approx(expected)


def test_weights_do_not_depend_on_who_met_whom() -> None:
    apart, together = (GroupRobust(weight_learning_rate=1.0) for _ in range(2))
    losses(apart, A=0.3, B=0.7)
    losses(apart, C=0.2, D=0.9)
    losses(together, A=0.3, B=0.7, C=0.2, D=0.9)
    last = [losses(rule, A=0.1, B=0.2, C=0.3, D=0.4) for rule in (apart, together)]
    assert last[0] == pytest.approx(last[1], rel=1e-12)


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
    assert rule.weigh(groups).tolist() == [0.5, 0.5]


def test_a_weight_that_has_vanished_comes_back_with_the_losses() -> None:
    rule = GroupRobust(weight_learning_rate=1.0)
    assert losses(rule, A=0.0, B=1000.0, C=0.0) == [0, 1, 0]
    assert losses(rule, A=1000.0, B=0.0, C=0.0) == pytest.approx([0.5, 0.5, 0])
    assert losses(rule, A=LN3, B=0.0, C=0.0) == pytest.approx([0.75, 0.25, 0])


def test_a_step_below_0_is_refused() -> None:
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"weight_learning_rate = .*expected >= 0"):
            GroupRobust(weight_learning_rate=wrong)


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    kept: dict[str, float] = {}

    def weigh(reported: dict[str, float]) -> dict[str, float]:
        grown = {g: kept.get(g, 1.0) * math.exp(8 * loss) for g, loss in reported.items()}
        kept.update(grown)
        return {group: value / sum(grown.values()) for group, value in grown.items()}

    config = three_of_five("group-robust", "weight-learning-rate=8.0")
    weights = assert_same_rounds(config, records.LOSS_BEFORE, weigh)
    assert spread(weights[-1]) > 0.1
