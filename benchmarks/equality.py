"""Parameters after five rounds: Flower's Ray engine against the cohort engine, per strategy.

Groups are ragged: the survey's own (give conf/x.toml and key=value), or 200 synthetic ones of which
each has answered between a third of the questions and all of them (2 layers and 2 local steps).

    python benchmarks/equality.py --output benchmarks/results/equality.json
    python benchmarks/equality.py conf/global-opinions.toml data.path=... encoder.name=...
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measure import write_results
from safetensors.torch import load_file

from task.config import DataConfig, RunConfig
from task.seeding import generator
from task.sources import load_survey

ROUNDS = 5
STRATEGIES: dict[str, list[str]] = {
    "fedavg": [],
    "fedprox": ["strategy.proximal-mu=0.1"],
    "fedmedian": [],
    "qfedavg": [],
}


def write_ragged_survey(file: Path, groups: int) -> None:
    """Write a synthetic survey in which groups have answered different numbers of questions."""
    survey = load_survey(RunConfig(data=DataConfig(synthetic_groups=groups)))
    rows = []
    for group, answers in survey.answers.items():
        random = generator(0, "ragged", group)
        kept = random.permutation(len(answers))[: random.integers(len(answers) // 3, len(answers))]
        for position in kept:
            question = survey.questions[answers.questions[position]]
            start, length = answers.starts[position], answers.lengths[position]
            for option, share in zip(
                question.options, answers.shares[start : start + length], strict=True
            ):
                rows.append((group, question.text, option, float(share)))
    columns = ["group", "question", "option", "share"]
    pd.DataFrame(rows, columns=columns).to_parquet(file)


def parameters_of(engine: str, settings: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """Train with an engine; return the final parameters."""
    command = [str(Path(sys.executable).with_name("pluralllm")), "run", *settings]
    command += [f"engine.name={engine}", f"train.num-rounds={ROUNDS}"]
    command += [f"evaluation.every={ROUNDS}", f"run.directory={folder}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return load_file(folder / "predictor-final" / "model.safetensors")


def compare(strategy: str, settings: list[str]) -> dict[str, Any]:
    """Return the largest difference of a parameter tensor, relative to its norm."""
    chosen = [*settings, f"strategy.name={strategy}", *STRATEGIES[strategy]]
    with tempfile.TemporaryDirectory() as folder:
        flower = parameters_of("flower", chosen, Path(folder) / "flower")
        cohort = parameters_of("cohort", chosen, Path(folder) / "cohort")
    differences = {
        name: float((flower[name] - cohort[name]).norm() / flower[name].norm().clamp(min=1e-12))
        for name in flower
    }
    return {
        "strategy": strategy,
        "largest_relative_difference": max(differences.values()),
        "bit_for_bit": all(torch.equal(flower[name], cohort[name]) for name in flower),
    }


def main() -> None:
    """Compare all strategies; print a row each, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = arguments.settings
        if not settings:
            file = Path(folder) / "ragged.parquet"
            write_ragged_survey(file, arguments.groups)
            settings = ["data.source=table", f"data.path={file}", "evaluation.num-context=10"]
            settings += ["predictor.num-layers=2", "train.local-steps=2"]
        print("| strategy | largest relative difference | bit for bit |\n| --- | --- | --- |")
        for strategy in arguments.strategies:
            row = compare(strategy, settings)
            rows.append(row)
            print(
                f"| {strategy} | {row['largest_relative_difference']:.1e} |"
                f" {'yes' if row['bit_for_bit'] else 'no'} |",
                flush=True,
            )
            write_results(arguments.output, {"settings": arguments.settings, "rows": rows})


if __name__ == "__main__":
    main()
