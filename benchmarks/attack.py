"""What attacks prove about each privacy unit: lower bounds of epsilon beside what is promised.

Unit client: canaries with random answers to questions of their own train or not by seeded coins;
the attacks of `canaries.py` guess which did, by its loss under the final predictor, by the product
of its first update with the change over the run, and by all its updates with what all rounds
released. Unit question: the same of a group's episodes, by its update. Unit member: from noisy
histograms, is one more respondent in them? A bound above the promised epsilon would be a mistake; a
bound below proves no more than that this attack fails.

    python benchmarks/attack.py --output benchmarks/results/attack.json
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import canary_questions
import numpy as np
import pandas as pd
from canaries import train_and_score
from measure import write_results

from cli.settings import parse_settings
from task.accounting import ClientReleases
from task.audit import (
    area_under_curve,
    count_correct,
    epsilon_lower_bound,
    loss_threshold_attack,
)
from task.calibration import calibrate
from task.config import RunConfig
from task.privacy_config import PrivacyConfig
from task.question_ledger import question_epsilon
from task.respondent_accounting import member_epsilon
from task.seeding import derive_seed
from task.sources import load_survey

DEFAULTS = (
    "data.synthetic-groups=16",
    "data.synthetic-questions=200",
    "data.synthetic-answered=12",
    "encoder.dimension=32",
    "predictor.width=32",
    "predictor.num-layers=1",
    "predictor.feedforward-width=32",
    "predictor.embedder-depth=2",
    "train.num-rounds=12",
    "train.local-steps=6",
    "train.learning-rate=0.005",
    "train.schedule=constant",
    "train.min-context=1",
    "train.max-context=3",
    "train.min-target=8",
    "train.max-target=10",
    "train.min-valid-fraction=0.01",
    "evaluation.num-context=3",
    "privacy.metrics=off",
    "engine.num-workers=1",
)
CLIPPING_NORM = 0.5
EPSILONS = (None, 16.0, 8.0, 2.0)  # None: without noise and clipping
MEMBER_EPSILONS = (None, 8.0, 2.0)
QUESTION_NOISES = (0.0, 0.65, 1.0, 3.0)
UNITS = ("client", "question", "member")
ATTACKS = ("loss", "update", "rounds")
RESPONDENTS = 400
MEMBER_QUESTIONS = 4
TRIALS_PER_SURVEY = 2000
QUESTION_CANARIES, QUESTION_RUNS = 32, 12
PATHS = ("data.path", "encoder.name", "encoder.cache-directory", "run.directory")
Row = dict[str, Any]


def private(config: RunConfig, epsilon: float | None, num_clients: int) -> RunConfig:
    """Return the settings that make a run private at that epsilon; None: without noise."""
    if epsilon is None:
        return config

    def cost(multiplier: float) -> float:
        releases = ClientReleases(num_clients, 0, "without-replacement", multiplier)
        return releases.epsilon(config.train.num_rounds, config.privacy.delta)

    flat = config.to_flat() | {"privacy.unit": "client", "strategy.clipping-norm": CLIPPING_NORM}
    return RunConfig.from_flat(flat | {"privacy.noise-multiplier": calibrate(cost, epsilon)})


def audit_clients(
    config: RunConfig, epsilon: float | None, num_canaries: int, seeds: Sequence[int]
) -> Iterator[Row]:
    """Attack runs of several seeds; yield a row for each attack.

    Guesses are about half of the canaries, as is fixed here. Runs have coins of their own, so that
    the guesses of all are those about one mechanism.
    """
    config = private(config, epsilon, num_canaries + config.data.synthetic_groups)
    num_guesses, correct = num_canaries // 2, dict.fromkeys(ATTACKS, 0)
    areas: dict[str, list[float]] = {name: [] for name in ATTACKS}
    for seed in seeds:
        seeded = RunConfig.from_flat(config.to_flat() | {"run.seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            scores, coins_m = train_and_score(seeded, num_canaries, Path(folder))
        for name in ATTACKS:
            correct[name] += count_correct(scores[name], coins_m, num_guesses)
            areas[name].append(area_under_curve(scores[name][coins_m], scores[name][~coins_m]))
    delta, number = config.privacy.delta, len(seeds)
    for name in ATTACKS:
        yield {
            "unit": "client",
            "epsilon": epsilon,
            "delta": delta,
            "noise_multiplier": config.privacy.noise_multiplier,
            "attack": name,
            "canaries": num_canaries * number,
            "guesses": num_guesses * number,
            "correct": correct[name],
            "area": float(np.mean(areas[name])),
            "bound": epsilon_lower_bound(
                num_guesses * number, correct[name], delta, num_canaries=num_canaries * number
            ),
        }


def audit_questions(config: RunConfig, multiplier: float, seed: int) -> Iterator[Row]:
    """Attack one round of a group with several seeds; yield a row. Guesses: see `audit_clients`.

    Epsilon is computed for a noise multiplier, and not the other way round: PRV takes long.
    """
    privacy, steps, epsilon = config.privacy, config.train.local_steps, None
    delta = privacy.delta
    flat = config.to_flat() | {"privacy.unit": "question", "privacy.noise-multiplier": multiplier}
    if multiplier:
        accounted = (multiplier, privacy.sample_rate, steps, delta, privacy.accountant)
        epsilon = question_epsilon(*accounted)
    else:
        flat["privacy.gradient-clipping-norm"] = 1e6
    num_guesses, correct, areas = QUESTION_CANARIES // 2, 0, []
    for of_run in range(seed, seed + QUESTION_RUNS):
        seeded = RunConfig.from_flat(flat | {"run.seed": of_run})
        with tempfile.TemporaryDirectory() as folder:
            scores, coins_m = canary_questions.train_and_score(
                seeded, QUESTION_CANARIES, Path(folder)
            )
        correct += count_correct(scores, coins_m, num_guesses)
        areas.append(area_under_curve(scores[coins_m], scores[~coins_m]))
    guesses, canaries = num_guesses * QUESTION_RUNS, QUESTION_CANARIES * QUESTION_RUNS
    yield {
        "unit": "question",
        "epsilon": epsilon,
        "delta": delta,
        "noise_multiplier": multiplier,
        "attack": "update",
        "canaries": canaries,
        "guesses": guesses,
        "correct": correct,
        "area": float(np.mean(areas)),
        "bound": epsilon_lower_bound(guesses, correct, delta, num_canaries=canaries),
    }


def audit_members(epsilon: float | None, num_trials: int, seed: int) -> Iterator[Row]:
    """Guess from released histograms whether a respondent is in them; yield a row.

    Each group of a survey is a trial: the same respondents, and in every other group one more, who
    chose the rarest option of every question. The attacker knows all of them, and the noise.
    """
    delta, multiplier = PrivacyConfig().delta, 0.0
    if epsilon is not None:
        multiplier = calibrate(
            lambda z: member_epsilon(
                PrivacyConfig(unit="member", noise_multiplier=z), [MEMBER_QUESTIONS]
            ),
            epsilon,
        )
    scores: tuple[list[float], list[float]] = ([], [])  # of members, and of others
    with tempfile.TemporaryDirectory() as folder:
        write_histograms(file := Path(folder) / "counts.parquet", TRIALS_PER_SURVEY)
        flat = {"data.source": "table", "data.path": str(file), "privacy.unit": "member"}
        for part in range(-(-2 * num_trials // TRIALS_PER_SURVEY)):
            own = {
                "privacy.noise-multiplier": multiplier,
                "run.seed": derive_seed(seed, "trials", part),
            }
            answers = load_survey(RunConfig.from_flat(flat | own)).answers
            for trial in range(TRIALS_PER_SURVEY):
                released = answers[str(trial)]
                rarest = [float(released.distribution(q)[0]) for q in range(len(released))]
                scores[trial % 2].append(sum(rarest))
    attack = loss_threshold_attack(*scores, delta)
    yield {
        "unit": "member",
        "epsilon": epsilon,
        "delta": delta,
        "noise_multiplier": multiplier,
        "attack": "histogram",
        "canaries": len(scores[0]) + len(scores[1]),
        "balanced_accuracy": attack.balanced_accuracy,
        "true_positive_rates": attack.true_positive_rates,
        "area": attack.area,
        "bound": attack.epsilon,
    }


def write_histograms(file: Path, num_groups: int) -> None:
    """Write groups of the same respondents; every other group, from the first, has one more.

    A tenth of them, and the one more, chose a question's first option.
    """
    rows = [
        (str(group), f"Question {question}?", f"Option {option}", round(RESPONDENTS * share))
        for group in range(num_groups)
        for question in range(MEMBER_QUESTIONS)
        for option, share in enumerate((0.1, 0.9))
    ]
    frame = pd.DataFrame(rows, columns=["group", "question", "option", "count"])
    chosen = (frame["group"].astype(int) % 2 == 0) & (frame["option"] == "Option 0")
    frame.loc[chosen, "count"] += 1
    frame.to_parquet(file)


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the table."""
    epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:.3g}"
    right = f"{row['correct']} of {row['guesses']}" if "correct" in row else ""
    right = right or f"{row['balanced_accuracy']:.1%}"
    cells = [row["unit"], epsilon, f"{row['noise_multiplier']:.3g}", row["attack"]]
    cells += [f"{row['canaries']:,}", right, f"{row['area']:.3f}", f"{row['bound']:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Attack every setting; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument(
        "--units", nargs="+", choices=UNITS, default=UNITS, help="others' rows stay"
    )
    parser.add_argument("--canaries", type=int, default=96, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs, from run.seed upwards")
    parser.add_argument("--trials", type=int, default=8000, help="unit member: of each kind")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    given = parser.parse_args()
    config = parse_settings([*DEFAULTS, *given.settings])
    if config.privacy.unit != "none" or config.data.source != "synthetic":
        parser.error("expected data.source = synthetic and no privacy.unit, which is set here")
    if config.train.clients_per_round:
        parser.error("expected all clients in each round")
    seeds = range(config.run.seed, config.run.seed + given.seeds)
    known = {k: v for k, v in config.to_flat().items() if k not in PATHS}
    figures = {"seeds": list(seeds), "clipping_norm": CLIPPING_NORM, "config": known}
    rows: list[dict[str, Any]] = []
    if given.output and given.output.exists():
        found = json.loads(given.output.read_text())
        if found | figures != found:
            parser.error(f"{given.output} has results of other settings")
        rows = [row for row in found["rows"] if row["unit"] not in given.units]
    audits = {
        "client": [audit_clients(config, e, given.canaries, seeds) for e in EPSILONS],
        "question": [audit_questions(config, z, config.run.seed) for z in QUESTION_NOISES],
        "member": [audit_members(e, given.trials, config.run.seed) for e in MEMBER_EPSILONS],
    }
    for unit in given.units:
        for row in chain.from_iterable(audits[unit]):
            rows.append(row)
            print(json.dumps(row), flush=True)
        rows.sort(key=lambda row: UNITS.index(row["unit"]))
        write_results(given.output, {**figures, "rows": rows})
    print("| unit | epsilon | noise | attack | canaries | right | AUC | bound (95 %) |")
    print(f"{'| --- ' * 8}|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
