from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict

from server_app.cohort import why_called
from task import records
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import load_group
from task.private_scoring import noisy_score
from task.private_training import train_privately
from task.question_ledger import QuestionLedger, history_epsilon
from tests.client_app.test_app import (
    GROUP,
    HELD_OUT,
    ask,
    asked,
    predictor_of,
    to_evaluate,
)
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import InProcessGrid, tiny_config

RATES = [0.01, 0.02, 0.005]


def config_of(folder: Path, **changes: Any) -> RunConfig:
    return tiny_config(
        run__directory=str(folder),
        **{
            "privacy__unit": "question",
            "privacy__noise_multiplier": 1.5,
            "privacy__questions_per_episode": 4,
            "privacy__accountant": "rdp",
        }
        | changes,
    )


def reason(config: RunConfig, message_type: str, content: dict[str, Any]) -> str:
    grid = InProcessGrid(config, 1)
    message = Message(RecordDict(content), next(iter(grid.contexts)), message_type)
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert "\n" not in reply.error.reason
    return str(reply.error.reason)


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("metrics", ["full", "noisy", "off"])
def test_train_returns_what_private_training_gives_and_its_cost(
    tmp_path: Path, metrics: str, mu: float
) -> None:
    config = config_of(tmp_path / "run", privacy__metrics=metrics)
    predictor = predictor_of(config)
    start = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    expected = train_privately(
        predictor,
        start,
        load_group(config, GROUP),
        config,
        learning_rates=RATES,
        server_round=3,
        ledger=QuestionLedger(tmp_path / "other", config.privacy),
        proximal_mu=mu,
    )
    settings = {"proximal_mu": mu} if mu else {}
    reply = ask(config, "train", asked(config, **settings))
    returned = reply.array_records[records.ARRAYS].to_torch_state_dict()
    assert set(returned) == set(start)
    for name, parameter in expected.parameters.items():
        assert torch.equal(returned[name], parameter), name
    metrics_sent = dict(reply.metric_records[records.METRICS])
    spent = history_epsilon(((1.5, 0.5, 3),), 1e-5, "rdp")
    assert metrics_sent.pop("epsilon") == spent
    if metrics == "full":
        assert metrics_sent.pop("loss") == expected.loss
    assert metrics_sent == {"num-examples": 22}
    assert QuestionLedger(tmp_path / "run" / "clients", config.privacy).epsilon(GROUP) == spent


def test_without_noise_no_epsilon_is_sent_as_it_would_not_be_finite(tmp_path: Path) -> None:
    config = config_of(tmp_path, privacy__noise_multiplier=0.0)
    reply = ask(config, "train", asked(config))
    assert set(reply.metric_records[records.METRICS]) == {"num-examples", "loss"}


def test_a_node_asked_again_after_a_restart_says_the_same_for_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    first = ask(config, "train", asked(config))
    assert ask(config, "train", asked(config)) == first  # `ask` starts a node each time
    content = asked(config)
    content[records.BRIEFING][records.LEARNING_RATES] = [0.01, 0.02, 0.006]
    other = ask(config, "train", content)
    spent = [reply.metric_records[records.METRICS]["epsilon"] for reply in (first, other)]
    assert spent == [history_epsilon(((1.5, 0.5, steps),), 1e-5, "rdp") for steps in (3, 6)]


@pytest.mark.parametrize("group", [GROUP, HELD_OUT])
def test_evaluate_returns_a_noisy_score_and_nothing_else(tmp_path: Path, group: str) -> None:
    config = config_of(tmp_path / "run", privacy__metrics="noisy")
    expected = noisy_score(
        predictor_of(config),
        load_group(config, group),
        config,
        server_round=3,
        ledger=QuestionLedger(tmp_path / "other", config.privacy),
    )
    reply = ask(config, "evaluate", to_evaluate(config, group))
    assert set(reply) == {records.METRICS}
    metrics = dict(reply.metric_records[records.METRICS])
    ledger = QuestionLedger(tmp_path / "run" / "clients", config.privacy)
    assert metrics == {
        "num-examples": 1,
        "noisy-alignment-score": pytest.approx(expected),
        "epsilon": ledger.epsilon(group),
    }
    assert ledger.epsilon(group) == history_epsilon(((5.0, 1.0, 1),), 1e-5, "rdp")


def test_training_and_scoring_add_up(tmp_path: Path) -> None:
    config = config_of(tmp_path, privacy__metrics="noisy")
    ask(config, "evaluate", to_evaluate(config))
    reply = ask(config, "train", asked(config))
    spent = history_epsilon(((1.5, 0.5, 3), (5.0, 1.0, 1)), 1e-5, "rdp")
    assert reply.metric_records[records.METRICS]["epsilon"] == spent


def test_full_metrics_are_exact_and_off_ones_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    data = load_group(config, GROUP)
    reply = ask(config, "evaluate", to_evaluate(config))
    expected = evaluate_group(
        predictor_of(config), data, config.evaluation, config.run.seed, data.question_keys
    ).all
    sent = reply.metric_records[records.METRICS][records.SCORES_ALL]
    assert sent == [expected.total, expected.weight]
    off = config_of(tmp_path, privacy__metrics="off")
    refused = reason(off, "evaluate", to_evaluate(off))
    assert refused.startswith("privacy.metrics = 'off': expected 'noisy' or 'full'")


@pytest.mark.parametrize("metrics", ["full", "noisy"])
def test_reports_and_personal_parameters_are_refused(tmp_path: Path, metrics: str) -> None:
    config = config_of(tmp_path, privacy__metrics=metrics)
    reports = asked(config, reports=[records.LOSS_BEFORE])
    assert "'fedavg' asks every group to report" in reason(config, "train", reports)
    personal = asked(config, personal="ditto", personal_mu=0.5)
    assert "personal = 'ditto'" in reason(config, "train", personal)
    if metrics == "noisy":
        scored = to_evaluate(config, personal="ditto")
        assert "personal = 'ditto'" in reason(config, "evaluate", scored)
    assert not (tmp_path / "clients").exists()  # nothing was charged for


def test_a_spent_budget_is_the_reason_of_the_reply(tmp_path: Path) -> None:
    config = config_of(tmp_path, privacy__max_epsilon=1.0)
    assert reason(config, "train", asked(config)).startswith("privacy.max-epsilon = 1: to train")


def test_a_group_with_too_few_questions_is_named_before_training(tmp_path: Path) -> None:
    config = config_of(tmp_path, privacy__questions_per_episode=23)
    expected = r"privacy.questions-per-episode = 23: group 'Northern \w+' has 22 trainable"
    with pytest.raises(AssertionError, match=expected):
        ask(config, records.DESCRIBE, {})
    ask(config_of(tmp_path, privacy__questions_per_episode=22), records.DESCRIBE, {})


def test_a_real_node_without_a_folder_does_not_train(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    grid = HomeGrid(config, tmp_path)
    node_id = grid.node_of[GROUP]
    del grid.contexts[node_id].node_config["state-path"]
    message = Message(RecordDict(asked(config)), node_id, "train")
    (reply,) = grid.send_and_receive([message])
    assert "state-path" in reply.error.reason


def test_the_cohort_engine_says_why_it_calls_the_client_app(tmp_path: Path) -> None:
    assert "privacy.unit = 'question' is trained by Opacus" in str(why_called(config_of(tmp_path)))
    assert why_called(tiny_config(privacy__unit="member")) is None
