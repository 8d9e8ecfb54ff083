"""Held-out alignment score when every answer of a group is protected, by epsilon.

Unit question: DP-SGD in the clients. Differences are paired by seed to the same training without
noise. The same command goes on where it was interrupted.

    python benchmarks/question_privacy.py conf/question-privacy.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/question_privacy.json
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import measure_missing

from cli.settings import parse_settings
from server_app.cohort import simulate
from server_app.run_directory import read_json
from task.calibration import calibrate
from task.config import RunConfig
from task.question_ledger import question_epsilon
from task.statistics import student_interval

PATHS = ("data.path", "encoder.name", "encoder.cache-directory", "run.directory")


class Planned(NamedTuple):
    """A run: an epsilon (None: no noise) with one seed."""

    epsilon: float | None
    seed: int
    config: RunConfig


@cache
def multiplier_for(epsilon: float, rate: float, steps: int, delta: float) -> float:
    """Return the noise multiplier for an epsilon."""
    return calibrate(lambda z: question_epsilon(z, rate, steps, delta, "pld"), epsilon)


def plan(config: RunConfig, given: argparse.Namespace) -> Iterator[Planned]:
    """Yield all runs, seed after seed, the one without noise first."""
    rate, delta = config.privacy.sample_rate, config.privacy.delta
    steps = config.train.num_rounds * config.train.local_steps
    own = {"engine.name": "cohort", "engine.num-workers": 1, "engine.num-threads": 1}
    for seed in range(given.seeds):
        for epsilon in (None, *given.epsilons):
            z = multiplier_for(epsilon, rate, steps, delta) if epsilon else 0.0
            flat = {"run.seed": seed, "privacy.noise-multiplier": z}
            yield Planned(epsilon, seed, RunConfig.from_flat(config.to_flat() | own | flat))


def measure(planned: Planned) -> dict[str, Any]:
    """Train and score in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(StringIO()):
        flat = planned.config.to_flat() | {"run.directory": str(Path(name) / "run")}
        summary = read_json(simulate(RunConfig.from_flat(flat)).path / "summary.json")
    held_out = summary["held_out"]
    return {
        "epsilon": planned.epsilon,
        "seed": planned.seed,
        "noise_multiplier": planned.config.privacy.noise_multiplier,
        "spent": summary["privacy"]["epsilon"],
        "score": held_out["model"]["alignment_score"],
        "uniform": held_out["uniform"]["alignment_score"],
        "population_mean": held_out["population_mean"]["alignment_score"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def print_table(rows: Sequence[Mapping[str, Any]], epsilons: Sequence[float]) -> None:
    """Print means over seeds, and differences to the runs without noise."""
    print("| epsilon | noise multiplier | AS | difference | uniform | population mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    exact = {row["seed"]: row["score"] for row in rows if row["epsilon"] is None}
    for epsilon in (None, *sorted(epsilons, reverse=True)):
        own = [row for row in rows if row["epsilon"] == epsilon]
        gains = [row["score"] - exact[row["seed"]] for row in own]
        difference = f"{np.mean(gains):+.4f}" if epsilon else ""
        if epsilon and len(gains) > 1:
            low, high = student_interval(gains)
            difference += f" [{low:+.4f}, {high:+.4f}]"
        means = [f"{np.mean([row[k] for row in own]):.4f}" for k in ("uniform", "population_mean")]
        score = f"{np.mean([row['score'] for row in own]):.4f}"
        z = f"{own[0]['noise_multiplier']:.3f}"
        print("|", " | ".join([f"{epsilon or 'none'}", z, score, difference, *means]), "|")


def main() -> None:
    """Run what is not in the output file yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[2.0, 8.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args()
    config = parse_settings(given.settings)
    figures = {"config": {k: v for k, v in config.to_flat().items() if k not in PATHS}}
    rows = measure_missing(
        parser, given, figures, plan(config, given), ("epsilon", "seed"), measure
    )
    print_table(rows, given.epsilons)


if __name__ == "__main__":
    main()
