"""The population grid under secure aggregation: of clients that train it sees the sum alone."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from server_app import collecting
from server_app.announcing import announce
from server_app.arrays import in_float32, to_arrays
from server_app.central_privacy import require_private, settings_of
from server_app.exchange import Exchange
from server_app.metadata import changed, is_train, reply_metadata
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client, Population
from server_app.population import PopulationGrid
from server_app.secure_aggregation import SecureAggregation, SecureSum
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from task.ledger import UPDATE, digest_of
from task.secure_aggregation import least_survivors


class SecurePopulationGrid(PopulationGrid):
    """A population grid that lets clients train by way of SecAgg+.

    Args:
        *arguments: see `PopulationGrid`.
        secure: runs the protocol.
        **settings: see `PopulationGrid`.
    """

    def __init__(self, *arguments: Any, secure: SecureAggregation, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._secure = secure
        self._connections: Connections | None = settings.get("connections")
        self._patience: float = settings.get("patience", 0.0)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to clients, unless they are to train.

        Raises:
            ValueError: they are: replies to them do not come one by one.
        """
        batch = list(messages)
        if any(is_train(message) for message in batch):
            raise ValueError(
                "With privacy.secure-aggregation a strategy gets the mean alone: expected "
                "send_and_receive instead of push_messages."
            )
        return super().push_messages(batch)

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None, retries: int = 0
    ) -> Exchange:
        """As `PopulationGrid.exchange`; messages to train have one reply, the mean.

        Raises:
            RoundError: too few clients answered, and in every case where the mean stays masked.
            BudgetError: the release would cost more than the privacy budget; nothing was sent.
        """
        started = time.monotonic()
        batch = in_float32(messages)
        if not any(is_train(message) for message in batch):
            return super().exchange(batch, timeout=timeout, retries=retries)
        self._await_quorum(batch)
        self.server_round = self._round_of(batch)
        self._inbox.start(self.clipping_norm, self.server_round)
        sent = self._inbox.sent_to(batch[0])
        attempt = 0
        if self._privacy:
            require_private(batch, self._shown(self.server_round))
            digest = digest_of(sent.vector_P, settings_of(batch, self.clipping_norm))
            attempt = self._privacy.charge(UPDATE, self.server_round, digest).attempt
        found = self._secure.run(batch, self._send, timeout, attempt)
        update_P = found.mean_P
        if self._privacy:  # who drops out counts as a zero update; clients have added noise
            update_P = update_P * (found.weight / self._privacy.releases.nominal_cohort)
        arrays = to_arrays(sent.layout, (sent.vector_P.double() + update_P).float())
        metrics = MetricRecord({records.NUM_EXAMPLES: found.weight})
        content = RecordDict({records.ARRAYS: arrays, records.METRICS: metrics})
        exchange = Exchange(
            sent=len(batch),
            replies=self._answered(batch, found),
            average=make_message(reply_metadata(batch[0]), content),
            failures={self.clients[i].name: why for i, why in sorted(found.failures.items())},
            bytes_down=found.bytes_down,
            bytes_up=found.bytes_up,
            seconds=time.monotonic() - started,
        )
        self.last_train = exchange
        return exchange

    def _answered(self, batch: Sequence[Message], found: SecureSum) -> dict[Client, Message]:
        """Return an empty reply of each client that is in the sum: nothing else is known of it."""
        of_client = {message.metadata.dst_node_id: message for message in batch}
        return {
            self.clients[i]: make_message(
                reply_metadata(of_client[i]), RecordDict({records.METRICS: MetricRecord()})
            )
            for i in found.survivors
        }

    def _send(self, messages: Sequence[Message], timeout: float | None) -> Sequence[Message]:
        """Send messages of the protocol; return the replies by the timeout, errors among them.

        Nobody waits for a node that is not connected, or that was restarted and has lost its
        message: an error stands for its reply.
        """
        here = self._connected({message.metadata.dst_node_id for message in messages})
        started, now = time.monotonic(), time.time()
        reachable = [message for message in messages if message.metadata.dst_node_id in here]
        received = [
            _lost(message, "its node is not connected")
            for message in messages
            if message.metadata.dst_node_id not in here
        ]
        accepted = self._outbox.push(reachable, self.server_round, self.clipping_norm, None)
        sent = {
            message_id: message
            for message_id, message in zip(accepted, reachable, strict=True)
            if message_id
        }
        client_of = {i: message.metadata.dst_node_id for i, message in sent.items()}
        while client_of and (timeout is None or time.monotonic() - started <= timeout):
            pulled = list(self._grid.pull_messages(list(client_of)))
            for reply in pulled:
                client_id = client_of.pop(reply.metadata.reply_to_message_id, None)
                if client_id is None:
                    continue
                metadata = changed(reply.metadata, src_node_id=client_id)
                if reply.has_error():
                    received.append(make_message(metadata, error=reply.error))
                else:
                    received.append(make_message(metadata, reply.content))
            if client_of and not pulled:
                received += [
                    _lost(sent[message_id], "its node was restarted")
                    for message_id in self._take_lost(client_of, now)
                ]
                elapsed = time.monotonic() - started
                pause = collecting.POLL_SECONDS + collecting.POLL_SHARE * elapsed
                time.sleep(min(pause, collecting.MAX_POLL_SECONDS))
        return received

    def _await_quorum(self, batch: Sequence[Message]) -> None:
        """Wait, with patience, until as many clients are connected as a sum needs."""
        asked = {message.metadata.dst_node_id for message in batch}
        needed = least_survivors(len(asked), self._min_valid_fraction)
        pause, deadline = collecting.FIRST_PAUSE_SECONDS, time.monotonic() + self._patience
        while len(here := self._connected(asked)) < needed:
            if (left := deadline - time.monotonic()) <= 0:
                return  # the protocol will say who is missing
            announce(
                "waiting",
                f"{len(here)} of {len(asked)} clients are connected, {needed} are needed: waiting "
                f"for up to {left:.0f} s more (nodes.patience)",
                {"connected": len(here), "asked": len(asked), "needed": needed},
                "warning",
            )
            time.sleep(min(pause, left))
            pause = min(2 * pause, collecting.MAX_PAUSE_SECONDS)

    def _connected(self, clients: set[int]) -> set[int]:
        return clients & self._connections.connected() if self._connections else clients

    def _take_lost(self, client_of: dict[str, int], when: float) -> list[str]:
        """Take out the messages, sent at this time, whose nodes have started anew since."""
        if not self._connections:
            return []
        restarted = self._connections.restarted(dict.fromkeys(client_of.values(), when))
        lost = [message_id for message_id, client in client_of.items() if client in restarted]
        for message_id in lost:
            del client_of[message_id]
        return lost


def _lost(message: Message, reason: str) -> Message:
    return make_message(reply_metadata(message), error=Error(ErrorCode.NODE_UNAVAILABLE, reason))


def make_secure_aggregation(
    config: RunConfig,
    population: Population,
    reduction: Reduction | None,
    connections: Connections | None = None,
) -> SecureAggregation:
    """Return what runs the protocol between a run's clients."""
    most = max(
        len(keys)
        for group, keys in population.question_keys.items()
        if population.roles[group] == "train"
    )
    node_of = {client.id: client.node_id for client in population.clients}
    return SecureAggregation(
        config,
        max_weight=most,
        weighted=reduction is None or reduction.weighted,
        node_of=connections.node_of if connections else node_of.__getitem__,
    )
