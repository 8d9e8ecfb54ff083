import json
import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from server_app.arrays import LocalArray
from server_app.checkpointing.plain_state import NotPlainError, Packed, is_plain, pack, unpack


def kept(value: Any) -> Any:
    """What comes back after the tree has been JSON."""
    packed = pack(value)
    text = json.dumps(packed.tree, allow_nan=False)
    return unpack(Packed(json.loads(text), packed.arrays))


VALUES = [
    None,
    True,
    3,
    2**200,
    -0.0,
    0.1 + 0.2,
    math.inf,
    5e-324,
    "Ü\n",
    b"\x00\xff",
    [1, [2.5, "a"], []],
    (1, (2,)),
    {"a": {"b": 1}, "c": []},
    {1: "a", (2, 3): "b", None: {"!": 4}},
    {"!": "dict", "is": 1},
    {1, 2},
    frozenset({"a"}),
    deque([1, 2], maxlen=2),
    OrderedDict(b=1, a=2),
    Counter("aab"),
    defaultdict(list, {"a": [1]}),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    found = kept(value)
    assert found == value
    assert type(found) is type(value)
    assert is_plain(value)
    if isinstance(value, float):
        assert math.copysign(1, found) == math.copysign(1, value)


def test_what_is_not_a_number_stays_so() -> None:
    assert math.isnan(kept({"a": [math.nan]})["a"][0])


def test_containers_keep_what_they_can_do() -> None:
    assert kept(deque([1, 2], maxlen=2)).maxlen == 2
    found = kept(defaultdict(list))
    found["new"].append(1)
    assert found == {"new": [1]}


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.5, np.nan, -0.0]),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array(3, dtype=np.int16),
        np.zeros((0, 4), dtype=np.bool_),
        np.array([1, 2**63], dtype=np.uint64),
        np.array([1.5], dtype=np.float16),
        np.arange(3, dtype=">f8"),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back_bit_for_bit(array: np.ndarray) -> None:
    found = kept({"a": [array]})["a"][0]
    assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape)
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # writable
    number = kept(np.float32(0.1))
    assert (type(number), number) == (np.float32, np.float32(0.1))


def test_tensors_come_back_bit_for_bit() -> None:
    for tensor in (
        torch.tensor([[1.5, -0.0]]),
        torch.tensor([1.5, 3e38], dtype=torch.bfloat16),
        torch.tensor(7),
        torch.zeros(2, requires_grad=True),
    ):
        found = kept(tensor)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert found.requires_grad == tensor.requires_grad
    parameter = kept(torch.nn.Parameter(torch.ones(1)))
    assert isinstance(parameter, torch.nn.Parameter)


def test_records_come_back_in_order() -> None:
    record = ArrayRecord({"b": Array(np.arange(2.0)), "a": Array(np.zeros(1, dtype=np.float32))})
    record["c"] = LocalArray(np.ones(3, dtype=np.float32))
    found = kept(record)
    assert list(found) == ["b", "a", "c"]
    for name, array in record.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name].numpy(), array.numpy())
    config = ConfigRecord({"lr": 0.1, "names": ["a"], "raw": b"x", "on": True})
    assert (kept(config), type(kept(config))) == (config, ConfigRecord)
    metrics = MetricRecord({"loss": 0.5, "pair": [1.0, 2.0]})
    assert (kept(metrics), type(kept(metrics))) == (metrics, MetricRecord)


def test_generators_go_on_where_they_were() -> None:
    for generator in (np.random.default_rng(3), np.random.Generator(np.random.MT19937(3))):
        generator.random(5)
        found = kept(generator)
        assert found.random(4).tolist() == generator.random(4).tolist()
    source = random.Random(3)
    source.gauss(0, 1)
    assert kept(source).random() == source.random()


def test_packing_copies() -> None:
    array, tensor, inner = np.zeros(2), torch.zeros(2), [1]
    record = ArrayRecord({"a": LocalArray(np.zeros(2, dtype=np.float32))})
    packed = pack({"array": array, "tensor": tensor, "list": inner, "record": record})
    array[0], tensor[0] = 1, 1
    inner.append(2)
    record["a"] = LocalArray(np.ones(2, dtype=np.float32))
    found = unpack(packed)
    assert (found["array"][0], found["tensor"][0], found["list"]) == (0, 0, [1])
    assert found["record"]["a"].numpy()[0] == 0
    found["array"][1] = 5
    assert unpack(packed)["array"][1] == 0


class Own:
    """Not plain."""


class OwnDict(dict):
    """Plain but for its type, which would be lost."""


@pytest.mark.parametrize(
    "value",
    [
        Own(),
        OwnDict(),
        print,
        np.array([None]),
        np.array(["a"]),
        np.array([1j]),
        np.ma.masked_array([1.0], [True]),
        defaultdict(lambda: 0),
        torch.zeros(2).to_sparse(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_anything_else_is_named_with_its_place(value: Any) -> None:
    assert not is_plain({"a": [value]})
    with pytest.raises(NotPlainError, match=r"^an? .*\(at /a/0\)"):
        pack({"a": [value]})
