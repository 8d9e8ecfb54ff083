from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server_app.replies import SentParameters, accept_train
from server_app.reply_metrics import MAX_OTHERS, MetricRules, ReplyError
from task import records
from task.metrics import NUM_BINS
from tests.server_app.in_process_grid import tiny_config

PAIR = [1.5, 2.0]
BINS = [1.0] * (3 * NUM_BINS)
SCORES = {
    records.SCORES_ALL: PAIR,
    records.SCORES_SEEN: [0.0, 0.0],
    records.SCORES_NEW: PAIR,
    records.TOP_OPTION: [0.0, 2.0],
    records.CALIBRATION: BINS,
}
TRAINED = {records.NUM_EXAMPLES: 3, records.LOSS: 1.25}
WEIGHTS = np.ones((2, 3), dtype=np.float32)


def message(kind: str) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    arrays = ArrayRecord({"w": Array(WEIGHTS)})
    return Message(RecordDict({records.ARRAYS: arrays}), dst_node_id=1, message_type=kind)


def trained(array: Array, **metrics: object) -> RecordDict:
    return RecordDict(
        {
            records.ARRAYS: ArrayRecord({"w": array}),
            records.METRICS: MetricRecord(TRAINED | metrics),
        }
    )


def fault_of(
    message: Message,
    reply: RecordDict,
    reports: Sequence[str] = (),
    rules: MetricRules | None = None,
    **settings: str,
) -> str | None:
    """Why a reply is rejected, if it is."""
    asked = {records.REPORTS: list(reports), **settings}
    message.content[records.CONFIG] = ConfigRecord(asked)  # type: ignore[arg-type]
    try:
        (rules or MetricRules()).accept(message, reply)
        if message.metadata.message_type == "train":
            sent = SentParameters(message.content.array_records[records.ARRAYS])
            accept_train(reply, sent)
    except ReplyError as fault:
        return str(fault)
    return None


def test_replies_as_the_client_app_sends_them_have_no_fault() -> None:
    evaluated = RecordDict({records.METRICS: MetricRecord(SCORES)})
    assert fault_of(message("evaluate"), evaluated) is None
    assert fault_of(message("train"), trained(Array(WEIGHTS))) is None


@pytest.mark.parametrize(
    "pair", [[0.0, 0.0], [500.0, 1.0], [-0.1, 1.0], [1.0], 0.5, [float("nan"), 1.0]]
)
def test_scores_that_are_no_sum_of_scores_are_a_fault(pair: object) -> None:
    reply = RecordDict({records.METRICS: MetricRecord(SCORES | {records.SCORES_ALL: pair})})
    assert records.SCORES_ALL in fault_of(message("evaluate"), reply)


@pytest.mark.parametrize("pair", [[3.0, 2.0], [-0.5, 2.0], [1.0, 2.0, 3.0], 1.0])
def test_a_share_of_right_top_options_that_is_none_is_a_fault(pair: object) -> None:
    reply = RecordDict({records.METRICS: MetricRecord(SCORES | {records.TOP_OPTION: pair})})
    assert f"{records.TOP_OPTION} = " in fault_of(message("evaluate"), reply)


@pytest.mark.parametrize(
    "bins", [BINS[:-1], [*BINS, 1.0], [*BINS[:-1], -0.1], [float("nan"), *BINS[1:]], 3.0, [1.0]]
)
def test_malformed_calibration_bins_are_a_fault(bins: object) -> None:
    reply = RecordDict({records.METRICS: MetricRecord(SCORES | {records.CALIBRATION: bins})})
    assert f"{records.CALIBRATION} = " in fault_of(message("evaluate"), reply)


@pytest.mark.parametrize("key", SCORES)
def test_an_evaluate_reply_needs_every_score(key: str) -> None:
    scores = {other: value for other, value in SCORES.items() if other != key}
    reply = RecordDict({records.METRICS: MetricRecord(scores)})
    assert fault_of(message("evaluate"), reply) == f"its metrics lack {key!r}"


@pytest.mark.parametrize(
    ("metric", "value"),
    [(records.LOSS, [1.0, 2.0]), (records.NUM_EXAMPLES, 0), (records.NUM_EXAMPLES, [3])],
)
def test_train_metrics_of_another_form_are_a_fault(metric: str, value: object) -> None:
    assert metric in fault_of(message("train"), trained(Array(WEIGHTS), **{metric: value}))


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY"])
def test_parameters_that_cannot_be_read_are_a_fault(data: bytes) -> None:
    good = Array(WEIGHTS)
    garbled = Array(good.dtype, good.shape, good.stype, data)
    assert "cannot be read" in fault_of(message("train"), trained(garbled))


def test_parameters_that_are_no_floats_are_a_fault() -> None:
    assert "expected floats" in fault_of(message("train"), trained(Array(np.array([["a"]]))))


# -- Reports and personal scores -------------------------------------------------------------------

LOSS, SCORE = records.LOSS_BEFORE, records.SCORE_BEFORE


@pytest.mark.parametrize("pair", [[3.5, 2.0], [-0.25, 2.0], [0.0, 1.0]])
def test_a_loss_report_may_be_any_sum_of_losses(pair: list[float]) -> None:
    assert fault_of(message("train"), trained(Array(WEIGHTS), **{LOSS: pair}), [LOSS]) is None


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        [1.0],
        [1.0, 2.0, 3.0],
        [1.0, 0.0],
        [1.0, -2.0],
        [float("nan"), 1.0],
        [1.0, float("inf")],
    ],
)
def test_a_malformed_loss_report_is_a_fault(value: object) -> None:
    fault = fault_of(message("train"), trained(Array(WEIGHTS), **{LOSS: value}), [LOSS])
    assert fault is not None
    assert fault.startswith(f"{LOSS} = ")


@pytest.mark.parametrize("value", [0.5, [0.0, 0.0], [3.0, 2.0], [-0.1, 2.0], [1.0]])
def test_a_malformed_score_report_is_a_fault(value: object) -> None:
    assert fault_of(message("train"), trained(Array(WEIGHTS), **{SCORE: PAIR}), [SCORE]) is None
    fault = fault_of(message("train"), trained(Array(WEIGHTS), **{SCORE: value}), [SCORE])
    assert fault == f"{SCORE} = {value}, expected [sum, weight] of scores between 0 and 1"


def test_every_report_that_was_asked_for_must_be_there() -> None:
    reply = trained(Array(WEIGHTS), **{LOSS: [1.0, 1.0]})
    assert fault_of(message("train"), reply, [LOSS, SCORE]) == f"its metrics lack {SCORE!r}"
    assert "loss-before-training" in fault_of(message("train"), reply, [])


@pytest.mark.parametrize("value", [0.5, [0.0, 0.0], [3.0, 2.0], [-0.1, 2.0]])
def test_a_malformed_personal_score_is_a_fault_and_none_is_none(value: object) -> None:
    for pair, faulty in ((PAIR, False), (value, True)):
        metrics = MetricRecord(SCORES | {records.PERSONAL_SCORE: pair})
        asks = {records.PERSONAL: "ditto"}
        reply = RecordDict({records.METRICS: metrics})
        assert (fault_of(message("evaluate"), reply, **asks) is not None) == faulty
        assert "asks for no personal" in fault_of(message("evaluate"), reply)


# -- What a run does not ask for -------------------------------------------------------------------


@pytest.mark.parametrize("key", [records.EPSILON, records.WITHIN_NORM, records.NOISY_SCORE, SCORE])
def test_what_the_server_acts_upon_is_refused_where_it_was_not_asked_for(key: str) -> None:
    reply = trained(Array(WEIGHTS), **{key: 0.5})
    expected = f"{key} = 0.5, expected none: this run asks for no {key}"
    assert fault_of(message("train"), reply) == expected


def test_other_metrics_of_an_own_client_app_are_kept_if_each_is_one_number() -> None:
    assert fault_of(message("train"), trained(Array(WEIGHTS), accuracy=0.5)) is None
    assert "accuracy" in fault_of(message("train"), trained(Array(WEIGHTS), accuracy=[0.5]))
    many = {f"metric-{i}": 1.0 for i in range(MAX_OTHERS + 1)}
    assert "expected at most" in fault_of(message("train"), trained(Array(WEIGHTS), **many))


@pytest.mark.parametrize(("epsilon", "fine"), [(7.5, True), (8.5, False), (-1.0, False)])
def test_a_client_cannot_have_spent_more_than_its_budget(epsilon: float, fine: bool) -> None:
    config = tiny_config(privacy__unit="question", privacy__max_epsilon=8.0)
    rules = MetricRules.of(config)
    reply = trained(Array(WEIGHTS), **{records.EPSILON: epsilon})
    assert (fault_of(message("train"), reply, rules=rules) is None) == fine
    listed = trained(Array(WEIGHTS), **{records.EPSILON: [epsilon]})
    assert "expected one number" in fault_of(message("train"), listed, rules=rules)


@pytest.mark.parametrize(("score", "fine"), [(-30.0, True), (1e9, False)])
def test_a_score_with_noise_lies_where_noise_can_put_it(score: float, fine: bool) -> None:
    config = tiny_config(
        privacy__unit="question", privacy__metrics="noisy", privacy__metrics_noise_multiplier=5.0
    )
    metrics = MetricRecord({records.NUM_EXAMPLES: 1, records.NOISY_SCORE: score})
    reply = RecordDict({records.METRICS: metrics})
    fault = fault_of(message("evaluate"), reply, rules=MetricRules.of(config))
    assert (fault is None) == fine


def test_scores_weigh_no_more_than_a_clients_questions_in_all_draws() -> None:
    rules = MetricRules(num_draws=2, num_questions={1: 3})
    for weight, fine in ((6.0, True), (6.5, False)):
        scores = SCORES | {records.SCORES_ALL: [1.0, weight]}
        reply = RecordDict({records.METRICS: MetricRecord(scores)})
        assert (fault_of(message("evaluate"), reply, rules=rules) is None) == fine


def test_calibration_sums_are_of_shares() -> None:
    for sums in ([1e308] * 30, [1.0] * 10 + [2.0] * 20):
        reply = RecordDict({records.METRICS: MetricRecord(SCORES | {records.CALIBRATION: sums})})
        assert f"{records.CALIBRATION} = a list" in fault_of(message("evaluate"), reply)
