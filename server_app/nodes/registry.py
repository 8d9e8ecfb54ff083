"""Which node may serve which group: the coordinator's word against a node's."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.errors import ConfigError
from task.roles import Role


@dataclass(frozen=True)
class Party:
    """Who stands behind a node.

    Attributes:
        name: as the coordinator calls it.
        groups: what its node may serve.
        role: of all of them; None: whatever the node says.
    """

    name: str
    groups: frozenset[str]
    role: Role | None = None


class Registry:
    """The parties of a deployment by the id of their node.

    Flower gives a node its id when the coordinator registers the node's key, and lets nobody else
    use it: an id stands for whoever holds the key.

    Args:
        parties: by node id.
    """

    def __init__(self, parties: dict[int, Party]) -> None:
        self._parties = parties

    @classmethod
    def read(cls, file: str) -> "Registry | None":
        """Read `nodes.registry`; None where it is empty, and nodes are believed.

        A TOML file with a table `[nodes.<party>]` for each node: `node-id` (a text), `groups`, and
        `role` (`train` or `held-out`; without it the node's word counts).

        Raises:
            ConfigError: the file is missing or malformed.
        """
        if not file:
            return None
        try:
            entries = tomllib.loads(Path(file).read_text())["nodes"]
            parties = {
                int(entry["node-id"]): _party(name, entry) for name, entry in entries.items()
            }
        except OSError as error:
            raise ConfigError(f"nodes.registry = {file!r}: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"nodes.registry = {file!r} cannot be read ({type(error).__name__}: {error}). "
                "Expected a table [nodes.<party>] with node-id and groups for each node."
            ) from None
        return cls(parties)

    @property
    def groups(self) -> set[str]:
        """All groups that some party may serve."""
        return {group for party in self._parties.values() for group in party.groups}

    def name(self, node_id: int) -> str:
        """Return what to call a node."""
        party = self._parties.get(node_id)
        return f"{party.name} (node {node_id})" if party else f"Node {node_id}"

    def objection(self, node_id: int, roles: Mapping[str, Role]) -> str:
        """Return why a node must not serve these groups in these roles; empty: it may."""
        party = self._parties.get(node_id)
        if party is None:
            return "it is not in nodes.registry"
        if foreign := sorted(set(roles) - party.groups):
            allowed = ", ".join(sorted(party.groups)) or "none"
            return f"it claims the group {foreign[0]!r}, and may serve: {allowed}"
        other = sorted(group for group, role in roles.items() if role != party.role)
        if party.role and other:
            return f"{other[0]!r} has the role {roles[other[0]]!r}, and may be: {party.role}"
        return ""


def _party(name: str, entry: dict[str, Any]) -> Party:
    groups = entry["groups"]
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise TypeError(f"groups of {name} = {groups!r}")
    role = entry.get("role")
    if role not in (None, "train", "held-out"):
        raise ValueError(f"role of {name} = {role!r}: expected 'train' or 'held-out'")
    return Party(name, frozenset(groups), role)
