"""One exchange of messages: who answered, what it cost, and what is kept of the replies."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.message import make_message

from server_app.arrays import to_arrays, to_vector
from server_app.central_privacy import CentralPrivacy
from server_app.metadata import reply_metadata
from server_app.nodes.discovery import Client
from server_app.replies import SentParameters, mean_metrics
from task import records
from task.aggregation import Reduction, WeightedSum
from task.ledger import Release


@runtime_checkable
class ReducingGrid(Protocol):
    """A grid that can add clients' parameters up where they are computed."""

    @property
    def reduces(self) -> bool:
        """Whether it can in this run."""

    def push_reduced(self, messages: Iterable[Message], reduction: Reduction) -> Iterable[str]:
        """Send messages to train; their replies come without parameters."""

    def take_sum(self) -> WeightedSum:
        """Return the sum over the replies pulled since, and forget it."""

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Compute these messages no further: nobody waits for them any more."""


@dataclass
class Exchange:
    """One `send_and_receive`.

    Attributes:
        sent: number of messages.
        replies: valid replies by client, in id order; without parameters where `average` has them.
        average: the one reply that stands for all, if the strategy asked for no more.
        failures: client name to the reason why it does not count.
        bytes_down: array bytes sent to clients; `bytes_up` received from them.
        seconds: wall-clock time.
    """

    sent: int = 0
    replies: dict[Client, Message] = field(default_factory=dict)
    average: Message | None = None
    failures: dict[str, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


class Average:
    """Averages train replies one by one, so that memory does not grow with their number.

    The mean of all clients' parameters, weighted as the strategy would weigh them, is all that
    FedAvg and its family read: they get it as one reply, and average that.

    Args:
        reduction: how to weigh; clipping has been done before.
        sent: what the clients were sent.
    """

    def __init__(self, reduction: Reduction, sent: SentParameters) -> None:
        self.reduction = reduction
        self._sent = sent
        self._sum = WeightedSum(sent.layout.size)

    def take(self, reply: Message) -> Message:
        """Add a reply's parameters to the sum; return it without them."""
        metrics = reply.content.metric_records[records.METRICS]
        arrays = reply.content.array_records[records.ARRAYS]
        weight = metrics[records.NUM_EXAMPLES] if self.reduction.weighted else 1.0
        self._sum.add(to_vector(self._sent.layout, arrays), float(weight))  # type: ignore[arg-type]
        return make_message(reply.metadata, RecordDict({records.METRICS: metrics}))

    def merge(self, total: WeightedSum) -> None:
        """Add what a grid has summed up itself."""
        self._sum.merge(total)

    def reply(self, replies: Iterable[Message]) -> Message:
        """Return one reply with the mean parameters and metrics of all of these."""
        answered = list(replies)
        metrics = [reply.content.metric_records[records.METRICS] for reply in answered]
        weights = [
            float(each[records.NUM_EXAMPLES]) if self.reduction.weighted else 1.0  # type: ignore[arg-type]
            for each in metrics
        ]
        content = RecordDict(
            {
                records.ARRAYS: to_arrays(self._sent.layout, self._sum.mean()),
                records.METRICS: mean_metrics(metrics, weights),
            }
        )
        return make_message(answered[0].metadata, content)


class PrivateAverage(Average):
    """The mean of clients' clipped updates with noise; whatever their number of examples.

    Args:
        privacy: adds the noise.
        release: as it was charged.
        sent: what the clients were sent.
        message: one of the messages that were to be sent.
    """

    def __init__(
        self, privacy: CentralPrivacy, release: Release, sent: SentParameters, message: Message
    ) -> None:
        super().__init__(Reduction(weighted=False, clipping_norm=privacy.clipping_norm), sent)
        self._privacy = privacy
        self._release = release
        self._metadata = reply_metadata(message)

    def reply(self, replies: Iterable[Message]) -> Message:
        """Return one reply with the noisy mean, and the nominal number of clients behind it."""
        metrics_of = [reply.content.metric_records[records.METRICS] for reply in replies]
        within = sum(metrics[records.WITHIN_NORM] == 1 for metrics in metrics_of)
        mean_P = self._privacy.mean(self._release, self._sum, self._sent, within)
        metrics = MetricRecord({records.NUM_EXAMPLES: self._privacy.releases.nominal_cohort})
        content = RecordDict(
            {records.ARRAYS: to_arrays(self._sent.layout, mean_P), records.METRICS: metrics}
        )
        return make_message(self._metadata, content)
