"""Finding out which clients there are: one `describe` query to every node."""

import time
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from server_app.announcing import announce
from task import records
from task.errors import EncoderError, PopulationError
from task.features import FeatureSums
from task.population import PopulationAnswers
from task.roles import Role

POLL_SECONDS, NOTICE_SECONDS = 0.2, 10.0


@dataclass(frozen=True)
class Client:
    """A node's data of one group.

    Attributes:
        id: stable id, 1 to n in the order of names.
        node_id: Flower's id of the node, different in every run.
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


def discover_clients(grid: Grid, timeout: float) -> Population:
    """Ask every node what it holds, once all nodes are there.

    A simulation's nodes say how many there should be, since a grid may at first show fewer.

    Raises:
        EncoderError: nodes use different encoders.
        PopulationError: no node answers, one fails, or there is no training group.
    """
    deadline = time.monotonic() + timeout
    next_notice = time.monotonic() + NOTICE_SECONDS
    replies: dict[int, RecordDict] = {}
    while True:
        replies.update(_describe(grid, set(grid.get_node_ids()) - set(replies), deadline))
        expected = max((_num_partitions(content) for content in replies.values()), default=1)
        if len(replies) >= max(expected, 1):
            return _assemble(replies)
        if time.monotonic() > next_notice:
            text = f"Waiting for nodes: {len(replies)} of {expected} have answered"
            announce("waiting", text, {"answered": len(replies), "expected": expected})
            next_notice = time.monotonic() + NOTICE_SECONDS
        if time.monotonic() > deadline:
            raise PopulationError(
                f"{len(replies)} of {expected} nodes answered within {timeout:.0f} s. Are the "
                "SuperNodes running and connected?"
            )
        time.sleep(POLL_SECONDS)


def _describe(grid: Grid, node_ids: set[int], deadline: float) -> dict[int, RecordDict]:
    asked = [
        Message(RecordDict(), dst_node_id=node_id, message_type=records.DESCRIBE)
        for node_id in sorted(node_ids)
    ]
    if not asked:
        return {}
    replies = grid.send_and_receive(asked, timeout=max(1.0, deadline - time.monotonic()))
    described = {}
    for reply in replies:
        if reply.has_error():
            raise PopulationError(
                f"Node {reply.metadata.src_node_id} cannot say what it holds: {reply.error.reason}"
            )
        described[reply.metadata.src_node_id] = reply.content
    return described


def _num_partitions(content: RecordDict) -> int:
    return cast(int, content.config_records[records.HOLDINGS][records.NUM_PARTITIONS])


def _assemble(replies: dict[int, RecordDict]) -> Population:
    fingerprints: dict[str, list[str]] = {}
    held: list[tuple[str, Role, int]] = []
    keys: dict[str, NDArray[np.int64]] = {}
    sums: dict[str, FeatureSums] = {}
    answers: dict[str, PopulationAnswers] = {}
    for node_id, content in replies.items():
        holdings = content.config_records[records.HOLDINGS]
        groups = _groups(content)
        if not groups:
            continue
        roles = cast(list[Role], holdings[records.ROLES])
        fingerprints.setdefault(str(holdings[records.FINGERPRINT]), []).extend(groups)
        held += [(group, role, node_id) for group, role in zip(groups, roles, strict=True)]
        arrays = content.array_records[records.HELD_QUESTIONS]
        keys.update({group: arrays[str(index)].numpy() for index, group in enumerate(groups)})
        trained = [group for group, role in zip(groups, roles, strict=True) if role == "train"]
        sums.update(zip(trained, _feature_sums(content), strict=True))
        if disclosed := content.array_records.get(records.ANSWERS):
            answers.update(zip(trained, _answers(disclosed, len(trained)), strict=True))
    _require_one_encoder(fingerprints)
    names = Counter(group for group, *_ in held)
    if twice := [group for group, number in names.items() if number > 1]:
        raise PopulationError(f"{names[twice[0]]} nodes hold the group {twice[0]!r}: expected one.")
    if not sums:
        raise PopulationError("No node holds a training group.")
    clients = [
        Client(id=index, node_id=node_id, name=group, group=group, role=role)
        for index, (group, role, node_id) in enumerate(sorted(held), start=1)
    ]
    if answers and set(answers) != set(sums):
        silent = ", ".join(sorted(set(sums) - set(answers)))
        raise PopulationError(
            f"Training groups do not disclose their answers ({silent}), others do: expected the "
            "same predictor.population-weight on all nodes."
        )
    # A sum of floats depends on its order: in the order of groups it is the same for any nodes.
    pooled = reduce(add, (sums[group] for group in sorted(sums)))
    added_up = PopulationAnswers.merged(answers[group] for group in sorted(answers))
    return Population(
        tuple(clients), next(iter(fingerprints)), pooled, keys, added_up if answers else None
    )


def _groups(content: RecordDict) -> list[str]:
    return cast(list[str], content.config_records[records.HOLDINGS][records.GROUPS])


def _feature_sums(content: RecordDict) -> list[FeatureSums]:
    """Return the sums of each of a node's training groups."""
    arrays = content.array_records[records.FEATURE_SUMS]
    columns = (records.SUM_COUNT, records.SUM_TOTAL, records.SUM_SQUARES)
    return [
        FeatureSums(float(count), total, squares)
        for count, total, squares in zip(*(arrays[c].numpy() for c in columns), strict=True)
    ]


def _answers(disclosed: ArrayRecord, number: int) -> list[PopulationAnswers]:
    """Return the answers of each of a node's training groups."""
    groups: list[dict[str, NDArray[Any]]] = [{} for _ in range(number)]
    for key, array in disclosed.items():
        index, name = key.split(".")
        groups[int(index)][name] = array.numpy()
    answers = [PopulationAnswers.from_arrays(arrays) for arrays in groups]
    if any(not np.isfinite(each.totals).all() or (each.totals < 0).any() for each in answers):
        raise PopulationError("A node disclosed answers that are negative or not finite.")
    return answers


def _require_one_encoder(fingerprints: dict[str, list[str]]) -> None:
    if len(fingerprints) > 1:
        uses = "; ".join(f"{', '.join(groups)}: {name}" for name, groups in fingerprints.items())
        raise EncoderError(
            f"Clients use different encoders ({uses}). Give every client the same encoder.name, "
            "model files and encoder.text-format."
        )
