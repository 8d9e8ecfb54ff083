"""Intervals, tests and convergence of scores measured with several seeds on several groups.

Suffixes: S seeds, G groups.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from task.seeding import generator

LEVEL = 0.95
NUM_RESAMPLES = 10_000

PAIRED_TEST = (
    "Difference: macro mean over groups of seed-averaged paired differences. p: two-sided "
    "sign-flip permutation test over groups, exact up to 13 groups. Interval: 95 % two-way "
    "(pigeonhole) bootstrap over seeds and groups."
)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over seeds.

    Raises:
        ValueError: there are fewer than two values.
    """
    values_S = np.asarray(values, dtype=np.float64)
    if len(values_S) < 2:
        raise ValueError(f"{len(values_S)} value(s): an interval over seeds needs at least 2.")
    drawn = generator(0, "bootstrap").integers(0, len(values_S), (NUM_RESAMPLES, len(values_S)))
    return _percentiles(values_S[drawn].mean(1))


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


def sign_flip_p_value(differences_SG: NDArray[np.float64]) -> float:
    """Return the two-sided p value of the hypothesis that differences are symmetric about 0.

    The groups' seed-averaged differences are what is flipped: seeds of a group are no independent
    evidence about other groups. All 2^G flips are tried up to 13 groups, else 9,999 at random.
    """
    means_G = differences_SG.mean(0)
    if not means_G.any():
        return 1.0
    tested = permutation_test(
        (means_G,),
        np.mean,
        permutation_type="samples",
        n_resamples=9_999,
        rng=generator(0, "sign flips"),
    )
    return float(tested.pvalue)


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
    """
    goal = LEVEL * scores[-1]
    if of_gain:
        goal = scores[0] + LEVEL * (scores[-1] - scores[0])
    return next(p for p, score in zip(positions, scores, strict=True) if score >= goal)


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
