"""A comparison's results, made up but shaped as the contract says and about as real ones lie."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from task.config import RunConfig

SEEDS = [0, 1, 2, 3, 4]
HELD_OUT = ("Brazil", "China", "France", "Japan", "New Zealand", "Spain")
TRAIN = (
    "Argentina",
    "Australia",
    "Canada",
    "Egypt",
    "Germany",
    "India (Current national sample)",
    "Nigeria",
    "United States",
)
METHODS = {  # label, kind, what it reads, final score, score before training
    "federated fedavg": ("Federated (FedAvg)", "federated", 0.790, 0.671),
    "federated fedprox": ("Federated (FedProx)", "federated", 0.787, 0.671),
    "centralized": ("Centralized, equal rounds", "centralized", 0.793, 0.671),
    "local": ("Local, each group alone", "local", 0.724, 0.671),
    "probe": ("Linear probe", "probe", 0.741, 0.741),
    "population mean": ("Population mean", "no-learning", 0.779, 0.779),
    "uniform": ("Uniform", "no-learning", 0.670, 0.670),
}
READS = {
    "federated": "Each client reads its own answers; the server reads parameters.",
    "centralized": "One machine reads the answers of all training groups.",
    "local": "A group's own context answers only.",
    "probe": "A group's own context answers only.",
    "no-learning": "None, or the training groups' answers as means.",
}


def interval(mean: float, half: float = 0.006, seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    per_seed = [mean + half * math.sin(3 * seed) for seed in seeds]
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": per_seed}


def learns(kind: str) -> bool:
    return kind not in ("no-learning", "probe")


def fake_results(
    held_out: Iterable[str] = HELD_OUT,
    train: Iterable[str] = TRAIN,
    missing: Iterable[str] = (),
    absent: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return results.json.

    Args:
        held_out: held-out groups.
        train: training groups.
        missing: cells that are named as missing.
        absent: methods without any result.
        settings: differences from the default settings.
    """
    random = np.random.default_rng(0)
    held_out, train = list(held_out), list(train)
    flat = {**RunConfig().to_flat(), "data.source": "global-opinions", **(settings or {})}
    there = {name: entry for name, entry in METHODS.items() if name not in set(absent)}
    table, curves, groups = {}, {}, {}
    for name, (_, kind, final, start) in there.items():
        speed = 14.0 if kind == "federated" else 22.0
        spent = learns(kind)
        table[name] = {
            role: role_metrics(final + shift, spent, speed)
            for role, shift in (("held_out", 0.0), ("train", 0.021))
        }
        table[name]["cost"] = {
            "rounds": interval(30, 0) if spent else None,
            "optimizer_steps": interval(180, 0) if spent else None,
            "episodes": interval(1440, 0) if spent else None,
            "seconds": interval(61.3, 2.5) if spent else None,
            "megabytes": interval(1320.5, 0) if kind == "federated" else None,
        }
        groups[name] = {
            group: {
                "role": role,
                "alignment_score": interval(final + shift + random.normal(0, 0.02), 0.009),
                "alignment_score_seen_questions": final + 0.03,
                "alignment_score_new_questions": final - 0.07 if role == "held-out" else None,
            }
            for role, names, shift in (("held-out", held_out, 0), ("train", train, 0.021))
            for group in names
        }
        if spent:
            curves[name] = [
                curve_point(r, kind, start, final, speed, groups[name]) for r in range(0, 31, 3)
            ]
    return {
        "settings": flat,
        "environment": {"python": "3.11.7", "cpus": 2, "gpus": [], "packages": {"torch": "2.13"}},
        "seeds": SEEDS,
        "folds": 0,
        "command": "pluralllm compare conf/global-opinions.toml --seeds 5",
        "missing_cells": list(missing),
        "num_groups": {"train": len(train), "held_out": len(held_out)},
        "methods": [
            {"name": name, "label": label, "kind": kind, "reads": READS[kind]}
            for name, (label, kind, _, _) in METHODS.items()
        ],
        "table": table,
        "curves": curves,
        "groups": groups,
        "paired": paired(there, len(held_out), len(train)),
        "paired_test": "Sign-flip permutation test over groups (means over seeds), two-sided; "
        "intervals by bootstrap over groups.",
        "few_shot": few_shot(there),
        "few_shot_note": "Held-out groups; the same 40 target questions of each, seed by seed.",
        "reliability": reliability(there),
        "claims": claims(),
    }


def role_metrics(score: float, spent: bool, speed: float) -> dict[str, Any]:
    return {
        "alignment_score": interval(score),
        "alignment_score_seen_questions": interval(score + 0.03),
        "alignment_score_new_questions": interval(score - 0.07),
        "worst_group": interval(score - 0.036),
        "gap": interval(0.07),
        "cov": interval(0.03 + (0.8 - score) / 5, 0.002),
        "fairness_index": interval(0.999 - (0.8 - score) / 20, 0.0004),
        "top_option_accuracy": interval(score - 0.2, 0.02),
        "calibration_error": interval(0.02 + (0.8 - score) / 3, 0.003),
        "rounds_to_95": interval(speed, 1.2) if spent else None,
        "steps_to_95": interval(6 * speed, 7) if spent else None,
        "rounds_to_95_of_gain": interval(speed + 6, 1.2) if spent else None,
        "steps_to_95_of_gain": interval(6 * speed + 36, 7) if spent else None,
    }


def curve_point(
    number: int, kind: str, start: float, final: float, speed: float, groups: Mapping[str, Any]
) -> dict[str, Any]:
    done = 1 - math.exp(-2.5 * number / speed)
    score = start + (final - start) * done
    return {
        "round": number,
        "optimizer_steps": 6 * number,
        "seconds": 2.04 * number,
        "megabytes": 44.0 * number if kind == "federated" else 0.0,
        "held_out": interval(score, 0.004 + 0.004 * done),
        "train": interval(score + 0.021 * done, 0.004),
        "groups": {
            group: start + (entry["alignment_score"]["mean"] - start) * done
            for group, entry in groups.items()
        },
    }


def paired(there: Mapping[str, Any], num_held_out: int, num_train: int) -> list[dict[str, Any]]:
    versus = "centralized"
    return [
        {
            "method": name,
            "versus": versus,
            "role": role,
            "difference": interval(entry[2] - METHODS[versus][2], 0.008),
            "p_value": 0.0313 if abs(entry[2] - METHODS[versus][2]) > 0.008 else 0.41,
            "num_groups": num_held_out if role == "held_out" else num_train,
            "num_seeds": 5,
        }
        for role in ("held_out", "train")
        for name, entry in there.items()
        if name != versus and versus in there
    ]


def few_shot(there: Mapping[str, Any]) -> dict[str, Any]:
    sizes = (0, 1, 2, 5, 10, 20, 50, 100)
    return {
        name: {
            str(n): interval(0.66 + (final - 0.64) * (1 - 1 / (1 + 0.35 * n)), 0.007) for n in sizes
        }
        for name, (_, kind, final, _) in there.items()
        if kind in ("federated", "centralized", "probe")
    }


def reliability(there: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [
            {
                "predicted": 0.05 + 0.1 * i,
                "true": min(1.0, max(0.0, 0.05 + 0.1 * i + 0.05 * math.sin(i + len(name)))),
                "options": 1500 - 140 * i,
            }
            for i in range(9)
        ]
        for name, (_, kind, _, _) in there.items()
        if kind != "no-learning"
    }


def claims() -> list[dict[str, Any]]:
    return [
        {
            "claim": "46 % faster convergence",
            "paper": "46 %",
            "versus": "centralized, equal rounds",
            "measured": {**interval(36.4, 6.1)},
            "unit": "% fewer rounds to 95 % of the final score",
            "verdict": "smaller than claimed",
            "explanation": "Federated training reaches 95 % of its final score sooner, by less "
            "than the paper reports.",
        },
        {
            "claim": "4 % higher alignment scores",
            "paper": "4 %",
            "versus": "centralized, equal rounds",
            "measured": interval(-0.38, 0.9),
            "unit": "% higher alignment score",
            "verdict": "not settled",
            "explanation": "The interval of the difference includes zero.",
        },
        {
            "claim": "Nearly the same group fairness",
            "paper": "FI within 0.01",
            "versus": "centralized, equal rounds",
            "measured": interval(-0.0002, 0.0005),
            "unit": "difference in fairness index",
            "verdict": "reproduced",
            "explanation": "Both fairness indices are above 0.998 and their difference is small.",
        },
    ]
