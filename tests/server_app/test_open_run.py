import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server_app.checkpointing.checkpoints import Checkpoint
from server_app.open_run import OpenRun, open_run, require_interrupted, resume_settings
from server_app.run_directory import RunDirectory
from task.config import RunConfig, read_toml
from task.errors import ConfigError, RunDirectoryError
from tests.server_app.in_process_grid import tiny_config


def settings(path: Path, **changes: Any) -> RunConfig:
    return tiny_config(run__directory=str(path), **changes)


def resuming(path: Path, **changes: Any) -> RunConfig:
    return tiny_config(run__resume=str(path), **changes)


def status_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "status.json").read_text())
    return content


class KilledError(Exception):
    """Ends the run."""


def finish_round(run: OpenRun, server_round: int, **metrics: Any) -> None:
    state = {"round": server_round}
    with (run.directory.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": server_round, **metrics}) + "\n")
    run.checkpoints.add(Checkpoint(server_round, state))


def interrupted(path: Path, rounds: int = 2, error: BaseException | None = None) -> OpenRun:
    """A run that has finished these rounds."""
    try:
        with open_run(settings(path)) as run:
            run.checkpoints.write_run_record({"population": {}})
            for server_round in range(rounds + 1):
                finish_round(run, server_round)
            raise error or KilledError("power cut")
    except BaseException as raised:
        if raised is not error and not isinstance(raised, KilledError):
            raise
    return run


def test_a_resumed_run_continues_after_its_last_checkpoint(tmp_path: Path) -> None:
    began = interrupted(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "stopped": "budget"}\n{"round": 3}\n{"roun')
    with open_run(resuming(tmp_path / "run")) as run:
        assert run.resumed
        assert run.resumed.server_round == 2
        assert run.key == began.key
        assert status_of(tmp_path / "run") == {"status": "running", "reason": "", "resumed": 1}
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"round": r} for r in (0, 1, 2)]
    assert status_of(tmp_path / "run") == {"status": "completed", "reason": "", "resumed": 1}


def test_a_new_run_replaces_the_record_that_one_without_a_round_has_left(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for clients in ("first", "second"):
        with pytest.raises(KilledError), open_run(settings(path)) as run:
            run.checkpoints.write_run_record({"population": clients})
            if clients == "second":
                finish_round(run, 0)
            raise KilledError
    with open_run(resuming(path)) as resumed:
        assert resumed.key == run.key
        assert resumed.checkpoints.run_record()["population"] == "second"


def test_a_new_run_refuses_what_rounds_have_left_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    interrupted(path)
    (path / "metrics.jsonl").unlink()
    before = status_of(path)
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        open_run(settings(path)).__enter__()
    assert status_of(path) == before
    with open_run(resuming(path)) as run:
        assert run.resumed


def test_a_record_of_another_run_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    interrupted(first)
    interrupted(second)
    record = Path("checkpoints", "run")
    shutil.rmtree(first / record)
    shutil.copytree(second / record, first / record)
    with pytest.raises(RunDirectoryError, match="round 2 is of another run than the record"):
        open_run(resuming(first)).__enter__()


def test_every_new_run_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = {interrupted(tmp_path / str(number)).key for number in range(3)}
    assert len(keys) == 3
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("why"), "failed", "why"),
        (SystemExit(143), "stopped", "SIGTERM"),
        (KeyboardInterrupt(), "stopped", "SIGINT"),
    ],
)
def test_a_run_says_how_it_ended_and_can_be_resumed_from_there(
    tmp_path: Path, error: BaseException, status: str, reason: str
) -> None:
    interrupted(tmp_path / "run", error=error)
    assert status_of(tmp_path / "run") == {"status": status, "reason": reason, "resumed": 0}
    with open_run(resuming(tmp_path / "run")):
        pass
    assert status_of(tmp_path / "run")["status"] == "completed"


def test_what_flowers_handler_said_of_the_end_stays(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), open_run(settings(tmp_path / "run")) as run:
        run.directory.write_stopped("by a signal")
        raise SystemExit(0)
    assert status_of(tmp_path / "run")["status"] == "stopped"


def test_the_settings_that_resume_a_run_are_in_its_directory(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    saved = RunConfig.from_flat(read_toml(tmp_path / "run" / "resume.toml"))
    began = settings(tmp_path / "run")
    assert saved == replace(began, run=replace(began.run, resume=str(tmp_path / "run")))
    require_interrupted(saved)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = RunConfig.from_flat(resume_settings(tmp_path / "moved"))
    require_interrupted(moved)
    with open_run(moved) as run:
        assert run.directory.path == tmp_path / "moved"


@pytest.mark.parametrize(
    "changes",
    [
        {"engine__name": "cohort", "engine__stack_size": 1},
        {"log__tensorboard": True},
        {"checkpoint__every": 5},
        {"nodes__patience": 3.0},
        {"encoder__cache_directory": "/elsewhere"},
    ],
)
def test_settings_of_operation_may_differ(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    interrupted(tmp_path / "run")
    require_interrupted(resuming(tmp_path / "run", **changes))


def test_other_settings_are_refused_each_with_both_values(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    before = status_of(tmp_path / "run")
    other = resuming(tmp_path / "run", train__num_rounds=9, strategy__name="krum")
    for check in (require_interrupted, lambda config: open_run(config).__enter__()):
        with pytest.raises(ConfigError) as error:
            check(other)
        assert "train.num-rounds = 9, the run's is 2" in str(error.value)
        assert 'strategy.name = "krum", the run\'s is "fedavg"' in str(error.value)
        assert "seed" not in str(error.value)
    assert status_of(tmp_path / "run") == before


def test_another_directory_to_write_to_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    same = resuming(tmp_path / "run", run__directory=str(tmp_path / "." / "run"))
    require_interrupted(same)
    with pytest.raises(ConfigError, match="a run is continued in its own directory"):
        require_interrupted(resuming(tmp_path / "run", run__directory=str(tmp_path / "other")))


def test_a_completed_run_is_refused_and_stays_completed(tmp_path: Path) -> None:
    with open_run(settings(tmp_path / "run")) as run:
        finish_round(run, 0)
    with pytest.raises(RunDirectoryError, match="has completed"):
        open_run(resuming(tmp_path / "run")).__enter__()
    assert status_of(tmp_path / "run")["status"] == "completed"


def test_a_directory_without_a_run_or_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is no run directory \(there is nothing\)"):
        require_interrupted(resuming(tmp_path / "missing"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunDirectoryError, match=r"is no run directory \(it holds notes\.txt\)"):
        require_interrupted(resuming(tmp_path))
    with pytest.raises(KilledError), open_run(settings(tmp_path / "run")):
        raise KilledError("at once")
    with pytest.raises(RunDirectoryError, match=r"has no checkpoint \(it holds .*config\.toml"):
        open_run(resuming(tmp_path / "run")).__enter__()
    assert status_of(tmp_path / "run")["status"] == "failed"


HOLDER = """
import sys
from pathlib import Path
from server_app.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_is_alive_is_refused_and_a_dead_ones_lock_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    interrupted(tmp_path / "run")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        before = status_of(tmp_path / "run")
        with pytest.raises(RunDirectoryError, match="belongs to a run that is still going on"):
            open_run(resuming(tmp_path / "run")).__enter__()
        assert status_of(tmp_path / "run") == before
    finally:
        process.kill()
        process.wait()
    with open_run(resuming(tmp_path / "run")) as run:
        assert run.resumed


def holding(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    """Let something happen between a process's first look at a directory and its lock."""
    locked = RunDirectory.locked

    def late(self: RunDirectory) -> Any:
        monkeypatch.undo()
        meanwhile()
        return locked(self)

    monkeypatch.setattr(RunDirectory, "locked", late)


def test_a_run_that_another_process_has_completed_meanwhile_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "run")

    def complete() -> None:
        with open_run(resuming(tmp_path / "run")):
            pass

    holding(monkeypatch, complete)
    with pytest.raises(RunDirectoryError, match="has completed"):
        open_run(resuming(tmp_path / "run")).__enter__()
    assert status_of(tmp_path / "run")["resumed"] == 1


def test_a_run_that_another_process_has_begun_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding(monkeypatch, lambda: interrupted(tmp_path / "run") and None)
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        open_run(settings(tmp_path / "run", run__seed=5)).__enter__()
    assert read_toml(tmp_path / "run" / "config.toml")["run.seed"] == 0


def test_a_run_without_checkpoints_leaves_none_and_says_nothing_of_resuming(
    tmp_path: Path,
) -> None:
    with open_run(settings(tmp_path / "run", checkpoint__every=0)) as run:
        assert not run.checkpoints.enabled
    assert not (tmp_path / "run" / "resume.toml").exists()
