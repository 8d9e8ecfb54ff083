"""The cohort engine beside the real ClientApp, called message by message."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian

import client_app.app
from server_app import cohort_workers
from server_app.cohort import CohortGrid, simulate, why_called
from server_app.strategies import STRATEGIES
from task import records
from task.aggregation import Reduction
from task.config import RunConfig, read_toml
from task.errors import ConfigError, RoundError, RunDirectoryError
from task.saved_predictor import load_predictor
from task.training import StackUpdate
from tests.server_app.cohort_runs import (
    FAULTY,
    HELD_OUT,
    TRAIN_GROUPS,
    change_training,
    cohort_config,
    cohort_grid,
    ragged_config,
    train_with_cohort,
    wire,
)
from tests.server_app.in_process_grid import InProcessGrid, make_population, tiny_config
from tests.server_app.test_app import metrics, parameters, run_app
from tests.server_app.training import (
    assert_close,
    identical,
    local_updates,
    train_federated,
    weighted_average,
)

pytestmark = pytest.mark.usefixtures("one_thread", "no_garbage")


@pytest.fixture
def no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's QFedAvg collects garbage for every client, which takes longer than all else here."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


# -- The same as the ClientApp ---------------------------------------------------------------------


@pytest.mark.parametrize("clipping_norm", [0.0, 0.02])
@pytest.mark.parametrize("name", STRATEGIES)
def test_parameters_equal_those_of_the_real_client_app_bit_for_bit(
    tmp_path: Path, name: str, clipping_norm: float
) -> None:
    options = "proximal-mu=5.0" if name in ("fedprox", "ditto", "mr-mtl") else ""

    def config_in(folder: str) -> RunConfig:
        """Personal rules keep state in the run's directory, so each run has its own."""
        return cohort_config(
            run__directory=str(tmp_path / folder),
            strategy__name=name,
            strategy__options=options,
            strategy__clipping_norm=clipping_norm,
        )

    config = config_in("called")
    called, _ = train_federated(InProcessGrid(config), config, num_rounds=3)
    computed, _ = train_with_cohort(config_in("computed"), num_rounds=3)
    assert identical(called, computed)


def test_worker_threads_that_call_the_client_app_parse_no_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython 3.11 cannot parse in two threads at once, and the main thread reads replies."""
    load = np.load

    def load_in_main_thread(*args: Any, **options: Any) -> Any:
        assert threading.current_thread() is threading.main_thread()
        return load(*args, **options)

    config = cohort_config(run__directory=str(tmp_path / "run"), strategy__name="ditto")
    train_with_cohort(config)  # survey and features are read and kept
    monkeypatch.setattr(np, "load", load_in_main_thread)
    other = cohort_config(run__directory=str(tmp_path / "other"), strategy__name="ditto")
    _, population = train_with_cohort(other, num_rounds=2)
    assert population.last_train.failures == {}


@pytest.mark.parametrize("name", ["fedavg", "fedmedian"])
def test_groups_of_unequal_size_and_drawn_cohorts_give_the_same_bits(
    tmp_path: Path, name: str
) -> None:
    config = ragged_config(tmp_path, strategy__name=name, train__clients_per_round=4)
    called, ours = train_federated(InProcessGrid(config), config, num_rounds=3)
    computed, theirs = train_with_cohort(config, num_rounds=3)
    assert identical(called, computed)
    assert [c.name for c in ours.last_train.replies] == [c.name for c in theirs.last_train.replies]
    assert len(theirs.last_train.replies) == 4
    examples = {
        reply.content.metric_records[records.METRICS][records.NUM_EXAMPLES]
        for reply in theirs.last_train.replies.values()
    }
    assert len(examples) > 1  # weights matter


class Personal(FedAvg):
    """A stranger's strategy: every client starts from parameters and with a mu of its own."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        for message in super().configure_train(server_round, arrays, config, grid):
            client = message.metadata.dst_node_id
            scale = np.float32(1 + client / 50)
            own = {name: Array(array.numpy() * scale) for name, array in arrays.items()}
            settings = ConfigRecord(
                {records.PROXIMAL_MU: float(client), records.SERVER_ROUND: server_round}
            )
            content = RecordDict({records.ARRAYS: ArrayRecord(own), records.CONFIG: settings})
            yield Message(content, client, "train")


@pytest.mark.parametrize("stack_size", [1, 5])
def test_reports_are_those_of_the_client_app(tmp_path: Path, stack_size: int) -> None:
    """To the bit whatever the stacks: reports are made for one client after another."""
    config = ragged_config(tmp_path, engine__stack_size=stack_size)
    names = [records.LOSS_BEFORE, records.SCORE_BEFORE]

    def reports(grid: Any, reduction: Reduction | None = None) -> dict[str, list[Any]]:
        population, messages = wire(grid, config, reduction)
        asked = messages("train")
        for message in asked:
            message.content.config_records[records.CONFIG][records.REPORTS] = names
        found = population.exchange(asked).replies
        said = {c.name: r.content.metric_records[records.METRICS] for c, r in found.items()}
        return {name: [metrics[report] for report in names] for name, metrics in said.items()}

    expected = reports(InProcessGrid(config))
    assert len({tuple(loss) for loss, _ in expected.values()}) == len(expected) == 6
    for reduction in (None, Reduction()):
        with cohort_grid(config) as grid:
            assert reports(grid, reduction) == expected


@pytest.mark.parametrize("strategy", [FedAvg, Personal])
@pytest.mark.parametrize("clipping_norm", [0.0, 0.02])
def test_a_strangers_strategy_gets_the_same_bits(
    strategy: type[FedAvg], clipping_norm: float
) -> None:
    def run(train: Callable[..., Any]) -> Any:
        return train(strategy=strategy(fraction_evaluate=0.0), num_rounds=2)[0]

    config = cohort_config(strategy__clipping_norm=clipping_norm)
    called = run(lambda **options: train_federated(InProcessGrid(config), config, **options))
    computed = run(lambda **options: train_with_cohort(config, **options))
    assert identical(called, computed)


@pytest.mark.parametrize("num_nodes", [1, 3])
@pytest.mark.parametrize("stack_size", [1, 5])
def test_scores_are_those_of_the_client_app(
    tmp_path: Path, stack_size: int, num_nodes: int
) -> None:
    config = ragged_config(tmp_path, engine__stack_size=stack_size, evaluation__num_draws=3)
    population, messages = wire(InProcessGrid(config, num_nodes), config)
    expected = population.exchange(messages("evaluate"))
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        found = population.exchange(messages("evaluate"))
    assert len(found.replies) == 7
    assert {client.role for client in found.replies} == {"train", "held-out"}
    for (client, reply), theirs in zip(
        found.replies.items(), expected.replies.values(), strict=True
    ):
        for key, value in theirs.content.metric_records[records.METRICS].items():
            scores = reply.content.metric_records[records.METRICS][key]
            close = 0 if stack_size == 1 else 1e-5
            assert scores == pytest.approx(value, rel=close, abs=close), (client.name, key)


def test_a_stranger_may_have_flower_evaluate_the_training_clients() -> None:
    """Flower then also averages what clients say: scores are lists, which it can."""
    config = cohort_config()
    averaged = []

    class Spy(FedAvg):
        def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> Any:
            averaged.append(super().aggregate_evaluate(server_round, replies))
            return averaged[-1]

    train_federated(InProcessGrid(config), config, strategy=Spy())
    train_with_cohort(config, strategy=Spy())
    called, computed = averaged
    assert dict(called) == dict(computed)
    assert records.SCORES_ALL in called


# -- Stacks, threads, workers ----------------------------------------------------------------------


def distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    return float(np.sqrt(sum(np.square(left[name] - right[name]).sum() for name in left)))


def test_stacks_change_the_first_round_by_rounding_alone(tmp_path: Path) -> None:
    config = ragged_config(tmp_path, train__local_steps=1)
    stacked = replace(config, engine=replace(config.engine, stack_size=4))
    _, predictor = make_population(InProcessGrid(config), config)
    start = {name: p.detach().numpy() for name, p in predictor.named_parameters()}
    one, _ = train_with_cohort(config)
    several, _ = train_with_cohort(stacked)
    assert 0 < distance(one, several) < 0.02 * distance(one, start)


@pytest.mark.parametrize("name", ["fedavg", "fedmedian"])
def test_the_number_of_threads_does_not_change_a_bit(tmp_path: Path, name: str) -> None:
    trained = []
    for num_threads in (1, 2, 3):
        config = ragged_config(
            tmp_path,
            strategy__name=name,
            strategy__clipping_norm=0.02,
            engine__stack_size=2,
            engine__num_threads=num_threads,
        )
        trained.append(train_with_cohort(config, num_rounds=2)[0])
    assert identical(trained[0], trained[1])
    assert identical(trained[0], trained[2])


def test_ray_workers_give_the_same_bits(tmp_path: Path) -> None:
    config = cohort_config(
        encoder__cache_directory=str(tmp_path / "cache"),
        strategy__clipping_norm=0.02,
        engine__num_threads=1,
    )
    called, _ = train_federated(InProcessGrid(config), config, num_rounds=2)
    two = replace(config, engine=replace(config.engine, num_workers=2))
    with cohort_grid(two) as grid:
        computed, population = train_federated(grid, two, num_rounds=2)
        _, messages = wire(grid, two)
        scored = population.exchange(messages("evaluate"))
    assert identical(called, computed)
    assert len(scored.replies) == 4
    assert not ray.is_initialized()  # the grid had started it


# -- Faults ----------------------------------------------------------------------------------------


def not_finite(update: StackUpdate, position: int) -> StackUpdate:
    update.values_KP[position, 3] = torch.nan
    return update


def boom(update: StackUpdate, position: int) -> StackUpdate:
    raise ValueError("boom")


@pytest.mark.parametrize("stack_size", [1, 3])
@pytest.mark.parametrize("name", ["fedavg", "fedmedian"])
def test_a_client_that_is_not_finite_is_named_and_the_others_are_aggregated(
    monkeypatch: pytest.MonkeyPatch, name: str, stack_size: int
) -> None:
    change_training(monkeypatch, FAULTY, not_finite)
    config = cohort_config(strategy__name=name, engine__stack_size=stack_size)
    trained, population = train_with_cohort(config)
    train = population.last_train
    assert train.failures == {FAULTY: "parameter embedder.0.weight is not finite"}
    others = [group for group in TRAIN_GROUPS if group != FAULTY]
    assert [client.name for client in train.replies] == others
    all_updates = dict(zip(TRAIN_GROUPS, local_updates(config, TRAIN_GROUPS), strict=True))
    # Equal weights, and the median of two is their mean.
    expected = weighted_average([all_updates[group] for group in others], [1, 1])
    wrong = weighted_average(list(all_updates.values()), [1, 1, 1])
    assert distance(trained, expected) < 0.1 * distance(wrong, expected)
    if stack_size == 1:
        assert_close(trained, expected)


@pytest.mark.parametrize("name", ["fedavg", "fedmedian"])
def test_a_client_that_cannot_be_trained_is_named_and_the_others_are_aggregated(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change_training(monkeypatch, FAULTY, boom)
    config = cohort_config(strategy__name=name)
    trained, population = train_with_cohort(config)
    assert population.last_train.failures == {FAULTY: "ValueError: boom"}
    updates = local_updates(config, [group for group in TRAIN_GROUPS if group != FAULTY])
    assert_close(trained, weighted_average(updates, [1, 1]))


def test_clients_that_share_a_stack_with_one_that_cannot_be_trained_fail_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = cohort_config(
        data__synthetic_groups=9, engine__stack_size=2, train__min_valid_fraction=0.1
    )
    change_training(monkeypatch, FAULTY, boom)
    _, population = train_with_cohort(config)
    train = population.last_train
    assert FAULTY in train.failures
    assert len(train.failures) == 2  # a stack of two
    assert len(train.replies) == 6
    assert set(train.failures.values()) == {"ValueError: boom"}


def test_too_few_valid_replies_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cohort_config(train__min_valid_fraction=0.9)
    change_training(monkeypatch, FAULTY, boom)
    with pytest.raises(RoundError, match=r"2 of 3 clients sent .*nurses: ValueError: boom"):
        train_with_cohort(config)


@pytest.mark.parametrize(
    ("message_type", "client_id"),
    [("train", 1), ("train", 2), ("evaluate", 1), ("evaluate", 3)],
)
def test_an_unknown_group_is_named_and_the_others_answer(message_type: str, client_id: int) -> None:
    config = cohort_config()
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        unknown = population.clients[client_id]
        population.clients[client_id] = replace(unknown, group="Nobody")
        exchange = population.exchange(messages(message_type), timeout=20)
    assert exchange.failures == {unknown.name: "KeyError: 'Nobody'"}
    assert len(exchange.replies) == exchange.sent - 1


def test_a_group_whose_scoring_fails_twice_does_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each context draw is a job of its own; the group's first failing one is its answer."""
    score = cohort_workers.CohortWorker.score

    def failing(worker: Any, start: Any, keys: Any, batches: Any) -> Any:
        time.sleep(0.05)  # jobs end one after another
        if any(group == FAULTY for batch in batches for group, *_ in batch):
            raise ValueError("boom")
        return score(worker, start, keys, batches)

    monkeypatch.setattr(cohort_workers.CohortWorker, "score", failing)
    config = cohort_config(evaluation__num_draws=2, engine__num_threads=1)
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        exchange = population.exchange(messages("evaluate"), timeout=3)
    assert exchange.failures == {FAULTY: "ValueError: boom"}
    assert [c.name for c in exchange.replies] == ["Northern farmers", HELD_OUT, "Northern teachers"]


def test_replies_that_are_not_there_in_time_are_failures_and_never_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    train = cohort_workers.CohortWorker.train

    def slow(worker: Any, start: Any, task: Any, stacks: Any) -> Any:
        if task.server_round == 1 and len(task.learning_rates) > 1 and [FAULTY] in stacks:
            assert go_on.wait(30)
        return train(worker, start, task, stacks)

    def second(grid: CohortGrid, config: RunConfig, *, disturbed: bool) -> dict[str, np.ndarray]:
        population, messages = wire(grid, config, Reduction())
        first = population.exchange(messages("train"), timeout=2 if disturbed else 30)
        assert (FAULTY in first.failures) == disturbed
        if disturbed:
            assert first.failures[FAULTY] == "no reply within 2 s"
            assert [c.name for c in first.replies] == [g for g in TRAIN_GROUPS if g != FAULTY]
        go_on.set()
        again = population.exchange(messages("train"), timeout=30)
        assert again.failures == {}
        return {
            name: array.numpy()
            for name, array in again.average.content.array_records[records.ARRAYS].items()
        }

    config = cohort_config()
    with cohort_grid(config) as grid:
        expected = second(grid, config, disturbed=False)
    monkeypatch.setattr(cohort_workers.CohortWorker, "train", slow)
    go_on.clear()
    with cohort_grid(config) as grid:
        assert identical(second(grid, config, disturbed=True), expected)


def test_nothing_can_be_taken_before_a_reply_has_come() -> None:
    config = cohort_config()
    with cohort_grid(config) as grid:
        with pytest.raises(ValueError, match="Nothing was added up"):
            grid.take_sum()
        population, messages = wire(grid, config, Reduction())
        population.exchange(messages("train"))
        with pytest.raises(ValueError, match="Nothing was added up"):  # the exchange has taken it
            grid.take_sum()


def test_a_client_that_the_population_rejects_is_not_averaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shifted(update: StackUpdate, position: int) -> StackUpdate:
        update.values_KP[position] += 1000
        return StackUpdate(update.values_KP, update.losses_K * torch.nan)

    change_training(monkeypatch, FAULTY, shifted)
    trained, population = train_with_cohort(cohort_config())
    assert population.last_train.failures == {FAULTY: "loss = nan is not finite"}
    assert np.abs(trained["embedder.0.weight"]).max() < 10


# -- The Grid contract -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "position",
    range(3),
)
def test_a_single_message_can_be_waited_for(position: int) -> None:
    config = cohort_config(engine__num_threads=1)
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        ids = list(population.push_messages(messages("train")))
        replies: list[Message] = []
        for _ in range(20):
            replies += population.pull_messages([ids[position]])
    assert [reply.metadata.reply_to_message_id for reply in replies] == [ids[position]]


def test_messages_can_be_pushed_one_by_one() -> None:
    config = cohort_config()
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        ids = [i for message in messages("train") for i in population.push_messages([message])]
        replies: list[Message] = []
        for _ in range(20):
            replies += population.pull_messages(ids)
    assert sorted(reply.metadata.src_node_id for reply in replies) == [1, 2, 4]


def test_shared_records_survive_a_client_app_that_changes_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = client_app.app.app

    def careless(message: Message, context: Any) -> Message:
        reply = real(message, context)
        for record in message.content.values():
            record.clear()
        message.content.clear()
        return reply

    config = cohort_config(engine__num_threads=1)
    expected, _ = train_federated(InProcessGrid(config), config, num_rounds=2)
    monkeypatch.setattr(client_app.app, "STACKABLE", False)
    monkeypatch.setattr(client_app.app, "app", careless)
    found, _ = train_with_cohort(config, num_rounds=2)
    assert identical(found, expected)


# -- When the ClientApp is called ------------------------------------------------------------------


def test_a_client_app_that_does_not_say_it_is_stackable_is_called_for_every_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cohort_config()
    stacked, _ = train_with_cohort(config, num_rounds=2)
    assert "; computes clients in stacks\n" in capsys.readouterr().out
    monkeypatch.setattr(client_app.app, "STACKABLE", False)
    trained = []
    monkeypatch.setattr(
        client_app.app,
        "load_group",
        lambda config, group, load=client_app.app.load_group: (
            trained.append(group) or load(config, group)
        ),
    )
    called, _ = train_with_cohort(config, num_rounds=2)
    printed = capsys.readouterr().out
    assert printed == (
        "Engine: cohort, 1 worker(s); each calls the ClientApp for one client after another: "
        "client_app.app does not say that it is STACKABLE\n"
    )
    assert all(trained.count(group) >= 2 for group in TRAIN_GROUPS)
    assert identical(stacked, called)
    monkeypatch.delattr(client_app.app, "STACKABLE")
    assert "STACKABLE" in why_called(config)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "top-k"])
def test_compressed_updates_are_the_client_apps_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cohort_config(compression__name=name)
    called, ours = train_federated(InProcessGrid(config), config, num_rounds=2)
    computed, theirs = train_with_cohort(config, num_rounds=2)
    assert f"compression.name = '{name}' is applied by a mod of it" in capsys.readouterr().out
    assert identical(called, computed)
    assert ours.last_train.bytes_up == theirs.last_train.bytes_up


def test_private_updates_are_the_client_apps_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called, computed = (
        train(
            cohort_config(
                run__directory=str(tmp_path / name),
                privacy__unit="question",
                privacy__noise_multiplier=1.0,
                privacy__questions_per_episode=4,
                privacy__accountant="rdp",
            )
        )[0]
        for name, train in (
            ("called", lambda config: train_federated(InProcessGrid(config), config, num_rounds=2)),
            ("computed", lambda config: train_with_cohort(config, num_rounds=2)),
        )
    )
    assert "privacy.unit = 'question' is trained by Opacus in it" in capsys.readouterr().out
    assert identical(called, computed)
    kept = {file.name for file in tmp_path.rglob("*.ledger.json")}
    assert len(kept) == len(TRAIN_GROUPS)


def test_only_stacks_are_reduced_where_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with cohort_grid(cohort_config()) as grid:
        assert grid.reduces
    with cohort_grid(cohort_config(compression__name="int8")) as grid:
        assert not grid.reduces


# -- simulate --------------------------------------------------------------------------------------


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def refuse(command: Any, *args: Any, **options: Any) -> Any:
        program = command if isinstance(command, str) else command[0]
        assert program == "uname", f"a process was started: {command}"  # Python's own `platform`
        return started(command, *args, **options)

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.usefixtures("no_processes")
def test_simulate_leaves_the_run_directory_that_flowers_engine_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path / "project"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = cohort_config(evaluation__num_draws=2)
    before = set(psutil.Process().children(recursive=True))
    directory = simulate(replace(config, run=replace(config.run, directory="mine")))
    assert set(psutil.Process().children(recursive=True)) <= before
    assert directory.path == tmp_path / "here" / "mine"
    run_app(config, tmp_path / "theirs")
    names = sorted(path.name for path in directory.path.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "theirs").iterdir())
    saved = RunConfig.from_flat(read_toml(directory.path / "config.toml"))
    assert saved.engine == replace(config.engine, name="cohort")
    assert metrics(directory.path) == metrics(tmp_path / "theirs")
    ours, theirs = parameters(directory.path), parameters(tmp_path / "theirs")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.usefixtures("no_processes")
def test_simulate_names_its_run_directory_itself_and_takes_a_survey_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    config = ragged_config(tmp_path)
    config = replace(config, data=replace(config.data, path="ragged.csv"))
    directory = simulate(config)
    (made,) = (tmp_path / "runs").iterdir()
    assert directory.path == made
    assert made.name.endswith("-table-seed0")


def test_simulate_takes_a_strategy(tmp_path: Path) -> None:
    seen: list[int] = []

    class Last(FedMedian):
        """Not what any name stands for: the last client's parameters."""

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            answered = list(replies)
            seen.append(len(answered))
            arrays, metrics = super().aggregate_train(server_round, answered[-1:])
            return arrays, metrics

    config = cohort_config(run__directory=str(tmp_path / "run"))
    options = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}
    simulate(config, Last(**options))
    assert seen == [3, 3]
    saved = load_predictor(tmp_path / "run", "final").state_dict()
    expected, _ = train_federated(
        InProcessGrid(config), config, strategy=Last(**options), num_rounds=2
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(saved[name].numpy(), values)


def test_simulate_works_where_no_process_of_flowers_has_been(tmp_path: Path) -> None:
    """In a process of its own: this one has been told who it is by other tests."""
    code = (
        "from pathlib import Path\n"
        "from server_app.cohort import simulate\n"
        "from task.config import RunConfig\n"
        f"simulate(RunConfig.from_flat({tiny_config().to_flat() | {'run.directory': 'run'}!r}))\n"
        "import sys\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_used_run_directory_is_refused(tmp_path: Path) -> None:
    config = cohort_config(run__directory=str(tmp_path / "run"))
    simulate(config)
    with pytest.raises(RunDirectoryError):
        simulate(config)


def test_stacked_scores_are_near_those_of_one_after_another(tmp_path: Path) -> None:
    """Over a whole run rounding is amplified; what a user reads of it stays the same."""
    summaries = []
    for size in (1, 4):
        config = ragged_config(tmp_path, engine__stack_size=size, evaluation__num_draws=2)
        config = replace(config, run=replace(config.run, directory=str(tmp_path / f"run{size}")))
        simulate(config)
        summaries.append(metrics(tmp_path / f"run{size}"))
    for one, several in zip(*summaries, strict=True):
        for group, entry in one["groups"].items():
            assert entry == pytest.approx(several["groups"][group], abs=2e-3), group


def test_lower_precision_is_refused_where_clients_are_calls_of_the_client_app() -> None:
    config = cohort_config(engine__precision="bfloat16", compression__name="int8")
    with pytest.raises(ConfigError, match=r"engine\.precision = 'bfloat16'.*compression\.name"):
        CohortGrid(config)
