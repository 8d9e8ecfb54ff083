"""`pluralllm deploy status`: SuperLink, nodes and runs, as tables or as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployment.coordinator import Coordinator
from deployment.status import DeploymentStatus, RunStatus, deployment_status


def show_status(folder: Path, *, as_json: bool) -> None:
    """Print how a deployment stands; see `deploy status`."""
    status = deployment_status(Coordinator.open(folder))
    if as_json:
        print(json.dumps(_without_nan(asdict(status)), indent=2, allow_nan=False))
        return
    console = Console()
    answers = f"answers at {status.address}" if status.up else f"does not run: {status.reason}"
    console.print(f"SuperLink {answers}", markup=False, highlight=False)
    console.print(f"its certificate ends in {status.certificate_days} days", highlight=False)
    console.print(_nodes(status))
    if status.runs:
        console.print(_runs(status))
    for run in status.runs:
        for line in _remarks(run):
            console.print(line, markup=False, highlight=False)


def _nodes(status: DeploymentStatus) -> Table:
    table = Table("party", "groups", "role", "node", "since (UTC)")
    for node in status.nodes:
        table.add_row(node.party, ", ".join(node.groups), node.role, node.status, node.since)
    return table


def _runs(status: DeploymentStatus) -> Table:
    table = Table("run", "started (UTC)", "status", "rounds", "AS train", "AS held-out", "worst")
    for run in status.runs:
        done = max(run.rounds_done, 0)
        scores = run.scores.get("held-out") or run.scores.get("train")
        worst = "-"
        if scores and not math.isnan(scores.worst):
            worst = f"{scores.worst:.4f} {scores.worst_group}"
        table.add_row(
            run.run_id,
            run.started,
            run.status,
            f"{done}/{run.num_rounds or '?'}",
            *(_mean(run, role) for role in ("train", "held-out")),
            worst,
        )
    return table


def _mean(run: RunStatus, role: str) -> str:
    scores = run.scores.get(role)
    return f"{scores.mean:.4f} (round {scores.round})" if scores else "-"


def _remarks(run: RunStatus) -> list[str]:
    remarks = [f"{run.run_id}: {run.directory}"]
    if run.reason:
        remarks.append(f"{run.run_id}: {run.reason}")
    remarks += [
        f"{run.run_id}: {client} failed {count} time(s)"
        for client, count in sorted(run.failures.items())
    ]
    return remarks


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
