"""Sending messages through a grid, whatever it returns for those that it does not accept."""

from collections.abc import Sequence

from flwr.app import Error, Message
from flwr.serverapp import Grid

MAX_REASON = 500
"""Characters that are kept of a reason, which may be a stranger's text."""


def push(grid: Grid, messages: Sequence[Message]) -> list[str | None]:
    """Send messages; return one id each, None for one that the runtime does not accept."""
    return accepted_ids(messages, list(grid.push_messages(messages)))


def accepted_ids(messages: Sequence[Message], returned: Sequence[str | None]) -> list[str | None]:
    """Return one id for each message, from what a grid returned for all of them."""
    if len(returned) < len(messages):  # Flower's simulation leaves out what it did not accept
        sent = {message.metadata.message_id for message in messages} & set(returned)
        ids = [message.metadata.message_id for message in messages]
        return [message_id if message_id in sent else None for message_id in ids]
    # Flower's HTTP grid returns None for what was not accepted.
    return [message_id or None for message_id in returned]


def reason_of(error: Error) -> str:
    """Return why a message was not answered, in words."""
    return one_line(error.reason or "") or f"error code {error.code}"


def one_line(text: str) -> str:
    """Return a stranger's text as part of a line of a log: printable, and not too long."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_REASON])
    shown = " ".join(shown.split())
    return shown if len(text) <= MAX_REASON else f"{shown[: MAX_REASON - 4]} ..."
