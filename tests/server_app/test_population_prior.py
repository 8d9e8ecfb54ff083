"""The population's answers on their way: describe, discovery, briefings, evaluate, saved."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, Message
from flwr.common.serde import message_to_proto

from client_app.app import app
from server_app.briefings import Briefings
from server_app.cohort import simulate
from server_app.nodes.discovery import discover_clients
from task import records
from task.baselines import seen_question_keys
from task.config import RunConfig
from task.encoder import saved_settings
from task.evaluation import evaluate_group
from task.features import GroupData, load_group, load_roles
from task.population import PopulationAnswers, PopulationPrior
from task.predicting import predict_distributions
from task.predictor import PreferencePredictor
from task.saved_predictor import load_predictor
from task.sources import load_survey
from task.survey import Survey
from tests.server_app.cohort_runs import (
    HELD_OUT,
    TRAIN_GROUPS,
    cohort_config,
    cohort_grid,
    ragged_config,
    train_with_cohort,
    wire,
)
from tests.server_app.in_process_grid import RUN_KEY, InProcessGrid, tiny_config
from tests.server_app.test_app import metrics, run_app
from tests.server_app.training import groups_of, identical, train_federated

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHT = 0.7
PLAIN_DESCRIPTION = {records.HOLDINGS, records.HELD_QUESTIONS, records.FEATURE_SUMS}


def mixing(**changes: Any) -> RunConfig:
    return cohort_config(**{"predictor__population_weight": WEIGHT} | changes)


def listening() -> tuple[list[Message], Callable[..., Message]]:
    """Replies of all nodes, and the fault that keeps them (and is none)."""
    replies: list[Message] = []

    def listen(message: Message, answer: Callable[[Message], Message]) -> Message:
        replies.append(answer(message))
        return replies[-1]

    return replies, listen


def data_of(config: RunConfig, role: str) -> list[GroupData]:
    return [load_group(config, group) for group in groups_of(config, role)]


def expected_answers(config: RunConfig) -> PopulationAnswers:
    groups = sorted(groups_of(config, "train"))
    return PopulationAnswers.merged(
        PopulationAnswers.of(load_group(config, group)) for group in groups
    )


def same(first: PopulationAnswers | None, second: PopulationAnswers | None) -> bool:
    """Equal to the bit."""
    assert first is not None
    assert second is not None
    ours, theirs = first.to_arrays(), second.to_arrays()
    return all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


def traces(data: GroupData) -> Iterator[bytes]:
    """Every answer distribution of a group as it would lie in an array, in any order and type."""
    for index in range(len(data.answers)):
        shares = data.answers.distribution(index)
        start = data.answers.starts[index]
        ranks = data.option_ranks[start : start + len(shares)]
        by_rank = np.empty_like(shares)
        by_rank[ranks] = shares
        for ordered in (shares, by_rank):
            yield ordered.astype(np.float32).tobytes()
            yield ordered.astype(np.float64).tobytes()


def number_of_traces(message: Message, groups: list[GroupData]) -> int:
    """How many distributions of these groups can be read off a message's bytes."""
    sent = message_to_proto(message).SerializeToString()
    return sum(trace in sent for data in groups for trace in traces(data))


@contextmanager
def any_grid(name: str, config: RunConfig, num_nodes: int = 2) -> Iterator[Any]:
    if name == "flower":
        yield InProcessGrid(config, num_nodes)
    else:
        with cohort_grid(config) as grid:
            yield grid


# -- What nodes disclose ---------------------------------------------------------------------------


def test_without_a_weight_no_message_of_a_run_holds_an_answer(tmp_path: Path) -> None:
    """All records of all messages and replies of a whole run are looked at, byte by byte."""
    config = tiny_config(train__num_rounds=1)
    replies, listen = listening()
    grid = run_app(config, tmp_path / "run", fault=listen)
    everyone = data_of(config, "train") + data_of(config, "held-out")
    assert len(everyone) == 4
    kinds = {records.DESCRIBE: 0, "train": 0, "evaluate": 0}
    for message in [*grid.received, *replies]:
        kind = message.metadata.message_type
        kinds[kind] += 1
        assert number_of_traces(message, everyone) == 0, kind
        assert not {records.ANSWERS, records.POPULATION} & set(message.content)
    assert all(kinds.values())
    for reply in replies:
        if reply.metadata.message_type == records.DESCRIBE:
            assert set(reply.content) == PLAIN_DESCRIPTION
    evaluated = grid.messages("evaluate")[0].content
    assert set(evaluated) == {
        records.ARRAYS,
        records.CONFIG,
        records.BRIEFING,
        records.FEATURE_STATISTICS,
        records.SEEN_QUESTIONS,
    }


def test_with_a_weight_nodes_disclose_what_training_groups_have_answered_and_no_one_else() -> None:
    config = mixing()
    replies, listen = listening()
    discover_clients(InProcessGrid(config, 2, fault=listen), timeout=60)
    found = 0
    for reply in replies:
        assert set(reply.content) == PLAIN_DESCRIPTION | {records.ANSWERS}
        found += number_of_traces(reply, data_of(config, "train"))
        assert number_of_traces(reply, data_of(config, "held-out")) == 0
        trained = list(reply.content["holdings"]["roles"]).count("train")
        assert set(reply.content[records.ANSWERS]) == {
            f"{index}.{name}"
            for index in range(trained)
            for name in ("keys", "counts", "starts", "totals")
        }
    assert found >= 3 * 24  # every distribution of the three training groups


def test_a_node_with_held_out_groups_alone_discloses_nothing() -> None:
    config = mixing()
    replies, listen = listening()
    found = discover_clients(InProcessGrid(config, 4, fault=listen), timeout=60)
    assert same(found.answers, expected_answers(config))
    (alone,) = (r for r in replies if list(r.content["holdings"]["groups"]) == [HELD_OUT])
    assert len(alone.content[records.ANSWERS]) == 0


@pytest.fixture
def lopsided(tmp_path: Path) -> RunConfig:
    """Nine groups with shares of every magnitude: rounding tells in what order they are added."""
    random = np.random.default_rng(0)
    rows = ["group,question,option,share"]
    for group in range(9):
        for question in range(12):
            for option, share in enumerate(random.dirichlet(np.full(4, 0.05))):
                rows.append(f"g{group},Q{question}?,option {option},{share}")
    path = tmp_path / "lopsided.csv"
    path.write_text("\n".join(rows))
    config = mixing(data__source="table", data__path=str(path), data__num_held_out_groups=1)
    groups = sorted(groups_of(config, "train"), reverse=True)
    turned = PopulationAnswers.merged(
        PopulationAnswers.of(load_group(config, group)) for group in groups
    )
    assert len(groups) == 8
    assert not same(turned, expected_answers(config))
    return config


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 12])
def test_answers_add_up_to_the_same_bits_however_groups_are_dealt(
    lopsided: RunConfig, num_nodes: int
) -> None:
    """Node ids and the order of replies are others each time; nodes may hold nothing."""
    expected = expected_answers(lopsided)
    for _ in range(4):
        found = discover_clients(InProcessGrid(lopsided, num_nodes), timeout=60)
        assert same(found.answers, expected)


def test_nodes_may_hold_the_groups_in_any_order(lopsided: RunConfig) -> None:
    grid = InProcessGrid(lopsided, 3)
    for partition, context in enumerate(reversed(grid.contexts.values())):
        context.node_config["partition-id"] = partition
    assert same(discover_clients(grid, timeout=60).answers, expected_answers(lopsided))


def test_the_cohort_engine_finds_the_same_answers() -> None:
    config = mixing()
    with cohort_grid(config) as grid:
        found = discover_clients(grid, timeout=60)
    assert same(found.answers, expected_answers(config))


@pytest.mark.parametrize("engine", ["flower", "cohort"])
def test_without_a_weight_there_are_no_answers(engine: str) -> None:
    config = cohort_config()
    with any_grid(engine, config) as grid:
        assert discover_clients(grid, timeout=60).answers is None


# -- Messages --------------------------------------------------------------------------------------


def test_evaluate_messages_alone_carry_the_sums_one_record_for_all() -> None:
    config = mixing()
    found = discover_clients(InProcessGrid(config), timeout=60)
    predictor = PreferencePredictor.initial(
        config.predictor, found.feature_sums, saved_settings(config.encoder), 0, found.answers
    )
    brief = Briefings(config, found, predictor, RUN_KEY)
    for client in found.clients:
        assert records.POPULATION not in brief(client, "train", 1)
    first, second = (brief(client, "evaluate", 1) for client in found.clients[:2])
    assert first[records.POPULATION] is second[records.POPULATION]
    arrays = {name: array.numpy() for name, array in first[records.POPULATION].items()}
    assert same(PopulationAnswers.from_arrays(arrays), expected_answers(config))


def test_in_a_run_with_a_weight_only_sums_go_out_and_scores_come_back(tmp_path: Path) -> None:
    config = tiny_config(predictor__population_weight=WEIGHT, train__num_rounds=1)
    replies, listen = listening()
    grid = run_app(config, tmp_path / "run", fault=listen)
    everyone = data_of(config, "train") + data_of(config, "held-out")
    for message in grid.received:
        evaluates = message.metadata.message_type == "evaluate"
        assert (records.POPULATION in message.content) == evaluates
        assert records.ANSWERS not in message.content
        if not evaluates:
            assert number_of_traces(message, everyone) == 0
    for reply in replies:
        assert records.POPULATION not in reply.content
        described = reply.metadata.message_type == records.DESCRIBE
        assert (number_of_traces(reply, everyone) > 0) == described


# -- Scores ----------------------------------------------------------------------------------------


def scores(grid: Any, config: RunConfig) -> dict[str, dict[str, Any]]:
    """Every group's scores under the untrained predictor."""
    population, messages = wire(grid, config)
    exchange = population.exchange(messages("evaluate"))
    assert exchange.failures == {}
    return {
        client.name: dict(reply.content.metric_records[records.METRICS])
        for client, reply in exchange.replies.items()
    }


def scores_by_hand(config: RunConfig) -> dict[str, list[float]]:
    """The same without any messages."""
    found = discover_clients(InProcessGrid(config), timeout=60)
    predictor = PreferencePredictor.initial(
        config.predictor, found.feature_sums, saved_settings(config.encoder), config.run.seed
    )
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = {group: load_group(config, group) for group in roles}
    seen = seen_question_keys({g: data.question_keys for g, data in groups.items()}, roles)
    prior = PopulationPrior(expected_answers(config), config.predictor.population_weight)
    totals = {}
    for group, data in groups.items():
        its = evaluate_group(
            predictor, data, config.evaluation, config.run.seed, seen[data.role], prior
        )
        totals[group] = [its.all.total, its.all.weight]
    return totals


@pytest.mark.parametrize("num_nodes", [1, 3])
def test_scores_are_equal_to_the_bit_under_both_engines(tmp_path: Path, num_nodes: int) -> None:
    config = ragged_config(tmp_path, predictor__population_weight=WEIGHT, evaluation__num_draws=3)
    called = scores(InProcessGrid(config, num_nodes), config)
    with cohort_grid(config) as grid:
        computed = scores(grid, config)
    assert called == computed
    assert len(called) == 7
    by_hand = scores_by_hand(config)
    for group, its in called.items():
        assert its[records.SCORES_ALL] == by_hand[group], group


def test_groups_that_are_scored_together_get_the_same_scores(tmp_path: Path) -> None:
    config = ragged_config(
        tmp_path,
        predictor__population_weight=WEIGHT,
        evaluation__num_draws=3,
        engine__stack_size=5,
    )
    by_hand = scores_by_hand(config)
    with cohort_grid(config) as grid:
        for group, its in scores(grid, config).items():
            assert its[records.SCORES_ALL] == pytest.approx(by_hand[group], rel=1e-5), group


@pytest.mark.parametrize("engine", ["flower", "cohort"])
def test_the_weight_changes_every_groups_scores_where_others_were_asked(
    tmp_path: Path, engine: str
) -> None:
    found = []
    for weight in (0.0, 0.7, 0.8):
        config = ragged_config(tmp_path, predictor__population_weight=weight)
        with any_grid(engine, config) as grid:
            found.append(scores(grid, config))
    plain, mixed, more = found
    told = 0
    for group, its in plain.items():
        if its[records.SCORES_SEEN][1]:
            told += 1
            values = {each[group][records.SCORES_SEEN][0] for each in (plain, mixed, more)}
            assert len(values) == 3
        assert its[records.SCORES_NEW] == mixed[group][records.SCORES_NEW]
    assert told >= 4


def test_scores_do_not_depend_on_how_groups_are_dealt() -> None:
    config = mixing(data__synthetic_groups=9)
    one = scores(InProcessGrid(config, 1), config)
    assert len(one) == 9
    for num_nodes in (2, 4, 9):
        assert scores(InProcessGrid(config, num_nodes), config) == one


def test_a_client_app_that_is_called_for_every_group_gives_the_same_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = mixing()
    called = scores(InProcessGrid(config), config)
    monkeypatch.setattr("client_app.app.STACKABLE", False)
    with cohort_grid(config) as grid:
        assert scores(grid, config) == called


def test_a_prior_can_be_sent_to_another_process() -> None:
    """As Ray's workers get it; and they may not write to it."""
    config = mixing()
    answers = expected_answers(config)
    sent = pickle.loads(pickle.dumps(PopulationPrior(answers, WEIGHT)))
    for array in sent.answers.to_arrays().values():
        array.flags.writeable = False
    data = load_group(config, TRAIN_GROUPS[0])
    questions = np.arange(len(data.answers))
    predicted = np.zeros((len(questions), int(data.answers.lengths.max())), np.float32)
    np.testing.assert_array_equal(
        sent.mix(predicted, data, questions),
        PopulationPrior(answers, WEIGHT).mix(predicted, data, questions),
    )


# -- A run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["flower", "cohort"])
def test_answers_take_no_part_in_training(engine: str) -> None:
    trained = []
    for weight in (0.0, WEIGHT):
        config = cohort_config(predictor__population_weight=weight)
        if engine == "flower":
            trained.append(train_federated(InProcessGrid(config), config)[0])
        else:
            trained.append(train_with_cohort(config)[0])
    assert identical(*trained)


def test_a_run_is_the_same_under_both_engines_and_saves_the_answers(tmp_path: Path) -> None:
    config = mixing(evaluation__num_draws=2)
    for num_nodes in (2, 3):
        run_app(config, tmp_path / f"nodes-{num_nodes}", num_nodes)
    run = replace(config.run, directory=str(tmp_path / "cohort"))
    simulate(replace(config, run=run))
    folders = [tmp_path / name for name in ("nodes-2", "nodes-3", "cohort")]
    lines = [[_scores_of(line) for line in metrics(folder)] for folder in folders]
    assert lines[0] == lines[1] == lines[2]
    states = [load_predictor(folder, "final").state_dict() for folder in folders]
    for state in states[1:]:
        assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items())
    for which in ("best", "final"):
        prior = load_predictor(folders[0], which).prior
        assert prior is not None
        assert prior.weight == WEIGHT
        assert same(prior.answers, expected_answers(config))
    tables = [pd.read_parquet(folder / "groups.parquet") for folder in folders]
    assert tables[0].equals(tables[2])
    _predicts_with_the_populations_answers(config, load_predictor(folders[0], "final"))


def _scores_of(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if "megabytes" not in key}


def _predicts_with_the_populations_answers(
    config: RunConfig, predictor: PreferencePredictor
) -> None:
    """What `pluralllm predict` prints is the network's distribution and theirs."""
    survey = load_survey(config)
    context = Survey(survey.questions, {HELD_OUT: survey.answers[HELD_OUT]})
    prior = predictor.prior
    assert prior is not None
    asked = [question for question in survey.questions if prior.answers.sums(question.key)][:5]
    mixed = predict_distributions(predictor, context, asked)
    predictor.population = type(predictor.population)(0.0, (0, 0))
    plain = predict_distributions(predictor, context, asked)
    for question, ours, network in zip(asked, mixed, plain, strict=True):
        known = prior.answers.sums(question.key)
        assert known is not None
        count, totals = known
        expected = (network + WEIGHT * totals[list(question.ranks)]) / (1 + WEIGHT * count)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
        assert np.abs(ours - network).max() > 1e-3


def test_a_run_without_a_weight_saves_no_answers(tmp_path: Path) -> None:
    run_app(tiny_config(train__num_rounds=1), tmp_path / "run")
    assert load_predictor(tmp_path / "run", "final").prior is None


def test_a_message_with_answers_is_mixed_by_the_clients_own_weight() -> None:
    """The weight is a setting that all clients share, and not part of a message."""
    config = mixing()
    grid = InProcessGrid(config)
    population, messages = wire(grid, config)
    population.exchange(messages("evaluate"))
    message = grid.messages("evaluate")[0]
    assert isinstance(message.content[records.POPULATION], ArrayRecord)
    context = grid.contexts[message.metadata.dst_node_id]
    first = app(message, context).content.metric_records[records.METRICS]
    context.run_config["predictor.population-weight"] = 5.0
    second = app(message, context).content.metric_records[records.METRICS]
    assert first[records.SCORES_ALL] != second[records.SCORES_ALL]
