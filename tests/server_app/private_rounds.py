"""Rounds of central privacy without training: clients that answer with updates that are given."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from server_app.arrays import LocalArray
from server_app.central_privacy import CentralPrivacy
from server_app.metadata import changed, reply_metadata
from server_app.nodes.discovery import Client
from server_app.population import PopulationGrid
from server_app.sampling import CohortSampler
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from task.ledger import Ledger
from tests.server_app.in_process_grid import tiny_config

SHAPES: dict[str, tuple[int, ...]] = {"matrix": (2, 3), "scalar": (), "vector": (4,)}
SIZE = 11
Vector = NDArray[np.float64]


def private_config(**changes: Any) -> RunConfig:
    """All clients in every round, z = 1, C = 1."""
    settings = {
        "privacy__unit": "client",
        "privacy__noise_multiplier": 1.0,
        "privacy__accountant": "rdp",
        "strategy__clipping_norm": 1.0,
        "train__min_valid_fraction": 0.01,
    }
    return tiny_config(**settings | changes)


def record_of(vector: Vector, dtype: Any = np.float32) -> ArrayRecord:
    arrays, first = ArrayRecord(), 0
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        arrays[name] = LocalArray(vector[first : first + size].reshape(shape).astype(dtype))
        first += size
    return arrays


def vector_of(arrays: ArrayRecord) -> Vector:
    return np.concatenate([arrays[name].numpy().astype(float).ravel() for name in SHAPES])


class GivenClients(Grid):
    """Nodes that answer at once, client i (node 100 + i) with the parameters and `updates[i]`.

    None: it fails. As many examples as `examples` says, 10 otherwise.
    """

    def __init__(
        self, updates: Mapping[int, Vector | None], examples: Mapping[int, int] | None = None
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
        self.updates = dict(updates)
        self.asked: list[list[int]] = []  # clients of each push
        self.received: list[Message] = []
        self._examples = examples or {}
        self._replies: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        return Run.create_empty(7)

    def set_run(self, run: Run) -> None:
        """Nothing to set."""

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [100 + i for i in self.updates]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        batch = list(messages)
        self.received += batch
        self.asked.append(sorted(message.metadata.dst_node_id - 100 for message in batch))
        for message in batch:
            sent = make_message(changed(message.metadata, message_id=uuid4().hex), message.content)
            self._replies[sent.metadata.message_id] = self._answer(sent)
            ids.append(sent.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        client = message.metadata.dst_node_id - 100
        update = self.updates[client]
        if update is None:
            return make_message(reply_metadata(message), error=Error(1, "dropped out"))
        start = vector_of(message.content.array_records[records.ARRAYS])
        metrics = {records.NUM_EXAMPLES: self._examples.get(client, 10), records.LOSS: 1.0}
        content = RecordDict(
            {
                records.ARRAYS: record_of(start + update),
                records.METRICS: MetricRecord(metrics),
            }
        )
        return make_message(reply_metadata(message), content)


def population_of(
    grid: Grid, config: RunConfig, ids: Sequence[int], ledger: Ledger | None = None
) -> tuple[PopulationGrid, CentralPrivacy]:
    ledger = ledger or Ledger(None, repeats=not config.privacy.secure_noise)
    central = CentralPrivacy(config, len(ids), ledger)
    population = PopulationGrid(
        grid,
        [Client(i, 100 + i, f"g{i}", f"g{i}", "train") for i in ids],
        lambda *_: {},
        seed=config.run.seed,
        sampler=CohortSampler(config, list(ids)),
        min_valid_fraction=config.train.min_valid_fraction,
        reduction=Reduction(weighted=True),
        privacy=central,
    )
    return population, central


def messages_of(
    population: PopulationGrid, arrays: ArrayRecord, server_round: int
) -> list[Message]:
    """To the cohort of a round, as Flower's strategies make them."""
    population.server_round = server_round - 1
    config = ConfigRecord({records.SERVER_ROUND: server_round})
    content = RecordDict({records.ARRAYS: arrays, records.CONFIG: config})
    return [Message(content, i, "train") for i in population.get_node_ids()]


def mean_update(
    population: PopulationGrid, start: Vector | None = None, server_round: int = 1
) -> Vector:
    """What a strategy gets for a round, less what it sent."""
    start = np.zeros(SIZE) if start is None else start
    arrays = record_of(start)
    (reply,) = population.send_and_receive(messages_of(population, arrays, server_round))
    return vector_of(reply.content.array_records[records.ARRAYS]) - vector_of(arrays)


def one_round(config: RunConfig, updates: Mapping[int, Vector | None], **options: Any) -> Vector:
    """The mean update of round 1."""
    grid = GivenClients(updates, options.pop("examples", None))
    population, _ = population_of(grid, config, list(updates))
    return mean_update(population, **options)


def run_strategy(
    strategy: Strategy, population: PopulationGrid, num_rounds: int, start: Vector | None = None
) -> Vector:
    result = strategy.start(
        grid=population,
        initial_arrays=record_of(np.zeros(SIZE) if start is None else start),
        num_rounds=num_rounds,
        timeout=10,
    )
    return vector_of(result.arrays)
