"""What a privacy budget buys: how many releases, or how little noise."""

import math
from collections.abc import Callable

from task.errors import ConfigError

MOST_NOISE = 1e4


def affordable(cost: Callable[[int], float], budget: float, most: int) -> int:
    """Return how many of at most so many releases a budget lasts for.

    Args:
        cost: number of releases to epsilon, not decreasing.
        budget: the largest epsilon.
        most: the number wanted.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if cost(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def calibrate(cost: Callable[[float], float], epsilon: float) -> float:
    """Return the smallest noise multiplier, to 0.1 %, whose cost is at most an epsilon.

    Args:
        cost: noise multiplier to epsilon, decreasing.
        epsilon: the target, above 0.

    Raises:
        ConfigError: no noise multiplier up to 10,000 reaches it.
    """
    high = 1.0
    while cost(high) > epsilon:
        high *= 2
        if high > MOST_NOISE:
            raise ConfigError(
                f"epsilon = {epsilon}: not even a noise multiplier of {MOST_NOISE:.0f} reaches it. "
                "Take a larger epsilon, fewer rounds or smaller cohorts."
            )
    # Small multipliers take accountants long: the other end is looked for step by step.
    low = high / 2
    while cost(low) <= epsilon:
        low, high = low / 2, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high
