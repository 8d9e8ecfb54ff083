"""Noise for differential privacy: seeded, so that a run repeats, or from a secure generator."""

import math
import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from task.seeding import generator

_KEY_BYTES, _NONCE_BYTES = 32, 16


class Noise(Protocol):
    """A source of random numbers; both of the two below, and NumPy's generators, are one."""

    def random(self, size: int) -> NDArray[np.float64]:
        """Return (size,) uniform numbers in [0, 1)."""

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return (size,) standard normal numbers."""


class SecureNoise:
    """Random numbers that nobody can predict who does not have the key: ChaCha20's key stream.

    Args:
        key: 32 bytes; None: of the operating system's entropy. The same key gives the same numbers.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = os.urandom(_KEY_BYTES) if key is None else key
        cipher = Cipher(algorithms.ChaCha20(key, bytes(_NONCE_BYTES)), mode=None)
        self._stream = cipher.encryptor()

    def random(self, size: int) -> NDArray[np.float64]:
        """Return (size,) uniform numbers in [0, 1), multiples of 2^-53."""
        drawn = np.frombuffer(self._stream.update(bytes(8 * size)), dtype=np.uint64)
        return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return (size,) standard normal numbers (Box and Muller's transform)."""
        half = -(-size // 2)
        radius = np.sqrt(-2 * np.log1p(-self.random(half)))  # of 1 - u, which is never 0
        angle = 2 * math.pi * self.random(half)
        pairs = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
        normal: NDArray[np.float64] = pairs[:size]
        return normal


def hardened_normal(noise: Noise, size: int) -> NDArray[np.float64]:
    """Return (size,) standard normal numbers, each of four that are added up.

    A single floating-point one leaves holes among its possible sums with a private value, from
    which the value can be told (arXiv 2112.05307); those of four are out of reach of a search
    (arXiv 2107.10138, section 5.1). A defence against that attack, not a proof against all.
    """
    drawn: NDArray[np.float64] = noise.standard_normal(4 * size).reshape(4, size).sum(0) / 2
    return drawn


def noise_source(secure: bool, seed: int, *parts: str | int) -> Noise:
    """Return a source of noise: secure, or derived from (seed, parts) as all else in a run.

    Args:
        secure: `privacy.secure-noise`.
        seed: the run's seed.
        *parts: what the noise is for; see `task.seeding`.
    """
    return SecureNoise() if secure else generator(seed, "privacy noise", *parts)
