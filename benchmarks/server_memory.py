"""The server's peak memory by number of clients: default predictor, one local step, two rounds.

Under Flower's engine the server is the process with the ServerApp; under the cohort engine it is
the process that computes all clients too.

    python benchmarks/server_memory.py --output benchmarks/results/server_memory.json
"""

import argparse
from pathlib import Path
from typing import Any

from measure import run_simulation, write_results

HELD_OUT = 2
CASES = (
    ("cohort", "fedavg", 0.0),
    ("cohort", "fedavg", 1.0),
    ("cohort", "fedmedian", 0.0),
    ("flower", "fedavg", 0.0),
    ("flower", "fedavg", 1.0),
    ("flower", "fedmedian", 0.0),
)


def measure(engine: str, strategy: str, clipping_norm: float, clients: int) -> dict[str, Any]:
    """Run one case."""
    figures = run_simulation(
        {
            "engine.name": engine,
            "strategy.name": strategy,
            "strategy.clipping-norm": clipping_norm,
            "data.synthetic-groups": clients + HELD_OUT,
            "data.num-held-out-groups": HELD_OUT,
            "train.num-rounds": 2,
            "train.local-steps": 1,
            "evaluation.every": 2,
            "evaluation.num-draws": 1,
        }
    )
    return {
        "engine": engine,
        "strategy": strategy,
        "clipping_norm": clipping_norm,
        "clients": clients,
        "server_gb": figures["server_gb"],
        "all_processes_gb": figures["peak_gb"],
        "seconds_per_round": figures["seconds_per_round"],
    }


def main() -> None:
    """Measure all cases; print the table, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 128, 1024])
    parser.add_argument("--engines", nargs="+", default=["cohort", "flower"])
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    header = " | ".join(f"{clients:,} clients" for clients in arguments.clients)
    print(f"| engine | strategy | clipping norm | {header} | last / first |")
    print("| --- " * (4 + len(arguments.clients)) + "|")
    for engine, strategy, clipping_norm in CASES:
        if engine not in arguments.engines:
            continue
        cells = [measure(engine, strategy, clipping_norm, n) for n in arguments.clients]
        rows += cells
        sizes = " | ".join(f"{cell['server_gb']:.2f} GB" for cell in cells)
        ratio = cells[-1]["server_gb"] / cells[0]["server_gb"]
        print(f"| {engine} | {strategy} | {clipping_norm:g} | {sizes} | {ratio:.2f} |", flush=True)
        write_results(arguments.output, {"rows": rows})


if __name__ == "__main__":
    main()
