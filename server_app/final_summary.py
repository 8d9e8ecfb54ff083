"""What a run ends with: `summary.json`, and the tables of groups and users."""

from collections.abc import Mapping
from typing import Any

from server_app.checkpointing.progress import Progress
from server_app.fairness import ROLE_KEYS, Scores, group_table, summarise
from server_app.reported_groups import ReportedGroups
from task.roles import Role


def final_summary(
    progress: Progress,
    baselines: Mapping[str, Scores],
    roles: Mapping[str, Role],
    reported: ReportedGroups,
    promise: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the content of `summary.json` and, where clients are users, their table.

    A client whose last evaluation failed is left out of the baselines as well.

    Args:
        progress: with the scores of the last evaluation, of each client.
        baselines: baseline name to clients' scores.
        roles: client to role.
        reported: the groups that scores are told of.
        promise: what the run promises about privacy.
    """
    of_clients: dict[str, Scores] = {
        name: {client: scores[client] for client in progress.scores}
        for name, scores in baselines.items()
    }
    model = reported.scores(progress.scores)
    of_groups = {name: reported.scores(scores) for name, scores in of_clients.items()}
    summary: dict[str, Any] = {
        key: {
            name: summarise(scores, reported.roles, role)
            for name, scores in {"model": model, **of_groups}.items()
        }
        for role, key in ROLE_KEYS.items()
    }
    summary["groups"] = group_table(model, of_groups, reported.roles)
    if progress.personal:
        summary["personal"] = progress.personal
    summary["missing_groups"] = sorted(set(reported.roles) - set(model))
    users = {}
    if not reported.are_clients:
        users = group_table(progress.scores, of_clients, roles)
        summary["missing_users"] = sorted(set(roles) - set(users))
        for group, number in reported.sizes(users).items():
            summary["groups"][group]["users"] = number
    summary["privacy"] = promise
    summary["round"] = progress.evaluated_round
    summary["best_round"] = progress.best_round
    best = reported.scores(progress.best_scores)
    summary["best"] = {
        key: summarise(best, reported.roles, role) for role, key in ROLE_KEYS.items()
    }
    return summary, users
