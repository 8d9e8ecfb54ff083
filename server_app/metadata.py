"""Flower's message metadata, which cannot be changed in place."""

from typing import Any

from flwr.app import Message, MessageType, Metadata

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


def reply_metadata(message: Message) -> Metadata:
    """Return the metadata of a reply to a message."""
    sent = message.metadata
    return changed(
        sent,
        message_id="",
        src_node_id=sent.dst_node_id,
        dst_node_id=sent.src_node_id,
        reply_to_message_id=sent.message_id,
    )


def is_train(message: Message) -> bool:
    """Return whether a message asks to train, or replies to that."""
    return message.metadata.message_type.split(".")[0] == MessageType.TRAIN
