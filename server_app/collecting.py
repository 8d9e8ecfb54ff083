"""Sending a batch of messages to clients and collecting their replies, again where that helps."""

import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from server_app.announcing import announce
from server_app.exchange import ReducingGrid
from server_app.inbox import Inbox
from server_app.nodes.connections import Connections
from server_app.nodes.discovery import Client
from server_app.sending import reason_of

POLL_SECONDS, POLL_SHARE, MAX_POLL_SECONDS = 0.02, 0.05, 3.0
"""Pause between looks for replies: short at first, then a share of the time waited so far."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 5.0, 60.0
"""Pause before clients of a round that lacks replies are asked again; it doubles."""

Send = Callable[[Sequence[Message]], Sequence[str | None]]
Take = Callable[[Message], Message]


class Collector:
    """Collects replies to messages, one batch at a time.

    Args:
        grid: the runtime's grid.
        clients: all clients by id.
        inbox: accepts replies.
        connections: given where nodes are machines of their own, which come and go.
        patience: seconds to wait for them when a batch lacks replies.
    """

    def __init__(
        self,
        grid: Grid,
        clients: Mapping[int, Client],
        inbox: Inbox,
        connections: Connections | None = None,
        patience: float = 0.0,
    ) -> None:
        self._grid = grid
        self._clients = clients
        self._inbox = inbox
        self._connections = connections
        self._patience = patience
        self._busy: dict[int, tuple[str, float]] = {}  # client: message that it is late with, when

    def collect(
        self,
        batch: Sequence[Message],
        send: Send,
        take: Take | None,
        timeout: float | None,
        *,
        needed: int,
        retries: int = 0,
    ) -> tuple[dict[int, Message], dict[str, str]]:
        """Send messages and wait for the replies; return valid ones by client, and failures.

        Args:
            batch: messages to clients, one each.
            send: sends some of them; returns their ids, None for one that is not accepted.
            take: is given each valid reply as it comes in, and returns what is kept of it.
            timeout: seconds to wait for replies.
            needed: so many valid replies are waited for, with patience.
            retries: how often whoever failed is asked again in any case.
        """
        received, failures = self._ask(batch, send, take, timeout)
        pause, deadline = FIRST_PAUSE_SECONDS, time.monotonic() + self._patience
        while rest := [m for m in batch if m.metadata.dst_node_id not in received]:
            if retries:
                retries -= 1
            elif self._connections and len(received) < needed and time.monotonic() < deadline:
                self._say_wait(len(received), len(batch), needed, failures, deadline)
                time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                here = self._connections.connected()
                rest = [message for message in rest if message.metadata.dst_node_id in here]
                if len(received) + len(rest) < needed:
                    continue
            else:
                break
            more, failed = self._ask(rest, send, take, timeout)
            received |= more
            asked = {self._name(message) for message in rest}
            failures = {name: why for name, why in failures.items() if name not in asked} | failed
        return received, failures

    def _say_wait(
        self, valid: int, sent: int, needed: int, failures: Mapping[str, str], deadline: float
    ) -> None:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        left = deadline - time.monotonic()
        announce(
            "waiting",
            f"{valid} of {sent} clients sent a valid reply, {needed} are needed: waiting for up to "
            f"{left:.0f} s more (nodes.patience). {reasons}",
            {"valid": valid, "sent": sent, "needed": needed, "seconds_left": round(left, 1)}
            | {"failures": dict(failures)},
            "warning",
        )

    def _ask(
        self, batch: Sequence[Message], send: Send, take: Take | None, timeout: float | None
    ) -> tuple[dict[int, Message], dict[str, str]]:
        """Send messages once."""
        failures: dict[str, str] = {}
        reachable = self._reachable(batch, failures)
        started, now = time.monotonic(), time.time()  # a node that connects before is no lost one
        awaited: dict[str, Message] = {}
        for message, message_id in zip(reachable, send(reachable), strict=True):
            if message_id is None:
                failures[self._name(message)] = "the runtime did not accept the message to it"
            else:
                awaited[message_id] = message
        received: dict[int, Message] = {}
        computes = isinstance(self._grid, ReducingGrid)
        while awaited:
            replies = [r for r in self._pull(awaited) if r.metadata.reply_to_message_id in awaited]
            for reply in replies:
                client = self._clients[reply.metadata.src_node_id]
                del awaited[reply.metadata.reply_to_message_id]
                if reply.has_error():
                    failures[client.name] = reason_of(reply.error)
                else:
                    received[client.id] = take(reply) if take else reply
            late = timeout is not None and time.monotonic() - started > timeout
            if late and (computes or not replies):  # what is there already counts
                break
            if awaited and not replies and not computes:  # one that computes has waited itself
                self._drop_lost(awaited, now, failures)
                elapsed = time.monotonic() - started
                time.sleep(min(POLL_SECONDS + POLL_SHARE * elapsed, MAX_POLL_SECONDS))
        if awaited and isinstance(self._grid, ReducingGrid):
            self._grid.abandon(awaited)
        for message_id, message in awaited.items():
            self._inbox.forget(message_id)  # a late reply is ignored
            failures[self._name(message)] = f"no reply within {timeout:.0f} s"
            if self._connections:
                self._busy[message.metadata.dst_node_id] = message_id, now
        return received, failures

    def _pull(self, message_ids: Mapping[str, Message]) -> list[Message]:
        pulled = self._grid.pull_messages(list(message_ids))
        return [self._inbox.read(reply) for reply in pulled if self._inbox.expects(reply)]

    def _reachable(self, batch: Sequence[Message], failures: dict[str, str]) -> Sequence[Message]:
        """Return the messages whose client can take one; say why the others cannot."""
        if not self._connections:
            return batch
        here = self._connections.connected()
        self._see_who_is_free()
        busy = {self._connections.node_of(client) for client in self._busy}
        reachable = []
        for message in batch:
            client = message.metadata.dst_node_id
            if client not in here:
                failures[self._name(message)] = "its node is not connected"
            elif self._connections.node_of(client) in busy:  # it would wait behind that message
                failures[self._name(message)] = "it is still at work on an earlier message"
            else:
                reachable.append(message)
        return reachable

    def _see_who_is_free(self) -> None:
        """Forget who has answered too late, or whose node has lost the message."""
        if not self._busy or not self._connections:
            return
        client_of = {message_id: client for client, (message_id, _) in self._busy.items()}
        for reply in self._grid.pull_messages(list(client_of)):
            self._busy.pop(client_of[reply.metadata.reply_to_message_id], None)
        times = {client: when for client, (_, when) in self._busy.items()}
        for client in self._connections.restarted(times):
            del self._busy[client]

    def _drop_lost(
        self, awaited: dict[str, Message], when: float, failures: dict[str, str]
    ) -> None:
        """Await no reply of a node that has started anew since it was sent a message."""
        if not self._connections:
            return
        client_of = {i: message.metadata.dst_node_id for i, message in awaited.items()}
        lost = self._connections.restarted(dict.fromkeys(client_of.values(), when))
        for message_id, client in client_of.items():
            if client in lost:
                self._inbox.forget(message_id)
                failures[self._name(awaited.pop(message_id))] = "its node was restarted"

    def _name(self, message: Message) -> str:
        return self._clients[message.metadata.dst_node_id].name
