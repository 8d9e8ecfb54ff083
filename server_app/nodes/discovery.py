"""Finding out which clients there are: one `describe` query to every node."""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server_app.announcing import announce
from server_app.arrays import content_bytes
from server_app.nodes.disclosure import Disclosure
from server_app.sending import one_line, push, reason_of
from task import records
from task.errors import EncoderError, PopulationError
from task.features import FeatureSums
from task.population import PopulationAnswers
from task.roles import Role

POLL_SECONDS, NOTICE_SECONDS = 0.2, 10.0

NOWHERE = 0
"""In place of the id of a node, where there is none."""


@dataclass(frozen=True)
class Client:
    """A node's data of one group.

    Attributes:
        id: stable id, 1 to n in the order of names.
        node_id: Flower's id of the node, different in every run; `NOWHERE`: not connected yet.
        name: what messages call the client.
        group: the user group whose data it holds.
        role: `train` or `held-out`.
    """

    id: int
    node_id: int
    name: str
    group: str
    role: Role


@dataclass(frozen=True)
class Population:
    """What the nodes disclosed.

    Attributes:
        clients: all clients, by id.
        fingerprint: the encoder that all of them use.
        feature_sums: over the training groups' questions.
        question_keys: group to the keys of its questions.
        answers: the training groups' answers added up, if they disclose them.
    """

    clients: tuple[Client, ...]
    fingerprint: str
    feature_sums: FeatureSums
    question_keys: dict[str, NDArray[np.int64]]
    answers: PopulationAnswers | None = None

    @property
    def roles(self) -> dict[str, Role]:
        """The role of every group."""
        return {client.group: client.role for client in self.clients}

    @property
    def num_questions(self) -> dict[int, int]:
        """The number of questions of every client, by its id."""
        return {client.id: len(self.question_keys[client.group]) for client in self.clients}


def discover_clients(grid: Grid, timeout: float) -> Population:
    """Ask every node of a simulation what it holds, once all nodes are there.

    They say how many there should be, since a grid may at first show fewer.

    Raises:
        EncoderError: nodes use different encoders.
        PopulationError: no node answers, one fails, or there is no training group.
    """
    deadline = time.monotonic() + timeout
    next_notice = time.monotonic() + NOTICE_SECONDS
    found: dict[int, Disclosure] = {}
    while True:
        for node_id, described in describe(
            grid, set(grid.get_node_ids()) - set(found), max(1.0, deadline - time.monotonic())
        ).items():
            if isinstance(described, str):
                raise PopulationError(f"Node {node_id} cannot say what it holds: {described}")
            found[node_id] = described
        expected = max((each.num_partitions for each in found.values()), default=1)
        if len(found) >= max(expected, 1):
            return assemble(found)
        if time.monotonic() > next_notice:
            text = f"Waiting for nodes: {len(found)} of {expected} have answered"
            announce("waiting", text, {"answered": len(found), "expected": expected})
            next_notice = time.monotonic() + NOTICE_SECONDS
        if time.monotonic() > deadline:
            raise PopulationError(
                f"{len(found)} of {expected} nodes answered within {timeout:.0f} s. Are the "
                "SuperNodes running and connected?"
            )
        time.sleep(POLL_SECONDS)


def describe(grid: Grid, node_ids: Collection[int], timeout: float) -> dict[int, Disclosure | str]:
    """Ask nodes what they hold; return that, or why it cannot be told, of those who answer."""
    asked = ask_to_describe(grid, node_ids)
    deadline = time.monotonic() + timeout
    described: dict[int, Disclosure | str] = {}
    while asked:
        described |= take_described(grid, asked)
        if time.monotonic() > deadline:
            break
        if asked:
            time.sleep(POLL_SECONDS)
    return described


def ask_to_describe(grid: Grid, node_ids: Collection[int]) -> dict[str, int]:
    """Ask nodes what they hold; return the messages' ids with the nodes'."""
    asked = [
        Message(RecordDict(), dst_node_id=node_id, message_type=records.DESCRIBE)
        for node_id in sorted(node_ids)
    ]
    if not asked:
        return {}
    pushed = zip(push(grid, asked), asked, strict=True)
    return {i: message.metadata.dst_node_id for i, message in pushed if i}


def take_described(
    grid: Grid, asked: dict[str, int], most_bytes: float = math.inf
) -> dict[int, Disclosure | str]:
    """Return what has come in from nodes, or why it cannot be told, and take them from `asked`.

    Args:
        grid: the runtime's grid.
        asked: message id to node id.
        most_bytes: more than that is not read.
    """
    described: dict[int, Disclosure | str] = {}
    for reply in grid.pull_messages(list(asked)) if asked else []:
        # An error in a lost node's stead names no node.
        node_id = asked.pop(reply.metadata.reply_to_message_id, None)
        if node_id is None:
            continue
        if reply.has_error():
            described[node_id] = reason_of(reply.error)
            continue
        if (size := content_bytes(reply.content)) > most_bytes:
            described[node_id] = f"it says {size:,} bytes, expected at most {most_bytes:,.0f}"
            continue
        try:
            described[node_id] = Disclosure.read(reply.content)
        except PopulationError as malformed:
            described[node_id] = one_line(str(malformed))
    return described


def assemble(found: Mapping[int, Disclosure]) -> Population:
    """Put what nodes disclose together.

    Args:
        found: by node id.

    Raises:
        EncoderError: nodes use different encoders.
        PopulationError: two nodes hold one group, or there is no training group.
    """
    held = [(each, node_id) for node_id, node in found.items() for each in node.holdings]
    fingerprints: dict[str, list[str]] = {}
    for node in found.values():
        if node.holdings:
            groups = fingerprints.setdefault(node.fingerprint, [])
            groups.extend(each.group for each in node.holdings)
    _require_one_encoder(fingerprints)
    names = Counter(each.group for each, _ in held)
    if twice := [group for group, number in names.items() if number > 1]:
        raise PopulationError(f"{names[twice[0]]} nodes hold the group {twice[0]!r}: expected one.")
    # A sum of floats depends on its order: in the order of groups it is the same for any nodes.
    held.sort(key=lambda pair: pair[0].group)
    sums = {each.group: each.feature_sums for each, _ in held if each.feature_sums}
    answers = {each.group: each.answers for each, _ in held if each.answers}
    if not sums:
        raise PopulationError("No node holds a training group.")
    if len({len(each.total) for each in sums.values()}) > 1:
        raise PopulationError("Nodes have features of different dimensions.")
    clients = [
        Client(id=index, node_id=node_id, name=each.group, group=each.group, role=each.role)
        for index, (each, node_id) in enumerate(held, start=1)
    ]
    if answers and set(answers) != set(sums):
        silent = ", ".join(sorted(set(sums) - set(answers)))
        raise PopulationError(
            f"Training groups do not disclose their answers ({silent}), others do: expected the "
            "same predictor.population-weight on all nodes."
        )
    return Population(
        tuple(clients),
        next(iter(fingerprints)),
        reduce(add, sums.values()),
        {each.group: each.question_keys for each, _ in held},
        PopulationAnswers.merged(answers.values()) if answers else None,
    )


def _require_one_encoder(fingerprints: dict[str, list[str]]) -> None:
    if len(fingerprints) > 1:
        uses = "; ".join(f"{', '.join(groups)}: {name}" for name, groups in fingerprints.items())
        raise EncoderError(
            f"Clients use different encoders ({uses}). Give every client the same encoder.name, "
            "model files and encoder.text-format."
        )
