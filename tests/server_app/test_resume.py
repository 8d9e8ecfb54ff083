"""Interrupted and continued runs end as uninterrupted ones do."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from server_app import checkpoint_files
from server_app.cohort import simulate
from server_app.sinks import JsonLines
from server_app.strategies import STRATEGIES
from task.config import RunConfig
from task.errors import ConfigError, PopulationError, RunDirectoryError
from tests.conftest import LOADERS
from tests.server_app.cohort_runs import cohort_config, ragged_config
from tests.server_app.interruption import (
    left_by,
    resume,
    run,
    run_until,
    same_when_interrupted,
)

OPTIONS = {"fedtrimmedavg": "beta=0.34", "multikrum": "num-nodes-to-select=2"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_continues_as_if_nothing_had_happened(name: str) -> None:
    config = cohort_config(
        train__num_rounds=4, strategy__name=name, strategy__options=OPTIONS.get(name, "")
    )
    same_when_interrupted(config, server_round=2)


@pytest.mark.parametrize("server_round", [0, 3])
def test_a_run_continues_from_its_start_and_to_its_end(server_round: int) -> None:
    same_when_interrupted(cohort_config(train__num_rounds=4), server_round)


@pytest.mark.parametrize(
    "changes",
    [
        {"compression__name": "top-k"},
        {"compression__name": "int8"},
        {"predictor__population_weight": 0.5},
        {"train__clients_per_round": 2},
        {"evaluation__every": 3},
        {"strategy__clipping_norm": 0.05, "strategy__name": "fedavgm"},
        {"privacy__secure_aggregation": True},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)
def test_every_way_to_train_continues_as_if_nothing_had_happened(changes: dict[str, Any]) -> None:
    config = cohort_config(train__num_rounds=4, **changes)
    same_when_interrupted(config, server_round=2)


QUESTION = {
    "privacy__unit": "question",
    "privacy__noise_multiplier": 1.0,
    "privacy__questions_per_episode": 8,
    "privacy__sample_rate": 0.5,
    "privacy__accountant": "rdp",
}


def test_clients_of_unit_question_pay_once_for_a_round_that_they_repeat() -> None:
    config = cohort_config(train__num_rounds=3, privacy__metrics="noisy", **QUESTION)
    same_when_interrupted(config, server_round=1)


# -- unit client: what a kill leaves in doubt is paid for again ------------------------------------

CLIENT: dict[str, Any] = {
    "privacy__unit": "client",
    "privacy__noise_multiplier": 1.0,
    "privacy__metrics": "noisy",
    "strategy__clipping_norm": 0.1,
    "train__num_rounds": 4,
}
IN_TURN = {"train__sampling": "cyclic", "train__clients_per_round": 1}


def ledger_of(folder: Path) -> list[tuple[str, int, int]]:
    lines = map(json.loads, (folder / "privacy-ledger.jsonl").read_text().splitlines())
    return [(line["what"], line["server_round"], line["attempt"]) for line in lines]


def stop_after(config: RunConfig, folder: Path, server_round: int) -> Path:
    """A run that ends between two rounds, before anything of the next one is released."""
    require_next = "server_app.privacy.RunPrivacy.require_next"

    def stopping(self: Any, finished: int) -> None:
        if finished == server_round:
            raise SystemExit(143)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(require_next, stopping)
        run(config, folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"privacy__clipping_quantile": 0.5, "strategy__name": "fedadam"},
        {"privacy__num_bands": 3, **IN_TURN},
        {"train__sampling": "poisson", "train__clients_per_round": 2},
    ],
    ids=["plain", "adaptive clipping", "bands", "poisson"],
)
def test_a_run_stopped_between_rounds_continues_with_the_same_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    config = cohort_config(**{**CLIENT, **changes})
    whole = run(config, tmp_path / "whole")
    stopped = stop_after(config, tmp_path / "stopped", 2)
    assert (stopped / "checkpoints" / "round-000002").exists()
    planned = [line for line in capsys.readouterr().out.splitlines() if "after all" in line]
    resumed = resume(config, stopped)
    assert left_by(resumed) == left_by(whole)
    again = [line for line in capsys.readouterr().out.splitlines() if "after all" in line]
    assert [*again, *again] == planned  # what has been spent is in it once
    holds_noise = config.privacy.num_bands > 1
    assert bool(list((resumed / "checkpoints").glob("round-*"))) != holds_noise


def test_a_release_that_no_checkpoint_covers_is_charged_again_with_other_noise(
    tmp_path: Path,
) -> None:
    config = cohort_config(**CLIENT)
    whole = run(config, tmp_path / "whole")
    resumed = resume(config, run_until(config, tmp_path / "killed", 2))
    assert ledger_of(whole) == [
        *(("scores", 0, 0), ("update", 1, 0), ("scores", 1, 0), ("update", 2, 0)),
        *(("scores", 2, 0), ("update", 3, 0), ("scores", 3, 0), ("update", 4, 0)),
        ("scores", 4, 0),
    ]
    once_more = ledger_of(whole)
    once_more.insert(6, ("update", 3, 1))
    assert ledger_of(resumed) == once_more
    first, second = left_by(whole), left_by(resumed)
    assert first["metrics"][:3] == second["metrics"][:3]
    assert first["final"] != second["final"]  # the noise of round 3 is another
    spent = [left["summary"]["privacy"]["epsilon"] for left in (first, second)]
    assert spent[0] < spent[1]


def test_a_ledger_that_was_lost_stops_the_resumed_run(tmp_path: Path) -> None:
    config = cohort_config(**CLIENT)
    killed = run_until(config, tmp_path / "killed", 2)
    (killed / "privacy-ledger.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="privacy that was spent must not be forgotten"):
        resume(config, killed)


def test_noise_of_secure_aggregation_is_another_when_a_round_is_done_again(tmp_path: Path) -> None:
    config = cohort_config(
        **CLIENT | {"privacy__metrics": "off", "privacy__secure_aggregation": True}
    )
    whole = run(config, tmp_path / "whole")
    resumed = resume(config, run_until(config, tmp_path / "killed", 2))
    assert left_by(whole)["final"] != left_by(resumed)["final"]
    again = resume(config, stop_after(config, tmp_path / "stopped", 2))
    assert left_by(whole)["final"] == left_by(again)["final"]


# -- what may be wrong -----------------------------------------------------------------------------


def test_a_damaged_checkpoint_costs_a_round_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cohort_config(train__num_rounds=4, strategy__name="fedadam")
    whole = run(config, tmp_path / "whole")
    killed = run_until(config, tmp_path / "killed", 2)
    (killed / "checkpoints" / "round-000002" / "state.json").write_text("{")
    capsys.readouterr()
    resumed = resume(config, killed)
    assert "round-000002 is damaged" in capsys.readouterr().out
    assert left_by(resumed) == left_by(whole)


def test_a_run_may_be_interrupted_often(tmp_path: Path) -> None:
    config = cohort_config(train__num_rounds=4, strategy__name="group-robust")
    whole = run(config, tmp_path / "whole")
    folder = run_until(config, tmp_path / "often", 0)
    resuming = replace(config, run=replace(config.run, resume=str(folder)))
    for server_round in (1, 2, 2):
        run_until(resuming, folder, server_round)
    resumed = resume(config, folder)
    assert left_by(resumed) == left_by(whole)
    assert json.loads((folder / "status.json").read_text())["resumed"] == 4


def test_the_best_predictor_is_that_of_finished_rounds(tmp_path: Path) -> None:
    """A round that is done again may have been the best one, and never be it again."""
    config = cohort_config(train__num_rounds=4)
    killed = run_until(config, tmp_path / "killed", 3)
    best = left_by(killed)["best"]
    stranger = run(cohort_config(train__num_rounds=1, run__seed=5), tmp_path / "other")
    for file in (stranger / "predictor-best").iterdir():
        (killed / "predictor-best" / file.name).write_bytes(file.read_bytes())
    assert left_by(killed)["best"] != best
    resumed = resume(config, killed)
    whole = run(config, tmp_path / "whole")
    assert left_by(resumed) == left_by(whole)


def test_other_settings_and_other_questions_are_refused(tmp_path: Path) -> None:
    config = ragged_config(tmp_path, train__num_rounds=3)
    killed = run_until(config, tmp_path / "killed", 1)
    other = replace(config, train=replace(config.train, local_steps=5))
    with pytest.raises(ConfigError, match=r"train.local-steps = 5, the run's is 2"):
        resume(other, killed)
    survey = Path(config.data.path)
    lines = survey.read_text().splitlines()
    changed = [line.replace("Question 7 ", "Question 7b ") for line in lines]
    moved = tmp_path / "moved.csv"
    moved.write_text("\n".join(changed))
    elsewhere = replace(config, data=replace(config.data, path=str(moved)))
    with pytest.raises(PopulationError, match="has other questions than when the run began"):
        resume(elsewhere, killed)
    assert json.loads((killed / "status.json").read_text())["status"] == "failed"
    moved.write_text("\n".join(lines))
    for loader in LOADERS:  # they know a file by its name
        loader.cache_clear()
    resumed = resume(elsewhere, killed)
    assert left_by(resumed) == left_by(run(config, tmp_path / "whole"))


def test_a_disk_that_fills_up_ends_the_run_with_its_name_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cohort_config(train__num_rounds=4)
    write = checkpoint_files._write

    def full(file: Path, content: bytes) -> None:
        if "round-000002" in str(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_files, "_write", full)
        with pytest.raises(RunDirectoryError, match=r"round-000002 cannot be written: No space"):
            run(config, tmp_path / "full")
    status = json.loads((tmp_path / "full" / "status.json").read_text())
    assert status["status"] == "failed"
    assert "No space left on device" in status["reason"]
    resumed = resume(config, tmp_path / "full")
    assert left_by(resumed) == left_by(run(config, tmp_path / "whole"))


def test_a_disk_that_fills_up_elsewhere_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: JsonLines, metrics: Any, step: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JsonLines, "log", full)
    with pytest.raises(RunDirectoryError, match=r"full: No space left on device\. The run stops"):
        run(cohort_config(), tmp_path / "full")


# -- killed processes ------------------------------------------------------------------------------

RUNNING = """
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)  # as the tests do
from cli.main import main

if __name__ == "__main__":
    sys.argv = ["pluralllm", "run", *sys.argv[1:]]
    main()
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNING, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def long_run(folder: Path) -> tuple[RunConfig, Path]:
    config = cohort_config(
        train__num_rounds=30, engine__name="cohort", strategy__name="fedadam", train__local_steps=4
    )
    file = folder / "settings.toml"
    file.write_text(tomli_w.dumps(config.to_flat()))
    return config, file


def rounds_of(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for_rounds(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    while rounds_of(folder) < number:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def test_a_process_killed_at_any_moment_loses_at_most_its_unfinished_round(tmp_path: Path) -> None:
    config, file = long_run(tmp_path)
    folder = tmp_path / "killed"
    settings, moments = [str(file), f"run.directory={folder}"], random.SystemRandom()
    for _ in range(3):
        process = start(tmp_path, *settings)
        wait_for_rounds(process, folder, rounds_of(folder) + 2)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        settings = [f"run.resume={folder}"]
    process = start(tmp_path, *settings)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Continued after round" in output
    found = left_by(folder)
    whole = left_by(run(config, tmp_path / "whole"))
    assert found == whole


def test_a_run_that_is_told_to_stop_saves_its_last_round(tmp_path: Path) -> None:
    config, file = long_run(tmp_path)
    folder = tmp_path / "stopped"
    process = start(tmp_path, str(file), f"run.directory={folder}", "checkpoint.every=1000")
    wait_for_rounds(process, folder, 4)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert json.loads((folder / "status.json").read_text()) == {
        "status": "stopped",
        "reason": "SIGTERM",
        "resumed": 0,
    }
    last = max((folder / "checkpoints").glob("round-*")).name
    assert int(last.removeprefix("round-")) >= rounds_of(folder) - 2
    assert (folder / "predictor-final" / "model.safetensors").exists()
    simulate(replace(config, run=replace(config.run, resume=str(folder))))
    assert left_by(folder) == left_by(run(config, tmp_path / "whole"))
