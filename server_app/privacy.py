"""What a run's privacy settings promise: the guarantee so far, and what it does not cover."""

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.serverapp.strategy import Strategy

from server_app.central_privacy import CentralPrivacy
from server_app.nodes.discovery import Population
from server_app.run_directory import RunDirectory
from server_app.strategies.averaging import reduction_of
from server_app.strategies.group_weighting import GroupWeighting
from server_app.strategies.qfedavg import QFedAvg
from task.accounting import Guarantee
from task.calibration import affordable
from task.config import RunConfig
from task.errors import BudgetError, ConfigError
from task.ledger import Ledger
from task.question_ledger import history_epsilon
from task.respondent_accounting import member_epsilon

_ROUNDING = 1e-6  # of epsilons, which clients and server compute alike
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
        self._reported = 0.0
        self._asked = (0, 0)  # rounds and evaluations so far
        self._repeated = 0  # rounds that clients may have paid for, and that are done again
        if config.privacy.unit == "client":
            ledger = Ledger(directory.path / LEDGER, repeats=not config.privacy.secure_noise)
            num_clients = sum(client.role == "train" for client in population.clients)
            self.central = CentralPrivacy(config, num_clients, ledger)
        self._require_member_budget()

    def state_dict(self) -> dict[str, Any]:
        """Return what later rounds depend on, as plain data."""
        return {
            "central": self.central.state_dict() if self.central else None,
            "reported": self._reported,
            "asked": list(self._asked),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            RunDirectoryError: the ledger has lost releases since.
        """
        if self.central:
            self.central.load_state_dict(state["central"])
        self._reported = state["reported"]
        rounds, scores = state["asked"]
        self._asked = (rounds, scores)
        if self._config.privacy.secure_noise:  # seeded, they cost clients nothing
            self._repeated = max(1, self._config.checkpoint.every)

    @property
    def hides_cohorts(self) -> bool:
        """Whether the accounting counts on it that nobody learns who took part in a round."""
        return self.central is not None and self.central.releases.amplifies

    def observe(self, num_rounds: int, epsilons: Iterable[float]) -> None:
        """Take in how many rounds were made, and what clients say that unit question has cost."""
        self._asked = (max(num_rounds, self._asked[0]), self._asked[1])
        reported = list(epsilons)
        self._reported = max([self._reported, *reported])
        if reported and self._repeated:  # now clients have said what they paid
            self._repeated = self._count_repeated()

    def require_scores(self) -> None:
        """Count an evaluation in which clients of unit question add noise to their scores.

        Raises:
            BudgetError: clients would refuse it.
        """
        rounds, scores = self._asked
        self._require_affordable(rounds, scores + 1, f"scores after round {rounds}")
        self._asked = (rounds, scores + 1)

    def require_next(self, server_round: int) -> None:
        """Raise a `BudgetError` if unit question cannot afford the round after this one.

        Every client refuses by its own ledger; this ends the run before they have to.
        """
        coming = server_round + 1
        self._require_affordable(coming, self._asked[1], f"update of round {coming}")

    def _require_affordable(self, rounds: int, scores: int, what: str) -> None:
        privacy = self._config.privacy
        if privacy.unit != "question" or not privacy.max_epsilon:
            return
        epsilon = self._question_epsilon(rounds + self._repeated, scores)
        if epsilon > privacy.max_epsilon:
            raise BudgetError(
                f"Stopped before the {what}: epsilon would be {epsilon:.4g}, above "
                f"privacy.max-epsilon = {privacy.max_epsilon:g}."
            )

    def _count_repeated(self) -> int:
        """Return how many more rounds than were counted explain what clients have reported."""
        rounds, scores = self._asked
        for more in range(self._repeated):
            if self._question_epsilon(rounds + more, scores) >= self._reported - _ROUNDING:
                return more
        return self._repeated

    def _question_epsilon(self, rounds: int, scores: int) -> float:
        """Return what so much costs a client that takes part in all of it."""
        privacy, steps = self._config.privacy, rounds * self._config.train.local_steps
        history = [(privacy.noise_multiplier, privacy.sample_rate, steps)]
        if privacy.metrics == "noisy":
            history.append((privacy.metrics_noise_multiplier, 1.0, scores))
        return history_epsilon(tuple(sorted(history)), privacy.delta, privacy.accountant)

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
                max(self._reported, self._question_epsilon(*self._asked)),
                delta,
                "a group's training lacks the episode that holds the question (add-or-remove; "
                "for another answer instead: at most 2 epsilon at (1 + exp(epsilon)) delta)",
                f"Poisson, each episode of {privacy.questions_per_episode} questions with "
                f"probability {privacy.sample_rate:g} a step",
                f"Opacus, {'RDP' if privacy.accountant == 'rdp' else 'PRV'}, in the client",
                self._excludes(),
            )
        if unit == "member":
            numbers = [len(keys) for keys in self._population.question_keys.values()]
            most = privacy.questions_per_respondent
            answers = f"at most {most}" if most else "all"
            relation = f"a group has one respondent less, with {answers} answers (add-or-remove)"
            if privacy.respondents:
                relation = f"one respondent gives other answers, {answers} of them (replace-one)"
            return Guarantee(
                unit,
                member_epsilon(privacy, numbers),
                delta,
                relation,
                "none",
                f"dp-accounting, {privacy.accountant}",
                self._excludes(),
            )
        return None

    def plan(self, finished: int | None = None) -> str:
        """Say what the whole run will cost, and how far a budget lasts.

        Args:
            finished: the last finished round of a resumed run.
        """
        privacy, rounds = self._config.privacy, self._config.train.num_rounds
        if not self.central or not privacy.noise_multiplier:
            return ""
        every, before = self._config.evaluation.every, finished or 0
        evaluated = 0 if finished is None else 1 + before // every

        def cost(updates: int) -> float:
            scores = 1 + -(-(before + updates) // every) - evaluated
            scores = scores if privacy.metrics == "noisy" else 0
            return self.central.epsilon(updates=updates, scores=scores) if self.central else 0.0

        text = f"Privacy: epsilon = {cost(rounds - before):.4g} after all {rounds} rounds"
        if (
            privacy.max_epsilon
            and (lasts := before + affordable(cost, privacy.max_epsilon, rounds - before)) < rounds
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
            excludes.append(
                "clients and server that collude, rounds with fewer honest clients than "
                "train.min-valid-fraction asks for, and servers that search for masks"
                if privacy.secure_aggregation
                else "the server, which sees every update"
            )
            excludes.append("groups that are held out of training")
            if privacy.num_bands > 1:
                excludes.append(
                    "whoever reads checkpoints/ while the run is not completed: earlier noise, "
                    "which correlated noise takes off again, is in there"
                )
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
                "whoever knows run.seed, which clients, server and run directory do: noise is "
                "seeded (privacy.secure-noise = false)"
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
