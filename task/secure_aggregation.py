"""Secure aggregation: the numbers that the server and its clients must agree upon.

SecAgg+ (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020)
adds vectors of integers modulo 2^32. Suffixes: P entries of an update, V = P + 1 of what is masked:
the weighted update, and the weight.
"""

import math

import numpy as np
from numpy.typing import NDArray

from task.config import RunConfig
from task.errors import ConfigError

MIN_CLIENTS = 3
"""Of two clients, each could take its own update off the sum."""

MODULUS = 2**32
MIN_LEVELS = 2**22
"""Flower's default number of steps of the quantisation; more where few clients leave room."""

UNCLIPPED_RANGE = 1.0
"""Largest magnitude of an update's entry without `strategy.clipping-norm`; a round of the default
settings moves a parameter by some 0.01."""

NOISE_MARGIN = 8.0
"""Standard deviations of noise that the range has room for; an entry is beyond with 1e-15."""

ALL_NEIGHBOURS = 16


def least_survivors(num_clients: int, min_valid_fraction: float) -> int:
    """Return how many of so many clients must remain: `train.min-valid-fraction`, most, and 3."""
    wanted = math.ceil(min_valid_fraction * num_clients)
    return max(MIN_CLIENTS, num_clients // 2 + 1, wanted)


def num_shares(num_clients: int) -> int:
    """Return into how many shares each client's secrets are split, its own included.

    All clients up to 16, then the odd number above 4 log2 of them: so many neighbours a client
    exchanges masks with.
    """
    if num_clients <= ALL_NEIGHBOURS:
        return num_clients
    return min(num_clients, math.ceil(4 * math.log2(num_clients)) | 1)


def num_levels(num_clients: int) -> int:
    """Return the number of steps of the quantisation, R: a power of two.

    As large as the sum of so many clients' integers from 0 to R can be below 2^32.

    Raises:
        ConfigError: too many clients for `MIN_LEVELS`.
    """
    levels = 1 << (((MODULUS - 1) // num_clients).bit_length() - 1)
    if levels < MIN_LEVELS:
        raise ConfigError(
            f"privacy.secure-aggregation: {num_clients} clients in a round, expected at most "
            f"{(MODULUS - 1) // MIN_LEVELS}: the sum of their integers would overflow. Set "
            "train.clients-per-round."
        )
    return levels


def noise_std(config: RunConfig, clipping_norm: float, survivors: int) -> float:
    """Return the standard deviation of one client's share of the noise, on each entry.

    z C / sqrt(t): t clients' shares together have the standard deviation z C (`privacy.unit`
    `client`; otherwise 0).

    Args:
        config: z is `privacy.noise-multiplier`.
        clipping_norm: C, L2 norm of the largest update.
        survivors: t, the fewest clients in a sum.
    """
    if config.privacy.unit != "client":
        return 0.0
    return config.privacy.noise_multiplier * clipping_norm / math.sqrt(survivors)


def value_range(clipping_norm: float, std: float) -> float:
    """Return the largest magnitude of an entry that can be sent: a power of two.

    No entry of a clipped update is beyond the clipping norm, and noise hardly beyond 8 standard
    deviations. Powers of two keep the quantisation exact in float64.
    """
    largest = clipping_norm + NOISE_MARGIN * std if clipping_norm else UNCLIPPED_RANGE
    return float(2.0 ** math.ceil(math.log2(largest)))


def encode(
    update_P: NDArray[np.float64],
    weight: float,
    limit: float,
    levels: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the (V,) vector of a client: weight * update and weight * limit, on the grid.

    Entries are rounded up or down at random to multiples of 2 * limit / levels, so that the result
    is unbiased (as Flower does, whose own rounding then has nothing left to draw).

    Args:
        update_P: entries beyond the limit are clipped to it.
        weight: above 0 and at most 1.
        limit: from `value_range`.
        levels: from `num_levels`.
        random: decides how to round.
    """
    step = 2 * limit / levels
    values_V = np.append(update_P.clip(-limit, limit), limit) * weight
    grid_V: NDArray[np.float64] = np.floor(values_V / step + random.random(len(values_V))) * step
    return grid_V.clip(-limit, limit)


def decode(
    mean_V: NDArray[np.float64], num_clients: int, limit: float, levels: int, max_examples: int
) -> tuple[NDArray[np.float64], float]:
    """Return the (P,) weighted mean update and the sum of the weights, from the mean of vectors.

    Each entry is off by less than num_clients * step / (sum of weights / largest weight), where
    step = 2 * limit / levels: below one step if all clients weigh the same.

    Args:
        mean_V: unweighted mean of what `encode` returned.
        num_clients: how many vectors it is the mean of.
        limit: as in `encode`.
        levels: as in `encode`.
        max_examples: weights were numbers of examples over this; 0: all were 1.

    Raises:
        ValueError: no such vectors have this mean; masks were left in it, say.
    """
    most = max(1, max_examples)
    total = float(mean_V[-1] / limit * num_clients * most)
    weight = round(total)  # a sum of integers, each rounded to a multiple of 2 * most / levels
    tolerance = 2 * num_clients * most / levels + 1e-6
    if (
        not num_clients <= weight <= num_clients * most
        or abs(total - weight) > tolerance
        or (np.abs(mean_V) > limit * (1 + 1e-9)).any()
    ):
        raise ValueError("no clients' updates have this sum")
    mean_P: NDArray[np.float64] = mean_V[:-1] * (num_clients * most / weight)
    return mean_P, float(weight)
