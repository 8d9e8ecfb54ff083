"""Secure aggregation with the real ClientApp in this process, and what the server gets to see."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from numpy.typing import NDArray

from server_app.briefings import Briefings
from server_app.metadata import changed
from server_app.nodes.discovery import discover_clients
from server_app.secure_aggregation import SecureAggregation, SecureSum
from task import records
from task.config import RunConfig
from task.parameters import Layout
from tests.server_app.in_process_grid import InProcessGrid, make_population, tiny_config
from tests.server_app.training import local_updates

Answer = Callable[[Message], Message]
Fault = Callable[[str, int, Message, Answer], Message | None]
"""(stage, client id, message, the ClientApp) to the reply; None: none comes."""


def secure_config(groups: int = 7, **changes: bool | int | float | str) -> RunConfig:
    return tiny_config(
        **{
            "privacy__secure_aggregation": True,
            "data__synthetic_groups": groups,
            "data__num_held_out_groups": 1,
            **changes,
        }
    )


@dataclass
class SecureRounds:
    """Clients of a run, and the server's view of their messages.

    Attributes:
        replies: (stage, client id, reply), as the server received them.
        most: `max_weight`, of which no client knows more.
    """

    config: RunConfig
    num_nodes: int = 2
    most: int = 60
    fault: Fault | None = None
    weighted: bool = True
    replies: list[tuple[str, int, Message]] = field(default_factory=list)
    in_flight: list[list[int]] = field(default_factory=list)  # node ids of every `send`

    def __post_init__(self) -> None:
        self.grid = InProcessGrid(self.config, self.num_nodes)
        found = discover_clients(self.grid, timeout=60)
        _, predictor = make_population(self.grid, self.config)
        self.briefings = Briefings(self.config, found, predictor, secrets.token_hex(8))
        self.clients = {client.id: client for client in found.clients if client.role == "train"}
        self.groups = [client.group for client in self.clients.values()]
        self.start = {n: p.detach().clone() for n, p in predictor.named_parameters()}
        self.layout = Layout.of({name: value.shape for name, value in self.start.items()})
        self.server_round = 1
        self.aggregation = SecureAggregation(
            self.config,
            max_weight=self.most,
            weighted=self.weighted,
            node_of=lambda client_id: self.clients[client_id].node_id,
        )

    def batch(self, **settings: object) -> list[Message]:
        arrays = ArrayRecord(dict(self.start))
        strategy = ConfigRecord({records.SERVER_ROUND: self.server_round, **settings})
        return [
            Message(
                RecordDict({records.ARRAYS: arrays, records.CONFIG: strategy}), client_id, "train"
            )
            for client_id in self.clients
        ]

    def run(self, **settings: object) -> SecureSum:
        return self.aggregation.run(self.batch(**settings), self.send, 60)

    def send(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        """Stand for the population: address nodes, add records, name clients in replies."""
        self.in_flight.append(
            [self.clients[message.metadata.dst_node_id].node_id for message in messages]
        )
        answered = [reply for message in messages if (reply := self._send(message))]
        return answered[::-1]

    def _send(self, message: Message) -> Message | None:
        client = self.clients[message.metadata.dst_node_id]
        stage = str(message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
        content = RecordDict({**message.content})
        for name, record in self.briefings(client, "train", self.server_round).items():
            content[name] = record
        briefing = content.config_records[records.BRIEFING]
        briefing[records.CLIPPING_NORM] = self.config.strategy.clipping_norm
        metadata = changed(message.metadata, dst_node_id=client.node_id)

        def answer(asked: Message) -> Message:
            (reply,) = self.grid.send_and_receive([asked])
            return reply

        asked = make_message(metadata, content)
        fault = self.fault or (lambda stage, client_id, message, answer: answer(message))
        reply = fault(stage, client.id, asked, answer)
        if reply is None:
            return None
        metadata = changed(reply.metadata, src_node_id=client.id)
        if reply.has_error():
            return make_message(metadata, error=reply.error)
        self.replies.append((stage, client.id, reply))
        return make_message(metadata, reply.content)

    def updates(self) -> dict[int, tuple[NDArray[np.float64], int]]:
        """Client id to its true update and number of examples, computed without Flower."""
        start = {name: value.numpy() for name, value in self.start.items()}
        plain = replace(self.config, privacy=replace(self.config.privacy, secure_aggregation=False))
        trained = local_updates(plain, self.groups, start=start, server_round=self.server_round)
        start_P = self.layout.flatten(self.start).double()
        return {
            client_id: (
                (self.layout.flatten(update.parameters).double() - start_P).numpy(),
                update.num_examples,
            )
            for client_id, update in zip(self.clients, trained, strict=True)
        }


def fails(stage: str, *client_ids: int) -> Fault:
    """These clients answer a stage with an error, and no later one."""

    def fault(at: str, client_id: int, message: Message, answer: Answer) -> Message:
        if at == stage and client_id in client_ids:
            return Message(Error(2, "out of battery"), reply_to=_with_id(message))
        return answer(message)

    return fault


def silent(stage: str, client_id: int) -> Fault:
    """This client never answers a stage."""

    def fault(at: str, its: int, message: Message, answer: Answer) -> Message | None:
        return None if (at, its) == (stage, client_id) else answer(message)

    return fault


def _with_id(message: Message) -> Message:
    return make_message(changed(message.metadata, message_id="1"), message.content)


def weighted_mean(
    updates: dict[int, tuple[NDArray[np.float64], int]], ids: Sequence[int], weighted: bool = True
) -> torch.Tensor:
    """The slow, obvious weighted mean."""
    total = sum(updates[i][1] if weighted else 1 for i in ids)
    terms = (updates[i][0] * (updates[i][1] if weighted else 1) / total for i in ids)
    return torch.from_numpy(np.sum(list(terms), axis=0))
