"""Intervals, tests and convergence of scores measured with several seeds on several groups.

Suffixes: S seeds, G groups.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from task.seeding import generator

LEVEL = 0.95
NUM_RESAMPLES = 10_000

PAIRED_TEST = (
    "Difference: macro mean over groups of the seeds' paired differences. Interval: 95 % two-way "
    "(pigeonhole) bootstrap over seeds and groups. p: two-sided two-way t test over seeds and "
    "groups, as many degrees of freedom as the fewer of them less one."
)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over seeds.

    With few seeds it is too narrow: of normally distributed values it holds the mean in 84 % of all
    cases with five seeds, in 75 % with three.

    Raises:
        ValueError: there are fewer than two values.
    """
    values_S = np.asarray(values, dtype=np.float64)
    if len(values_S) < 2:
        raise ValueError(f"{len(values_S)} value(s): an interval over seeds needs at least 2.")
    drawn = generator(0, "bootstrap").integers(0, len(values_S), (NUM_RESAMPLES, len(values_S)))
    return _percentiles(values_S[drawn].mean(1))


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of a mean over seeds, which holds with few seeds too.

    Raises:
        ValueError: there are fewer than two values.
    """
    values_S = np.asarray(values, dtype=np.float64)
    if len(values_S) < 2:
        raise ValueError(f"{len(values_S)} value(s): an interval over seeds needs at least 2.")
    half = t.ppf((1 + LEVEL) / 2, len(values_S) - 1) * values_S.std(ddof=1) / len(values_S) ** 0.5
    mean = float(values_S.mean())
    return mean - float(half), mean + float(half)


def paired_interval(differences_SG: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences, over seeds and groups.

    Seeds and groups are crossed: both are resampled, independently (pigeonhole bootstrap, Owen
    2007, arXiv 0712.1111, section 3). So the interval is about other seeds and other groups.
    """
    random = generator(0, "pigeonhole bootstrap")
    num_seeds, num_groups = differences_SG.shape
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES)
    groups = random.multinomial(num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLES)
    means = np.einsum("rs,sg,rg->r", seeds, differences_SG, groups, optimize=True)
    return _percentiles(means / (num_seeds * num_groups))


def two_way_p_value(differences_SG: NDArray[np.float64]) -> float:
    """Return the two-sided p value of the hypothesis that the mean difference is 0.

    A t test over seeds and groups at once. All groups of a seed share its trained predictor and all
    seeds of a group its answers, so neither are independent: the variance of the mean is taken as
    that over seeds plus that over groups, which is never too small (Owen 2007, arXiv 0712.1111),
    with the degrees of freedom of the smaller of the two.
    """
    num_seeds, num_groups = differences_SG.shape
    mean = float(differences_SG.mean())
    variance = (
        differences_SG.mean(1).var(ddof=1) / num_seeds
        + differences_SG.mean(0).var(ddof=1) / num_groups
    )
    if not variance:
        return float(mean == 0)
    degrees = min(num_seeds, num_groups) - 1
    return float(2 * t.sf(abs(mean) / math.sqrt(variance), degrees))


def first_within(
    scores: Sequence[float], positions: Sequence[float], *, of_gain: bool = False
) -> float:
    """Return the first position at which a curve is within 95 % of its last value.

    Args:
        scores: the curve, its first value from before training.
        positions: where each score was measured: rounds, steps, seconds.
        of_gain: within 95 % of the way from the first to the last score, instead of 95 % of the
            last score as in the paper. Scores start far above 0, so the paper's criterion is mild.
            A curve that ends below its start has made its way at once: its first position.

    Returns:
        The position; NaN when the last score is.
    """
    goal = LEVEL * scores[-1]
    if of_gain:
        goal = scores[0] + LEVEL * (scores[-1] - scores[0])
    reached = (p for p, score in zip(positions, scores, strict=True) if score >= goal)
    return next(reached, math.nan)


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
