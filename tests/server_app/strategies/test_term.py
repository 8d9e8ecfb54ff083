import math

import pytest
import torch

from server_app.strategies.term import TERM
from task import records
from tests.server_app.strategies.rounds import (
    assert_same_rounds,
    losses,
    result,
    spread,
    three_of_five,
)

LN2, LN5 = math.log(2), math.log(5)


@pytest.mark.parametrize(
    ("tilt", "expected"),
    [
        (1.0, [1 / 8, 2 / 8, 5 / 8]),
        (0.0, [1 / 3, 1 / 3, 1 / 3]),
        (2.0, [1 / 30, 4 / 30, 25 / 30]),
        (-1.0, [10 / 17, 5 / 17, 2 / 17]),
        (1e6, [0, 0, 1]),
        (-1e6, [1, 0, 0]),
    ],
)
def test_groups_count_by_the_exponential_of_their_tilted_loss(
    tilt: float, expected: list[float]
) -> None:
    rule = TERM(tilt=tilt)
    for _ in range(2):  # a round remembers nothing of the one before
        assert losses(rule, A=0.0, B=LN2, C=LN5) == pytest.approx(expected)


def test_parameters_are_the_mean_under_the_weights() -> None:
    rule = TERM(tilt=1.0)
    groups = [
        result("A", (8.0, 0.0), loss_before_training=0.0),
        result("B", (0.0, 4.0), loss_before_training=LN2),
        result("C", (1.6, -8.0), loss_before_training=LN5),
    ]
    found = rule.combine(torch.zeros(2, dtype=torch.float64), groups)
    assert found.tolist() == pytest.approx([1.0 + 1.0, 1.0 - 5.0])
    assert rule.group_weights == pytest.approx({"A": 1 / 8, "B": 2 / 8, "C": 5 / 8})


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    def weigh(reported: dict[str, float]) -> dict[str, float]:
        tilted = {group: math.exp(9 * loss) for group, loss in reported.items()}
        return {group: value / sum(tilted.values()) for group, value in tilted.items()}

    weights = assert_same_rounds(three_of_five("term", "tilt=9"), records.LOSS_BEFORE, weigh)
    assert spread(weights[-1]) > 0.1
