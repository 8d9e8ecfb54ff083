"""Whole runs on Flower's own runtime, as a user starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from comparison.methods import compute_cell
from comparison.plan import Plan
from server_app.cohort import simulate
from task.config import RunConfig, read_toml

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SETTINGS = {
    "data.synthetic-groups": 4,
    "data.num-held-out-groups": 1,
    "data.synthetic-questions": 60,
    "data.synthetic-answered": 24,
    "encoder.dimension": 16,
    "predictor.width": 16,
    "predictor.num-layers": 1,
    "predictor.num-heads": 2,
    "train.num-rounds": 2,
    "train.local-steps": 2,
    "train.max-context": 10,
    "train.max-target": 10,
    "evaluation.num-context": 5,
    "evaluation.num-draws": 1,
}


def start(arguments: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command of the environment in a folder, with a cache and a Flower home of its own."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [str(BIN / arguments[0]), *arguments[1:]],
        cwd=folder,
        env=os.environ
        | {"PATH": path, "PLURALLLM_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pluralllm_run(folder: Path, *settings: str) -> tuple[int, list[str], set[psutil.Process]]:
    """Return exit status, lines of output, and all processes that it has started."""
    tiny = [f"{key}={value}" for key, value in SETTINGS.items()]
    process = start(["pluralllm", "run", *tiny, *settings], folder)
    family: set[psutil.Process] = set()
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        family.update(psutil.Process(process.pid).children(recursive=True))
    return process.wait(), lines, family


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[str], set]:
    """One `pluralllm run`, looked at by several tests."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "pluralllm").mkdir()  # as beside a clone; `flwr` might take it for an app
    return folder / "mine", *pluralllm_run(folder, "run.directory=mine")


def test_pluralllm_run_completes_and_leaves_a_complete_run_directory(finished) -> None:
    directory, status, lines, _ = finished
    assert status == 0, "\n".join(lines)
    assert json.loads((directory / "status.json").read_text())["status"] == "completed"
    assert {path.name for path in directory.iterdir()} == {
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
    }
    rounds = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [entry["clients"] for entry in rounds] == [0, 3, 3]
    assert all(entry["failures"] == {} for entry in rounds)


def test_pluralllm_run_streams_the_table(finished) -> None:
    _, _, lines, _ = finished
    words = [line.split() for line in lines]
    (header,) = [i for i, line in enumerate(words) if line[:2] == ["round", "loss"]]
    assert [line[0] for line in words[header + 1 : header + 4]] == ["0", "1", "2"]
    assert any(line.startswith("held-out model") for line in lines)


def test_pluralllm_run_leaves_no_process_behind(finished) -> None:
    *_, family = finished
    assert len(family) > 3  # the SuperLink, the simulation, Ray and its actors were there
    assert not [process for process in family if process.is_running()]


def test_a_server_app_that_fails_makes_the_command_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, lines, family = pluralllm_run(tmp_path, "run.directory=file/run")
    output = "\n".join(lines)
    assert status == 1, output
    assert "error: the run did not complete" in output
    assert "finished:failed" in output
    assert "run.directory = " in output  # the reason is streamed
    assert not [process for process in family if process.is_running()]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[Path]:
    """A FLWR_HOME; the SuperLink that `flwr` leaves running there is ended afterwards."""
    home = tmp_path / "flwr-home"
    yield home
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("FLWR_HOME") == str(home)
        except psutil.Error:
            continue
        if mine:
            process.kill()


def bare_flwr_run(folder: Path, home: Path, **settings: str | int) -> Path:
    """`flwr run` with Flower's default of two nodes, its own SuperLink, the app as it packs it."""
    text = " ".join(f"{key}={value}" for key, value in (SETTINGS | settings).items())
    process = start(
        ["flwr", "run", str(REPOSITORY), "--stream", "--run-config", text],
        folder,
        FLWR_HOME=str(home),
        FLWR_LOCAL_SUPERLINK_HTTP_API_PORT=free_port(),
        FLWR_LOCAL_CONTROL_API_PORT=free_port(),
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
        FLWR_DISABLE_UPDATE_CHECK="1",
        PLURALLLM_PROJECT=str(folder),
        # Two CPUs per client mean two threads, which sum in another order than one does.
        OMP_NUM_THREADS="1",
    )
    output, _ = process.communicate()
    directories = list((folder / "runs").glob("*"))
    assert len(directories) == 1, output
    assert json.loads((directories[0] / "status.json").read_text())["status"] == "completed"
    return directories[0]


def saved_bytes(directory: Path) -> bytes:
    return (directory / "predictor-final" / "model.safetensors").read_bytes()


def test_a_bare_flwr_run_gives_the_same_predictor_bit_for_bit(
    finished, tmp_path: Path, flower_home: Path
) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("Flower's default is two CPUs per client")
    directory = bare_flwr_run(tmp_path, flower_home)
    assert saved_bytes(directory) == saved_bytes(finished[0])


def test_the_cohort_engine_gives_the_same_predictor_bit_for_bit(finished, tmp_path: Path) -> None:
    config = RunConfig.from_flat(SETTINGS | {"engine.stack-size": 1})
    config = replace(config, run=replace(config.run, directory=str(tmp_path / "mine")))
    directory = simulate(config)
    assert saved_bytes(directory.path) == saved_bytes(finished[0])


OWN_STRATEGY = """
from server_app.strategies.adaptive_alpha import AdaptiveAlpha

class Own(AdaptiveAlpha):
    def __init__(self, *, heat, **options):
        super().__init__(temperature=heat, **options)
"""


def cohort_run(folder: Path, **settings: str) -> Path:
    flat = SETTINGS | {"engine.stack-size": 1, "run.directory": str(folder)} | settings
    return simulate(RunConfig.from_flat(flat)).path


def test_an_own_strategy_from_a_file_elsewhere_gives_the_same_bits_under_both_engines(
    tmp_path: Path, flower_home: Path
) -> None:
    file = tmp_path / "my_strategies.py"
    file.write_text(OWN_STRATEGY)
    chosen = {"strategy.name": f"{file}:Own", "strategy.options": "heat=0.01"}
    quoted = {key: f"'{value}'" for key, value in chosen.items()}
    directory = bare_flwr_run(tmp_path, flower_home, **quoted)
    assert saved_bytes(directory) == saved_bytes(cohort_run(tmp_path / "cohort", **chosen))
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    assert max(last["group_weights"].values()) > 0.5  # so hot a rule does not average


def test_personal_parameters_are_the_same_bits_under_both_engines(tmp_path: Path) -> None:
    chosen = {"strategy.name": "ditto"}
    status, lines, _ = pluralllm_run(tmp_path, "strategy.name=ditto", "run.directory=mine")
    assert status == 0, "\n".join(lines)
    cohort = cohort_run(tmp_path / "cohort", **chosen)
    assert saved_bytes(tmp_path / "mine") == saved_bytes(cohort)
    ours, theirs = (
        {file.name: file.read_bytes() for file in (folder / "clients").iterdir()}
        for folder in (tmp_path / "mine", cohort)
    )
    assert len(ours) == 3
    assert ours == theirs


def test_a_federated_cell_of_a_comparison_gives_the_same_predictor_bit_for_bit(
    finished, tmp_path: Path
) -> None:
    config = RunConfig.from_flat(SETTINGS | {"engine.stack-size": 1})
    asked = Plan(config=config, methods=("federated fedavg",), num_seeds=1, few_shot=(0,))
    (cell,) = asked.cells()
    result = compute_cell(cell, tmp_path)
    assert saved_bytes(tmp_path / "run") == saved_bytes(finished[0])
    groups = json.loads((finished[0] / "summary.json").read_text())["groups"]
    assert {group: scores.all.value for group, scores in result.scores.items()} == pytest.approx(
        {group: entry["alignment_score"] for group, entry in groups.items()}, abs=1e-6
    )


def test_flwr_run_takes_the_cohort_engine(finished, tmp_path: Path, flower_home: Path) -> None:
    engine = {"engine.name": "'cohort'", "engine.stack-size": 1}
    directory = bare_flwr_run(tmp_path, flower_home, **engine)
    assert read_toml(directory / "config.toml")["engine.name"] == "cohort"
    assert saved_bytes(directory) == saved_bytes(finished[0])


def test_a_terminated_command_takes_all_it_started_with_it(tmp_path: Path) -> None:
    tiny = [f"{key}={value}" for key, value in SETTINGS.items()]
    process = start(["pluralllm", "run", *tiny, "train.num-rounds=500"], tmp_path)
    for line in process.stdout:
        if line.startswith("round "):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("flower-superlink" in " ".join(member.cmdline()) for member in family)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
