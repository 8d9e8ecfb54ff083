"""Registration against a stand-in for `flwr supernode`; test_superlink.py asks the real one."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployment import flower
from deployment.coordinator import Coordinator, parse_address
from deployment.parties import Party
from deployment.registration import register_parties, unregister
from task.errors import DeploymentError


@dataclass
class Database:
    """What a SuperLink keeps: nodes by id, and every key that it has ever seen."""

    nodes: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    first: int = 100

    def ask(self, _: flower.Connection, arguments: Sequence[str]) -> dict[str, Any]:
        verb = arguments[1]
        if verb == "list":
            return {"nodes": [{"node-id": n, "status": s} for n, s in self.nodes.items()]}
        if verb == "unregister":
            self.nodes[arguments[2]] = "unregistered"
            return {}
        key = Path(arguments[2]).read_text()
        if key in self.keys:
            raise DeploymentError("Public key already in use.")
        number = str(self.first + len(self.keys))
        self.keys[key], self.nodes[number] = number, "registered"
        self.names.append(arguments[-1])
        return {"node-id": number}


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()
    monkeypatch.setattr(flower, "ask", database.ask)
    return database


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    parties = [
        Party("hospital", ("Germany",), public_key="h"),
        Party("ministry", ("Japan",)),
        Party("paper", ("France",), public_key="p"),
    ]
    return Coordinator.create(tmp_path / "d", parse_address("127.0.0.1:1"), parties, days=1)


def ids(coordinator: Coordinator) -> list[str]:
    return [party.node_id for party in coordinator.parties()]


def test_every_key_is_registered_once(coordinator: Coordinator, database: Database) -> None:
    done = register_parties(coordinator)
    assert done[0] == "Registered hospital as node 100."
    assert done[1].startswith("ministry has not sent its key")
    assert ids(coordinator) == ["100", "", "101"]
    assert database.names == ["hospital", "paper"]
    assert len(register_parties(coordinator)) == 1
    assert len(database.nodes) == 2


def test_an_id_that_could_not_be_noted_is_found_again(
    coordinator: Coordinator, database: Database
) -> None:
    database.keys["p"], database.nodes["77"] = "77", "registered"  # and then it was killed
    register_parties(coordinator)
    assert ids(coordinator) == ["101", "", "77"]


def test_an_id_that_cannot_be_told_is_not_guessed(
    coordinator: Coordinator, database: Database
) -> None:
    database.keys.update({"h": "76", "p": "77"})
    database.nodes.update({"76": "registered", "77": "registered"})
    with pytest.raises(DeploymentError, match="cannot be told for which node"):
        register_parties(coordinator)
    assert ids(coordinator) == ["", "", ""]


def test_a_new_database_gets_the_nodes_anew(coordinator: Coordinator, database: Database) -> None:
    register_parties(coordinator)
    database.nodes.clear()
    database.keys.clear()
    database.first = 200
    register_parties(coordinator)
    assert ids(coordinator) == ["200", "", "201"]


def test_a_removed_party_is_cut_off_and_forgotten(
    coordinator: Coordinator, database: Database
) -> None:
    register_parties(coordinator)
    unregister(coordinator, "paper")
    assert database.nodes == {"100": "registered", "101": "unregistered"}
    assert [party.name for party in coordinator.parties()] == ["hospital", "ministry"]
    assert "101" not in coordinator.registry.read_text()
    with pytest.raises(DeploymentError, match="no party 'paper'"):
        unregister(coordinator, "paper")


def test_the_second_of_two_that_register_waits_for_the_first(
    coordinator: Coordinator, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(way: flower.Connection, arguments: Sequence[str]) -> dict[str, Any]:
        answer = database.ask(way, arguments)
        if arguments[1] == "register":  # taken by the SuperLink, and not noted yet
            began.set()
            assert go_on.wait(20)
        return answer

    monkeypatch.setattr(flower, "ask", slow)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(register_parties, coordinator)
        assert began.wait(20)
        second = pool.submit(register_parties, coordinator)
        with coordinator.changing_parties():
            pass  # a SuperLink that hangs holds nobody's changes up
        threading.Event().wait(0.3)
        go_on.set()
        assert len(first.result(20)) == 3
        assert second.result(20) == [
            "ministry has not sent its key yet: `pluralllm deploy add` takes node.pub."
        ]
    assert ids(coordinator) == ["100", "", "101"]
