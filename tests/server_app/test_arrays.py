import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from server_app.arrays import LocalArray, in_float32, layout_of, num_bytes, to_arrays, to_vector

shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)


def values_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@given(shapes)
def test_bytes_dtype_and_shape_are_those_of_flowers_array(shape: tuple[int, ...]) -> None:
    values = np.asarray(values_of(shape))
    ours, theirs = LocalArray(values), Array(values)
    assert ours.data == theirs.data
    assert (ours.dtype, tuple(ours.shape), ours.stype) == (
        theirs.dtype,
        tuple(theirs.shape),
        theirs.stype,
    )
    assert ours.num_bytes == len(ours.data)


@pytest.mark.parametrize("shape", [(), (1,), (10**6,), (1000, 3), (1,) * 12])
def test_the_number_of_bytes_is_known_without_writing_them(shape: tuple[int, ...]) -> None:
    array = LocalArray(np.zeros(shape, dtype=np.float32))
    assert array.num_bytes == len(array.data)


@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::2], lambda a: a[:, 1:]])
def test_a_view_is_written_as_its_values(view) -> None:
    values = view(values_of((6, 4)))
    array = LocalArray(values)
    np.testing.assert_array_equal(Array("", (), "numpy.ndarray", array.data).numpy(), values)
    assert array.num_bytes == len(array.data)


def test_values_are_copied_when_they_are_read_and_not_before() -> None:
    values = values_of((3, 2))
    array = LocalArray(values)
    read = array.numpy()
    read[:] = 7
    assert array.numpy().tobytes() == values.tobytes() != read.tobytes()
    values[0, 0] = 5
    assert array.numpy()[0, 0] == 5
    assert read.flags.writeable


def test_local_arrays_cross_the_wire_as_flowers_do() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    values = {"a": values_of((3, 2)), "b": np.array(3, dtype=np.float32)}
    received = []
    for kind in (Array, LocalArray):
        arrays = ArrayRecord({name: kind(value) for name, value in values.items()})
        message = Message(RecordDict({"arrays": arrays}), dst_node_id=1, message_type="train")
        proto = message_to_proto(message)
        received.append(message_from_proto(proto).content.array_records["arrays"])
    theirs, ours = received
    assert theirs == ours
    for name, value in values.items():
        assert type(ours[name]) is Array
        np.testing.assert_array_equal(ours[name].numpy(), value)


def test_local_arrays_can_be_pickled() -> None:
    values = values_of((3, 2))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(LocalArray(values))).numpy(), values)


def test_vectors_become_arrays_and_vectors_again() -> None:
    given = {"w": torch.randn(3, 5), "b": torch.randn(7)}
    arrays = ArrayRecord(given)
    layout = layout_of(arrays)
    assert list(layout.shapes) == ["w", "b"]
    vector = to_vector(layout, arrays)
    assert vector.shape == (layout.size,)
    back = to_arrays(layout, vector)
    assert torch.equal(to_vector(layout, back), vector)
    for name, tensor in given.items():
        assert back[name].data == Array(tensor.numpy()).data
        assert torch.equal(back.to_torch_state_dict()[name], tensor)


def test_a_vectors_arrays_are_not_serialised() -> None:
    given = ArrayRecord({"w": torch.randn(3, 5)})
    layout = layout_of(given)
    vector = to_vector(layout, given)
    arrays = to_arrays(layout, vector)
    assert isinstance(arrays["w"], LocalArray)
    vector += 1
    np.testing.assert_array_equal(arrays["w"].numpy(), given["w"].numpy() + 1)


def test_the_bytes_of_a_record_are_those_of_its_arrays() -> None:
    values = values_of((100,))
    record = ArrayRecord({"theirs": Array(values), "ours": LocalArray(values)})
    assert num_bytes(record) == sum(len(array.data) for array in record.values())
    assert num_bytes(ArrayRecord()) == 0


# -- in_float32 ------------------------------------------------------------------------------------


def message_of(**arrays: np.ndarray) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
    content = RecordDict({"arrays": record, "config": ConfigRecord({"mu": 0.5})})
    return Message(content, dst_node_id=5, message_type="train")


def test_arrays_in_float64_become_float32_and_nothing_else_changes() -> None:
    values = np.array([[0.1, 1e-3], [2.0, -3.0]])
    same = values_of((3,))
    message = message_of(w=values, b=same)
    (converted,) = in_float32([message])
    arrays = converted.content.array_records["arrays"]
    assert list(arrays) == ["w", "b"]
    assert {array.dtype for array in arrays.values()} == {"float32"}
    np.testing.assert_array_equal(arrays["w"].numpy(), values.astype(np.float32))
    assert arrays["b"].numpy().tobytes() == same.tobytes()
    assert converted.metadata == message.metadata
    assert converted.content.config_records == message.content.config_records
    assert message.content.array_records["arrays"]["w"].dtype == "float64"  # as it was


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**24 + 1]),  # float32 has no such number
        np.array([0.1], dtype=np.float16),
        np.array([True, False]),
        np.array([7], dtype=np.uint8),
    ],
    ids=lambda values: str(values.dtype),
)
def test_arrays_of_all_other_types_arrive_untouched(values: np.ndarray) -> None:
    alone, beside = message_of(w=values), message_of(w=values, wide=np.array([0.1]))
    first, second = in_float32([alone, beside])
    assert first is alone
    arrays = second.content.array_records["arrays"]
    assert list(arrays) == ["w", "wide"]
    assert arrays["w"] is beside.content.array_records["arrays"]["w"]
    assert arrays["w"].numpy().dtype == values.dtype
    np.testing.assert_array_equal(arrays["w"].numpy(), values)
    assert arrays["wide"].dtype == "float32"


def test_messages_in_float32_are_handed_on_as_they_are() -> None:
    messages = [message_of(w=values_of((2, 2))), message_of(w=values_of((3,)))]
    assert all(m is n for m, n in zip(messages, in_float32(messages), strict=True))


def test_a_record_that_several_messages_carry_is_converted_once() -> None:
    shared = message_of(w=np.ones(3)).content
    messages = [Message(shared, dst_node_id=n, message_type="train") for n in (1, 2)]
    first, second = (m.content.array_records["arrays"] for m in in_float32(messages))
    assert first is second


def test_messages_that_are_made_one_after_another_keep_arrays_of_their_own() -> None:
    """Nobody else holds a record that was converted: the next one may have its address."""

    def lazily() -> Iterator[Message]:
        for number in range(300):
            yield message_of(w=np.full(4, number, dtype=np.float64))

    converted = in_float32(lazily())
    found = [m.content.array_records["arrays"]["w"].numpy().tolist() for m in converted]
    assert found == [[number] * 4 for number in range(300)]


def test_over_the_wire_goes_an_array_of_flowers_own_kind() -> None:
    values = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    local = LocalArray(values)
    content = local.deflate()
    validate_object_content(content=content)  # as the SuperLink does
    assert local.object_id == Array(values).object_id
    inflated = Array.inflate(content, local.children)
    np.testing.assert_array_equal(inflated.numpy(), values)
