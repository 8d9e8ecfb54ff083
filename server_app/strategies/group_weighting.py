"""Averaging over groups instead of clients, with weights that depend on how groups fare."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.supercore import log

from server_app.arrays import layout_of, to_arrays, to_vector
from server_app.nodes.discovery import Client
from task import records
from task.metrics import Mean
from task.weighting import Weights


@runtime_checkable
class WeighsGroups(Protocol):
    """A strategy that tells how much each group counted in the last round."""

    group_weights: Mapping[str, float]


@runtime_checkable
class HasClients(Protocol):
    """A grid that knows its clients: the population grid."""

    clients: Mapping[int, Client]


@dataclass(frozen=True)
class GroupResult:
    """A group's clients in a round, put together.

    Attributes:
        group: its name.
        num_examples: answered questions of its clients that train.
        reports: what its clients report, by the names in `task.records`, merged over them.
        values_P: its clients' parameters, float64, averaged by their numbers of examples.
    """

    group: str
    num_examples: float
    reports: Mapping[str, float]
    values_P: torch.Tensor


class GroupWeighting(flower.FedAvg):
    """FedAvg with a weight for each group. A rule overrides `weigh`.

    A group counts by its weight, however many clients hold its data: they are averaged first, by
    their numbers of examples.

    Attributes:
        reports: what a rule needs to know of every group (`task.reports`).
        group_weights: how much each group counted in the last round.
    """

    reports: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **flower_options: Any) -> None:
        super().__init__(**flower_options)
        self.group_weights: dict[str, float] = {}
        self._group_of: dict[int, str] = {}
        self._sent: ArrayRecord | None = None

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        """Return one weight >= 0 for each group, in sum 1.

        Args:
            groups: all groups that take part in the round, by name.
        """
        raise NotImplementedError

    def combine(self, start_P: torch.Tensor, groups: Sequence[GroupResult]) -> torch.Tensor:
        """Return the new global parameters, float64.

        Args:
            start_P: those that the clients were sent, float64.
            groups: as for `weigh`.
        """
        return self.average(groups, self.weigh(groups))

    def average(self, groups: Sequence[GroupResult], weights_G: Weights) -> torch.Tensor:
        """Return the weighted mean of the groups' parameters, and remember the weights."""
        self.group_weights = {
            each.group: float(weight) for each, weight in zip(groups, weights_G, strict=True)
        }
        return sum(
            (each.values_P * self.group_weights[each.group] for each in groups),
            torch.zeros_like(groups[0].values_P),
        )

    def settings(self) -> dict[str, object]:
        """Return the rule's settings for the log."""
        return {}

    # -- Flower's hooks ---------------------------------------------------------------------------

    def summary(self) -> None:
        """Log the strategy's settings."""
        log(INFO, "\t├──> %s settings:", type(self).__name__)
        for name, value in self.settings().items():
            log(INFO, "\t│\t├── %s: %s", name, value)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask clients for the reports too."""
        if isinstance(grid, HasClients):
            self._group_of = {client.id: client.group for client in grid.clients.values()}
        self._sent = arrays
        config[records.REPORTS] = list(self.reports)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put each group's clients together, then the groups."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid or self._sent is None:
            return None, None
        layout = layout_of(self._sent)
        start_P = to_vector(layout, self._sent).double()
        new_P = self.combine(start_P, self._by_group(valid)).float()
        metrics = self.train_metrics_aggr_fn(
            [reply.content for reply in valid], self.weighted_by_key
        )
        for name in self.reports:
            metrics.pop(name, None)  # a mean of pairs of sums and weights says nothing
        return to_arrays(layout, new_P), metrics

    def _by_group(self, replies: Sequence[Message]) -> list[GroupResult]:
        """Put replies together by group; a grid that knows no groups has one for each client."""
        of_group: dict[str, list[Message]] = {}
        for reply in replies:
            client = reply.metadata.src_node_id
            of_group.setdefault(self._group_of.get(client, str(client)), []).append(reply)
        return [self._merged(group, of_group[group]) for group in sorted(of_group)]

    def _merged(self, group: str, replies: Sequence[Message]) -> GroupResult:
        assert self._sent is not None
        layout = layout_of(self._sent)
        total_P = torch.zeros(layout.size, dtype=torch.float64)
        num_examples = 0.0
        reports = dict.fromkeys(self.reports, Mean())
        for reply in replies:
            metrics = reply.content.metric_records[records.METRICS]
            examples = float(metrics[records.NUM_EXAMPLES])  # type: ignore[arg-type]
            arrays = reply.content.array_records[records.ARRAYS]
            total_P += to_vector(layout, arrays).double() * examples
            num_examples += examples
            for name in self.reports:
                reports[name] += Mean(*metrics[name])  # type: ignore[misc]
        values = {name: mean.value for name, mean in reports.items()}
        return GroupResult(group, num_examples, values, total_P / num_examples)


def reported(groups: Sequence[GroupResult], report: str) -> Weights:
    """Return a report of each group."""
    return np.array([each.reports[report] for each in groups])


class Remembered:
    """A number for each group that lasts over rounds; groups may come later or be missing.

    Args:
        first: that of a group that is seen for the first time.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self._of: dict[str, float] = {}

    def of(self, groups: Sequence[GroupResult]) -> Weights:
        """Return the numbers of these groups."""
        return np.array([self._of.get(each.group, self._first) for each in groups])

    def keep(self, groups: Sequence[GroupResult], values_G: Weights) -> None:
        """Replace the numbers of these groups."""
        self._of |= {each.group: float(v) for each, v in zip(groups, values_G, strict=True)}

    def state_dict(self) -> dict[str, float]:
        """Return the number of every group, for a checkpoint."""
        return dict(self._of)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over what `state_dict` gave."""
        self._of = dict(state)
