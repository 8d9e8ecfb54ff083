"""Drawing a round's cohort, as `train.sampling` says."""

from collections.abc import Sequence

import numpy as np

from task.config import RunConfig
from task.noise import SecureNoise
from task.seeding import generator


class CohortSampler:
    """Draws the training clients of each round; a draw is a function of (seed, round).

    With secure noise it is not, as who takes part must be a secret for amplification by sampling.

    Args:
        config: the run's settings.
        train_ids: ids of all training clients.
    """

    def __init__(self, config: RunConfig, train_ids: Sequence[int]) -> None:
        self._train_ids = sorted(train_ids)
        self._sampling = config.train.sampling
        self._seed = config.run.seed
        self._size = config.train.clients_per_round
        self._secure = config.privacy.secure_noise
        self._drawn: tuple[int, list[int]] = (0, [])  # of the last round asked for

    def cohort(self, server_round: int) -> list[int]:
        """Return the ids of a round's cohort, ascending; the same when asked again.

        A Poisson draw may be empty.
        """
        if self._drawn[0] != server_round:
            self._drawn = (server_round, sorted(self._draw(server_round)))
        return list(self._drawn[1])

    def _draw(self, server_round: int) -> list[int]:
        number = len(self._train_ids)
        if not 0 < self._size < number:
            return self._train_ids
        if self._sampling == "cyclic":
            order = generator(self._seed, "order of clients").permutation(self._train_ids)
            cohorts = np.array_split(order, -(-number // self._size))
            return [int(each) for each in cohorts[(server_round - 1) % len(cohorts)]]
        if self._sampling == "poisson":
            source = (
                SecureNoise() if self._secure else generator(self._seed, "cohort", server_round)
            )
            drawn = np.flatnonzero(source.random(number) < self._size / number)
            return [self._train_ids[place] for place in drawn.tolist()]
        if self._secure:
            keys = SecureNoise().random(number)
            return [self._train_ids[place] for place in np.argsort(keys)[: self._size].tolist()]
        random = generator(self._seed, "cohort", server_round)
        return [int(each) for each in random.choice(self._train_ids, self._size, replace=False)]
