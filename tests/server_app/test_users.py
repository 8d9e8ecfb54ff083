"""Whole runs in which every client is one user with a few comparisons of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from server_app.cohort import simulate
from task.clients import group_of
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import load_group, load_roles
from task.predictor import PreferencePredictor
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.test_app import identical, metrics, parameters, run_app

pytestmark = pytest.mark.usefixtures("one_thread")

GROUPS = {"Nature / East": 6, "Growth": 4, "Freedom": 5}  # numbers of users
TOO_SMALL = "Growth/user 0"


def write_pairs(folder: Path) -> str:
    """Write the comparisons of users: 6 each, of 12 prompts in all; but 2 of one user."""
    random = np.random.default_rng(0)
    rows = []
    for group, users in GROUPS.items():
        for user in range(users):
            small = f"{group}/user {user}" == TOO_SMALL
            for prompt in random.permutation(12)[: 2 if small else 6].tolist():
                better, worse = random.permutation(["Plant trees.", "Build roads.", "Do nothing."])[
                    :2
                ]
                rows.append(
                    {
                        "group": group,
                        "user": f"user {user}",
                        "prompt": [{"role": "user", "content": f"What about topic {prompt}?"}],
                        "chosen": [{"role": "assistant", "content": str(better)}],
                        "rejected": [{"role": "assistant", "content": str(worse)}],
                    }
                )
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    return tiny_config(
        data__source="pairs",
        data__path=write_pairs(tmp_path),
        data__clients="users",
        data__held_out_groups="Nature / East",
        evaluation__num_context=2,
        engine__stack_size=1,
        run__directory=str(tmp_path / "run"),
    )


def summary(config: RunConfig) -> Any:
    return json.loads((Path(config.run.directory) / "summary.json").read_text())


def test_scores_are_told_of_groups_as_means_over_their_users(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = simulate(config)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    assert len(roles) == 14
    assert TOO_SMALL not in roles
    users = pd.read_parquet(directory.path / "users.parquet").set_index("user")
    assert set(users.index) == set(roles)
    told = summary(config)
    groups = pd.read_parquet(directory.path / "groups.parquet").set_index("group")
    assert dict(groups["users"]) == {"Nature / East": 6, "Growth": 3, "Freedom": 5}
    assert dict(groups["role"]) == {
        "Nature / East": "held-out",
        "Growth": "train",
        "Freedom": "train",
    }
    for column in ("alignment_score", "uniform", "population_mean"):
        means = users[column].groupby(lambda user: group_of(user, config.data)).mean()
        assert dict(groups[column]) == pytest.approx(dict(means))
    assert told["held_out"]["model"]["worst_group_name"] == "Nature / East"
    of_train = groups["alignment_score"][["Freedom", "Growth"]]
    assert told["train"]["model"]["alignment_score"] == pytest.approx(of_train.mean())
    assert told["train"]["model"]["gap"] == pytest.approx(of_train.max() - of_train.min())
    assert told["missing_groups"] == told["missing_users"] == []
    for line in metrics(directory.path):
        assert line["groups"].keys() == set(GROUPS)
        assert line["train"]["worst_group_name"] in ("Freedom", "Growth")
    output = capsys.readouterr().out
    assert "Survey: 15 users, " in output
    assert "Training groups (2 with 8 users): Freedom, Growth" in output
    assert "Held-out groups (1 with 6 users): Nature / East" in output
    assert "Users of the survey that take no part: 1" in output
    assert "/user" not in output


def test_a_users_score_is_that_of_its_own_context(config: RunConfig) -> None:
    directory = simulate(config)
    predictor = PreferencePredictor.from_pretrained(directory.path / "predictor-final")
    users = pd.read_parquet(directory.path / "users.parquet").set_index("user")
    data = load_group(config, "Nature / East/user 1")
    assert len(data.answers) == len(data.trainable) == 6
    scores = evaluate_group(predictor, data, config.evaluation, config.run.seed, data.question_keys)
    assert scores.all.weight == 4  # of 6 comparisons, 2 are context
    assert users["alignment_score"]["Nature / East/user 1"] == pytest.approx(scores.all.value)


def test_both_engines_give_the_same_run(config: RunConfig, tmp_path: Path) -> None:
    cohort = simulate(config)
    run_app(replace(config, engine=replace(config.engine, name="flower")), tmp_path / "called")
    assert identical(parameters(cohort.path), parameters(tmp_path / "called"))
    assert [line["groups"] for line in metrics(cohort.path)] == [
        line["groups"] for line in metrics(tmp_path / "called")
    ]


def test_nobody_of_a_held_out_group_trains(config: RunConfig, tmp_path: Path) -> None:
    drawn = replace(config, data=replace(config.data, held_out_groups="", num_held_out_groups=1))
    grid = run_app(drawn, tmp_path / "drawn")
    asked = {str(m.content["briefing"]["group"]) for m in grid.messages("train")}
    trained = {group_of(user, config.data) for user in asked}
    assert len(trained) == 2
    held_out = {
        user
        for user, role in load_roles(drawn.data, drawn.evaluation, 0).items()
        if role == "held-out"
    }
    assert {group_of(user, config.data) for user in held_out} == set(GROUPS) - trained


def test_weights_of_users_are_told_as_their_groups(config: RunConfig) -> None:
    weighing = replace(config, strategy=replace(config.strategy, name="adaptive-alpha"))
    last = metrics(simulate(weighing).path)[-1]
    assert last["group_weights"].keys() == {"Freedom", "Growth"}
    assert sum(last["group_weights"].values()) == pytest.approx(1)
