import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.calibration import affordable, calibrate
from task.errors import ConfigError
from tests.task.test_accounting import gaussian_epsilon


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.floats(0, 20))
def test_a_budget_lasts_for_as_many_releases_as_one_by_one(
    prices: list[float], budget: float
) -> None:
    totals = np.concatenate(([0.0], np.cumsum(prices)))
    one_by_one = 0
    while one_by_one < len(prices) and totals[one_by_one + 1] <= budget:
        one_by_one += 1
    lasts = affordable(lambda number: float(totals[number]), budget, len(prices))
    assert totals[lasts] == totals[one_by_one]
    assert lasts >= one_by_one


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 300.0])
def test_the_noise_for_an_epsilon_is_enough_and_little_less_is_not(epsilon: float) -> None:
    def cost(multiplier: float) -> float:
        return gaussian_epsilon(multiplier)

    found = calibrate(cost, epsilon)
    assert cost(found) <= epsilon < cost(found / 1.002)


def test_an_epsilon_that_no_noise_reaches_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not even a noise multiplier of 10000"):
        calibrate(lambda _: 1.0, 0.5)
