"""Engines side by side in one run, same seeds and same work: seconds per round and what they cost.

- floor: the local training in bare loops (floor.py);
- cohort: the cohort engine;
- flower: Flower's Ray engine;
- pfl: Apple's pfl-research (pfl_peer.py), where --pfl-python names a Python that has it.

Two kinds of work: `paper` (default predictor, 6 local steps) and `light` (a small predictor, one
step of small episodes). A number of clients beyond an engine's limit is extrapolated from the
largest one measured, proportionally, and marked.

    python benchmarks/engines.py --pfl-python PYTHON --output benchmarks/results/engines.json
    python benchmarks/engines.py --gpu --output benchmarks/results/engines_gpu.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from floor import median_after_first
from measure import run_simulation, watch, write_results

HELD_OUT = 2
HERE = Path(__file__).parent

LIGHT = {
    "data.synthetic-answered": 12,
    "encoder.dimension": 32,
    "predictor.width": 32,
    "predictor.feedforward-width": 32,
    "predictor.num-layers": 2,
    "train.local-steps": 1,
    "train.min-context": 2,
    "train.max-context": 4,
    "train.min-target": 2,
    "train.max-target": 4,
    "evaluation.num-context": 4,
    "evaluation.num-draws": 1,
}
WORK: dict[str, dict[str, Any]] = {"paper": {}, "light": LIGHT}

# (work, engine) to the largest number of clients that is measured; the rest is extrapolated.
LIMITS = {
    ("paper", "floor"): 128,
    ("paper", "cohort"): 1024,
    ("paper", "flower"): 128,
    ("paper", "pfl"): 128,
    ("light", "floor"): 1024,
    ("light", "cohort"): 10240,
    ("light", "flower"): 128,
    ("light", "pfl"): 1024,
}
GPU_LIMITS = LIMITS | {("paper", "cohort"): 10240, ("paper", "floor"): 14, ("paper", "pfl"): 14}

Row = dict[str, Any]


def settings_of(work: str, clients: int, rounds: int) -> dict[str, Any]:
    """Return the run's settings."""
    return {
        **WORK[work],
        "data.synthetic-groups": clients + HELD_OUT,
        "data.num-held-out-groups": HELD_OUT,
        "train.num-rounds": rounds,
        "evaluation.every": rounds,
    }


def simulate(engine: str, settings: Mapping[str, Any]) -> Row:
    """Measure one of our engines."""
    figures = run_simulation({**settings, "engine.name": engine})
    return {key: value for key, value in figures.items() if key not in ("rounds", "summary")}


def measure_floor(settings: Mapping[str, Any], device: str) -> Row:
    """Measure the bare loops."""
    command = [sys.executable, str(HERE / "floor.py"), "--device", device]
    command += [f"--rounds={settings['train.num-rounds']}"]
    watched = watch(command + [f"{key}={value}" for key, value in settings.items()])
    return {
        "seconds_per_round": median_after_first(watched.output),
        "whole_run_seconds": watched.seconds,
        "peak_gb": watched.peak_gb,
        "gpu": watched.gpu,
    }


def measure_pfl(
    settings: Mapping[str, Any], clients: int, work: str, python: str, device: str
) -> Row:
    """Measure pfl-research in its own environment: on a CPU with a process per core."""
    processes = 1 if device == "cuda" else 2
    launcher = [python]
    if processes > 1 and clients % processes == 0:
        launcher = [str(Path(python).with_name("torchrun")), f"--nproc-per-node={processes}"]
    command = [*launcher, str(HERE / "pfl_peer.py"), "--clients", str(clients), "--threads", "1"]
    command += ["--local-steps", str(WORK[work].get("train.local-steps", 6)), "--device", device]
    command += ["--rounds", str(settings["train.num-rounds"])]
    command += [f"{key}={value}" for key, value in WORK[work].items() if "local-steps" not in key]
    watched = watch(command)
    figures = json.loads(
        next(line for line in reversed(watched.output.splitlines()) if line.startswith("{"))
    )
    return {
        "seconds_per_round": figures["seconds_per_round"],
        "startup_seconds": figures["startup_seconds"],
        "whole_run_seconds": watched.seconds,
        "peak_gb": watched.peak_gb,
        "version": figures["version"],
        "gpu": watched.gpu,
    }


def extrapolated(measured: Row, clients: int) -> Row:
    """Return the row of more clients: seconds grow in proportion, the rest is not known."""
    factor = clients / measured["clients"]
    return {
        "work": measured["work"],
        "engine": measured["engine"],
        "clients": clients,
        "seconds_per_round": measured["seconds_per_round"] * factor,
        "clients_per_second": measured["clients_per_second"],
        "extrapolated_from": measured["clients"],
    }


def print_row(row: Row) -> None:
    """Print one line of the table."""

    def cell(key: str, digits: int) -> str:
        return f"{row[key]:.{digits}f}" if row.get(key) is not None else "-"

    mark = f" (from {row['extrapolated_from']})" if "extrapolated_from" in row else ""
    print(
        f"| {row['work']} | {row['clients']:,} | {row['engine']} | {cell('seconds_per_round', 2)}"
        f"{mark} | {cell('clients_per_second', 1)} | {cell('ratio_to_floor', 2)} |"
        f" {cell('startup_seconds', 1)} | {cell('peak_gb', 2)} |",
        flush=True,
    )


def main() -> None:
    """Measure every engine at every number of clients; print the table, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 14, 128, 1024, 10240])
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--engines", nargs="+", default=["floor", "cohort", "flower", "pfl"])
    parser.add_argument(
        "--rounds", type=int, default=3, help="the first is not timed; 2 beyond 128 clients"
    )
    parser.add_argument("--pfl-python", help="a Python that has pfl (see pfl_peer.py)")
    parser.add_argument(
        "--gpu", action="store_true", help="on the first GPU, paper's work only, within 8 minutes"
    )
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    device, limits = ("cuda", GPU_LIMITS) if arguments.gpu else ("cpu", LIMITS)
    runners: dict[str, Callable[[dict[str, Any], int, str], Row]] = {
        "floor": lambda settings, clients, work: measure_floor(settings, device),
        "cohort": lambda settings, clients, work: simulate("cohort", settings),
        "flower": lambda settings, clients, work: simulate("flower", settings),
        "pfl": lambda settings, clients, work: measure_pfl(
            settings, clients, work, arguments.pfl_python, device
        ),
    }
    if arguments.gpu:
        arguments.work = ["paper"]
        for precision in ("tf32", "bfloat16"):
            runners[f"cohort {precision}"] = lambda settings, clients, work, p=precision: simulate(
                "cohort", {**settings, "engine.precision": p}
            )
            limits |= {("paper", f"cohort {precision}"): 1024}
            arguments.engines.append(f"cohort {precision}")
    if not arguments.pfl_python and "pfl" in arguments.engines:
        print("Without --pfl-python pfl-research is left out.", flush=True)
        arguments.engines.remove("pfl")
    print("| work | clients | engine | s/round | clients/s | x floor | start-up s | peak GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[Row] = []
    last: dict[tuple[str, str], Row] = {}
    for work in arguments.work:
        for clients in arguments.clients:
            floor: Row = {}
            for engine in arguments.engines:
                if clients <= limits[work, engine] or (work, engine) not in last:
                    rounds = arguments.rounds if clients <= 128 else 2
                    settings = settings_of(work, clients, rounds)
                    row = runners[engine](settings, clients, work)
                    row |= {"work": work, "engine": engine, "clients": clients}
                    row["clients_per_second"] = clients / row["seconds_per_round"]
                    last[work, engine] = row
                else:
                    row = extrapolated(last[work, engine], clients)
                floor = row if engine == "floor" else floor
                if floor:
                    row["ratio_to_floor"] = row["seconds_per_round"] / floor["seconds_per_round"]
                print_row(row)
                rows.append(row)
                write_results(arguments.output, {"rows": rows})


if __name__ == "__main__":
    main()
