"""What `pluralllm run` refuses before it starts anything; whole runs are in end_to_end."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cli import run as cli_run
from cli.run import _check
from cli.superlink import CONNECTION, local_superlink
from server_app.run_directory import RunDirectory
from task.config import RunConfig, read_toml
from task.errors import UserError
from tests.cli.command import Command
from tests.server_app.cohort_runs import cohort_config
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.interruption import run, run_until

TINY = ("data.synthetic-groups=4", "data.num-held-out-groups=1", "encoder.dimension=16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["engine.name=cohrt"], "engine.name = 'cohrt': expected one of flower, cohort"),
        (["compression.name=zip"], "compression.name = 'zip': expected one of"),
        (["run.directory=used"], "used' holds a run already"),
        (["strategy.name=fedavgg"], "Did you mean 'fedavg'?"),
        (["data.held-out-groups=Northern farmer"], "Did you mean 'Northern farmers'?"),
        (["data.num-held-out-groups=4"], "leaves no group to train"),
        (["evaluation.num-context=200"], "question"),
        (["data.source=table", "data.path=gone.csv"], "gone.csv does not exist"),
        (["encoder.name=./gone"], "encoder.name = './gone'"),
        pytest.param(
            ["log.wandb-project=opinions"],
            "wandb is not installed",
            marks=pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed"),
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_anything_starts(
    pluralllm: Command, tmp_path: Path, settings: list[str], message: str
) -> None:
    RunDirectory.create(tmp_path / "used", tiny_config())
    outcome = pluralllm("run", *TINY, *settings)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "Simulation:" not in outcome.out
    assert not (tmp_path / "runs").exists()


def test_a_checked_run_has_its_features_in_the_cache_and_its_clients_counted(
    tmp_path: Path,
) -> None:
    config = tiny_config(
        run__directory=str(tmp_path / "run"), encoder__cache_directory=str(tmp_path / "features")
    )
    assert _check(config) == 4
    assert list((tmp_path / "features").rglob("*.npy"))
    assert not (tmp_path / "run").exists()


def test_a_project_folder_without_source_is_named(
    pluralllm: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    outcome = pluralllm("run", *TINY)
    assert outcome.status == 2
    assert f"{tmp_path} is not the project's source folder" in outcome.err


def test_a_superlink_is_up_while_used_and_gone_with_its_files_afterwards() -> None:
    with local_superlink() as superlink:
        home = superlink.home
        assert superlink.environment["FLWR_HOME"] == str(home)
        assert CONNECTION in (home / "config.toml").read_text()
        assert (home / "superlink.log").exists()
    assert not home.exists()


def test_a_superlink_that_does_not_start_is_an_error_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "flower-superlink").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "flower-superlink").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match="did not start"), local_superlink():
        pass


# -- run.resume ------------------------------------------------------------------------------------


def half_a_run(folder: Path) -> Path:
    """A run that has died after its first round."""
    return run_until(cohort_config(train__num_rounds=3), folder, 1)


def test_run_resume_takes_the_settings_of_the_run(pluralllm: Command, tmp_path: Path) -> None:
    half_a_run(tmp_path / "mine")
    outcome = pluralllm("run", "run.resume=mine", "log.tensorboard=true")
    assert outcome.status == 0, outcome.err
    assert "Continued after round 1" in outcome.out
    status = json.loads((tmp_path / "mine" / "status.json").read_text())
    assert status == {"status": "completed", "reason": "", "resumed": 1}
    assert (tmp_path / "mine" / "tensorboard").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("engine", ["flower", "cohort"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.resume=gone"], "gone' is no run directory (there is nothing)"),
        (["run.resume=mine", "train.num-rounds=9"], "train.num-rounds = 9, the run's is 3"),
        (["run.resume=mine", "run.directory=other"], "a run is continued in its own directory"),
        (["run.resume=done"], "has completed"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_one_line_and_status_2(
    pluralllm: Command, tmp_path: Path, engine: str, settings: list[str], message: str
) -> None:
    half_a_run(tmp_path / "mine")
    run(cohort_config(train__num_rounds=1), tmp_path / "done")
    outcome = pluralllm("run", f"engine.name={engine}", *settings)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


# -- engine.name = cohort --------------------------------------------------------------------------


@pytest.fixture
def no_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a SuperLink nor `flwr run` nor any other process is started."""
    started = subprocess.Popen

    def refuse(command: Any, *args: Any, **options: Any) -> Any:
        program = command if isinstance(command, str) else command[0]
        assert program == "uname", f"a process was started: {command}"  # Python's own `platform`
        return started(command, *args, **options)

    def no_superlink() -> None:
        raise AssertionError("a SuperLink was asked for")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(cli_run, "local_superlink", no_superlink)


def cohort_settings() -> list[str]:
    changes = tiny_config(engine__name="cohort").to_flat().items() - RunConfig().to_flat().items()
    return [f"{key}={value}" for key, value in changes]


@pytest.mark.usefixtures("no_flower")
def test_the_cohort_engine_runs_in_this_process(pluralllm: Command, tmp_path: Path) -> None:
    outcome = pluralllm("run", *cohort_settings(), "run.directory=mine")
    assert outcome.status == 0, outcome.err
    assert "Engine: cohort, 1 worker(s) on " in outcome.out
    assert "Simulation:" not in outcome.out
    assert f"Run directory: {tmp_path / 'mine'}" in outcome.out
    assert json.loads((tmp_path / "mine" / "status.json").read_text())["status"] == "completed"
    saved = RunConfig.from_flat(read_toml(tmp_path / "mine" / "config.toml"))
    assert saved.engine.name == "cohort"


@pytest.mark.usefixtures("no_flower")
def test_a_cohort_run_without_a_directory_is_written_below_the_current_one(
    pluralllm: Command, tmp_path: Path
) -> None:
    assert pluralllm("run", *cohort_settings(), "train.num-rounds=1").status == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert (made / "predictor-final" / "model.safetensors").exists()


@pytest.mark.usefixtures("no_flower")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.directory=used"], "used' holds a run already"),
        (["strategy.name=fedavgg"], "Did you mean 'fedavg'?"),
        (["data.held-out-groups=Northern farmer"], "Did you mean 'Northern farmers'?"),
        (["data.source=table", "data.path=gone.csv"], "gone.csv does not exist"),
        (["engine.device=cuda"], "engine.device = 'cuda'"),
        (["engine.stack-size=-1"], "engine.stack-size = -1: expected an integer >= 0"),
        (["--actors", "2"], "--actors 2: Flower's engine has actors"),
    ],
)
def test_a_cohort_run_that_cannot_work_is_one_line_and_status_2(
    pluralllm: Command,
    tmp_path: Path,
    settings: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    RunDirectory.create(tmp_path / "used", tiny_config())
    outcome = pluralllm("run", *TINY, "engine.name=cohort", *settings)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_cohort_run_that_stops_says_why_and_records_it(
    pluralllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ValueError("boom")

    monkeypatch.setattr("task.cohort.train_stack", broken)
    monkeypatch.setattr("server_app.cohort.require_same_as_client_app", lambda *_: None)
    outcome = pluralllm("run", *cohort_settings(), "run.directory=mine")
    assert outcome.status == 2
    assert "Round 1: 0 of 3 clients sent a valid reply" in outcome.err
    assert "Northern nurses: ValueError: boom" in outcome.err
    status = json.loads((tmp_path / "mine" / "status.json").read_text())
    assert status["status"] == "failed"
    assert "0 of 3 clients" in status["reason"]
