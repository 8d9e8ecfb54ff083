"""Seconds per round and peak memory of Flower's Ray engine, by number of synthetic clients.

python benchmarks/flower_engine.py --clients 8 32 128 \
        --output benchmarks/results/flower_engine.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROUNDS = 6
HELD_OUT = 2
POLL_SECONDS = 0.5


def measure(clients: int, local_steps: int) -> dict[str, Any]:
    """Run `pluralllm run` with so many training clients, watching its processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).with_name("pluralllm")),
            "run",
            f"data.synthetic-groups={clients + HELD_OUT}",
            f"data.num-held-out-groups={HELD_OUT}",
            f"train.num-rounds={ROUNDS}",
            f"train.local-steps={local_steps}",
            f"evaluation.every={ROUNDS}",
            f"run.directory={folder}/run",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        total, server = 0.0, 0.0
        while process.poll() is None:
            now_total, now_server = memory(psutil.Process(process.pid))
            total, server = max(total, now_total), max(server, now_server)
            time.sleep(POLL_SECONDS)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    seconds = [entry["train_seconds"] for entry in rounds if entry["round"] >= 2]
    median = statistics.median(seconds)
    return {
        "clients": clients,
        "local_steps": local_steps,
        "seconds_per_round": median,
        "clients_per_second": clients / median,
        "first_round_seconds": rounds[1]["train_seconds"],
        "whole_run_seconds": time.monotonic() - started,
        "server_peak_rss_gb": server,
        "all_processes_peak_pss_gb": total,
    }


def memory(root: psutil.Process) -> tuple[float, float]:
    """Return GB of all processes below `root` (proportional set size), and of the ServerApp's."""
    total, server = 0.0, 0.0
    for process in root.children(recursive=True):
        try:
            total += process.memory_full_info().pss / 1e9
            if "flwr-simulation" in " ".join(process.cmdline()):
                server = max(server, process.memory_info().rss / 1e9)
        except psutil.Error:  # it has just ended
            continue
    return total, server


def main() -> None:
    """Measure each number of clients, print a table, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--local-steps", type=int, default=6)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    print("clients  s/round  clients/s  whole run s  server RSS GB  all processes PSS GB")
    rows = []
    for clients in arguments.clients:
        row = measure(clients, arguments.local_steps)
        rows.append(row)
        print(
            f"{clients:7d}  {row['seconds_per_round']:7.2f}  {row['clients_per_second']:9.2f}"
            f"  {row['whole_run_seconds']:11.1f}  {row['server_peak_rss_gb']:13.2f}"
            f"  {row['all_processes_peak_pss_gb']:20.2f}",
            flush=True,
        )
    if arguments.output:
        machine = {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "flwr": metadata.version("flwr"),
            "ray": metadata.version("ray"),
            "torch": metadata.version("torch"),
        }
        text = json.dumps({"rows": rows, "machine": machine}, indent=2)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
