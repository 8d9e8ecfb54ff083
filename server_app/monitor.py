"""After every round: evaluate all groups, print a row, log metrics, keep the best predictor."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from server_app.fairness import (
    ROLE_KEYS,
    Scores,
    group_table,
    indices,
    number,
    summarise,
)
from server_app.population import PopulationGrid
from server_app.run_directory import RunDirectory
from server_app.sinks import Sink
from server_app.strategies.group_weighting import WeighsGroups
from server_app.strategies.personal import KeepsPersonal
from server_app.tables import RoundTable, print_groups, print_summary
from task import records
from task.config import RunConfig
from task.metrics import GroupScores, Mean, macro_mean
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
        roles: group to role.
        baselines: baseline name to scores on the same questions.
        directory: where predictors and the summary go.
        sinks: where metrics go.
        strategy: may tell how much groups count, or that groups keep parameters of their own.
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
    ) -> None:
        self.scores: dict[str, GroupScores] = {}  # of the last evaluation
        self._population = population
        self._predictor = predictor
        self._config = config
        self._roles = roles
        self._baselines = baselines
        self._directory = directory
        self._sinks = sinks
        self._strategy = strategy
        self._table = RoundTable(has_held_out="held-out" in roles.values())
        self._started = time.monotonic()
        self._best = float("-inf")
        self._best_round = 0
        self._best_scores: Scores = {}
        self._evaluated_round = 0
        self._personal: dict[str, Any] | None = None  # of the last evaluation

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Observe the global parameters after a round."""
        self._predictor.set_parameters(arrays.to_torch_state_dict())
        train = self._population.last_train
        metrics: dict[str, Any] = {
            "loss": _mean_loss(train.replies.values()),
            "clients": len(train.replies),
            "failures": dict(train.failures),
            "megabytes_down": train.bytes_down / 1e6,
            "megabytes_up": train.bytes_up / 1e6,
            "train_seconds": train.seconds,
        }
        if isinstance(self._strategy, WeighsGroups):
            metrics["group_weights"] = dict(self._strategy.group_weights)
        every, last = self._config.evaluation.every, self._config.train.num_rounds
        if server_round % every == 0 or server_round == last:
            self._evaluate(server_round, arrays, metrics)
        metrics["seconds"] = time.monotonic() - self._started
        self._started = time.monotonic()
        for sink in self._sinks:
            sink.log(metrics, server_round)
        self._table.print_row(server_round, metrics)
        means = {
            key: metrics[key]["alignment_score"] for key in ROLE_KEYS.values() if metrics.get(key)
        }
        return MetricRecord(means) if means else None

    def finish(self) -> None:
        """Save the final predictor; write and print what the last evaluation gave, if any did."""
        self._directory.write_predictor("final", self._predictor)
        if not self.scores:
            return
        # A group whose last evaluation failed is left out of the baselines as well.
        baselines = {
            name: {group: scores[group] for group in self.scores}
            for name, scores in self._baselines.items()
        }
        groups = group_table(self.scores, baselines, self._roles)
        summary: dict[str, Any] = {
            key: {
                name: summarise(scores, self._roles, role)
                for name, scores in {"model": self.scores, **baselines}.items()
            }
            for role, key in ROLE_KEYS.items()
        }
        summary["groups"] = groups
        if self._personal:
            summary["personal"] = self._personal
        summary["missing_groups"] = sorted(set(self._roles) - set(self.scores))
        summary["round"] = self._evaluated_round
        summary["best_round"] = self._best_round
        summary["best"] = self._by_role(self._best_scores)
        self._directory.write_groups(groups)
        self._directory.write_json("summary.json", summary)
        print_groups(groups)
        print_summary(summary)

    def _evaluate(self, server_round: int, arrays: ArrayRecord, metrics: dict[str, Any]) -> None:
        """Let every client score the parameters; add what came back to the round's metrics."""
        settings: dict[Role, ConfigRecord] = {"held-out": ConfigRecord(), "train": ConfigRecord()}
        if isinstance(self._strategy, KeepsPersonal):
            settings["train"][records.PERSONAL] = self._strategy.personal
        contents = {
            role: RecordDict({records.ARRAYS: arrays, records.CONFIG: config})
            for role, config in settings.items()
        }
        exchange = self._population.exchange(
            (
                Message(contents[client.role], client_id, MessageType.EVALUATE)
                for client_id, client in sorted(self._population.clients.items())
            ),
            timeout=self._config.train.round_timeout,
        )
        merged: dict[str, GroupScores] = {}
        personal: dict[str, Mean] = {}
        for client, reply in exchange.replies.items():
            metrics_of_reply = reply.content.metric_records[records.METRICS]
            scores = GroupScores.from_metrics(metrics_of_reply)  # type: ignore[arg-type]
            merged[client.group] = merged.get(client.group, GroupScores()) + scores
            if own := metrics_of_reply.get(records.PERSONAL_SCORE):
                personal[client.group] = personal.get(client.group, Mean()) + Mean(*own)  # type: ignore[misc]
        metrics.update(self._by_role(merged))
        metrics["groups"] = {group: scores.all.value for group, scores in merged.items()}
        if personal:
            # A group that has not trained yet has the global parameters for its own.
            own_scores = {
                group: personal.get(group, scores.all).value
                for group, scores in merged.items()
                if self._roles[group] == "train"
            }
            metrics["personal"] = {**indices(own_scores), "groups": own_scores}
        metrics["evaluation_failures"] = dict(exchange.failures)
        metrics["evaluation_seconds"] = exchange.seconds
        metrics["evaluation_megabytes"] = (exchange.bytes_down + exchange.bytes_up) / 1e6
        metrics["megabytes_down"] += exchange.bytes_down / 1e6
        metrics["megabytes_up"] += exchange.bytes_up / 1e6
        if merged:
            self.scores, self._evaluated_round = merged, server_round
            self._personal = metrics.get("personal")
            self._keep_best(server_round)

    def _keep_best(self, server_round: int) -> None:
        """Save the predictor if the training groups' mean is the highest so far.

        Means over different groups do not compare, so all training groups must have answered.
        """
        train = [group for group, role in self._roles.items() if role == "train"]
        if not set(train) <= set(self.scores):
            return
        mean = macro_mean(self.scores[group].all for group in train)
        if mean > self._best:
            self._best, self._best_round, self._best_scores = mean, server_round, self.scores
            self._directory.write_predictor("best", self._predictor)

    def _by_role(self, scores: Scores) -> dict[str, Any]:
        return {key: summarise(scores, self._roles, role) for role, key in ROLE_KEYS.items()}


def _mean_loss(replies: Any) -> float | None:
    losses = [
        float(reply.content.metric_records[records.METRICS][records.LOSS]) for reply in replies
    ]
    return number(sum(losses) / len(losses)) if losses else None
