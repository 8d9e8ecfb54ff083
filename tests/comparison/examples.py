"""Small plans, and results made by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comparison.cells import CellResult, CellStore, Point
from comparison.plan import Cell, Plan
from comparison.results import MANIFEST
from task.config import RunConfig
from task.metrics import NUM_BINS, Calibration, GroupScores, Mean
from tests.server_app.in_process_grid import tiny_config

FAST = ("population-mean", "uniform")


def comparison_config(**changes: Any) -> RunConfig:
    """Settings with which the engine computes bit for bit what the ClientApp does."""
    return tiny_config(**{"engine__stack_size": 1, "evaluation__num_draws": 2} | changes)


def make_plan(**changes: Any) -> Plan:
    options: dict[str, Any] = {
        "config": comparison_config(),
        "methods": FAST,
        "num_seeds": 1,
        "few_shot": (0, 2),
    }
    return Plan(**options | changes)


def only_cell(method: str, **changes: Any) -> Cell:
    """The one cell of a method with one seed."""
    (cell,) = make_plan(methods=(method,), config=comparison_config(**changes)).cells()
    return cell


def scores_of(
    score: float,
    *,
    seen: int = 6,
    new: int = 4,
    top: float = 5.0,
    bins: tuple[float, float, float] = (20.0, 1.0, 1.5),
) -> GroupScores:
    """A group's scores, the same for all its questions; all options lie in the first bin."""
    number = seen + new
    options, predicted, true = ((value, *(0.0,) * (NUM_BINS - 1)) for value in bins)
    return GroupScores(
        Mean(score * number, float(number)),
        Mean(score * seen, float(seen)),
        Mean(score * new, float(new)),
        Mean(top, float(number)),
        Calibration(options, predicted, true),
    )


def point(number: int, groups: Mapping[str, float], **changes: float) -> Point:
    """A point after a round of two steps on six episodes, one second and ten megabytes."""
    values = {"seconds": 1.0 * number, "megabytes": 10.0 * number} | changes
    return Point(
        round=number, optimizer_steps=2 * number, episodes=6 * number, groups=dict(groups), **values
    )


def result(
    final: Mapping[str, float],
    held_out: Sequence[str] = ("C", "D"),
    curve: Sequence[float] = (),
    few_shot: Mapping[int, Mapping[str, float]] | None = None,
) -> CellResult:
    """A cell's result: group to final score.

    Args:
        final: group to its score.
        held_out: which of them are held out.
        curve: a factor on the final scores for each round; empty: no curve.
        few_shot: context size to group to score.
    """
    return CellResult(
        roles={group: "held-out" if group in held_out else "train" for group in final},
        scores={group: scores_of(score) for group, score in final.items()},
        points=[
            point(number, {group: factor * score for group, score in final.items()})
            for number, factor in enumerate(curve)
        ],
        few_shot=few_shot or {},
        seconds=3.0,
    )


def write_comparison(
    directory: Path,
    results: Mapping[tuple[str, int, int], CellResult | None],
    *,
    folds: int = 0,
    intervals: bool = True,
) -> Path:
    """Write a comparison's directory: (method, seed, fold) to result; None: not finished."""
    store = CellStore(directory)
    cells = []
    config = comparison_config()
    for number, ((method, seed, fold), given) in enumerate(results.items()):
        cell = Cell(
            method=method,
            fold=fold,
            config=replace(config, run=replace(config.run, seed=seed)),
            few_shot=(0, 2),
        )
        vars(cell)["key"] = f"cell{number}"  # in place of the hash of its settings
        cells.append({"method": method, "seed": seed, "fold": fold, "key": cell.key})
        if given is not None:
            store.start(cell.key)
            store.finish(cell, given)
    manifest = {
        "settings": config.to_flat(),
        "methods": list(dict.fromkeys(method for method, _, _ in results)),
        "seeds": sorted({seed for _, seed, _ in results}),
        "folds": folds,
        "few_shot": [0, 2],
        "intervals": intervals,
        "num_groups": {"train": 2, "held_out": 2},
        "environment": {"python": "3"},
        "command": "pluralllm compare",
        "cells": cells,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).write_text(json.dumps(manifest))
    return directory
