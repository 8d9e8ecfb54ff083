from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import strategy as flower

from server_app.strategies import STRATEGIES, make_strategy
from server_app.strategies.averaging import Averages, FedAvg, FedProx, reduction_of
from task import records
from task.aggregation import Reduction
from task.errors import ConfigError
from tests.server_app.cohort_runs import cohort_config, cohort_grid
from tests.server_app.in_process_grid import InProcessGrid
from tests.server_app.training import identical, train_federated


class Stranger(flower.FedAvg):
    """Reads every client's parameters, as any subclass of Flower's may."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        self.seen = list(replies)
        return super().aggregate_train(server_round, self.seen)


class Mean(Stranger):
    """Says itself that an equally weighted mean is all it reads."""

    def reduction(self) -> Reduction:
        return Reduction(weighted=False)


class Nosy(FedAvg):
    """Inherits that a mean is all it reads, and reads more."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        return super().aggregate_train(server_round, list(replies))


def test_a_subclass_that_reads_more_than_the_mean_gets_every_reply() -> None:
    assert reduction_of(Nosy()) is None
    with_metrics = FedAvg(train_metrics_aggr_fn=lambda contents, key: None)  # type: ignore
    assert reduction_of(with_metrics) is None


def test_fedavg_and_fedprox_say_that_a_weighted_mean_is_all_they_read() -> None:
    for strategy in (FedAvg(), FedProx(proximal_mu=1.0)):
        assert isinstance(strategy, Averages)
        assert reduction_of(strategy) == Reduction(weighted=True)
    assert reduction_of(Mean()) == Reduction(weighted=False)


@pytest.mark.parametrize(
    "strategy",
    [
        flower.FedAvg(),
        flower.FedMedian(),
        flower.FedAdam(),
        flower.QFedAvg(1.0, 0.1, train_loss_key="loss"),
        Stranger(),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_flowers_own_and_strangers_strategies_get_every_client(strategy: Any) -> None:
    assert not isinstance(strategy, Averages)
    assert reduction_of(strategy) is None


def test_the_named_strategies_that_average_are_known() -> None:
    reduced = {
        name
        for name in STRATEGIES
        if reduction_of(make_strategy(cohort_config(strategy__name=name)))
    }
    assert reduced == {"fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"}


def test_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="weighted_by_key = 'loss': expected 'num-examples'"):
        reduction_of(FedAvg(weighted_by_key=records.LOSS))


def options() -> dict[str, Any]:
    return {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}


@pytest.mark.parametrize(("kind", "replies"), [(Stranger, 3), (Mean, 1)])
def test_a_strategy_sees_all_clients_or_the_mean_that_it_asked_for(
    kind: type[Stranger], replies: int
) -> None:
    config = cohort_config()
    called = kind(**options())
    train_federated(InProcessGrid(config), config, strategy=called)
    computed = kind(**options())
    with cohort_grid(config) as grid:
        train_federated(grid, config, strategy=computed)
    assert len(called.seen) == len(computed.seen) == replies
    if replies == 3:
        assert [reply.metadata.src_node_id for reply in computed.seen] == [1, 2, 4]


@pytest.mark.usefixtures("one_thread")
def test_an_own_strategy_that_averages_gets_the_same_bits_from_both_engines() -> None:
    config = cohort_config(strategy__clipping_norm=0.02)
    called, _ = train_federated(
        InProcessGrid(config), config, strategy=Mean(**options()), num_rounds=2
    )
    with cohort_grid(config) as grid:
        computed, _ = train_federated(grid, config, strategy=Mean(**options()), num_rounds=2)
    assert identical(called, computed)
