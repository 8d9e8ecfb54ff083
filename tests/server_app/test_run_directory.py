import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch

from server_app.run_directory import RunDirectory, recorded_failure, require_unused
from task.config import RunConfig, flatten, read_toml
from task.errors import RunDirectoryError
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from tests.server_app.in_process_grid import tiny_config


def predictor_with(value: float) -> PreferencePredictor:
    config = tiny_config()
    encoder = {"name": "hashing", "dimension": 16, "fingerprint": "hashing-16"}
    predictor = PreferencePredictor.of(config.predictor, 16, encoder)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.fill_(value)
    predictor.feature_mean.fill_(2 * value)
    return predictor


def test_the_config_reads_back_as_it_was(tmp_path: Path) -> None:
    config = tiny_config(
        data__held_out_groups='Côte d\'Ivoire | "A", B\\C', train__learning_rate=1e-7, run__seed=3
    )
    RunDirectory.create(tmp_path / "a" / "b", config)
    assert RunConfig.from_flat(read_toml(tmp_path / "a" / "b" / "config.toml")) == config


def test_the_config_is_written_in_sections(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, tiny_config())
    tables = tomllib.loads((tmp_path / "config.toml").read_text())
    assert tables["train"]["num-rounds"] == 2
    assert flatten(tables).keys() == RunConfig().to_flat().keys()


def test_a_new_run_is_running_and_knows_its_environment(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, tiny_config())
    status = json.loads((tmp_path / "status.json").read_text())
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert status == {"status": "running", "reason": "", "resumed": 0}
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["cpus"] >= 1


def test_a_directory_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, tiny_config())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        RunDirectory.create(tmp_path, tiny_config(run__seed=5))
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        require_unused(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_empty_or_missing_directory_is_unused(tmp_path: Path) -> None:
    require_unused(tmp_path)
    require_unused(tmp_path / "missing")
    (tmp_path / "file").touch()
    require_unused(tmp_path / "file" / "below")


def test_a_directory_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"run\.directory = .*file/run"):
        RunDirectory.create(tmp_path / "file" / "run", tiny_config())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    directory.write_json("summary.json", {"round": 1})

    def fail(file: Path) -> None:
        file.write_text("half of it")
        raise OSError("disk full")

    with pytest.raises(ValueError, match="JSON"):
        directory.write_json("summary.json", {"round": float("nan")})
    directory.write_plot("run.png", lambda file: file.write_text("old"))
    with pytest.raises(OSError, match="disk full"):
        directory.write_plot("run.png", fail)
    assert json.loads((tmp_path / "summary.json").read_text()) == {"round": 1}
    assert (tmp_path / "plots" / "run.png").read_text() == "old"


def test_a_failing_predictor_write_leaves_the_old_predictor(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    directory.write_predictor("best", predictor_with(0.25))
    broken = predictor_with(0.5)
    broken.save_pretrained = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        directory.write_predictor("best", broken)
    assert load_predictor(tmp_path).feature_mean[0] == 0.5


def test_the_status_says_why_a_run_failed(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    directory.write_status("failed", 'Round 2: "no" clients')
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"status": "failed", "reason": 'Round 2: "no" clients', "resumed": 0}


def test_a_predictor_is_replaced_as_a_whole(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    directory.write_predictor("best", predictor_with(0.25))
    directory.write_predictor("best", predictor_with(0.5))
    loaded = load_predictor(tmp_path, "best")
    assert all((parameter == 0.5).all() for parameter in loaded.parameters())
    assert set(loaded.feature_mean.tolist()) == {1.0}
    assert loaded.encoder["fingerprint"] == "hashing-16"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.toml",
        "environment.json",
        "predictor-best",
        "status.json",
    ]


def test_groups_are_a_parquet_table_with_a_row_each(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    directory.write_groups(
        {
            "Spain": {"role": "train", "alignment_score": 0.5, "uniform": None},
            "Japan": {"role": "held-out", "alignment_score": 0.75, "uniform": 0.25},
        }
    )
    frame = pd.read_parquet(tmp_path / "groups.parquet")
    assert frame["group"].tolist() == ["Spain", "Japan"]
    assert frame["alignment_score"].tolist() == [0.5, 0.75]
    assert frame["uniform"].isna().tolist() == [True, False]


def test_a_run_that_failed_before_it_saved_anything_may_be_repeated_in_place(
    tmp_path: Path,
) -> None:
    directory = RunDirectory.create(tmp_path, tiny_config())
    with pytest.raises(RunDirectoryError, match="holds a run"):
        RunDirectory.create(tmp_path, tiny_config())
    with pytest.raises(ValueError, match="no nodes"), directory.recording_status():
        raise ValueError("no nodes")
    assert recorded_failure(tmp_path) == "no nodes"
    RunDirectory.create(tmp_path, tiny_config())
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RunDirectoryError, match="holds a run"):
        RunDirectory.create(tmp_path, tiny_config())
