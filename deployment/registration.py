"""Making the parties' keys known to the SuperLink, and noting by which ids it knows their nodes.

`flwr supernode list` tells neither names nor keys of nodes, so ids must be kept when Flower gives
them: in parties.toml, after every single registration. A key stays reserved in Flower's database
even when its node is unregistered: a party that was removed returns with a new key only.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from deployment import flower
from deployment.coordinator import CONNECTION, Coordinator
from task.errors import DeploymentError

GONE = ("unregistered", "deleted")


def connection(coordinator: Coordinator) -> flower.Connection:
    """Return the way to the coordinator's own SuperLink."""
    return flower.Connection(CONNECTION, coordinator.flower_home)


def known_nodes(coordinator: Coordinator) -> dict[str, dict[str, Any]]:
    """Return the SuperLink's registered nodes by id, as `flwr supernode list` tells them.

    Raises:
        DeploymentError: the SuperLink does not answer.
    """
    answer = flower.ask(connection(coordinator), ["supernode", "list", CONNECTION])
    nodes = {str(node["node-id"]): node for node in answer["nodes"]}
    return {number: node for number, node in nodes.items() if node["status"] not in GONE}


def register_parties(coordinator: Coordinator) -> list[str]:
    """Register every party that has a key and no node; return what was done, a line each.

    One process at a time: otherwise the second to register a key would be told that it is in use.

    Raises:
        DeploymentError: the SuperLink does not answer, or refuses a key.
    """
    with registering(coordinator):
        return _register_parties(coordinator)


@contextmanager
def registering(coordinator: Coordinator) -> Iterator[None]:
    """Keep other processes from registering and cutting off nodes while the block runs.

    The lock of parties.toml is another: it is never held while the SuperLink is asked.
    """
    with FileLock(coordinator.registration_lock):
        yield


def _register_parties(coordinator: Coordinator) -> list[str]:
    done = []
    known = known_nodes(coordinator)
    for party in coordinator.parties():
        if not party.public_key:
            done.append(
                f"{party.name} has not sent its key yet: `pluralllm deploy add` takes node.pub."
            )
        elif party.node_id not in known:
            number = _register(coordinator, party.name, party.public_key, set(known))
            with coordinator.changing_parties() as parties:  # before the next one: see above
                parties[party.name] = replace(parties[party.name], node_id=number)
            known[number] = {}
            done.append(f"Registered {party.name} as node {number}.")
    with coordinator.changing_parties():
        pass  # writes the registry anew, also after parties.toml was changed by hand
    return done


def unregister(coordinator: Coordinator, name: str) -> None:
    """Remove a party: its node is cut off at once, and no run expects it any more.

    Raises:
        DeploymentError: there is no such party, or the SuperLink does not answer.
    """
    with registering(coordinator):
        parties = {party.name: party for party in coordinator.parties()}
        if name not in parties:
            raise DeploymentError(
                f"There is no party {name!r}. Expected one of {', '.join(parties)}."
            )
        if parties[name].node_id:
            cut_off(coordinator, parties[name].node_id)
        with coordinator.changing_parties() as changed:
            del changed[name]


def cut_off(coordinator: Coordinator, node_id: str) -> None:
    """Let the SuperLink refuse a node from now on, if it knows it.

    Raises:
        DeploymentError: the SuperLink does not answer, so the node would stay in.
    """
    if node_id in known_nodes(coordinator):
        flower.ask(connection(coordinator), ["supernode", "unregister", node_id, CONNECTION])


def _register(coordinator: Coordinator, name: str, public_key: str, known: set[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "node.pub"
        file.write_text(public_key)
        arguments = ["supernode", "register", str(file), CONNECTION, "--name", name]
        try:
            return str(flower.ask(connection(coordinator), arguments)["node-id"])
        except DeploymentError as refused:
            if "already in use" not in str(refused):
                raise
    # Registered by an earlier start that ended before it could note the id. There is only one such
    # node: ids are noted one by one.
    noted = {party.node_id for party in coordinator.parties()}
    unclaimed = sorted(known - noted)
    if len(unclaimed) != 1:
        raise DeploymentError(
            f"The key of {name} is in the SuperLink's database already, and it cannot be told for "
            "which node. Let the party make a new key (`pluralllm deploy key`), and add it."
        )
    return unclaimed[0]
