from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

import client_app.app
from client_app.mods import RESIDUAL, report_errors, residual_store
from client_app.state import state_folder
from task import records
from task.compression import BLOCK, decompress
from task.config import RunConfig
from task.errors import SurveyError
from task.parameters import Layout
from task.training import LocalUpdate
from tests.server_app.in_process_grid import (
    InProcessGrid,
    group_and_round,
    only,
    raises,
    tiny_config,
)
from tests.server_app.training import identical, train_federated


def reply_to_a_raising_handler(error: BaseException) -> Message:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    message = Message(RecordDict(), context.node_id, "train")

    def handler(message: Message, context: object) -> Message:
        raise error

    return report_errors(message, context, handler)


def test_a_users_error_is_passed_on_as_it_is() -> None:
    reply = reply_to_a_raising_handler(SurveyError("Row 3 is empty."))
    assert reply.error.reason == "Row 3 is empty."
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_any_other_error_is_passed_on_with_its_type_and_place(
    capfd: pytest.CaptureFixture,
) -> None:
    reply = reply_to_a_raising_handler(ZeroDivisionError("no people"))
    assert reply.error.reason.startswith("ZeroDivisionError: no people (")
    assert f"{__file__}:" in reply.error.reason
    assert "Traceback" in capfd.readouterr().err


def test_the_end_of_the_process_is_not_held_up() -> None:
    with pytest.raises(KeyboardInterrupt):
        reply_to_a_raising_handler(KeyboardInterrupt())


def test_a_valid_reply_passes_unchanged() -> None:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    reply = Message(RecordDict(), context.node_id, "train")
    assert report_errors(reply, context, lambda message, context: message) is reply


def test_the_client_app_reports_errors() -> None:
    grid = InProcessGrid(tiny_config(), 1)
    (context,) = grid.contexts.values()
    context.run_config["train.num-round"] = 3
    message = Message(RecordDict(), context.node_id, records.DESCRIBE)
    (reply,) = grid.send_and_receive([message])
    assert "Unknown config key 'train.num-round'" in reply.error.reason
    assert "Did you mean 'train.num-rounds'?" in reply.error.reason


# -- compress_update -------------------------------------------------------------------------------

LOSSY = ("bfloat16", "int8", "top-k")
GROUPS = ("Northern farmers", "Northern nurses", "Northern teachers")
Key = tuple[str, int]  # group and round


@dataclass
class Record:
    """What clients trained and sent, as vectors."""

    true: dict[Key, np.ndarray] = field(default_factory=dict)
    sent: dict[Key, np.ndarray] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    grid: InProcessGrid | None = None

    def residual(self, group: str) -> np.ndarray:
        assert self.grid is not None
        return residual_of(self.grid, group)


def residual_of(grid: InProcessGrid, group: str) -> np.ndarray:
    """What a client of the grid keeps for later rounds."""
    message = next(m for m in grid.messages("train") if group_and_round(m)[0] == group)
    context = grid.contexts[message.metadata.dst_node_id]
    folder = state_folder(RunConfig.from_flat(context.run_config), context, message)
    kept = residual_store(folder).read(group)
    assert kept is not None
    return kept.now[RESIDUAL].numpy()


def observe(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig, num_rounds: int = 1, num_nodes: int = 2
) -> Record:
    """Train with the real ClientApp, and listen to what it trains and what it sends."""
    record = Record()
    train_client = client_app.app.train_client

    def listening(predictor: Any, start: Any, data: Any, *args: Any, **options: Any) -> LocalUpdate:
        update = train_client(predictor, start, data, *args, **options)
        layout = Layout.of({name: value.shape for name, value in start.items()})
        step = layout.flatten(update.parameters) - layout.flatten(start)
        record.true[data.group, options["server_round"]] = step.numpy()
        return update

    def listen(message: Message, answer: Callable[[Message], Message]) -> Message:
        reply = answer(message)
        assert set(reply.content) == {records.UPDATE, records.METRICS}
        arrays = reply.content.array_records[records.UPDATE]
        record.names |= set(arrays)
        compressed = {name: array.numpy() for name, array in arrays.items()}
        key = group_and_round(message)
        record.sent[key] = decompress(compressed, len(record.true[key]))
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(client_app.app, "train_client", listening)
        grid = InProcessGrid(config, num_nodes, fault=only(listen, message_type="train"))
        train_federated(grid, config, num_rounds=num_rounds)
    record.grid = grid
    return record


def test_bfloat16_sends_the_update_to_three_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    record = observe(monkeypatch, tiny_config(compression__name="bfloat16"))
    assert record.names == {"bfloat16"}
    for group in GROUPS:
        true, sent = record.true[group, 1], record.sent[group, 1]
        np.testing.assert_allclose(sent, true, rtol=2**-8, atol=1e-30)
        assert np.abs(sent - true).max() > 0


def test_int8_sends_the_update_to_one_step_of_each_blocks_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = observe(monkeypatch, tiny_config(compression__name="int8"))
    assert record.names == {"int8", "scale"}
    for group in GROUPS:
        true, sent = record.true[group, 1], record.sent[group, 1]
        for first in range(0, len(true), BLOCK):
            block = slice(first, first + BLOCK)
            step = np.abs(true[block]).max() / 127
            assert np.abs(sent[block] - true[block]).max() <= step * (1 + 1e-5)


def test_top_k_sends_the_largest_entries_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(compression__name="top-k", compression__top_k_fraction=0.2)
    record = observe(monkeypatch, config)
    assert record.names == {"values", "where"}
    for group in GROUPS:
        true, sent = record.true[group, 1], record.sent[group, 1]
        chosen = sent != 0
        assert chosen.sum() == round(0.2 * len(true))
        np.testing.assert_array_equal(sent[chosen], true[chosen])
        assert np.abs(true[~chosen]).max() <= np.abs(true[chosen]).min()


@pytest.mark.parametrize("num_nodes", [1, 2, 3])
def test_top_k_sends_in_the_end_all_that_was_trained(
    monkeypatch: pytest.MonkeyPatch, num_nodes: int
) -> None:
    """Each group's residual is its own, also where one node holds several groups."""
    config = tiny_config(compression__name="top-k", train__num_rounds=3)
    record = observe(monkeypatch, config, num_rounds=3, num_nodes=num_nodes)
    for group in GROUPS:
        first, second = (record.true[group, number] for number in (1, 2))
        left = first - record.sent[group, 1]
        # The second round sends the largest entries of its own update and of what was left.
        chosen = record.sent[group, 2] != 0
        expected = (second + left)[chosen]
        np.testing.assert_allclose(record.sent[group, 2][chosen], expected, rtol=0, atol=1e-7)
        assert not np.allclose(record.sent[group, 2][chosen], second[chosen], atol=1e-5)
        trained = sum(record.true[group, number] for number in (1, 2, 3))
        arrived = sum(record.sent[group, number] for number in (1, 2, 3))
        residual = record.residual(group)
        assert np.abs(residual).max() > 1e-4
        np.testing.assert_allclose(arrived + residual, trained, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", ["none", "bfloat16", "int8"])
def test_only_top_k_leaves_anything_with_the_node(tmp_path: Path, name: str) -> None:
    config = tiny_config(compression__name=name)
    grid = InProcessGrid(config)
    train_federated(grid, config)
    assert not any(dict(context.state) for context in grid.contexts.values())
    assert not list(tmp_path.rglob("*residual*"))


@pytest.mark.parametrize("name", LOSSY)
def test_the_number_of_nodes_does_not_change_what_is_sent(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = tiny_config(compression__name=name)
    one, many = (observe(monkeypatch, config, 2, num_nodes) for num_nodes in (1, 4))
    assert one.sent.keys() == many.sent.keys()
    assert len(one.sent) == 6
    for key, sent in one.sent.items():
        assert sent.tobytes() == many.sent[key].tobytes(), key


def test_int8_rounds_otherwise_for_every_group_and_round_and_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same update would be rounded to the same bits only with the same random numbers."""

    def same(predictor: Any, start: Any, data: Any, *args: Any, **options: Any) -> LocalUpdate:
        ramp = {
            name: value + torch.linspace(0, 1, value.numel()).view(value.shape)
            for name, value in start.items()
        }
        return LocalUpdate(ramp, 1.0, 10)

    monkeypatch.setattr(client_app.app, "train_client", same)
    sent = []
    for seed in (0, 0, 1):
        config = tiny_config(compression__name="int8", run__seed=seed, data__train_groups="")
        sent.append(observe(monkeypatch, config, 2).sent)
    assert all(sent[0][key].tobytes() == sent[1][key].tobytes() for key in sent[0])
    noise = [values for each in (sent[0], sent[2]) for values in each.values()]
    assert len({values.tobytes() for values in noise}) == len(noise)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "top-k"])
def test_an_update_is_clipped_before_it_is_compressed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    norm = 0.05
    record = observe(monkeypatch, tiny_config(compression__name=name, strategy__clipping_norm=norm))
    for group in GROUPS:
        true, sent = record.true[group, 1], record.sent[group, 1]
        assert np.linalg.norm(true) > 2 * norm
        clipped = true * norm / np.linalg.norm(true)
        kept = sent != 0
        assert np.linalg.norm(sent) <= norm * 1.01
        assert np.linalg.norm((sent - clipped)[kept]) < 0.02 * norm
    if name == "top-k":  # what the clipping took away is gone, what was left out is not
        sent = record.sent[GROUPS[0], 1]
        true = record.true[GROUPS[0], 1]
        clipped = true * norm / np.linalg.norm(true)
        np.testing.assert_allclose(record.residual(GROUPS[0]), clipped - sent, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_compressed_updates_train_nearly_what_plain_ones_do(name: str, strategy: str) -> None:
    plain = tiny_config(strategy__name=strategy)
    config = tiny_config(
        strategy__name=strategy, compression__name=name, compression__top_k_fraction=1.0
    )
    expected, _ = train_federated(InProcessGrid(plain), plain)
    found, population = train_federated(InProcessGrid(config), config)
    assert population.last_train.failures == {}
    for parameter, values in expected.items():
        # Two local steps of 0.002 and 0.001 at most.
        np.testing.assert_allclose(found[parameter], values, rtol=0, atol=1e-4, err_msg=parameter)
    again, _ = train_federated(InProcessGrid(config), config)
    assert identical(found, again)


def test_a_client_that_fails_says_why_and_keeps_its_residual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(compression__name="top-k", train__num_rounds=3)
    fault = only(raises, message_type="train", group=GROUPS[1], server_round=2)
    grid = InProcessGrid(config, 1, fault=fault)
    seen: list[bytes] = []

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            seen.append(residual_of(grid, GROUPS[1]).tobytes())

    _, population = train_federated(grid, config, num_rounds=3, after_round=after_round)
    assert population.last_train.failures == {}
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("name", LOSSY)
def test_an_update_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train_client = client_app.app.train_client

    def spoiled(predictor: Any, start: Any, data: Any, *args: Any, **options: Any) -> LocalUpdate:
        update = train_client(predictor, start, data, *args, **options)
        if data.group == GROUPS[1]:
            next(iter(update.parameters.values())).view(-1)[0] = torch.inf
        return update

    monkeypatch.setattr(client_app.app, "train_client", spoiled)
    config = tiny_config(compression__name=name)
    _, population = train_federated(InProcessGrid(config), config)
    assert list(population.last_train.failures) == [GROUPS[1]]
    assert "The update is not finite" in population.last_train.failures[GROUPS[1]]


def test_evaluation_is_not_compressed() -> None:
    config = tiny_config(compression__name="int8")
    grid = InProcessGrid(config)
    _, population = train_federated(grid, config)
    content = grid.messages("train")[0].content
    message = Message(RecordDict({records.ARRAYS: content[records.ARRAYS]}), 1, "evaluate")
    (reply,) = population.exchange([message]).replies.values()
    assert set(reply.content) == {records.METRICS}
