"""Runs that are interrupted after a round, continued, and compared with one that was not."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy
from safetensors.numpy import load_file

from server_app.cohort import simulate
from server_app.monitor import RoundMonitor
from task.config import RunConfig

MakeStrategy = Callable[[], Strategy]


class KilledError(Exception):
    """Ends a run at once, as a kill does; not one of the errors that the app knows."""


def run(config: RunConfig, folder: Path, make: MakeStrategy | None = None) -> Path:
    """A run from start to end."""
    config = replace(config, run=replace(config.run, directory=str(folder)))
    return simulate(config, make() if make else None).path


def run_until(
    config: RunConfig, folder: Path, server_round: int, make: MakeStrategy | None = None
) -> Path:
    """A run that dies in the round after this one: clients have trained, the mean is made."""
    observe = RoundMonitor.__call__

    def dying(self: RoundMonitor, observed: int, *args: Any) -> Any:
        if observed > server_round:
            raise KilledError
        return observe(self, observed, *args)

    RoundMonitor.__call__ = dying  # type: ignore[method-assign]
    try:
        run(config, folder, make)
    except KilledError:
        return folder
    finally:
        RoundMonitor.__call__ = observe  # type: ignore[method-assign]
    raise AssertionError("the run was to be interrupted")


def resume(config: RunConfig, folder: Path, make: MakeStrategy | None = None) -> Path:
    """Continue a run."""
    config = replace(config, run=replace(config.run, directory="", resume=str(folder)))
    return simulate(config, make() if make else None).path


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run leaves but times and the record of its interruptions."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in [key for key in line if key.endswith("seconds")]:
            del line[key]
    left: dict[str, Any] = {"metrics": lines}
    left["summary"] = json.loads((folder / "summary.json").read_text())
    for name in ("final", "best"):
        arrays = load_file(folder / f"predictor-{name}" / "model.safetensors")
        left[name] = {key: array.tobytes() for key, array in arrays.items()}
    if (folder / "groups.parquet").exists():
        left["groups"] = (folder / "groups.parquet").read_bytes()
    ledger = folder / "privacy-ledger.jsonl"
    left["ledger"] = ledger.read_text() if ledger.exists() else ""
    return left


def same_when_interrupted(
    config: RunConfig,
    server_round: int,
    make: MakeStrategy | None = None,
    leave_out: tuple[str, ...] = (),
) -> Path:
    """Assert that an interrupted and continued run leaves what another one does, bit for bit."""
    folder = Path(tempfile.mkdtemp())
    whole = left_by(run(config, folder / "whole", make))
    run_until(config, folder / "interrupted", server_round, make)
    resumed = resume(config, folder / "interrupted", make)
    found = left_by(resumed)
    for key in whole:
        if key not in leave_out:
            assert found[key] == whole[key], key
    return resumed
