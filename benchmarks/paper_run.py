"""A whole run on the cohort engine, against the plain implementation extrapolated to its work.

The plain one (`PlainPredictor` of predictor.py, with all cores) is timed on episodes and targets of
the same run: some training steps, and a sample of target questions, one forward pass each.

    python benchmarks/paper_run.py conf/paper.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/paper_run.json
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import run_simulation, write_results
from predictor import PlainPredictor, plain_evaluate, plain_loss

from cli.settings import parse_settings
from task.config import RunConfig
from task.episodes import Split, make_episode
from task.evaluation import evaluation_splits
from task.features import load_group, load_roles
from task.training import training_splits

TIMED_STEPS, TIMED_TARGETS = 60, 200


def plain_step_seconds(config: RunConfig, device: str) -> float:
    """Return the plain implementation's mean seconds per training step, over all groups."""
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = [load_group(config, group) for group, role in roles.items() if role == "train"]
    model = PlainPredictor().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    seconds = []
    for server_round in range(1, 2 + TIMED_STEPS // len(groups)):
        for data in groups:
            ((split,),) = training_splits(data, config.train, 0, server_round, 1)
            started = time.perf_counter()
            episode = make_episode([(data, split)], device=device)
            lengths = data.answers.lengths[split.target].tolist()
            loss = plain_loss(model, episode, lengths)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return statistics.fmean(seconds[len(groups) :])  # the first pass warms up


def plain_target_seconds(config: RunConfig, device: str) -> tuple[float, int]:
    """Return the plain seconds per evaluated target question, and the targets per evaluation."""
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    splits = [
        (data, split)
        for group in roles
        for data in [load_group(config, group)]
        for split in evaluation_splits(data, config.evaluation, config.run.seed)
    ]
    total = sum(len(split.target) for _, split in splits)
    model = PlainPredictor().to(device)
    seconds, timed = 0.0, 0
    for data, split in splits:
        sample = split.target[:: max(1, total // TIMED_TARGETS)]
        started = time.perf_counter()
        plain_evaluate(model, data, Split(split.context, np.array(sample)), device)
        seconds += time.perf_counter() - started
        timed += len(sample)
    return seconds / timed, total


def main() -> None:
    """Time both, print the ratio, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    config = parse_settings(arguments.settings)
    step = plain_step_seconds(config, arguments.device)
    target, targets = plain_target_seconds(config, arguments.device)
    files = [text for text in arguments.settings if "=" not in text]
    given = dict(text.split("=", 1) for text in arguments.settings if "=" in text)
    ours = run_simulation({**given, "engine.name": "cohort"}, files)
    evaluations = sum("groups" in entry for entry in ours["rounds"])
    steps = config.train.num_rounds * config.train.local_steps * ours["clients_per_round"]
    plain = steps * step + evaluations * targets * target
    rounds = sum(entry["seconds"] for entry in ours["rounds"])
    figures: dict[str, Any] = {
        "settings": arguments.settings,
        "steps": steps,
        "evaluations": evaluations,
        "targets_per_evaluation": targets,
        "plain_seconds_per_step": step,
        "plain_seconds_per_target": target,
        "plain_seconds": plain,
        "our_rounds_seconds": rounds,
        "our_whole_run_seconds": ours["whole_run_seconds"],
        "ratio_whole_run": plain / ours["whole_run_seconds"],
        "held_out": ours["summary"]["held_out"]["model"],
        "gpu": ours["gpu"],
    }
    print(
        f"plain {plain:.1f} s ({steps} steps of {1e3 * step:.1f} ms, {evaluations} evaluations of "
        f"{targets} targets of {1e3 * target:.2f} ms)\nours {ours['whole_run_seconds']:.1f} s, "
        f"start to end ({rounds:.1f} s in rounds): {figures['ratio_whole_run']:.1f}x"
    )
    write_results(arguments.output, figures)


if __name__ == "__main__":
    main()
