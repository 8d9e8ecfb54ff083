"""After every round: evaluate all groups, print a row, log metrics, keep the best predictor."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from server_app.announcing import announce
from server_app.arrays import require_finite
from server_app.checkpointing.progress import Progress
from server_app.exchange import Exchange
from server_app.fairness import ROLE_KEYS, Scores, indices, summarise
from server_app.final_summary import final_summary
from server_app.noisy_scores import charge_scores, noisy_means, reported_epsilons
from server_app.population import PopulationGrid
from server_app.privacy import RunPrivacy
from server_app.replies import mean_loss, merged_scores
from server_app.reported_groups import ReportedGroups
from server_app.run_directory import RunDirectory
from server_app.sinks import Sink
from server_app.strategies.group_weighting import WeighsGroups
from server_app.strategies.personal import KeepsPersonal
from server_app.tables import RoundTable, print_groups, print_summary
from task import records
from task.config import RunConfig
from task.errors import BudgetError
from task.metrics import macro_mean
from task.predictor import PreferencePredictor
from task.roles import Role


class RoundMonitor:
    """The `evaluate_fn` of a strategy's `start`: called with round 0 before the first round.

    Evaluation is federated: every client, held-out ones included, scores the predictor on its own
    data and returns sums. The best predictor is chosen by the training groups' held-back questions,
    never by the held-out groups.

    Args:
        population: the clients.
        predictor: takes the parameters that are saved.
        config: the run's settings.
        roles: client to role.
        baselines: baseline name to clients' scores on the same questions.
        directory: where predictors and the summary go.
        sinks: where metrics go.
        strategy: may tell how much groups count, or that groups keep parameters of their own.
        privacy: what the run promises, which says what may be disclosed.
    """

    def __init__(
        self,
        population: PopulationGrid,
        predictor: PreferencePredictor,
        config: RunConfig,
        roles: Mapping[str, Role],
        baselines: Mapping[str, Scores],
        directory: RunDirectory,
        sinks: Sequence[Sink],
        strategy: Strategy,
        privacy: RunPrivacy,
    ) -> None:
        self.progress = Progress()
        self.after_round: Callable[[int, ArrayRecord], None] | None = None  # the last thing
        self._population = population
        self._predictor = predictor
        self._config = config
        self._roles = roles
        self._groups = ReportedGroups.of(roles, config.data)
        self._baselines = baselines
        self._directory = directory
        self._sinks = sinks
        self._strategy = strategy
        self._privacy = privacy
        self._disclosure = config.privacy.metrics
        self._observed: tuple[int, ArrayRecord] | None = None
        self._table = RoundTable(has_held_out="held-out" in roles.values())
        self._started = time.monotonic()

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Observe the global parameters after a round.

        Raises:
            RoundError: they are not finite; what was saved before stays.
            BudgetError: the next round cannot be paid for.
        """
        require_finite(server_round, arrays)
        self._predictor.set_parameters(arrays.to_torch_state_dict())
        self._observed = server_round, arrays
        train = self._population.last_train
        metrics: dict[str, Any] = {}
        self._privacy.observe(server_round, reported_epsilons(train.replies.values()))
        if self._disclosure == "full":
            metrics["loss"] = mean_loss(train.replies.values())
            if not self._privacy.hides_cohorts:  # all of these tell how many took part, or who
                metrics |= {
                    "clients": len(train.replies),
                    "failures": dict(train.failures),
                    "megabytes_down": train.bytes_down / 1e6,
                    "megabytes_up": train.bytes_up / 1e6,
                    "train_seconds": train.seconds,
                }
            if isinstance(self._strategy, WeighsGroups):
                metrics["group_weights"] = dict(self._groups.sums(self._strategy.group_weights))
        every, last = self._config.evaluation.every, self._config.train.num_rounds
        if server_round % every == 0 or server_round == last:
            self._evaluate(server_round, arrays, metrics)
        means = self._log(server_round, metrics)
        if self.after_round:
            self.after_round(server_round, arrays)
        if server_round < last:
            self._privacy.require_next(server_round)
        return MetricRecord({**means}) if means else None

    def restore(self, server_round: int, arrays: ArrayRecord, progress: Progress) -> None:
        """Be where the monitor of an interrupted run was after a round."""
        self.progress = progress
        if progress.best_parameters:  # a round that is to be done again may have been better
            self._predictor.set_parameters(progress.best_parameters)
            self._directory.write_predictor("best", self._predictor)
        self._predictor.set_parameters(arrays.to_torch_state_dict())
        self._observed = server_round, arrays

    def stop(self, reason: str) -> None:
        """Say why the run ends early, and score what it ends with, if that may be."""
        announce("budget-spent", f"\n{reason}", {"reason": reason}, "warning")
        if self._observed is None:
            return
        server_round, arrays = self._observed
        metrics: dict[str, Any] = {"stopped": reason}
        if self.progress.evaluated_round != server_round:
            try:
                self._evaluate(server_round, arrays, metrics)
            except BudgetError as spent:
                metrics["stopped"] = str(spent)
        self._log(server_round, metrics)

    def save(self) -> None:
        """Save the predictor as it is after the last finished round."""
        self._directory.write_predictor("final", self._predictor)

    def finish(self) -> None:
        """Save the final predictor; write and print what the last evaluation gave, if any did."""
        self.save()
        if self._disclosure != "full":
            self._finish_undisclosed()
        if not self.progress.scores:
            return
        summary, users = final_summary(
            self.progress, self._baselines, self._roles, self._groups, self._promise()
        )
        if users:
            self._directory.write_users(users)
        self._directory.write_groups(summary["groups"])
        self._directory.write_json("summary.json", summary)
        print_groups(summary["groups"])
        print_summary(summary)
        self._print_promise()

    def _log(self, server_round: int, metrics: dict[str, Any]) -> dict[str, float]:
        """Send a round's metrics to the sinks, print them, and return the mean scores."""
        if promise := self._promise():
            metrics["privacy"] = promise
        seconds, self._started = time.monotonic() - self._started, time.monotonic()
        if self._disclosure == "full" and not self._privacy.hides_cohorts:
            metrics["seconds"] = seconds
        for sink in self._sinks:
            sink.log(metrics, server_round)
        # The operator is told who failed, whatever is disclosed to others.
        failures = dict(self._population.last_train.failures)
        shown = {"failures": failures, "seconds": seconds, **metrics}
        self._table.print_row(server_round, shown)
        return {
            key: metrics[key]["alignment_score"] for key in ROLE_KEYS.values() if metrics.get(key)
        }

    def _promise(self) -> dict[str, Any] | None:
        guarantee = self._privacy.guarantee()
        return guarantee.to_json() if guarantee else None

    def _print_promise(self) -> None:
        if guarantee := self._privacy.guarantee():
            announce("privacy", f"\nPrivacy: {guarantee}", guarantee.to_json())

    def _finish_undisclosed(self) -> None:
        """Write what a run may tell that discloses no group's scores."""
        if self._disclosure == "off":
            self._directory.write_predictor("best", self._predictor)
            self.progress.best_round = self._observed[0] if self._observed else 0
        summary = {
            **{key: {"model": self.progress.noisy.get(key)} for key in ROLE_KEYS.values()},
            "groups": {},
            "privacy": self._promise(),
            "round": self.progress.evaluated_round,
            "best_round": self.progress.best_round,
        }
        self._directory.write_json("summary.json", summary)
        print_summary(summary)
        self._print_promise()

    def _evaluate(self, server_round: int, arrays: ArrayRecord, metrics: dict[str, Any]) -> None:
        """Let every client score the parameters; add what came back to the round's metrics."""
        if self._disclosure == "off":
            return
        if self._disclosure == "noisy":
            self._evaluate_noisily(server_round, arrays, metrics)
            return
        settings: dict[Role, ConfigRecord] = {"held-out": ConfigRecord(), "train": ConfigRecord()}
        if isinstance(self._strategy, KeepsPersonal):
            settings["train"][records.PERSONAL] = self._strategy.personal
        exchange = self._ask(arrays, settings)
        merged, personal = merged_scores(exchange.replies)
        metrics.update(self._by_role(merged))
        told = self._groups.scores(merged)
        metrics["groups"] = {group: scores.all.value for group, scores in told.items()}
        if personal:
            # A group that has not trained yet has the global parameters for its own.
            own_scores = self._groups.means(
                {
                    client: personal.get(client, scores.all).value
                    for client, scores in merged.items()
                    if self._roles[client] == "train"
                }
            )
            metrics["personal"] = {**indices(own_scores), "groups": dict(own_scores)}
        metrics["evaluation_failures"] = dict(exchange.failures)
        metrics["evaluation_seconds"] = exchange.seconds
        metrics["evaluation_megabytes"] = (exchange.bytes_down + exchange.bytes_up) / 1e6
        sizes = {} if self._privacy.hides_cohorts else {"down": "bytes_down", "up": "bytes_up"}
        for key, size in sizes.items():
            trained = metrics.get(f"megabytes_{key}", 0.0)  # nothing when a run is stopped
            metrics[f"megabytes_{key}"] = trained + getattr(exchange, size) / 1e6
        if merged:
            self.progress.scores, self.progress.evaluated_round = merged, server_round
            self.progress.personal = metrics.get("personal")
            self._choose_best(server_round)

    def _evaluate_noisily(
        self, server_round: int, arrays: ArrayRecord, metrics: dict[str, Any]
    ) -> None:
        """Add noisy means over the clients of each role to the round's metrics, no more."""
        central = self._privacy.central
        self._privacy.require_scores()
        release = charge_scores(central, server_round, arrays)
        replies = self._ask(arrays, {"held-out": ConfigRecord(), "train": ConfigRecord()}).replies
        self._privacy.observe(server_round, reported_epsilons(replies.values()))
        clients = self._population.clients.values()
        self.progress.noisy = dict(noisy_means(central, release, clients, replies))
        self.progress.evaluated_round = server_round
        metrics.update(self.progress.noisy)
        mean = self.progress.noisy.get("train", {}).get("alignment_score", self.progress.best)
        self._keep_if_best(server_round, mean)

    def _ask(self, arrays: ArrayRecord, settings: Mapping[Role, ConfigRecord]) -> Exchange:
        """Let every client score the parameters, and return what came back."""
        contents = {
            role: RecordDict({records.ARRAYS: arrays, records.CONFIG: config})
            for role, config in settings.items()
        }
        return self._population.exchange(
            (
                Message(contents[client.role], client_id, MessageType.EVALUATE)
                for client_id, client in sorted(self._population.clients.items())
            ),
            timeout=self._config.train.round_timeout,
            retries=self._config.evaluation.retries,
        )

    def _choose_best(self, server_round: int) -> None:
        """Save the predictor if the training groups' mean is the highest so far.

        Means over different groups do not compare, so all training groups must have answered.
        """
        clients = {client for client, role in self._roles.items() if role == "train"}
        if not clients <= set(self.progress.scores):
            return
        scores = self._groups.scores(self.progress.scores)
        train = [group for group, role in self._groups.roles.items() if role == "train"]
        mean = macro_mean(scores[group].all for group in train)
        self._keep_if_best(server_round, mean)

    def _keep_if_best(self, server_round: int, mean: float) -> None:
        if mean > self.progress.best:
            parameters = {n: p.detach().clone() for n, p in self._predictor.named_parameters()}
            self.progress.improve(server_round, mean, parameters)
            self._directory.write_predictor("best", self._predictor)

    def _by_role(self, scores: Scores) -> dict[str, Any]:
        told, roles = self._groups.scores(scores), self._groups.roles
        return {key: summarise(told, roles, role) for role, key in ROLE_KEYS.items()}
