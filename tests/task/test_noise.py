import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from task.noise import SecureNoise, hardened_normal, noise_source

KEY = bytes(range(32))


def test_secure_numbers_are_the_key_stream_of_chacha20() -> None:
    cipher = Cipher(algorithms.ChaCha20(KEY, bytes(16)), mode=None)
    stream = cipher.encryptor().update(bytes(8 * 5))
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(5)]
    assert SecureNoise(KEY).random(5).tolist() == [(word >> 11) / 2**53 for word in words]


def test_the_stream_goes_on_and_does_not_start_again() -> None:
    noise = SecureNoise(KEY)
    parts = np.concatenate((noise.random(3), noise.random(4)))
    np.testing.assert_array_equal(parts, SecureNoise(KEY).random(7))
    assert len(set(parts.tolist())) == 7


def test_without_a_key_no_two_sources_are_alike() -> None:
    assert not np.array_equal(SecureNoise().random(4), SecureNoise().random(4))
    assert not np.array_equal(SecureNoise(KEY).random(4), SecureNoise(KEY[::-1]).random(4))


def test_secure_uniform_numbers_are_uniform_and_below_one() -> None:
    drawn = SecureNoise(KEY).random(50_000)
    assert 0 <= drawn.min() < drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("draw", ["standard_normal", "hardened"])
@pytest.mark.parametrize("secure", [True, False])
def test_normal_numbers_are_standard_normal_and_independent(secure: bool, draw: str) -> None:
    source = SecureNoise(KEY) if secure else noise_source(False, 0, "test")
    drawn = hardened_normal(source, 50001) if draw == "hardened" else source.standard_normal(50001)
    assert drawn.shape == (50_001,)
    assert drawn.dtype == np.float64
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    # Deviation of a variance of n: sqrt(2 / n); of a correlation: 1 / sqrt(n).
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / 50_001)
    for lag in (1, 25_000):  # Box and Muller make pairs, half of the numbers apart
        correlation = np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(50_001 - lag)


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_any_size_can_be_drawn(size: int) -> None:
    assert SecureNoise(KEY).standard_normal(size).shape == (size,)
    assert hardened_normal(SecureNoise(KEY), size).shape == (size,)


def test_seeded_noise_is_a_function_of_seed_and_parts() -> None:
    def drawn(seed: int, *parts: str | int) -> list[float]:
        return noise_source(False, seed, *parts).standard_normal(3).tolist()

    assert drawn(0, "update", 1, 0) == drawn(0, "update", 1, 0)
    others = [
        drawn(1, "update", 1, 0),
        drawn(0, "scores", 1, 0),
        drawn(0, "update", 2, 0),
        drawn(0, "update", 1, 1),
    ]
    assert drawn(0, "update", 1, 0) not in others
    assert len({tuple(each) for each in others}) == 4


def test_secure_noise_does_not_depend_on_the_seed() -> None:
    # A trap of Flower's wrappers: noise from NumPy's global generator, which a seed repeats.
    def drawn() -> list[float]:
        np.random.seed(0)
        return noise_source(True, 0, "update", 1).standard_normal(3).tolist()

    assert drawn() != drawn()
