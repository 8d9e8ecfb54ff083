"""A comparison's results: everything that its table and its report show, from its cells."""

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison import plan
from comparison.cells import CellResult, CellStore
from comparison.claims import judge_claims
from comparison.figures import ROLES, MethodFigures, interval
from comparison.privacy import largest, privacy_note, whose_noise
from comparison.versus_first import versus_first
from server_app.run_directory import read_json
from task.config import parse_override
from task.errors import RunDirectoryError
from task.evaluation import FEWEST_TARGETS
from task.statistics import PAIRED_TEST, paired_interval, two_way_p_value

MANIFEST = "comparison.json"
_MANIFEST_KEYS = (
    *("settings", "environment", "command", "methods", "seeds", "folds", "num_groups"),
    *("intervals", "cells"),
)

_POOLED = "One place reads the answers of all training groups."

_DISCLOSED = "Training groups also send their answers once, for sums that all are sent."

KINDS = {
    plan.FEDERATED: ("federated", "Each group reads its own answers; parameters are sent."),
    plan.CENTRALIZED_ROUNDS: ("centralized", _POOLED),
    plan.CENTRALIZED_STEPS: ("centralized", _POOLED),
    plan.LOCAL: ("local", "Each group reads its own answers; nothing is sent."),
    plan.LINEAR_PROBE: ("probe", _POOLED),
    plan.MLP_PROBE: ("probe", _POOLED),
    plan.POPULATION_MEAN: ("no-learning", _POOLED),
    plan.UNIFORM: ("no-learning", "Nobody's answers are read."),
}
"""Method to its kind, and who reads whose answers."""

LABELS = {
    plan.CENTRALIZED_ROUNDS: "Centralized, equal rounds",
    plan.CENTRALIZED_STEPS: "Centralized, equal steps",
    plan.LOCAL: "Local",
    plan.LINEAR_PROBE: "Linear probe",
    plan.MLP_PROBE: "MLP probe",
    plan.POPULATION_MEAN: "Population mean",
    plan.UNIFORM: "Uniform",
}


def load_results(directory: Path) -> dict[str, Any]:
    """Return the results of a comparison, from the cells that are there.

    Keys: `settings`, `environment`, `command`, `seeds`, `folds`, `missing_cells`, `num_groups`,
    `methods`, `table`, `curves`, `groups`, `paired`, `paired_test`, `versus_first`, `few_shot`,
    `few_shot_note`, `reliability`, `claims`, `privacy` and `privacy_note`.

    Raises:
        RunDirectoryError: the directory is no comparison, or a file is damaged.
    """
    manifest = _read_manifest(directory)
    store = CellStore(directory)
    by_method: dict[str, dict[int, list[CellResult]]] = {}
    missing = []
    for cell in manifest["cells"]:
        if store.has(cell["key"]):
            seeds = by_method.setdefault(cell["method"], {})
            seeds.setdefault(cell["seed"], []).append(store.read(cell["key"]))
        else:
            missing.append(f"{cell['method']}, seed {cell['seed']}, fold {cell['fold']}")
    # With a fold missing a seed is about other groups than the others: it waits for that.
    folds = max(1, manifest["folds"])
    complete = {
        method: {seed: results for seed, results in seeds.items() if len(results) == folds}
        for method, seeds in by_method.items()
    }
    intervals = bool(manifest["intervals"])
    figures = {
        method: MethodFigures(complete[method], intervals=intervals)
        for method in manifest["methods"]
        if complete.get(method)
    }
    return {
        **{key: manifest[key] for key in ("settings", "environment", "command")},
        **{key: manifest[key] for key in ("seeds", "folds", "num_groups")},
        "missing_cells": missing,
        "methods": [describe_method(m, manifest["settings"]) for m in manifest["methods"]],
        "table": {method: each.table() for method, each in figures.items()},
        "curves": {m: curve for m, each in figures.items() if (curve := each.curve())},
        "groups": {method: each.groups() for method, each in figures.items()},
        "paired": _paired(complete, intervals),
        "paired_test": PAIRED_TEST,
        "versus_first": versus_first(manifest["methods"], complete, intervals=intervals),
        "few_shot": {m: sizes for m, each in figures.items() if (sizes := each.few_shot())},
        "few_shot_note": (
            "Held-out groups that keep at least "
            f"{FEWEST_TARGETS} questions besides the largest context; the targets are the same "
            "for all context sizes."
        ),
        "reliability": {method: each.reliability() for method, each in figures.items()},
        "claims": _claims(figures, complete, intervals),
        "privacy": {
            method: found
            for method in figures
            if (found := largest(cell.privacy for cell in chain(*complete[method].values())))
        },
        "privacy_note": privacy_note(manifest["settings"]),
    }


def _read_manifest(directory: Path) -> dict[str, Any]:
    """Read `comparison.json`.

    Raises:
        RunDirectoryError: there is none, or it is damaged.
    """
    file = directory / MANIFEST
    if not file.is_file():
        raise RunDirectoryError(
            f"{directory} is no comparison: there is no {MANIFEST} in it. Give a directory that "
            "`pluralllm compare` has written."
        )
    manifest = read_json(file)
    if not isinstance(manifest, dict) or not set(_MANIFEST_KEYS) <= set(manifest):
        raise RunDirectoryError(
            f"{file} is no comparison's manifest: expected the keys {', '.join(_MANIFEST_KEYS)}. "
            "Run the comparison again, which writes it anew and keeps finished cells."
        )
    return manifest


def federated_run(directory: Path) -> Path | None:
    """Return the run directory of the first finished federated cell; None: there is none."""
    store = CellStore(directory)
    for cell in read_json(directory / MANIFEST)["cells"]:
        if cell["method"].startswith(plan.FEDERATED) and store.has(cell["key"]):
            return store.run_folder(cell["key"])
    return None


def describe_method(method: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the entry of `methods`: name, label, kind, and who reads whose answers.

    Args:
        method: see `comparison.plan.Cell`.
        settings: those that all methods share.
    """
    name, *strategy = method.split()
    kind, reads = KINDS[name]
    label = LABELS.get(name) or f"Federated ({', '.join(map(_short, strategy))})"
    own = {**settings, **dict(parse_override(word) for word in strategy[1:])}
    if name == plan.FEDERATED and own.get("predictor.population-weight"):
        reads = f"{reads} {_DISCLOSED}"
    if name != plan.UNIFORM and (noise := whose_noise(kind, str(own.get("privacy.unit", "none")))):
        reads = f"{reads} {noise}"
    return {"name": method, "label": label, "kind": kind, "reads": reads}


def _short(word: str) -> str:
    """Return `width=64` for `predictor.width=64`, and `file.py:Class` without its folders."""
    key, separator, value = word.partition("=")
    if separator:
        return f"{key.rsplit('.', 1)[-1]}={value}"
    return word.rsplit("/", 1)[-1]


def _paired(
    by_method: Mapping[str, Mapping[int, list[CellResult]]], intervals: bool
) -> list[dict[str, Any]]:
    """Compare every method with both centralized ones, over the seeds and groups they share."""
    entries = []
    for versus in (plan.CENTRALIZED_ROUNDS, plan.CENTRALIZED_STEPS):
        for method, results in by_method.items():
            others = by_method.get(versus, {})
            seeds = sorted(set(results) & set(others))
            if method == versus or not seeds:
                continue
            ours, theirs = (
                MethodFigures({seed: of[seed] for seed in seeds}, intervals=False)
                for of in (results, others)
            )
            for key, role in ROLES.items():
                rows = []
                for index in range(len(seeds)):
                    one, other = ours.scores(index, role), theirs.scores(index, role)
                    rows.append({g: one[g].all.value - other[g].all.value for g in one})
                if groups := sorted(set.intersection(*map(set, rows))):
                    differences_SG = np.array([[row[group] for group in groups] for row in rows])
                    named = {"method": method, "versus": versus, "role": key}
                    entries.append(named | _difference(differences_SG, intervals))
    return entries


def _difference(differences_SG: NDArray[np.float64], intervals: bool) -> dict[str, Any]:
    """Return mean, interval and p value of paired differences, and how many there are."""
    num_seeds, num_groups = differences_SG.shape
    difference = interval(differences_SG.mean(1).tolist(), intervals=False)
    p_value = None
    if intervals and min(num_seeds, num_groups) > 1:
        low, high = paired_interval(differences_SG)
        difference |= {"low": low, "high": high}
        p_value = two_way_p_value(differences_SG)
    return {
        "difference": difference,
        "p_value": p_value,
        "num_groups": num_groups,
        "num_seeds": num_seeds,
    }


def _claims(
    figures: Mapping[str, MethodFigures],
    by_method: Mapping[str, Mapping[int, list[CellResult]]],
    intervals: bool,
) -> list[dict[str, Any]]:
    """Judge the paper's claims by the first federated method, over the seeds that all share.

    One that changes more than how clients are aggregated would not be compared like with like.
    """
    first = next((method for method in figures if plan.differs_in_strategy_alone(method)), None)
    versus = [m for m in (plan.CENTRALIZED_ROUNDS, plan.CENTRALIZED_STEPS) if m in figures]
    if first is None or not versus:
        return []
    seeds = sorted(set.intersection(*(set(by_method[m]) for m in (first, *versus))))
    per_seed = {
        method: MethodFigures(
            {seed: by_method[method][seed] for seed in seeds}, intervals=False
        ).per_seed("held-out")
        for method in (first, *versus)
    }
    if not seeds or any(
        math.isnan(value)
        for metrics in per_seed.values()
        for value in metrics.get("rounds_to_95", [math.nan])
    ):
        return []
    return judge_claims(
        per_seed[first],
        {LABELS[method]: per_seed[method] for method in versus},
        intervals=intervals and len(seeds) > 1,
    )
