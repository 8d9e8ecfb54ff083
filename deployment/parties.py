"""Parties: an organisation with a machine, the groups that it holds, and its node's key."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.config import split_names
from task.errors import DeploymentError
from task.roles import Role

ROLES: tuple[Role, ...] = ("train", "held-out")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Party:
    """Who takes part.

    Attributes:
        name: lower-case letters, digits and `-`; names its folder and its node.
        groups: the groups that its machine serves.
        role: of all its groups.
        public_key: of its node, in OpenSSH's format; empty until the party has sent it.
        node_id: by which Flower knows the node; empty until the SuperLink has registered it.
    """

    name: str
    groups: tuple[str, ...]
    role: Role = "train"
    public_key: str = ""
    node_id: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DeploymentError(
                f"A party cannot be called {self.name!r}. Expected lower-case letters, digits and "
                "`-`, at most 63 of them."
            )
        if not self.groups:
            raise DeploymentError(f"Party {self.name!r} has no group. Expected NAME=GROUP.")
        if self.role not in ROLES:
            raise DeploymentError(
                f"Party {self.name!r} has the role {self.role!r}. Expected {' or '.join(ROLES)}."
            )


def parse_party(text: str, role: Role) -> Party:
    """Parse `NAME=GROUP`, or `NAME=GROUP|GROUP` for a machine with several.

    Raises:
        DeploymentError: it is not of that form.
    """
    name, separator, groups = text.partition("=")
    if not separator:
        raise DeploymentError(f"{text!r} names no group. Expected NAME=GROUP, as in paper=France.")
    return Party(name.strip(), split_names(groups), role)


def parties_from_toml(content: Mapping[str, Any], file: Path) -> list[Party]:
    """Read `[parties.NAME]` tables, in name order.

    Raises:
        DeploymentError: a key is missing or of the wrong type.
    """
    parties = []
    for name, entry in sorted(content.get("parties", {}).items()):
        groups = entry.get("groups") if isinstance(entry, Mapping) else None
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise DeploymentError(
                f"{file}: [parties.{name}] needs groups, a list of names, as in groups = "
                '["Germany"].'
            )
        parties.append(
            Party(
                name,
                tuple(groups),
                entry.get("role", "train"),
                str(entry.get("public-key", "")),
                str(entry.get("node-id", "")),
            )
        )
    return parties


def parties_to_toml(parties: Sequence[Party]) -> dict[str, Any]:
    """Return what `parties_from_toml` reads."""
    return {
        "parties": {
            party.name: {
                "groups": list(party.groups),
                "role": party.role,
                "public-key": party.public_key,
                "node-id": party.node_id,
            }
            for party in sorted(parties, key=lambda party: party.name)
        }
    }


def require_distinct(parties: Sequence[Party]) -> None:
    """Raise a `DeploymentError` where two parties have the same name, or the same group."""
    names = [party.name for party in parties]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DeploymentError(f"Two parties are called {twice[0]!r}: expected different names.")
    groups = [group for party in parties for group in party.groups]
    shared = sorted({group for group in groups if groups.count(group) > 1})
    if shared:
        owners = [party.name for party in parties if shared[0] in party.groups]
        raise DeploymentError(
            f"Group {shared[0]!r} is said to be with {' and with '.join(owners)}. Expected one "
            "party for each group."
        )
