"""Causes of failures, from the very texts that Flower and the population grid give."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.server.superlink.linkstate import utils
from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR

from client_app.mods import IN_ITS_LOG
from server_app.causes import CAUSES, cause_of
from server_app.replies import SentParameters, accept_train
from server_app.reply_metrics import ReplyError, accept_metrics
from task import records

SENT = SentParameters(ArrayRecord({"w": Array(np.zeros(2, np.float32))}))
METRICS = {records.NUM_EXAMPLES: 3, records.LOSS: 0.5}


def rejected(values: object, metrics: dict, name: str = "w") -> str:
    arrays = ArrayRecord({name: Array(np.asarray(values))})
    reply = RecordDict({records.ARRAYS: arrays, records.METRICS: MetricRecord(metrics)})
    with pytest.raises(ReplyError) as why:
        accept_metrics(reply, list(METRICS))
        accept_train(reply, SENT)
    return str(why.value)


@pytest.mark.parametrize(
    "reason",
    [
        rejected(np.full(2, np.nan, np.float32), METRICS),
        rejected(np.zeros(3, np.float32), METRICS),
        rejected(np.zeros(2, np.int64), METRICS),
        rejected(np.zeros(2, np.float32), METRICS, name="v"),
        rejected(np.zeros(2, np.float32), {records.NUM_EXAMPLES: 3}),
        rejected(np.zeros(2, np.float32), METRICS | {records.NUM_EXAMPLES: -1}),
        rejected(np.zeros(2, np.float32), METRICS | {records.LOSS: float("inf")}),
    ],
)
def test_replies_that_are_not_accepted_are_rejected(reason: str) -> None:
    assert cause_of(reason) == "rejected"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        (utils.NODE_UNAVAILABLE_ERROR_REASON, "lost"),
        (utils.MESSAGE_UNAVAILABLE_ERROR_REASON, "lost"),
        (utils.REPLY_MESSAGE_UNAVAILABLE_ERROR_REASON, "lost"),
        (CLIENT_APP_CRASHED_ERROR.reason, "lost"),
        ("the runtime did not accept the message to it", "lost"),
        ("its node is not connected", "lost"),
        ("its node was restarted", "lost"),
        ("it is still at work on an earlier message", "timeout"),
        ("its records have 9,000 bytes, expected at most 4,000", "rejected"),
        ("error code 5", "lost"),
        ("no reply within 30 s", "timeout"),
        ("no reply in time", "timeout"),
        ("<class 'task.errors.BudgetError'>:<'its budget is spent: expected less'>", "raised"),
        ("KeyError: 'Nobody'", "raised"),
        (f"RuntimeError in app.py:12; {IN_ITS_LOG}", "raised"),
        (f"its survey cannot be used; {IN_ITS_LOG}", "raised"),
        ("MemoryError", "raised"),
        ("An exception was raised when attempting to load `ClientApp`", "raised"),
        ("error code 2", "raised"),
        ("The FAB could not be verified.", "other"),
        ("", "other"),
    ],
)
def test_causes_of_known_reasons(reason: str, cause: str) -> None:
    assert cause_of(reason) == cause
    assert cause in CAUSES


def test_what_a_client_wrote_itself_does_not_choose_the_cause() -> None:
    """A reason holds a stranger's text after its beginning."""
    assert cause_of("ValueError: no reply within 3 s") == "raised"
    assert cause_of("<class 'ValueError'>:<'Error: Node Unavailable'>") == "raised"
