"""A run of Flower's engine that is told to stop, and continued by the cohort engine."""

import json
import signal
import time
from pathlib import Path

import psutil

from server_app.cohort import simulate
from task.config import RunConfig, read_toml
from tests.end_to_end.test_runs import SETTINGS, cohort_run, saved_bytes, start


def test_a_terminated_run_of_flowers_engine_continues_under_the_cohort_engine(
    tmp_path: Path,
) -> None:
    chosen = {"strategy.name": "ditto", "train.num-rounds": 40}
    tiny = [f"{key}={value}" for key, value in (SETTINGS | chosen).items()]
    folder = tmp_path / "mine"
    process = start(["pluralllm", "run", *tiny, "run.directory=mine"], tmp_path)
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    psutil.wait_procs(family, timeout=30)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "stopped", status
    last = max((folder / "checkpoints").glob("round-*")).name
    assert 3 <= int(last.removeprefix("round-")) < 40
    config = RunConfig.from_flat(read_toml(folder / "resume.toml") | {"engine.stack-size": 1})
    simulate(config)
    whole = cohort_run(tmp_path / "whole", **chosen)
    assert saved_bytes(folder) == saved_bytes(whole)
    ours, theirs = (
        {file.name: file.read_bytes() for file in (each / "clients").iterdir()}
        for each in (folder, whole)
    )
    assert len(ours) == 3
    assert ours == theirs
