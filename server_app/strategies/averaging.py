"""Flower's strategies that read nothing of clients' parameters but their weighted mean."""

from typing import Any, Protocol, runtime_checkable

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from server_app.strategies.personal import KeepsPersonal
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
    """FedAvg of clients that stay near the global parameters (arXiv 1812.06127, algorithm 2).

    Args:
        proximal_mu: weight of the proximal term, above 0.
        **flower_options: see Flower's FedProx.
    """

    def __init__(self, *, proximal_mu: float = 0.01, **flower_options: Any) -> None:
        if not proximal_mu > 0:
            raise ValueError(f"proximal_mu = {proximal_mu}: expected a number above 0.")
        super().__init__(proximal_mu=proximal_mu, **flower_options)


class FedAvgM(_Averaging, flower.FedAvgM):
    """FedAvg with momentum on the server (arXiv 1909.06335, section 4.3).

    Args:
        server_learning_rate: step along the momentum; see Flower's FedAvgM.
        server_momentum: share of the last step that is kept.
        **flower_options: see Flower's FedAvgM.
    """

    def __init__(
        self,
        *,
        server_learning_rate: float = 1.0,
        server_momentum: float = 0.5,
        **flower_options: Any,
    ) -> None:
        super().__init__(
            server_learning_rate=server_learning_rate,
            server_momentum=server_momentum,
            **flower_options,
        )


class FedAdam(_Averaging, flower.FedAdam):
    """Adam on the server, clients' mean update as its gradient (arXiv 2003.00295, algorithm 2).

    Args:
        eta: server's learning rate. Flower's 0.1 is ten times the step of a round here.
        **flower_options: see Flower's FedAdam.
    """

    def __init__(self, *, eta: float = 0.01, **flower_options: Any) -> None:
        super().__init__(eta=eta, **flower_options)


class FedYogi(_Averaging, flower.FedYogi):
    """As FedAdam, with a squared update that grows more slowly (arXiv 2003.00295, algorithm 2)."""


def reduction_of(strategy: flower.Strategy) -> Reduction | None:
    """Return what a strategy wants instead of each client's parameters; None: it wants those."""
    if not isinstance(strategy, Averages) or not callable(strategy.reduction):
        return None
    if isinstance(strategy, KeepsPersonal):
        return None  # clients are calls of the ClientApp, which sends parameters
    if isinstance(strategy, _Averaging) and not _averages_as_flower(strategy):
        return None  # a subclass that reads more of the replies than their mean
    wanted = strategy.reduction()
    return wanted if isinstance(wanted, Reduction) else None


def _averages_as_flower(strategy: flower.Strategy) -> bool:
    of_flower = (flower.FedAvg, flower.FedAvgM, flower.FedAdam, flower.FedYogi)
    own = type(strategy).aggregate_train
    metrics = getattr(strategy, "train_metrics_aggr_fn", None)
    averages = own in [each.aggregate_train for each in of_flower]
    return averages and metrics is aggregate_metricrecords
