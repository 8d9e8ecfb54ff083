"""The federated reward: groups score responses at home, and the server aggregates their scores.

The setting of arXiv 2512.08786: no group's answers leave it, only a number per response.

Suffixes: B responses, G groups.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from server_app.announcing import announce
from server_app.briefings import Briefings
from server_app.collecting import Collector
from server_app.inbox import Inbox
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client, Population, discover_clients
from server_app.outbox import Outbox
from server_app.population import TTL_SHARE
from server_app.score_replies import ScoreRules
from task import records
from task.comparisons import FLOOR, Against
from task.config import NODES, RunConfig, split_names
from task.conversation import Conversation, text_of, text_or_empty
from task.errors import EncoderError, RewardError, suggest
from task.features import load_features
from task.predictor import PreferencePredictor
from task.reward_aggregation import make_aggregation
from task.rollouts import Rollouts
from task.saved_predictor import require_built_as

MOST_BYTES = 4 << 20
"""Of text in one message: Flower sends it in one piece, and arrays in pieces of 5 MiB."""


class FederatedReward:
    """Lets groups score responses, each by its own answers and on its own machine.

    A reward function as TRL calls it: `GRPOTrainer(..., reward_funcs=reward)` in a ServerApp.

    Args:
        grid: the runtime's grid.
        config: the run's settings; `score.*` says which groups are asked, how many must answer,
            and how their scores are aggregated.
        predictor: the trained predictor, on the CPU; its parameters travel with every message.
        population: the nodes' groups.
        connections: given where nodes are machines of their own.

    Attributes:
        groups: the groups that are asked, in name order.
        answered: those that answered in the last call: the columns of its scores.

    Raises:
        RewardError: a group that is to be asked is not there, or too few are.
        EncoderError: the nodes' encoder is not the predictor's.
        ConfigError: the settings would build another predictor on the nodes.
    """

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        predictor: PreferencePredictor,
        population: Population,
        connections: Connections | None = None,
    ) -> None:
        self.__name__ = "federated_reward"  # as TRL calls its column of the metrics
        require_built_as(predictor, config.predictor)
        trained_on = predictor.encoder.get("fingerprint")
        if population.fingerprint != trained_on:
            raise EncoderError(
                f"The predictor was trained on features of {trained_on}, but the groups' encoder "
                f"is {population.fingerprint}: expected the same encoder.name, and model files."
            )
        self._asked = _chosen(population, config)
        self.groups = tuple(client.group for client in self._asked)
        self.answered: tuple[str, ...] = ()
        self._aggregation = make_aggregation(config.score.aggregation)
        self._config = config
        self._have_connections = connections is not None
        self._arrays = ArrayRecord(
            {name: Array(p.detach().numpy()) for name, p in predictor.named_parameters()}
        )
        clients = {client.id: client for client in population.clients}
        prior = predictor.prior
        carried = replace(population, answers=prior.answers if prior else None)
        self._outbox = Outbox(
            grid,
            clients,
            Briefings(config, carried, predictor, secrets.token_hex(8)),
            connections.node_of if connections else lambda client: clients[client].node_id,
        )
        self._inbox = Inbox(ScoreRules())
        self._collector = Collector(grid, clients, self._inbox, connections)
        self._num_batches = 0

    @classmethod
    def connect(
        cls, grid: Grid, config: RunConfig, predictor: PreferencePredictor
    ) -> "FederatedReward":
        """Find the groups on whatever nodes the grid reaches, and return their reward.

        Args:
            grid: the runtime's grid.
            config: the run's settings, with absolute paths.
            predictor: see the class.

        Raises:
            PopulationError: too few nodes came in time, or one cannot say what it holds.
            RewardError: see the class.
            EncoderError: see the class.
        """
        if config.data.source != NODES:
            # With all of this machine's cores: clients then read them from the cache.
            load_features(config.data, config.encoder, config.run.seed)
            population = discover_clients(grid, config.train.round_timeout)
            return cls(grid, config, predictor, population)
        connections = Connections(grid, config)
        population = connections.gather()
        connections.bind(population)
        return cls(grid, config, predictor, population, connections)

    def __call__(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        **columns: Any,
    ) -> list[float]:
        """Return one aggregated score per completion: TRL's signature of a reward function.

        A completion without text gets `FLOOR`: a policy may well stop at once, and its training
        goes on.

        Args:
            prompts: texts or conversations.
            completions: a text or conversation for each.
            **columns: of the data set; `against` says what each is compared with.

        Raises:
            RewardError: see `scores`.
            ConversationError: a prompt or completion is neither a text nor messages.
        """
        asked = [text_of(prompt) for prompt in prompts]
        given = [text_or_empty(completion) for completion in completions]
        rows = [row for row, text in enumerate(given) if text]
        scores = [FLOOR] * len(given)
        if rows:
            against = columns.get("against")
            scores_BG = self.scores(
                [asked[row] for row in rows],
                [given[row] for row in rows],
                None if against is None else [against[row] for row in rows],
            )
            for row, score in zip(rows, self.aggregate(scores_BG), strict=True):
                scores[row] = score
        return scores

    def aggregate(self, scores_BG: Tensor) -> list[float]:
        """Return one score per response from those of the groups that answered in the last call."""
        scores_B = self._aggregation(scores_BG.double().numpy(), self.answered)
        return [float(score) for score in scores_B]

    def scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        against: Against | None = None,
    ) -> Tensor:
        """Return (B, G) float32 log-odds of every response for the groups in `answered`.

        Each group sees all responses and sends what `task.reward.RewardModel.score` gives with its
        own context. One that fails is asked again `evaluation.retries` times.

        Args:
            prompts: B prompts.
            responses: a response to each.
            against: for each response, what it is compared with.

        Raises:
            RewardError: fewer groups than `score.min-groups` (0: than all) have scored all
                responses, or a response cannot be scored.
        """
        rollouts = Rollouts.of(prompts, responses, against)
        score = self._config.score
        asked, parts = self._asked, []
        failures: dict[str, str] = {}
        for batch in rollouts.batches(score.batch_size, MOST_BYTES):
            scored, failed = self._ask(batch, asked)
            failures |= failed
            asked = tuple(client for client in asked if client.id in scored)
            self._require_enough(len(asked), failures)
            parts.append(scored)
        if failures:
            text = (
                f"{len(asked)} of {len(self._asked)} groups score {len(rollouts)} responses, "
                f"without {_listed(failures)}"
            )
            fields = {"groups": [client.group for client in asked], "failures": failures}
            announce("groups-not-scoring", text, fields, "warning")
        self.answered = tuple(client.group for client in asked)
        columns = [np.concatenate([part[client.id] for part in parts]) for client in asked]
        return torch.from_numpy(np.stack(columns, axis=1))

    def _ask(
        self, batch: Rollouts, clients: Sequence[Client]
    ) -> tuple[dict[int, NDArray[np.float32]], dict[str, str]]:
        """Let clients score a batch; return their scores by id, and others' failures by name."""
        self._num_batches += 1
        content = RecordDict({records.ARRAYS: self._arrays, records.ROLLOUTS: _record(batch)})
        messages = [Message(content, client.id, records.SCORE) for client in clients]
        received, failures = self._collector.collect(
            messages,
            self._send,
            None,
            self._config.train.round_timeout,
            needed=1,
            retries=self._config.evaluation.retries,
        )
        scored = {
            client: reply.content.array_records[records.SCORES][records.SCORES].numpy()
            for client, reply in received.items()
        }
        return scored, failures

    def _send(self, batch: Sequence[Message]) -> list[str | None]:
        self._inbox.start(0.0, self._num_batches)
        ttl = math.inf
        if self._have_connections:
            ttl = TTL_SHARE * self._config.train.round_timeout
        accepted = self._outbox.push(batch, self._num_batches, 0.0, None, ttl)
        for message, message_id in zip(batch, accepted, strict=True):
            if message_id:
                self._inbox.expect(message_id, message)
        return accepted

    def _require_enough(self, number: int, failures: Mapping[str, str]) -> None:
        least = self._config.score.min_groups or len(self._asked)
        if number < least:
            raise RewardError(
                f"{number} of {len(self._asked)} groups scored the responses, expected {least} "
                f"(score.min-groups). Without: {_listed(failures)}"
            )


def _chosen(population: Population, config: RunConfig) -> tuple[Client, ...]:
    """Return the clients that are to be asked, by id."""
    wanted = split_names(config.score.groups)
    there = population.roles
    if missing := [group for group in wanted if group not in there]:
        raise RewardError(
            f"score.groups names {missing[0]!r}, which is not among the {len(there)} groups here."
            f"{suggest(missing[0], there)}"
        )
    chosen = tuple(c for c in population.clients if not wanted or c.group in wanted)
    if len(chosen) < config.score.min_groups:
        raise RewardError(
            f"score.min-groups = {config.score.min_groups}: expected at most {len(chosen)}, the "
            "number of groups that are asked."
        )
    return tuple(sorted(chosen, key=lambda client: client.id))


def _record(rollouts: Rollouts) -> ConfigRecord:
    """Return rollouts as they cross the wire."""
    record = ConfigRecord(
        {
            records.PROMPTS: list(rollouts.prompts),
            records.RESPONSES: list(rollouts.responses),
        }
    )
    if rollouts.against is not None:
        record[records.AGAINST] = [text for texts in rollouts.against for text in texts]
        record[records.AGAINST_LENGTHS] = [len(texts) for texts in rollouts.against]
    return record


def _listed(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in failures.items())
