"""What noise costs: from releases to a named (epsilon, delta) guarantee, by `dp-accounting`."""

import logging
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from task.config import RunConfig
from task.secure_aggregation import MIN_CLIENTS
from task.settings import require

if TYPE_CHECKING:  # it takes more than a second to import, and not every run needs it
    from dp_accounting import DpEvent, NeighboringRelation, PrivacyAccountant

# It warns of orders that it leaves out, each time; others are then the best ones.
logging.getLogger("absl").setLevel(logging.ERROR)

DISCRETIZATION = 1e-3
"""Step of privacy losses. Epsilons are upper bounds at any step; ten times finer ones lower them by
less than 0.001 at ten times the time."""


@dataclass(frozen=True)
class Guarantee:
    """An epsilon with all that it needs to mean something.

    Attributes:
        unit: what is protected.
        epsilon: of (epsilon, delta)-differential privacy; infinite without noise.
        delta: of the same.
        relation: which two data sets are neighbours.
        sampling: what the accounting assumes about who takes part.
        accountant: how releases were composed.
        excludes: what was disclosed besides and is not covered.
    """

    unit: str
    epsilon: float
    delta: float
    relation: str
    sampling: str
    accountant: str
    excludes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"epsilon = {self.epsilon:.4g} at delta = {self.delta:.3g} for one {self.unit} "
            f"(relation: {self.relation}; sampling: {self.sampling}; accountant: "
            f"{self.accountant}). Not covered: {'; '.join(self.excludes)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it for JSON, which knows no infinity: None stands for one."""
        return {
            **asdict(self),
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "excludes": list(self.excludes),
        }


@dataclass(frozen=True)
class ClientReleases:
    """The releases of central privacy for clients: noisy means of updates, and of scores.

    Attributes:
        num_clients: training clients, which is public.
        cohort_size: clients of a round, on average; 0 or `num_clients`: all of them.
        sampling: see `train.sampling`.
        noise_multiplier: standard deviation over the clipping norm, of the sum of updates.
        num_bands: rounds over which noise is correlated.
        metrics_noise_multiplier: of noisy scores.
    """

    num_clients: int
    cohort_size: int
    sampling: str
    noise_multiplier: float
    num_bands: int = 1
    metrics_noise_multiplier: float = 0.0

    @classmethod
    def of(cls, config: RunConfig, num_clients: int) -> "ClientReleases":
        """Return the releases of a run.

        Raises:
            ConfigError: noise is correlated over more rounds than lie between two turns of a
                client.
        """
        releases = cls(
            num_clients=num_clients,
            cohort_size=config.train.clients_per_round,
            sampling=config.train.sampling,
            noise_multiplier=config.privacy.noise_multiplier,
            num_bands=config.privacy.num_bands,
            metrics_noise_multiplier=config.privacy.metrics_noise_multiplier,
        )
        # A server that only sees sums is not trusted; but it draws the cohorts.
        secure = config.privacy.secure_aggregation
        require(
            not secure or releases.takes_all or releases.sampling == "cyclic",
            "train.sampling",
            releases.sampling,
            "'cyclic', or train.clients-per-round = 0, with privacy.secure-aggregation and "
            "privacy.unit = 'client': the server knows whom it has drawn",
        )
        fewest = num_clients // releases.rounds_per_pass
        require(
            not secure or fewest >= MIN_CLIENTS,
            "train.clients-per-round",
            releases.cohort_size,
            f"one that leaves {MIN_CLIENTS} clients or more in every round with "
            f"privacy.secure-aggregation ({num_clients} clients in turn: {fewest})",
        )
        require(
            releases.num_bands == 1 or releases.num_bands <= releases.rounds_per_pass,
            "privacy.num-bands",
            releases.num_bands,
            f"at most {releases.rounds_per_pass}, the rounds from one turn of a client to its next "
            f"({num_clients} clients, {releases.cohort_size} in a round)",
        )
        return releases

    @property
    def takes_all(self) -> bool:
        """Whether every client takes part in every round."""
        return not 0 < self.cohort_size < self.num_clients

    @property
    def amplifies(self) -> bool:
        """Whether drawing cohorts at random makes releases cost less."""
        return not self.takes_all and self.sampling != "cyclic"

    @property
    def nominal_cohort(self) -> int:
        """The number that sums are divided by, whoever drops out."""
        return self.num_clients if self.takes_all else self.cohort_size

    @property
    def rounds_per_pass(self) -> int:
        """Rounds in which clients taken in turn all have their turn once."""
        return -(-self.num_clients // self.nominal_cohort)

    @property
    def replaces(self) -> bool:
        """Whether neighbours differ in a client with other data; else, in one without any."""
        return self.sampling == "without-replacement" and not self.takes_all

    @property
    def relation(self) -> str:
        """The neighbouring relation in words."""
        if self.replaces:
            return f"one of {self.num_clients} clients has other data (replace-one)"
        return f"one of {self.num_clients} clients contributes nothing instead (zero-out)"

    def event(self, num_rounds: int, num_evaluations: int = 0, num_repeated: int = 0) -> "DpEvent":
        """Return what so many rounds and noisy evaluations release; see `epsilon`."""
        from dp_accounting import ComposedDpEvent, DpEvent, GaussianDpEvent, SelfComposedDpEvent

        events: list[DpEvent] = []
        if num_rounds:
            events.append(self._rounds(num_rounds, num_repeated))
        if num_evaluations:
            scores = GaussianDpEvent(self.metrics_noise_multiplier)
            events.append(SelfComposedDpEvent(scores, num_evaluations))
        return ComposedDpEvent(events)

    def epsilon(
        self,
        num_rounds: int,
        delta: float,
        accountant: str = "pld",
        num_evaluations: int = 0,
        num_repeated: int = 0,
    ) -> float:
        """Return what so many rounds and noisy evaluations cost.

        Args:
            num_rounds: noisy sums of updates.
            delta: the delta of (epsilon, delta).
            accountant: `pld` or `rdp`.
            num_evaluations: noisy evaluations.
            num_repeated: how many of the rounds are of a round that had been released before.
        """
        if num_rounds and not self.noise_multiplier:
            return math.inf
        return _epsilon(self, num_rounds, delta, accountant, num_evaluations, num_repeated)

    def accountant_name(self, wanted: str) -> str:
        """Return which accountant composes: PLDs of sampling without replacement are not known."""
        return "rdp" if self.replaces else wanted

    def describe_sampling(self) -> str:
        """Say what the accounting assumes about who takes part."""
        number = f"{self.nominal_cohort} of {self.num_clients} clients a round"
        if self.takes_all:
            return "none: all clients take part in every round"
        if self.sampling == "poisson":
            return f"Poisson, {number} on average, kept secret"
        if self.sampling == "cyclic":
            text = f"none: {number} in turn"
            if self.num_bands > 1:
                text += f", noise correlated over {self.num_bands} rounds"
            return text
        return f"without replacement, {number}, kept secret"

    def _rounds(self, number: int, repeated: int) -> "DpEvent":
        """Return the event of so many noisy sums of updates, some of a round once more."""
        from dp_accounting import (
            GaussianDpEvent,
            PoissonSampledDpEvent,
            SampledWithoutReplacementDpEvent,
            SelfComposedDpEvent,
        )

        multiplier = self.noise_multiplier
        if self.takes_all:
            return SelfComposedDpEvent(GaussianDpEvent(multiplier), number)
        if self.sampling == "poisson":
            rate = self.cohort_size / self.num_clients
            sampled = PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier))
            return SelfComposedDpEvent(sampled, number)
        if self.sampling == "cyclic":
            # All rounds together are one Gaussian mechanism; columns of the strategy matrix have
            # norm 1 and those of a client's turns do not overlap (arXiv 2306.08153, theorem 2).
            # A round done again is a turn more for its clients. Where noise is correlated, others
            # are in that row too, with no more weight: it is counted as everybody's.
            turns = -(-(number - repeated) // self.rounds_per_pass) + repeated
            return GaussianDpEvent(multiplier / math.sqrt(turns))
        # A client with other data changes the sum by twice the clipping norm.
        sampled = SampledWithoutReplacementDpEvent(
            self.num_clients, self.cohort_size, GaussianDpEvent(multiplier / 2)
        )
        return SelfComposedDpEvent(sampled, number)


@lru_cache(maxsize=4096)  # a second each, and asked for again and again
def _epsilon(
    releases: ClientReleases,
    num_rounds: int,
    delta: float,
    accountant: str,
    num_evaluations: int,
    num_repeated: int,
) -> float:
    from dp_accounting import NeighboringRelation

    replace, zero_out = NeighboringRelation.REPLACE_ONE, NeighboringRelation.REPLACE_SPECIAL
    relation = replace if releases.replaces else zero_out
    composed = new_accountant(releases.accountant_name(accountant), relation)
    composed.compose(releases.event(num_rounds, num_evaluations, num_repeated))
    return float(composed.get_epsilon(delta))


def new_accountant(name: str, relation: "NeighboringRelation") -> "PrivacyAccountant":
    """Return the accountant that `privacy.accountant` names."""
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    if name == "rdp":
        return RdpAccountant(neighboring_relation=relation)
    return PLDAccountant(relation, value_discretization_interval=DISCRETIZATION)
