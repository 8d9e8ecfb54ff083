"""Rounds with nodes that fail, hang, leave and come back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MessageType, RecordDict

from server_app import collecting
from server_app.bounds import UpdateBound
from server_app.briefings import Briefings
from server_app.inbox import Inbox
from server_app.nodes import connections as connecting
from server_app.nodes.connections import Connections
from server_app.population import PopulationGrid
from server_app.reply_metrics import MetricRules
from task import records
from task.encoder import saved_settings
from task.errors import RoundError
from task.predictor import PreferencePredictor
from tests.server_app.home_nodes import HomeGrid
from tests.server_app.in_process_grid import (
    group_and_round,
    lost,
    only,
    silent,
    tiny_config,
    with_content,
    with_parameter,
)

FARMERS, NURSES, TEACHERS = "Northern farmers", "Northern nurses", "Northern teachers"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(connecting, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(connecting, "RETURN_SECONDS", 0.1)
    monkeypatch.setattr(collecting, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(collecting, "MAX_PAUSE_SECONDS", 0.02)


class Round:
    """A population of nodes with their own files, and messages to all that train."""

    def __init__(self, folder: Path, least: float = 0.6, patience: float = 5.0, **settings) -> None:
        self.grid = HomeGrid(tiny_config(), folder, **({"nodes__min_available": 4} | settings))
        config = self.grid.config
        connections = Connections(self.grid, config)
        found = connections.gather()
        connections.bind(found)
        self.predictor = PreferencePredictor.initial(
            config.predictor, found.feature_sums, saved_settings(config.encoder), 0
        )
        self.population = PopulationGrid(
            self.grid,
            found.clients,
            Briefings(config, found, self.predictor, "0123456789abcdef"),
            seed=0,
            min_valid_fraction=least,
            inbox=Inbox(MetricRules.of(config, found.num_questions), UpdateBound(config)),
            connections=connections,
            patience=patience,
        )
        self.round = 0

    def train(self, timeout: float = 0.3):
        return self.exchange(MessageType.TRAIN, self.population.train_ids, timeout)

    def exchange(self, message_type: str, clients, timeout: float = 0.3, retries: int = 0):
        arrays = ArrayRecord(dict(self.predictor.named_parameters()))
        messages = [
            Message(RecordDict({records.ARRAYS: arrays}), client, message_type)
            for client in clients
        ]
        return self.population.exchange(messages, timeout=timeout, retries=retries)


def groups(exchange) -> list[str]:
    return [client.group for client in exchange.replies]


def test_all_answer(tmp_path: Path) -> None:
    exchange = Round(tmp_path).train()
    assert groups(exchange) == [FARMERS, NURSES, TEACHERS]
    assert exchange.failures == {}


def test_a_node_that_is_away_is_named_and_sent_nothing(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    rounds.grid.away = {rounds.grid.node_of[NURSES]}
    exchange = rounds.train()
    assert groups(exchange) == [FARMERS, TEACHERS]
    assert exchange.failures == {NURSES: "its node is not connected"}
    assert {group_and_round(m)[0] for m in rounds.grid.messages("train")} == {FARMERS, TEACHERS}
    rounds.grid.away = set()
    assert groups(rounds.train()) == [FARMERS, NURSES, TEACHERS]


def test_too_few_are_waited_for_and_asked_again_while_the_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rounds = Round(tmp_path, least=1.0)
    nurses = rounds.grid.node_of[NURSES]
    rounds.grid.away = {nurses}
    looks = rounds.grid.get_node_ids
    seen: list[int] = []

    def back_after_a_while() -> list[int]:
        seen.append(1)
        if len(seen) > 3:
            rounds.grid.away = set()
        return looks()

    rounds.grid.get_node_ids = back_after_a_while  # type: ignore[method-assign]
    exchange = rounds.train()
    assert groups(exchange) == [FARMERS, NURSES, TEACHERS]
    assert exchange.failures == {}
    asked = [group_and_round(message)[0] for message in rounds.grid.messages("train")]
    assert sorted(asked) == [FARMERS, NURSES, TEACHERS]
    out = capsys.readouterr().out
    assert "2 of 3 clients sent a valid reply, 3 are needed: waiting for up to" in out
    assert f"{NURSES}: its node is not connected" in out


def test_when_patience_is_at_its_end_the_round_fails_with_reasons(tmp_path: Path) -> None:
    rounds = Round(tmp_path, least=1.0, patience=0.2)
    rounds.grid.away = {rounds.grid.node_of[NURSES]}
    with pytest.raises(RoundError, match=f"2 of 3 clients.*{NURSES}: its node is not connected"):
        rounds.train()


def test_a_lost_node_fails_once_and_its_reply_counts_when_it_is_asked_again(tmp_path: Path) -> None:
    rounds = Round(tmp_path, least=1.0)
    failed: list[Message] = []

    def once(message, answer):
        if not failed:
            failed.append(message)
            return lost(message, answer)
        return answer(message)

    rounds.grid.fault = only(once, message_type="train", group=NURSES)
    assert groups(rounds.train()) == [FARMERS, NURSES, TEACHERS]


def test_a_straggler_is_dropped_and_not_asked_before_it_has_answered(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    kept: list[Message] = []

    def slow(message, answer):
        kept.append(answer(message))

    rounds.grid.fault = only(slow, message_type="train", group=NURSES)
    exchange = rounds.train(timeout=0.2)
    assert groups(exchange) == [FARMERS, TEACHERS]
    assert exchange.failures == {NURSES: "no reply within 0 s"}
    rounds.grid.fault = None
    exchange = rounds.train()
    assert exchange.failures == {NURSES: "it is still at work on an earlier message"}
    assert len(kept) == 1
    late = kept[0]
    rounds.grid._replies[late.metadata.reply_to_message_id] = late
    exchange = rounds.train()  # the late reply is ignored, and its client asked again
    assert groups(exchange) == [FARMERS, NURSES, TEACHERS]


def test_a_straggler_whose_node_was_restarted_is_asked_again(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    rounds.grid.fault = only(silent, message_type="train", group=NURSES)
    rounds.train(timeout=0.2)
    rounds.grid.fault = None
    rounds.grid.activated[rounds.grid.node_of[NURSES]] = datetime.now(UTC) + timedelta(seconds=1)
    assert groups(rounds.train()) == [FARMERS, NURSES, TEACHERS]


def test_a_node_that_restarts_in_the_round_is_not_waited_for(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    node_id = rounds.grid.node_of[NURSES]

    def dies(message, answer):
        rounds.grid.activated[node_id] = datetime.now(UTC) + timedelta(seconds=1)

    rounds.grid.fault = only(dies, message_type="train", group=NURSES)
    exchange = rounds.train(timeout=60)
    assert exchange.failures == {NURSES: "its node was restarted"}
    assert exchange.seconds < 30


def test_a_failed_evaluation_is_asked_again_as_often_as_it_says(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    asked: list[Message] = []

    def fails(message, answer):
        asked.append(message)
        return lost(message, answer)

    rounds.grid.fault = only(fails, message_type="evaluate", group=NURSES)
    exchange = rounds.exchange(MessageType.EVALUATE, rounds.population.clients, retries=2)
    assert len(exchange.replies) == 3
    assert len(asked) == 3
    assert exchange.failures == {NURSES: "Node unavailable"}
    rounds.grid.fault = None


def test_a_hundredfold_update_is_rejected_and_named(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    blown_up = with_parameter(lambda values: values + 100)
    rounds.grid.fault = only(blown_up, message_type="train", group=NURSES)
    exchange = rounds.train()
    assert groups(exchange) == [FARMERS, TEACHERS]
    assert "its update has norm" in exchange.failures[NURSES]
    assert "strategy.bound-updates" in exchange.failures[NURSES]


def test_whoever_trains_otherwise_can_turn_the_bound_off(tmp_path: Path) -> None:
    rounds = Round(tmp_path, strategy__bound_updates=False)
    blown_up = with_parameter(lambda values: values + 100)
    rounds.grid.fault = only(blown_up, message_type="train", group=NURSES)
    assert groups(rounds.train()) == [FARMERS, NURSES, TEACHERS]


def test_no_client_weighs_more_than_the_questions_that_it_disclosed(tmp_path: Path) -> None:
    rounds = Round(tmp_path)

    def weighs(examples: float):
        def set_examples(content: RecordDict) -> None:
            content.metric_records[records.METRICS][records.NUM_EXAMPLES] = examples

        return only(with_content(set_examples), message_type="train", group=NURSES)

    rounds.grid.fault = weighs(1e15)
    exchange = rounds.train()
    assert groups(exchange) == [FARMERS, TEACHERS]
    assert exchange.failures == {
        NURSES: "num-examples = 1000000000000000.0, expected a number above 0 and at most 24: so "
        "many it has questions for"
    }
    rounds.grid.fault = weighs(24)
    assert groups(rounds.train()) == [FARMERS, NURSES, TEACHERS]


def test_a_node_that_is_at_work_for_one_group_is_sent_no_other(tmp_path: Path) -> None:
    """A SuperNode takes one message at a time, whatever group it is for."""
    rounds = Round(tmp_path, least=0.3)
    client_of = {client.group: client.id for client in rounds.population.clients.values()}
    rounds.grid.fault = only(silent, message_type="train", group=NURSES)
    rounds.train(timeout=0.2)
    rounds.grid.fault = None
    connections = rounds.population._collector._connections
    connections._node_of[client_of[TEACHERS]] = rounds.grid.node_of[NURSES]
    assert rounds.train().failures == dict.fromkeys(
        (NURSES, TEACHERS), "it is still at work on an earlier message"
    )


def test_a_node_that_connects_while_its_state_is_looked_up_is_not_lost(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    node_id = rounds.grid.node_of[NURSES]
    connections = rounds.population._collector._connections
    looked = connections.connected

    def connects_meanwhile() -> set[int]:
        rounds.grid.activated[node_id] = datetime.now(UTC)
        return looked()

    connections.connected = connects_meanwhile  # type: ignore[method-assign]
    kept: list[Message] = []

    def slow(message, answer):
        kept.append(answer(message))
        late = kept[0]
        rounds.grid.overdue.append(late)

    rounds.grid.fault = only(slow, message_type="train", group=NURSES)
    assert groups(rounds.train(timeout=5)) == [FARMERS, NURSES, TEACHERS]


def test_a_message_to_a_node_lives_no_longer_than_its_reply_is_of_use(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    rounds.train(timeout=30.0)
    assert {message.metadata.ttl for message in rounds.grid.messages("train")} == {60.0}


@pytest.mark.parametrize("value", [[1.0, 2.0], 1e9, 1.0])
def test_what_only_unit_question_reports_is_refused_elsewhere(tmp_path: Path, value) -> None:
    """A list would be no number to the monitor, and a number the run's published guarantee."""
    rounds = Round(tmp_path)

    def reports(content: RecordDict) -> None:
        content.metric_records[records.METRICS][records.EPSILON] = value

    rounds.grid.fault = only(with_content(reports), message_type="train", group=NURSES)
    exchange = rounds.train()
    assert groups(exchange) == [FARMERS, TEACHERS]
    assert exchange.failures[NURSES] == (
        f"epsilon = {value}, expected none: this run asks for no epsilon"
    )


def test_a_reply_of_any_size_is_not_decoded(tmp_path: Path) -> None:
    rounds = Round(tmp_path)
    huge = with_parameter(lambda values: np.zeros(3_000_000, dtype=np.float32))
    rounds.grid.fault = only(huge, message_type="train", group=NURSES)
    assert "its records have 12," in rounds.train().failures[NURSES]
