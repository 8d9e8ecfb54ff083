"""What the population grid makes of a runtime's replies."""

import math
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from server_app.arrays import content_bytes, num_bytes
from server_app.bounds import UpdateBound
from server_app.metadata import changed, is_train
from server_app.replies import SentParameters, accept_train
from server_app.reply_metrics import MetricRules, ReplyError
from task import records

SPARE_BYTES = 1 << 20
"""What a reply may have above twice the size of those that were sent."""


@dataclass(frozen=True)
class _Expected:
    """A message to a client, and whether the grid below keeps the reply's parameters."""

    message: Message
    reduced: bool


class Rules(Protocol):
    """What replies must be, besides a train reply's parameters."""

    def accept(self, message: Message, reply: RecordDict, *, reduced: bool = False) -> None:
        """Check a reply to a message; `reduced`: the grid below keeps its parameters.

        Raises:
            ReplyError: it must not be used.
        """


class Inbox:
    """Turns a node's reply into its client's, and rejects one that must not be aggregated.

    Args:
        rules: what replies must be; None: those for metrics of any run.
        bound: how large an update may be; None: of any size.

    Attributes:
        num_bytes: array bytes of all valid replies so far, as they came over the wire.
    """

    def __init__(self, rules: Rules | None = None, bound: UpdateBound | None = None) -> None:
        self.num_bytes = 0
        self._rules: Rules = rules or MetricRules()
        self._bound = bound
        self._clipping_norm = 0.0
        self._server_round = 0
        self._expected: dict[str, _Expected] = {}  # by the runtime's message id
        self._sent: SentParameters | None = None  # of the last message to train

    def start(self, clipping_norm: float, server_round: int) -> None:
        """Begin a batch of messages.

        Args:
            clipping_norm: L2 norm to which every client's update is clipped; 0: no clipping.
            server_round: the federated round.
        """
        self._clipping_norm, self._server_round = clipping_norm, server_round
        self._sent = None  # a strategy may have changed a record that it sends again

    def expect(self, message_id: str, message: Message, *, reduced: bool = False) -> None:
        """Remember a message that the runtime has accepted under this id."""
        self._expected[message_id] = _Expected(message, reduced)

    def expects(self, reply: Message) -> bool:
        """Return whether this replies to a message that is neither answered nor forgotten."""
        return reply.metadata.reply_to_message_id in self._expected

    def forget(self, message_id: str) -> None:
        """Expect no reply to a message any more."""
        self._expected.pop(message_id, None)

    def read(self, reply: Message) -> Message:
        """Return a reply as strategies see it: from its client, valid or with an error.

        The client is found through the message that is replied to: an error reply for a lost node
        names no node.
        """
        expected = self._expected.pop(reply.metadata.reply_to_message_id)
        to_client = expected.message.metadata
        metadata = changed(
            reply.metadata,
            src_node_id=to_client.dst_node_id,
            group_id=to_client.group_id,
            message_type=to_client.message_type,
        )
        if reply.has_error():
            return make_message(metadata, error=reply.error)
        try:
            return make_message(metadata, self._accept(expected, reply.content))
        except ReplyError as fault:
            return make_message(metadata, error=Error(ErrorCode.UNKNOWN, str(fault)))

    def sent_to(self, message: Message) -> SentParameters:
        """Return the parameters in a message to train; strategies send most clients the same."""
        arrays = message.content.array_records[records.ARRAYS]
        if self._sent is None or self._sent.arrays is not arrays:
            self._sent = SentParameters(arrays)
        return self._sent

    def _accept(self, expected: _Expected, reply: RecordDict) -> RecordDict:
        """Return a reply's content as strategies see it, and count its bytes.

        Raises:
            ReplyError: it must not be aggregated.
        """
        size = sum(map(num_bytes, reply.array_records.values()))
        self._require_size(expected, content_bytes(reply))
        self._rules.accept(expected.message, reply, reduced=expected.reduced)
        accepted = reply
        if expected.reduced:
            # The grid has checked the parameters and clipped them: they are as many as were sent.
            size = self.sent_to(expected.message).num_bytes
        elif is_train(expected.message):
            sent = self.sent_to(expected.message)
            bound = math.inf
            if self._bound:
                bound = self._bound.norm(self._server_round, sent, expected.message)
            accepted = accept_train(reply, sent, self._clipping_norm, bound)
        self.num_bytes += size
        return accepted

    def _require_size(self, expected: _Expected, size: int) -> None:
        """Refuse to decode what is far larger than any reply.

        Raises:
            ReplyError: it is.
        """
        allowed = SPARE_BYTES
        if is_train(expected.message):
            allowed += 2 * self.sent_to(expected.message).num_bytes
        if size > allowed:
            raise ReplyError(f"its records have {size:,} bytes, expected at most {allowed:,}")
