from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server_app.checkpointing.plain_state import pack, unpack
from server_app.checkpointing.population_record import as_recorded, population_record
from server_app.nodes.discovery import Population, discover_clients
from task.errors import EncoderError, PopulationError
from tests.server_app.in_process_grid import InProcessGrid, tiny_config

NURSES = "Northern nurses"


def found(**changes: Any) -> Population:
    return discover_clients(InProcessGrid(tiny_config(**changes)), timeout=60)


def recorded(population: Population) -> dict[str, Any]:
    record: dict[str, Any] = unpack(pack(population_record(population)))
    return record


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_same_clients_are_the_same_population_on_other_nodes(weight: float) -> None:
    before, now = (found(predictor__population_weight=weight) for _ in range(2))
    same = as_recorded(now, recorded(before))
    assert [replace(c, node_id=0) for c in same.clients] == [
        replace(c, node_id=0) for c in before.clients
    ]
    assert [c.node_id for c in same.clients] == [c.node_id for c in now.clients]
    assert same.fingerprint == before.fingerprint
    np.testing.assert_array_equal(same.feature_sums.total, before.feature_sums.total)
    assert same.question_keys.keys() == before.question_keys.keys()
    assert (same.answers is None) == (weight == 0)
    if same.answers and before.answers:
        np.testing.assert_array_equal(same.answers.totals, before.answers.totals)


def test_a_missing_client_is_named() -> None:
    population = found()
    fewer = replace(population, clients=population.clients[:2])
    with pytest.raises(PopulationError, match=r"Northern students, Northern teachers is not conn"):
        as_recorded(fewer, recorded(population))


def test_a_client_with_other_questions_is_named() -> None:
    population = found()
    keys = {**population.question_keys, NURSES: population.question_keys[NURSES][:-1]}
    with pytest.raises(PopulationError, match=f"{NURSES} has other questions than when the run"):
        as_recorded(replace(population, question_keys=keys), recorded(population))


def test_a_client_with_another_role_is_named() -> None:
    population = found()
    clients = tuple(
        replace(c, role="held-out") if c.name == NURSES else c for c in population.clients
    )
    with pytest.raises(PopulationError, match=f"{NURSES} has another role than when the run"):
        as_recorded(replace(population, clients=clients), recorded(population))


def test_another_encoder_is_named() -> None:
    population = found()
    with pytest.raises(EncoderError, match="the encoder other, expected hashing"):
        as_recorded(replace(population, fingerprint="other"), recorded(population))


def test_a_newcomer_takes_no_part_and_ids_stay(capsys: pytest.CaptureFixture[str]) -> None:
    population = found()
    first, *others = population.clients
    began = replace(population, clients=tuple(others))
    keys = {c.group: population.question_keys[c.group] for c in others}
    same = as_recorded(population, recorded(replace(began, question_keys=keys)))
    assert [c.id for c in same.clients] == [c.id for c in others]
    assert capsys.readouterr().out == (
        f"Not there when the run began, takes no part: {first.name}\n"
    )


def test_where_not_all_must_be_there_the_others_keep_their_ids_and_are_nowhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    population = found()
    first, second, third, fourth = population.clients
    keys = {**population.question_keys, second.group: population.question_keys[second.group][:-1]}
    here = (replace(first, role="held-out"), second, replace(third, id=1, node_id=7))
    now = replace(population, clients=here, question_keys=keys)
    same = as_recorded(now, recorded(population), all_there=False)
    assert [(c.id, c.name, c.role) for c in same.clients] == [
        (c.id, c.name, c.role) for c in population.clients
    ]
    assert [c.node_id for c in same.clients] == [0, 0, 7, 0]
    assert same.question_keys[second.group].size == population.question_keys[second.group].size
    said = capsys.readouterr().out
    assert f"The run goes on without {fourth.name}, until it comes as it was: it is not" in said
    assert f"{first.name}, until it comes as it was: it has another role" in said
    assert f"{second.name}, until it comes as it was: it has other questions" in said
