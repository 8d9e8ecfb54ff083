import json
from pathlib import Path
from typing import Any

import pytest

from deployment import flower, status
from deployment.coordinator import Coordinator, parse_address
from deployment.parties import Party
from deployment.probe import Probe
from deployment.runs import StartedRun, start_run, started_runs
from deployment.status import NodeStatus, Scores, deployment_status, run_status

PARTIES = [
    Party("hospital", ("Germany",), public_key="h", node_id="1"),
    Party("ministry", ("Japan",), "held-out"),
    Party("paper", ("France",), public_key="p", node_id="2"),
    Party("radio", ("Peru",), public_key="r", node_id="3"),
]
NODES = [
    {"node-id": "1", "status": "online", "online-at": "today", "offline-at": "before"},
    {"node-id": "2", "status": "offline", "online-at": "today", "offline-at": "now"},
    {"node-id": "3", "status": "registered", "online-at": "N/A", "offline-at": "N/A"},
    {"node-id": "4", "status": "online", "online-at": "today", "offline-at": "N/A"},
    {"node-id": "5", "status": "offline", "online-at": "today", "offline-at": "now"},
]


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator.create(tmp_path / "d", parse_address("127.0.0.1:1"), PARTIES, days=9)


def started(folder: Path, run_id: str = "7") -> StartedRun:
    folder.mkdir(exist_ok=True)
    return StartedRun(run_id, str(folder), "2026-01-01 00:00:00Z")


def entry(server_round: int, **more: Any) -> str:
    return json.dumps({"round": server_round, **more}) + "\n"


def scores(mean: float, worst: float, group: str) -> dict[str, Any]:
    return {"alignment_score": mean, "worst_group": worst, "worst_group_name": group}


def test_a_run_that_goes_on_tells_its_rounds_scores_and_failures(tmp_path: Path) -> None:
    run = started(tmp_path)
    (tmp_path / "status.json").write_text('{"status": "running", "reason": ""}')
    (tmp_path / "config.toml").write_text("[train]\nnum-rounds = 30\n")
    (tmp_path / "metrics.jsonl").write_text(
        entry(0, train=scores(0.7, 0.6, "France"), held_out=scores(0.6, 0.5, "Japan"))
        + entry(1, failures={"paper": "gone"})
        + entry(2, failures={"paper": "gone", "radio": "late"}, train=scores(0.8, 0.7, "Peru"))
        + entry(3, evaluation_failures={"paper": "gone"})
        + '{"round": 4, "half wri'
    )
    found = run_status(run)
    assert (found.status, found.rounds_done, found.num_rounds) == ("running", 3, 30)
    assert found.scores["train"] == Scores(2, 0.8, 0.7, "Peru")
    assert found.scores["held-out"] == Scores(0, 0.6, 0.5, "Japan")
    assert found.failures == {"paper": 3, "radio": 1}


def test_a_run_that_has_written_nothing_yet_is_no_error(tmp_path: Path) -> None:
    found = run_status(started(tmp_path), "pending")
    assert (found.status, found.rounds_done, found.num_rounds) == ("pending", -1, 0)
    assert run_status(started(tmp_path)).status == "unknown"


def test_without_a_superlink_the_run_directories_tell(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "status.json").write_text('{"status": "failed", "reason": "no nodes"}')
    run = started(tmp_path)
    coordinator.run_list.write_text(json.dumps(run.__dict__) + "\n")
    assert started_runs(coordinator) == [run]
    found = deployment_status(coordinator)
    assert not found.up
    assert "Nobody answers at 127.0.0.1:1" in found.reason
    assert [node.status for node in found.nodes] == ["unknown", "no key", "unknown", "unknown"]
    assert [(each.status, each.reason) for each in found.runs] == [("failed", "no nodes")]
    assert found.certificate_days == 8


def test_with_a_superlink_its_nodes_and_runs_are_told(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        with coordinator.run_list.open("a") as stream:
            stream.write(json.dumps(started(tmp_path, str(number)).__dict__) + "\n")
    answers = {
        "supernode": {"nodes": NODES},
        "ls": {"runs": [{"run-id": "4", "status": "finished:failed"}]},
    }
    monkeypatch.setattr(flower, "ask", lambda _, arguments: answers[arguments[0]])
    monkeypatch.setattr(status, "probe_superlink", lambda _: Probe(True))
    found = deployment_status(coordinator)
    assert found.nodes == [
        NodeStatus("hospital", ("Germany",), "train", "online", "today"),
        NodeStatus("ministry", ("Japan",), "held-out", "no key"),
        NodeStatus("paper", ("France",), "train", "offline", "now"),
        NodeStatus("radio", ("Peru",), "train", "never connected"),
    ]
    assert found.others_online == 1
    assert [run.run_id for run in found.runs] == ["4", "3", "2"]
    assert found.runs[0].status == "finished:failed"


def test_a_torn_line_of_the_list_of_runs_hides_that_run_only(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "ask", lambda *_: {"run-id": 8})
    first = start_run(coordinator, {}, Path("a"))
    with coordinator.run_list.open("a") as stream:
        stream.write('{"run_id": "9", "dire')
    second = start_run(coordinator, {}, Path("b"))
    assert started_runs(coordinator) == [first, second]
