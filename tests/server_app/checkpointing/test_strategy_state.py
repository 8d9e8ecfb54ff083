import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from server_app.checkpointing.plain_state import pack, unpack
from server_app.checkpointing.strategy_state import StrategyState, require_resumable
from server_app.strategies import STRATEGIES, make_strategy
from task.errors import ConfigError
from tests.server_app.cohort_runs import cohort_config
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.interruption import same_when_interrupted

QUIET: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}


def moved(source: Strategy, target: Strategy) -> None:
    target_state = StrategyState(target)
    target_state.load_state_dict(unpack(pack(StrategyState(source).state_dict())))


class Remembers(FedAvg):
    """Has all kinds of attributes."""

    def __init__(self) -> None:
        super().__init__(**QUIET)
        self.history: dict[str, list[float]] = {}
        self.noise = np.random.default_rng(0)
        self.optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1, momentum=0.9)
        self.lock = threading.Lock()


def test_plain_attributes_and_those_with_a_state_are_moved() -> None:
    first, second = Remembers(), Remembers()
    first.history["a"] = [0.5]
    first.noise.random(3)
    (parameter,) = first.optimizer.param_groups[0]["params"]
    parameter.grad = torch.ones(2)
    first.optimizer.step()
    lock = second.lock
    moved(first, second)
    assert second.history == {"a": [0.5]}
    assert second.noise.random() == first.noise.random()
    momentum = second.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, torch.ones(2))
    assert second.lock is lock


def test_a_strategy_of_another_class_is_refused() -> None:
    state = StrategyState(make_strategy(tiny_config())).state_dict()
    with pytest.raises(ConfigError, match="the run's strategy is a FedAvg, expected a Remembers"):
        StrategyState(Remembers()).load_state_dict(state)


class Tracker:
    """What a stranger's strategy may hold."""

    def __init__(self) -> None:
        self.seen = 0


class Tracks(FedAvg):
    """Changes an object that cannot be saved."""

    def __init__(self) -> None:
        super().__init__(**QUIET)
        self.tracker = Tracker()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        self.tracker.seen += 1
        return super().configure_train(server_round, arrays, config, grid)


def test_what_would_be_lost_is_an_error_that_says_what_to_do() -> None:
    strategy = Tracks()
    state = StrategyState(strategy)
    state.state_dict()  # nothing has changed
    strategy.tracker.seen += 1
    with pytest.raises(ConfigError) as error:
        state.state_dict()
    (line,) = str(error.value).splitlines()
    assert line.startswith(
        "Tracks.tracker has changed and cannot be saved in a checkpoint: it is a"
    )
    assert "state_dict and load_state_dict" in line


def test_replacing_such_an_object_is_a_change_too_and_so_is_a_new_one() -> None:
    strategy = Remembers()
    state = StrategyState(strategy)
    strategy.lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"Remembers\.lock has changed"):
        state.state_dict()
    other = Remembers()
    state = StrategyState(other)
    other.tracker = Tracker()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"Remembers\.tracker has changed"):
        state.state_dict()


class SaysItself(Tracks):
    """Knows what to save."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.tracker.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tracker.seen = state["seen"]


def test_a_strategy_may_say_itself_what_it_remembers() -> None:
    first, second = SaysItself(), SaysItself()
    first.tracker.seen = 3
    moved(first, second)
    assert second.tracker.seen == 3


class SaysTooMuch(SaysItself):
    """Its state is not plain."""

    def state_dict(self) -> dict[str, Any]:
        return {"tracker": self.tracker}


def test_a_state_that_is_not_plain_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SaysTooMuch\.state_dict\(\) cannot be saved .*Tracker"):
        StrategyState(SaysTooMuch()).state_dict()


class StartsItself(FedAvg):
    """Counts rounds in its own way."""

    def start(self, *args: Any, **options: Any) -> Result:
        return super().start(*args, **options)


def test_a_strategy_that_counts_rounds_itself_cannot_be_resumed() -> None:
    require_resumable(Remembers())
    with pytest.raises(ConfigError, match="StartsItself has a `start` of its own"):
        require_resumable(StartsItself())


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_rule_of_the_app_can_be_saved_and_resumed(name: str) -> None:
    strategy = make_strategy(tiny_config(strategy__name=name))
    require_resumable(strategy)
    pack(StrategyState(strategy).state_dict())


class Decays(FedAvg):
    """As Flower's tutorials do: the record of settings lasts over rounds."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        config["proximal-mu"] = float(config.get("proximal-mu", 8.0)) / 2  # type: ignore[arg-type]
        return super().configure_train(server_round, arrays, config, grid)


def test_a_record_of_settings_that_a_strategy_changes_lasts() -> None:
    config = cohort_config(train__num_rounds=4)
    same_when_interrupted(config, 2, lambda: Decays(**QUIET))
