"""Aggregation rules by name, or a user's own by its path, on the population grid."""

import logging
from collections.abc import Callable

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import (
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Strategy,
)

from server_app.strategies.adaptive_alpha import AdaptiveAlpha
from server_app.strategies.afl import AFL
from server_app.strategies.averaging import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from server_app.strategies.ditto import Ditto
from server_app.strategies.fedmgda import FedMGDA
from server_app.strategies.group_robust import GroupRobust
from server_app.strategies.loading import build, load_own
from server_app.strategies.mr_mtl import MRMTL
from server_app.strategies.qfedavg import QFedAvg
from server_app.strategies.term import TERM
from task import records
from task.config import RunConfig, StrategyConfig
from task.errors import ConfigError, suggest
from task.settings import Scalar

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    # The server's optimizer.
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    # Robust to clients that send anything.
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    # Fair to groups.
    "qfedavg": QFedAvg,
    "afl": AFL,
    "group-robust": GroupRobust,
    "term": TERM,
    "fedmgda+": FedMGDA,
    "adaptive-alpha": AdaptiveAlpha,
    # Personal: each group keeps parameters of its own.
    "ditto": Ditto,
    "mr-mtl": MRMTL,
}


def make_strategy(config: RunConfig) -> Strategy:
    """Return the strategy that the config names, with the options that it gives.

    The population grid samples the cohort and evaluates every group, so a strategy takes all
    clients it is shown, and leaves evaluation alone.

    Raises:
        ConfigError: there is no such strategy, or it does not take these options.
    """
    chosen = config.strategy
    app_settings: dict[str, Scalar] = {
        "fraction_train": 1.0,
        "fraction_evaluate": 0.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 0,
        "min_available_nodes": 1,
    }
    strategy = build(_factory(chosen), chosen, app_settings)
    if isinstance(strategy, flower.QFedAvg):
        strategy.train_loss_key = records.LOSS  # what clients here call it
    if isinstance(strategy, MRMTL) and config.compression.name == "top-k":
        raise ConfigError(
            "compression.name = 'top-k': expected another one with strategy.name = 'mr-mtl'. Its "
            "clients send how far they are from the mean, to which what was left out in the round "
            "before must not be added again."
        )
    return strategy


def require_strategy(config: RunConfig) -> Strategy:
    """Return the strategy without a word from Flower, or raise a `ConfigError`."""
    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.ERROR)  # it warns that the strategy will not evaluate, which is meant
    try:
        return make_strategy(config)
    finally:
        flower.setLevel(level)


def _factory(config: StrategyConfig) -> Callable[..., Strategy]:
    if ":" in config.name:
        return load_own(config.name)
    if config.name not in STRATEGIES:
        raise ConfigError(
            f"strategy.name = {config.name!r}: expected one of {', '.join(STRATEGIES)}, or your "
            f"own as module:Class or path/to/file.py:Class.{suggest(config.name, STRATEGIES)}"
        )
    return STRATEGIES[config.name]
