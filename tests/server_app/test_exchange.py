"""Averaging replies one by one, over the hostile grid and over the cohort engine."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from server_app.cohort import CohortGrid
from server_app.exchange import Average, Exchange, ReducingGrid
from server_app.replies import SentParameters
from task import records
from task.aggregation import Reduction
from task.config import RunConfig
from tests.server_app.cohort_runs import (
    FAULTY,
    TRAIN_GROUPS,
    cohort_config,
    cohort_grid,
    ragged_config,
    wire,
)
from tests.server_app.in_process_grid import Fault, InProcessGrid, only, raises
from tests.server_app.training import (
    Parameters,
    assert_close,
    groups_of,
    identical,
    local_updates,
    weighted_average,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def exchanged(
    config: RunConfig, weighted: bool = True, fault: Fault | None = None, num_nodes: int = 3
) -> Exchange:
    """A round over the hostile grid, with replies averaged as they come."""
    grid = InProcessGrid(config, num_nodes, fault=fault)
    population, messages = wire(grid, config, Reduction(weighted=weighted))
    return population.exchange(messages("train"))


def averaged(exchange: Exchange) -> Parameters:
    arrays = exchange.average.content.array_records[records.ARRAYS]
    return {name: array.numpy() for name, array in arrays.items()}


def metrics_of(message: Message) -> dict[str, float]:
    return dict(message.content.metric_records[records.METRICS])


@pytest.mark.parametrize("weighted", [True, False])
def test_the_average_is_that_of_all_clients(tmp_path: Path, weighted: bool) -> None:
    config = ragged_config(tmp_path)
    exchange = exchanged(config, weighted)
    updates = local_updates(config, groups_of(config, "train"))
    examples = [update.num_examples for update in updates]
    assert len(set(examples)) == 6
    weights = examples if weighted else [1] * 6
    assert_close(averaged(exchange), weighted_average(updates, weights))
    with pytest.raises(AssertionError):  # the tolerance tells other weights apart
        assert_close(
            averaged(exchange), weighted_average(updates, [1] * 6 if weighted else examples)
        )


def test_the_average_is_the_same_to_the_bit_in_any_order_of_replies(tmp_path: Path) -> None:
    config = ragged_config(tmp_path)
    first = averaged(exchanged(config))
    for num_nodes in (1, 2, 6):  # the grid shuffles
        assert identical(averaged(exchanged(config, num_nodes=num_nodes)), first)


@pytest.mark.parametrize("weighted", [True, False])
def test_metrics_are_weighted_means_and_examples_a_sum(tmp_path: Path, weighted: bool) -> None:
    config = ragged_config(tmp_path)
    average = metrics_of(exchanged(config, weighted).average)
    updates = local_updates(config, groups_of(config, "train"))
    weights = [update.num_examples if weighted else 1 for update in updates]
    losses = [update.loss for update in updates]
    assert set(average) == {records.LOSS, records.NUM_EXAMPLES}
    assert average[records.LOSS] == pytest.approx(np.average(losses, weights=weights), rel=1e-6)
    examples = sum(update.num_examples for update in updates)
    assert average[records.NUM_EXAMPLES] == examples
    assert isinstance(average[records.NUM_EXAMPLES], int)


def test_replies_keep_each_clients_metrics_and_no_parameters(tmp_path: Path) -> None:
    config = ragged_config(tmp_path)
    exchange = exchanged(config)
    updates = local_updates(config, groups_of(config, "train"))
    assert [client.name for client in exchange.replies] == groups_of(config, "train")
    for (client, reply), update in zip(exchange.replies.items(), updates, strict=True):
        assert set(reply.content) == {records.METRICS}
        assert reply.metadata.src_node_id == client.id
        assert metrics_of(reply) == {
            records.LOSS: update.loss,
            records.NUM_EXAMPLES: update.num_examples,
        }


def test_failures_are_not_averaged() -> None:
    config = cohort_config()
    exchange = exchanged(config, fault=only(raises, message_type="train", group=FAULTY))
    assert list(exchange.failures) == [FAULTY]
    others = [group for group in TRAIN_GROUPS if group != FAULTY]
    assert_close(averaged(exchange), weighted_average(local_updates(config, others), [1, 1]))


def test_without_a_reduction_there_is_no_average() -> None:
    config = cohort_config()
    for make in (lambda: InProcessGrid(config), lambda: CohortGrid(config)):
        population, messages = wire(make(), config)
        exchange = population.exchange(messages("train"))
        assert exchange.average is None
        assert all(records.ARRAYS in reply.content for reply in exchange.replies.values())


def test_scores_are_never_averaged() -> None:
    config = cohort_config()
    population, messages = wire(InProcessGrid(config), config, Reduction())
    exchange = population.exchange(messages("evaluate"))
    assert exchange.average is None
    assert len(exchange.replies) == 4


@pytest.mark.parametrize("weighted", [True, False])
def test_the_engines_sum_is_the_average_of_replies_to_the_bit(
    tmp_path: Path, weighted: bool
) -> None:
    config = ragged_config(tmp_path)
    expected = exchanged(config, weighted)
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config, Reduction(weighted=weighted))
        found = population.exchange(messages("train"))
    assert identical(averaged(found), averaged(expected))
    assert metrics_of(found.average) == metrics_of(expected.average)
    assert (found.bytes_up, found.bytes_down) == (expected.bytes_up, expected.bytes_down)
    assert [metrics_of(reply) for reply in found.replies.values()] == [
        metrics_of(reply) for reply in expected.replies.values()
    ]


def test_a_send_returns_the_one_reply_that_stands_for_all() -> None:
    config = cohort_config()
    population, messages = wire(InProcessGrid(config), config, Reduction())
    replies = list(population.send_and_receive(messages("train")))
    assert replies == [population.last_train.average]
    assert replies[0].metadata.src_node_id in population.train_ids


def test_only_the_cohort_engine_adds_up_by_itself() -> None:
    config = cohort_config()
    assert not isinstance(InProcessGrid(config), ReducingGrid)
    with cohort_grid(config) as grid:
        assert isinstance(grid, ReducingGrid)


def test_taking_a_reply_leaves_it_as_it_is() -> None:
    config = cohort_config()
    population, messages = wire(InProcessGrid(config), config)
    reply = next(iter(population.exchange(messages("train")).replies.values()))
    sent = SentParameters(reply.content.array_records[records.ARRAYS])
    average = Average(Reduction(), sent)
    taken = average.take(reply)
    assert set(reply.content) == {records.ARRAYS, records.METRICS}
    assert set(taken.content) == {records.METRICS}
    alone = average.reply([taken]).content.array_records[records.ARRAYS]
    for name, array in reply.content.array_records[records.ARRAYS].items():
        np.testing.assert_array_equal(alone[name].numpy(), array.numpy())
