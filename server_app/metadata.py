"""Flower's message metadata, which cannot be changed in place."""

from typing import Any

from flwr.app import Metadata

_FIELDS = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
)


def changed(metadata: Metadata, **changes: Any) -> Metadata:
    """Return the same metadata but for these fields."""
    return Metadata(**{name: getattr(metadata, name) for name in _FIELDS} | changes)
