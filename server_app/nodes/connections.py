"""Nodes on machines of their own: which there are, whom they serve, and whether they are there."""

import math
import time
from collections.abc import Collection, Mapping
from datetime import datetime

from flwr.serverapp import Grid

from server_app.announcing import announce
from server_app.nodes.disclosure import Disclosure
from server_app.nodes.discovery import (
    Population,
    ask_to_describe,
    assemble,
    take_described,
)
from server_app.nodes.fitting import misfits, what_changed
from server_app.nodes.registry import Registry
from task.config import RunConfig
from task.errors import PopulationError
from task.roles import Role

LOOK_SECONDS, NOTICE_SECONDS = 1.0, 10.0
ASK_AGAIN_SECONDS = 60.0
"""After so long a node that could not say what it holds is asked again: it may have been mended."""

RETURN_SECONDS = 60.0
"""How long a resumed run waits for more clients than a round needs: nodes return one by one."""

DESCRIBE_SECONDS = 300.0
"""How long a node may take to say what it holds: the first time it computes features."""

DESCRIBE_BYTES = 64 << 20
"""Largest description of a node."""

GRACE_SECONDS = 30.0
"""How long nodes that were asked what they hold are waited for when there are enough others."""

RECHECK_SECONDS = 10.0
"""How long a node that has come back is waited for until it says again what it holds."""


class Connections:
    """The nodes that the grid reaches, and the clients they are bound to.

    A node that has an id of its own for good (node authentication) keeps its clients. One that
    comes back with another id is asked again what it holds, and takes over the clients of a node
    that is gone.

    Args:
        grid: the runtime's grid.
        config: the run's settings.
    """

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self._grid = grid
        self._nodes = config.nodes
        self._fraction = config.train.min_valid_fraction
        self._registry = Registry.read(config.nodes.registry)
        self._discloses_answers = config.predictor.population_weight > 0
        self._found: dict[int, Disclosure] = {}
        self._refused: dict[int, tuple[str, float]] = {}  # reason, and when
        self._asked: dict[str, int] = {}  # messages that ask nodes what they hold
        self._asked_at: dict[int, float] = {}
        self._activated: dict[int, str] = {}  # when a node had connected that was asked
        self._node_of: dict[int, int] = {}
        self._population: Population | None = None  # since the run began
        if self._registry is None:
            announce(
                "no-registry",
                "WARNING: nodes.registry is empty: every node is believed whatever group it says "
                "it holds, and a new one takes over the group of one that is away. Expected a "
                "registry of the parties wherever they do not all trust each other "
                "(`pluralllm deploy` writes one).",
                level="warning",
            )

    def gather(self, began: Mapping[str, Role] | None = None) -> Population:
        """Wait for the run's nodes, and return what they disclose.

        Args:
            began: of a resumed run, the groups that it began with. Once those are there that a
                round needs, the others have `RETURN_SECONDS`; they are taken in later, too.

        Raises:
            EncoderError: nodes use different encoders.
            PopulationError: too few nodes came within `nodes.patience`.
        """
        deadline = time.monotonic() + self._nodes.patience
        enough_by = math.inf
        next_notice = time.monotonic() + NOTICE_SECONDS
        while True:
            online = self._meet()
            here = self._fitting(online)
            lacks = self._lacks_of(here, began) if began else self._lacks(here)
            now = time.monotonic()
            if not lacks:
                enough_by = min(enough_by, now + RETURN_SECONDS)
                all_back = set(began or ()) <= _groups(here) or now >= enough_by
                if all_back and not (now <= deadline and self._are_late(GRACE_SECONDS)):
                    return assemble(here)
            elif now > deadline:
                raise PopulationError(
                    f"Waited {self._nodes.patience:.0f} s (nodes.patience) for nodes: {lacks}."
                    f"{self._refusals()} Are the SuperNodes running, connected and registered?"
                )
            if now > next_notice:
                lacks = lacks or "there are enough, and others are given a moment"
                text = f"Waiting for nodes: {lacks}.{self._refusals()}"
                announce("waiting", text, {"lacks": lacks, "refused": self._refusals().strip()})
                next_notice = time.monotonic() + NOTICE_SECONDS
            time.sleep(LOOK_SECONDS)

    def bind(self, population: Population) -> None:
        """Remember where the run's clients are, under the ids that they have in it.

        One that is nowhere (`discovery.NOWHERE`) is not connected, until a node comes with its
        group and data.
        """
        self._population = population
        self._node_of = {client.id: client.node_id for client in population.clients}

    def node_of(self, client_id: int) -> int:
        """Return the id of the node on which a client is."""
        return self._node_of[client_id]

    def connected(self) -> set[int]:
        """Return the ids of the clients whose node is there, those of returned nodes among them.

        One that has connected anew is there once it has said again that it holds what it did.
        """
        online = self._meet()
        while self._are_late(RECHECK_SECONDS, set(self._node_of.values())):
            time.sleep(LOOK_SECONDS)
            online = self._meet()
        self._rebind(online)
        here = (online & set(self._found)) - set(self._asked.values())
        return {client for client, node in self._node_of.items() if node in here}

    def restarted(self, sent: Mapping[int, float]) -> set[int]:
        """Return which clients' nodes have connected anew since they were sent a message.

        What such a node was sent before is lost. Flower says so only if nobody can be reached at
        the moment at which it is asked.

        Args:
            sent: client id to the time of the message, in seconds since the epoch; its node was
                there.
        """
        activated = {
            node.node_id: datetime.fromisoformat(node.last_activated_at).timestamp()
            for node in self._grid.get_nodes()
            if node.last_activated_at
        }
        return {
            client
            for client, when in sent.items()
            if activated.get(self._node_of[client], 0.0) > when
        }

    def _meet(self) -> set[int]:
        """Ask nodes that are new what they hold, and see who has answered; wait for nobody.

        Returns:
            The ids of all nodes that are there.
        """
        online = set(self._grid.get_node_ids())
        self._ask(online)
        described_by = take_described(self._grid, self._asked, DESCRIBE_BYTES)
        for node_id in set(self._asked.values()):
            if time.monotonic() - self._asked_at[node_id] > DESCRIBE_SECONDS:
                described_by[node_id] = f"no answer within {DESCRIBE_SECONDS:.0f} s"
        self._asked = {i: n for i, n in self._asked.items() if n in online - set(described_by)}
        for node_id, described in described_by.items():
            if isinstance(described, str):
                self._refuse(node_id, f"cannot say what it holds: {described}")
                continue
            if objection := self._objection(node_id, described):
                self._refuse(node_id, f"is refused: {objection}")
                continue
            self._refused.pop(node_id, None)
            known, self._found[node_id] = node_id in self._found, described
            if not known:
                self._say_here(node_id, described)
        return online

    def _objection(self, node_id: int, node: Disclosure) -> str:
        """Return why a node must not take part; empty: it may."""
        roles = {each.group: each.role for each in node.holdings}
        if self._registry and (objection := self._registry.objection(node_id, roles)):
            return objection
        if (run := self._population) is None:
            return ""
        mine = [client for client in run.clients if self._node_of[client.id] == node_id]
        return what_changed(node, mine, run.question_keys, run.fingerprint) if mine else ""

    def _say_here(self, node_id: int, node: Disclosure) -> None:
        name = self._name(node_id)
        groups = [f"{each.group} ({len(each.question_keys)} questions)" for each in node.holdings]
        text = f"{name} is here with {', '.join(groups) or 'no group'}"
        if self._population and not {each.group for each in node.holdings} & set(
            self._population.roles
        ):
            text += ": it takes no part, because the run has begun without it"
        fields = {"node": name, "groups": [each.group for each in node.holdings]}
        announce("node-here", text, fields)

    def _fitting(self, online: set[int]) -> dict[int, Disclosure]:
        """Return the nodes that can begin a run together, by id; refuse the others by name."""
        there = {node_id: node for node_id, node in self._found.items() if node_id in online}
        for node_id, why in misfits(there, discloses_answers=self._discloses_answers).items():
            self._refuse(node_id, f"is refused: {why}")
            del there[node_id]
        return dict(sorted(there.items()))

    def _are_late(self, seconds: float, nodes: Collection[int] | None = None) -> bool:
        """Return whether nodes (None: any) have yet to answer, and were asked not long ago."""
        now = time.monotonic()
        return any(
            now - self._asked_at[node] < seconds
            for node in self._asked.values()
            if nodes is None or node in nodes
        )

    def _ask(self, online: set[int]) -> None:
        now = time.monotonic()
        tried = {i for i, (_, when) in self._refused.items() if now - when < ASK_AGAIN_SECONDS}
        activated = {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}
        same = {i for i in self._found if activated.get(i, "") == self._activated.get(i, "")}
        asked = ask_to_describe(self._grid, online - same - set(self._asked.values()) - tried)
        self._activated |= {node: activated.get(node, "") for node in asked.values()}
        self._asked |= asked
        self._asked_at |= dict.fromkeys(asked.values(), now)

    def _refuse(self, node_id: int, reason: str) -> None:
        self._found.pop(node_id, None)
        known = self._refused.get(node_id, ("", 0.0))[0]
        self._refused[node_id] = reason, time.monotonic()
        if reason != known:
            fields = {"node": self._name(node_id), "reason": reason}
            announce("node-refused", f"{self._name(node_id)} {reason}", fields, "warning")

    def _refusals(self) -> str:
        reasons = [f"{self._name(i)} {why}" for i, (why, _) in sorted(self._refused.items())]
        return f" {'; '.join(reasons)}." if reasons else ""

    def _lacks_of(self, here: Mapping[int, Disclosure], began: Mapping[str, Role]) -> str:
        """Return what is missing before a run can go on; empty: nothing."""
        there = _groups(here) & set(began)
        train = [group for group, role in began.items() if role == "train"]
        needed = max(1, math.ceil(self._fraction * len(train)))
        if (number := len(there & set(train))) < needed:
            return f"{number} of the run's {len(train)} training groups are here, expected {needed}"
        if len(there) < (least := min(self._nodes.min_available, len(began))):
            return f"{len(there)} of the run's groups are here, expected {least}"
        return ""

    def _lacks(self, here: Mapping[int, Disclosure]) -> str:
        """Return what is missing before a run can start; empty: nothing."""
        held = [each for node in here.values() for each in node.holdings]
        names = {each.group for each in held}
        wanted: set[str] = set()
        if self._registry and not self._nodes.min_available:
            wanted = self._registry.groups
        if missing := sorted(wanted - names):
            return f"{len(names)} groups are here, missing: {', '.join(missing)}"
        if len(names) < self._nodes.min_available:
            return f"{len(names)} of {self._nodes.min_available} groups are here"
        if not any(each.role == "train" for each in held):
            return "no training group is here"
        if not self._registry and not self._nodes.min_available and self._asked:
            return f"{len(self._asked)} nodes have not said yet what they hold"
        return ""

    def _rebind(self, online: set[int]) -> None:
        """Let nodes with a new id take over the clients of nodes that are gone."""
        run = self._population
        bound = set(self._node_of.values())
        for node_id in sorted((online & set(self._found)) - bound):
            node = self._found[node_id]
            held = {each.group for each in node.holdings}
            for client in run.clients if run else ():
                gone = client.group in held and self._node_of[client.id] not in online
                if not run or not gone:
                    continue
                if why := what_changed(node, [client], run.question_keys, run.fingerprint):
                    self._refuse(node_id, f"is refused: {why}")
                    break
                self._node_of[client.id] = node_id
                text = f"{client.name} is back, on node {node_id}"
                announce("client-back", text, {"client": client.name, "node": str(node_id)})

    def _name(self, node_id: int) -> str:
        return self._registry.name(node_id) if self._registry else f"Node {node_id}"


def _groups(nodes: Mapping[int, Disclosure]) -> set[str]:
    return {each.group for node in nodes.values() for each in node.holdings}
