from collections.abc import Callable
from typing import Any

import pytest
import torch

import client_app.app
from server_app import cohort_workers
from server_app.strategies import STRATEGIES
from task.errors import RoundError
from task.features import load_group
from task.training import LocalUpdate
from tests.server_app.cohort_runs import cohort_config, cohort_grid, train_with_cohort
from tests.server_app.training import train_federated

pytestmark = pytest.mark.usefixtures("one_thread")

Options = dict[str, Any]


def faster(options: Options, data: Any) -> tuple[Options, Any]:
    return options | {"learning_rates": [3 * rate for rate in options["learning_rates"]]}, data


def slightly_faster(options: Options, data: Any) -> tuple[Options, Any]:
    return options | {"learning_rates": [1.1 * rate for rate in options["learning_rates"]]}, data


def other_episodes(options: Options, data: Any) -> tuple[Options, Any]:
    return options | {"seed": options["seed"] + 1}, data


def other_data(options: Options, data: Any) -> tuple[Options, Any]:
    return options, load_group(cohort_config(), "Northern teachers")


def train_with(monkeypatch: pytest.MonkeyPatch, train_client: Callable[..., LocalUpdate]) -> None:
    monkeypatch.setattr(client_app.app, "train_client", train_client)


@pytest.mark.parametrize("change", [faster, slightly_faster, other_episodes, other_data])
def test_a_client_app_that_trains_otherwise_stops_the_run_before_its_first_round(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Options, Any], tuple[Options, Any]]
) -> None:
    original = client_app.app.train_client

    def changed(predictor: Any, parameters: Any, data: Any, config: Any, **options: Any) -> Any:
        options, data = change(options, data)
        return original(predictor, parameters, data, config, **options)

    train_with(monkeypatch, changed)
    rounds: list[int] = []
    config = cohort_config()
    with (
        cohort_grid(config) as grid,
        pytest.raises(RoundError, match=r"client_app\.app.*set STACKABLE = False") as caught,
    ):
        train_federated(grid, config, after_round=lambda number, _: rounds.append(number))
    assert "% of the update" in str(caught.value)
    assert rounds == [0]  # evaluated before the first round, and never after one


def test_noise_added_by_the_client_app_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As client-side differential privacy adds it: 3% of the update in norm would pass."""
    original = client_app.app.train_client

    def noisy(*args: Any, **options: Any) -> LocalUpdate:
        update = original(*args, **options)
        noise = {name: 1e-3 * torch.randn_like(v) for name, v in update.parameters.items()}
        parameters = {name: v + noise[name] for name, v in update.parameters.items()}
        return LocalUpdate(parameters, update.loss, update.num_examples)

    train_with(monkeypatch, noisy)
    with pytest.raises(RoundError, match="STACKABLE"):
        train_with_cohort(cohort_config())


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("stack_size", [0, 3])
def test_the_unchanged_client_app_passes(name: str, stack_size: int) -> None:
    config = cohort_config(strategy__name=name, engine__stack_size=stack_size)
    _, population = train_with_cohort(config)
    assert population.last_train.failures == {}


def test_only_the_first_round_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    call = cohort_workers.CohortWorker.call

    def counting(worker: Any, message: Any) -> Any:
        called.append(message.metadata.message_type)
        return call(worker, message)

    monkeypatch.setattr(cohort_workers.CohortWorker, "call", counting)
    train_with_cohort(cohort_config(), num_rounds=3)
    assert called == ["query.describe", "train"]


def test_a_changed_client_app_that_says_so_is_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = client_app.app.train_client

    def doubled(*args: Any, **options: Any) -> LocalUpdate:
        update = original(*args, **options)
        return LocalUpdate(update.parameters, 2 * update.loss, update.num_examples)

    config = cohort_config()
    _, before = train_with_cohort(config)
    train_with(monkeypatch, doubled)
    monkeypatch.setattr(client_app.app, "STACKABLE", False)
    _, after = train_with_cohort(config)

    def loss(population: Any) -> float:
        return float(population.last_train.average.content.metric_records["metrics"]["loss"])

    assert loss(after) == 2 * loss(before)


@pytest.mark.parametrize("what", ["loss", "num_examples"])
def test_a_client_app_that_says_something_else_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """QFedAvg weighs by the loss, FedAvg by the number of examples."""
    original = client_app.app.train_client

    def changed(*args: Any, **options: Any) -> LocalUpdate:
        update = original(*args, **options)
        values = {"loss": update.loss, "num_examples": update.num_examples}
        return LocalUpdate(update.parameters, **values | {what: 2 * values[what]})

    train_with(monkeypatch, changed)
    with pytest.raises(RoundError, match="STACKABLE"):
        train_with_cohort(cohort_config())
