from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Message

from server_app.nodes.discovery import discover_clients
from task import records
from task.errors import EncoderError, PopulationError
from task.features import FeatureSums, load_features, load_group, load_roles
from task.sources import load_survey
from tests.server_app.in_process_grid import (
    InProcessGrid,
    lost,
    only,
    silent,
    tiny_config,
)
from tests.server_app.training import groups_of

HELD_OUT = "Northern students"


def contexts(grid: InProcessGrid) -> list:
    return list(grid.contexts.values())


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 9])
def test_all_groups_are_found_once_on_any_number_of_nodes(num_nodes: int) -> None:
    config = tiny_config()
    found = discover_clients(InProcessGrid(config, num_nodes), timeout=60)
    roles = load_roles(config.data, config.evaluation, 0)
    assert found.roles == roles
    assert [(c.id, c.name, c.group) for c in found.clients] == [
        (i, group, group) for i, group in enumerate(sorted(roles), start=1)
    ]
    assert found.fingerprint == "hashing-16"


def test_clients_are_addressed_at_the_node_that_holds_their_group() -> None:
    grid = InProcessGrid(tiny_config(), 2)
    found = discover_clients(grid, timeout=60)
    first, second = grid.contexts
    assert [client.node_id for client in found.clients] == [first, second, first, second]


def test_nodes_that_appear_late_are_waited_for() -> None:
    grid = InProcessGrid(tiny_config(), 4, late_nodes=3)
    assert len(discover_clients(grid, timeout=60).clients) == 4
    assert len(grid.messages(records.DESCRIBE)) == 4  # nobody is asked twice


def test_feature_sums_pool_all_training_questions_and_no_held_out_ones() -> None:
    config = tiny_config()
    found = discover_clients(InProcessGrid(config, 3), timeout=60)
    survey, features = load_survey(config), load_features(config.data, config.encoder, 0)
    offsets = survey.option_offsets
    rows = [
        row
        for group in groups_of(config, "train")
        for question in survey.answers[group].questions
        for row in range(offsets[question], offsets[question + 1])
    ]
    pooled = features[rows].astype(np.float64)
    assert found.feature_sums.count == len(rows)
    np.testing.assert_allclose(found.feature_sums.total, pooled.sum(0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.feature_sums.squares, (pooled**2).sum(0), rtol=0, atol=1e-9)
    mean, std = found.feature_sums.mean_and_std()
    np.testing.assert_allclose(mean, pooled.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, pooled.std(0), atol=1e-6)


def test_feature_sums_do_not_depend_on_node_ids_and_reply_order() -> None:
    config = tiny_config(data__synthetic_groups=9)
    squares = {
        discover_clients(InProcessGrid(config, 9), timeout=60).feature_sums.squares.tobytes()
        for _ in range(6)
    }
    assert len(squares) == 1


def test_feature_sums_do_not_depend_on_how_groups_are_dealt_to_nodes() -> None:
    config = tiny_config(data__synthetic_groups=9)

    def sums(num_nodes: int) -> FeatureSums:
        return discover_clients(InProcessGrid(config, num_nodes), timeout=60).feature_sums

    one = sums(1)
    for num_nodes in (2, 3, 9, 12):
        other = sums(num_nodes)
        assert other.total.tobytes() == one.total.tobytes()
        assert other.squares.tobytes() == one.squares.tobytes()


def test_question_keys_are_those_of_the_groups() -> None:
    config = tiny_config()
    found = discover_clients(InProcessGrid(config, 3), timeout=60)
    assert set(found.question_keys) == set(found.roles)
    for group, keys in found.question_keys.items():
        np.testing.assert_array_equal(keys, load_group(config, group).question_keys)


def test_what_a_node_discloses_holds_no_answers() -> None:
    replies: list[Message] = []

    def listen(message: Message, answer: Callable[[Message], Message]) -> Message:
        replies.append(answer(message))
        return replies[-1]

    config = tiny_config()
    discover_clients(InProcessGrid(config, 2, fault=listen), timeout=60)
    assert len(replies) == 2
    for reply in replies:
        content = reply.content
        assert set(content) == {"holdings", "held-questions", "feature-sums"}
        assert set(content["holdings"]) == {
            "groups",
            "roles",
            "encoder-fingerprint",
            "num-partitions",
        }
        for keys in content["held-questions"].values():
            assert keys.numpy().dtype == np.int64
        trained = content["holdings"]["roles"].count("train")
        sums = {name: array.numpy() for name, array in content["feature-sums"].items()}
        assert {name: array.shape for name, array in sums.items()} == {
            "count": (trained,),
            "total": (trained, 16),
            "squares": (trained, 16),
        }


def test_nodes_with_different_encoders_are_named_by_their_groups() -> None:
    grid = InProcessGrid(tiny_config(), 2)
    contexts(grid)[1].run_config["encoder.dimension"] = 32
    with pytest.raises(EncoderError) as caught:
        discover_clients(grid, timeout=60)
    text = str(caught.value)
    assert "Northern farmers, Northern students: hashing-16" in text
    assert "Northern nurses, Northern teachers: hashing-32" in text


def test_a_group_on_two_nodes_is_refused() -> None:
    grid = InProcessGrid(tiny_config(), 2)
    contexts(grid)[1].node_config["partition-id"] = 0
    with pytest.raises(PopulationError, match="2 nodes hold the group 'Northern farmers'"):
        discover_clients(grid, timeout=60)


def test_a_population_without_training_group_is_refused() -> None:
    config = tiny_config()
    grid = InProcessGrid(config, 4)
    place = list(load_roles(config.data, config.evaluation, 0)).index(HELD_OUT)
    for partition, context in enumerate(contexts(grid)):
        context.node_config["partition-id"] = 100 if partition else place
    with pytest.raises(PopulationError, match="No node holds a training group"):
        discover_clients(grid, timeout=60)


def test_nodes_without_any_group_are_refused() -> None:
    grid = InProcessGrid(tiny_config(), 2)
    for context in contexts(grid):
        context.node_config["partition-id"] = 100
    with pytest.raises(PopulationError, match="No node holds a training group"):
        discover_clients(grid, timeout=60)


def test_a_node_that_fails_is_named_with_its_reason() -> None:
    grid = InProcessGrid(tiny_config(), 2)
    node_id = list(grid.contexts)[1]
    contexts(grid)[1].run_config["train.num-rouns"] = 1
    with pytest.raises(PopulationError) as caught:
        discover_clients(grid, timeout=60)
    assert f"Node {node_id} cannot say what it holds: Unknown config key" in str(caught.value)


def test_a_lost_node_is_reported() -> None:
    grid = InProcessGrid(tiny_config(), 2, fault=only(lost, message_type=records.DESCRIBE))
    with pytest.raises(PopulationError, match="Node unavailable"):
        discover_clients(grid, timeout=60)


def test_no_node_within_the_timeout_is_an_error() -> None:
    with pytest.raises(PopulationError, match="0 of 1 nodes answered within 0 s"):
        discover_clients(InProcessGrid(tiny_config(), 0), timeout=0.3)


def test_a_node_that_never_comes_is_an_error() -> None:
    grid = InProcessGrid(tiny_config(), 3)
    del grid.contexts[list(grid.contexts)[2]]
    with pytest.raises(PopulationError, match="2 of 3 nodes answered"):
        discover_clients(grid, timeout=0.3)


def test_a_node_that_never_answers_is_an_error() -> None:
    grid = InProcessGrid(tiny_config(), 2, fault=silent)
    with pytest.raises(PopulationError, match="0 of 1 nodes answered"):
        discover_clients(grid, timeout=0.3)
