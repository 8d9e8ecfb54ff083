"""`pluralllm compare`: federated against centralized, local, probes and no learning."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.settings import Settings, parse_settings
from comparison import plan
from comparison.plan import Cell, Plan, federated
from comparison.results import MANIFEST, load_results
from comparison.schedule import compute_missing, only_process
from comparison.table import to_markdown
from server_app.environment import environment
from task.errors import ConfigError, RunDirectoryError
from task.settings import require


def compare(
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from run.seed upwards.")] = 5,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="A strategy to compare, with overrides: 'fedprox strategy.proximal-mu=0.01'. "
            "May be repeated. Default: the config's."
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help="What to compare the strategies with, separated by commas."),
    ] = ",".join(plan.OTHER_METHODS),
    folds: Annotated[
        int,
        typer.Option(help="Rotate which groups are held out, in this many parts. 0: do not."),
    ] = 0,
    few_shot: Annotated[
        str,
        typer.Option(help="Context sizes of the few-shot curve, separated by commas; '' for none."),
    ] = ",".join(map(str, plan.FEW_SHOT)),
    directory: Annotated[
        Path | None,
        typer.Option(help="Where cells and results are kept. Default: comparisons/<config>."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option(help="Intervals over seeds, which need at least two.")
    ] = True,
    workers: Annotated[
        int,
        typer.Option(help="Processes. 0: one per core, or one where there is a GPU.", min=0),
    ] = 0,
) -> None:
    """Compare ways to train on one survey; finished cells are kept, so it can be interrupted."""
    if intervals and seeds < 2:
        raise ConfigError(
            f"--seeds {seeds}: expected at least 2, as intervals are over seeds. Add seeds, or "
            "--no-intervals."
        )
    config = parse_settings(settings)
    expected = "nothing: the same command continues a comparison by itself"
    require(not config.run.resume, "run.resume", config.run.resume, expected)
    others = tuple(name.strip() for name in methods.split(",") if name.strip())
    asked = Plan(
        config=config,
        methods=(*federated(strategy or [config.strategy.name]), *others),
        num_seeds=seeds,
        folds=folds,
        few_shot=_sizes(few_shot),
    )
    cells = asked.cells()
    folder = directory or Path("comparisons") / _name(settings or [])
    _require_usable(folder)
    with only_process(folder):
        manifest = _manifest(asked, cells, intervals)
        _write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        print(f"{len(asked.methods)} methods, {len(cells)} cells in {folder}", flush=True)
        try:
            failures = compute_missing(cells, folder, workers)
        except KeyboardInterrupt:
            print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(130) from None
        results = load_results(folder)
        _write(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
        text = to_markdown(results)
        _write(folder / "results.md", text)
    print(f"\n{text}\nResults: {folder / 'results.json'}, {folder / 'results.md'}")
    print(f"As a page: pluralllm report {shlex.quote(str(folder))}", flush=True)
    if failures:
        for label, reason in failures.items():
            print(f"error: {label}: {reason}", file=sys.stderr)
        raise typer.Exit(1)


def _require_usable(folder: Path) -> None:
    """Create a comparison's directory, unless it exists.

    Raises:
        RunDirectoryError: it is a run's, or cannot be created.
    """
    if (folder / "status.json").exists():
        raise RunDirectoryError(f"--directory {folder}: holds a run. Choose another directory.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"--directory {folder}: {error}.") from error


def _manifest(asked: Plan, cells: list[Cell], intervals: bool) -> dict[str, Any]:
    """Return the content of `comparison.json`."""
    data = cells[0].config.data
    return {
        **asked.to_json(),
        "intervals": intervals,
        "num_groups": {
            "train": len(data.train_group_names),
            "held_out": len(data.held_out_group_names),
        },
        "environment": environment(),
        "command": shlex.join(["pluralllm", *sys.argv[1:]]),
        "cells": [
            {"method": c.method, "seed": c.config.run.seed, "fold": c.fold, "key": c.key}
            for c in cells
        ],
    }


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(size) for size in text.split(",") if size.strip()}))
    except ValueError:
        raise ConfigError(
            f"--few-shot {text!r}: expected whole numbers separated by commas, as 0,1,5,20."
        ) from None


def _name(settings: list[str]) -> str:
    """Return the name of the last config file, or of the default survey."""
    files = [Path(text).stem for text in settings if text.endswith(".toml") and "=" not in text]
    return files[-1] if files else "default"


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    partial.write_text(text)
    partial.replace(file)
