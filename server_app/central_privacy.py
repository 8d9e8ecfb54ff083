"""Central differential privacy for clients: noise on the mean of their clipped updates.

It is the population grid that sums updates up, so it is there that noise is added: a strategy sees
the noisy mean and nothing else, and whatever it makes of that is post-processing. So any averaging
strategy becomes private, under every engine, without a line of its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from flwr.app import Message

from server_app.replies import SentParameters
from task import records
from task.accounting import ClientReleases
from task.aggregation import WeightedSum
from task.config import RunConfig
from task.correlated_noise import CorrelatedNoise
from task.errors import BudgetError
from task.ledger import SCORES, UPDATE, Ledger, Release
from task.metrics import SCORE_RANGE
from task.noise import Noise, hardened_normal, noise_source
from task.settings import require

_MIDDLE = (SCORE_RANGE[0] + SCORE_RANGE[1]) / 2


class CentralPrivacy:
    """Charges and makes the noisy releases of a run.

    Args:
        config: the run's settings, `privacy.unit` being `client`.
        num_clients: how many clients train.
        ledger: where releases are written down.

    Raises:
        ConfigError: settings that cannot hold together for so many clients.

    Attributes:
        clipping_norm: that of the coming round.
        releases: what is accounted for.
    """

    def __init__(self, config: RunConfig, num_clients: int, ledger: Ledger) -> None:
        self.releases = ClientReleases.of(config, num_clients)
        self.clipping_norm = config.strategy.clipping_norm
        self._config = config.privacy
        self._seed = config.run.seed
        self._settings = config.release_settings()
        self._ledger = ledger
        self._last_round = 0
        self._correlated = CorrelatedNoise(config.privacy.num_bands)
        self._count_noise = self._chosen_count_noise()

    def state_dict(self) -> dict[str, Any]:
        """Return what later rounds depend on, as plain data; the ledger is in its own file."""
        return {
            "clipping_norm": self.clipping_norm,
            "last_round": self._last_round,
            "noise": self._correlated.earlier(),
            "releases": len(self._ledger.releases),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            RunDirectoryError: the ledger has lost releases since.
        """
        self._ledger.require(state["releases"])
        self.clipping_norm = state["clipping_norm"]
        self._last_round = state["last_round"]
        self._correlated.continue_after(state["noise"])

    def epsilon(self, *, updates: int = 0, scores: int = 0) -> float:
        """Return the epsilon of what was released, and of so many releases more."""
        return self.releases.epsilon(
            self._ledger.count(UPDATE) + updates,
            self._config.delta,
            self._config.accountant,
            self._ledger.count(SCORES) + scores,
            self._ledger.count_repeated(UPDATE),
        )

    def _noise(self, release: Release, *parts: str) -> Noise:
        """Return the noise of a release.

        Seeded, it derives from all that the release depends on: with the same noise, another run's
        release would tell how the two differ.
        """
        return noise_source(
            self._config.secure_noise,
            self._seed,
            release.what,
            release.server_round,
            release.attempt,
            release.digest,
            self._settings,
            *parts,
        )

    def charge(self, what: str, server_round: int, digest: str) -> Release:
        """Write a release down before it is computed.

        Args:
            what: `UPDATE` or `SCORES`.
            server_round: the federated round.
            digest: of all that clients are sent for it.

        Raises:
            BudgetError: it would exceed `privacy.max-epsilon`; nothing is written.
            ValueError: a strategy trains a round again, or leaves one out of those in turn.
        """
        if what == UPDATE:
            self._require_in_order(server_round)
        budget = self._config.max_epsilon
        if budget and not self._ledger.find(what, server_round, digest):
            epsilon = self.epsilon(updates=what == UPDATE, scores=what == SCORES)
            if epsilon > budget:
                raise BudgetError(
                    f"Stopped before the {what} of round {server_round}: epsilon would be "
                    f"{epsilon:.4g}, above privacy.max-epsilon = {budget:.4g}."
                )
        if what == UPDATE:
            self._last_round = server_round
        return self._ledger.charge(what, server_round, digest)

    def _require_in_order(self, server_round: int) -> None:
        """Refuse rounds that would draw a cohort twice: it is accounted for as drawn anew.

        With the noise of a round before, another sum would moreover tell how the two differ.
        """
        coming = self._last_round + 1
        in_turn = self.releases.sampling == "cyclic"
        if server_round < coming or (in_turn and server_round > coming):
            later = "" if in_turn else " or a later one"
            raise ValueError(
                f"With privacy.unit = 'client' a strategy trained round {server_round} after round "
                f"{self._last_round}: expected round {coming}{later}."
            )

    def mean(
        self, release: Release, total: WeightedSum, sent: SentParameters, num_within: int
    ) -> torch.Tensor:
        """Return the (P,) float32 parameters with the noisy mean of all clients' updates.

        The sum is divided by the nominal size of the cohort: one who drops out, or is not drawn,
        counts as a zero update. Else the divisor would tell who took part, and noise would have to
        follow it. Nothing but the rounding to float32 happens to the sum after noise is added.

        Args:
            release: as it was charged.
            total: sum of clipped parameters, each of weight 1.
            sent: the parameters that clients were sent.
            num_within: how many of the updates were within the clipping norm.
        """
        source = self._noise(release)
        independent_P = hardened_normal(source, sent.layout.size)
        noise_P = torch.from_numpy(self._correlated.next(independent_P))
        scale = self._update_multiplier() * self.clipping_norm
        update_P = total.total_update(sent.vector_P) + scale * noise_P
        mean_P = sent.vector_P.double() + update_P / self.releases.nominal_cohort
        if self._config.clipping_quantile:
            # A half for one who is missing is neither within nor beyond the norm.
            counted = num_within - total.weight / 2
            counted += self._count_noise * float(hardened_normal(source, 1)[0])
            self._adapt(counted / self.releases.nominal_cohort + 0.5)
        return mean_P.float()

    def mean_score(
        self, release: Release, role: str, scores: Sequence[float], num_clients: int
    ) -> float:
        """Return the noisy mean of clients' alignment scores; one without an answer counts as 0.58.

        Args:
            release: as it was charged; it pays for both roles, as no client has both.
            role: the clients' role.
            scores: of those who answered.
            num_clients: how many there are.
        """
        source = self._noise(release, role)
        low, high = SCORE_RANGE
        scale = self._config.metrics_noise_multiplier * (high - low)
        noise = scale * float(hardened_normal(source, 1)[0])
        total = sum(min(max(score, low), high) - _MIDDLE for score in scores) + noise
        return min(max(_MIDDLE + total / num_clients, low), high)

    def _update_multiplier(self) -> float:
        """Return the noise multiplier of the updates alone.

        Updates and count together are one Gaussian release; with more noise on the updates it costs
        what `privacy.noise-multiplier` says (arXiv 1905.03871, theorem 1).
        """
        multiplier = self._config.noise_multiplier
        if not self._config.clipping_quantile or not multiplier:
            return multiplier
        return 1 / math.sqrt(multiplier**-2 - (2 * self._count_noise) ** -2)

    def _chosen_count_noise(self) -> float:
        multiplier = self._config.noise_multiplier
        chosen = self._config.clipping_count_noise
        if not self._config.clipping_quantile or not multiplier:
            return chosen
        require(
            chosen == 0 or 2 * chosen > multiplier,
            "privacy.clipping-count-noise",
            chosen,
            f"a number above {multiplier / 2:g}, half of privacy.noise-multiplier, or 0",
        )
        return chosen or max(self.releases.nominal_cohort / 20, multiplier)

    def _adapt(self, share_within: float) -> None:
        """Move the clipping norm towards the quantile (arXiv 1905.03871, algorithm 1)."""
        step = self._config.clipping_learning_rate * (share_within - self._config.clipping_quantile)
        self.clipping_norm *= math.exp(-step)


def require_private(batch: Sequence[Message], cohort: Sequence[int]) -> None:
    """Raise a `ValueError` where a strategy's messages would break what is accounted for.

    Args:
        batch: messages to train.
        cohort: ids that the strategy was given for this round.
    """
    if {message.metadata.dst_node_id for message in batch} != set(cohort):
        raise ValueError(
            "With privacy.unit = 'client' a strategy must let exactly the clients train that "
            "get_node_ids gives: how they are drawn is accounted for. Expected fraction_train = 1; "
            "see train.clients-per-round."
        )
    if len({message.metadata.dst_node_id for message in batch}) < len(batch):
        raise ValueError(
            "With privacy.unit = 'client' a client must get one message to train a round."
        )
    if len({id(message.content.array_records[records.ARRAYS]) for message in batch}) > 1:
        raise ValueError(
            "With privacy.unit = 'client' all clients must get the same record of parameters: "
            "updates are clipped and summed up relative to it."
        )


def settings_of(batch: Sequence[Message], clipping_norm: float) -> str:
    """Return what a round's release depends on besides the parameters, as one text."""
    told = {
        message.metadata.dst_node_id: {
            name: dict(record) for name, record in message.content.config_records.items()
        }
        for message in batch
    }
    return repr((clipping_norm, sorted(told.items())))
