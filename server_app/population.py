"""The population: the Grid that strategies see, whatever runtime is underneath.

A strategy sees training clients with stable ids, 1 to n in the order of their names, and nothing of
nodes, held-out groups, faults or the order in which replies arrive. So Flower's strategies, and a
stranger's, become reproducible, role-aware and fault-tolerant without a line of their own.
"""

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server_app.arrays import in_float32
from server_app.central_privacy import CentralPrivacy, require_private, settings_of
from server_app.collecting import Collector
from server_app.exchange import Average, Exchange, PrivateAverage, ReducingGrid
from server_app.inbox import Inbox
from server_app.metadata import is_train
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client
from server_app.outbox import AddedRecords, Outbox
from server_app.sampling import CohortSampler
from task import records
from task.aggregation import Reduction
from task.errors import RoundError
from task.ledger import UPDATE, digest_of
from task.seeding import derive_seed

TTL_SHARE = 2.0
"""How long a node's message lives, as a share of the time that its reply is waited for.

Not 1: a late reply, which a node has ended by then (`limit_time`), shows that the node is free.
"""


class PopulationGrid(Grid):
    """Shows strategies clients instead of nodes.

    Args:
        grid: the runtime's grid.
        clients: all clients, from `discover_clients`.
        added_records: what every message carries besides the strategy's own records.
        seed: the run's seed.
        sampler: draws cohorts; None: all training clients take part in every round.
        min_valid_fraction: smallest share of an exchange's messages that need a valid reply.
        clipping_norm: L2 norm to which every client's update is clipped; 0: no clipping.
        reduction: what the strategy wants instead of each client's parameters, if anything.
        privacy: adds noise to what the strategy gets, which is then nothing but the noisy mean.
        inbox: accepts replies.
        connections: given where nodes are machines of their own, which come and go.
        patience: seconds to wait for them when too few clients of a round answer.
    """

    def __init__(
        self,
        grid: Grid,
        clients: Sequence[Client],
        added_records: AddedRecords,
        *,
        seed: int,
        sampler: CohortSampler | None = None,
        min_valid_fraction: float = 0.5,
        clipping_norm: float = 0.0,
        reduction: Reduction | None = None,
        privacy: CentralPrivacy | None = None,
        inbox: Inbox | None = None,
        connections: Connections | None = None,
        patience: float = 0.0,
    ) -> None:
        self.clients = {client.id: client for client in clients}
        self.train_ids = sorted(c.id for c in clients if c.role == "train")
        self.server_round = 0  # rounds of training sent so far
        self.last_train = Exchange()
        self._grid = grid
        self._outbox = Outbox(
            grid,
            self.clients,
            added_records,
            connections.node_of if connections else lambda client: self.clients[client].node_id,
        )
        self._seed = seed
        self._sampler = sampler
        self._min_valid_fraction = min_valid_fraction
        self._clipping_norm = clipping_norm
        self._reduction = reduction
        self._privacy = privacy
        self._inbox = inbox or Inbox()
        self._have_connections = connections is not None
        self._collector = Collector(grid, self.clients, self._inbox, connections, patience)

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
        return self._shown(coming)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages to clients; return one message id each, empty if not accepted."""
        if self._privacy:
            raise ValueError(
                "With privacy.unit = 'client' a strategy gets the noisy mean alone: expected "
                "send_and_receive instead of push_messages."
            )
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
            BudgetError: the release would cost more than the privacy budget; nothing was sent.
            ValueError: with central privacy, a strategy asks for anything but training.
        """
        messages = list(messages)
        if self._privacy and not all(is_train(message) for message in messages):
            raise ValueError(
                "With privacy.unit = 'client' a strategy gets the noisy mean alone: expected "
                "messages to train, and no evaluation of its own."
            )
        exchange = self.exchange(messages, timeout=timeout)
        return [exchange.average] if exchange.average else list(exchange.replies.values())

    # -- Beyond Grid ------------------------------------------------------------------------------

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None, retries: int = 0
    ) -> Exchange:
        """As `send_and_receive`, with failures and costs; held-out clients may be addressed too.

        Args:
            messages: to clients, one each.
            timeout: seconds to wait for the replies.
            retries: how often clients that failed are asked again.

        Raises:
            RoundError: too few clients sent a valid reply to messages to train, or none to others.
        """
        started = time.monotonic()
        batch = in_float32(messages)
        exchange = Exchange(sent=len(batch))
        if not batch:
            return exchange
        trains = any(is_train(message) for message in batch)
        average = self._average(batch) if trains else None
        if self._privacy and trains:
            coming = self._round_of(batch)
            if not self._cohort(coming):  # the round counts, with noise alone
                self.server_round, batch, exchange.sent = coming, [], 0
        reduced = (
            average is not None
            and isinstance(self._grid, ReducingGrid)
            and self._grid.reduces
            and all(message.metadata.message_type == MessageType.TRAIN for message in batch)
        )
        down_before, up_before = self._outbox.num_bytes, self._inbox.num_bytes
        least = self._min_valid_fraction if trains else 0.0
        received, exchange.failures = self._collector.collect(
            batch,
            partial(
                self._push,
                reduction=average.reduction if average and reduced else None,
                ttl=TTL_SHARE * timeout if timeout and self._have_connections else math.inf,
            ),
            average.take if average and not reduced else None,
            timeout,
            needed=max(1, math.ceil(least * len(batch))),
            retries=retries,
        )
        exchange.bytes_down = self._outbox.num_bytes - down_before
        exchange.replies = {self.clients[i]: received[i] for i in sorted(received)}
        exchange.bytes_up = self._inbox.num_bytes - up_before
        if average and (received or not batch):
            if reduced and received and isinstance(self._grid, ReducingGrid):
                average.merge(self._grid.take_sum())
            exchange.average = average.reply(exchange.replies.values())
        exchange.seconds = time.monotonic() - started
        if trains:
            self.last_train = exchange
        if batch:
            self._require_quorum(exchange, least)
        return exchange

    @property
    def clipping_norm(self) -> float:
        """L2 norm to which every client's update is clipped in the coming round; 0: none."""
        return self._privacy.clipping_norm if self._privacy else self._clipping_norm

    def _average(self, batch: Sequence[Message]) -> Average | None:
        """Return what averages the replies to messages to train, if the strategy wants that."""
        if self._reduction is None:
            if self._privacy:
                raise ValueError("privacy.unit = 'client': expected a strategy of the mean alone.")
            return None
        self._inbox.start(self.clipping_norm, self._round_of(batch))
        sent = self._inbox.sent_to(batch[0])
        if not self._privacy:
            return Average(replace(self._reduction, clipping_norm=self.clipping_norm), sent)
        coming = self._round_of(batch)
        require_private(batch, self._shown(coming))
        digest = digest_of(sent.vector_P, settings_of(batch, self.clipping_norm))
        release = self._privacy.charge(UPDATE, coming, digest)
        return PrivateAverage(self._privacy, release, sent, batch[0])

    def _cohort(self, server_round: int) -> list[int]:
        return self._sampler.cohort(server_round) if self._sampler else list(self.train_ids)

    def _shown(self, server_round: int) -> list[int]:
        # Strategies wait for clients as long as there are none: of an empty cohort they are shown
        # one, to which nothing is sent.
        return self._cohort(server_round) or self.train_ids[:1]

    def _require_quorum(self, exchange: Exchange, least: float) -> None:
        valid, sent = len(exchange.replies), exchange.sent
        if valid == 0 or valid < least * sent:
            reasons = "; ".join(f"{name}: {why}" for name, why in exchange.failures.items())
            raise RoundError(
                f"Round {self.server_round}: {valid} of {sent} clients sent a valid reply, "
                f"expected at least {f'{least:.0%}' if least else 'one'} "
                f"(train.min-valid-fraction). {reasons}"
            )

    def _round_of(self, batch: Sequence[Message]) -> int:
        """Return the round that messages to train state, as Flower's do, or else the next one."""
        for message in batch:
            config = message.content.config_records.get(records.CONFIG, ConfigRecord())
            if isinstance(stated := config.get(records.SERVER_ROUND), int):
                return stated
        return self.server_round + 1

    def _push(
        self,
        batch: Sequence[Message],
        reduction: Reduction | None = None,
        ttl: float = math.inf,
    ) -> list[str | None]:
        """Send messages to their clients' nodes; return None for one that is not accepted."""
        if any(is_train(message) for message in batch):
            self.server_round = self._round_of(batch)
        self._inbox.start(self.clipping_norm, self.server_round)
        accepted = self._outbox.push(batch, self.server_round, self.clipping_norm, reduction, ttl)
        for message, message_id in zip(batch, accepted, strict=True):
            if message_id:
                self._inbox.expect(message_id, message, reduced=reduction is not None)
        return accepted
