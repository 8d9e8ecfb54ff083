"""Checking a client's reply before any strategy sees it."""

import numpy as np
from flwr.app import Message, MessageType, RecordDict

from task import records

_TRAIN_METRICS = (records.NUM_EXAMPLES, records.LOSS)
_EVALUATE_METRICS = (records.SCORES_ALL, records.SCORES_SEEN, records.SCORES_NEW)


def is_train(message: Message) -> bool:
    """Return whether a message asks to train, or replies to that."""
    return message.metadata.message_type.split(".")[0] == MessageType.TRAIN


def fault_of(message: Message, reply: RecordDict) -> str | None:
    """Return why a reply must not be aggregated, None if it may.

    Args:
        message: what was sent, with the parameters whose names and shapes must come back.
        reply: what the client sent back.
    """
    if fault := _metrics_fault(reply, _TRAIN_METRICS if is_train(message) else _EVALUATE_METRICS):
        return fault
    return _parameters_fault(message.content, reply) if is_train(message) else None


def _metrics_fault(reply: RecordDict, required: tuple[str, ...]) -> str | None:
    if set(reply.metric_records) != {records.METRICS}:
        return f"its metrics are in {sorted(reply.metric_records)}, expected {records.METRICS!r}"
    metrics = reply.metric_records[records.METRICS]
    for key in required:
        if key not in metrics:
            return f"its metrics lack {key!r}"
    for key, value in metrics.items():
        if not np.isfinite(value).all():
            return f"{key} = {value} is not finite"
    for key in set(required) & set(_EVALUATE_METRICS):
        if np.shape(metrics[key]) != (2,):
            return f"{key} = {metrics[key]}, expected [sum, weight]"
    if records.NUM_EXAMPLES in required and not np.all(
        np.greater(metrics[records.NUM_EXAMPLES], 0)
    ):
        return f"{records.NUM_EXAMPLES} = {metrics[records.NUM_EXAMPLES]}, expected more than 0"
    return None


def _parameters_fault(sent: RecordDict, reply: RecordDict) -> str | None:
    if set(reply.array_records) != {records.ARRAYS}:
        return f"its arrays are in {sorted(reply.array_records)}, expected {records.ARRAYS!r}"
    expected = sent.array_records[records.ARRAYS]
    returned = reply.array_records[records.ARRAYS]
    if set(returned) != set(expected):
        return "its parameters do not carry the names of the model's"
    for name, array in returned.items():
        try:
            values = array.numpy()
        except ValueError as error:
            return f"parameter {name} cannot be read: {error}"
        if values.dtype.kind != "f":
            return f"parameter {name} is of type {values.dtype}, expected floats"
        if values.shape != tuple(expected[name].shape):
            return (
                f"parameter {name} has shape {values.shape}, expected {tuple(expected[name].shape)}"
            )
        if not np.isfinite(values).all():
            return f"parameter {name} is not finite"
    return None
