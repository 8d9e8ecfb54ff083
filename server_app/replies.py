"""Accepting a client's reply: what comes in is decoded, checked and clipped here, or rejected."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from server_app.arrays import layout_of, num_bytes, to_arrays, to_vector
from server_app.fairness import number
from server_app.nodes.discovery import Client
from server_app.reply_metrics import ReplyError
from task import records
from task.aggregation import clip_update
from task.compression import decompress
from task.errors import RoundError
from task.metrics import GroupScores, Mean
from task.parameters import Layout


class SentParameters:
    """Parameters that clients were sent, as a vector too; made once per round.

    Attributes:
        arrays: the record that was sent.
        layout: where each parameter lies in the vector.
        vector_P: the parameters.
        num_bytes: size of the record on the wire.
    """

    def __init__(self, arrays: ArrayRecord) -> None:
        self.arrays = arrays
        self.layout: Layout = layout_of(arrays)
        self.vector_P: torch.Tensor = to_vector(self.layout, arrays)
        self.num_bytes: int = num_bytes(arrays)


def accept_train(
    reply: RecordDict,
    sent: SentParameters,
    clipping_norm: float = 0.0,
    bound: float = math.inf,
) -> RecordDict:
    """Return a reply to `train` as strategies see it: decompressed, its update clipped.

    Its metrics are as `MetricRules` wants them.

    Args:
        reply: what the client sent back.
        sent: what it was sent, with the parameters whose names and shapes must come back.
        clipping_norm: L2 norm to clip its update to; 0: no clipping. The metrics then say whether
            it was within.
        bound: L2 norm that no honest client's update exceeds.

    Raises:
        ReplyError: it must not be aggregated.
    """
    compressed = set(reply.array_records) == {records.UPDATE}
    if compressed:
        values_P = sent.vector_P + _decompressed(reply.array_records[records.UPDATE], sent)
        if not values_P.isfinite().all():
            raise ReplyError("its compressed update is not finite")
    else:
        _require_parameters(reply, sent.arrays)
        if not clipping_norm and bound == math.inf:
            return reply
        values_P = to_vector(sent.layout, reply.array_records[records.ARRAYS])
    norm = float(torch.linalg.vector_norm(values_P - sent.vector_P))
    if norm > bound:
        raise ReplyError(
            f"its update has norm {norm:.3g}: local training cannot exceed {bound:.3g} "
            "(strategy.bound-updates)"
        )
    if not compressed and not clipping_norm:
        return reply
    metrics = reply.metric_records[records.METRICS]
    if clipping_norm:
        clipped_P = clip_update(sent.vector_P, values_P, clipping_norm)
        metrics = MetricRecord({**metrics, records.WITHIN_NORM: float(clipped_P is values_P)})
        values_P = clipped_P
    arrays = to_arrays(sent.layout, values_P)
    return RecordDict({records.ARRAYS: arrays, records.METRICS: metrics})


def mean_metrics(replies: Iterable[MetricRecord], weights: Iterable[float]) -> MetricRecord:
    """Return metrics' weighted means, and the sum of their numbers of examples.

    Raises:
        RoundError: a list of values is longer in one reply than in another.
    """
    examples: float = 0
    values: dict[str, list[float | list[float]]] = {}
    of_key: dict[str, list[float]] = {}
    for metrics, weight in zip(replies, weights, strict=True):
        examples += metrics[records.NUM_EXAMPLES]  # type: ignore[operator]
        for key, value in metrics.items():
            values.setdefault(key, []).append(value)  # type: ignore[arg-type]
            of_key.setdefault(key, []).append(weight)
    means: dict[str, float | list[float]] = {}
    for key, each in values.items():
        if len({np.shape(value) for value in each}) > 1:
            raise RoundError(f"Clients sent metric {key!r} with different numbers of values.")
        means[key] = np.average(np.array(each, dtype=float), axis=0, weights=of_key[key]).tolist()
    return MetricRecord({**means, records.NUM_EXAMPLES: examples})


def _decompressed(update: ArrayRecord, sent: SentParameters) -> torch.Tensor:
    compressed = {key: read_array(key, array) for key, array in update.items()}
    try:
        return torch.from_numpy(decompress(compressed, sent.layout.size))
    except ValueError as error:
        raise ReplyError(f"its compressed update cannot be read: {error}") from error


def read_array(name: str, array: Array) -> NDArray[Any]:
    """Return what a client sent under a name.

    Raises:
        ReplyError: its bytes are no array.
    """
    try:
        values = array.numpy()
    except Exception as error:  # the bytes are a stranger's, and NumPy's reader raises all sorts
        raise ReplyError(f"parameter {name} cannot be read: {error}") from error
    if not isinstance(values, np.ndarray):
        raise ReplyError(f"parameter {name} cannot be read: it is a {type(values).__name__}")
    return values


def _require_parameters(reply: RecordDict, expected: ArrayRecord) -> None:
    if set(reply.array_records) != {records.ARRAYS}:
        raise ReplyError(
            f"its arrays are in {sorted(reply.array_records)}, expected {records.ARRAYS!r}"
        )
    returned = reply.array_records[records.ARRAYS]
    if set(returned) != set(expected):
        raise ReplyError("its parameters do not carry the names of the model's")
    for name, array in returned.items():
        values = read_array(name, array)
        if values.dtype.kind != "f":
            raise ReplyError(f"parameter {name} is of type {values.dtype}, expected floats")
        if values.shape != tuple(expected[name].shape):
            raise ReplyError(
                f"parameter {name} has shape {values.shape}, expected {tuple(expected[name].shape)}"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(values.astype(np.float32)).all():
                raise ReplyError(f"parameter {name} is not finite")


def mean_loss(replies: Iterable[Message]) -> float | None:
    """Return the mean of the losses in replies to `train`; None: there are none."""
    metrics = [reply.content.metric_records[records.METRICS] for reply in replies]
    losses = [float(each[records.LOSS]) for each in metrics if records.LOSS in each]  # type: ignore[arg-type]
    return number(sum(losses) / len(losses)) if losses else None


def merged_scores(
    replies: Mapping[Client, Message],
) -> tuple[dict[str, GroupScores], dict[str, Mean]]:
    """Return groups' scores in replies to `evaluate`, and those of parameters of their own."""
    merged: dict[str, GroupScores] = {}
    personal: dict[str, Mean] = {}
    for client, reply in replies.items():
        metrics = reply.content.metric_records[records.METRICS]
        scores = GroupScores.from_metrics(metrics)  # type: ignore[arg-type]
        merged[client.group] = merged.get(client.group, GroupScores()) + scores
        if own := metrics.get(records.PERSONAL_SCORE):
            personal[client.group] = personal.get(client.group, Mean()) + Mean(*own)  # type: ignore[misc]
    return merged, personal
