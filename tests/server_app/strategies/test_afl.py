import pytest
import torch

from server_app.strategies.afl import AFL
from task import records
from tests.server_app.strategies.rounds import (
    assert_same_rounds,
    losses,
    result,
    spread,
    three_of_five,
)


def test_the_mixture_takes_a_projected_step_along_the_losses_after_it_was_used() -> None:
    rule = AFL(weight_learning_rate=3.0)  # of three groups: shares move by the losses
    third = 1 / 3
    assert losses(rule, A=0.2, B=0.5, C=0.3) == pytest.approx([third, third, third])
    # 1/3 + loss, in sum 2: less 1/3 each
    assert losses(rule, A=0.0, B=0.6, C=0.0) == pytest.approx([0.2, 0.5, 0.3])
    # 0.2, 1.1, 0.3, in sum 1.6: less 0.2 each, which leaves A nothing
    assert losses(rule, A=0.5, B=0.0, C=0.0) == pytest.approx([0.0, 0.9, 0.1])
    # 0.5, 0.9, 0.1, in sum 1.5: without C, which would be below 0, less 0.2 each
    assert losses(rule, A=0.0, B=0.0, C=0.0) == pytest.approx([0.3, 0.7, 0.0])


def test_the_step_is_in_equal_shares_and_0_moves_nothing() -> None:
    rule = AFL(weight_learning_rate=0.5)
    losses(rule, A=0.4, B=0.0)
    # 0.5 + 0.5 * 0.4 / 2 and 0.5, in sum 1.1: less 0.05 each
    assert losses(rule, A=0.0, B=0.0) == pytest.approx([0.55, 0.45])
    still = AFL(weight_learning_rate=0)
    losses(still, A=4.0, B=0.0)
    assert losses(still, A=4.0, B=0.0) == [0.5, 0.5]


def test_groups_that_were_missing_keep_their_share_and_newcomers_have_an_average_one() -> None:
    rule = AFL(weight_learning_rate=2.0)  # of two groups: shares move by the losses
    losses(rule, A=0.1, B=0.3)  # leaves A 0.4 and B 0.6 of two groups: 0.8 and 1.2 of an equal part
    assert losses(rule, B=0.1, C=0.1) == pytest.approx([1.2 / 2.2, 1 / 2.2])
    # equal losses move nothing: A has 0.8, B 1.2 and C 1
    assert losses(rule, A=0.0, B=0.0) == pytest.approx([0.4, 0.6])
    assert losses(rule, A=0.0, B=0.0, C=0.0) == pytest.approx([0.8 / 3, 1.2 / 3, 1 / 3])


def test_what_the_groups_of_a_round_have_together_stays_the_same() -> None:
    rule = AFL(weight_learning_rate=2.0)  # of two groups: shares move by the losses
    losses(rule, A=0.1, B=0.3)  # leaves A 0.4 and B 0.6 of two equal parts: 0.8 and 1.2
    # 6/11 + 0.1 and 5/11, in sum 1.1: less 0.05 each, of 2.2 equal parts
    losses(rule, B=0.1, C=0.0)
    b, c = (6 / 11 + 0.05) * 2.2, (5 / 11 - 0.05) * 2.2
    assert b + c == pytest.approx(2.2)
    assert losses(rule, A=0.0, B=0.0, C=0.0) == pytest.approx([0.8 / 3, b / 3, c / 3])


def test_rounds_in_which_groups_are_absent_do_not_erase_what_they_have() -> None:
    rule = AFL(weight_learning_rate=0.2)
    losses(rule, A=2.0, B=2.0, C=0.1, D=0.1)
    # 0.25 + 0.2 * 2 / 4 = 0.35 and 0.25 + 0.2 * 0.1 / 4 = 0.255, in sum 1.21: less 0.0525 each
    for _ in range(5):
        assert losses(rule, A=2.0, B=2.0) == pytest.approx([0.5, 0.5])
        assert losses(rule, C=0.1, D=0.1) == pytest.approx([0.5, 0.5])
    expected = [0.2975, 0.2975, 0.2025, 0.2025]
    assert losses(rule, A=0.0, B=0.0, C=0.0, D=0.0) == pytest.approx(expected)


def test_groups_that_count_nothing_and_meet_alone_count_the_same() -> None:
    rule = AFL(weight_learning_rate=3.0)
    losses(rule, A=0.0, B=9.0, C=0.0)
    assert losses(rule, A=0.0, B=0.0, C=0.0) == [0, 1, 0]
    assert losses(rule, A=0.0, C=0.2) == [0.5, 0.5]


def test_parameters_are_the_mean_under_the_mixture() -> None:
    rule = AFL(weight_learning_rate=3.0)
    losses(rule, A=0.2, B=0.5, C=0.3)
    groups = [
        result(name, values, loss_before_training=0.0)
        for name, values in (("A", (1.0, 0.0)), ("B", (2.0, 10.0)), ("C", (4.0, -10.0)))
    ]
    # 0.2 * 1 + 0.5 * 2 + 0.3 * 4, and 5 - 3
    found = rule.combine(torch.tensor([7.0, 7.0], dtype=torch.float64), groups)
    assert found.tolist() == pytest.approx([2.4, 2.0])
    assert rule.group_weights == pytest.approx({"A": 0.2, "B": 0.5, "C": 0.3})


def test_a_step_below_0_is_refused() -> None:
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"weight_learning_rate = .*expected >= 0"):
            AFL(weight_learning_rate=wrong)


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    kept: dict[str, float] = {}  # of an equal part

    def weigh(reported: dict[str, float]) -> dict[str, float]:
        total = sum(kept.get(group, 1.0) for group in reported)
        mixture = {group: kept.get(group, 1.0) / total for group in reported}
        moved = {group: mixture[group] + 9 * loss / 3 for group, loss in reported.items()}
        low, high = min(moved.values()) - 1, max(moved.values())
        for _ in range(200):  # the level above which the parts add up to 1
            level = (low + high) / 2
            above = sum(max(value - level, 0) for value in moved.values())
            low, high = (level, high) if above > 1 else (low, level)
        kept.update({group: max(value - low, 0) * total for group, value in moved.items()})
        return mixture

    config = three_of_five("afl", "weight-learning-rate=9.0")
    weights = assert_same_rounds(config, records.LOSS_BEFORE, weigh)
    assert spread(weights[-1]) > 0.1
