from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, FedProx, QFedAvg

from server_app.strategies import STRATEGIES, make_strategy
from task import records
from task.config import RunConfig
from task.errors import ConfigError
from tests.server_app.in_process_grid import InProcessGrid, only, tiny_config, with_content
from tests.server_app.training import (
    assert_close,
    groups_of,
    identical,
    local_updates,
    train_federated,
    weighted_average,
)

MU = 40.0  # large, for two local steps to show


def config_of(name: str, **changes: Any) -> RunConfig:
    if name == "fedprox":
        changes["strategy__options"] = f"proximal-mu={MU}"
    return tiny_config(strategy__name=name, **changes)


def test_names_stand_for_flowers_own_classes() -> None:
    assert isinstance(make_strategy(config_of("fedavg")), FedAvg)
    assert type(make_strategy(config_of("fedmedian"))) is FedMedian
    prox = make_strategy(config_of("fedprox"))
    assert isinstance(prox, FedProx)
    assert prox.proximal_mu == MU
    fair = make_strategy(config_of("qfedavg", strategy__options="q=0.3"))
    assert isinstance(fair, QFedAvg)
    assert (fair.q, fair.client_learning_rate) == (0.3, 30.0)


def test_an_unknown_strategy_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.name = 'fedmedain'.*Did you mean 'fedmedian"):
        make_strategy(tiny_config(strategy__name="fedmedain"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_other_node_ids_and_reply_orders_give_the_same_bits(tmp_path: Path, name: str) -> None:
    trained = []
    for folder in ("first", "second"):  # clients of personal rules keep their state there
        config = config_of(name, run__directory=str(tmp_path / folder))
        trained.append(train_federated(InProcessGrid(config), config, num_rounds=2)[0])
    assert identical(*trained)


@pytest.mark.parametrize("name", STRATEGIES)
def test_another_seed_gives_other_parameters(tmp_path: Path, name: str) -> None:
    config = config_of(name, run__directory=str(tmp_path / "first"))
    other = config_of(name, run__directory=str(tmp_path / "other"), run__seed=1)
    first, _ = train_federated(InProcessGrid(config), config)
    second, _ = train_federated(InProcessGrid(other), other)
    assert not identical(first, second)


def test_fedavg_is_the_average_of_the_clients_weighted_by_examples() -> None:
    config = config_of("fedavg")
    groups = groups_of(config, "train")
    light = with_content(lambda c: c.metric_records["metrics"].update({records.NUM_EXAMPLES: 2}))
    fault = only(light, message_type="train", group=groups[0])
    parameters, _ = train_federated(InProcessGrid(config, fault=fault), config)
    updates = local_updates(config, groups)
    # 24 answered questions, of which a tenth is held back
    assert [update.num_examples for update in updates] == [22, 22, 22]
    assert_close(parameters, weighted_average(updates, [2, 22, 22]))
    with pytest.raises(AssertionError):  # the tolerance tells other weights apart
        assert_close(parameters, weighted_average(updates, [22, 22, 22]))


def test_fedmedian_is_the_median_of_each_parameter() -> None:
    config = config_of("fedmedian")
    parameters, _ = train_federated(InProcessGrid(config), config)
    updates = local_updates(config, groups_of(config, "train"))
    for name, values in parameters.items():
        middle = np.sort([update.parameters[name].numpy() for update in updates], axis=0)[1]
        np.testing.assert_array_equal(values, middle)


def test_fedprox_trains_clients_with_the_proximal_term() -> None:
    config, plain = config_of("fedprox"), config_of("fedavg")
    parameters, _ = train_federated(InProcessGrid(config), config)
    updates = local_updates(config, groups_of(config, "train"), proximal_mu=MU)
    assert_close(parameters, weighted_average(updates, [1, 1, 1]))
    without, _ = train_federated(InProcessGrid(plain), plain)
    with pytest.raises(AssertionError):
        assert_close(parameters, without)


def test_fedprox_sends_its_mu_to_every_client() -> None:
    config = config_of("fedprox")
    grid = InProcessGrid(config)
    train_federated(grid, config)
    sent = [m.content.config_records["config"]["proximal-mu"] for m in grid.messages("train")]
    assert sent == [MU] * 3


@pytest.mark.parametrize("name", ["fedadam"])
def test_clients_are_sent_float32_by_strategies_that_compute_in_float64(name: str) -> None:
    """NumPy makes float64 of their arrays; a client would round or refuse them."""
    config = config_of(name)
    grid = InProcessGrid(config)
    seen: list[dict[str, np.ndarray]] = []

    def remember(_: int, arrays: ArrayRecord) -> None:
        seen.append({name: array.numpy() for name, array in arrays.items()})

    train_federated(grid, config, num_rounds=2, after_round=remember)
    second = grid.messages("train")[-1].content.array_records[records.ARRAYS]
    assert {array.dtype for array in second.values()} == {"float32"}
    assert {values.dtype for values in seen[1].values()} == {np.dtype(np.float64)}
    for parameter, array in second.items():
        rounded = seen[1][parameter].astype(np.float32)
        np.testing.assert_array_equal(array.numpy(), rounded)


def test_options_reach_the_strategy_and_the_defaults_are_this_apps() -> None:
    adam = make_strategy(config_of("fedadam", strategy__options="eta=0.5 beta-1=0.8"))
    assert (adam.eta, adam.beta_1, adam.beta_2) == (0.5, 0.8, 0.99)
    assert make_strategy(config_of("fedyogi")).eta == 0.01
    momentum = make_strategy(config_of("fedavgm"))
    assert (momentum.server_learning_rate, momentum.server_momentum) == (1.0, 0.5)
    assert make_strategy(tiny_config(strategy__name="fedprox")).proximal_mu == 0.01


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedprox", "proximal-mu=0"),
        ("afl", "weight-learning-rate=-1"),
        ("group-robust", "weight-learning-rate=-1"),
        ("fedmgda+", "epsilon=2"),
        ("adaptive-alpha", "decay=1"),
        ("ditto", "proximal-mu=-1"),
        ("mr-mtl", "proximal-mu=-1"),
        ("fedtrimmedavg", "beta=x"),
    ],
)
def test_impossible_options_are_an_error_that_names_them(name: str, options: str) -> None:
    option, _, value = options.partition("=")
    with pytest.raises(ConfigError) as error:
        make_strategy(tiny_config(strategy__name=name, strategy__options=options))
    assert option.replace("-", "_") in str(error.value).replace("-", "_")
    assert value in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_mr_mtl_takes_any_compression_but_top_k(tmp_path: Path) -> None:
    """What top-k leaves out is added in the next round, to a distance that holds it already."""
    for name, compression in (("mr-mtl", "int8"), ("ditto", "top-k"), ("fedavg", "top-k")):
        make_strategy(tiny_config(strategy__name=name, compression__name=compression))
    own = tmp_path / "mine.py"
    own.write_text("from server_app.strategies.mr_mtl import MRMTL as Mine\n")
    for name in ("mr-mtl", f"{own}:Mine"):
        with pytest.raises(ConfigError, match=r"compression\.name = 'top-k'.*'mr-mtl'") as error:
            make_strategy(tiny_config(strategy__name=name, compression__name="top-k"))
        assert len(str(error.value).splitlines()) == 1
