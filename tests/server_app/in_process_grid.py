"""A Grid for tests: the real ClientApp, called in this process.

As hostile as a real runtime is allowed to be: node ids differ every time, replies come in any
order and not all at once, every message crosses the wire format. Faults are injected by `Fault`s.
"""

import os
import random
import secrets
import time
from collections.abc import Callable, Iterable
from uuid import uuid4

import numpy as np
from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client_app.app import app
from server_app.briefings import Briefings
from server_app.inbox import Inbox
from server_app.nodes.discovery import discover_clients
from server_app.population import PopulationGrid
from server_app.reply_metrics import MetricRules
from server_app.sampling import CohortSampler
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from task.encoder import saved_settings
from task.predictor import PreferencePredictor

RUN_ID = 7
RUN_KEY = "0123456789abcdef"

Fault = Callable[[Message, Callable[[Message], Message]], Message | None]
"""(message, the ClientApp) to the node's reply; None when it never answers."""


class InProcessGrid(Grid):
    """Nodes in this process, each with a context of its own.

    Args:
        config: the run config of all nodes; `contexts` may be changed one by one afterwards.
        num_nodes: how many nodes share the groups.
        fault: answers instead of the ClientApp.
        late_nodes: how many nodes are missing from the first two `get_node_ids`.
    """

    def __init__(
        self,
        config: RunConfig,
        num_nodes: int = 2,
        *,
        fault: Fault | None = None,
        late_nodes: int = 0,
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
        self.fault = fault
        self.received: list[Message] = []  # by nodes, in order
        self.overdue: list[Message] = []  # delivered with the next pull, asked for or not
        self._run = Run.create_empty(RUN_ID)
        self._shuffle = random.SystemRandom()
        self._replies: dict[str, Message] = {}
        self._late_nodes = late_nodes
        self._looks = 0
        self.contexts: dict[int, Context] = {}
        for partition in range(num_nodes):
            node_id = int.from_bytes(os.urandom(7), "big")
            self.contexts[node_id] = Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={"partition-id": partition, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(config.to_flat()),
            )

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        self._looks += 1
        ids = list(self.contexts)
        shown = ids if self._looks > 2 else ids[: len(ids) - self._late_nodes]
        return self._shuffle.sample(shown, len(shown))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [message_id for message_id in message_ids if message_id in self._replies]
        some = self._shuffle.sample(ready, (len(ready) + 1) // 2)
        overdue, self.overdue = self.overdue, []
        return overdue + [self._replies.pop(message_id) for message_id in some]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        awaited = set(self.push_messages(messages))
        deadline = time.monotonic() + (timeout or 60)
        replies: list[Message] = []
        while awaited and time.monotonic() < deadline:
            for reply in self.pull_messages(awaited):
                awaited.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    def messages(self, message_type: str) -> list[Message]:
        """The messages of a type that nodes have received."""
        return [m for m in self.received if m.metadata.message_type == message_type]

    def _push(self, message: Message) -> str:
        proto = message_to_proto(message)
        proto.metadata.message_id = uuid4().hex
        arrived = message_from_proto(proto)
        self.received.append(message_from_proto(proto))
        reply = self.fault(arrived, self._answer) if self.fault else self._answer(arrived)
        if reply is not None:
            returned = message_from_proto(message_to_proto(reply))
            self._replies[arrived.metadata.message_id] = returned
        return arrived.metadata.message_id

    def _answer(self, message: Message) -> Message:
        return app(message, self.contexts[message.metadata.dst_node_id])


def group_and_round(message: Message) -> tuple[str, int]:
    """Whom a message is for, and its round; ("", 0) for `describe`."""
    briefing = message.content.config_records.get(records.BRIEFING, {})
    return str(briefing.get(records.GROUP, "")), int(briefing.get(records.ROUND, 0))


def only(fault: Fault, *, message_type: str, group: str = "", server_round: int = 0) -> Fault:
    """Restrict a fault to a message type, and to a group and a round if given."""

    def restricted(message: Message, answer: Callable[[Message], Message]) -> Message | None:
        for_group, in_round = group_and_round(message)
        if (
            message.metadata.message_type == message_type
            and (not group or for_group == group)
            and (not server_round or in_round == server_round)
        ):
            return fault(message, answer)
        return answer(message)

    return restricted


def raises(message: Message, answer: Callable[[Message], Message]) -> Message:
    """The ClientApp raises a KeyError: it is asked for a group that takes no part."""
    message.content.config_records[records.BRIEFING][records.GROUP] = "Nobody"
    return answer(message)


def silent(message: Message, answer: Callable[[Message], Message]) -> None:
    """The node never answers."""


def lost(message: Message, answer: Callable[[Message], Message]) -> Message:
    """The node is lost: Flower's SuperLink answers in its stead, as node 1."""
    proto = message_to_proto(Message(Error(5, "Node unavailable"), reply_to=message))
    proto.metadata.src_node_id = 1
    return message_from_proto(proto)


def with_parameter(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """The first parameter of a train reply is changed."""

    def changed(message: Message, answer: Callable[[Message], Message]) -> Message:
        reply = answer(message)
        arrays = reply.content.array_records[records.ARRAYS]
        name = next(iter(arrays))
        arrays[name] = Array(change(arrays[name].numpy().copy()))
        return reply

    return changed


def with_content(change: Callable[[RecordDict], object]) -> Fault:
    """The content of a reply is changed in place."""

    def changed(message: Message, answer: Callable[[Message], Message]) -> Message:
        reply = answer(message)
        change(reply.content)
        return reply

    return changed


def tiny_config(**changes: bool | int | float | str) -> RunConfig:
    """A run of seconds; keys as `train__num_rounds=3`."""
    flat: dict[str, bool | int | float | str] = {
        "data.synthetic-groups": 4,
        "data.num-held-out-groups": 1,
        "data.synthetic-questions": 60,
        "data.synthetic-answered": 24,
        "encoder.dimension": 16,
        "predictor.width": 16,
        "predictor.embedder-depth": 2,
        "predictor.num-layers": 1,
        "predictor.num-heads": 2,
        "predictor.feedforward-width": 16,
        "train.num-rounds": 2,
        "train.local-steps": 2,
        "train.min-context": 2,
        "train.max-context": 5,
        "train.min-target": 2,
        "train.max-target": 5,
        "evaluation.every": 1,
        "evaluation.num-context": 5,
        "evaluation.num-draws": 1,
    }
    for key, value in changes.items():
        flat[key.replace("__", ".").replace("_", "-")] = value
    return RunConfig.from_flat(flat)


def make_population(
    grid: Grid, config: RunConfig, reduction: Reduction | None = None
) -> tuple[PopulationGrid, PreferencePredictor]:
    """Wire a population and its untrained predictor as the ServerApp does."""
    found = discover_clients(grid, timeout=60)
    predictor = PreferencePredictor.initial(
        config.predictor, found.feature_sums, saved_settings(config.encoder), config.run.seed
    )
    train_ids = [client.id for client in found.clients if client.role == "train"]
    population = PopulationGrid(
        grid,
        found.clients,
        Briefings(config, found, predictor, secrets.token_hex(8)),
        seed=config.run.seed,
        sampler=CohortSampler(config, train_ids),
        min_valid_fraction=config.train.min_valid_fraction,
        clipping_norm=config.strategy.clipping_norm,
        reduction=reduction,
        inbox=Inbox(MetricRules.of(config, found.num_questions)),
    )
    return population, predictor
