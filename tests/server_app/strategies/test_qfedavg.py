import numpy as np
import pytest

from server_app.strategies import make_strategy
from server_app.strategies.qfedavg import QFedAvg
from task import records
from task.errors import ConfigError
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.strategies.test_group_weighting import Node, W, a_round, options

# Clients of loss 2 and 3 move all six entries of w by -1 and 2.
NODES = [Node("A", shift=-1.0, said=2.0), Node("B", shift=2.0, said=3.0)]


def moved(q: float, rate: float, nodes: list[Node] = NODES) -> np.ndarray:
    arrays, _ = a_round(QFedAvg(q=q, client_learning_rate=rate, **options()), nodes)
    return arrays["w"] - W


def test_a_step_worked_out_by_hand() -> None:
    # With L = 1 / 2: gradients of 0.5 and -1, times the losses 1 and -3.
    # h = |gradient|^2 + L * loss: 6 * 0.25 + 1 = 2.5 and 6 * 1 + 1.5 = 7.5
    np.testing.assert_allclose(moved(1.0, 2.0), np.full((2, 3), 2 / 10), rtol=1e-5)


def test_with_a_q_of_0_all_clients_count_the_same_at_any_rate() -> None:
    for rate in (0.5, 30.0):
        np.testing.assert_allclose(moved(0.0, rate), np.full((2, 3), 0.5), rtol=1e-5)


def test_a_client_with_a_higher_loss_counts_more() -> None:
    other = [Node("A", shift=-1.0, said=3.0), Node("B", shift=2.0, said=2.0)]
    assert (moved(0.1, 30.0) > moved(0.1, 30.0, other)).all()


def test_the_rate_is_not_adams_own() -> None:
    """A step at Adam's rate would be a thousand times too small."""
    strategy = make_strategy(tiny_config(strategy__name="qfedavg", train__learning_rate=0.02))
    assert (strategy.q, strategy.client_learning_rate) == (0.1, 30.0)
    assert strategy.train_loss_key == records.LOSS


def test_its_options_are_q_and_the_rate_alone() -> None:
    chosen = tiny_config(strategy__name="qfedavg", strategy__options="q=1 client-learning-rate=3")
    strategy = make_strategy(chosen)
    assert (strategy.q, strategy.client_learning_rate) == (1.0, 3.0)
    with pytest.raises(ConfigError, match=r"qfedavg takes: q=0\.1, client-learning-rate=30\.0\."):
        make_strategy(tiny_config(strategy__name="qfedavg", strategy__options="train-loss-key=x"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"q": -0.1}, "q = -0.1: expected a number >= 0"),
        ({"q": float("nan")}, "q = nan"),
        ({"client_learning_rate": 0.0}, "client_learning_rate = 0.0: expected > 0"),
        ({"client_learning_rate": float("nan")}, "client_learning_rate = nan"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        QFedAvg(**options)
