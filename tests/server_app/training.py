"""Federated training for tests, and the slow oracle it is compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from server_app.population import PopulationGrid
from server_app.strategies import make_strategy
from server_app.strategies.averaging import reduction_of
from task.config import RunConfig
from task.features import load_group, load_roles
from task.predictor import PreferencePredictor
from task.reports import make_reports
from task.training import LocalUpdate, train_client
from tests.server_app.in_process_grid import InProcessGrid, group_and_round, make_population

Parameters = dict[str, NDArray[np.float32]]


def train_federated(
    grid: Grid,
    config: RunConfig,
    *,
    strategy: Strategy | None = None,
    num_rounds: int = 1,
    timeout: float = 60,
    after_round: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
) -> tuple[Parameters, PopulationGrid]:
    """Run a strategy; return the global parameters and the population."""
    strategy = strategy or make_strategy(config)
    population, predictor = make_population(grid, config, reduction_of(strategy))
    result = strategy.start(
        grid=population,
        initial_arrays=ArrayRecord(dict(predictor.named_parameters())),
        num_rounds=num_rounds,
        timeout=timeout,
        evaluate_fn=after_round,
    )
    return {name: array.numpy() for name, array in result.arrays.items()}, population


def local_updates(
    config: RunConfig,
    groups: Sequence[str],
    proximal_mu: float = 0.0,
    *,
    start: Parameters | None = None,
    server_round: int = 1,
    **options: Any,
) -> list[LocalUpdate]:
    """What the clients of these groups return in a round, without Flower."""
    module = predictor_with(config, start)
    parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
    return [
        train_client(
            module,
            parameters,
            load_group(config, group),
            config.train,
            learning_rates=config.train.learning_rates(server_round),
            seed=config.run.seed,
            server_round=server_round,
            proximal_mu=proximal_mu,
            **options,
        )
        for group in groups
    ]


def predictor_with(config: RunConfig, parameters: Parameters | None = None) -> PreferencePredictor:
    """The run's predictor with these parameters; None: those that it starts with."""
    _, predictor = make_population(InProcessGrid(config), config)
    if parameters is not None:
        predictor.set_parameters({n: torch.from_numpy(v.copy()) for n, v in parameters.items()})
    return predictor


def start_of(config: RunConfig) -> Parameters:
    """The parameters that a run starts with."""
    return {n: p.detach().numpy().copy() for n, p in predictor_with(config).named_parameters()}


def reports_of(
    config: RunConfig, groups: Sequence[str], name: str, start: Parameters | None = None
) -> list[float]:
    """What the clients of these groups report of parameters, without Flower."""
    predictor = predictor_with(config, start)
    return [
        make_reports(predictor, load_group(config, group), config, [name])[name].value
        for group in groups
    ]


def cohorts(grid: InProcessGrid) -> list[list[str]]:
    """Which groups were asked to train in each round, by name."""
    asked: dict[int, list[str]] = {}
    for message in grid.messages("train"):
        group, server_round = group_and_round(message)
        asked.setdefault(server_round, []).append(group)
    return [sorted(asked[server_round]) for server_round in sorted(asked)]


def weighted_average(updates: Sequence[LocalUpdate], weights: Sequence[float]) -> Parameters:
    return {
        name: sum(
            weight * update.parameters[name].double().numpy() / sum(weights)
            for weight, update in zip(weights, updates, strict=True)
        )
        for name in updates[0].parameters
    }


def groups_of(config: RunConfig, role: str) -> list[str]:
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    return [group for group, its in roles.items() if its == role]


def assert_close(left: Parameters, right: Parameters) -> None:
    """Equal up to the rounding of float32; a local step changes parameters by about 2e-3."""
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_allclose(values, right[name], rtol=0, atol=2e-6, err_msg=name)


def identical(left: Parameters, right: Parameters) -> bool:
    """Equal bit for bit."""
    assert left.keys() == right.keys()
    return all(values.tobytes() == right[name].tobytes() for name, values in left.items())
