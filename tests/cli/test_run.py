"""What `pluralllm run` refuses before it starts anything; whole runs are in end_to_end."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from cli.run import _check
from cli.superlink import CONNECTION, local_superlink
from server_app.run_directory import RunDirectory
from task.errors import UserError
from tests.cli.command import Command
from tests.server_app.in_process_grid import tiny_config

TINY = ("data.synthetic-groups=4", "data.num-held-out-groups=1", "encoder.dimension=16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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
