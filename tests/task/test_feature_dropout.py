"""Features that a training episode does without: which, in what way, and where not."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task import centralized, episodes, training
from task.centralized import train_centralized
from task.cohort import Cohort, Start, TrainTask
from task.config import (
    EngineConfig,
    EvaluationConfig,
    RunConfig,
    RunSettings,
    TrainConfig,
)
from task.episodes import Split, drop_features, make_episode, sample_split
from task.errors import ConfigError
from task.evaluation import evaluate_group
from task.features import FeatureSums, feature_sums
from task.metrics import GroupScores
from task.probes import MlpProbe
from task.seeding import generator
from task.stacking import Stack
from task.training import FeatureDropout, episode_losses, train_client, train_stack, training_splits
from tests.server_app.cohort_runs import cohort_config, train_with_cohort
from tests.server_app.in_process_grid import InProcessGrid
from tests.server_app.training import identical, train_federated
from tests.task.examples import (
    SHORT_EPISODES,
    SMALL,
    make_group,
    make_predictor,
    of_one_survey,
)

DROPPING = replace(SHORT_EPISODES, feature_dropout=0.4)
SIZES = ([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], [2] * 5, [6, 5, 4, 3, 6, 2, 3], [2, 3, 2, 2, 2, 2, 2, 4])
CLIENTS = of_one_survey(
    [make_group(lengths, held_back=[1], seed=k, group=f"G{k}") for k, lengths in enumerate(SIZES)]
)
MEAN = torch.tensor([0.5, -1.0, 0.0, 2.0, 100.0])


def two_episodes():
    """Episodes of unequal size: with padding."""
    return make_episode(
        [
            (CLIENTS[0], Split(np.array([0, 4]), np.array([2, 3, 5]))),
            (CLIENTS[2], Split(np.array([1]), np.array([0]))),
        ]
    )


def train(data, config=DROPPING, rates=(0.01,) * 3, dtype=torch.float32, **changes):
    predictor = make_predictor().to(dtype)
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    chosen = {"seed": 0, "server_round": 1} | changes
    return train_client(predictor, parameters, data, config, learning_rates=rates, **chosen)


def train_together(clients, config=DROPPING, rates=(0.01,) * 3, dtype=torch.float32, **changes):
    predictor = make_predictor().to(dtype)
    stack = Stack(predictor, len(clients))
    start = stack.layout.flatten(dict(make_predictor().to(dtype).named_parameters()))
    chosen = {"seed": 0, "server_round": 1} | changes
    return train_stack(stack, start, clients, config, learning_rates=rates, **chosen), stack


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


class Seen:
    """Stands for `drop_features`, and keeps what it was called with."""

    def __init__(self):
        self.kept = []  # one array per call
        self.means = []
        self.probabilities = []

    def __call__(self, episode, mean_d, kept_Bd, probability):
        self.kept.append(kept_Bd.copy())
        self.means.append(mean_d.clone())
        self.probabilities.append(probability)
        return drop_features(episode, mean_d, kept_Bd, probability)


@pytest.fixture
def seen(monkeypatch):
    spy = Seen()
    monkeypatch.setattr(training, "drop_features", spy)
    monkeypatch.setattr(centralized, "drop_features", spy)
    return spy


@pytest.fixture
def never(monkeypatch):
    def refuse(*_):
        raise AssertionError("features were dropped")

    for module in (episodes, training, centralized):
        monkeypatch.setattr(module, "drop_features", refuse)


# -- One episode -----------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_kept_features_are_scaled_and_dropped_ones_lie_at_the_mean(probability):
    episode = two_episodes()
    kept = np.array([[True, False, True, False, True], [False, True, True, True, False]])
    dropped = drop_features(episode, MEAN, kept, probability)
    for before_BNd, after_BNd in (
        (episode.context_x_BCd, dropped.context_x_BCd),
        (episode.target_x_BTd, dropped.target_x_BTd),
    ):
        assert before_BNd.shape == after_BNd.shape
        assert after_BNd.dtype == torch.float32
        for b, d in np.ndindex(2, 5):
            before, after = before_BNd[b, :, d].numpy(), after_BNd[b, :, d].numpy()
            mean = MEAN[d].item()
            if kept[b, d]:
                expected = mean + (before - mean) / (1 - probability)
                np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-4)
                assert np.abs(after - before).max() > 0.1
            else:
                assert (after == np.float32(mean)).all()


def test_nothing_but_features_changes():
    episode = two_episodes()
    before = {each.name: getattr(episode, each.name) for each in fields(episode)}
    copies = {name: tensor.clone() for name, tensor in before.items()}
    dropped = drop_features(episode, MEAN, np.zeros((2, 5), dtype=bool), 0.5)
    for name, tensor in before.items():
        assert torch.equal(tensor, copies[name])  # the given episode is left as it was
        assert (getattr(dropped, name) is tensor) == ("_x_" not in name), name


def test_all_options_of_an_episode_lose_the_same_features_context_and_targets_alike():
    random = np.random.default_rng(0)
    episode = two_episodes()
    kept = random.random((2, 5)) >= 0.5
    assert (kept[0] != kept[1]).any()
    dropped = drop_features(episode, MEAN, kept, 0.5)
    for b in range(2):
        options_Nd = torch.cat((dropped.context_x_BCd[b], dropped.target_x_BTd[b]))
        assert torch.equal((options_Nd == MEAN).all(0), torch.from_numpy(~kept[b]))
        assert torch.equal((options_Nd == MEAN).any(0), torch.from_numpy(~kept[b]))


def test_the_predictor_sees_a_dropped_feature_as_zero():
    """Its standardisation takes the mean away again."""
    predictor = make_predictor()
    kept = np.zeros((2, 5), dtype=bool)
    dropped = drop_features(two_episodes(), predictor.feature_mean, kept, 0.5)
    standardised = (dropped.target_x_BTd - predictor.feature_mean) / predictor.feature_std
    assert not standardised.any()


@given(st.integers(0, 2**32), st.floats(0.0, 0.95))
def test_a_feature_is_kept_or_dropped_as_a_whole(seed, probability):
    random = np.random.default_rng(seed)
    kept = random.random((2, 5)) >= probability
    episode = two_episodes()
    dropped = drop_features(episode, torch.zeros(5), kept, probability)
    scale = np.where(kept, 1 / (1 - probability), 0)
    for before, after in (
        (episode.context_x_BCd, dropped.context_x_BCd),
        (episode.target_x_BTd, dropped.target_x_BTd),
    ):
        expected = before.double() * torch.from_numpy(scale).unsqueeze(1)
        torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=0)


def test_a_dropped_episode_is_the_plain_one_on_average():
    """Over 20,000 seeded draws; each entry within 5 standard errors."""
    data, probability, draws = CLIENTS[0], 0.3, 20_000
    split = Split(np.array([0]), np.array([2]))
    plain = make_episode([(data, split)])
    config = TrainConfig(feature_dropout=probability, episodes_per_step=draws)
    kept = FeatureDropout(data, config, seed=7, server_round=1).draw()
    many = replace(
        plain,
        context_x_BCd=plain.context_x_BCd.expand(draws, -1, -1),
        target_x_BTd=plain.target_x_BTd.expand(draws, -1, -1),
    )
    mean_d = torch.tensor([0.5, -1.0, 0.0, 2.0, 3.0])
    dropped = drop_features(many, mean_d, kept, probability)
    for before, after in (
        (plain.context_x_BCd[0], dropped.context_x_BCd),
        (plain.target_x_BTd[0], dropped.target_x_BTd),
    ):
        # An entry's deviation over draws: |x - mean| * sqrt(p / (1 - p)).
        error = (before - mean_d).abs() * (probability / (1 - probability) / draws) ** 0.5
        assert ((after.double().mean(0) - before).abs() <= 5 * error + 1e-5).all()
        assert (after.double().std(0) > 0).all()


# -- Which features --------------------------------------------------------------------------------


def draws(data=CLIENTS[0], config=DROPPING, seed=0, server_round=1, number=4):
    dropout = FeatureDropout(data, config, seed, server_round)
    return np.stack([dropout.draw() for _ in range(number)])


def wide(group="G0", dimension=400, seed=0):
    return make_group([2, 3], dimension=dimension, group=group, seed=seed)


def test_draws_follow_seed_round_and_group():
    first = draws(wide())
    np.testing.assert_array_equal(draws(wide()), first)
    for other in (
        draws(wide(), seed=1),
        draws(wide(), server_round=2),
        draws(wide(group="G1")),
        draws(wide(), seed=1, server_round=0),
    ):
        # Independent draws of keeping 60 % agree in 52 % of all entries.
        assert 0.4 < (other == first).mean() < 0.65


def test_draws_depend_on_nothing_else_of_a_group():
    data = wide()
    other = make_group([4] * 9, dimension=400, group="G0", seed=5, held_back=[2])
    np.testing.assert_array_equal(draws(other), draws(data))


def test_every_step_and_every_episode_of_it_draws_anew():
    kept = draws(wide(), replace(DROPPING, episodes_per_step=3))
    assert kept.shape == (4, 3, 400)
    assert kept.dtype == bool
    flat = kept.reshape(12, 400)
    assert len({row.tobytes() for row in flat}) == 12


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95])
def test_as_many_features_are_dropped_as_the_setting_says(probability):
    config = replace(DROPPING, feature_dropout=probability)
    kept = draws(wide(), config, number=100)  # 40,000 entries
    error = (probability * (1 - probability) / kept.size) ** 0.5
    assert abs((~kept).mean() - probability) < 5 * error
    per_feature = (~kept).mean((0, 1))
    assert abs(per_feature - probability).max() < 5 * (probability * (1 - probability) / 100) ** 0.5


def test_the_questions_of_an_episode_do_not_depend_on_dropout():
    plain, dropping = (
        training_splits(CLIENTS[0], config, 0, 1, 3) for config in (SHORT_EPISODES, DROPPING)
    )
    for (ours,), (theirs,) in zip(dropping, plain, strict=True):
        np.testing.assert_array_equal(ours.context, theirs.context)
        np.testing.assert_array_equal(ours.target, theirs.target)


# -- Training --------------------------------------------------------------------------------------


def expected_masks(data, config, steps=3, seed=0, server_round=1):
    """What a client draws, written out: a uniform number of its own generator per feature."""
    random = generator(seed, "feature dropout", server_round, data.group)
    shape = (config.episodes_per_step, data.features.shape[1])
    return [random.random(shape) >= config.feature_dropout for _ in range(steps)]


@pytest.mark.parametrize("episodes_per_step", [1, 3])
def test_stacks_of_one_and_of_many_and_pooled_groups_drop_the_same(seen, episodes_per_step):
    config = replace(DROPPING, episodes_per_step=episodes_per_step, local_steps=3, num_rounds=1)
    by_group = {data.group: expected_masks(data, config) for data in CLIENTS}
    for data in CLIENTS:
        seen.kept.clear()
        train(data, config)
        np.testing.assert_array_equal(seen.kept, by_group[data.group])
    seen.kept.clear()
    train_together(CLIENTS, config)
    assert len(seen.kept) == 3
    for step, kept in enumerate(seen.kept):
        own = [by_group[data.group][step] for data in CLIENTS]
        np.testing.assert_array_equal(kept, np.concatenate(own))
    seen.kept.clear()
    train_centralized(make_predictor(), CLIENTS, config, seed=0, after_round=lambda _: None)
    assert len(seen.kept) == 3 * len(CLIENTS)
    for index, kept in enumerate(seen.kept):
        step, client = divmod(index, len(CLIENTS))
        np.testing.assert_array_equal(kept, by_group[CLIENTS[client].group][step])
    assert set(seen.probabilities) == {0.4}
    assert all(torch.equal(mean, make_predictor().feature_mean) for mean in seen.means)


def test_pooled_groups_drop_in_every_round_what_clients_drop_in_it(seen):
    config = replace(DROPPING, local_steps=2, num_rounds=3)
    train_centralized(make_predictor(), CLIENTS[:2], config, seed=4, after_round=lambda _: None)
    pooled, seen.kept = seen.kept, []
    for server_round in (1, 2, 3):
        train_together(CLIENTS[:2], config, rates=(0.01,) * 2, seed=4, server_round=server_round)
    np.testing.assert_array_equal(np.concatenate(pooled), np.concatenate(seen.kept))


def test_one_step_an_epoch_drops_what_a_clients_first_step_drops(seen):
    config = replace(DROPPING, local_steps=1, num_rounds=2)
    train_centralized(make_predictor(), CLIENTS[:1], config, seed=0, after_round=lambda _: None)
    assert len(seen.kept) == 2
    for server_round, kept in enumerate(seen.kept, start=1):
        np.testing.assert_array_equal(
            kept, expected_masks(CLIENTS[0], config, server_round=server_round)[0]
        )


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
@pytest.mark.parametrize("episodes_per_step", [1, 3])
def test_a_stack_trains_each_client_as_if_it_were_alone(objective, episodes_per_step):
    config = replace(
        DROPPING, objective=objective, episodes_per_step=episodes_per_step, weight_decay=0.1
    )
    chosen = {"seed": 3, "server_round": 2}
    together, stack = train_together(CLIENTS, config, dtype=torch.double, **chosen)
    views = stack.layout.views(together.values_KP)
    for k, data in enumerate(CLIENTS):
        update = train(data, config, dtype=torch.double, **chosen)
        for name, expected in update.parameters.items():
            torch.testing.assert_close(views[name][k], expected, rtol=0, atol=1e-9)
        assert float(together.losses_K[k]) == pytest.approx(update.loss, rel=1e-10)


def test_a_stack_of_one_trains_to_the_bits_of_a_client():
    update, stack = train_together(CLIENTS[:1])
    alone = train(CLIENTS[0])
    assert equal(alone.parameters, stack.layout.views(update.values_KP[0]))
    assert update.losses_K.tolist() == [alone.loss]


@pytest.mark.parametrize("standardised", [False, True])
def test_training_equals_a_plain_loop_over_features_changed_by_hand(standardised):
    """The features of the group are changed where they lie, before any episode is made."""
    config = replace(DROPPING, weight_decay=0.1)
    data = CLIENTS[0]

    def fresh():
        predictor = make_predictor()
        if not standardised:
            predictor.feature_mean.zero_()
            predictor.feature_std.fill_(1)
        return predictor.double()

    predictor = fresh()
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    update = train_client(
        predictor, parameters, data, config, learning_rates=(0.01,) * 3, seed=0, server_round=1
    )
    predictor = fresh()
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=0.01, weight_decay=0.1)
    random = generator(0, "training episodes", 1, data.group)
    losses = []
    for (kept,) in expected_masks(data, config):
        scale = torch.from_numpy(kept.astype(np.float32) / np.float32(0.6)).double()
        features = torch.from_numpy(np.array(data.features)).double()
        features = predictor.feature_mean + (features - predictor.feature_mean) * scale
        split = sample_split(data, config, random)
        episode = make_episode([(data, split)], features=features)
        loss = episode_losses(predictor, episode, "categorical").mean()
        optimizer.zero_grad()
        loss.backward()
        for parameter in predictor.parameters():  # what the objective does not use decays too
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        losses.append(loss.item())
    for name, expected in predictor.named_parameters():
        torch.testing.assert_close(update.parameters[name], expected.detach(), rtol=0, atol=1e-8)
    assert update.loss == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_probability_of_zero_drops_nothing_and_trains_to_the_same_bits(never):
    assert TrainConfig().feature_dropout == 0
    zero = replace(SHORT_EPISODES, feature_dropout=0.0)
    assert zero == SHORT_EPISODES
    assert equal(train(CLIENTS[0], zero).parameters, train(CLIENTS[0], SHORT_EPISODES).parameters)
    train_together(CLIENTS, zero)
    once = replace(zero, num_rounds=1, local_steps=1)
    train_centralized(make_predictor(), CLIENTS, once, seed=0, after_round=lambda _: None)


def test_dropout_changes_training_and_follows_seed_and_round():
    trained = [
        train(CLIENTS[0]),
        train(CLIENTS[0], SHORT_EPISODES),
        train(CLIENTS[0], seed=1),
        train(CLIENTS[0], server_round=2),
    ]
    assert equal(train(CLIENTS[0]).parameters, trained[0].parameters)
    for number, update in enumerate(trained):
        for other in trained[:number]:
            assert not equal(update.parameters, other.parameters)


def test_dropout_does_not_touch_the_groups_features():
    before = CLIENTS[0].features.copy()
    train_together(CLIENTS)
    np.testing.assert_array_equal(CLIENTS[0].features, before)


def test_features_on_a_device_are_dropped_alike():
    own, _ = train_together(CLIENTS)
    given, _ = train_together(CLIENTS, features=torch.from_numpy(CLIENTS[0].features.copy()))
    assert torch.equal(given.values_KP, own.values_KP)


def test_pooled_training_drops_features_of_a_probe_too(seen):
    sums = sum((feature_sums(data) for data in CLIENTS), FeatureSums.zero(5))
    config = replace(DROPPING, num_rounds=1, local_steps=1)
    probe = MlpProbe(SMALL, sums, seed=0)
    train_centralized(probe, CLIENTS, config, seed=0, after_round=lambda _: None)
    assert len(seen.kept) == len(CLIENTS)
    assert torch.equal(seen.means[0], probe.feature_mean)


def run_config(probability, stack_size=1):
    return RunConfig(
        run=RunSettings(seed=5),
        predictor=SMALL,
        train=replace(SHORT_EPISODES, feature_dropout=probability),
        evaluation=EvaluationConfig(num_context=2, num_draws=2),
        engine=EngineConfig(stack_size=stack_size),
    )


def start_of(predictor):
    parameters = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    return Start(parameters, predictor.feature_mean, predictor.feature_std)


@pytest.mark.parametrize("stack_size", [1, 4])
def test_the_cohort_drops_what_a_client_alone_drops(seen, stack_size):
    config = run_config(0.4, stack_size)
    cohort = Cohort(config, torch.device("cpu"), 1)
    task = TrainTask(learning_rates=(0.01, 0.005), server_round=2)
    positions = cohort.stacks(CLIENTS)
    stacks = [[CLIENTS[k] for k in stack] for stack in positions]
    shard = cohort.train(start_of(make_predictor()), task, stacks)
    masks = [np.concatenate(step) for step in zip(*_steps(seen.kept, stacks), strict=True)]
    in_order = [data for stack in stacks for data in stack]
    by_client = [expected_masks(data, DROPPING, 2, 5, 2) for data in in_order]
    for step, kept in enumerate(masks):
        np.testing.assert_array_equal(kept, np.concatenate([own[step] for own in by_client]))
    for k, data in enumerate(in_order):
        alone = train(data, config.train, (0.01, 0.005), seed=5, server_round=2)
        assert shard.losses[k] == pytest.approx(alone.loss, rel=0 if stack_size == 1 else 1e-4)


def _steps(kept, stacks):
    """The masks of each stack, step by step."""
    steps = len(kept) // len(stacks)
    return [kept[first : first + steps] for first in range(0, len(kept), steps)]


def test_the_client_app_and_the_cohort_engine_train_to_the_same_bits():
    config = cohort_config(train__feature_dropout=0.3, train__episodes_per_step=2)
    called, _ = train_federated(InProcessGrid(config), config, num_rounds=2)
    computed, _ = train_with_cohort(config, num_rounds=2)
    assert identical(called, computed)
    plain = cohort_config(train__episodes_per_step=2)
    without, _ = train_federated(InProcessGrid(plain), plain, num_rounds=2)
    assert not identical(called, without)


# -- Evaluation ------------------------------------------------------------------------------------


def test_evaluation_sees_all_features(never):
    predictor, data = make_predictor(), replace(CLIENTS[0], role="held-out")
    config = run_config(0.9)
    keys = data.question_keys
    scored = evaluate_group(predictor, data, config.evaluation, 5, keys)
    predictor.train()  # as training leaves it
    assert evaluate_group(predictor, data, config.evaluation, 5, keys) == scored
    totals = []
    for probability in (0.0, 0.9):
        cohort = Cohort(run_config(probability), torch.device("cpu"), 1)
        batches = [[(data, draw, keys) for _, draw in part] for part in cohort.batches([data])]
        scores = cohort.score(start_of(predictor), batches)
        totals.append(sum(scores, GroupScores()).all.total)
    assert totals[0] == totals[1] == pytest.approx(scored.all.total, rel=1e-12)


# -- Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan")])
def test_an_impossible_probability_is_an_error(probability):
    with pytest.raises(ConfigError, match=r"^train\.feature-dropout = "):
        RunConfig.from_flat({"train.feature-dropout": probability})
