from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    RECORD_KEY_STATE,
    Key,
    Stage,
)

import client_app.app
from server_app.secure_aggregation import SecureSum
from task import records
from task.errors import RoundError
from task.secure_aggregation import decode, encode, least_survivors, noise_std, value_range
from task.training import LocalUpdate
from tests.server_app.in_process_grid import InProcessGrid
from tests.server_app.secure_round import (
    Answer,
    Fault,
    SecureRounds,
    fails,
    secure_config,
    weighted_mean,
)
from tests.server_app.training import train_federated


def altered(stage: str, change: Callable[[RecordDict], object]) -> Fault:
    """The server's message of a stage is another, for everybody."""

    def fault(at: str, client_id: int, message: Message, answer: Answer) -> Message:
        if at == stage:
            content = RecordDict(
                {
                    name: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
                    for name, record in message.content.items()
                }
            )
            change(content)
            message = make_message(message.metadata, content)
        return answer(message)

    return fault


def setting(record: str, key: str, value: Any) -> Callable[[RecordDict], object]:
    return lambda content: content.config_records[record].__setitem__(key, value)


def refusal(fault: Fault | None, match: str, **changes: Any) -> None:
    rounds = SecureRounds(secure_config(groups=5, **changes), fault=fault)
    with pytest.raises(RoundError, match=match):
        rounds.run()
    assert not any(stage == Stage.UNMASK for stage, _, _ in rounds.replies)


def noisy(**changes: Any) -> dict[str, Any]:
    return {
        "privacy__unit": "client",
        "privacy__noise_multiplier": 1.5,
        "strategy__clipping_norm": 0.05,
        **changes,
    }


# -- refusals --------------------------------------------------------------------------------------


def test_a_client_does_not_train_in_plain_when_the_server_turns_aggregation_off() -> None:
    secure = secure_config(groups=5)
    grid = InProcessGrid(secure_config(groups=5, privacy__secure_aggregation=False))
    for context in grid.contexts.values():
        context.run_config["privacy.secure-aggregation"] = True
    with pytest.raises(RoundError, match="asks for its plain update"):
        train_federated(grid, secure)


def test_a_client_does_not_take_part_when_its_own_settings_are_otherwise() -> None:
    rounds = SecureRounds(secure_config(groups=5))
    for context in rounds.grid.contexts.values():
        context.run_config["privacy.secure-aggregation"] = False
    with pytest.raises(RoundError, match=r"privacy\.secure-aggregation = False in this client's"):
        rounds.run()


def test_describing_and_scoring_go_on_as_ever() -> None:
    rounds = SecureRounds(secure_config(groups=5))  # it has asked all nodes to describe themselves
    assert len(rounds.clients) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (Key.SAMPLE_NUMBER, 2),
        (Key.SHARE_NUMBER, 3),
        (Key.THRESHOLD, 2),
        (Key.MOD_RANGE, 2**30),
    ],
)
def test_a_setup_that_hides_little_is_refused(key: str, value: int) -> None:
    fault = altered(Stage.SETUP, setting(RECORD_KEY_CONFIGS, key, value))
    refusal(fault, "'setup'.*to open a mask: expected 3 clients or more")


def test_a_second_masked_update_in_one_round_is_refused() -> None:
    rounds = SecureRounds(secure_config(groups=5))
    first = rounds.run()
    assert len(first.survivors) == 4
    with pytest.raises(RoundError, match=r"round 1 and was asked for one of round 1"):
        rounds.run()
    rounds.server_round = 2
    assert len(rounds.run().survivors) == 4


def test_a_round_that_is_done_again_is_opened_over_the_same_clients_alone() -> None:
    rounds = SecureRounds(secure_config(groups=6))
    first = rounds.run()

    def restart() -> None:
        for context in rounds.grid.contexts.values():
            context.state = RecordDict()

    restart()
    again = rounds.run()
    assert again.survivors == first.survivors
    np.testing.assert_array_equal(again.mean_P, first.mean_P)
    restart()
    rounds.fault = fails(Stage.COLLECT_MASKED_VECTORS, 1)
    with pytest.raises(RoundError, match="has opened one over other clients before"):
        rounds.run()
    rounds.server_round = 2
    assert len(rounds.run().survivors) == 4
    restart()
    rounds.fault, rounds.server_round = None, 1
    assert rounds.run().survivors == first.survivors


def test_a_round_that_halted_before_is_no_obstacle() -> None:
    rounds = SecureRounds(secure_config(groups=5), fault=fails(Stage.SHARE_KEYS, 1, 2))
    with pytest.raises(RoundError, match="halted in its stage 'share_keys'"):
        rounds.run()
    rounds.fault = None
    assert len(rounds.run().survivors) == 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (setting(records.SECURE_AGGREGATION, records.MAX_EXAMPLES, 60), "weighs by at most 60"),
        (setting(records.BRIEFING, records.CLIPPING_NORM, 0.0), "clips to the norm 0.0"),
        (
            setting(records.SECURE_AGGREGATION, records.LEAST_SURVIVORS, 4),
            "noise of 4 clients of 4, expected at most 3",
        ),
    ],
)
def test_less_privacy_than_a_clients_own_settings_promise_is_refused(
    change: Callable[[RecordDict], object], match: str
) -> None:
    refusal(altered(Stage.COLLECT_MASKED_VECTORS, change), match, **noisy())


def spoil(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    train_client = client_app.app.train_client

    def spoiled(*args: Any, **options: Any) -> LocalUpdate:
        update = train_client(*args, **options)
        next(iter(update.parameters.values())).view(-1)[0] = value
        return update

    monkeypatch.setattr(client_app.app, "train_client", spoiled)


def test_an_update_that_cannot_be_summed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, 123.5)
    refusal(None, r"beyond 1\.0, the largest .* Set strategy\.clipping-norm")
    spoil(monkeypatch, float("nan"))
    refusal(None, "not finite", strategy__clipping_norm=1.0)


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [1, 2, 6])
def test_every_group_of_a_node_has_a_state_of_its_own(num_nodes: int) -> None:
    rounds = SecureRounds(secure_config(), num_nodes=num_nodes)
    found = rounds.run()
    expected_P = weighted_mean(rounds.updates(), list(rounds.clients))
    assert float((found.mean_P - expected_P).abs().max()) < 1e-7
    states = [context.state for context in rounds.grid.contexts.values()]
    assert not any(RECORD_KEY_STATE in state for state in states)
    kept = {name for state in states for name in state if name.startswith(RECORD_KEY_STATE)}
    assert kept == {f"{RECORD_KEY_STATE}:{group}" for group in rounds.groups}


# -- noise -----------------------------------------------------------------------------------------


def noise_of(found: SecureSum, rounds: SecureRounds) -> np.ndarray:
    """The noise in the sum, on the entries of parameters."""
    updates = rounds.updates()
    norm = rounds.config.strategy.clipping_norm
    clipped = {
        i: (update * min(1, norm / np.linalg.norm(update)), 1)
        for i, (update, _) in updates.items()
        if i in found.survivors
    }
    mean_P = weighted_mean(clipped, found.survivors, weighted=False)
    noise_P = (found.mean_P - mean_P) * len(found.survivors)
    return np.concatenate([v.numpy().ravel() for v in rounds.layout.views(noise_P).values()])


@pytest.mark.parametrize("lost", [(), (2, 6)])
def test_the_survivors_noise_is_enough_however_few_they_are(lost: tuple[int, ...]) -> None:
    """z C with as few as count (4 of 6), more with more."""
    fault = fails(Stage.COLLECT_MASKED_VECTORS, *lost)
    rounds = SecureRounds(secure_config(**noisy()), fault=fault)
    found = rounds.run()
    remaining = 6 - len(lost)
    assert len(found.survivors) == found.weight == remaining
    noise = noise_of(found, rounds)
    expected = 1.5 * 0.05 * sqrt(remaining / 4)
    relative = 4 / sqrt(2 * len(noise))  # four standard errors of a standard deviation
    assert len(noise) > 1000
    assert noise.std() == pytest.approx(expected, rel=relative)
    assert abs(noise.mean()) < 4 * expected / sqrt(len(noise))
    between = torch.ones(rounds.layout.size, dtype=torch.bool)
    for view in rounds.layout.views(between).values():
        view.fill_(False)
    assert between.any() and not found.mean_P[between].any()


def test_noise_differs_between_clients_and_rounds_and_repeats_with_the_seed() -> None:
    means = []
    for seed, server_round in ((0, 1), (0, 1), (0, 2), (1, 1)):
        rounds = SecureRounds(secure_config(groups=5, run__seed=seed, **noisy()))
        rounds.server_round = server_round
        found = rounds.run()
        means.append((found.mean_P, noise_of(found, rounds)))
    assert torch.equal(means[0][0], means[1][0])
    for a, b in ((0, 2), (0, 3), (2, 3)):
        assert abs(np.corrcoef(means[a][1], means[b][1])[0, 1]) < 0.1
    secure = [
        SecureRounds(secure_config(groups=5, privacy__secure_noise=True, **noisy())).run().mean_P
        for _ in range(2)
    ]
    assert not torch.equal(*secure)


def test_without_a_unit_there_is_no_noise() -> None:
    config = secure_config(privacy__unit="question", privacy__noise_multiplier=1.0)
    assert noise_std(config, 1.0, 4) == 0
    config = secure_config(**noisy())
    assert noise_std(config, 0.05, 4) == pytest.approx(1.5 * 0.05 / 2)


# -- numbers ---------------------------------------------------------------------------------------


def test_the_range_is_a_power_of_two_with_room_for_noise() -> None:
    assert value_range(0.0, 0.0) == 1.0
    assert value_range(1.0, 0.0) == 1.0
    assert value_range(1.0, 0.1) == 2.0
    assert value_range(0.05, 0.0) == 0.0625


def test_encoding_is_unbiased_and_on_the_grid() -> None:
    random = np.random.default_rng(0)
    encoded = [encode(np.array([0.3, -0.7, 9.0]), 0.5, 1.0, 8, random) for _ in range(20_000)]
    values = np.array(encoded) / 0.25
    assert np.array_equal(values, values.round())
    np.testing.assert_allclose(np.mean(encoded, axis=0), [0.15, -0.35, 0.5, 0.5], atol=4e-3)


def test_decoding_undoes_encoding() -> None:
    updates = {11: np.array([0.5, -0.25]), 33: np.array([-1.0, 0.125])}
    random = np.random.default_rng(0)
    vectors = [encode(u, n / 40, 1.0, 2**26, random) for n, u in updates.items()]
    mean_P, weight = decode(np.mean(vectors, axis=0), 2, 1.0, 2**26, 40)
    assert weight == 44
    np.testing.assert_allclose(mean_P, [-0.625, 0.03125], atol=1e-6)


def test_a_majority_of_three_at_least() -> None:
    for count in range(3, 40):
        for fraction in (0.0, 0.5, 0.9, 1.0):
            least = least_survivors(count, fraction)
            assert 3 <= least <= count and 2 * least > count and least >= fraction * count
