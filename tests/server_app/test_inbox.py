import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.task_identity import TaskIdentity

from server_app.inbox import Inbox
from server_app.reply_metrics import MetricRules
from task import records

START = np.zeros((3, 4), dtype=np.float32)


def message(client_id: int = 3, arrays: ArrayRecord | None = None) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    content = RecordDict({records.ARRAYS: arrays or ArrayRecord({"w": Array(START)})})
    return Message(content, dst_node_id=client_id, message_type="train", group_id="5")


def reply_to(message_id: str, values: np.ndarray | None, loss: float = 1.0) -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="reply",
        src_node_id=987654,
        dst_node_id=1,
        reply_to_message_id=message_id,
        group_id="",
        created_at=0.0,
        ttl=10.0,
        message_type="train",
    )
    metrics = MetricRecord({records.NUM_EXAMPLES: 2, records.LOSS: loss})
    content = RecordDict({records.METRICS: metrics})
    if values is not None:
        content[records.ARRAYS] = ArrayRecord({"w": Array(values.astype(np.float32))})
    return make_message(metadata, content)


def values_of(reply: Message) -> np.ndarray:
    return reply.content.array_records[records.ARRAYS]["w"].numpy()


def test_a_nodes_reply_becomes_its_clients() -> None:
    inbox = Inbox()
    inbox.start(0.0, 1)
    inbox.expect("a", message(3))
    inbox.expect("b", message(4))
    read = inbox.read(reply_to("b", START + 1))
    assert (read.metadata.src_node_id, read.metadata.group_id) == (4, "5")
    np.testing.assert_array_equal(values_of(read), START + 1)


def test_a_reply_is_expected_once_and_not_after_it_is_forgotten() -> None:
    inbox = Inbox()
    inbox.start(0.0, 1)
    inbox.expect("a", message())
    inbox.expect("b", message())
    reply = reply_to("a", START)
    assert inbox.expects(reply)
    inbox.read(reply)
    assert not inbox.expects(reply)
    inbox.forget("b")
    inbox.forget("b")
    assert not inbox.expects(reply_to("b", START))
    assert not inbox.expects(reply_to("c", START))


def test_updates_are_clipped_to_the_norm_of_all_parameters_together() -> None:
    inbox = Inbox()
    inbox.start(0.5, 1)
    inbox.expect("a", message())
    inbox.expect("b", message())
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    clipped = values_of(inbox.read(reply_to("a", values)))
    np.testing.assert_allclose(clipped, values * 0.5 / np.linalg.norm(values), atol=1e-7)
    small = values / 100
    np.testing.assert_array_equal(values_of(inbox.read(reply_to("b", small))), small.astype("f4"))


def test_valid_replies_are_counted_in_bytes_and_others_are_not() -> None:
    inbox = Inbox()
    inbox.start(0.0, 1)
    for message_id in "ab":
        inbox.expect(message_id, message())
    good = reply_to("a", START)
    inbox.read(good)
    size = len(good.content.array_records[records.ARRAYS]["w"].data)
    assert inbox.num_bytes == size
    rejected = inbox.read(reply_to("b", START * np.nan))
    assert "w is not finite" in rejected.error.reason
    assert inbox.num_bytes == size


def test_a_reduced_reply_needs_no_parameters_and_counts_as_many_bytes_as_were_sent() -> None:
    inbox = Inbox()
    inbox.start(0.5, 1)
    sent = message()
    inbox.expect("a", sent, reduced=True)
    inbox.expect("b", sent, reduced=True)
    read = inbox.read(reply_to("a", None))
    assert set(read.content) == {records.METRICS}
    assert inbox.num_bytes == len(sent.content.array_records[records.ARRAYS]["w"].data)
    assert "loss" in inbox.read(reply_to("b", None, loss=np.inf)).error.reason


def test_a_reduced_reply_weighs_no_more_than_the_questions_of_its_client() -> None:
    inbox = Inbox(MetricRules(num_questions={3: 1, 4: 2}))
    inbox.start(0.5, 1)
    for message_id, client in (("a", 3), ("b", 4)):
        inbox.expect(message_id, message(client), reduced=True)
    assert (
        "num-examples = 2, expected a number above 0 and at most 1"
        in inbox.read(reply_to("a", None)).error.reason
    )
    assert not inbox.read(reply_to("b", None)).has_error()


def test_clients_may_have_been_sent_different_parameters() -> None:
    inbox = Inbox()
    inbox.start(1.0, 1)
    inbox.expect("a", message(arrays=ArrayRecord({"w": Array(START + 10)})))
    inbox.expect("b", message(arrays=ArrayRecord({"w": Array(START + 20)})))
    step = START.copy()
    step[0, 0] = 3
    for message_id, start in (("b", 20), ("a", 10)):
        read = values_of(inbox.read(reply_to(message_id, START + start + step)))
        np.testing.assert_allclose(read, START + start + step / 3, atol=1e-6)


def test_a_record_that_is_changed_in_place_between_rounds_is_read_again() -> None:
    """A strategy may keep one ArrayRecord and put every round's parameters into it."""
    arrays = ArrayRecord({"w": Array(START)})
    inbox = Inbox()
    inbox.start(1.0, 1)
    inbox.expect("a", message(arrays=arrays))
    inbox.read(reply_to("a", START))
    arrays["w"] = Array(START + 10)
    inbox.start(1.0, 1)
    inbox.expect("b", message(arrays=arrays))
    step = START.copy()
    step[0, 0] = 3
    read = values_of(inbox.read(reply_to("b", START + 10 + step)))
    np.testing.assert_allclose(read, START + 10 + step / 3, atol=1e-6)


def test_all_records_of_a_reply_count_for_its_size() -> None:
    inbox = Inbox()
    inbox.start(0.0, 1)
    for message_id in "ab":
        inbox.expect(message_id, message())
    settings, metrics = reply_to("a", START), reply_to("b", START)
    settings.content["more"] = ConfigRecord({"text": "x" * 2_000_000})
    metrics.content[records.METRICS]["list"] = [1.0] * 300_000
    assert "its records have 2," in inbox.read(settings).error.reason
    assert "its records have 2," in inbox.read(metrics).error.reason
