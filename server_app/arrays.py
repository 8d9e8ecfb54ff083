"""Parameters in Flower's records, without serialising what stays in one process."""

from collections.abc import Iterable
from io import BytesIO

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from numpy.typing import NDArray

from task.errors import RoundError
from task.parameters import Layout

_NPY_HEADER_BYTES = 128


class LocalArray(Array):
    """An `Array` around values in memory, serialised only if somebody asks for the bytes.

    Flower's own turns every array into bytes at once and back at every look.
    """

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values
        self.dtype = str(values.dtype)
        self.shape = tuple(values.shape)
        self.stype = "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values in NumPy's file format."""
        buffer = BytesIO()
        np.save(buffer, self._values, allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> NDArray[np.float32]:
        """Return a copy of the values, as Flower's arrays do."""
        return self._values.copy()

    def deflate(self) -> bytes:
        """Return what goes over the wire: SuperLink and nodes know no other kind than Flower's."""
        return Array(self._values).deflate()

    @property
    def num_bytes(self) -> int:
        """Size of `data`."""
        return self._values.nbytes + _NPY_HEADER_BYTES


def layout_of(arrays: ArrayRecord) -> Layout:
    """Return the layout of a model's arrays."""
    return Layout.of({name: array.shape for name, array in arrays.items()})


def to_vector(layout: Layout, arrays: ArrayRecord) -> torch.Tensor:
    """Return a model's arrays as one (P,) float32 vector."""
    tensors = arrays.to_torch_state_dict()
    return layout.flatten({name: tensor.float() for name, tensor in tensors.items()})


def to_arrays(layout: Layout, vector_P: torch.Tensor) -> ArrayRecord:
    """Return a (P,) vector as a model's arrays, without copying."""
    arrays = ArrayRecord()  # built from a dict, it would serialise every entry
    for name, view in layout.views(vector_P).items():
        arrays[name] = LocalArray(view.numpy())
    return arrays


def decoded(arrays: ArrayRecord) -> ArrayRecord:
    """Return arrays that a thread can read while others read theirs.

    NumPy parses the header of a serialised array as Python, and CPython 3.11 cannot parse in two
    threads at once: "AST constructor recursion depth mismatch", rarely.
    """
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array if isinstance(array, LocalArray) else LocalArray(array.numpy())
    return record


def require_finite(server_round: int, arrays: ArrayRecord) -> None:
    """Raise a `RoundError` unless all global parameters of a round are finite."""
    for name, array in arrays.items():
        if not np.isfinite(array.numpy()).all():
            raise RoundError(
                f"Round {server_round}: the aggregated parameter {name} is not finite. Expected "
                "finite numbers: the round is not kept. Continue from the last checkpoint "
                "(run.resume), with a smaller learning rate of clients or strategy in a new run."
            )


def num_bytes(arrays: ArrayRecord) -> int:
    """Return how many bytes the arrays take on the wire."""
    return sum(
        array.num_bytes if isinstance(array, LocalArray) else len(array.data)
        for array in arrays.values()
    )


def content_bytes(content: RecordDict) -> int:
    """Return about how many bytes all of a message's records take, names included."""
    size = sum(
        num_bytes(arrays) + sum(map(len, arrays)) for arrays in content.array_records.values()
    )
    plain: list[MetricRecord | ConfigRecord] = [*content.metric_records.values()]
    plain += content.config_records.values()
    for record in plain:
        for key, value in record.items():
            values = value if isinstance(value, list) else [value]
            size += len(key) + sum(len(v) if isinstance(v, str | bytes) else 8 for v in values)
    return size + sum(map(len, content))


def in_float32(batch: Iterable[Message]) -> list[Message]:
    """Return messages with float32 for float64, as clients compute in it.

    NumPy turns float32 into float64 wherever a strategy multiplies by one of its scalars, as
    Flower's FedAdam does. A record that several messages carry is converted once.
    """
    converted: dict[int, ArrayRecord] = {}

    def narrowed(arrays: ArrayRecord) -> ArrayRecord:
        if all(array.dtype != "float64" for array in arrays.values()):
            return arrays
        if id(arrays) not in converted:
            record = ArrayRecord()
            for name, array in arrays.items():
                wide = array.dtype == "float64"
                record[name] = LocalArray(array.numpy().astype(np.float32)) if wide else array
            converted[id(arrays)] = record
        return converted[id(arrays)]

    messages = []
    for message in list(batch):  # all alive at once, so that no two records share an id
        content = RecordDict({**message.content})
        for name, arrays in message.content.array_records.items():
            content[name] = narrowed(arrays)
        same = all(content[name] is record for name, record in message.content.items())
        messages.append(message if same else make_message(message.metadata, content))
    return messages
