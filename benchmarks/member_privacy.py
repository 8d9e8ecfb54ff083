"""Held-out alignment score when every respondent is protected, by epsilon.

Trains on noisy answer histograms (unit member) and scores the final predictor on the held-out
groups' true answers: with true context, and with the noisy one that a deployment has. Epsilon is of
one respondent at `privacy.delta`; differences are paired by seed to the run without noise. The same
command goes on where it was interrupted.

    python benchmarks/member_privacy.py conf/global-opinions.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/member_privacy.json
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import dp_accounting
import numpy as np
from dp_accounting import pld
from measure import measure_missing

from cli.settings import parse_settings
from server_app.cohort import simulate
from task.baselines import seen_question_keys
from task.config import RunConfig
from task.episodes import Split
from task.evaluation import evaluation_splits, predict_with, score_splits
from task.features import GroupData, load_group, load_roles
from task.privacy_config import PrivacyConfig
from task.respondent_accounting import member_epsilon, most_answered, release_event
from task.saved_predictor import load_predictor
from task.sources import load_asked
from task.statistics import student_interval

PATHS = ("data.path", "encoder.name", "encoder.cache-directory", "run.directory")
CONTEXTS = ("true context", "noisy context")


class Planned(NamedTuple):
    """A run: an epsilon (None: no noise) with one seed."""

    epsilon: float | None
    seed: int
    config: RunConfig


@cache
def multiplier_for(privacy: PrivacyConfig, epsilon: float, numbers: tuple[int, ...]) -> float:
    """Return the noise multiplier for an epsilon, enough for groups of so many questions."""
    fewest = min(most_answered(privacy, number) for number in numbers)  # costs most, if any does
    lowest = 0.3 if privacy.histogram_noise == "gaussian" else 0.02  # far below takes long
    z: float = dp_accounting.calibrate_dp_mechanism(
        pld.PLDAccountant,
        lambda z: release_event(replace(privacy, noise_multiplier=z), fewest),
        epsilon,
        privacy.delta,
        dp_accounting.ExplicitBracketInterval(lowest, 100.0),
        tol=1e-4,
    )
    if (spent := member_epsilon(replace(privacy, noise_multiplier=z), numbers)) > epsilon:
        raise ArithmeticError(f"Noise multiplier {z}: epsilon {spent}, not {epsilon}.")
    return z


def plan(config: RunConfig, given: argparse.Namespace) -> Iterator[Planned]:
    """Yield all runs, seed after seed, the one without noise first."""
    for seed in range(config.run.seed, config.run.seed + given.seeds):
        flat = config.to_flat() | {"run.seed": seed, "evaluation.every": config.train.num_rounds}
        flat |= {"engine.name": "cohort", "engine.num-workers": 1, "engine.num-threads": 1}
        yield Planned(None, seed, exact := RunConfig.from_flat(flat | {"privacy.unit": "none"}))
        flat |= {"privacy.unit": "member", "privacy.respondents": given.respondents}
        privacy = RunConfig.from_flat(flat).privacy
        asked = load_asked(exact.data, seed).answers
        roles = load_roles(exact.data, exact.evaluation, seed)
        numbers = tuple(len(asked[group]) for group in roles)
        for epsilon in given.epsilons:
            z = multiplier_for(privacy, epsilon, numbers)
            flat |= {"privacy.noise-multiplier": z}
            yield Planned(epsilon, seed, RunConfig.from_flat(flat))


def held_out_scores(config: RunConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Score a run's final predictor on the held-out groups' true answers, by kind of context."""
    predictor = load_predictor(folder, "final")
    predict = predict_with(predictor, predictor.prior)
    exact = replace(config, privacy=PrivacyConfig())
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = {group: load_group(exact, group) for group in roles}
    seen = seen_question_keys({g: data.question_keys for g, data in groups.items()}, roles)
    scores: dict[str, dict[str, float]] = {context: {} for context in CONTEXTS}
    for group, data in groups.items():
        if data.role != "held-out":
            continue
        splits = evaluation_splits(data, config.evaluation, config.run.seed)
        for context, known in zip(CONTEXTS, (data, load_group(config, group)), strict=True):

            def predicted(_: GroupData, split: Split, known: GroupData = known) -> Any:
                return predict(known, split)

            scored = score_splits(predicted, data, splits, seen["held-out"])
            scores[context][group] = scored.all.value
    return scores


def measure(planned: Planned) -> dict[str, Any]:
    """Train and score in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(StringIO()):
        run = replace(planned.config.run, directory=str(Path(name) / "run"))
        config = replace(planned.config, run=run)
        scores = held_out_scores(config, simulate(config).path)
    return {
        "epsilon": planned.epsilon,
        "seed": planned.seed,
        "noise_multiplier": planned.config.privacy.noise_multiplier,
        "scores": scores,
        "seconds": time.perf_counter() - started,
    }


def cells(rows: Sequence[Mapping[str, Any]], epsilon: float | None, context: str) -> list[str]:
    """Return the mean over seeds of the groups' mean score, and its difference to no noise."""
    means = {
        (row["epsilon"], row["seed"]): float(np.mean(list(row["scores"][context].values())))
        for row in rows
    }
    own = {seed: mean for (of, seed), mean in means.items() if of == epsilon}
    gains = [mean - means[None, seed] for seed, mean in own.items() if (None, seed) in means]
    score = f"{np.mean(list(own.values())):.4f}" if own else "-"
    if epsilon is None or not gains:
        return [score, ""]
    difference = f"{np.mean(gains):+.4f}"
    if len(gains) > 1:
        low, high = student_interval(gains)
        difference += f" [{low:+.4f}, {high:+.4f}]"
    return [score, difference]


def main() -> None:
    """Run what is not in the output file yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--respondents", type=int, default=1000, help="0: the survey has counts")
    parser.add_argument("--seeds", type=int, default=5, help="from run.seed upwards")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args()
    config = parse_settings(given.settings)
    known = {k: v for k, v in config.to_flat().items() if k not in PATHS}
    figures = {"config": known, "respondents": given.respondents}
    rows = measure_missing(
        parser, given, figures, plan(config, given), ("epsilon", "seed"), measure
    )
    titles = ["epsilon", "noise multiplier"]
    titles += [title for context in CONTEXTS for title in (context, "difference")]
    print(f"| {' | '.join(titles)} |\n{'| --- ' * len(titles)}|")
    for epsilon in (None, *sorted(given.epsilons, reverse=True)):
        z = max((row["noise_multiplier"] for row in rows if row["epsilon"] == epsilon), default=0)
        start = ["none", "0"] if epsilon is None else [f"{epsilon:g}", f"{z:.3f}"]
        scored = [text for context in CONTEXTS for text in cells(rows, epsilon, context)]
        print("|", " | ".join(start + scored), "|")


if __name__ == "__main__":
    main()
