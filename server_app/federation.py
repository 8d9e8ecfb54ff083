"""A federated run from start to end: survey, population, strategy, rounds, run directory."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server_app.announcing import announce, announce_as
from server_app.bounds import UpdateBound
from server_app.briefings import Briefings
from server_app.checkpointing.checkpoints import require_every_round
from server_app.checkpointing.resumed_strategy import Observe, ResumedStrategy
from server_app.checkpointing.run_state import RunState
from server_app.checkpointing.strategy_state import StrategyState, require_resumable
from server_app.fairness import Scores
from server_app.inbox import Inbox
from server_app.monitor import RoundMonitor
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Population, discover_clients
from server_app.open_run import OpenRun, open_run
from server_app.population import PopulationGrid
from server_app.privacy import RunPrivacy, require_private_strategy
from server_app.reply_metrics import MetricRules
from server_app.run_directory import RunDirectory
from server_app.sampling import CohortSampler
from server_app.secure_population import SecurePopulationGrid, make_secure_aggregation
from server_app.sinks import check_sinks, closing_sinks
from server_app.stopping import called_when_stopped
from server_app.strategies import make_strategy
from server_app.strategies.averaging import reduction_of
from task.baselines import score_baselines
from task.clients import members
from task.config import NODES, DataConfig, RunConfig
from task.encoder import saved_settings
from task.errors import BudgetError
from task.features import load_features
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
    announce_as(config.log)
    logging.getLogger("flwr").setLevel(logging.INFO if config.log.flower else logging.ERROR)
    strategy = strategy or make_strategy(config)
    require_private_strategy(strategy, config)
    require_every_round(strategy, config)
    check_sinks(config.log)
    if config.run.resume:
        require_resumable(strategy)
    with open_run(config) as run:
        directory = run.directory
        where = {"directory": str(directory.path)}
        announce("run-started", f"Run directory: {directory.path}", where)
        connections: Connections | None = None
        baselines: Mapping[str, Scores] = {}
        if config.data.source == NODES:  # the data are theirs, and so no baseline can be computed
            connections = Connections(grid, config)
            population = run.settle(connections.gather(run.began), all_there=False)
            connections.bind(population)
            num_clients = len(population.clients)
        else:
            num_clients = _load_survey(config)
            # They are computed from all groups' answers, so they are as exact as groups' scores.
            baselines = score_baselines(config) if config.privacy.metrics == "full" else {}
            population = run.settle(discover_clients(grid, config.train.round_timeout))
        _announce_population(population, num_clients, config.data)
        _train(grid, config, strategy, population, baselines, run, connections)
    if (directory.path / "summary.json").exists():
        from server_app.plots import plot_run  # matplotlib takes a second to load

        plot_run(directory)
    announce("run-completed", f"\nRun directory: {directory.path}", where)
    return directory


def _train(
    grid: Grid,
    config: RunConfig,
    strategy: Strategy,
    population: Population,
    baselines: Mapping[str, Scores],
    run: OpenRun,
    connections: Connections | None,
) -> None:
    """Run the strategy's rounds; whatever ends them, the last predictor and state are saved."""
    directory, checkpoints = run.directory, run.checkpoints
    finished = run.resumed.server_round if run.resumed else None
    predictor = PreferencePredictor.initial(
        config.predictor,
        population.feature_sums,
        saved_settings(config.encoder),
        config.run.seed,
        population.answers,
    )
    privacy = RunPrivacy(config, population, directory)
    if plan := privacy.plan(finished):
        announce("privacy-plan", plan, {"plan": plan})
    train_ids = [client.id for client in population.clients if client.role == "train"]
    make_grid: Callable[..., PopulationGrid] = PopulationGrid
    if config.privacy.secure_aggregation:
        secure = make_secure_aggregation(config, population, reduction_of(strategy), connections)
        make_grid = partial(SecurePopulationGrid, secure=secure)
    clients = make_grid(
        grid,
        population.clients,
        Briefings(config, population, predictor, run.key),
        seed=config.run.seed,
        sampler=CohortSampler(config, train_ids),
        min_valid_fraction=config.train.min_valid_fraction,
        clipping_norm=config.strategy.clipping_norm,
        reduction=reduction_of(strategy),
        privacy=privacy.central,
        inbox=Inbox(MetricRules.of(config, population.num_questions), UpdateBound(config)),
        connections=connections,
        patience=config.nodes.patience,
    )
    with closing_sinks(config.log, directory.path, config.to_flat(), finished) as sinks:
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
        state = RunState(
            StrategyState(strategy), ConfigRecord(), ConfigRecord(), privacy, clients, monitor
        )
        arrays = ArrayRecord(dict(predictor.named_parameters()))
        started: Strategy = strategy
        observe: Observe = monitor
        if run.resumed:
            arrays = state.restore(run.resumed)
            started = resumed = ResumedStrategy(strategy, run.resumed.server_round)
            observe = resumed.observing(monitor)
            announce("run-continued", f"Continued after round {finished}", {"round": finished})
        if checkpoints.enabled:
            monitor.after_round = lambda *after: checkpoints.add(state.after(*after))
        try:
            with called_when_stopped(monitor.save):
                started.start(
                    grid=clients,
                    initial_arrays=arrays,
                    num_rounds=config.train.num_rounds - (finished or 0),
                    timeout=config.train.round_timeout,
                    train_config=state.train_config,
                    evaluate_config=state.evaluate_config,
                    evaluate_fn=observe,
                )
        except BudgetError as spent:
            monitor.stop(str(spent))
        finally:
            try:
                checkpoints.flush()
            finally:
                monitor.finish()


def _load_survey(config: RunConfig) -> int:
    """Read the survey and its features ahead of the clients; return the number of these."""
    survey = load_survey(config)
    summary = survey.summary(config.data.clients)
    announce("survey", f"Survey: {summary}", {"summary": summary})
    # With all of this machine's cores: clients then read them from the cache.
    load_features(config.data, config.encoder, config.run.seed)
    return len(survey.answers)


def _announce_population(population: Population, num_clients: int, data: DataConfig) -> None:
    """Say which groups train and which are held out, and how many clients take no part.

    Args:
        population: who takes part.
        num_clients: groups of the survey, or its users where these are clients.
        data: says which they are.
    """
    for role, label in (("train", "Training groups"), ("held-out", "Held-out groups")):
        clients = [client.group for client in population.clients if client.role == role]
        groups = list(members(clients, data)) if data.by_user else clients
        shown = ", ".join(groups[:12]) + (f" and {len(groups) - 12} more" if groups[12:] else "")
        users = f" with {len(clients)} users" if data.by_user else ""
        fields: dict[str, Any] = {"role": role, "number": len(groups), "first": groups[:12]}
        if data.by_user:
            fields["users"] = len(clients)
        announce("population", f"{label} ({len(groups)}{users}): {shown}", fields)
    if left_out := num_clients - len(population.clients):
        text = f"{data.clients.capitalize()} of the survey that take no part: {left_out}"
        announce(f"{data.clients}-left-out", text, {"number": left_out})
