"""Secure aggregation with nodes that leave, come back and are restarted."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from server_app import collecting
from server_app.briefings import Briefings
from server_app.exchange import Exchange
from server_app.nodes import connections as connecting
from server_app.nodes.connections import Connections
from server_app.secure_population import SecurePopulationGrid, make_secure_aggregation
from task import records
from task.encoder import saved_settings
from task.errors import RoundError
from task.predictor import PreferencePredictor
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import RUN_KEY, Fault
from tests.server_app.secure_round import secure_config

LONG = 600.0  # nobody waits for that


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(collecting, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(collecting, "MAX_PAUSE_SECONDS", 0.02)


class SecureNodes:
    """Six training nodes with their own files."""

    def __init__(self, folder: Path, *, fault: Fault | None = None, patience: float = 60) -> None:
        settings = {"privacy__secure_aggregation": True, "nodes__min_available": 7}
        self.grid = HomeGrid(secure_config(), folder, fault=fault, **settings)
        config = self.grid.config
        connections = Connections(self.grid, config)
        found = connections.gather()
        connections.bind(found)
        predictor = PreferencePredictor.initial(
            config.predictor, found.feature_sums, saved_settings(config.encoder), 0
        )
        self.start = ArrayRecord(dict(predictor.named_parameters()))
        self.population = SecurePopulationGrid(
            self.grid,
            found.clients,
            Briefings(config, found, predictor, RUN_KEY),
            seed=0,
            connections=connections,
            patience=patience,
            secure=make_secure_aggregation(config, found, None, connections),
        )
        self.train = [client for client in found.clients if client.role == "train"]

    def node(self, index: int) -> int:
        return self.grid.node_of[self.train[index].group]

    def round(self) -> Exchange:
        content = RecordDict({records.ARRAYS: self.start})
        messages = [Message(content, client.id, "train") for client in self.train]
        return self.population.exchange(messages, timeout=LONG)


def test_a_node_that_is_not_connected_is_not_waited_for(tmp_path: Path) -> None:
    nodes = SecureNodes(tmp_path)
    nodes.grid.away = {nodes.node(2)}
    exchange = nodes.round()
    assert exchange.failures == {nodes.train[2].name: "its node is not connected"}
    assert len(exchange.replies) == 5


def test_a_node_that_was_restarted_with_a_message_is_not_waited_for(tmp_path: Path) -> None:
    lost: list[int] = []

    def loses(message: Message, answer: object) -> Message | None:
        if message.metadata.message_type == "train" and not lost:
            node_id = message.metadata.dst_node_id
            lost.append(node_id)
            nodes.grid.activated[node_id] = datetime.now(UTC) + timedelta(seconds=30)
            return None
        return answer(message)  # type: ignore[operator,no-any-return]

    nodes = SecureNodes(tmp_path, fault=loses)
    exchange = nodes.round()
    assert list(exchange.failures.values()) == ["its node was restarted"]
    assert len(exchange.replies) == 5


def test_a_round_waits_until_enough_nodes_are_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = SecureNodes(tmp_path)
    nodes.grid.away = {nodes.node(index) for index in range(4)}
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            nodes.grid.away = set()

    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", pause)
        assert len(nodes.round().replies) == 6


def test_after_nodes_patience_the_round_ends_with_who_is_missing(tmp_path: Path) -> None:
    nodes = SecureNodes(tmp_path, patience=0.1)
    nodes.grid.away = {nodes.node(index) for index in range(4)}
    with pytest.raises(RoundError, match=r"halted in its stage 'setup'.*its node is not connected"):
        nodes.round()
