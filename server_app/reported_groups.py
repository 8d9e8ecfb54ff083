"""What scores are told of: always groups, also where every user is a client (`data.clients`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from server_app.fairness import Scores
from task.clients import group_of
from task.config import DataConfig
from task.metrics import Calibration, GroupScores, Mean
from task.roles import Role


@dataclass(frozen=True)
class ReportedGroups:
    """Which group each client's scores go into.

    Attributes:
        roles: of the groups that are told of.
        of_client: client to the group that it is told of in.
    """

    roles: Mapping[str, Role]
    of_client: Mapping[str, str]

    @classmethod
    def of(cls, roles: Mapping[str, Role], data: DataConfig) -> "ReportedGroups":
        """Return the groups of clients with these roles.

        Of a group whose users have both roles, the held-out ones are told of apart.
        """
        groups = {client: group_of(client, data) for client in roles}
        trained = {groups[client] for client, role in roles.items() if role == "train"}
        of_client = {
            client: f"{group} (held out)"
            if data.by_user and roles[client] == "held-out" and group in trained
            else group
            for client, group in groups.items()
        }
        return cls({group: roles[client] for client, group in of_client.items()}, of_client)

    @property
    def are_clients(self) -> bool:
        """Whether every client is its own group."""
        return all(client == group for client, group in self.of_client.items())

    def scores(self, of_clients: Scores) -> Scores:
        """Return groups' scores: means over the clients that have such questions."""
        if self.are_clients:
            return of_clients
        return {
            group: _over_clients([of_clients[client] for client in clients])
            for group, clients in self._clients(of_clients).items()
        }

    def means(self, of_clients: Mapping[str, float]) -> Mapping[str, float]:
        """Return groups' means over clients."""
        if self.are_clients:
            return of_clients
        return {
            group: sum(of_clients[client] for client in clients) / len(clients)
            for group, clients in self._clients(of_clients).items()
        }

    def sums(self, of_clients: Mapping[str, float]) -> Mapping[str, float]:
        """Return groups' sums over clients."""
        if self.are_clients:
            return of_clients
        return {
            group: sum(of_clients[client] for client in clients)
            for group, clients in self._clients(of_clients).items()
        }

    def sizes(self, clients: Iterable[str]) -> Mapping[str, int]:
        """Return how many of some clients each group has."""
        return {group: len(found) for group, found in self._clients(clients).items()}

    def _clients(self, of_clients: Iterable[str]) -> dict[str, list[str]]:
        """Return the clients of each group, in the order in which they come."""
        found: dict[str, list[str]] = {}
        for client in of_clients:
            found.setdefault(self.of_client.get(client, client), []).append(client)
        return found


def _over_clients(scores: Sequence[GroupScores]) -> GroupScores:
    return GroupScores(
        all=_mean(each.all for each in scores),
        seen=_mean(each.seen for each in scores),
        new=_mean(each.new for each in scores),
        top_option=_mean(each.top_option for each in scores),
        # Bins of a user hold few options.
        calibration=reduce(add, (each.calibration for each in scores), Calibration()),
    )


def _mean(means: Iterable[Mean]) -> Mean:
    """Return the mean of clients' means, whatever number of questions each is over."""
    return reduce(add, (Mean(mean.value, 1.0) for mean in means if mean.weight), Mean())
