"""Aggregation rules by name: Flower's own, unchanged, on the population grid."""

from collections.abc import Callable

from flwr.serverapp.strategy import FedAvg, FedMedian, FedProx, Strategy

from task.config import StrategyConfig
from task.errors import ConfigError, suggest

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedmedian": FedMedian,
    "fedprox": FedProx,
}

# The population grid samples the cohort and evaluates every group, so a strategy takes all clients
# it is shown, and leaves evaluation alone.
_ALL_CLIENTS = {"fraction_train": 1.0, "fraction_evaluate": 0.0, "min_train_nodes": 1}


def require_strategy(config: StrategyConfig) -> None:
    """Raise a `ConfigError` unless there is a strategy of the name that the config gives."""
    if config.name not in STRATEGIES:
        raise ConfigError(
            f"strategy.name = {config.name!r}: expected one of {', '.join(STRATEGIES)}."
            f"{suggest(config.name, STRATEGIES)}"
        )


def make_strategy(config: StrategyConfig) -> Strategy:
    """Return the strategy that the config names.

    Raises:
        ConfigError: there is no strategy of that name.
    """
    require_strategy(config)
    options: dict[str, float] = {}
    if config.name == "fedprox":
        options["proximal_mu"] = config.proximal_mu
    return STRATEGIES[config.name](**_ALL_CLIENTS, min_available_nodes=1, **options)
