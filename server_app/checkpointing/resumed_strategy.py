"""A strategy whose first round is not round 1: Flower's `Strategy.start` counts from there."""

from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

Observe = Callable[[int, ArrayRecord], MetricRecord | None]


class ResumedStrategy(Strategy):
    """Hands every call on to a strategy, with the round that it really is.

    Args:
        inner: the strategy.
        finished: how many rounds are finished.
    """

    def __init__(self, inner: Strategy, finished: int) -> None:
        self._inner = inner
        self._finished = finished

    def summary(self) -> None:
        """Log the strategy's settings."""
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See Flower's Strategy."""
        return self._inner.configure_train(self._finished + server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See Flower's Strategy."""
        return self._inner.aggregate_train(self._finished + server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See Flower's Strategy."""
        return self._inner.configure_evaluate(self._finished + server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """See Flower's Strategy."""
        return self._inner.aggregate_evaluate(self._finished + server_round, replies)

    def observing(self, observe: Observe) -> Observe:
        """Return an `evaluate_fn` that calls another one after each round, not before the first."""

        def shifted(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if server_round == 0:  # has been observed before the run was interrupted
                return None
            return observe(self._finished + server_round, arrays)

        return shifted
