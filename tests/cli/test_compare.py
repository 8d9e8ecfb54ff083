"""`pluralllm compare`, in this process and as its script, which is killed and interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from comparison.results import load_results
from task.config import RunConfig
from tests.cli.command import Command, Outcome, make_command
from tests.comparison.examples import comparison_config

METHODS = ("federated fedavg", "centralized-rounds", "uniform")
ARGUMENTS = (
    "--seeds=2",
    "--methods=centralized-rounds,uniform",
    "--few-shot=0,2",
    "--directory=mine",
)


def settings(**changes: Any) -> list[str]:
    differing = comparison_config(**changes).to_flat().items() - RunConfig().to_flat().items()
    return sorted(f"{key}={value}" for key, value in differing)


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The script in a process group of its own, as a shell starts it."""
    script = Path(sys.executable).with_name("pluralllm")
    return subprocess.Popen(
        [str(script), "compare", *arguments],
        cwd=folder,
        env=os.environ | {"PLURALLLM_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"},
        stdout=(folder / "output.txt").open("w"),  # a pipe would stay open with a worker
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What runs tests in the background may ignore it, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def end_of(process: "subprocess.Popen[str]", folder: Path) -> str:
    """Wait for the script to end; return what it has printed."""
    process.wait(120)
    return (folder / "output.txt").read_text()


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "it has ended before"
        time.sleep(0.1)
    raise AssertionError("nothing happened for two minutes")


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def end_all(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end of themselves; kill and return those that do not."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        process.kill()
    return alive


def finished_cells(folder: Path) -> list[Path]:
    return list((folder / "mine" / "cells").glob("*/cell.json"))


def timeless(value: Any) -> Any:
    """Results less what a clock or the command line says, and numbers that are means of clocks."""
    if isinstance(value, dict):
        return {
            key: timeless(each) for key, each in value.items() if key not in ("seconds", "command")
        }
    return [timeless(each) for each in value] if isinstance(value, list) else value


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, str]]:
    """A comparison from beginning to end: its folder, exit status and output."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, *settings(), *ARGUMENTS, "--workers=2")
    output = end_of(process, folder)
    yield folder, process.returncode, output


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[psutil.Process]]:
    """A comparison that was killed when its first cell was finished; workers that stayed."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder, *settings(), *ARGUMENTS, "--workers=1")
    wait_for(lambda: finished_cells(folder), process)
    workers = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    return folder, end_all(workers)


# -- to the end ------------------------------------------------------------------------------------


def test_a_comparison_leaves_its_plan_cells_and_results(whole: tuple[Path, int, str]) -> None:
    folder, status, output = whole
    assert status == 0, output
    names = {path.name for path in (folder / "mine").iterdir()} - {".lock"}
    assert names == {"comparison.json", "cells", "results.json", "results.md"}
    manifest = read(folder / "mine" / "comparison.json")
    keys = {cell["key"] for cell in manifest["cells"]}
    assert len(keys) == 6
    assert {file.parent.name for file in finished_cells(folder)} == keys
    assert {path.name for path in (folder / "mine" / "cells").iterdir()} == keys
    assert manifest["command"].startswith("pluralllm compare data.")
    assert manifest["num_groups"] == {"train": 3, "held_out": 1}


def test_a_comparison_prints_what_it_computes_and_its_tables(
    whole: tuple[Path, int, str],
) -> None:
    folder, _, output = whole
    assert "3 methods, 6 cells in mine" in output
    for method in METHODS:
        for seed in (0, 1):
            assert re.search(rf"{method}, seed {seed}, fold 0: AS 0\.\d{{4}} in \d+ s", output)
    assert (folder / "mine" / "results.md").read_text() in output
    assert "Engine:" not in output  # that is in each run's log


def test_the_results_that_are_written_are_those_of_the_cells(whole: tuple[Path, int, str]) -> None:
    folder, _, _ = whole
    results = read(folder / "mine" / "results.json")
    assert results == load_results(folder / "mine")
    assert results["missing_cells"] == []
    assert list(results["table"]) == list(METHODS)
    assert results["seeds"] == [0, 1]
    scores = [results["table"][m]["held_out"]["alignment_score"]["mean"] for m in METHODS]
    assert len(set(scores)) == 3
    assert all(0 < score < 1 for score in scores)
    assert len(results["claims"]) == 4
    assert list(results["few_shot"]["uniform"]) == ["0", "2"]


def test_the_same_command_again_computes_nothing(
    whole: tuple[Path, int, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = whole
    monkeypatch.chdir(folder)
    before = timeless(read(folder / "mine" / "results.json"))
    outcome = make_command(monkeypatch, capsys)("compare", *settings(), *ARGUMENTS)
    assert outcome.status == 0, outcome.err
    assert "6 of 6 cells are there already" in outcome.out
    assert timeless(read(folder / "mine" / "results.json")) == before


def test_another_comparison_in_the_same_directory_uses_the_cells_they_share(
    whole: tuple[Path, int, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = whole
    monkeypatch.chdir(folder)
    kept = {
        name: (folder / "mine" / name).read_text() for name in ("comparison.json", "results.json")
    }
    try:
        outcome = make_command(monkeypatch, capsys)(
            "compare",
            *settings(),
            *ARGUMENTS[2:],
            "--methods=uniform",
            "--seeds=1",
            "--no-intervals",
        )
        results = read(folder / "mine" / "results.json")
    finally:
        for name, text in kept.items():
            (folder / "mine" / name).write_text(text)
    assert outcome.status == 0, outcome.err
    assert "2 of 2 cells are there already" in outcome.out
    assert list(results["table"]) == ["federated fedavg", "uniform"]
    assert results["table"]["uniform"]["held_out"]["alignment_score"]["low"] is None
    assert results["claims"] == []


# -- killed and interrupted ------------------------------------------------------------------------


def test_a_killed_comparison_goes_on_to_the_results_of_an_undisturbed_one(
    whole: tuple[Path, int, str],
    killed: tuple[Path, list[psutil.Process]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = killed
    there = len(finished_cells(folder))
    assert 1 <= there < 6
    assert not (folder / "mine" / "results.json").exists()
    monkeypatch.chdir(folder)
    outcome = make_command(monkeypatch, capsys)("compare", *settings(), *ARGUMENTS, "--workers=1")
    assert outcome.status == 0, outcome.err
    assert f"{there} of 6 cells are there already" in outcome.out
    ours, theirs = (
        timeless(read(directory / "mine" / "results.json")) for directory in (folder, whole[0])
    )
    assert ours == theirs


def test_a_killed_comparison_leaves_no_workers_behind(
    killed: tuple[Path, list[psutil.Process]],
) -> None:
    _, stayed = killed
    assert stayed == []


def test_an_interrupted_comparison_ends_with_130_and_takes_its_workers_with_it(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, *settings(train__num_rounds=2000), *ARGUMENTS, "--workers=1")
    wait_for(lambda: list(tmp_path.glob("mine/cells/*/run/metrics.jsonl")), process)
    workers = workers_of(process)
    assert workers
    try:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output = end_of(process, tmp_path)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "Interrupted; the same command goes on from here." in output
    assert "Traceback" not in output
    assert end_all(workers) == []


def beside_another(folder: Path, command: Command) -> Outcome:
    """What a second comparison says in a directory that another process works in."""
    (folder / "mine").mkdir()
    (folder / "mine" / "comparison.json").write_text("of the first")
    with FileLock(folder / "mine" / ".lock"):
        return command("compare", *settings(), *ARGUMENTS)


def test_a_comparison_that_another_process_computes_is_refused(
    pluralllm: Command, tmp_path: Path
) -> None:
    outcome = beside_another(tmp_path, pluralllm)
    assert outcome.status == 2
    assert "Another comparison is being computed in mine" in outcome.err
    assert finished_cells(tmp_path) == []


def test_a_comparison_that_is_refused_leaves_the_plan_of_the_other(
    pluralllm: Command, tmp_path: Path
) -> None:
    beside_another(tmp_path, pluralllm)
    assert (tmp_path / "mine" / "comparison.json").read_text() == "of the first"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=1"], "--seeds 1: expected at least 2, as intervals are over seeds"),
        (["--seeds=0", "--no-intervals"], "--seeds 0: expected at least 1"),
        (["--methods=centralised-rounds"], "Did you mean 'centralized-rounds'?"),
        (["--strategy=fedavgg"], "Did you mean 'fedavg'?"),
        (["--strategy=fedavg run.seed=3"], "changes 'run.seed'"),
        (["--strategy="], "expected 'federated <strategy> [key=value ...]'"),
        (["--folds=1"], "--folds 1: expected 2 to 4"),
        (["--few-shot=1,few"], "--few-shot '1,few': expected whole numbers"),
        (["--few-shot=-1"], "--few-shot [-1]: expected numbers >= 0"),
        (["train.local-step=3"], "Did you mean 'train.local-steps'?"),
        (["data.source=table", "data.path=gone.csv"], "gone.csv does not exist"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_one_line_and_leaves_nothing(
    pluralllm: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = pluralllm("compare", *settings(), *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "comparisons").exists()


def test_a_directory_is_named_after_the_last_config_file(
    pluralllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.compare.compute_missing", lambda *_: {})
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text("[train]\nnum-rounds = 3\n")
    options = ("--methods=uniform", "--seeds=2")
    assert pluralllm("compare", "one.toml", "two.toml", *settings(), *options).status == 0
    assert pluralllm("compare", *settings(), *options).status == 0
    assert {path.name for path in (tmp_path / "comparisons").iterdir()} == {"two", "default"}


def test_failed_cells_are_named_after_the_results_and_make_the_command_fail(
    pluralllm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.compare.compute_missing", lambda *_: {"uniform, seed 0": "boom"})
    outcome = pluralllm("compare", *settings(), *ARGUMENTS)
    assert outcome.status == 1
    assert "error: uniform, seed 0: boom" in outcome.err
    assert len(read(tmp_path / "mine" / "results.json")["missing_cells"]) == 6
    assert "Not finished: 6 cells are missing" in outcome.out
