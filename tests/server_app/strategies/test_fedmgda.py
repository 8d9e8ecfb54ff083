import itertools

import numpy as np
import pytest
import torch

from server_app.strategies.fedmgda import FedMGDA
from tests.server_app.strategies.rounds import result, run, three_of_five
from tests.server_app.training import local_updates, start_of

START = (10.0, -10.0)


def combined(rule: FedMGDA, **updates: tuple[float, ...]) -> list[float]:
    """How the parameters move when the groups' updates are these."""
    start = torch.tensor(START, dtype=torch.float64)
    groups = [
        result(group, (start + torch.tensor(update)).tolist()) for group, update in updates.items()
    ]
    return (rule.combine(start, groups) - start).tolist()


# As directions A and B are the same; their lengths are 1, 2 and 3, on average 2.
UPDATES = {"A": (1.0, 0.0), "B": (2.0, 0.0), "C": (0.0, 3.0)}


@pytest.mark.parametrize(
    ("epsilon", "weights", "move"),
    [
        (0.0, (1 / 3, 1 / 3, 1 / 3), (4 / 3, 2 / 3)),
        (0.1, (0.85 / 3, 0.85 / 3, 1.3 / 3), (3.4 / 3, 2.6 / 3)),
        (1.0, (0.25, 0.25, 0.5), (1.0, 1.0)),
    ],
)
def test_the_move_is_the_shortest_mix_of_directions_times_the_mean_length(
    epsilon: float, weights: tuple[float, ...], move: tuple[float, ...]
) -> None:
    rule = FedMGDA(epsilon=epsilon)
    assert combined(rule, **UPDATES) == pytest.approx(move, abs=1e-6)
    a, b, c = (rule.group_weights[group] for group in "ABC")
    assert (a + b, c) == pytest.approx((weights[0] + weights[1], weights[2]), abs=1e-6)
    assert sum(rule.group_weights.values()) == pytest.approx(1)


def test_the_step_is_a_multiple_of_the_mean_length() -> None:
    rule = FedMGDA(epsilon=1.0, server_learning_rate=0.5)
    assert combined(rule, **UPDATES) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_two_groups_that_want_the_opposite_move_nothing() -> None:
    assert combined(FedMGDA(), A=(1.0, 2.0), B=(-2.0, -4.0)) == pytest.approx((0, 0), abs=1e-9)


def test_an_update_of_0_and_a_group_alone_are_no_obstacle() -> None:
    assert combined(FedMGDA(epsilon=0.0), A=(0.0, 0.0), B=(0.0, 4.0)) == pytest.approx((0, 1))
    assert combined(FedMGDA(), A=(0.0, 0.0), B=(0.0, 0.0)) == [0, 0]
    assert combined(FedMGDA(), A=(3.0, 4.0)) == pytest.approx((3, 4))


def test_clients_are_asked_for_nothing() -> None:
    assert FedMGDA().reports == ()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"epsilon": -0.1}, "epsilon = -0.1: expected a number from 0 to 1"),
        ({"epsilon": 1.1}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"server_learning_rate": 0.0}, "server_learning_rate = 0.0: expected > 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FedMGDA(**options)


def shortest(directions: np.ndarray) -> np.ndarray:
    """The weights of the shortest mix: try every set of groups that may count."""
    best, least = None, np.inf
    gram = directions @ directions.T
    for size in range(1, len(gram) + 1):
        for chosen in map(list, itertools.combinations(range(len(gram)), size)):
            inside = np.linalg.solve(gram[np.ix_(chosen, chosen)], np.ones(size))
            weights = np.zeros(len(gram))
            weights[chosen] = inside / inside.sum()
            norm = np.linalg.norm(weights @ directions)
            if weights.min() >= 0 and norm < least:
                best, least = weights, norm
    return best


@pytest.mark.usefixtures("one_thread")
def test_rounds_equal_a_slow_loop_with_groups_that_come_and_go() -> None:
    config = three_of_five("fedmgda+", "epsilon=1.0 server-learning-rate=0.5")
    parameters, asked, weights = run(config)
    assert len({tuple(groups) for groups in asked}) > 1
    expected = start_of(config)
    for server_round, groups in enumerate(asked, 1):
        flat = np.concatenate([values.ravel() for values in expected.values()]).astype(float)
        updates = [
            np.concatenate([u.parameters[name].double().numpy().ravel() for name in expected])
            - flat
            for u in local_updates(config, groups, start=expected, server_round=server_round)
        ]
        lengths = [float(np.sqrt((update**2).sum())) for update in updates]
        directions = np.array([u / n for u, n in zip(updates, lengths, strict=True)])
        mix = shortest(directions)
        found = [weights[server_round - 1][group] for group in groups]
        np.testing.assert_allclose(found, mix, atol=1e-3)
        flat += 0.5 * sum(lengths) / len(lengths) * (mix @ directions)
        sizes = np.cumsum([values.size for values in expected.values()])[:-1]
        expected = {
            name: part.reshape(expected[name].shape).astype(np.float32)
            for name, part in zip(expected, np.split(flat, sizes), strict=True)
        }
    for name, values in parameters.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=2e-4, err_msg=name)
