"""How a deployment stands: its SuperLink, its nodes, its last runs; without a SuperLink, too."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployment import flower
from deployment.certificates import days_left, load_certificate
from deployment.coordinator import CONNECTION, Coordinator
from deployment.parties import Party
from deployment.registration import connection, known_nodes
from deployment.runs import StartedRun, started_runs
from deployment.superlink import probe_superlink
from task.config import read_toml
from task.errors import DeploymentError

SHOWN_RUNS = 3
NOT_ASKED = "unknown"


@dataclass(frozen=True)
class NodeStatus:
    """A party's node.

    Attributes:
        party: its name.
        groups: that it serves.
        role: `train` or `held-out`.
        status: `online`, `offline`, `never connected`, `no key`, `not registered` or `unknown`.
        since: when it became so, as Flower tells it (UTC); empty where it does not.
    """

    party: str
    groups: tuple[str, ...]
    role: str
    status: str
    since: str = ""


@dataclass(frozen=True)
class Scores:
    """Alignment scores of one role's groups in the last evaluation."""

    round: int
    mean: float
    worst: float
    worst_group: str


@dataclass(frozen=True)
class RunStatus:
    """A run.

    Attributes:
        run_id: Flower's.
        directory: where it is written.
        started: when, in UTC.
        status: Flower's (`running`, `finished:completed`, ...); without a SuperLink the run
            directory's own.
        reason: why it failed, if it did.
        rounds_done: rounds that are finished; -1: none, not even the first evaluation.
        num_rounds: rounds that it is to have; 0: not known yet.
        scores: role to its last scores, where they are disclosed.
        failures: client to its number of failed replies, where they are disclosed.
    """

    run_id: str
    directory: str
    started: str
    status: str
    reason: str = ""
    rounds_done: int = -1
    num_rounds: int = 0
    scores: Mapping[str, Scores] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DeploymentStatus:
    """All of it.

    Attributes:
        address: of the SuperLink.
        up: it answers on this machine.
        reason: why not.
        certificate_days: until its certificate ends.
        nodes: in the parties' order.
        others_online: nodes of no party: with `--insecure` all are, since they have no keys.
        runs: the last ones, the latest first.
    """

    address: str
    up: bool
    reason: str
    certificate_days: int
    nodes: Sequence[NodeStatus]
    others_online: int
    runs: Sequence[RunStatus]


def deployment_status(coordinator: Coordinator) -> DeploymentStatus:
    """Ask the SuperLink, and read the run directories."""
    found = probe_superlink(coordinator)
    nodes: dict[str, dict[str, Any]] | None = None
    statuses: dict[str, str] = {}
    reason = found.reason
    parties = coordinator.parties()
    if found.up:
        try:
            nodes = known_nodes(coordinator)
            listed = flower.ask(connection(coordinator), ["ls", CONNECTION])["runs"]
            statuses = {str(run["run-id"]): str(run["status"]) for run in listed}
        except DeploymentError as error:
            reason = str(error)
    pem = coordinator.certificate.read_bytes()
    return DeploymentStatus(
        address=coordinator.address.text,
        up=found.up,
        reason=reason,
        certificate_days=days_left(load_certificate(pem, str(coordinator.certificate))),
        nodes=[_node(party, nodes) for party in parties],
        others_online=sum(
            node["status"] == "online" and number not in {party.node_id for party in parties}
            for number, node in (nodes or {}).items()
        ),
        runs=[
            run_status(run, statuses.get(run.run_id, ""))
            for run in reversed(started_runs(coordinator)[-SHOWN_RUNS:])
        ],
    )


def run_status(run: StartedRun, status: str = "") -> RunStatus:
    """Read how a run stands from its directory.

    Args:
        run: which one.
        status: Flower's, if it could be asked.
    """
    folder = Path(run.directory)
    recorded = _json(folder / "status.json")
    config = read_toml(folder / "config.toml") if (folder / "config.toml").is_file() else {}
    rounds = _rounds(folder / "metrics.jsonl")
    failures = Counter(
        client
        for entry in rounds
        for kind in ("failures", "evaluation_failures")
        for client in entry.get(kind) or ()
    )
    return RunStatus(
        run_id=run.run_id,
        directory=run.directory,
        started=run.started,
        status=status or str(recorded.get("status", NOT_ASKED)),
        reason=str(recorded.get("reason", "")),
        rounds_done=int(rounds[-1]["round"]) if rounds else -1,
        num_rounds=int(config.get("train.num-rounds", 0)),
        scores=_scores(rounds),
        failures=dict(failures),
    )


def _node(party: Party, known: Mapping[str, Mapping[str, Any]] | None) -> NodeStatus:
    status, since = NOT_ASKED, ""
    if not party.public_key:
        status = "no key"
    elif known is not None:
        node = known.get(party.node_id)
        status = str(node["status"]) if node else "not registered"
        if status == "registered":
            status = "never connected"
        elif node:
            since = str(node.get(f"{status}-at", ""))
    return NodeStatus(party.name, party.groups, party.role, status, since)


def _scores(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Scores]:
    """Return each role's last scores; noisy ones tell a mean and no worst group."""
    found: dict[str, Scores] = {}
    for entry in rounds:
        for role, key in (("train", "train"), ("held-out", "held_out")):
            scores = entry.get(key)
            if scores and scores.get("alignment_score") is not None:
                found[role] = Scores(
                    int(entry["round"]),
                    float(scores["alignment_score"]),
                    float(scores.get("worst_group") or "nan"),
                    str(scores.get("worst_group_name") or ""),
                )
    return found


def _rounds(file: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; its last line may be half written."""
    if not file.is_file():
        return []
    whole, _, _ = file.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}
