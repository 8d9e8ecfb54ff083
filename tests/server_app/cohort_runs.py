"""The cohort engine for tests, and a survey whose groups are of unequal size."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

import task.cohort
from server_app.cohort import CohortGrid
from server_app.population import PopulationGrid
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from task.training import StackUpdate
from tests.server_app.in_process_grid import RUN_ID, make_population, tiny_config
from tests.server_app.training import Parameters, train_federated

TRAIN_GROUPS = ["Northern farmers", "Northern nurses", "Northern teachers"]  # of `tiny_config`
FAULTY = "Northern nurses"
HELD_OUT = "Northern students"


def cohort_config(**changes: Any) -> RunConfig:
    """Settings with which the engine computes bit for bit what the ClientApp does."""
    return tiny_config(**{"engine__stack_size": 1, "engine__num_threads": 2} | changes)


@contextmanager
def cohort_grid(config: RunConfig) -> Iterator[CohortGrid]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
    grid = CohortGrid(config)
    try:
        yield grid
    finally:
        grid.close()


def train_with_cohort(config: RunConfig, **options: Any) -> tuple[Parameters, PopulationGrid]:
    with cohort_grid(config) as grid:
        return train_federated(grid, config, **options)


def wire(
    grid: Grid, config: RunConfig, reduction: Reduction | None = None
) -> tuple[PopulationGrid, Callable[[str], list[Message]]]:
    """A population, and what makes messages: to train its training or to evaluate all clients."""
    population, predictor = make_population(grid, config, reduction)
    arrays = ArrayRecord(dict(predictor.named_parameters()))

    def messages(message_type: str) -> list[Message]:
        ids = population.train_ids if message_type == "train" else sorted(population.clients)
        content = RecordDict({records.ARRAYS: arrays, records.CONFIG: ConfigRecord()})
        return [Message(content, client_id, message_type) for client_id in ids]

    return population, messages


def change_training(
    monkeypatch: pytest.MonkeyPatch, group: str, change: Callable[[StackUpdate, int], StackUpdate]
) -> None:
    """Change what the engine's training gives, for the stack with this group (and its position).

    The one step in which the engine compares itself with the ClientApp is left as it is.
    """
    trained = task.cohort.train_stack

    def changed(stack: Any, start_P: Any, clients: Any, *args: Any, **options: Any) -> StackUpdate:
        update = trained(stack, start_P, clients, *args, **options)
        groups = [data.group for data in clients]
        if group not in groups or len(options["learning_rates"]) == 1:
            return update
        return change(update, groups.index(group))

    monkeypatch.setattr(task.cohort, "train_stack", changed)


def write_ragged_survey(folder: Path, num_groups: int = 7) -> str:
    """Write a survey whose groups answer 8, 12, 16 ... questions of 2 to 5 options."""
    random = np.random.default_rng(0)
    path = folder / "ragged.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "question", "option", "share"])
        for number in range(num_groups):
            asked = random.permutation(40)[: 8 + 4 * number]
            for question in sorted(asked.tolist()):
                shares = random.dirichlet(np.ones(2 + question % 4))
                for option, share in enumerate(shares):
                    text = f"Question {question} about topic {question % 7}?"
                    rows.writerow([f"g{number}", text, f"option {option}", share])
    return str(path)


def ragged_config(folder: Path, **changes: Any) -> RunConfig:
    path = write_ragged_survey(folder)
    return cohort_config(data__source="table", data__path=path, **changes)
