"""Held-out alignment score when every client is protected, by number of clients and epsilon.

Synthetic surveys of so many training groups, each a client, and 50 groups held out. Cohorts are
Poisson draws; the clipping norm follows the median; delta is 1 / clients^1.1. Differences are
paired by seed to the run without clipping and noise. The same command goes on where it was
interrupted.

    python benchmarks/client_privacy.py --output benchmarks/results/client_privacy.json
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
from task.accounting import ClientReleases
from task.calibration import calibrate
from task.config import RunConfig
from task.errors import RoundError
from task.settings import Scalar
from task.statistics import student_interval

HELD_OUT = 50
SETTINGS: dict[str, Scalar] = {  # a predictor that thousands of clients train in a minute
    "encoder.dimension": 32,
    "predictor.width": 32,
    "predictor.embedder-depth": 2,
    "predictor.num-layers": 2,
    "predictor.feedforward-width": 32,
    "train.num-rounds": 30,
    "train.local-steps": 2,
    "train.learning-rate": 0.02,
    "train.max-context": 20,
    "train.max-target": 20,
    "train.sampling": "poisson",
    "evaluation.num-draws": 1,
    "strategy.name": "fedavgm",
    "strategy.options": "server-momentum=0.8",
}


class Planned(NamedTuple):
    """A run: number of clients, epsilon (None: not private) and seed."""

    clients: int
    epsilon: float | None
    seed: int
    config: RunConfig


@cache
def multiplier_for(clients: int, cohort: int, rounds: int, delta: float, epsilon: float) -> float:
    """Return the noise multiplier for an epsilon."""

    def cost(multiplier: float) -> float:
        releases = ClientReleases(clients, cohort, "poisson", multiplier)
        return releases.epsilon(rounds, delta, "pld")

    return calibrate(cost, epsilon)


def plan(base: Mapping[str, Scalar], given: argparse.Namespace) -> Iterator[Planned]:
    """Yield all runs, seed after seed, small populations first."""
    for seed in range(given.seeds):
        for clients, cohort in zip(given.clients, given.cohorts, strict=True):
            flat = dict(base) | {
                "run.seed": seed,
                "data.synthetic-groups": clients + HELD_OUT,
                "data.num-held-out-groups": HELD_OUT,
                "train.clients-per-round": cohort,
            }
            config = RunConfig.from_flat(flat)
            yield Planned(clients, None, seed, config)
            delta = clients**-1.1
            for epsilon in given.epsilons:
                z = multiplier_for(clients, cohort, config.train.num_rounds, delta, epsilon)
                private = {
                    "privacy.unit": "client",
                    "privacy.delta": delta,
                    "privacy.noise-multiplier": z,
                    "strategy.clipping-norm": given.clipping_norm,
                    "privacy.clipping-quantile": 0.5,
                    "privacy.clipping-learning-rate": 0.5,
                }
                yield Planned(clients, epsilon, seed, RunConfig.from_flat(flat | private))


def measure(planned: Planned) -> dict[str, Any]:
    """Train and score in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(StringIO()):
        flat = planned.config.to_flat() | {"run.directory": str(Path(name) / "run")}
        try:
            simulate(RunConfig.from_flat(flat))
            failure = ""
        except RoundError as error:  # noise so large that parameters overflow
            failure = str(error)[:80]
        summary = read_json(Path(name) / "run" / "summary.json")
    return {
        "clients": planned.clients,
        "cohort": planned.config.train.clients_per_round,
        "epsilon": planned.epsilon,
        "seed": planned.seed,
        "delta": planned.config.privacy.delta if planned.epsilon else None,
        "noise_multiplier": planned.config.privacy.noise_multiplier,
        "spent": (summary["privacy"] or {}).get("epsilon"),
        "score": None if failure else summary["held_out"]["model"]["alignment_score"],
        "failure": failure,
        "uniform": summary["held_out"]["uniform"]["alignment_score"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def print_table(rows: Sequence[Mapping[str, Any]], given: argparse.Namespace) -> None:
    """Print means over seeds, and differences to the runs that are not private."""
    titles = ["clients", "a round", "epsilon", "delta", "noise multiplier", "seeds", "AS"]
    titles += ["difference", "uniform"]
    print(f"| {' | '.join(titles)} |\n{'| --- ' * len(titles)}|")
    for clients in given.clients:
        of_size = [row for row in rows if row["clients"] == clients]
        exact = {row["seed"]: row["score"] for row in of_size if row["epsilon"] is None}
        for epsilon in (None, *sorted(given.epsilons, reverse=True)):
            own = [row for row in of_size if row["epsilon"] == epsilon]
            if not own:
                continue
            ended = [row for row in own if row["score"] is not None]
            gains = [r["score"] - exact[r["seed"]] for r in ended if r["seed"] in exact]
            difference = f"{np.mean(gains):+.4f}" if epsilon and gains else ""
            if epsilon and len(gains) > 1:
                low, high = student_interval(gains)
                difference += f" [{low:+.4f}, {high:+.4f}]"
            if len(ended) < len(own):
                difference += f" ({len(own) - len(ended)} of {len(own)} overflow)"
            cells = [
                f"{clients:,}",
                f"{own[0]['cohort']:,}",
                f"{epsilon:g}" if epsilon else "none",
                f"{own[0]['delta']:.2g}" if epsilon else "",
                f"{own[0]['noise_multiplier']:.3f}",
                str(len(own)),
                f"{np.mean([row['score'] for row in ended]):.4f}" if ended else "-",
                difference,
                f"{np.mean([row['uniform'] for row in own]):.4f}",
            ]
            print("|", " | ".join(cells), "|")


def main() -> None:
    """Run what is not in the output file yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--clients", type=int, nargs="+", default=[14, 100, 1000, 10000])
    parser.add_argument("--cohorts", type=int, nargs="+", default=[14, 100, 200, 1000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[2.0, 8.0])
    parser.add_argument("--clipping-norm", type=float, default=4.0, help="to begin with")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args()
    changed = parse_settings(given.settings).to_flat().items() - RunConfig().to_flat().items()
    own = {"engine.name": "cohort", "engine.num-workers": 1, "engine.num-threads": 1}
    base = SETTINGS | dict(changed) | own | {"evaluation.every": 10_000}
    figures = {"settings": base, "clipping_norm": given.clipping_norm}
    rows = measure_missing(
        parser, given, figures, plan(base, given), ("clients", "epsilon", "seed"), measure
    )
    print_table(rows, given)


if __name__ == "__main__":
    main()
