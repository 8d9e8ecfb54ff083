"""Noise that is correlated over rounds, so that later rounds take some of earlier ones' off again.

Training sums up what the rounds release, so noise that cancels in the sum costs less utility. For
clients that take part in turns, which cannot be amplified by sampling. Suffixes: b bands, P entries
of the parameter vector.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray


def band_coefficients(num_bands: int) -> NDArray[np.float64]:
    """Return the (b,) first column of the strategy matrix, of norm 1.

    The banded square root of the matrix of prefix sums: binom(2k, k) / 4^k
    (arXiv 2405.13763, section 3).
    """
    coefficients = np.ones(num_bands)
    for k in range(1, num_bands):
        coefficients[k] = coefficients[k - 1] * (2 * k - 1) / (2 * k)
    normed: NDArray[np.float64] = coefficients / np.linalg.norm(coefficients)
    return normed


class CorrelatedNoise:
    """Turns independent noise into rows of C^-1 Z, C banded and Toeplitz (arXiv 2306.08153).

    Args:
        num_bands: over how many rounds noise is correlated; 1: not at all.
    """

    def __init__(self, num_bands: int) -> None:
        self._coefficients = band_coefficients(num_bands)
        self._earlier: deque[NDArray[np.float64]] = deque(maxlen=num_bands - 1)

    def next(self, independent_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next round's noise, made of that round's independent noise."""
        noise_P = independent_P.copy()
        for coefficient, earlier_P in zip(self._coefficients[1:], self._earlier, strict=False):
            noise_P -= coefficient * earlier_P
        noise_P /= self._coefficients[0]
        if self._earlier.maxlen:
            self._earlier.appendleft(noise_P)
        return noise_P

    def earlier(self) -> list[NDArray[np.float64]]:
        """Return the (P,) noise of the rounds before that the next one is correlated with."""
        return list(self._earlier)

    def continue_after(self, earlier: list[NDArray[np.float64]]) -> None:
        """Take over what `earlier` gave."""
        self._earlier.clear()
        self._earlier.extend(earlier)
