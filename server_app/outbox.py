"""What the population grid makes of a strategy's messages: messages to nodes."""

import math
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from server_app.arrays import num_bytes
from server_app.exchange import ReducingGrid
from server_app.metadata import is_train
from server_app.nodes.discovery import Client
from server_app.sending import accepted_ids, push
from task import records
from task.aggregation import Reduction

Record = ArrayRecord | ConfigRecord | MetricRecord
AddedRecords = Callable[[Client, str, int], Mapping[str, Record]]
"""(client, message type, round) to the records that every message to that client carries."""


class Outbox:
    """Addresses messages to the nodes of their clients, adds records to them and sends them.

    Args:
        grid: the runtime's grid.
        clients: all clients by id.
        added_records: what every message carries besides the strategy's own records.
        node_of: client id to the id of its node.

    Attributes:
        num_bytes: array bytes sent so far.
    """

    def __init__(
        self,
        grid: Grid,
        clients: Mapping[int, Client],
        added_records: AddedRecords,
        node_of: Callable[[int], int],
    ) -> None:
        self.num_bytes = 0
        self._grid = grid
        self._clients = clients
        self._added_records = added_records
        self._node_of = node_of

    def push(
        self,
        batch: Sequence[Message],
        server_round: int,
        clipping_norm: float,
        reduction: Reduction | None,
        ttl: float = math.inf,
    ) -> list[str | None]:
        """Send messages; return their ids, None for one that the runtime does not accept.

        Args:
            batch: messages to clients.
            server_round: the federated round.
            clipping_norm: told to clients that train.
            reduction: given, the grid below is to add up what comes back.
            ttl: seconds after which nobody needs to be given the messages any more.
        """
        sizes: dict[int, int] = {}  # of records by identity: most clients are sent the same
        addressed = [self._address(each, server_round, clipping_norm, sizes, ttl) for each in batch]
        if reduction and isinstance(self._grid, ReducingGrid):
            return accepted_ids(addressed, list(self._grid.push_reduced(addressed, reduction)))
        return push(self._grid, addressed)

    def _address(
        self,
        message: Message,
        server_round: int,
        clipping_norm: float,
        sizes: dict[int, int],
        ttl: float,
    ) -> Message:
        """Turn a strategy's message to a client into one to its node."""
        client = self._clients[message.metadata.dst_node_id]
        message_type = message.metadata.message_type
        if is_train(message) and client.role != "train":
            raise ValueError(f"{client.name} is held out: a strategy must not train it.")
        content = RecordDict({**message.content})
        for name, record in self._added_records(client, message_type, server_round).items():
            content[name] = record
        briefing = content.config_records.get(records.BRIEFING)
        if is_train(message) and briefing is not None:
            briefing[records.CLIPPING_NORM] = clipping_norm
        for arrays in content.array_records.values():
            if id(arrays) not in sizes:
                sizes[id(arrays)] = num_bytes(arrays)
            self.num_bytes += sizes[id(arrays)]
        return Message(
            content,
            self._node_of(client.id),
            message_type,
            ttl=min(message.metadata.ttl, ttl),
            group_id=str(server_round),
        )
