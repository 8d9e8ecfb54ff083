"""Noisy means of clients whose updates are given: noise, clipping, sensitivity, budget."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

import server_app.central_privacy
from server_app.central_privacy import CentralPrivacy
from server_app.replies import SentParameters
from server_app.strategies import make_strategy
from task import records
from task.aggregation import WeightedSum
from task.errors import BudgetError, ConfigError, RoundError
from task.ledger import SCORES, UPDATE, Ledger, Release
from task.metrics import SCORE_RANGE
from task.seeding import generator
from tests.server_app.private_rounds import (
    SIZE,
    GivenClients,
    Vector,
    mean_update,
    messages_of,
    one_round,
    population_of,
    private_config,
    record_of,
    run_strategy,
    vector_of,
)

ROUNDING = 2.0**-23


def constant(value: float) -> Vector:
    return np.full(SIZE, value)


def unit(index: int, length: float = 1.0) -> Vector:
    return length * np.eye(SIZE)[index]


# -- Noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "nominal"),
    [
        ({}, 8),
        ({"train__sampling": "poisson", "train__clients_per_round": 4}, 4),
        ({"train__clients_per_round": 4}, 4),
        ({"train__sampling": "cyclic", "train__clients_per_round": 4}, 4),
        ({"privacy__secure_noise": True}, 8),
    ],
)
@pytest.mark.parametrize("kind", ["equal", "unequal examples", "drop-outs"])
def test_the_noise_of_the_mean_has_its_deviation_whatever_the_cohort(
    changes: dict[str, Any], nominal: int, kind: str
) -> None:
    # Flower's server-side wrappers divide by the replies received, and then let the strategy
    # weigh them by examples: noise is then too small for the client with the most of them.
    config = private_config(
        privacy__noise_multiplier=1.5, strategy__clipping_norm=2.0, privacy__delta=0.5, **changes
    )
    examples = {i: 1 if i > 1 else 10_000 for i in range(1, 9)} if kind.startswith("un") else None
    updates: dict[int, Vector | None] = {i: np.zeros(SIZE) for i in range(1, 9)}
    if kind == "drop-outs":
        updates |= {1: None, 2: None, 3: None}
    config_ids = list(updates)
    population, _ = population_of(GivenClients(updates, examples), config, config_ids)
    drawn = []
    for server_round in range(1, 26):
        try:
            drawn.append(mean_update(population, server_round=server_round))
        except RoundError:  # all of a small cohort have dropped out
            assert kind == "drop-outs"
    drawn = np.concatenate(drawn)
    expected = 1.5 * 2.0 / nominal
    assert len(drawn) > 150
    assert stats.kstest(drawn / expected, "norm").pvalue > 1e-4
    assert drawn.std() / expected == pytest.approx(1, abs=5 / math.sqrt(2 * len(drawn)))


def test_weights_are_equal_and_the_divisor_is_the_nominal_cohort() -> None:
    config = private_config(privacy__noise_multiplier=0.0, strategy__clipping_norm=100.0)
    updates: dict[int, Vector | None] = {1: constant(1), 2: constant(3), 3: None, 4: constant(4)}
    mean = one_round(config, updates, examples={1: 1, 2: 1000, 4: 7})
    np.testing.assert_allclose(mean, constant(8 / 4))


def test_seeded_noise_is_that_of_its_seed_round_and_attempt_alone() -> None:
    def noise(seed: int = 0, server_round: int = 1, attempt: int = 0, secure: bool = False) -> Any:
        config = private_config(run__seed=seed, privacy__secure_noise=secure)
        central = CentralPrivacy(config, 3, Ledger(None, repeats=True))
        sent = SentParameters(record_of(np.zeros(SIZE)))
        release = Release(UPDATE, server_round, attempt, "")
        total = WeightedSum(sent.layout.size)
        return central.mean(release, total, sent, 0).tolist()

    assert noise() == noise()
    different = [noise(), noise(seed=1), noise(server_round=2), noise(attempt=1)]
    different += [noise(secure=True), noise(secure=True)]
    assert len({tuple(each) for each in different}) == 6


@pytest.fixture
def noise_of_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that depends on the round alone, so that runs of other settings can be compared."""

    def source(_secure: bool, _seed: int, what: str, server_round: int, *_: Any) -> Any:
        return generator(0, what, server_round)

    monkeypatch.setattr(server_app.central_privacy, "noise_source", source)


def test_runs_of_one_seed_and_other_settings_share_no_noise() -> None:
    # Else two of them would give the exact mean away: twice the one less the other.
    updates: dict[int, Vector | None] = {i: np.zeros(SIZE) for i in range(1, 4)}
    one, two = (one_round(private_config(privacy__noise_multiplier=z), updates) for z in (1.0, 2.0))
    assert np.abs(2 * one - two).max() > 0.1 * np.abs(two).max()
    np.testing.assert_array_equal(one, one_round(private_config(), updates))


@pytest.mark.usefixtures("noise_of_round")
def test_noise_is_correlated_over_rounds_as_the_bands_say() -> None:
    config = private_config(
        privacy__num_bands=2, train__sampling="cyclic", train__clients_per_round=2
    )
    independent = private_config(train__sampling="cyclic", train__clients_per_round=2)
    means = []
    for each in (config, independent):
        population, _ = population_of(
            GivenClients({i: np.zeros(SIZE) for i in range(1, 5)}), each, range(1, 5)
        )
        means.append([mean_update(population, server_round=r) for r in (1, 2, 3)])
    c = np.array([1, 0.5]) / math.sqrt(1.25)
    banded, alone = means
    expected = [alone[0] / c[0]]
    for z in alone[1:]:
        expected.append((z - c[1] * expected[-1]) / c[0])
    np.testing.assert_allclose(banded, expected, rtol=1e-4, atol=1e-6)


# -- Clipping and sensitivity ----------------------------------------------------------------------


def test_all_tensors_together_are_clipped_scalars_too() -> None:
    # Clipping tensor by tensor would let n tensors have n times the norm.
    config = private_config(privacy__noise_multiplier=0.0, strategy__clipping_norm=2.0)
    mean = one_round(config, {1: constant(3.0)})
    np.testing.assert_allclose(mean, constant(2 / math.sqrt(SIZE)), rtol=1e-6)
    assert np.linalg.norm(mean) <= 2
    in_scalar = one_round(config, {1: unit(6, -50.0)})
    np.testing.assert_allclose(in_scalar, unit(6, -2.0), rtol=1e-6)


def test_an_update_of_zero_is_safe() -> None:
    # Dividing by a norm of zero would make NaN of the whole mean.
    config = private_config(privacy__noise_multiplier=0.0)
    assert one_round(config, {1: np.zeros(SIZE), 2: np.zeros(SIZE)}).tolist() == [0.0] * SIZE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_counts_as_none(value: float) -> None:
    config = private_config(privacy__noise_multiplier=0.0)
    bad = constant(0.1)
    bad[6] = value
    mean = one_round(config, {1: bad, 2: unit(0)})
    np.testing.assert_allclose(mean, unit(0, 0.5))


vectors = st.lists(st.floats(-1e3, 1e3, width=32), min_size=SIZE, max_size=SIZE).map(np.array)


@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    others=st.lists(vectors, min_size=0, max_size=3),
    start=vectors,
    one=vectors,
    other=st.one_of(st.none(), st.just("zero"), vectors),
    norm=st.sampled_from([0.25, 1.0, 40.0]),
)
def test_one_client_moves_the_mean_by_no_more_than_what_is_accounted_for(
    others: list[Vector], start: Vector, one: Vector, other: Any, norm: float
) -> None:
    # Flower's wrappers: weights by examples, a divisor of the replies received, clipping before
    # rounding. Each makes one client's influence larger than the norm over the cohort.
    config = private_config(privacy__noise_multiplier=0.0, strategy__clipping_norm=norm)
    rest = dict(enumerate(others, start=2))
    second = np.zeros(SIZE) if isinstance(other, str) else other
    examples = {1: 10_000, 2: 1}
    means = [
        one_round(config, {1: first, **rest}, start=start, examples=examples)
        if first is not None or rest
        else np.zeros(SIZE)
        for first in (one, second)
    ]
    sensitivity = norm if other is None or isinstance(other, str) else 2 * norm
    # Nothing but the rounding of the two means to float32 may come on top.
    largest = np.abs(vector_of(record_of(start))) + norm + 1
    rounding = np.linalg.norm(largest) * 2.0**-24 * 2
    nominal = 1 + len(rest)
    assert np.linalg.norm(means[0] - means[1]) <= sensitivity / nominal + rounding


# -- Adaptive clipping -----------------------------------------------------------------------------


def drive(central: CentralPrivacy, norms: Vector, rounds: int) -> list[float]:
    """Clipping norms of rounds in which clients' updates have these norms, without training."""
    sent = SentParameters(record_of(np.zeros(SIZE)))
    clipping = [central.clipping_norm]
    for server_round in range(1, rounds + 1):
        total = WeightedSum(sent.layout.size)
        total.weight = float(len(norms))
        within = int((norms <= central.clipping_norm).sum())
        central.mean(Release(UPDATE, server_round, 0, ""), total, sent, within)
        clipping.append(central.clipping_norm)
    return clipping


@pytest.mark.parametrize("factor", [100.0, 0.01])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_clipping_norm_converges_to_the_quantile(
    factor: float, quantile: float, noise: float
) -> None:
    norms = np.random.default_rng(0).lognormal(sigma=0.5, size=1000)
    expected = float(np.quantile(norms, quantile))
    config = private_config(
        privacy__noise_multiplier=noise,
        privacy__clipping_quantile=quantile,
        strategy__clipping_norm=factor * expected,
    )
    central = CentralPrivacy(config, 1000, Ledger(None, repeats=True))
    clipping = drive(central, norms, 400)
    first = clipping[1] / clipping[0]
    assert (first < 1) == (factor > 1)  # its sign has been wrong elsewhere
    share = [(norms <= each).mean() for each in clipping[-100:]]
    assert np.mean(share) == pytest.approx(quantile, abs=0.02)
    assert clipping[-1] == pytest.approx(expected, rel=0.1)


def test_a_step_of_the_clipping_norm_by_hand() -> None:
    # 6 of 8 within, quantile 0.5, step 0.2: C exp(-0.2 (0.75 - 0.5)).
    config = private_config(
        privacy__noise_multiplier=0.0, privacy__clipping_quantile=0.5, strategy__clipping_norm=2.0
    )
    central = CentralPrivacy(config, 8, Ledger(None, repeats=True))
    drive(central, np.array([1.0] * 6 + [9.0] * 2), 1)
    assert central.clipping_norm == pytest.approx(2 * math.exp(-0.05))


def test_one_who_is_missing_is_neither_within_nor_beyond() -> None:
    config = private_config(
        privacy__noise_multiplier=0.0, privacy__clipping_quantile=0.5, strategy__clipping_norm=2.0
    )
    for norms in ([1.0, 9.0], [1.0, 1.0, 9.0, 9.0], []):
        central = CentralPrivacy(config, 8, Ledger(None, repeats=True))
        drive(central, np.array(norms), 1)
        assert central.clipping_norm == pytest.approx(2.0)


@pytest.mark.usefixtures("noise_of_round")
def test_noise_of_updates_pays_for_the_count() -> None:
    # arXiv 1905.03871, theorem 1: z = 1 and a count with sigma = 1, hence of multiplier 2, leave
    # (1 - 1/4)^(-1/2) = 1.1547 for the updates. Flower's adaptive wrapper computes this, too.
    config = private_config(
        privacy__clipping_quantile=0.5,
        privacy__clipping_count_noise=1.0,
        privacy__clipping_learning_rate=1e-9,
        strategy__clipping_norm=1.0,
    )
    plain = private_config()
    updates: dict[int, Vector | None] = {i: np.zeros(SIZE) for i in range(1, 4)}
    noisy, alone = one_round(config, updates), one_round(plain, updates)
    assert noisy[0] / alone[0] == pytest.approx(1 / math.sqrt(0.75), rel=1e-5)
    noises = [1.1547005, 2 * 1.0]
    assert sum(each**-2 for each in noises) == pytest.approx(1.0**-2)


def test_the_count_is_noised() -> None:
    def changes(count_noise: float, clients: int = 40) -> Vector:
        config = private_config(
            privacy__clipping_quantile=0.5,
            privacy__clipping_count_noise=count_noise,
            strategy__clipping_norm=1.0,
        )
        central = CentralPrivacy(config, clients, Ledger(None, repeats=True))
        norms = np.array([0.0, 1e9] * (clients // 2))
        return -np.diff(np.log(drive(central, norms, 800))) / 0.2 * clients

    for given_noise, expected in ((0.0, 2.0), (3.0, 3.0)):  # 0: a twentieth of the cohort
        counts = changes(given_noise)
        assert abs(counts.mean()) < 5 * expected / math.sqrt(800)
        assert counts.std() == pytest.approx(expected, rel=5 / math.sqrt(1600))


def test_too_little_noise_on_the_count_is_refused() -> None:
    config = private_config(privacy__clipping_quantile=0.5, privacy__clipping_count_noise=0.5)
    with pytest.raises(ConfigError, match=r"privacy.clipping-count-noise = 0.5: .*above 0.5"):
        CentralPrivacy(config, 10, Ledger(None, repeats=True))


def test_the_coming_round_is_clipped_to_the_new_norm() -> None:
    config = private_config(
        privacy__noise_multiplier=0.0, privacy__clipping_quantile=0.5, strategy__clipping_norm=1.0
    )
    grid = GivenClients({1: unit(0, 100.0), 2: unit(0, 100.0)})
    population, central = population_of(grid, config, [1, 2])
    assert np.linalg.norm(mean_update(population)) == pytest.approx(1)
    assert central.clipping_norm == population.clipping_norm == pytest.approx(math.exp(0.1))
    again = mean_update(population, server_round=2)
    assert np.linalg.norm(again) == pytest.approx(math.exp(0.1))


# -- Charging and budget ---------------------------------------------------------------------------


def test_a_release_is_on_disk_before_anything_is_sent_and_before_its_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    source = server_app.central_privacy.noise_source

    def noise_source(*arguments: Any) -> Any:
        order.append("noise")
        return source(*arguments)

    class Listening(GivenClients):
        def push_messages(self, messages: Any) -> list[str]:
            order.append("push")
            return super().push_messages(messages)

    monkeypatch.setattr(server_app.central_privacy, "noise_source", noise_source)
    monkeypatch.setattr(os, "fsync", lambda _: order.append("fsync"))
    ledger = Ledger(tmp_path / "ledger", repeats=True)
    grid = Listening({1: unit(0), 2: unit(1)})
    population, _ = population_of(grid, private_config(), [1, 2], ledger)
    mean_update(population)
    assert order == ["fsync", "fsync", "push", "noise"]  # of the file, and of its folder


def test_a_run_stops_before_the_release_that_exceeds_the_budget() -> None:
    config = private_config(strategy__name="fedavg")
    ids = [1, 2, 3]
    _, central = population_of(GivenClients({}), config, ids)
    budget = (central.epsilon(updates=2) + central.epsilon(updates=3)) / 2
    config = private_config(privacy__max_epsilon=budget)
    grid = GivenClients({i: unit(i) for i in ids})
    population, central = population_of(grid, config, ids)
    with pytest.raises(BudgetError, match=r"Stopped before the update of round 3: epsilon would"):
        run_strategy(make_strategy(config), population, 5)
    assert grid.asked == [ids, ids]
    assert central.epsilon() <= budget < central.epsilon(updates=1)


def test_scores_are_paid_from_the_same_budget() -> None:
    config = private_config(privacy__metrics="noisy")
    central = CentralPrivacy(config, 4, Ledger(None, repeats=True))
    budget = central.epsilon(updates=1, scores=1) * 1.0001
    config = private_config(privacy__metrics="noisy", privacy__max_epsilon=budget)
    central = CentralPrivacy(config, 4, Ledger(None, repeats=True))
    central.charge(SCORES, 0, "a")
    central.charge(UPDATE, 1, "a")
    central.charge(SCORES, 0, "a")  # the same again: free
    for what in (SCORES, UPDATE):
        with pytest.raises(BudgetError, match=f"before the {what} of round 2"):
            central.charge(what, 2, "b")
    assert central.epsilon() <= budget


def test_an_empty_cohort_is_charged_and_released_as_noise() -> None:
    config = private_config(train__sampling="poisson", train__clients_per_round=1)
    ids = list(range(1, 5))
    grid = GivenClients({i: np.zeros(SIZE) for i in ids})
    ledger = Ledger(None, repeats=True)
    population, _ = population_of(grid, config, ids, ledger)
    own = population_of(grid, config, ids)[0]
    drawn = []
    for server_round in range(1, 31):
        own.server_round = server_round - 1
        drawn.append(own._cohort(server_round))
    assert [] in drawn
    assert drawn[-1]  # a round after an empty one goes on with its own cohort
    final = run_strategy(make_strategy(config), population, 30)
    assert [cohort for cohort in grid.asked if cohort] == [cohort for cohort in drawn if cohort]
    assert [release.server_round for release in ledger.releases] == list(range(1, 31))
    assert final.std() == pytest.approx(math.sqrt(30), rel=0.5)  # 30 rounds of noise of deviation 1
    empty = drawn.index([]) + 1
    again, _ = population_of(grid, config, ids)
    before = len(grid.received)
    noise = mean_update(again, server_round=empty)
    assert len(grid.received) == before
    assert 0 < np.linalg.norm(noise) < 10
    assert again.last_train.sent == 0


def test_a_round_in_which_all_fail_is_charged_and_stops_the_run() -> None:
    ledger = Ledger(None, repeats=True)
    population, central = population_of(
        GivenClients({1: None, 2: None}), private_config(), [1, 2], ledger
    )
    with pytest.raises(RoundError, match=r"0 of 2 clients sent a valid reply.*g1: dropped out"):
        run_strategy(make_strategy(private_config()), population, 2)
    assert ledger.count(UPDATE) == 1
    assert central.epsilon() > 0


# -- What a strategy gets, and may not do ----------------------------------------------------------


@pytest.mark.usefixtures("noise_of_round")
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_averaging_strategies_get_the_noisy_reply_and_nothing_else(name: str) -> None:
    config = private_config(strategy__name=name)
    strategy = make_strategy(config)
    seen: list[list[Message]] = []
    aggregate = strategy.aggregate_train

    def listening(server_round: int, replies: Any) -> Any:
        seen.append(list(replies))
        return aggregate(server_round, seen[-1])

    strategy.aggregate_train = listening  # type: ignore[method-assign]
    population, _ = population_of(
        GivenClients({i: unit(i, 0.1) for i in (1, 2, 3)}, {1: 10, 2: 500}), config, [1, 2, 3]
    )
    run_strategy(strategy, population, 2)
    for replies in seen:
        (reply,) = replies
        assert set(reply.content) == {records.ARRAYS, records.METRICS}
        assert dict(reply.content[records.METRICS]) == {records.NUM_EXAMPLES: 3}
    expected = one_round(config, {i: unit(i, 0.1) for i in (1, 2, 3)})
    np.testing.assert_array_equal(vector_of(seen[0][0].content[records.ARRAYS]), expected)


def test_fedavg_makes_the_noisy_mean_the_new_parameters() -> None:
    config = private_config()
    updates: dict[int, Vector | None] = {i: unit(i, 0.1) for i in (1, 2, 3)}
    population, _ = population_of(GivenClients(updates, {1: 10, 2: 500}), config, [1, 2, 3])
    final = run_strategy(make_strategy(config), population, 1, constant(2.0))
    expected = one_round(config, updates, start=constant(2.0))
    np.testing.assert_allclose(final - 2.0, expected, atol=1e-6)


def double(messages: list[Message]) -> list[Message]:
    return [*messages, messages[0]]


def own_records(messages: list[Message]) -> list[Message]:
    return [
        Message(
            RecordDict({**message.content, records.ARRAYS: record_of(np.zeros(SIZE))}),
            message.metadata.dst_node_id,
            "train",
        )
        for message in messages
    ]


def beyond_cohort(messages: list[Message]) -> list[Message]:
    asked = {message.metadata.dst_node_id for message in messages}
    more = next(i for i in range(1, 7) if i not in asked)
    return [*messages, Message(messages[0].content, more, "train")]


def evaluates(messages: list[Message]) -> list[Message]:
    return [*messages, Message(messages[0].content, messages[0].metadata.dst_node_id, "evaluate")]


CHEATS: dict[str, tuple[Callable[[list[Message]], list[Message]], str]] = {
    "two messages to one client": (double, "must get one message"),
    "parameters of each client's own": (own_records, "the same record of parameters"),
    "a client outside of the cohort": (beyond_cohort, "exactly the clients train"),
    "a part of the cohort": (lambda messages: messages[1:], "exactly the clients train"),
    "an evaluation of its own": (evaluates, "no evaluation of its own"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_strategy_cannot_get_more_than_the_mean(cheat: str) -> None:
    # Each breaks the sensitivity or the sampling that is accounted for.
    change, reason = CHEATS[cheat]
    config = private_config(train__clients_per_round=3)
    grid = GivenClients({i: unit(i) for i in range(1, 7)})
    ledger = Ledger(None, repeats=True)
    population, _ = population_of(grid, config, range(1, 7), ledger)
    messages = messages_of(population, record_of(np.zeros(SIZE)), 1)
    with pytest.raises(ValueError, match=reason):
        population.send_and_receive(change(messages))
    assert (grid.received, ledger.releases) == ([], [])


def test_pushing_messages_is_refused() -> None:
    grid = GivenClients({1: unit(0)})
    population, _ = population_of(grid, private_config(), [1])
    with pytest.raises(ValueError, match="send_and_receive instead of push_messages"):
        population.push_messages(messages_of(population, record_of(np.zeros(SIZE)), 1))
    assert grid.received == []


@pytest.mark.parametrize(
    ("sampling", "rounds"),
    [("poisson", (1, 1)), ("poisson", (3, 2)), ("cyclic", (1, 1)), ("cyclic", (1, 3))],
)
def test_a_round_is_trained_once_and_in_order(sampling: str, rounds: tuple[int, int]) -> None:
    # Repeated, a round would have the same cohort and noise: its amplification is not that of two
    # draws, and the difference of two sums with the same noise is exact. In turn, a client would
    # train more often than the turns that are paid for.
    config = private_config(train__sampling=sampling, train__clients_per_round=3)
    grid = GivenClients({i: unit(i) for i in range(1, 7)})
    ledger = Ledger(None, repeats=True)
    population, _ = population_of(grid, config, range(1, 7), ledger)
    mean_update(population, server_round=rounds[0])
    grid.updates[1] = None
    received = len(grid.received)
    with pytest.raises(ValueError, match=f"trained round {rounds[1]} after round {rounds[0]}"):
        mean_update(population, server_round=rounds[1])
    assert (len(grid.received), len(ledger.releases)) == (received, 1)


def test_messages_that_state_no_round_count_rounds() -> None:
    config = private_config(train__sampling="cyclic", train__clients_per_round=2)
    grid = GivenClients({i: unit(i) for i in range(1, 5)})
    ledger = Ledger(None, repeats=True)
    population, _ = population_of(grid, config, range(1, 5), ledger)
    for _ in range(3):
        content = RecordDict({records.ARRAYS: record_of(np.zeros(SIZE)), "config": ConfigRecord()})
        ids = list(population.get_node_ids())
        population.send_and_receive([Message(content, i, "train") for i in ids])
    assert [release.server_round for release in ledger.releases] == [1, 2, 3]
    assert grid.asked[0] == grid.asked[2] != grid.asked[1]


# -- Noisy scores ----------------------------------------------------------------------------------


def scores_of(central: CentralPrivacy, scores: list[float], number: int, rounds: int) -> Vector:
    return np.array(
        [
            central.mean_score(Release(SCORES, r, 0, ""), "train", scores, number)
            for r in range(rounds)
        ]
    )


def test_noisy_means_have_their_deviation_and_count_the_missing_as_the_middle() -> None:
    config = private_config(privacy__metrics="noisy", privacy__metrics_noise_multiplier=2.0)
    central = CentralPrivacy(config, 200, Ledger(None, repeats=True))
    low, high = SCORE_RANGE
    drawn = scores_of(central, [0.7] * 150, 200, 2000)
    deviation = 2.0 * (high - low) / 200
    assert drawn.std() == pytest.approx(deviation, rel=5 / math.sqrt(4000))
    expected = (150 * 0.7 + 50 * (low + high) / 2) / 200
    assert drawn.mean() == pytest.approx(expected, abs=5 * deviation / math.sqrt(2000))


@pytest.mark.parametrize("wild", [-1e9, 1e9])
def test_one_clients_score_moves_the_noisy_mean_by_its_influence_at_most(wild: float) -> None:
    config = private_config(privacy__metrics="noisy", privacy__metrics_noise_multiplier=1e-6)
    central = CentralPrivacy(config, 10, Ledger(None, repeats=True))
    low, high = SCORE_RANGE
    (without,), (with_one,) = (
        scores_of(central, scores, 10, 1) for scores in ([0.7] * 9, [0.7] * 9 + [wild])
    )
    assert abs(with_one - without) == pytest.approx((high - low) / 2 / 10, abs=1e-5)


def test_noisy_scores_differ_by_role_round_and_attempt_and_stay_in_their_range() -> None:
    config = private_config(privacy__metrics="noisy", privacy__metrics_noise_multiplier=0.5)
    central = CentralPrivacy(config, 10, Ledger(None, repeats=True))
    drawn = {
        central.mean_score(Release(SCORES, r, attempt, ""), role, [0.6] * 10, 10)
        for r in (0, 1)
        for attempt in (0, 1)
        for role in ("train", "held-out")
    }
    assert len(drawn) == 8
    loud = private_config(privacy__metrics="noisy", privacy__metrics_noise_multiplier=100.0)
    central = CentralPrivacy(loud, 10, Ledger(None, repeats=True))
    clipped = scores_of(central, [0.6] * 10, 10, 30)
    assert (clipped.min(), clipped.max()) == SCORE_RANGE


def test_a_record_is_never_changed_by_its_noise() -> None:
    arrays: ArrayRecord = record_of(constant(1.0))
    grid = GivenClients({1: unit(0)})
    population, _ = population_of(grid, private_config(), [1])
    population.send_and_receive(messages_of(population, arrays, 1))
    assert vector_of(arrays).tolist() == [1.0] * SIZE
