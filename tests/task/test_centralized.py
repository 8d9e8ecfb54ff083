from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from task import centralized, training
from task.centralized import Progress, train_centralized
from task.config import PredictorSettings, TrainConfig
from task.episodes import make_episode
from task.features import feature_sums
from task.predictor import PreferencePredictor
from task.training import episode_losses, train_client, training_splits
from tests.task.examples import make_group, make_predictor, of_one_survey

TRAIN = TrainConfig(
    num_rounds=1,
    local_steps=1,
    min_context=1,
    max_context=4,
    min_target=1,
    max_target=4,
    learning_rate=0.01,
)
# Of 9, 12 and 5 trainable questions.
RAGGED = of_one_survey(
    [
        make_group([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], held_back=[4], seed=1, group="A"),
        make_group([3, 2, 2, 6, 3] * 3, held_back=[0, 1, 14], seed=2, group="B"),
        make_group([2, 4, 2, 3, 2, 2], held_back=[5], seed=3, group="C"),
    ]
)


def train(module, clients, config, seed=0):
    reports = []
    train_centralized(module, clients, config, seed=seed, after_round=reports.append)
    return reports


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(left, right, tolerance=0.0):
    for (name, ours), (_, theirs) in zip(
        left.named_parameters(), right.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, msg=name)


def distance(left, right):
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return torch.cat([(p - q).detach().abs().flatten() for p, q in pairs])


def slow_training(module, clients, config, seed=0):
    """Plain AdamW on the weighted mean of the losses of episodes built one by one."""
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=config.weight_decay)
    number = sum(len(data.trainable) for data in clients)
    for server_round in range(1, config.num_rounds + 1):
        for step in range(config.local_steps):
            loss = torch.zeros(())
            for data in clients:
                drawn = training_splits(data, config, seed, server_round, config.local_steps)[step]
                of_group = [
                    episode_losses(module, make_episode([(data, split)]), config.objective)[0]
                    for split in drawn
                ]
                loss = loss + len(data.trainable) / number * sum(of_group) / len(of_group)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rates(server_round)[step]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "gaussian"},
        {"episodes_per_step": 3, "weight_decay": 0.1},
        {"num_rounds": 2, "local_steps": 3},
        {"num_rounds": 2, "local_steps": 2, "schedule": "constant"},
    ],
    ids=str,
)
def test_training_equals_plain_adamw_on_the_weighted_mean_of_losses(changes):
    config = replace(TRAIN, **changes)
    ours, slow = make_predictor(), make_predictor()
    train(ours, RAGGED, config)
    slow_training(slow, RAGGED, config)
    # A bias whose gradient vanishes is moved by the rounding of it, which Adam blows up.
    assert distance(ours, slow).quantile(0.995) < 2e-5
    assert distance(ours, make_predictor()).quantile(0.5) > 0.005


@pytest.mark.parametrize("changes", [{}, {"objective": "gaussian", "weight_decay": 0.2}], ids=str)
@pytest.mark.parametrize("data", RAGGED, ids="ABC")
def test_one_group_and_one_round_give_what_local_training_gives(data, changes):
    config = replace(TRAIN, local_steps=4, **changes)
    pooled, client = make_predictor(), make_predictor()
    start = {name: p.detach().clone() for name, p in client.named_parameters()}
    train(pooled, [data], config, seed=5)
    update = train_client(
        client,
        start,
        data,
        config,
        learning_rates=config.learning_rates(1),
        seed=5,
        server_round=1,
    )
    for name, parameter in pooled.named_parameters():
        if name.startswith("log_std.") and config.objective == "categorical":
            continue  # it is in no loss; zeros in place of its gradient decay it
        torch.testing.assert_close(parameter, update.parameters[name], rtol=0, atol=1e-6, msg=name)


def test_a_step_of_federated_sgd_is_a_step_of_centralized_sgd(monkeypatch):
    """The gradient of the pooled loss is the mean of the clients', weighted by their questions."""
    seen = []

    class Spy(torch.optim.AdamW):
        def step(self, *args, **options):
            seen.append(gradients(module))
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    module = make_predictor()
    train(module, RAGGED, TRAIN)
    expected = {}
    for data, weight in zip(RAGGED, (9 / 26, 12 / 26, 5 / 26), strict=True):
        client = make_predictor()
        ((split,),) = training_splits(data, TRAIN, 0, 1, 1)
        episode_losses(client, make_episode([(data, split)]), "categorical").mean().backward()
        for name, gradient in gradients(client).items():
            expected[name] = expected.get(name, 0) + weight * gradient
    (ours,) = seen
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_groups_count_by_their_trainable_questions_and_not_alike():
    ours, alike = make_predictor(), make_predictor()
    train(ours, RAGGED, TRAIN)
    trimmed = [replace(data, held_back=data.trainable[:0]) for data in RAGGED]
    train(alike, trimmed, TRAIN)
    assert_same(ours, alike)  # held-back questions are no weight
    with pytest.raises(AssertionError):
        train(alike := make_predictor(), [RAGGED[0], RAGGED[2], RAGGED[2]], TRAIN)
        assert_same(ours, alike, 1e-5)


def test_held_back_questions_are_never_touched():
    """Answers and features of held-back questions may be anything."""
    config = replace(TRAIN, num_rounds=3, local_steps=4)
    untouched, poisoned = make_predictor(), make_predictor()
    train(untouched, RAGGED, config)
    nowhere = []
    for data in RAGGED:
        shares, rows = data.answers.shares.copy(), data.rows.copy()
        for question in data.held_back:
            start = data.answers.starts[question]
            own = slice(start, start + data.answers.lengths[question])
            shares[own], rows[own] = np.nan, -(10**9)
        nowhere.append(replace(data, answers=replace(data.answers, shares=shares), rows=rows))
    train(poisoned, nowhere, config)
    assert_same(untouched, poisoned)


def test_episodes_are_those_of_federated_clients(monkeypatch):
    config = replace(TRAIN, num_rounds=2, local_steps=3, episodes_per_step=2)

    def record(module_of_code):
        drawn = []
        real = module_of_code.make_episode

        def spy(parts, **options):
            drawn.extend(
                (data.group, split.context.tolist(), split.target.tolist()) for data, split in parts
            )
            return real(parts, **options)

        monkeypatch.setattr(module_of_code, "make_episode", spy)
        return drawn

    pooled, clients = record(centralized), record(training)
    train(make_predictor(), RAGGED, config, seed=7)
    predictor = make_predictor()
    start = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    for server_round in (1, 2):
        for data in RAGGED:
            train_client(
                predictor,
                start,
                data,
                config,
                learning_rates=config.learning_rates(server_round),
                seed=7,
                server_round=server_round,
            )
    assert len(pooled) == 2 * 3 * 2 * 3
    for group in "ABC":
        assert [d for d in pooled if d[0] == group] == [d for d in clients if d[0] == group]
    assert pooled != clients  # step after step over all groups, not group after group


def test_the_schedule_of_learning_rates_is_that_of_a_run(monkeypatch):
    used = []

    class Spy(torch.optim.AdamW):
        def step(self, *args, **options):
            used.append(self.param_groups[0]["lr"])
            return super().step(*args, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    config = replace(TRAIN, num_rounds=3, local_steps=2)
    train(make_predictor(), RAGGED, config)
    assert used == [rate for number in (1, 2, 3) for rate in config.learning_rates(number)]
    assert used == sorted(used, reverse=True)


def test_progress_counts_rounds_steps_and_episodes_of_all_groups():
    config = replace(TRAIN, num_rounds=2, local_steps=3, episodes_per_step=2)
    assert train(make_predictor(), RAGGED, config) == [
        Progress(round=1, optimizer_steps=3, episodes=3 * 2 * 3),
        Progress(round=2, optimizer_steps=6, episodes=6 * 2 * 3),
    ]


def test_a_module_that_was_evaluated_between_rounds_trains_on_in_training_mode():
    modes = []
    module = make_predictor()
    module.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    config = replace(TRAIN, num_rounds=2)
    train_centralized(
        module, RAGGED[:1], config, seed=0, after_round=lambda progress: module.eval()
    )
    assert modes == [True, True]


def test_training_depends_on_the_seed_and_on_nothing_else():
    first, again, other = make_predictor(), make_predictor(), make_predictor()
    train(first, RAGGED, TRAIN, seed=1)
    torch.manual_seed(99)
    train(again, RAGGED, TRAIN, seed=1)
    train(other, RAGGED, TRAIN, seed=2)
    assert_same(first, again)
    with pytest.raises(AssertionError):
        assert_same(first, other, 1e-5)


def test_the_predictor_that_a_run_starts_with_can_be_trained_like_any_module():
    predictor = PreferencePredictor.initial(
        PredictorSettings(width=8, num_heads=2, num_layers=1, feedforward_width=8),
        feature_sums(RAGGED[0]),
        {},
        seed=0,
    )
    losses = []

    def note(_):
        with torch.no_grad():
            split = training_splits(RAGGED[0], TRAIN, 1, 1, 1)[0][0]
            episode = make_episode([(RAGGED[0], split)])
            losses.append(episode_losses(predictor, episode, "categorical").item())

    note(None)
    config = replace(TRAIN, num_rounds=10, local_steps=3)
    train_centralized(predictor, RAGGED[:1], config, seed=0, after_round=note)
    assert isinstance(predictor, nn.Module)
    assert losses[-1] < losses[0] - 0.03
