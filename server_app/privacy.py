"""What a run's privacy settings promise: the guarantee so far, and what it does not cover."""

import math
from collections.abc import Iterable

from flwr.serverapp.strategy import Strategy

from server_app.central_privacy import CentralPrivacy
from server_app.discovery import Population
from server_app.run_directory import RunDirectory
from server_app.strategies.averaging import reduction_of
from server_app.strategies.group_weighting import GroupWeighting
from server_app.strategies.qfedavg import QFedAvg
from task.accounting import Guarantee, affordable
from task.config import RunConfig
from task.errors import BudgetError, ConfigError
from task.ledger import Ledger
from task.question_ledger import history_epsilon
from task.respondent_accounting import member_epsilon

LEDGER = "privacy-ledger.jsonl"


class RunPrivacy:
    """The privacy of a run.

    Args:
        config: the run's settings.
        population: the clients.
        directory: where the ledger is kept.

    Attributes:
        central: adds noise to what clients send, if the unit is `client`.
    """

    def __init__(self, config: RunConfig, population: Population, directory: RunDirectory) -> None:
        self.central: CentralPrivacy | None = None
        self._config = config
        self._population = population
        # Without noise an epsilon is infinite, which clients do not send.
        self._reported = 0.0 if config.privacy.noise_multiplier else math.inf
        if config.privacy.unit == "client":
            ledger = Ledger(directory.path / LEDGER, repeats=not config.privacy.secure_noise)
            num_clients = sum(client.role == "train" for client in population.clients)
            self.central = CentralPrivacy(config, num_clients, ledger)
        self._require_member_budget()

    def report(self, epsilons: Iterable[float]) -> None:
        """Take in what unit question has cost clients so far, by their own ledgers."""
        self._reported = max([self._reported, *epsilons])

    def require_next(self, server_round: int) -> None:
        """Raise a `BudgetError` if unit question cannot afford the round after this one.

        Every client refuses by its own ledger; this ends the run before they have to. It counts a
        client that has taken part in all rounds.
        """
        privacy, train = self._config.privacy, self._config.train
        if privacy.unit != "question" or not privacy.max_epsilon:
            return
        steps = (server_round + 1) * train.local_steps
        history: tuple[tuple[float, float, int], ...] = (
            (privacy.noise_multiplier, privacy.sample_rate, steps),
        )
        if privacy.metrics == "noisy":
            scores = 1 + server_round // self._config.evaluation.every
            history += ((privacy.metrics_noise_multiplier, 1.0, scores),)
        epsilon = history_epsilon(tuple(sorted(history)), privacy.delta, privacy.accountant)
        if epsilon > privacy.max_epsilon:
            raise BudgetError(
                f"Stopped before the update of round {server_round + 1}: epsilon would be "
                f"{epsilon:.4g}, above privacy.max-epsilon = {privacy.max_epsilon:g}."
            )

    def guarantee(self) -> Guarantee | None:
        """Return the guarantee for all that was released so far; None: there is none."""
        privacy = self._config.privacy
        unit, delta = privacy.unit, privacy.delta
        if self.central:
            releases = self.central.releases
            return Guarantee(
                unit,
                self.central.epsilon(),
                delta,
                releases.relation,
                releases.describe_sampling(),
                f"dp-accounting, {releases.accountant_name(privacy.accountant)}",
                self._excludes(),
            )
        if unit == "question":
            return Guarantee(
                unit,
                self._reported,
                delta,
                "a group's training lacks the episode that holds the question (add-or-remove; "
                "another answer instead: at most twice the epsilon)",
                f"Poisson, each episode of {privacy.questions_per_episode} questions with "
                f"probability {privacy.sample_rate:g} a step",
                f"Opacus, {'RDP' if privacy.accountant == 'rdp' else 'PRV'}, in the client",
                self._excludes(),
            )
        if unit == "member":
            numbers = [len(keys) for keys in self._population.question_keys.values()]
            most = privacy.questions_per_respondent
            return Guarantee(
                unit,
                member_epsilon(privacy, numbers),
                delta,
                "a group has one respondent less, with "
                f"{f'at most {most}' if most else 'all'} answers (add-or-remove)",
                "none",
                f"dp-accounting, {privacy.accountant}",
                self._excludes(),
            )
        return None

    def plan(self) -> str:
        """Say what the whole run will cost, and how far a budget lasts."""
        privacy, rounds = self._config.privacy, self._config.train.num_rounds
        if not self.central or not privacy.noise_multiplier:
            return ""
        every = self._config.evaluation.every

        def cost(updates: int) -> float:
            scores = 1 + -(-updates // every) if privacy.metrics == "noisy" else 0
            return self.central.epsilon(updates=updates, scores=scores) if self.central else 0.0

        text = f"Privacy: epsilon = {cost(rounds):.4g} after all {rounds} rounds"
        if (
            privacy.max_epsilon
            and (lasts := affordable(cost, privacy.max_epsilon, rounds)) < rounds
        ):
            text += f"; the budget of {privacy.max_epsilon:g} lasts for {lasts}"
        return text

    def _require_member_budget(self) -> None:
        """Raise a `ConfigError` if noisy histograms, made once, cost more than the budget."""
        privacy = self._config.privacy
        promised = self.guarantee() if privacy.unit == "member" and privacy.max_epsilon else None
        if promised and promised.epsilon > privacy.max_epsilon:
            raise ConfigError(
                f"privacy.max-epsilon = {privacy.max_epsilon:g}: the noisy histograms cost "
                f"{promised.epsilon:.4g}. Expected at least that, or a larger "
                "privacy.noise-multiplier."
            )

    def _excludes(self) -> tuple[str, ...]:
        privacy = self._config.privacy
        excludes = [
            "which questions a group was asked, and sums of the features of their texts",
        ]
        if privacy.unit == "client":
            if not privacy.secure_aggregation:
                excludes.append("the server, which sees every update")
            excludes.append("groups that are held out of training")
        if privacy.unit == "question":
            excludes.append("answers given as context to a prediction")
        if privacy.unit == "member":
            excludes.append("a respondent's answers in other groups, and weights above 1")
        if privacy.metrics == "full" and privacy.unit != "member":
            excludes.append(
                "exact scores and losses of groups, who took part, and the choice of "
                "predictor-best by such scores"
            )
        if not privacy.secure_noise:
            excludes.append(
                "whoever knows run.seed, as all clients and the server do: noise is seeded "
                "(privacy.secure-noise = false)"
            )
        return tuple(excludes)


def require_private_strategy(strategy: Strategy, config: RunConfig) -> None:
    """Raise a `ConfigError` for a strategy that reads what must stay private."""
    privacy, name = config.privacy, config.strategy.name
    if privacy.unit == "client" or privacy.secure_aggregation:
        if reduction_of(strategy) is None:
            setting = (
                "privacy.secure-aggregation = true"
                if privacy.secure_aggregation
                else "privacy.unit = 'client'"
            )
            raise ConfigError(
                f"strategy.name = {name!r}: expected a strategy that reads nothing but clients' "
                f"mean with {setting} (fedavg, fedprox, fedavgm, fedadam, fedyogi, or your own "
                "with a method `reduction`)."
            )
    elif privacy.unit == "question":
        reads = isinstance(strategy, QFedAvg) or (
            isinstance(strategy, GroupWeighting) and bool(strategy.reports)
        )
        if reads:
            raise ConfigError(
                f"strategy.name = {name!r}: expected a strategy that asks clients for no exact "
                "losses or scores with privacy.unit = 'question'."
            )
