"""Milliseconds per client and local step by stack size, beside the size that is chosen.

python benchmarks/stack_size.py --output benchmarks/results/stack_size.json
"""

import argparse
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from measure import write_results

from task.cohort import Cohort, Start, TrainTask
from task.config import RunConfig
from task.features import feature_sums, load_group, load_roles
from task.predictor import PreferencePredictor

CLIENTS = 64
SIZES = (1, 2, 4, 8, 16, 32, 64)
WIDTHS = (16, 32, 64, 128)
QUESTIONS = (3, 10, 25)  # mean number of context, and of target, questions
STEPS = 2


def config_of(width: int, questions: int, size: int) -> RunConfig:
    """Return the settings of one cell."""
    return RunConfig.from_flat(
        {
            "data.synthetic-groups": CLIENTS + 2,
            "data.num-held-out-groups": 2,
            "predictor.width": width,
            "predictor.feedforward-width": width,
            "predictor.num-layers": 4,
            "train.local-steps": STEPS,
            "train.min-context": questions // 2,
            "train.max-context": questions * 3 // 2,
            "train.min-target": questions // 2,
            "train.max-target": questions * 3 // 2,
            "engine.stack-size": size,
        }
    )


def milliseconds(width: int, questions: int, size: int, device: torch.device) -> float:
    """Return the best of three rounds, per client and step; one thread."""
    config = config_of(width, questions, size)
    roles = load_roles(config.data, config.evaluation, 0)
    clients = [load_group(config, group) for group, role in roles.items() if role == "train"]
    sums = reduce(add, (feature_sums(data) for data in clients))
    predictor = PreferencePredictor.initial(config.predictor, sums, {}, 0)
    start = Start(
        {name: p.detach() for name, p in predictor.named_parameters()},
        predictor.feature_mean,
        predictor.feature_std,
    )
    cohort = Cohort(config, device, num_threads=1)
    task = TrainTask(config.train.learning_rates(1), 1)
    stacks = [[clients[k] for k in stack] for stack in cohort.stacks(clients)]
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        cohort.train(start, task, stacks)
        seconds.append(time.perf_counter() - started)
    return 1e3 * min(seconds[1:]) / (CLIENTS * STEPS)


def main() -> None:
    """Print one row per width and number of questions, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    rows: list[dict[str, Any]] = []
    print(f"| width | questions | {' | '.join(f'{size} at once' for size in SIZES)} | chosen |")
    print("| --- " * (len(SIZES) + 3) + "|")
    for width in WIDTHS:
        for questions in QUESTIONS:
            times = [milliseconds(width, questions, size, device) for size in SIZES]
            config = config_of(width, questions, 0)
            roles = load_roles(config.data, config.evaluation, 0)
            clients = [load_group(config, g) for g, role in roles.items() if role == "train"]
            chosen = len(Cohort(config, device, 1).stacks(clients)[0])
            cells = " | ".join(f"{each:.2f}" for each in times)
            print(f"| {width} | {questions} | {cells} | {chosen} |", flush=True)
            rows.append(
                {
                    "width": width,
                    "questions": questions,
                    "milliseconds": dict(zip(map(str, SIZES), times, strict=True)),
                    "chosen": chosen,
                }
            )
    write_results(arguments.output, {"rows": rows})


if __name__ == "__main__":
    main()
