"""The population: the Grid that strategies see, whatever runtime is underneath.

A strategy sees training clients with stable ids, 1 to n in the order of their names, and nothing of
nodes, held-out groups, faults or the order in which replies arrive. So Flower's strategies, and a
stranger's, become reproducible, role-aware and fault-tolerant without a line of their own.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server_app.arrays import in_float32, num_bytes
from server_app.discovery import Client
from server_app.exchange import Average, Exchange, ReducingGrid
from server_app.inbox import Inbox
from server_app.replies import is_train
from task import records
from task.aggregation import Reduction
from task.errors import RoundError
from task.seeding import derive_seed, generator

Record = ArrayRecord | ConfigRecord | MetricRecord
AddedRecords = Callable[[Client, str, int], Mapping[str, Record]]
"""(client, message type, round) to the records that every message to that client carries."""

POLL_SECONDS, POLL_SHARE, MAX_POLL_SECONDS = 0.02, 0.05, 3.0
"""Pause between looks for replies: short at first, then a share of the time waited so far."""


class PopulationGrid(Grid):
    """Shows strategies clients instead of nodes.

    Args:
        grid: the runtime's grid.
        clients: all clients, from `discover_clients`.
        added_records: what every message carries besides the strategy's own records.
        seed: the run's seed.
        clients_per_round: size of the cohort drawn each round, without replacement; 0: all.
        min_valid_fraction: smallest share of an exchange's messages that need a valid reply.
        clipping_norm: L2 norm to which every client's update is clipped; 0: no clipping.
        reduction: what the strategy wants instead of each client's parameters, if anything.
    """

    def __init__(
        self,
        grid: Grid,
        clients: Sequence[Client],
        added_records: AddedRecords,
        *,
        seed: int,
        clients_per_round: int = 0,
        min_valid_fraction: float = 0.5,
        clipping_norm: float = 0.0,
        reduction: Reduction | None = None,
    ) -> None:
        self.clients = {client.id: client for client in clients}
        self.train_ids = sorted(c.id for c in clients if c.role == "train")
        self.server_round = 0  # rounds of training sent so far
        self.last_train = Exchange()
        self._grid = grid
        self._added_records = added_records
        self._seed = seed
        self._clients_per_round = clients_per_round
        self._min_valid_fraction = min_valid_fraction
        self._reduction = replace(reduction, clipping_norm=clipping_norm) if reduction else None
        self._bytes_down = 0  # array bytes sent so far
        self._inbox = Inbox(clipping_norm)

    # -- Grid, as strategies use it ---------------------------------------------------------------

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a client."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the coming round's cohort of training clients, ascending.

        Flower's strategies sample from these ids with the global generator right after this call;
        seeding it here makes that draw a function of (seed, round) too.
        """
        coming = self.server_round + 1
        random.seed(derive_seed(self._seed, "strategy sampling", coming))
        size = self._clients_per_round
        if not 0 < size < len(self.train_ids):
            return list(self.train_ids)
        draw = generator(self._seed, "cohort", coming).choice(self.train_ids, size, replace=False)
        return sorted(int(client_id) for client_id in draw)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to clients; return one message id each, empty if not accepted."""
        return [message_id or "" for message_id in self._push(in_float32(messages))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come in; an invalid one is turned into an error reply."""
        pulled = self._grid.pull_messages(message_ids)
        return [self._inbox.read(reply) for reply in pulled if self._inbox.expects(reply)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages to clients and return the valid replies in the order of client ids.

        A strategy that asked for the mean of all replies gets that, as one reply.

        Raises:
            RoundError: too few clients sent a valid reply to messages to train, or none to others.
        """
        exchange = self.exchange(messages, timeout=timeout)
        return [exchange.average] if exchange.average else list(exchange.replies.values())

    # -- Beyond Grid ------------------------------------------------------------------------------

    def exchange(self, messages: Iterable[Message], *, timeout: float | None = None) -> Exchange:
        """As `send_and_receive`, with failures and costs; held-out clients may be addressed too.

        Raises:
            RoundError: too few clients sent a valid reply to messages to train, or none to others.
        """
        started = time.monotonic()
        batch = in_float32(messages)
        exchange = Exchange(sent=len(batch))
        if not batch:
            return exchange
        trains = any(is_train(message) for message in batch)
        reduction = self._reduction if trains else None
        reduced = (
            bool(reduction)
            and isinstance(self._grid, ReducingGrid)
            and self._grid.reduces
            and all(message.metadata.message_type == MessageType.TRAIN for message in batch)
        )
        down_before, up_before = self._bytes_down, self._inbox.num_bytes
        awaited: dict[str, Message] = {}
        for message, message_id in zip(batch, self._push(batch, reduced=reduced), strict=True):
            if message_id is None:
                name = self._client(message).name
                exchange.failures[name] = "the runtime did not accept the message to it"
            else:
                awaited[message_id] = message
        exchange.bytes_down = self._bytes_down - down_before
        average = Average(reduction, self._inbox.sent_to(batch[0])) if reduction else None
        take = average.take if average and not reduced else None
        received = self._receive(awaited, exchange.failures, take, started, timeout)
        exchange.replies = {self.clients[i]: received[i] for i in sorted(received)}
        exchange.bytes_up = self._inbox.num_bytes - up_before
        if average and received:
            if reduced and isinstance(self._grid, ReducingGrid):
                average.merge(self._grid.take_sum())
            exchange.average = average.reply(exchange.replies.values())
        exchange.seconds = time.monotonic() - started
        if trains:
            self.last_train = exchange
        self._require_quorum(exchange, self._min_valid_fraction if trains else 0.0)
        return exchange

    def _receive(
        self,
        awaited: dict[str, Message],
        failures: dict[str, str],
        take: Callable[[Message], Message] | None,
        started: float,
        timeout: float | None,
    ) -> dict[int, Message]:
        """Wait for the replies to messages (by id); return valid ones by client, note failures.

        `take` is given each valid reply as it comes in and returns what is kept of it.
        """
        received: dict[int, Message] = {}
        computes = isinstance(self._grid, ReducingGrid)
        while awaited:
            replies = list(self.pull_messages(awaited))
            for reply in replies:
                client = self.clients[reply.metadata.src_node_id]
                del awaited[reply.metadata.reply_to_message_id]
                if reply.has_error():
                    failures[client.name] = _reason(reply.error)
                else:
                    received[client.id] = take(reply) if take else reply
            if timeout is not None and time.monotonic() - started > timeout:
                break
            if awaited and not replies and not computes:  # one that computes has waited itself
                elapsed = time.monotonic() - started
                time.sleep(min(POLL_SECONDS + POLL_SHARE * elapsed, MAX_POLL_SECONDS))
        if awaited and isinstance(self._grid, ReducingGrid):
            self._grid.abandon(awaited)
        for message_id, message in awaited.items():
            self._inbox.forget(message_id)  # a late reply is ignored
            failures[self._client(message).name] = f"no reply within {timeout:.0f} s"
        return received

    def _require_quorum(self, exchange: Exchange, least: float) -> None:
        valid, sent = len(exchange.replies), exchange.sent
        if valid == 0 or valid < least * sent:
            reasons = "; ".join(f"{name}: {why}" for name, why in exchange.failures.items())
            raise RoundError(
                f"Round {self.server_round}: {valid} of {sent} clients sent a valid reply, "
                f"expected at least {f'{least:.0%}' if least else 'one'} "
                f"(train.min-valid-fraction). {reasons}"
            )

    def _client(self, message: Message) -> Client:
        return self.clients[message.metadata.dst_node_id]

    def _push(self, batch: Sequence[Message], *, reduced: bool = False) -> list[str | None]:
        """Send messages to their clients' nodes; return None for one that is not accepted."""
        self._inbox.start()
        if any(is_train(message) for message in batch):
            self.server_round = _stated_round(batch) or self.server_round + 1
        sizes: dict[int, int] = {}  # of records by identity: most clients are sent the same
        addressed = [self._address(message, sizes) for message in batch]
        if reduced and self._reduction and isinstance(self._grid, ReducingGrid):
            accepted = list(self._grid.push_reduced(addressed, self._reduction))
        else:
            accepted = list(self._grid.push_messages(addressed))
        if len(accepted) < len(batch):  # Flower's simulation leaves out what it did not accept
            sent = {message.metadata.message_id for message in addressed} & set(accepted)
            ids = [m.metadata.message_id for m in addressed]
            accepted = [message_id if message_id in sent else "" for message_id in ids]
        for message, message_id in zip(batch, accepted, strict=True):
            if message_id:  # Flower's HTTP grid returns None for what was not accepted
                self._inbox.expect(message_id, message, reduced=reduced)
        return [message_id or None for message_id in accepted]

    def _address(self, message: Message, sizes: dict[int, int]) -> Message:
        """Turn a strategy's message to a client into one to its node."""
        client = self._client(message)
        message_type = message.metadata.message_type
        if is_train(message) and client.role != "train":
            raise ValueError(f"{client.name} is held out: a strategy must not train it.")
        content = RecordDict({**message.content})
        for name, record in self._added_records(client, message_type, self.server_round).items():
            content[name] = record
        for arrays in content.array_records.values():
            if id(arrays) not in sizes:
                sizes[id(arrays)] = num_bytes(arrays)
            self._bytes_down += sizes[id(arrays)]
        return Message(
            content,
            client.node_id,
            message_type,
            ttl=message.metadata.ttl,
            group_id=str(self.server_round),
        )


def _stated_round(batch: Sequence[Message]) -> int | None:
    """Return the round that a strategy's messages state, as Flower's strategies do."""
    for message in batch:
        config = message.content.config_records.get(records.CONFIG, ConfigRecord())
        if isinstance(stated := config.get(records.SERVER_ROUND), int):
            return stated
    return None


def _reason(error: Error) -> str:
    return (error.reason or f"error code {error.code}").strip()
