"""Scores that may be disclosed: means over the clients of a role, with noise."""

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, Message

from server_app.arrays import layout_of, to_vector
from server_app.central_privacy import CentralPrivacy
from server_app.fairness import ROLE_KEYS
from server_app.nodes.discovery import Client
from task import records
from task.ledger import SCORES, Release, digest_of
from task.metrics import Mean


def charge_scores(
    central: CentralPrivacy | None, server_round: int, arrays: ArrayRecord
) -> Release | None:
    """Pay for noisy scores before they are asked for; clients that add noise pay by themselves.

    Raises:
        BudgetError: they would cost more than the budget.
    """
    if central is None:
        return None
    digest = digest_of(to_vector(layout_of(arrays), arrays))
    return central.charge(SCORES, server_round, digest)


def noisy_means(
    central: CentralPrivacy | None,
    release: Release | None,
    clients: Iterable[Client],
    replies: Mapping[Client, Message],
) -> dict[str, dict[str, float]]:
    """Return the noisy mean alignment score of each role, as metrics of a round.

    Args:
        central: adds noise to the means; None: every client has added noise to its score.
        release: what was charged.
        clients: all clients.
        replies: to `evaluate`.
    """
    means = {}
    known = list(clients)
    of_role = {role: [c for c in known if c.role == role] for role in ROLE_KEYS}
    for role, key in ROLE_KEYS.items():
        scores = [_score(replies[client]) for client in of_role[role] if client in replies]
        if central and release and of_role[role]:
            mean = central.mean_score(release, role, scores, len(of_role[role]))
        elif scores:
            mean = sum(scores) / len(scores)
        else:
            continue
        means[key] = {"alignment_score": mean}
    return means


def reported_epsilons(replies: Iterable[Message]) -> list[float]:
    """Return what clients say that unit question has cost them so far, if they do."""
    metrics = [reply.content.metric_records[records.METRICS] for reply in replies]
    return [float(each[records.EPSILON]) for each in metrics if records.EPSILON in each]  # type: ignore[arg-type]


def _score(reply: Message) -> float:
    """Return the alignment score in a reply to `evaluate`: with noise, where clients add it."""
    metrics = reply.content.metric_records[records.METRICS]
    if records.NOISY_SCORE in metrics:
        return float(metrics[records.NOISY_SCORE])  # type: ignore[arg-type]
    return Mean(*metrics[records.SCORES_ALL]).value  # type: ignore[misc]
