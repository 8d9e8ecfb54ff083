"""What the benchmarks share: watching a command's processes, runs' files, the machine."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Watched:
    """How a command went.

    Attributes:
        output: what it printed.
        started: wall-clock time of its start.
        seconds: until its end.
        peak_gb: all its processes' memory, shared pages counted once (proportional set size).
        server_gb: resident memory of the process in which the server is.
        gpu: peak memory (GB) and mean utilisation (0 to 1) of the first GPU, if there is one.
    """

    output: str
    started: float
    seconds: float
    peak_gb: float
    server_gb: float
    gpu: dict[str, float]


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Run a command and watch its processes.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.time()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        peak = server = 0.0
        gpu: list[tuple[float, float]] = []
        while process.poll() is None:
            total_now, server_now = _memory(psutil.Process(process.pid))
            peak, server = max(peak, total_now), max(server, server_now)
            gpu += _gpu()
            time.sleep(POLL_SECONDS)
        seconds = time.time() - started
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{text[-2000:]}")
    busy = {
        "memory_gb": max((memory for memory, _ in gpu), default=0.0),
        "utilisation": statistics.fmean(use for _, use in gpu) if gpu else 0.0,
    }
    return Watched(text, started, seconds, peak, server, busy if gpu else {})


def run_simulation(settings: Mapping[str, Any], config_files: Sequence[str] = ()) -> dict[str, Any]:
    """Run `pluralllm run` and return its figures.

    Start-up is all before the strategy starts: processes, survey, features, finding the clients.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("pluralllm")), "run", *config_files]
        command += [f"{key}={value}" for key, value in settings.items()]
        command += [f"run.directory={folder}/run"]
        watched = watch(command)
        file = Path(folder) / "run" / "metrics.jsonl"
        rounds = [json.loads(line) for line in file.read_text().splitlines()]
        strategy_started = file.stat().st_mtime - sum(entry["seconds"] for entry in rounds)
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    timed = [entry["train_seconds"] for entry in rounds if entry["round"] >= 2]
    return {
        "seconds_per_round": statistics.median(timed) if timed else rounds[1]["train_seconds"],
        "clients_per_round": rounds[1]["clients"],
        "startup_seconds": strategy_started - watched.started,
        "whole_run_seconds": watched.seconds,
        "peak_gb": watched.peak_gb,
        "server_gb": watched.server_gb,
        "gpu": watched.gpu,
        "rounds": rounds,
        "summary": summary,
    }


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    packages = ("flwr", "ray", "torch", "numpy")
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def write_results(file: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures with the machine they are from."""
    if file:
        file.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n")


def measure_missing(
    parser: argparse.ArgumentParser,
    given: argparse.Namespace,
    figures: Mapping[str, Any],
    planned: Iterable[Any],
    key: Sequence[str],
    measure: Callable[[Any], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Measure what is not in the output file yet, each run in a process of its own.

    Args:
        parser: says so when the file has results of other settings.
        given: has `output` (None: nothing is written) and `workers`, the runs at a time.
        figures: what else is written: the settings.
        planned: runs, tuples that begin with the values of `key`.
        key: fields of a row that tell which run it is of.
        measure: makes the row of a run.

    Returns:
        All rows, those of the file first.
    """
    rows: list[dict[str, Any]] = []
    if given.output and given.output.exists():
        found = json.loads(given.output.read_text())
        if found | figures != found:
            parser.error(f"{given.output} has results of other settings")
        rows = found["rows"]
    done = [tuple(row[name] for name in key) for row in rows]
    missing = [run for run in planned if run[: len(key)] not in done]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    with get_context("spawn").Pool(given.workers, maxtasksperchild=1) as pool:
        for row in pool.imap_unordered(measure, missing):
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_results(given.output, {**figures, "rows": rows})
    return rows


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory(root: psutil.Process) -> tuple[float, float]:
    """Return GB of a process and all below it, and of the one with the server."""
    total, server, own = 0.0, 0.0, 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            total += process.memory_full_info().pss / 1e9
            resident = process.memory_info().rss / 1e9
            if process == root:
                own = resident
            if "flwr-simulation" in " ".join(process.cmdline()):
                server = max(server, resident)
        except psutil.Error:  # it has just ended
            continue
    return total, server or own


def _gpu() -> list[tuple[float, float]]:
    """Return memory in use (GB) and utilisation of the first GPU."""
    if not torch.cuda.is_available():
        return []
    query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader"]
    found = subprocess.run(
        [*query, "--id=0"], capture_output=True, text=True, check=True
    ).stdout.split(",")
    return [(float(found[0].split()[0]) / 1e3, float(found[1].split()[0]) / 100)]
