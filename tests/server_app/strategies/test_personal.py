"""Ditto and MR-MTL on the in-process grid, beside slow loops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import strategy as flower

from client_app import module
from server_app.cohort import simulate
from server_app.strategies import make_strategy
from server_app.strategies.ditto import Ditto
from server_app.strategies.mr_mtl import MRMTL
from server_app.strategies.personal import KeepsPersonal
from task import records
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import load_group
from task.personal import PersonalStore
from task.saved_predictor import load_predictor
from tests.server_app.in_process_grid import InProcessGrid, tiny_config
from tests.server_app.test_app import HELD_OUT, TRAIN_GROUPS, metrics, run_app
from tests.server_app.training import (
    Parameters,
    assert_close,
    cohorts,
    identical,
    local_updates,
    predictor_with,
    start_of,
    train_federated,
    weighted_average,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["ditto", "mr-mtl"]
MU = 0.7


def personal_config(folder: Path, name: str, mu: float = MU, **changes: Any) -> RunConfig:
    chosen: dict[str, Any] = {
        "run__directory": str(folder),
        "strategy__name": name,
        "strategy__options": f"proximal-mu={mu}",
        "train__learning_rate": 0.02,
        "train__num_rounds": 3,
    }
    return tiny_config(**chosen | changes)


def kept(config: RunConfig, group: str) -> Parameters | None:
    """A group's own parameters, from its client's folder."""
    found = PersonalStore(Path(config.run.directory) / "clients").load(group)
    return {name: value.numpy() for name, value in found.parameters.items()} if found else None


def as_arrays(parameters: Any) -> Parameters:
    return {name: value.numpy() for name, value in parameters.items()}


def far_from(left: Parameters, right: Parameters) -> float:
    return float(max(np.abs(values - right[name]).max() for name, values in left.items()))


def global_parameters(grid: InProcessGrid, config: RunConfig, num_rounds: int) -> list[Parameters]:
    """Train; return the global parameters before the first round and after each."""
    sent: list[Parameters] = []

    def remember(_: int, arrays: Any) -> None:
        sent.append({name: array.numpy() for name, array in arrays.items()})

    train_federated(grid, config, num_rounds=num_rounds, after_round=remember)
    return sent


# -- against slow loops ----------------------------------------------------------------------------


def test_dittos_global_parameters_are_those_of_flowers_fedavg_bit_for_bit(tmp_path: Path) -> None:
    config = personal_config(tmp_path, "ditto", mu=50.0)
    found, _ = train_federated(InProcessGrid(config), config, num_rounds=3)
    plain = replace(config, strategy=tiny_config().strategy)
    averaging = flower.FedAvg(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1)
    expected, _ = train_federated(InProcessGrid(plain), plain, strategy=averaging, num_rounds=3)
    assert identical(found, expected)
    one_round = train_federated(InProcessGrid(plain), plain)[0]
    assert_close(train_federated(InProcessGrid(config), config)[0], one_round)


def test_dittos_own_parameters_equal_a_slow_loop(tmp_path: Path) -> None:
    config = personal_config(
        tmp_path,
        "ditto",
        run__seed=2,
        train__clients_per_round=2,
        data__held_out_groups=HELD_OUT,
    )
    grid = InProcessGrid(config)
    sent = global_parameters(grid, config, num_rounds=3)
    own: dict[str, Parameters] = {}
    for server_round, (groups, anchor) in enumerate(zip(cohorts(grid), sent, strict=False), 1):
        assert len(groups) == 2
        anchors = predictor_with(config, anchor).state_dict()
        named = {name: anchors[name] for name in anchor}
        for group in groups:
            (update,) = local_updates(
                config, [group], MU,
                start=own.get(group, anchor), server_round=server_round, anchor=named,
            )  # fmt: skip
            own[group] = as_arrays(update.parameters)
    assert cohorts(grid)[0] != cohorts(grid)[1]  # a group goes on where it was two rounds ago
    for group, expected in own.items():
        assert_close(kept(config, group), expected)
        assert far_from(expected, sent[-1]) > 0.01
    for group in {HELD_OUT, *TRAIN_GROUPS} - set(own):
        assert kept(config, group) is None


def test_mr_mtls_parameters_equal_a_slow_loop(tmp_path: Path) -> None:
    config = personal_config(tmp_path, "mr-mtl")
    sent = global_parameters(InProcessGrid(config), config, num_rounds=2)
    own = dict.fromkeys(TRAIN_GROUPS, start_of(config))
    for server_round in (1, 2):
        state = predictor_with(config, sent[server_round - 1]).state_dict()
        anchor = {name: state[name] for name in sent[0]}
        updates = [
            local_updates(
                config, [group], MU, start=own[group], server_round=server_round, anchor=anchor
            )[0]
            for group in TRAIN_GROUPS
        ]
        own = {
            group: as_arrays(update.parameters)
            for group, update in zip(TRAIN_GROUPS, updates, strict=True)
        }
        # all have as many examples
        assert_close(sent[server_round], weighted_average(updates, [1, 1, 1]))
    for group, expected in own.items():
        assert_close(kept(config, group), expected)
        assert far_from(expected, sent[-1]) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_large_mu_leaves_groups_near_the_global_parameters(tmp_path: Path, name: str) -> None:
    apart = []
    for mu in (0.0, 1e4):
        config = personal_config(
            tmp_path / str(mu), name, mu=mu, train__local_steps=12, train__learning_rate=0.005
        )
        found, _ = train_federated(InProcessGrid(config), config, num_rounds=3)
        own = [kept(config, group) for group in TRAIN_GROUPS]
        apart.append(np.mean([far_from(each, found) for each in own]))
    assert apart[1] < 0.5 * apart[0]


# -- what lasts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_own_parameters_survive_a_restart_of_all_nodes(tmp_path: Path, name: str) -> None:
    """Between rounds the nodes lose their contexts and processes, but not their files."""
    config = personal_config(tmp_path / "restarted", name)
    grid = InProcessGrid(config)

    def restart(*_: Any) -> None:
        module._module.cache_clear()
        for node_id, context in grid.contexts.items():
            grid.contexts[node_id] = Context(
                context.run_id, node_id, context.node_config, RecordDict(), context.run_config
            )

    found, _ = train_federated(grid, config, num_rounds=3, after_round=restart)
    steady = personal_config(tmp_path / "steady", name)
    expected, _ = train_federated(InProcessGrid(steady), steady, num_rounds=3)
    assert identical(found, expected)
    for group in TRAIN_GROUPS:
        assert identical(kept(config, group), kept(steady, group))


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_is_delivered_twice_changes_nothing(tmp_path: Path, name: str) -> None:
    def twice(message: Any, answer: Any) -> Any:
        first, second = answer(message), answer(message)
        assert first.content == second.content
        return second

    config = personal_config(tmp_path / "twice", name)
    found, _ = train_federated(InProcessGrid(config, fault=twice), config, num_rounds=2)
    once = personal_config(tmp_path / "once", name)
    expected, _ = train_federated(InProcessGrid(once), once, num_rounds=2)
    assert identical(found, expected)
    for group in TRAIN_GROUPS:
        assert identical(kept(config, group), kept(once, group))


def test_nodes_with_a_state_path_keep_their_groups_there(tmp_path: Path) -> None:
    config = personal_config(tmp_path / "server", "ditto")
    grid = InProcessGrid(config)
    for number, context in enumerate(grid.contexts.values()):
        context.node_config["state-path"] = str(tmp_path / f"node{number}")
    train_federated(grid, config)
    assert not (tmp_path / "server").exists()
    files = [sorted(tmp_path.glob(f"node{number}/run-*/*")) for number in (0, 1)]
    assert sum(map(len, files)) == len(TRAIN_GROUPS)
    assert all(files)


# -- whole runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_reports_how_groups_fare_with_their_own_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    run = tmp_path / "run"
    config = personal_config(run, name, train__num_rounds=2)
    grid = run_app(config, run)
    asked = {
        message.content.config_records[records.BRIEFING][records.GROUP]
        for message in grid.messages("evaluate")
        if records.PERSONAL in message.content.config_records[records.CONFIG]
    }
    assert asked == set(TRAIN_GROUPS)
    assert len(list((run / "clients").iterdir())) == len(TRAIN_GROUPS)  # none of a held-out group
    first, *others = metrics(run)
    assert "personal" not in first  # nobody has any yet
    for line in others:
        assert list(line["personal"]["groups"]) == TRAIN_GROUPS
        assert line["personal"]["groups"] != {g: line["groups"][g] for g in TRAIN_GROUPS}
    predictor = load_predictor(run, "final")
    expected = {}
    for group in TRAIN_GROUPS:
        predictor.set_parameters(PersonalStore(run / "clients").load(group).parameters)
        data = load_group(config, group)
        scores = evaluate_group(predictor, data, config.evaluation, 0, data.question_keys)
        expected[group] = scores.all.value
    written = json.loads((run / "summary.json").read_text())["personal"]
    assert written == others[-1]["personal"]
    assert written["groups"] == pytest.approx(expected)
    assert written["alignment_score"] == pytest.approx(np.mean(list(expected.values())))
    assert written["worst_group"] == pytest.approx(min(expected.values()))


def test_a_run_without_personal_parameters_says_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    run_app(tiny_config(train__num_rounds=1), tmp_path / "run")
    assert "personal" not in json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all("personal" not in line for line in metrics(tmp_path / "run"))
    assert not (tmp_path / "run" / "clients").exists()


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_give_groups_the_same_own_parameters_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    called = personal_config(tmp_path / "flower", name, engine__stack_size=1)
    run_app(called, called.run.directory)
    computed = personal_config(tmp_path / "cohort", name, engine__stack_size=1)
    simulate(computed)
    for group in TRAIN_GROUPS:
        assert identical(kept(called, group), kept(computed, group))
    ours, theirs = (
        [line.get("personal") for line in metrics(Path(c.run.directory))]
        for c in (called, computed)
    )
    assert ours == theirs
    assert ours[-1]


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ditto, MRMTL])
def test_a_mu_below_0_is_refused_and_0_is_local_training(kind: Any) -> None:
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"proximal_mu = .*expected a number >= 0"):
            kind(proximal_mu=wrong)
    assert kind(proximal_mu=0.0).proximal_mu == 0


def test_they_are_known_as_strategies_that_keep_personal_parameters(tmp_path: Path) -> None:
    for name in NAMES:
        strategy = make_strategy(personal_config(tmp_path, name))
        assert isinstance(strategy, KeepsPersonal)
        assert (strategy.personal, strategy.proximal_mu) == (name, MU)
    assert not isinstance(make_strategy(tiny_config()), KeepsPersonal)
