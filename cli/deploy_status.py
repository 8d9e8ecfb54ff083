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
    if status.others_online:
        console.print(f"{status.others_online} online node(s) of no party", highlight=False)
    for run in status.runs:
        for line in _run(run):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _nodes(status: DeploymentStatus) -> Table:
    table = Table("party", "groups", "role", "node", "since (UTC)")
    for node in status.nodes:
        table.add_row(node.party, ", ".join(node.groups), node.role, node.status, node.since)
    return table


def _run(run: RunStatus) -> list[str]:
    rounds = f"round {run.rounds_done}" if run.rounds_done >= 0 else "no round yet"
    of = f" of {run.num_rounds}" if run.num_rounds else ""
    lines = [f"run {run.run_id}: {run.status}, {rounds}{of}; started {run.started}"]
    for role, scores in run.scores.items():
        worst = "" if math.isnan(scores.worst) else f", worst {scores.worst:.4f} "
        lines.append(
            f"  {role}: mean AS {scores.mean:.4f}{worst}{scores.worst_group} (round {scores.round})"
        )
    lines += [f"  {who} failed {times} time(s)" for who, times in sorted(run.failures.items())]
    if run.reason:
        lines.append(f"  reason: {run.reason}")
    return [*lines, f"  in {run.directory}"]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
