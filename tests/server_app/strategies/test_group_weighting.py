from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from server_app.nodes.discovery import Client
from server_app.strategies import make_strategy
from server_app.strategies.group_weighting import GroupResult, GroupWeighting, WeighsGroups
from task import records
from task.weighting import Weights
from tests.server_app.in_process_grid import InProcessGrid, only, tiny_config, with_content
from tests.server_app.test_app import metrics, run_app
from tests.server_app.training import (
    assert_close,
    groups_of,
    local_updates,
    train_federated,
    weighted_average,
)

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([10, 20], dtype=np.float32)


class Rule(GroupWeighting):
    """Weighs the groups of a round, by name, 1 : 2 : 3 ..., and remembers what it saw."""

    reports: ClassVar[tuple[str, ...]] = (records.LOSS_BEFORE,)

    def weigh(self, groups: Sequence[GroupResult]) -> Weights:
        self.seen = list(groups)
        weights = np.arange(1.0, len(groups) + 1)
        return weights / weights.sum()


class Unasked(Rule):
    """Weighs as `Rule` does, and asks for nothing."""

    reports: ClassVar[tuple[str, ...]] = ()


@dataclass
class Node:
    """What a client sends back."""

    group: str
    shift: float = 0.0
    examples: int = 1
    loss: tuple[float, float] = (1.0, 1.0)
    said: float = 0.5


class FewClients:
    """As much of a grid as a strategy needs to address clients 1 to n."""

    def __init__(self, number: int) -> None:
        self.number = number

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.number + 1))


class KnownClients(FewClients):
    """A grid that knows its clients' groups, as the population grid does."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(len(nodes))
        self.clients: Mapping[int, Client] = {
            number: Client(number, 70 + number, f"client {number}", node.group, "train")
            for number, node in enumerate(nodes, 1)
        }


def options() -> dict[str, Any]:
    return {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}


def a_round(
    rule: GroupWeighting, nodes: Sequence[Node], grid: Any = None, reverse: bool = False
) -> tuple[dict[str, np.ndarray], MetricRecord]:
    """One round: each node's parameters are those sent, shifted."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    sent = ArrayRecord({"w": Array(W), "b": Array(B)})
    grid = grid or KnownClients(nodes)
    replies = []
    for message in rule.configure_train(1, sent, ConfigRecord(), grid):
        node = nodes[message.metadata.dst_node_id - 1]
        arrays = ArrayRecord({"w": Array(W + np.float32(node.shift)), "b": Array(B)})
        said = {
            records.NUM_EXAMPLES: node.examples,
            records.LOSS: node.said,
            records.LOSS_BEFORE: list(node.loss),
        }
        content = RecordDict({records.ARRAYS: arrays, records.METRICS: MetricRecord(said)})
        replies.append(Message(content, reply_to=message))
    arrays, said = rule.aggregate_train(1, replies[::-1] if reverse else replies)
    return {name: array.numpy() for name, array in arrays.items()}, said


def test_a_group_counts_by_its_weight_however_many_clients_hold_its_data() -> None:
    rule = Rule(**options())
    nodes = [
        Node("Northern", shift=1.0, examples=10, loss=(4.0, 8.0)),
        Node("Southern", shift=9.0, examples=1, loss=(3.0, 4.0)),
        Node("Northern", shift=4.0, examples=20, loss=(2.0, 4.0)),
    ]
    arrays, _ = a_round(rule, nodes)
    northern, southern = rule.seen
    assert (northern.group, northern.num_examples) == ("Northern", 30)
    assert northern.reports == {records.LOSS_BEFORE: 6 / 12}
    assert (southern.num_examples, southern.reports) == (1, {records.LOSS_BEFORE: 3 / 4})
    # Northern: (10 * 1 + 20 * 4) / 30 = 3, counts 1/3; Southern: 9, counts 2/3
    np.testing.assert_allclose(arrays["w"], W + 3 / 3 + 9 * 2 / 3, rtol=1e-6)
    np.testing.assert_array_equal(arrays["b"], B)
    assert {name: values.dtype for name, values in arrays.items()} == {
        "w": np.float32,
        "b": np.float32,
    }
    assert rule.group_weights == pytest.approx({"Northern": 1 / 3, "Southern": 2 / 3})


def test_the_order_of_replies_does_not_change_a_bit() -> None:
    nodes = [
        Node(g, shift=s, examples=e) for g, s, e in (("B", 0.3, 7), ("A", 0.1, 3), ("C", 7, 9))
    ]
    forth, back = (a_round(Rule(**options()), nodes, reverse=reverse) for reverse in (False, True))
    assert forth[0]["w"].tobytes() == back[0]["w"].tobytes()


def test_on_a_grid_that_knows_no_groups_every_client_is_one() -> None:
    rule = Rule(**options())
    a_round(rule, [Node("A"), Node("A"), Node("B")], grid=FewClients(3))
    assert [each.group for each in rule.seen] == ["1", "2", "3"]


def test_metrics_are_averaged_by_examples_as_flowers_fedavg_does() -> None:
    nodes = [Node("A", examples=1, said=0.5), Node("B", examples=3, said=1.5)]
    _, said = a_round(Rule(**options()), nodes)
    assert dict(said) == {records.LOSS: pytest.approx((0.5 + 3 * 1.5) / 4)}


def test_reports_are_no_metrics_of_a_round() -> None:
    """They are sums and weights, whose mean says nothing; what no rule asks for stays."""
    nodes = [Node("A", loss=(3.0, 6.0)), Node("B", loss=(5.0, 5.0))]
    rule = Rule(**options())
    _, said = a_round(rule, nodes)
    assert [each.reports for each in rule.seen] == [
        {records.LOSS_BEFORE: value} for value in (0.5, 1)
    ]
    assert records.LOSS_BEFORE not in said
    _, said = a_round(Unasked(**options()), nodes)
    assert said[records.LOSS_BEFORE] == pytest.approx([4.0, 5.5])


def test_without_replies_the_parameters_stay() -> None:
    rule = Rule(**options())
    a_round(rule, [Node("A")])
    assert rule.aggregate_train(2, []) == (None, None)


def test_it_is_known_as_a_strategy_that_weighs_groups() -> None:
    assert isinstance(Rule(), WeighsGroups)
    assert not isinstance(FedAvg(), WeighsGroups)


# -- on the population grid ------------------------------------------------------------------------

FAULTY = "Northern nurses"


def test_clients_are_asked_for_the_reports_of_the_rule_alone() -> None:
    for name, expected in (
        ("term", ["loss-before-training"]),
        ("adaptive-alpha", ["alignment-score-before-training"]),
        ("fedmgda+", []),
    ):
        config = tiny_config(strategy__name=name)
        grid = InProcessGrid(config)
        train_federated(grid, config)
        for message in grid.messages("train"):
            assert message.content.config_records[records.CONFIG][records.REPORTS] == expected
    config = tiny_config()
    grid = InProcessGrid(config)
    train_federated(grid, config)
    assert records.REPORTS not in grid.messages("train")[0].content.config_records[records.CONFIG]


def without_report(content: RecordDict) -> None:
    del content.metric_records[records.METRICS][records.LOSS_BEFORE]


def with_a_number(content: RecordDict) -> None:
    content.metric_records[records.METRICS][records.LOSS_BEFORE] = 0.5


def not_finite(content: RecordDict) -> None:
    content.metric_records[records.METRICS][records.LOSS_BEFORE] = [float("nan"), 1.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_report, "its metrics lack 'loss-before-training'"),
        (with_a_number, "loss-before-training = 0.5, expected [sum, weight] of losses"),
        (not_finite, "loss-before-training = [nan, 1.0] is not finite"),
    ],
)
def test_a_client_without_a_sound_report_is_rejected_and_named(change: Any, reason: str) -> None:
    config = tiny_config(strategy__name="term", strategy__options="tilt=0")
    fault = only(with_content(change), message_type="train", group=FAULTY)
    parameters, population = train_federated(InProcessGrid(config, fault=fault), config)
    assert list(population.last_train.failures) == [FAULTY]
    assert population.last_train.failures[FAULTY].startswith(reason)
    others = [group for group in groups_of(config, "train") if group != FAULTY]
    assert_close(parameters, weighted_average(local_updates(config, others), [1, 1]))


@pytest.mark.parametrize("name", ["afl", "group-robust", "term", "fedmgda+", "adaptive-alpha"])
def test_rules_make_groups_count_the_same_when_their_options_say_so(name: str) -> None:
    """And groups count the same whatever their numbers of examples."""
    neutral = {
        "afl": "weight-learning-rate=0",
        "group-robust": "weight-learning-rate=0",
        "term": "tilt=0",
        "fedmgda+": "epsilon=0",
        "adaptive-alpha": "fairness-threshold=0.01",
    }
    config = tiny_config(strategy__name=name, strategy__options=neutral[name])
    light = with_content(lambda c: c.metric_records["metrics"].update({records.NUM_EXAMPLES: 2}))
    fault = only(light, message_type="train", group=FAULTY)
    rule = make_strategy(config)
    parameters, _ = train_federated(InProcessGrid(config, fault=fault), config, strategy=rule)
    groups = groups_of(config, "train")
    assert rule.group_weights == pytest.approx(dict.fromkeys(groups, 1 / 3))
    if name != "fedmgda+":  # whose updates all have one length
        updates = local_updates(config, groups)
        assert_close(parameters, weighted_average(updates, [1, 1, 1]))


def test_weights_are_in_the_metrics_of_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    config = tiny_config(strategy__name="term", strategy__options="tilt=3", evaluation__every=2)
    run_app(config, tmp_path / "fair")
    before, *rounds = metrics(tmp_path / "fair")
    assert before["group_weights"] == {}
    for line in rounds:
        assert list(line["group_weights"]) == groups_of(config, "train")
        assert sum(line["group_weights"].values()) == pytest.approx(1)
        assert len(set(line["group_weights"].values())) == 3
    run_app(tiny_config(train__num_rounds=1), tmp_path / "plain")
    assert all("group_weights" not in line for line in metrics(tmp_path / "plain"))


def test_a_rule_of_ones_own_needs_no_more_than_weights() -> None:
    config = tiny_config()
    rule = Rule(**options())
    parameters, _ = train_federated(InProcessGrid(config), config, strategy=rule)
    groups = groups_of(config, "train")
    assert [each.group for each in rule.seen] == groups
    assert all(isinstance(each.values_P, torch.Tensor) for each in rule.seen)
    assert_close(parameters, weighted_average(local_updates(config, groups), [1, 2, 3]))
