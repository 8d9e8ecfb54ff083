"""Requests for scores: responses go out to groups, and the scores that come back are checked."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server_app.briefings import Briefings
from server_app.collecting import Collector
from server_app.inbox import Inbox
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client, Population
from server_app.outbox import Outbox
from server_app.population import TTL_SHARE
from server_app.score_replies import ScoreRules
from task import records
from task.config import RunConfig
from task.predictor import PreferencePredictor
from task.rollouts import Rollouts


class ScoreRequests:
    """Asks clients to score batches of responses.

    Args:
        grid: the runtime's grid.
        config: the run's settings.
        predictor: the trained predictor, on the CPU; its parameters travel with every message.
        population: the nodes' groups.
        connections: given where nodes are machines of their own.
    """

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        predictor: PreferencePredictor,
        population: Population,
        connections: Connections | None,
    ) -> None:
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

    def ask(
        self, batch: Rollouts, clients: Sequence[Client]
    ) -> tuple[dict[int, NDArray[np.float32]], dict[str, str]]:
        """Let clients score a batch; one that fails is asked again `evaluation.retries` times.

        Args:
            batch: the responses, small enough for one message.
            clients: who is asked.

        Returns:
            Client id to its (B,) scores, and the name of each other group to why there are none.
        """
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
