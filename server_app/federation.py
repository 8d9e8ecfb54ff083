"""A federated run from start to end: survey, population, strategy, rounds, run directory."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server_app.bounds import UpdateBound
from server_app.briefings import Briefings
from server_app.connections import Connections
from server_app.discovery import Population, discover_clients
from server_app.fairness import Scores
from server_app.inbox import Inbox
from server_app.monitor import RoundMonitor
from server_app.population import PopulationGrid
from server_app.privacy import RunPrivacy, require_private_strategy
from server_app.replies import required_metrics
from server_app.run_directory import RunDirectory
from server_app.sampling import CohortSampler
from server_app.secure_population import SecurePopulationGrid, make_secure_aggregation
from server_app.sinks import check_sinks, closing_sinks
from server_app.strategies import make_strategy
from server_app.strategies.averaging import reduction_of
from task.baselines import score_baselines
from task.config import NODES, RunConfig
from task.encoder import saved_settings
from task.errors import BudgetError
from task.features import load_features
from task.paths import default_run_directory, project_folder
from task.predictor import PreferencePredictor
from task.sources import load_survey


def run_federation(grid: Grid, config: RunConfig, strategy: Strategy | None = None) -> RunDirectory:
    """Train across the groups of whatever nodes the grid reaches; return what the run left.

    Args:
        grid: the runtime's grid.
        config: the run's settings, with absolute paths.
        strategy: the aggregation rule; None: the one that the config names.

    Raises:
        UserError: something that the user can put right, named before any training starts.
        RoundError: too few clients sent a valid reply.
    """
    logging.getLogger("flwr").setLevel(logging.INFO if config.log.flower else logging.ERROR)
    strategy = strategy or make_strategy(config)
    require_private_strategy(strategy, config)
    check_sinks(config.log)
    path = config.run.directory or project_folder() / default_run_directory(config, datetime.now())
    directory = RunDirectory.create(Path(path), config)
    print(f"Run directory: {directory.path}", flush=True)
    with directory.recording_status():
        connections: Connections | None = None
        baselines: Mapping[str, Scores] = {}
        if config.data.source == NODES:  # the data are theirs, and so no baseline can be computed
            connections = Connections(grid, config)
            population = connections.gather()
            num_groups = len(population.clients)
        else:
            num_groups = _load_survey(config)
            # They are computed from all groups' answers, so they are as exact as groups' scores.
            baselines = score_baselines(config) if config.privacy.metrics == "full" else {}
            population = discover_clients(grid, config.train.round_timeout)
        _print_population(population, num_groups)
        _train(grid, config, strategy, population, baselines, directory, connections)
    if (directory.path / "summary.json").exists():
        from server_app.plots import plot_run  # matplotlib takes a second to load

        plot_run(directory)
    print(f"\nRun directory: {directory.path}", flush=True)
    return directory


def _train(
    grid: Grid,
    config: RunConfig,
    strategy: Strategy,
    population: Population,
    baselines: Mapping[str, Scores],
    directory: RunDirectory,
    connections: Connections | None,
) -> None:
    """Run the strategy's rounds; whatever ends them, the last predictor is saved."""
    predictor = PreferencePredictor.initial(
        config.predictor,
        population.feature_sums,
        saved_settings(config.encoder),
        config.run.seed,
        population.answers,
    )
    privacy = RunPrivacy(config, population, directory)
    if plan := privacy.plan():
        print(plan, flush=True)
    train_ids = [client.id for client in population.clients if client.role == "train"]
    make_grid: Callable[..., PopulationGrid] = PopulationGrid
    if config.privacy.secure_aggregation:
        secure = make_secure_aggregation(config, population, reduction_of(strategy))
        make_grid = partial(SecurePopulationGrid, secure=secure)
    clients = make_grid(
        grid,
        population.clients,
        Briefings(config, population, predictor),
        seed=config.run.seed,
        sampler=CohortSampler(config, train_ids),
        min_valid_fraction=config.train.min_valid_fraction,
        clipping_norm=config.strategy.clipping_norm,
        reduction=reduction_of(strategy),
        privacy=privacy.central,
        inbox=Inbox(*required_metrics(config.privacy), UpdateBound(config)),
        connections=connections,
        patience=config.nodes.patience,
    )
    with closing_sinks(config.log, directory.path, config.to_flat()) as sinks:
        monitor = RoundMonitor(
            clients,
            predictor,
            config,
            population.roles,
            baselines,
            directory,
            sinks,
            strategy,
            privacy,
        )
        try:
            strategy.start(
                grid=clients,
                initial_arrays=ArrayRecord(dict(predictor.named_parameters())),
                num_rounds=config.train.num_rounds,
                timeout=config.train.round_timeout,
                train_config=ConfigRecord(),
                evaluate_fn=monitor,
            )
        except BudgetError as spent:
            monitor.stop(str(spent))
        finally:
            monitor.finish()


def _load_survey(config: RunConfig) -> int:
    """Read the survey and its features ahead of the clients; return the number of groups."""
    survey = load_survey(config)
    print(f"Survey: {survey.summary()}", flush=True)
    # With all of this machine's cores: clients then read them from the cache.
    load_features(config.data, config.encoder, config.run.seed)
    return len(survey.answers)


def _print_population(population: Population, num_groups: int) -> None:
    for role, label in (("train", "Training groups"), ("held-out", "Held-out groups")):
        groups = [client.group for client in population.clients if client.role == role]
        shown = ", ".join(groups[:12]) + (f" and {len(groups) - 12} more" if groups[12:] else "")
        print(f"{label} ({len(groups)}): {shown}", flush=True)
    if left_out := num_groups - len(population.clients):
        print(f"Groups of the survey that take no part: {left_out}", flush=True)
