"""What clients are: whole groups, or single users, each of a group (`data.clients`)."""

from collections.abc import Iterable, Mapping

from task.config import DataConfig
from task.errors import SurveyError

SEPARATOR = "/"


def user_client(group: str, user: str) -> str:
    """Return the name of the client that holds one user's data: GROUP/USER.

    Raises:
        SurveyError: the user's name has the separator in it.
    """
    if SEPARATOR in user:
        raise SurveyError(
            f"User {user!r} of group {group!r}: expected a name without {SEPARATOR!r}, which "
            "stands between group and user in a client's name. Rename the user."
        )
    return f"{group}{SEPARATOR}{user}"


def group_of(client: str, data: DataConfig) -> str:
    """Return the group that a client belongs to: itself, where clients are groups."""
    return client.rpartition(SEPARATOR)[0] if data.by_user else client


def members(clients: Iterable[str], data: DataConfig) -> Mapping[str, list[str]]:
    """Return each group's clients, both in name order."""
    found: dict[str, list[str]] = {}
    for client in clients:
        found.setdefault(group_of(client, data), []).append(client)
    return {group: sorted(found[group]) for group in sorted(found)}
