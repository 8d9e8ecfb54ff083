import random
from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_to_proto
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import (
    SecAggPlusWorkflow,
    WorkflowState,
)

import client_app.app
from server_app.cohort import why_called
from server_app.secure_aggregation import SecureAggregation, SecureSum
from server_app.secure_workflow import Workflow
from task import records
from task.errors import ConfigError, RoundError
from task.secure_aggregation import least_survivors, num_levels
from task.training import LocalUpdate
from tests.server_app.secure_round import (
    Answer,
    Fault,
    SecureRounds,
    fails,
    secure_config,
    silent,
    weighted_mean,
)

STAGES = Stage.all()


def step_bound(rounds: SecureRounds, found: SecureSum, limit: float, weighted: bool) -> float:
    """How far an entry of the mean may be off: each client's is, by less than one step."""
    step = 2 * limit / num_levels(len(rounds.clients))
    largest = rounds.most if weighted else 1
    return len(found.survivors) * step * largest / found.weight + 1e-12


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("norm", [0.0, 0.05])
def test_the_mean_is_that_of_plain_updates(
    monkeypatch: pytest.MonkeyPatch, weighted: bool, norm: float
) -> None:
    rounds = SecureRounds(secure_config(strategy__clipping_norm=norm), weighted=weighted)
    examples = {group: 3 + 11 * place for place, group in enumerate(rounds.groups)}
    train_client = client_app.app.train_client

    def differing(predictor: Any, start: Any, data: Any, *args: Any, **options: Any) -> LocalUpdate:
        update = train_client(predictor, start, data, *args, **options)
        return replace(update, num_examples=examples[data.group])

    monkeypatch.setattr(client_app.app, "train_client", differing)
    found = rounds.run()
    updates = {
        i: (update, examples[rounds.clients[i].group])
        for i, (update, _) in rounds.updates().items()
    }
    if norm:
        lengths = {i: float(np.linalg.norm(update)) for i, (update, _) in updates.items()}
        assert min(lengths.values()) > norm
        updates = {i: (u * norm / lengths[i], n) for i, (u, n) in updates.items()}
    expected_P = weighted_mean(updates, list(updates), weighted)
    assert found.survivors == tuple(updates)
    assert found.failures == {}
    assert found.weight == sum(n if weighted else 1 for _, n in updates.values())
    assert found.mean_P.dtype == torch.float64
    off = float((found.mean_P - expected_P).abs().max())
    limit = 0.0625 if norm else 1.0  # the power of two above the norm
    assert 0 < off < step_bound(rounds, found, limit, weighted)
    assert off < 1e-5 * float(expected_P.abs().max())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", [fails, silent])
def test_a_client_that_is_lost_is_not_in_the_mean(
    stage: str, how: Callable[[str, int], Fault]
) -> None:
    rounds = SecureRounds(secure_config(), fault=how(stage, 4))
    found = rounds.run()
    remaining = [i for i in rounds.clients if i != 4 or stage == Stage.UNMASK]
    assert found.survivors == tuple(remaining)
    reason = "out of battery" if how is fails else "no reply in time"
    assert found.failures == {4: reason}
    expected_P = weighted_mean(rounds.updates(), remaining)
    bound = step_bound(rounds, found, 1.0, True)
    assert float((found.mean_P - expected_P).abs().max()) < bound


def test_clients_may_be_lost_in_every_stage() -> None:
    lost = dict(zip((1, 2, 6, 7), STAGES, strict=True))

    def fault(stage: str, client_id: int, message: Message, answer: Answer) -> Message | None:
        return fails(stage, *(i for i in lost if lost[i] == stage))(
            stage, client_id, message, answer
        )

    rounds = SecureRounds(secure_config(groups=20), fault=fault)  # not all are neighbours
    found = rounds.run()
    assert set(found.failures) == set(lost)
    remaining = [i for i in rounds.clients if i not in (1, 2, 6)]
    assert found.survivors == tuple(remaining)
    expected_P = weighted_mean(rounds.updates(), remaining)
    bound = step_bound(rounds, found, 1.0, True)
    assert float((found.mean_P - expected_P).abs().max()) < bound


@pytest.mark.parametrize("stage", STAGES)
def test_too_few_clients_are_refused_with_all_that_is_to_know(stage: str) -> None:
    rounds = SecureRounds(secure_config(), fault=fails(stage, 1, 2, 5))  # 3 of 6 remain
    with pytest.raises(RoundError, match=rf"Round 1: .* of 6 clients halted .*'{stage}'") as caught:
        rounds.run()
    assert "at least 4 clients, and 4 of the 6" in str(caught.value)
    assert "client 5: out of battery" in str(caught.value)
    asked = [at for at, _, _ in rounds.replies]
    assert all(STAGES.index(at) <= STAGES.index(stage) for at in asked), "nothing is unmasked"


def test_the_least_number_of_survivors_follows_the_valid_fraction() -> None:
    assert [least_survivors(n, 0.5) for n in (3, 4, 5, 6, 10, 11)] == [3, 3, 3, 4, 6, 6]
    assert [least_survivors(n, 0.8) for n in (3, 4, 5, 6, 10, 11)] == [3, 4, 4, 5, 8, 9]
    assert least_survivors(20, 1.0) == 20
    config = secure_config(train__min_valid_fraction=1.0)
    assert len(SecureRounds(config).run().survivors) == 6
    with pytest.raises(RoundError, match="at least 6 clients"):
        SecureRounds(config, fault=fails(Stage.SETUP, 2)).run()


def test_two_clients_are_too_few() -> None:
    rounds = SecureRounds(secure_config(groups=3))
    with pytest.raises(RoundError, match="2 clients, expected at least 3"):
        rounds.run()
    assert rounds.replies == []


def test_more_clients_than_the_sum_has_room_for_are_refused() -> None:
    levels = [num_levels(n) for n in (3, 8, 32, 1023)]
    assert levels == [2**30, 2**28, 2**26, 2**22]
    with pytest.raises(ConfigError, match="1024 clients in a round, expected at most 1023"):
        num_levels(1024)
    for n in (3, 8, 33, 1023):
        assert n * num_levels(n) < 2**32 <= 2 * n * num_levels(n)


def test_nothing_but_masked_numbers_reaches_the_server() -> None:
    """The updates would be found if they were there: a plain reply is searched, too."""
    rounds = SecureRounds(secure_config())
    rounds.run()
    allowed = {
        Stage.SETUP: {Key.PUBLIC_KEY_1, Key.PUBLIC_KEY_2},
        Stage.SHARE_KEYS: {Key.DESTINATION_LIST, Key.CIPHERTEXT_LIST},
        Stage.COLLECT_MASKED_VECTORS: {Key.MASKED_PARAMETERS},
        Stage.UNMASK: {Key.NODE_ID_LIST, Key.SHARE_LIST},
    }
    updates, start_P = rounds.updates(), rounds.layout.flatten(rounds.start).double().numpy()
    assert len(rounds.replies) == 4 * 6
    for stage, client_id, reply in rounds.replies:
        assert set(reply.content) == {RECORD_KEY_CONFIGS}
        assert set(reply.content[RECORD_KEY_CONFIGS]) == allowed[stage]
        raw = message_to_proto(reply).SerializeToString()
        update_P, examples = updates[client_id]
        for name in (records.NUM_EXAMPLES, records.LOSS, "num_examples", "loss", "fitres"):
            assert name.encode() not in raw
        assert np.int64(examples).tobytes() not in raw
        assert not _found(update_P, raw) and not _found(update_P + start_P, raw)
    plain = make_message(
        reply.metadata, RecordDict({"x": ConfigRecord({"y": (update_P + start_P).tobytes()})})
    )
    assert _found(update_P + start_P, message_to_proto(plain).SerializeToString())


def _found(values_P: np.ndarray, raw: bytes) -> bool:
    """Whether entries are in the bytes, as float64 or as two float32 after one another."""
    moved = np.flatnonzero(values_P)[:-1]
    doubles = (values_P[i].tobytes() for i in moved)
    pairs = (values_P[i : i + 2].astype(np.float32).tobytes() for i in moved)
    return any(each in raw for each in (*doubles, *pairs))


def test_a_masked_vector_is_uniform() -> None:
    """Also where every update is 0: what is sent does not depend on what is hidden."""
    rounds = SecureRounds(secure_config())
    rounds.run()
    for stage, _, reply in rounds.replies:
        if stage == Stage.COLLECT_MASKED_VECTORS:
            (_, raw) = reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
            uniform = np.sort(np.frombuffer(raw, "<u4") / 2**32)
            n = len(uniform)
            distance = np.abs(uniform - np.arange(n) / n).max()  # Kolmogorov and Smirnov's
            assert n == rounds.layout.size + 1 and distance * sqrt(n) < 2.5


def test_equal_runs_have_equal_means_though_not_equal_masks() -> None:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    first, second = SecureRounds(secure_config()), SecureRounds(secure_config(), num_nodes=7)
    means = [rounds.run().mean_P for rounds in (first, second)]
    assert torch.equal(*means)
    masked = [
        {
            reply.content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS][1]
            for stage, _, reply in rounds.replies
            if stage == Stage.COLLECT_MASKED_VECTORS
        }
        for rounds in (first, second)
    ]
    assert not masked[0] & masked[1]
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]


def test_a_node_is_sent_one_message_at_a_time() -> None:
    rounds = SecureRounds(secure_config(), num_nodes=3)
    rounds.run()
    assert max(map(len, rounds.in_flight)) > 1
    assert all(len(set(nodes)) == len(nodes) for nodes in rounds.in_flight)


def test_rounds_follow_one_another() -> None:
    rounds = SecureRounds(secure_config())
    for rounds.server_round in (1, 2):
        found = rounds.run()
        expected_P = weighted_mean(rounds.updates(), list(rounds.clients))
        assert float((found.mean_P - expected_P).abs().max()) < 1e-7


def test_bytes_are_counted() -> None:
    rounds = SecureRounds(secure_config())
    found = rounds.run()
    entries = len(rounds.clients) * rounds.layout.size
    assert 4 * entries < found.bytes_up < 4 * entries + 100_000
    assert found.bytes_down > 3 * entries


def _changed(stage: str, change: Callable[[Any], object]) -> Fault:
    """Client 2's answer to a stage is not what it should be."""

    def fault(at: str, client_id: int, message: Message, answer: Answer) -> Message:
        reply = answer(message)
        if (at, client_id) == (stage, 2):
            change(reply.content)
        return reply

    return fault


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (Stage.SETUP, lambda c: c[RECORD_KEY_CONFIGS].pop(Key.PUBLIC_KEY_2)),
        (Stage.SETUP, lambda c: c[RECORD_KEY_CONFIGS].update({Key.PUBLIC_KEY_2: 3})),
        (Stage.SHARE_KEYS, lambda c: c[RECORD_KEY_CONFIGS][Key.DESTINATION_LIST].pop()),
        (Stage.COLLECT_MASKED_VECTORS, lambda c: c.update({"metrics": ConfigRecord({"a": 1})})),
        (
            Stage.COLLECT_MASKED_VECTORS,
            lambda c: c[RECORD_KEY_CONFIGS].update({Key.MASKED_PARAMETERS: [b"1234", b"12345678"]}),
        ),
        (Stage.UNMASK, lambda c: c[RECORD_KEY_CONFIGS][Key.NODE_ID_LIST].__setitem__(0, 99)),
    ],
)
def test_a_reply_that_is_not_of_the_protocol_costs_its_client_only(
    stage: str, change: Callable[[Any], object]
) -> None:
    found = SecureRounds(secure_config(), fault=_changed(stage, change)).run()
    assert set(found.failures) == {2}
    assert f"its reply to the stage {stage!r}" in found.failures[2]
    assert (2 in found.survivors) == (stage == Stage.UNMASK)


def _corrupted(content: Any) -> None:
    vector = content[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
    vector[0] = bytes(4)  # the weight's place: any number


def _false_share(content: Any) -> None:
    shares = content[RECORD_KEY_CONFIGS][Key.SHARE_LIST]
    shares[0] = shares[0][:4] + bytes(len(shares[0]) - 4)


@pytest.mark.parametrize(
    ("stage", "change"),
    [(Stage.COLLECT_MASKED_VECTORS, _corrupted), (Stage.UNMASK, _false_share)],
)
def test_a_sum_that_cannot_be_is_not_returned(stage: str, change: Callable[[Any], object]) -> None:
    rounds = SecureRounds(secure_config(), fault=_changed(stage, change))
    with pytest.raises(RoundError, match="cannot be unmasked"):
        rounds.run()


@pytest.mark.parametrize(
    "settings",
    [{records.REPORTS: [records.LOSS_BEFORE]}, {records.PERSONAL: "ditto"}],
)
def test_a_strategy_that_asks_for_more_than_the_sum_is_refused(settings: dict[str, Any]) -> None:
    rounds = SecureRounds(secure_config())
    with pytest.raises(RoundError, match=r"halted in its stage 'setup'.*choose another strategy"):
        rounds.run(**settings)


def test_a_weight_above_the_bound_is_refused_without_saying_it() -> None:
    rounds = SecureRounds(secure_config(), most=5)
    with pytest.raises(RoundError, match="number of examples is not from 1 to 5") as caught:
        rounds.run()
    examples = {str(n) for _, n in rounds.updates().values()}
    assert not examples & set(str(caught.value).replace(",", " ").split())
    with pytest.raises(ConfigError, match="max_weight = 0"):
        SecureAggregation(secure_config(), max_weight=0)


def test_the_cohort_engine_calls_the_client_app() -> None:
    assert "privacy.secure-aggregation" in str(why_called(secure_config()))
    assert why_called(secure_config(privacy__secure_aggregation=False)) is None


@pytest.mark.parametrize("stage", STAGES[:3])
def test_the_whole_round_needs_survivors_and_not_each_neighbourhood_only(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Above 16 clients, every neighbourhood may have enough where the round has not."""
    monkeypatch.setattr(SecAggPlusWorkflow, f"{stage}_stage", lambda *_: True)
    done = []
    for remaining in (6, 7):
        workflow = Workflow(
            shares=5, threshold=3, least_survivors=7, limit=1.0, levels=2**22, timeout=None
        )
        state = WorkflowState(
            sampled_node_ids=set(range(12)), active_node_ids=set(range(remaining))
        )
        done.append(getattr(workflow, f"{stage}_stage")(None, None, state))
        assert workflow.halted_in == ("" if done[-1] else stage)
    assert done == [False, True]
