"""Which nodes fit together, and which node is no longer what it was."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from server_app.nodes.disclosure import Disclosure
from server_app.nodes.discovery import Client


def misfits(found: Mapping[int, Disclosure], *, discloses_answers: bool) -> dict[int, str]:
    """Return which nodes cannot take part beside the others, and why.

    Another encoder is not among the reasons: it ends the run (`assemble`).

    Args:
        found: by node id, whoever came first before the others.
        discloses_answers: whether the run needs training groups' answers.
    """
    dimensions: dict[str, Counter[int]] = {}
    for node in found.values():
        dimensions.setdefault(node.fingerprint, Counter()).update(_dimensions(node))
    reasons: dict[int, str] = {}
    held: set[str] = set()
    for node_id, node in found.items():
        usual = dimensions[node.fingerprint].most_common(1)
        groups = [each.group for each in node.holdings]
        trained = [each for each in node.holdings if each.role == "train"]
        other = [each for each in _dimensions(node) if each != usual[0][0]]
        if other:
            reasons[node_id] = f"its features have {other[0]} dimensions, expected {usual[0][0]}"
        elif twice := sorted(held & set(groups)):
            reasons[node_id] = f"another node holds the group {twice[0]!r}: expected one"
        elif any((each.answers is not None) != discloses_answers for each in trained):
            what = "withholds" if discloses_answers else "discloses"
            reasons[node_id] = f"it {what} answers, unlike predictor.population-weight says"
        else:
            held.update(groups)
    return reasons


def what_changed(
    node: Disclosure,
    clients: Iterable[Client],
    question_keys: Mapping[str, NDArray[np.int64]],
    fingerprint: str,
) -> str:
    """Return how a node differs from what it was when the run began; empty: it does not.

    Args:
        node: what it says it holds now.
        clients: those that are bound to it.
        question_keys: group to the keys of its questions, as the run began.
        fingerprint: of the run's encoder.
    """
    if node.fingerprint != fingerprint:
        return f"its encoder is {node.fingerprint}, the run's is {fingerprint}"
    held = {each.group: each for each in node.holdings}
    for client in clients:
        now = held.get(client.group)
        if now is None:
            return f"it no longer holds the group {client.group!r}"
        if now.role != client.role:
            return f"{client.group!r} has the role {now.role}, and began as {client.role}"
        if not np.array_equal(now.question_keys, question_keys[client.group]):
            return f"{client.group!r} has other questions than when the run began"
    return ""


def _dimensions(node: Disclosure) -> list[int]:
    return [len(each.feature_sums.total) for each in node.holdings if each.feature_sums]
