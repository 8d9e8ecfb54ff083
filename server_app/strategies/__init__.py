"""Aggregation rules by name: Flower's own on the population grid."""

from collections.abc import Callable

from flwr.serverapp.strategy import FedMedian, QFedAvg, Strategy

from server_app.strategies.averaging import FedAvg, FedProx
from task import records
from task.config import RunConfig, StrategyConfig
from task.errors import ConfigError, suggest

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedmedian": FedMedian,
    "fedprox": FedProx,
    "qfedavg": QFedAvg,
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


def make_strategy(config: RunConfig) -> Strategy:
    """Return the strategy that the config names.

    Raises:
        ConfigError: there is no strategy of that name.
    """
    chosen = config.strategy
    require_strategy(chosen)
    options: dict[str, float | str] = {}
    if chosen.name == "fedprox":
        options["proximal_mu"] = chosen.proximal_mu
    if chosen.name == "qfedavg":
        options["q"] = chosen.q
        options["client_learning_rate"] = config.train.learning_rate
        options["train_loss_key"] = records.LOSS
    return STRATEGIES[chosen.name](**_ALL_CLIENTS, min_available_nodes=1, **options)
