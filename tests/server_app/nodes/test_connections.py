from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from server_app.checkpointing.population_record import as_recorded, population_record
from server_app.nodes import connections as module
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Population, discover_clients
from task import records
from task.config import RunConfig
from task.errors import EncoderError, PopulationError
from task.roles import Role
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import (
    InProcessGrid,
    group_and_round,
    silent,
    tiny_config,
    with_content,
)

HELD_OUT = "Northern students"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "RETURN_SECONDS", 0.1)


def gather_all(grid: HomeGrid, config: RunConfig) -> Population:
    """Gather, and hear out the nodes that were not waited for."""
    connections = Connections(grid, config)
    found = connections.gather()
    for _ in range(8):  # the grid hands over half of what is there
        connections.connected()
    return found


def heard(grid: HomeGrid, config: RunConfig) -> Connections:
    """Connections that have heard all nodes that are there, however long that took."""
    connections = Connections(grid, config)
    for _ in range(4):
        connections.connected()
    return connections


def write_registry(folder: Path, grid: HomeGrid, **groups: list[str]) -> str:
    """Give every node its group, unless another list of groups is given for it."""
    lines = []
    for group, node_id in grid.node_of.items():
        name = group.split()[1]
        lines += [f"[nodes.{name}]", f'node-id = "{node_id}"']
        lines.append(f"groups = {groups.get(name, [group])!r}")
    file = folder / "registry.toml"
    file.write_text("\n".join(lines))
    return str(file)


def test_nodes_with_their_own_files_disclose_what_a_simulation_of_them_does(tmp_path: Path) -> None:
    simulated = tiny_config()
    expected = discover_clients(InProcessGrid(simulated, 2), timeout=60)
    grid = HomeGrid(simulated, tmp_path, nodes__min_available=4)
    found = Connections(grid, grid.config).gather()
    assert [(c.id, c.group, c.role) for c in found.clients] == [
        (c.id, c.group, c.role) for c in expected.clients
    ]
    assert {c.group: c.node_id for c in found.clients} == grid.node_of
    for ours, theirs in zip(
        found.feature_sums.mean_and_std(), expected.feature_sums.mean_and_std(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for group, keys in expected.question_keys.items():
        np.testing.assert_array_equal(found.question_keys[group], keys)


def test_as_many_groups_as_asked_for_are_waited_for(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4, nodes__patience=0.2)
    grid.away = {grid.node_of[HELD_OUT]}
    with pytest.raises(PopulationError, match=r"Waited 0 s .*: 3 of 4 groups are here"):
        heard(grid, grid.config).gather()


def test_without_a_number_one_training_group_is_enough(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__patience=0.2)
    grid.away = set(grid.node_of.values()) - {grid.node_of[HELD_OUT]}
    with pytest.raises(PopulationError, match="no training group is here"):
        Connections(grid, grid.config).gather()
    grid.away.remove(grid.node_of["Northern nurses"])
    found = heard(grid, grid.config).gather()
    assert [client.group for client in found.clients] == ["Northern nurses", HELD_OUT]


BEGAN: dict[str, Role] = {
    "Northern farmers": "train",
    "Northern nurses": "train",
    "Northern teachers": "train",
    HELD_OUT: "held-out",
}


def test_a_resumed_run_waits_for_as_many_training_groups_as_a_round_needs(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__patience=2.0)
    grid.away = {grid.node_of["Northern nurses"], grid.node_of["Northern farmers"]}
    with pytest.raises(PopulationError, match="1 of the run's 3 training groups are here, expec"):
        Connections(grid, grid.config).gather(BEGAN)
    config = tiny_config(data__source="nodes", nodes__patience=2.0, nodes__min_available=4)
    grid.away = {grid.node_of["Northern nurses"]}
    with pytest.raises(PopulationError, match="3 of the run's groups are here, expected 4"):
        Connections(grid, config).gather(BEGAN)


def test_a_resumed_run_goes_on_without_a_party_until_it_comes(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(module, "RETURN_SECONDS", 0.1)
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    before = Connections(grid, grid.config).gather()
    record = population_record(before)
    nurses = next(client.id for client in before.clients if client.group == "Northern nurses")
    grid.away = {grid.node_of["Northern nurses"]}
    settings = {"nodes__registry": write_registry(tmp_path, grid), "nodes__patience": 20.0}
    connections = Connections(grid, tiny_config(data__source="nodes", **settings))
    found = as_recorded(connections.gather(BEGAN), record, all_there=False)
    connections.bind(found)
    everybody = {client.id for client in before.clients}
    assert connections.connected() == everybody - {nurses}
    assert connections.restarted({nurses: 0.0}) == set()
    grid.away = set()
    for _ in range(3):
        connected = connections.connected()
    assert connected == everybody
    assert connections.node_of(nurses) == grid.node_of["Northern nurses"]


def test_a_resumed_run_that_has_all_groups_waits_no_longer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "RETURN_SECONDS", 3600.0)
    grid = HomeGrid(tiny_config(), tmp_path)
    assert len(Connections(grid, grid.config).gather(BEGAN).clients) == 4


def test_with_a_registry_all_its_groups_are_waited_for(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path)
    grid.away = {grid.node_of[HELD_OUT]}
    settings = {"nodes__registry": write_registry(tmp_path, grid), "nodes__patience": 0.2}
    config = tiny_config(data__source="nodes", **settings)
    with pytest.raises(PopulationError, match=f"3 groups are here, missing: {HELD_OUT}"):
        heard(grid, config).gather()
    grid.away = set()
    assert len(heard(grid, config).gather().clients) == 4


def test_a_node_that_claims_anothers_group_is_refused_by_name(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path)
    registry = write_registry(tmp_path, grid, farmers=["Northern bakers"])
    config = tiny_config(data__source="nodes", nodes__registry=registry, nodes__min_available=3)
    found = gather_all(grid, config)
    assert "Northern farmers" not in {client.group for client in found.clients}
    node_id = grid.node_of["Northern farmers"]
    assert (
        f"farmers (node {node_id}) is refused: it claims the group 'Northern farmers', and may "
        "serve: Northern bakers" in capsys.readouterr().out
    )


def test_a_node_that_cannot_say_what_it_holds_is_named_and_left_out(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=3)
    wrong = grid.node_of["Northern nurses"]
    grid.contexts[wrong].node_config["data-path"] = str(tmp_path / "missing.csv")
    assert len(gather_all(grid, grid.config).clients) == 3
    out = capsys.readouterr().out
    assert f"Node {wrong} cannot say what it holds: its survey cannot be used" in out
    assert "missing.csv" not in out  # paths and data stay in the node's own log


def test_a_malformed_description_is_refused(tmp_path: Path, capsys) -> None:
    def lie(content) -> None:
        content["holdings"]["roles"] = ["judge"]

    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=3)
    wrong = grid.node_of["Northern nurses"]
    grid.fault = lambda message, answer: (
        with_content(lie)(message, answer)
        if message.metadata.dst_node_id == wrong
        else answer(message)
    )
    assert len(gather_all(grid, grid.config).clients) == 3
    assert "it has the role 'judge'" in capsys.readouterr().out


def test_a_node_that_does_not_describe_itself_holds_nobody_up(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=3)
    quiet = grid.node_of["Northern nurses"]
    grid.fault = lambda message, answer: (
        silent(message, answer) if message.metadata.dst_node_id == quiet else answer(message)
    )
    found = Connections(grid, grid.config).gather()
    assert len(found.clients) == 3


def test_a_returned_node_takes_its_clients_over_under_its_new_id(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    connections = Connections(grid, grid.config)
    found = connections.gather()
    connections.bind(found)
    nurses = next(client.id for client in found.clients if client.group == "Northern nurses")
    everybody = {client.id for client in found.clients}
    assert connections.connected() == everybody
    new = grid.renew("Northern nurses")
    connections.connected()  # asks the new node
    assert connections.connected() == everybody
    assert connections.node_of(nurses) == new
    assert f"Northern nurses is back, on node {new}" in capsys.readouterr().out


def test_a_returned_node_with_other_questions_takes_nothing_over(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    connections = Connections(grid, grid.config)
    found = connections.gather()
    connections.bind(found)
    other = HomeGrid(tiny_config(run__seed=9, data__held_out_groups=HELD_OUT), tmp_path / "..")
    grid.renew("Northern nurses")
    context = grid.contexts[grid.node_of["Northern nurses"]]
    context.node_config = other.contexts[other.node_of["Northern nurses"]].node_config
    for _ in range(3):
        connected = connections.connected()
    assert len(connected) == len(found.clients) - 1


def lies(grid: HomeGrid, group: str, change) -> None:
    """Let the node of a group change what it says it holds."""
    node_id = grid.node_of[group]
    grid.fault = lambda message, answer: (
        with_content(change)(message, answer)
        if message.metadata.dst_node_id == node_id
        else answer(message)
    )


def set_sums(change) -> object:
    def changed(content) -> None:
        sums = content["feature-sums"]
        for key in ("total", "squares"):
            sums[key] = Array(change(sums[key].numpy()))

    return changed


def set_groups(groups: list) -> object:
    def changed(content) -> None:
        content["holdings"]["groups"] = groups

    return changed


def add_megabytes(content) -> None:
    content["more"] = ArrayRecord({"more": Array(np.zeros(9_000_000))})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_sums(lambda sums: sums[:, :3]), "its features have 3 dimensions, expected 16"),
        (set_sums(lambda sums: sums[:, 0]), "its feature sums have shapes"),
        (set_sums(lambda sums: sums + 1e300), "its feature sums are no sums of"),
        (set_sums(lambda sums: -sums), "its feature sums are no sums of"),
        (set_groups([7]), "it uses the name '7'"),
        (set_groups(["a\nb"]), "it uses the name"),
        (set_groups(["Northern farmers"]), "another node holds the group 'Northern farmers'"),
        (set_groups(["a", "a"]), "cannot say what it holds"),
        (add_megabytes, "bytes, expected at most 67,108,864"),
    ],
)
def test_a_node_that_does_not_fit_is_refused_by_name_and_the_others_begin(
    tmp_path: Path, capsys, change, reason: str
) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=3)
    liar = grid.node_of["Northern nurses"]
    lies(grid, "Northern nurses", change)
    grid.away = {liar}  # the others come first
    connections = Connections(grid, grid.config)
    connections.gather()
    grid.away = set()
    for _ in range(3):
        connections.connected()
    found = connections.gather()
    others = {"Northern farmers", "Northern teachers", HELD_OUT}
    assert {client.group for client in found.clients} == others
    lines = [line for line in capsys.readouterr().out.splitlines() if f"Node {liar}" in line]
    assert any(reason in line for line in lines)


def test_another_encoder_stops_the_run(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    other_encoder(grid, grid.node_of["Northern nurses"])
    with pytest.raises(EncoderError, match="Northern nurses: hashing-32"):
        Connections(grid, grid.config).gather()


def other_encoder(grid: HomeGrid, node_id: int) -> None:
    grid.contexts[node_id].run_config["encoder.dimension"] = 32


def other_role(grid: HomeGrid, node_id: int) -> None:
    grid.contexts[node_id].node_config["role"] = "held-out"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_encoder, "its encoder is hashing-32, the run's is hashing-16"),
        (other_role, "'Northern nurses' has the role held-out, and began as train"),
    ],
)
def test_a_node_that_connects_anew_is_asked_again_and_refused_if_it_changed(
    tmp_path: Path, capsys, change, reason: str
) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    connections = Connections(grid, grid.config)
    found = connections.gather()
    connections.bind(found)
    everybody = {client.id for client in found.clients}
    node_id = grid.node_of["Northern nurses"]
    grid.activated[node_id] = datetime(2021, 1, 1, tzinfo=UTC)
    assert connections.connected() == everybody  # it holds what it did
    change(grid, node_id)
    grid.activated[node_id] = datetime(2022, 1, 1, tzinfo=UTC)
    assert len(connections.connected()) == len(everybody) - 1
    assert f"Node {node_id} is refused: {reason}" in capsys.readouterr().out


def test_who_comes_later_is_told_to_take_no_part(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=3)
    grid.away = {grid.node_of[HELD_OUT]}
    connections = Connections(grid, grid.config)
    connections.bind(connections.gather())
    grid.away = set()
    connections.connected()
    assert (
        f"is here with {HELD_OUT} (24 questions): it takes no part, because the run has begun "
        "without it" in capsys.readouterr().out
    )


def test_nodes_that_have_been_asked_are_given_a_moment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 60.0)
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=1)
    assert len(Connections(grid, grid.config).gather().clients) == 4


def test_without_a_registry_it_is_said_that_nodes_are_believed(tmp_path: Path, capsys) -> None:
    grid = HomeGrid(tiny_config(), tmp_path)
    Connections(grid, grid.config)
    assert "nodes.registry is empty: every node is believed" in capsys.readouterr().out
    registry = write_registry(tmp_path, grid)
    Connections(grid, tiny_config(data__source="nodes", nodes__registry=registry))
    assert "believed" not in capsys.readouterr().out


def test_nobody_is_described_twice(tmp_path: Path) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    connections = Connections(grid, grid.config)
    connections.bind(connections.gather())
    for _ in range(3):
        connections.connected()
    assert len(grid.messages(records.DESCRIBE)) == 4
    assert group_and_round(grid.received[0]) == ("", 0)


def test_a_node_that_failed_once_is_asked_again_later(tmp_path: Path, monkeypatch) -> None:
    grid = HomeGrid(tiny_config(), tmp_path, nodes__min_available=4)
    wrong = grid.node_of["Northern nurses"]
    failed = []

    def once(message, answer):
        if message.metadata.dst_node_id == wrong and not failed:
            failed.append(message)
            raise_for = grid.contexts[wrong].node_config
            kept = raise_for.pop("data-path")
            reply = answer(message)
            raise_for["data-path"] = kept
            return reply
        return answer(message)

    grid.fault = once
    monkeypatch.setattr(module, "ASK_AGAIN_SECONDS", 0.05)
    assert len(Connections(grid, grid.config).gather().clients) == 4
    assert failed
