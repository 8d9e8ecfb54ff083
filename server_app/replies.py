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
    for key in required:
        if expected := _expected(key, metrics[key]):
            return f"{key} = {metrics[key]}, expected {expected}"
    return None


def _expected(key: str, value: float | list[int] | list[float]) -> str | None:
    """Return what a metric was expected to be, if it is not."""
    if key in _EVALUATE_METRICS:
        is_pair = isinstance(value, list) and len(value) == 2 and 0 <= value[0] <= value[1]
        if not is_pair or (value == [0, 0] and key == records.SCORES_ALL):
            return "[sum, weight] of scores between 0 and 1"
    elif isinstance(value, list):
        return "one number"
    elif key == records.NUM_EXAMPLES and value <= 0:
        return "a number above 0"
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
        except (ValueError, EOFError, OSError) as error:  # NumPy's reader's
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
