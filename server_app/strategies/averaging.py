"""Flower's strategies that read nothing of clients' parameters but their weighted mean."""

from typing import Protocol, runtime_checkable

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from task import records
from task.aggregation import Reduction
from task.errors import ConfigError


@runtime_checkable
class Averages(Protocol):
    """A strategy that says so itself; the population grid then hands it one reply, the mean.

    Memory then does not grow with the number of clients, and where all clients are computed in one
    process, their parameters never leave it.
    """

    def reduction(self) -> Reduction:
        """Return how the strategy weighs clients."""


class _Averaging:
    weighted_by_key: str

    def reduction(self) -> Reduction:
        """Return how the strategy weighs clients: by their number of examples.

        Raises:
            ConfigError: by something that does not exist here.
        """
        if self.weighted_by_key != records.NUM_EXAMPLES:
            raise ConfigError(
                f"weighted_by_key = {self.weighted_by_key!r}: expected {records.NUM_EXAMPLES!r}."
            )
        return Reduction(weighted=True)


class FedAvg(_Averaging, flower.FedAvg):
    """Federated averaging (arXiv 1602.05629, algorithm 1)."""


class FedProx(_Averaging, flower.FedProx):
    """FedAvg of clients that stay near the global parameters (arXiv 1812.06127, algorithm 2)."""


def reduction_of(strategy: flower.Strategy) -> Reduction | None:
    """Return what a strategy wants instead of each client's parameters; None: it wants those."""
    if not isinstance(strategy, Averages) or not callable(strategy.reduction):
        return None
    if isinstance(strategy, _Averaging) and not _averages_as_flower(strategy):
        return None  # a subclass that reads more of the replies than their mean
    wanted = strategy.reduction()
    return wanted if isinstance(wanted, Reduction) else None


def _averages_as_flower(strategy: flower.Strategy) -> bool:
    own = type(strategy).aggregate_train
    metrics = getattr(strategy, "train_metrics_aggr_fn", None)
    return own is flower.FedAvg.aggregate_train and metrics is aggregate_metricrecords
