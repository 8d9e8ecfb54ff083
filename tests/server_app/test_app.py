"""The whole ServerApp with real clients, on the in-process grid."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pandas as pd
import pytest
import torch
from flwr.app import Context, RecordDict

from server_app.app import app
from task.baselines import score_baselines
from task.config import RunConfig, read_toml
from task.errors import ConfigError, RoundError, RunDirectoryError
from task.features import load_group
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from tests.server_app.in_process_grid import Fault, InProcessGrid, only, raises, silent, tiny_config

SCORE_KEYS = {
    "seen_questions",
    "new_questions",
    "alignment_score",
    "alignment_score_seen_questions",
    "alignment_score_new_questions",
    "worst_group",
    "worst_group_name",
    "worst_decile",
    "gap",
    "cov",
    "fairness_index",
    "top_option_accuracy",
    "calibration_error",
}
TRAIN_GROUPS = ["Northern farmers", "Northern nurses", "Northern teachers"]
HELD_OUT = "Northern students"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    return tmp_path


def run_app(
    config: RunConfig, directory: Path | str, num_nodes: int = 2, fault: Fault | None = None
) -> InProcessGrid:
    config = replace(config, run=replace(config.run, directory=str(directory)))
    grid = InProcessGrid(config, num_nodes, fault=fault)
    context = Context(
        run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    app(grid, context)
    return grid


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, less what a clock says."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "train_seconds", "evaluation_seconds")
    return [{key: line[key] for key in line if key not in clock} for line in lines]


def parameters(directory: Path, which: str = "final") -> dict[str, torch.Tensor]:
    return load_predictor(directory, which).state_dict()


def identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_run_leaves_a_complete_directory(project: Path) -> None:
    config = tiny_config()
    run_app(config, project / "run")
    assert sorted(path.name for path in (project / "run").iterdir()) == [
        ".lock",
        "checkpoints",
        "config.toml",
        "environment.json",
        "groups.parquet",
        "metrics.jsonl",
        "plots",
        "predictor-best",
        "predictor-final",
        "resume.toml",
        "status.json",
        "summary.json",
    ]
    saved = RunConfig.from_flat(read_toml(project / "run" / "config.toml"))
    assert saved == replace(config, run=replace(config.run, directory=str(project / "run")))
    assert read(project / "run" / "status.json") == {
        "status": "completed",
        "reason": "",
        "resumed": 0,
    }
    assert matplotlib.image.imread(project / "run" / "plots" / "run.png").size > 0


def test_metrics_have_a_line_per_round_from_round_0(project: Path) -> None:
    run_app(tiny_config(train__num_rounds=3, evaluation__every=2), project / "run")
    lines = metrics(project / "run")
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert ["groups" in line for line in lines] == [True, False, True, True]
    assert [line["clients"] for line in lines] == [0, 3, 3, 3]
    assert [line["loss"] is None for line in lines] == [True, False, False, False]


def test_the_summary_holds_scores_by_role_and_method_and_by_group(project: Path) -> None:
    config = tiny_config()
    run_app(config, project / "run")
    summary = read(project / "run" / "summary.json")
    expected = {"held_out", "train", "groups", "missing_groups", "round", "best", "best_round"}
    assert set(summary) == {*expected, "privacy"}
    assert summary["privacy"] is None
    assert summary["missing_groups"] == []
    assert set(summary["best"]) == {"held_out", "train"}
    for role in ("held_out", "train"):
        assert set(summary[role]) == {"model", "uniform", "population_mean"}
        assert all(set(entry) == SCORE_KEYS for entry in summary[role].values())
    assert sorted(summary["groups"]) == sorted([*TRAIN_GROUPS, HELD_OUT])
    held_out = summary["groups"][HELD_OUT]
    assert held_out["role"] == "held-out"
    assert summary["held_out"]["model"]["alignment_score"] == held_out["alignment_score"]
    assert summary["held_out"]["model"]["worst_group_name"] == HELD_OUT
    of_train = [summary["groups"][group]["alignment_score"] for group in TRAIN_GROUPS]
    assert summary["train"]["model"]["alignment_score"] == pytest.approx(sum(of_train) / 3)
    assert summary["train"]["model"]["worst_group"] == min(of_train)
    baselines = score_baselines(config)
    for name, scores in baselines.items():
        assert held_out[name] == scores[HELD_OUT].all.value
    table = pd.read_parquet(project / "run" / "groups.parquet").set_index("group")
    assert table["alignment_score"].to_dict() == {
        group: entry["alignment_score"] for group, entry in summary["groups"].items()
    }


def test_training_raises_scores_above_those_of_the_start_and_of_guessing(project: Path) -> None:
    config = tiny_config(
        data__synthetic_groups=12,
        data__num_held_out_groups=3,
        data__synthetic_questions=100,
        data__synthetic_answered=50,
        encoder__dimension=64,
        predictor__width=32,
        predictor__num_layers=2,
        train__num_rounds=20,
        train__local_steps=6,
        train__learning_rate=0.01,
        train__max_context=20,
        train__max_target=20,
        evaluation__every=20,
        evaluation__num_context=15,
    )
    run_app(config, project / "run")
    before, after = (line for line in metrics(project / "run") if "groups" in line)
    guessing = read(project / "run" / "summary.json")["held_out"]["uniform"]["alignment_score"]
    for role in ("train", "held_out"):
        assert after[role]["alignment_score"] > before[role]["alignment_score"] + 0.05
    assert after["held_out"]["alignment_score"] > guessing + 0.05


def test_saved_predictors_stand_alone(project: Path) -> None:
    run_app(tiny_config(), project / "run")
    for which in ("best", "final"):
        predictor = load_predictor(project / "run", which)
        assert isinstance(predictor, PreferencePredictor)
        assert predictor.encoder["name"] == "hashing"
        assert predictor.encoder["fingerprint"] == "hashing-16"
        assert predictor.feature_mean.any()  # the statistics are saved with it


def test_features_are_left_alone_when_standardisation_is_off(project: Path) -> None:
    run_app(tiny_config(predictor__standardise_features=False), project / "run")
    predictor = load_predictor(project / "run")
    assert not predictor.feature_mean.any()
    assert (predictor.feature_std == 1).all()


def test_a_seed_gives_the_same_run_whatever_the_nodes(project: Path) -> None:
    run_app(tiny_config(), project / "a", num_nodes=2)
    run_app(tiny_config(), project / "b", num_nodes=5)
    assert metrics(project / "a") == metrics(project / "b")
    assert identical(parameters(project / "a"), parameters(project / "b"))
    assert identical(parameters(project / "a", "best"), parameters(project / "b", "best"))
    assert read(project / "a" / "summary.json") == read(project / "b" / "summary.json")


def test_another_seed_gives_another_run(project: Path) -> None:
    groups = {"data__train_groups": "Northern farmers", "data__held_out_groups": HELD_OUT}
    run_app(tiny_config(**groups), project / "a")
    run_app(tiny_config(**groups, run__seed=1), project / "b")
    assert metrics(project / "a") != metrics(project / "b")
    assert not identical(parameters(project / "a"), parameters(project / "b"))


def test_a_run_repeated_from_its_saved_config_is_the_same(project: Path) -> None:
    run_app(
        tiny_config(strategy__name="fedprox", strategy__options="proximal-mu=0.5"), project / "a"
    )
    saved = RunConfig.from_flat(read_toml(project / "a" / "config.toml"))
    run_app(saved, project / "b")
    assert identical(parameters(project / "a"), parameters(project / "b"))


def test_a_run_that_fails_says_why_and_keeps_the_predictor_so_far(project: Path) -> None:
    config = tiny_config(train__num_rounds=3, train__schedule="constant")
    fault = only(raises, message_type="train", server_round=2)
    with pytest.raises(RoundError, match="Round 2: 0 of 3 clients"):
        run_app(config, project / "failed", fault=fault)
    status = read(project / "failed" / "status.json")
    assert status["status"] == "failed"
    assert "Northern nurses: KeyError: 'Nobody'" in status["reason"]
    assert [line["round"] for line in metrics(project / "failed")] == [0, 1]
    one_round = tiny_config(train__num_rounds=1, train__schedule="constant")
    run_app(one_round, project / "one")
    assert identical(parameters(project / "failed"), parameters(project / "one"))
    kept = read(project / "failed" / "summary.json")
    assert kept["round"] == 1
    assert kept["groups"] == read(project / "one" / "summary.json")["groups"]


def test_a_failing_client_is_named_in_the_metrics_and_on_screen(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = only(raises, message_type="train", group="Northern nurses", server_round=1)
    run_app(tiny_config(), project / "run", fault=fault)
    _, first, second = metrics(project / "run")
    assert list(first["failures"]) == ["Northern nurses"]
    assert (first["clients"], second["clients"], second["failures"]) == (2, 3, {})
    assert "training without Northern nurses: KeyError: 'Nobody'" in capsys.readouterr().out


def test_a_client_that_never_answers_is_waited_for_until_the_timeout(project: Path) -> None:
    fault = only(silent, message_type="train", group="Northern nurses", server_round=1)
    run_app(tiny_config(train__round_timeout=1.5), project / "run", fault=fault)
    assert metrics(project / "run")[1]["failures"] == {"Northern nurses": "no reply within 2 s"}
    assert read(project / "run" / "status.json")["status"] == "completed"


def test_a_relative_directory_is_taken_from_the_project_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    run_app(tiny_config(), "runs/mine")
    assert read(project / "runs" / "mine" / "status.json")["status"] == "completed"
    assert not list(elsewhere.iterdir())


def test_a_run_without_a_directory_gets_one_named_by_time_source_and_seed(project: Path) -> None:
    run_app(tiny_config(run__seed=4), "")
    (directory,) = (project / "runs").iterdir()
    assert directory.name.endswith("-synthetic-seed4")
    assert (directory / "summary.json").exists()


def test_a_used_directory_is_refused_before_any_training(project: Path) -> None:
    run_app(tiny_config(), project / "run")
    before = {path: path.read_bytes() for path in (project / "run").glob("*.*")}
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        run_app(tiny_config(run__seed=1), project / "run")
    assert {path: path.read_bytes() for path in (project / "run").glob("*.*")} == before


def test_an_unknown_strategy_is_refused_before_a_directory_is_made(project: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'fedavg'"):
        run_app(tiny_config(strategy__name="fedavgg"), project / "run")
    assert not (project / "run").exists()


def test_a_sink_that_cannot_be_opened_does_not_leave_a_run_that_seems_to_run(
    project: Path,
) -> None:
    with pytest.raises(ConfigError, match="wandb"):
        run_app(tiny_config(log__wandb_project="opinions"), project / "run")
    status = project / "run" / "status.json"
    assert not status.exists() or read(status)["status"] == "failed"


def test_the_server_receives_no_answers(project: Path) -> None:
    """Shares of answers are multiples of 1/800: none is sent, but for sums in calibration bins."""
    config = tiny_config()
    sent: list[float] = []

    def listen(message: Any, answer: Any) -> Any:
        reply = answer(message)
        content = reply.content
        for record in content.array_records.values():
            for name, array in record.items():
                if message.metadata.message_type != "train":
                    assert array.numpy().dtype.kind == "i" or name in ("count", "total", "squares")
        for record in content.metric_records.values():
            for key, values in record.items():
                # Bins hold sums of true shares: that of a bin with one option is an answer's share.
                if key != "calibration":
                    sent.extend(_as_list(values))
        return reply

    run_app(config, project / "run", fault=listen)
    shares = {
        float(share)
        for group in [*TRAIN_GROUPS, HELD_OUT]
        for share in load_group(config, group).answers.shares
        if 0 < share < 1
    }
    assert sent
    assert not shares & set(sent)


def _as_list(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def test_a_population_without_held_out_groups_runs_to_the_end(project: Path) -> None:
    run_app(tiny_config(data__num_held_out_groups=0), project / "run")
    summary = read(project / "run" / "summary.json")
    assert summary["held_out"] == {"model": None, "uniform": None, "population_mean": None}
    assert (project / "run" / "plots" / "run.png").exists()


def test_tensorboard_events_are_written_below_the_run(project: Path) -> None:
    run_app(tiny_config(log__tensorboard=True), project / "run")
    assert list((project / "run" / "tensorboard").glob("events.*"))


def test_every_evaluated_score_is_a_number_between_0_and_1(project: Path) -> None:
    run_app(tiny_config(), project / "run")
    for line in metrics(project / "run"):
        scores = line["groups"].values()
        assert len(scores) == 4
        assert all(0 < score <= 1 for score in scores)
