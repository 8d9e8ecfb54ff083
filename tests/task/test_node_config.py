from pathlib import Path

import pandas as pd
import pytest

from task.config import RunConfig
from task.errors import ConfigError, SurveyError
from task.features import load_group, load_roles
from task.node_config import NodeConfig, node_help
from task.settings import Scalar
from task.sources import load_survey

PRIVATE: dict[str, Scalar] = {
    "privacy.unit": "question",
    "privacy.noise-multiplier": 1.0,
    "privacy.secure-noise": True,
    "privacy.metrics": "off",
    "privacy.max-epsilon": 4.0,
}


def write(folder: Path, *groups: str, num_questions: int = 30) -> str:
    rows = [
        {"group": group, "question": f"Question {q} of {group}?", "option": option, "share": 0.5}
        for group in groups
        for q in range(num_questions)
        for option in ("yes", "no")
    ]
    file = folder / "survey.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return str(file)


def run_config(**changes: Scalar) -> RunConfig:
    flat: dict[str, Scalar] = {"data.source": "nodes", "evaluation.num-context": 5}
    return RunConfig.from_flat(flat | changes)


def node(file: str, **given: Scalar) -> NodeConfig:
    return NodeConfig.of({"data-path": file} | {k.replace("_", "-"): v for k, v in given.items()})


@pytest.mark.parametrize("role", ["train", "held-out"])
def test_a_node_serves_its_group_and_no_other_of_the_file(tmp_path: Path, role: str) -> None:
    file = write(tmp_path, "A", "B")
    applied = node(file, group="B", role=role).apply(run_config())
    assert load_roles(applied.data, applied.evaluation, 0) == {"B": role}
    assert list(load_survey(applied).answers) == ["B"]
    data = load_group(applied, "B")
    assert data.role == role
    assert len(data.question_keys) == 30
    assert len(data.held_back) == (3 if role == "train" else 0)


def test_the_group_of_a_file_with_one_need_not_be_named(tmp_path: Path) -> None:
    applied = node(write(tmp_path, "Only")).apply(run_config())
    assert load_roles(applied.data, applied.evaluation, 0) == {"Only": "train"}


def test_a_file_with_several_groups_needs_one_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"group = '': the node's file holds 2 groups"):
        node(write(tmp_path, "A", "B")).apply(run_config())


def test_a_node_may_serve_several_groups(tmp_path: Path) -> None:
    applied = node(write(tmp_path, "A", "B", "C"), group="A | C").apply(run_config())
    assert load_roles(applied.data, applied.evaluation, 0) == {"A": "train", "C": "train"}


def test_a_group_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    applied = node(write(tmp_path, "Germany"), group="Germny").apply(run_config())
    with pytest.raises(SurveyError, match=r"no group 'Germny'.*Did you mean 'Germany'\?"):
        load_survey(applied)


def test_no_path_of_the_servers_is_followed(tmp_path: Path) -> None:
    theirs = {
        "run.directory": "/theirs/run",
        "run.resume": "/theirs/run",
        "encoder.cache-directory": "/theirs/cache",
        "privacy.noise-key-directory": "/theirs/key",
        "encoder.name": "/theirs/model",
    }
    applied = node(write(tmp_path, "A"), encoder="/mine/model").apply(run_config(**theirs))
    assert "/theirs" not in str(applied.to_flat())
    assert applied.encoder.name == "/mine/model"


def test_no_file_of_responses_of_the_servers_is_followed(tmp_path: Path) -> None:
    theirs = {
        "score.rollouts": "/theirs/rollouts.csv",
        "score.predictor": "/theirs/run",
        "score.output": "/theirs/scores.jsonl",
    }
    applied = node(write(tmp_path, "A")).apply(run_config(**theirs))
    assert "/theirs" not in str(applied.to_flat())


def test_a_run_on_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source = 'synthetic': expected 'nodes'"):
        node(write(tmp_path, "A")).apply(RunConfig())


@pytest.mark.parametrize("key", ["data.path", "data.train-groups", "data.held-out-groups"])
def test_a_server_that_names_data_of_nodes_is_told(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = 'x': expected nothing"):
        run_config(**{key: "x"})


def test_a_simulation_has_no_such_source() -> None:
    with pytest.raises(ConfigError, match=r"data\.source = 'nodes': expected SuperNodes"):
        load_survey(run_config())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data-pth": "/x"}, r"unknown key 'data-pth'. Did you mean 'data-path'\?"),
        ({}, "data-path = ''"),
        ({"data-path": "survey.csv"}, "data-path = 'survey.csv': expected an absolute path"),
        ({"data-path": "/x", "role": "judge"}, "role = 'judge': expected one of train, held-out"),
        ({"data-path": "/x", "state-path": "s"}, "state-path = 's': expected an absolute path"),
        ({"data-path": "/x", "privacy-unit": "person"}, "privacy-unit = 'person'"),
        ({"data-path": "/x", "max-epsilon": 3.0}, "max-epsilon = 3.0: expected privacy-unit"),
        (
            {"data-path": "/x", "max-epsilon": 3.0, "privacy-unit": "member"},
            "max-epsilon = 3.0: expected state-path beside it",
        ),
        ({"data-path": "/x", "max-delta": 1.0}, "max-delta = 1.0: expected between 0 and 1"),
        ({"data-path": "/x", "disclose-answers": "yes"}, "expected true or false"),
    ],
)
def test_a_wrong_node_config_is_one_clear_error(given: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NodeConfig.of(given)


def test_answers_are_disclosed_only_where_their_owner_allows_it(tmp_path: Path) -> None:
    file, wants = write(tmp_path, "A"), run_config(**{"predictor.population-weight": 2.0})
    with pytest.raises(ConfigError, match="which this node does not allow"):
        node(file).apply(wants)
    assert node(file, disclose_answers=True).apply(wants).predictor.population_weight == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "privacy.unit": "none",
                "privacy.noise-multiplier": 0.0,
                "privacy.secure-noise": False,
                "privacy.metrics": "full",
                "privacy.max-epsilon": 0.0,
            },
            "privacy.unit = 'none': expected 'question'",
        ),
        ({"privacy.secure-noise": False}, "privacy.secure-noise = False: expected true"),
        ({"privacy.metrics": "full"}, "privacy.metrics = 'full'"),
        ({"privacy.max-epsilon": 0.0}, "privacy.max-epsilon = 0.0: expected above 0"),
        ({"privacy.max-epsilon": 9.0}, "privacy.max-epsilon = 9.0: expected .* at most 8"),
        ({"privacy.delta": 0.1}, "privacy.delta = 0.1: expected at most 1e-05"),
    ],
)
def test_a_node_refuses_what_promises_less_than_it_insists_on(
    tmp_path: Path, changes: dict[str, Scalar], message: str
) -> None:
    mine = node(write(tmp_path, "A"), privacy_unit="question", max_epsilon=8.0, state_path="/s")
    mine.apply(run_config(**PRIVATE))
    with pytest.raises(ConfigError, match=message):
        mine.apply(run_config(**(PRIVATE | changes)))


def test_noisy_histograms_must_be_worth_what_the_node_allows(tmp_path: Path) -> None:
    mine = node(write(tmp_path, "A"), privacy_unit="member", max_epsilon=8.0, state_path="/s")
    member = PRIVATE | {"privacy.unit": "member", "privacy.max-epsilon": 8.0}
    mine.apply(run_config(**(member | {"privacy.noise-multiplier": 2.0})))
    with pytest.raises(ConfigError, match=r"costs an epsilon of .*: this node allows 8"):
        mine.apply(run_config(**(member | {"privacy.noise-multiplier": 0.3})))


def test_the_key_of_noise_lies_with_what_the_node_keeps(tmp_path: Path) -> None:
    applied = node(write(tmp_path, "A"), state_path="/mine").apply(run_config())
    assert applied.privacy.noise_key_directory == "/mine"


def test_every_key_is_explained() -> None:
    assert set(node_help()) == {
        "data-path", "group", "role", "state-path", "encoder", "privacy-unit", "max-epsilon",
        "max-delta", "disclose-answers", "allow-scoring",
    }  # fmt: skip
    assert all(node_help().values())
