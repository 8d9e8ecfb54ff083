import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from task.config import TrainConfig
from task.episodes import Split, make_episode, sample_split
from task.predictor import PreferencePredictor
from task.seeding import generator
from task.stacking import Stack
from task.training import episode_losses, train_client, train_stack
from tests.task.examples import (
    SHORT_EPISODES,
    SMALL,
    make_group,
    make_predictor,
    of_one_survey,
    predict_one,
    question_tensors,
)

DATA = make_group([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], held_back=[1, 8])


def train(data=DATA, config=SHORT_EPISODES, rates=(0.01,) * 3, dtype=torch.float32, **changes):
    predictor = make_predictor().to(dtype)
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    chosen = {"seed": 0, "server_round": 1} | changes
    update = train_client(predictor, parameters, data, config, learning_rates=rates, **chosen)
    return update, parameters


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def distance(first, second):
    return math.sqrt(sum(float((first[n] - second[n]).square().sum()) for n in first))


def assert_trained_alike(parameters, predictor):
    for name, expected in predictor.named_parameters():
        torch.testing.assert_close(parameters[name], expected.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
def test_the_loss_equals_a_slow_loop_over_questions(objective):
    predictor = make_predictor()
    four, three = of_one_survey([make_group([2, 3, 5, 4], seed=1), make_group([4, 2, 2], seed=2)])
    parts = [
        (four, Split(np.array([3]), np.array([2, 0, 1]))),
        (three, Split(np.array([1, 0]), np.array([2]))),
    ]
    loss = episode_losses(predictor, make_episode(parts), objective).mean().item()
    per_episode = []
    for data, split in parts:
        per_question, per_option = [], []
        for question in split.target:
            p, log_std = predict_one(predictor, data, split.context, question)
            y = question_tensors(data, question)[1].numpy()
            per_question.append(-(y * np.log(p)).sum())
            density = np.exp(-0.5 * ((y - p) / np.exp(log_std)) ** 2) / np.exp(log_std)
            per_option.extend(-np.log(density / math.sqrt(2 * math.pi)))
        per_episode.append(np.mean(per_question if objective == "categorical" else per_option))
    assert loss == pytest.approx(np.mean(per_episode), rel=1e-5)


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
def test_padding_and_shares_of_zero_leave_gradients_finite(objective):
    predictor = make_predictor()
    small, large = of_one_survey([make_group([2, 2], seed=1), make_group([4, 3, 3], seed=2)])
    large.answers.shares[:4] = [1, 0, 0, 0]
    parts = [
        (small, Split(np.array([0]), np.array([1]))),
        (large, Split(np.array([2]), np.array([0, 1]))),
    ]
    episode_losses(predictor, make_episode(parts), objective).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None])
    assert gradients.isfinite().all()
    assert gradients.abs().max() > 0


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
def test_training_equals_a_plain_adamw_loop(objective):
    config = replace(SHORT_EPISODES, objective=objective, weight_decay=0.1, episodes_per_step=2)
    rates = (0.02, 0.01, 0.005)
    # In double precision: Adam blows up the rounding of gradients that are zero by invariance.
    update, parameters = train(
        config=config, rates=rates, dtype=torch.double, seed=4, server_round=2
    )

    predictor = make_predictor().double()
    random = generator(4, "training episodes", 2, "A")
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1.0, weight_decay=0.1)
    losses = []
    for rate in rates:
        episode = make_episode([(DATA, sample_split(DATA, config, random)) for _ in range(2)])
        loss = episode_losses(predictor, episode, objective).mean()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        for parameter in predictor.parameters():  # what the objective does not use decays too
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        losses.append(loss.item())
    assert_trained_alike(update.parameters, predictor)
    assert update.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert update.num_examples == 8
    assert distance(update.parameters, parameters) > 0.01


def test_the_same_seed_and_round_train_to_the_same_bits():
    assert equal(train()[0].parameters, train()[0].parameters)


@pytest.mark.parametrize("change", [{"seed": 1}, {"server_round": 2}])
def test_another_seed_or_round_draws_other_episodes(change):
    assert not equal(train(**change)[0].parameters, train()[0].parameters)


def test_training_starts_from_the_parameters_it_is_given():
    predictor = make_predictor(seed=9)
    parameters = dict(make_predictor().named_parameters())
    predictor.load_state_dict(make_predictor().state_dict() | dict(predictor.named_parameters()))
    update = train_client(
        predictor, parameters, DATA, SHORT_EPISODES,
        learning_rates=(0.01,) * 3, seed=0, server_round=1,
    )  # fmt: skip
    assert equal(update.parameters, train()[0].parameters)


def test_training_leaves_the_servers_parameters_as_they_were():
    _, parameters = train()
    assert equal(parameters, dict(make_predictor().named_parameters()))


def test_held_back_questions_do_not_influence_training():
    poisoned = make_group(DATA.answers.lengths, held_back=DATA.held_back)
    for question in DATA.held_back:
        start = poisoned.answers.starts[question]
        rows = slice(start, start + poisoned.answers.lengths[question])
        poisoned.answers.shares[rows] = float("nan")
        poisoned.features[poisoned.rows[rows]] = float("nan")
    assert equal(train(data=poisoned)[0].parameters, train()[0].parameters)


def test_questions_that_may_train_do_influence_training():
    changed = make_group(DATA.answers.lengths, held_back=DATA.held_back)
    changed.answers.shares[:] = changed.answers.shares[::-1].copy()
    assert not equal(train(data=changed)[0].parameters, train()[0].parameters)


def test_the_proximal_term_keeps_parameters_near_the_servers():
    many = (0.01,) * 20
    distances = []
    for mu in (0.0, 1.0, 100.0):
        update, parameters = train(rates=many, proximal_mu=mu)
        distances.append(distance(update.parameters, parameters))
    assert distances[0] > distances[1] > distances[2]


def test_the_proximal_term_equals_its_formula():
    update, parameters = train(proximal_mu=0.7, dtype=torch.double)
    predictor = make_predictor().double()
    random = generator(0, "training episodes", 1, "A")
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=0.01, weight_decay=0)
    for _ in range(3):
        episode = make_episode([(DATA, sample_split(DATA, SHORT_EPISODES, random))])
        loss = episode_losses(predictor, episode, "categorical").mean()
        apart = sum((p - parameters[n]).square().sum() for n, p in predictor.named_parameters())
        optimizer.zero_grad()
        (loss + 0.7 / 2 * apart).backward()
        optimizer.step()
    assert_trained_alike(update.parameters, predictor)


def test_the_first_steps_loss_is_reported_without_the_proximal_term():
    one = (0.01,)
    assert train(rates=one, proximal_mu=100.0)[0].loss == train(rates=one)[0].loss


def test_a_learning_rate_of_zero_changes_nothing():
    update, parameters = train(rates=(0.0, 0.0))
    assert equal(update.parameters, parameters)


def test_feature_statistics_are_not_trained():
    predictor = make_predictor()
    statistics = predictor.feature_mean.clone(), predictor.feature_std.clone()
    update = train_client(
        predictor, dict(predictor.named_parameters()), DATA, SHORT_EPISODES,
        learning_rates=(0.01,), seed=0, server_round=1,
    )  # fmt: skip
    assert set(update.parameters) == {name for name, _ in predictor.named_parameters()}
    assert torch.equal(predictor.feature_mean, statistics[0])
    assert torch.equal(predictor.feature_std, statistics[1])


def test_the_loss_falls_over_rounds_on_a_learnable_task():
    data = make_group([3] * 40, dimension=4)
    shares = torch.from_numpy(data.features[data.rows][:, 0].copy()).view(40, 3).softmax(1)
    data.answers.shares[:] = shares.flatten().numpy()
    config = TrainConfig(min_context=5, max_context=10, min_target=10, max_target=20)
    torch.manual_seed(0)
    predictor = PreferencePredictor.of(SMALL, 4)
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    losses = []
    for server_round in range(1, 13):
        update = train_client(
            predictor, parameters, data, config,
            learning_rates=(0.01,) * 8, seed=0, server_round=server_round,
        )  # fmt: skip
        parameters = update.parameters
        losses.append(update.loss)
    entropy = -(shares * shares.log()).sum(1).mean().item()  # the lowest loss there can be
    assert losses[-1] - entropy < 0.3 * (losses[0] - entropy)


SIZES = ([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], [2] * 5, [6, 5, 4, 3, 6, 2, 3], [2, 3, 2, 2, 2, 2, 2, 4])
CLIENTS = of_one_survey(
    [make_group(lengths, held_back=[1], seed=k, group=f"G{k}") for k, lengths in enumerate(SIZES)]
)


def train_together(
    clients=CLIENTS, config=SHORT_EPISODES, rates=(0.01,) * 3, dtype=torch.float32, **changes
):
    predictor = make_predictor().to(dtype)
    stack = changes.pop("stack", None) or Stack(predictor, len(clients))
    start = stack.layout.flatten(dict(make_predictor().to(dtype).named_parameters()))
    chosen = {"seed": 0, "server_round": 1} | changes
    update = train_stack(stack, start, clients, config, learning_rates=rates, **chosen)
    return update, stack


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
@pytest.mark.parametrize(
    ("settings", "rates", "mu"),
    [
        ({}, (0.01,), 0.0),
        ({}, (0.02, 0.01, 0.0, 0.005), 0.0),
        ({"weight_decay": 0.3}, (0.01,) * 3, 0.0),
        ({"episodes_per_step": 3}, (0.01,) * 3, 0.0),
        # With some decay: without, the proximal term and Adam blow up the rounding of gradients
        # that are zero by invariance, even in double precision (`head.0.bias`, categorical).
        ({"weight_decay": 0.1}, (0.01,) * 3, 0.7),
        ({"weight_decay": 0.1, "episodes_per_step": 2}, (0.02, 0.01, 0.005), 2.0),
    ],
    ids=["one step", "rates", "decay", "episodes", "proximal", "all"],
)
def test_a_stack_trains_each_client_as_if_it_were_alone(objective, settings, rates, mu):
    config = replace(SHORT_EPISODES, objective=objective, **settings)
    chosen = {"seed": 3, "server_round": 2, "proximal_mu": mu}
    together, stack = train_together(config=config, rates=rates, dtype=torch.double, **chosen)
    views = stack.layout.views(together.values_KP)
    for k, data in enumerate(CLIENTS):
        update, parameters = train(data, config, rates, torch.double, **chosen)
        assert distance(update.parameters, parameters) > 0.01
        for name, expected in update.parameters.items():
            torch.testing.assert_close(views[name][k], expected, rtol=0, atol=1e-9)
        assert float(together.losses_K[k]) == pytest.approx(update.loss, rel=1e-10)


def test_clients_of_a_stack_train_apart():
    values_KP = train_together()[0].values_KP
    for k in range(len(CLIENTS)):
        for other in range(k):
            assert (values_KP[k] - values_KP[other]).norm() > 0.01


def test_a_stack_of_one_trains_to_the_bits_of_a_client():
    update, stack = train_together(CLIENTS[:1])
    alone, _ = train(CLIENTS[0])
    assert equal(alone.parameters, stack.layout.views(update.values_KP[0]))
    assert update.losses_K.tolist() == [alone.loss]


def test_a_stack_that_trained_before_trains_to_the_same_bits():
    first, stack = train_together()
    values, losses = first.values_KP.clone(), first.losses_K.clone()
    train_together(CLIENTS[::-1], stack=stack, server_round=5, proximal_mu=1.0)
    again, _ = train_together(stack=stack)
    assert torch.equal(again.values_KP, values)
    assert torch.equal(again.losses_K, losses)


def test_features_that_are_given_train_to_the_same_bits():
    own, _ = train_together()
    given, _ = train_together(features=torch.from_numpy(CLIENTS[0].features.copy()))
    assert torch.equal(given.values_KP, own.values_KP)
    assert torch.equal(given.losses_K, own.losses_K)
    doubled, _ = train_together(features=torch.from_numpy(CLIENTS[0].features * 2))
    assert not torch.equal(doubled.values_KP, own.values_KP)


def test_the_start_is_left_as_it_was_and_gaps_stay_zero():
    stack = Stack(make_predictor(), 4)
    start = stack.layout.flatten(dict(make_predictor().named_parameters()))
    before = start.clone()
    update = train_stack(
        stack, start, CLIENTS, replace(SHORT_EPISODES, weight_decay=0.1),
        learning_rates=(0.01,) * 2, seed=0, server_round=1, proximal_mu=0.5,
    )  # fmt: skip
    assert torch.equal(start, before)
    gaps = stack.layout.flatten(
        {name: torch.ones(shape) for name, shape in stack.layout.shapes.items()}
    ).logical_not()
    assert int(gaps.sum()) > 0
    assert not update.values_KP[:, gaps].any()


@pytest.mark.parametrize("clients", [CLIENTS, CLIENTS[:1]], ids=["stack", "one"])
def test_bfloat16_trains_float32_parameters_close_to_those_of_float32(clients):
    rates = (0.003,) * 4
    full, _ = train_together(clients, rates=rates)
    lower, stack = train_together(clients, rates=rates, autocast=torch.bfloat16)
    assert lower.values_KP.dtype == torch.float32
    assert not torch.equal(lower.values_KP, full.values_KP)
    torch.testing.assert_close(lower.losses_K.float(), full.losses_K, rtol=0.02, atol=0)
    start = stack.layout.flatten(dict(make_predictor().named_parameters()))
    for k in range(len(clients)):
        moved, apart = full.values_KP[k] - start, lower.values_KP[k] - full.values_KP[k]
        assert apart.norm() < 0.5 * moved.norm()
