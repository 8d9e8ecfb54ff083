"""ServerApp: wires survey, population, strategy and run directory together."""

import logging
from collections.abc import Mapping
from datetime import datetime

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MessageType
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from server_app.discovery import Client, Population, discover_clients
from server_app.fairness import Scores
from server_app.monitor import RoundMonitor
from server_app.plots import plot_run
from server_app.population import PopulationGrid, Record
from server_app.run_directory import RunDirectory
from server_app.sinks import check_sinks, closing_sinks
from server_app.strategies import make_strategy
from task import records
from task.baselines import score_baselines, seen_question_keys
from task.config import RunConfig
from task.encoder import saved_settings
from task.features import load_features
from task.paths import default_run_directory, project_folder
from task.predictor import PreferencePredictor
from task.sources import load_survey

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated training as the run config says."""
    base = project_folder()
    config = RunConfig.from_flat(context.run_config).with_absolute_paths(base)
    logging.getLogger("flwr").setLevel(logging.INFO if config.log.flower else logging.ERROR)
    strategy = make_strategy(config.strategy)
    check_sinks(config.log)
    path = config.run.directory or default_run_directory(config, datetime.now())
    directory = RunDirectory.create(base / path, config)
    print(f"Run directory: {directory.path}", flush=True)
    with directory.recording_status():
        survey = load_survey(config.data, config.run.seed)
        print(f"Survey: {survey.summary()}", flush=True)
        # Features first, with all of this machine's cores: clients then read them from the cache.
        load_features(config.data, config.encoder, config.run.seed)
        baselines = score_baselines(config)
        population = discover_clients(grid, config.train.round_timeout)
        _print_population(population, len(survey.answers))
        _train(grid, config, strategy, population, baselines, directory)
    if (directory.path / "summary.json").exists():
        plot_run(directory)
    print(f"\nRun directory: {directory.path}", flush=True)


def _train(
    grid: Grid,
    config: RunConfig,
    strategy: Strategy,
    population: Population,
    baselines: Mapping[str, Scores],
    directory: RunDirectory,
) -> None:
    """Run the strategy's rounds; whatever ends them, the last predictor is saved."""
    predictor = PreferencePredictor.initial(
        config.predictor, population.feature_sums, saved_settings(config.encoder), config.run.seed
    )
    clients = PopulationGrid(
        grid,
        population.clients,
        Briefings(config, population, predictor),
        seed=config.run.seed,
        clients_per_round=config.train.clients_per_round,
        min_valid_fraction=config.train.min_valid_fraction,
    )
    with closing_sinks(config.log, directory.path, config.to_flat()) as sinks:
        monitor = RoundMonitor(
            clients, predictor, config, population.roles, baselines, directory, sinks
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
        finally:
            monitor.finish()


class Briefings:
    """What every message carries besides the strategy's own records.

    The group it is for and the round; feature statistics; the learning rates of a train message;
    the seen questions of an evaluate message.
    """

    def __init__(
        self, config: RunConfig, population: Population, predictor: PreferencePredictor
    ) -> None:
        self._train = config.train
        statistics = {
            records.FEATURE_MEAN: Array(predictor.feature_mean.numpy()),
            records.FEATURE_STD: Array(predictor.feature_std.numpy()),
        }
        self._statistics = ArrayRecord(statistics)
        seen = seen_question_keys(population.question_keys, population.roles)
        self._seen = {
            role: ArrayRecord({records.QUESTION_KEYS: Array(keys)}) for role, keys in seen.items()
        }

    def __call__(
        self, client: Client, message_type: str, server_round: int
    ) -> Mapping[str, Record]:
        """Return the records for one message."""
        briefing = ConfigRecord({records.GROUP: client.group, records.ROUND: server_round})
        added: dict[str, Record] = {
            records.BRIEFING: briefing,
            records.FEATURE_STATISTICS: self._statistics,
        }
        if message_type.split(".")[0] == MessageType.TRAIN:
            briefing[records.LEARNING_RATES] = self._train.learning_rates(server_round)
        else:
            added[records.SEEN_QUESTIONS] = self._seen[client.role]
        return added


def _print_population(population: Population, num_groups: int) -> None:
    for role, label in (("train", "Training groups"), ("held-out", "Held-out groups")):
        groups = [client.group for client in population.clients if client.role == role]
        shown = ", ".join(groups[:12]) + (f" and {len(groups) - 12} more" if groups[12:] else "")
        print(f"{label} ({len(groups)}): {shown}", flush=True)
    if left_out := num_groups - len(population.clients):
        print(f"Groups of the survey that take no part: {left_out}", flush=True)
