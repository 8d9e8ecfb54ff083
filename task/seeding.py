"""All randomness of a run, derived from (seed, round, group, purpose)."""

import hashlib

import numpy as np


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed that depends on every part, the same on every machine.

    Args:
        seed: the run's seed (`run.seed`).
        *parts: what the random numbers are for, for example a purpose, a round, a group.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a NumPy generator for (seed, parts); see `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *parts))
