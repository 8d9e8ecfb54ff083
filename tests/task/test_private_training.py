import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from task import private_training
from task.config import RunConfig
from task.episodes import Split, disjoint_episodes, make_episode
from task.errors import BudgetError, ConfigError
from task.private_training import EpisodeGradients, SecureDPOptimizer, train_privately
from task.question_ledger import QuestionLedger
from task.training import episode_losses
from tests.task.examples import make_group, make_predictor

LENGTHS = [2, 3, 4, 2, 5, 3, 2, 4, 3, 2, 3, 4, 2, 3]
DATA = make_group(LENGTHS, held_back=[1, 6], group="Northern nurses")
HUGE = 1e9


def config_of(**changes: object) -> RunConfig:
    """Settings of unit question, written `sample_rate=0.5` or `train__objective='gaussian'`."""
    flat: dict[str, object] = {
        "privacy.unit": "question",
        "privacy.questions-per-episode": 4,
        "privacy.sample-rate": 1.0,
        "privacy.gradient-clipping-norm": HUGE,
        "privacy.accountant": "rdp",
    }
    for key, value in changes.items():
        name = key if "__" in key else f"privacy__{key}"
        flat[name.replace("__", ".").replace("_", "-")] = value
    return RunConfig.from_flat(flat)


class Free(QuestionLedger):
    """A ledger that knows of no cost: `attempt` is given."""

    def __init__(self, attempt=1):
        self.attempt = attempt

    def charge(self, group, release):
        return self.attempt


def start_of(predictor):
    return {name: p.detach().clone() for name, p in predictor.named_parameters()}


def train(config, *, rates=(0.1,), data=DATA, server_round=3, ledger=None, mu=0.0, predictor=None):
    predictor = predictor or make_predictor()
    return train_privately(
        predictor,
        start_of(predictor),
        data,
        config,
        learning_rates=list(rates),
        server_round=server_round,
        ledger=ledger or Free(),
        proximal_mu=mu,
    )


def vector(parameters):
    return torch.cat([value.flatten() for value in parameters.values()])


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def other_answers(data, question, seed=1):
    """The same group, but for its answer to one question."""
    shares = data.answers.shares.copy()
    start = int(data.answers.lengths[:question].sum())
    length = int(data.answers.lengths[question])
    shares[start : start + length] = np.random.default_rng(seed).dirichlet(np.full(length, 0.1))
    return replace(data, answers=replace(data.answers, shares=shares))


# -- Episodes --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(number=st.integers(2, 40), size=st.integers(2, 12), seed=st.integers(0, 99))
def test_every_question_is_in_at_most_one_episode(number, size, seed):
    data = make_group([2] * number, held_back=range(0, number, 5), seed=seed)
    config = config_of(questions_per_episode=size).privacy
    if len(data.trainable) < size:
        with pytest.raises(ConfigError, match=f"= {size}: group 'A' has {len(data.trainable)} "):
            disjoint_episodes(data, config, seed, 1)
        return
    episodes = disjoint_episodes(data, config, seed, 1)
    used = np.concatenate([np.concatenate((e.context, e.target)) for e in episodes])
    assert len(episodes) == len(data.trainable) // size
    assert len(set(used)) == len(used) == len(episodes) * size
    assert set(used) <= set(data.trainable)
    assert all((len(e.context), len(e.target)) == (size // 2, size - size // 2) for e in episodes)


def test_episodes_depend_on_seed_round_and_group_but_on_no_answer():
    config = config_of().privacy

    def dealt(data=DATA, seed=0, server_round=1):
        return [
            (*e.context, *e.target) for e in disjoint_episodes(data, config, seed, server_round)
        ]

    assert dealt() == dealt() == dealt(other_answers(DATA, 3))
    others = [dealt(seed=1), dealt(server_round=2), dealt(replace(DATA, group="B"))]
    assert all(other != dealt() for other in others)
    left = {q for r in range(1, 30) for e in dealt(server_round=r) for q in e}
    assert left == set(DATA.trainable)  # nobody is left out for good


# -- One step against an oracle --------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
def test_without_noise_and_clipping_it_is_sgd_on_the_mean_gradient(objective):
    config = config_of(train__objective=objective, train__weight_decay=0.01)
    rates = [0.3, 0.1, 0.2]
    trained = train(config, rates=rates, mu=0.5)
    oracle = make_predictor()
    start = [p.detach().clone() for p in oracle.parameters()]
    for rate in rates:
        losses = [
            episode_losses(oracle, make_episode([(DATA, split)]), objective)
            for split in disjoint_episodes(DATA, config.privacy, 0, 3)
        ]
        mean = sum(losses) / len(losses)
        gradients = torch.autograd.grad(mean, list(oracle.parameters()), materialize_grads=True)
        with torch.no_grad():
            for (name, p), gradient, anchor in zip(
                oracle.named_parameters(), gradients, start, strict=True
            ):
                if objective == "gaussian" or not name.startswith("log_std"):
                    p -= rate * (gradient + 0.5 * (p - anchor) + 0.01 * p)
    for name, p in oracle.named_parameters():
        torch.testing.assert_close(trained.parameters[name], p.detach(), rtol=1e-4, atol=1e-6)
    assert trained.num_examples == 12


def gradients_of(data, splits, config, predictor, drawn=None):
    """(episodes, parameters) gradients, by Opacus."""
    module = copy.deepcopy(predictor)
    if config.train.objective == "categorical":
        module.log_std.requires_grad_(False)
    every = EpisodeGradients(module, data, splits, config, 1)
    every.compute(np.arange(len(splits)) if drawn is None else drawn)
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.cat([p.grad_sample.flatten(1) for p in trained], dim=1)


def test_padding_changes_no_gradient():
    splits = [
        Split(np.array([0]), np.array([2, 4])),  # of other numbers of questions and options
        Split(np.array([3, 5, 7]), np.array([8])),
        Split(np.array([9, 10]), np.array([11, 12, 13])),
    ]
    for objective in ("categorical", "gaussian"):
        config = config_of(train__objective=objective)
        together = gradients_of(DATA, splits, config, make_predictor())
        for row, split in zip(together, splits, strict=True):
            (alone,) = gradients_of(DATA, [split], config, make_predictor())
            assert alone.norm() > 0.01
            torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-6)


def clipped_sum(data, splits, norm, predictor):
    """The sum of clipped gradients of some episodes, clipped here."""
    config = config_of(gradient_clipping_norm=norm)
    gradients = gradients_of(data, splits, config, predictor)
    factors = (norm / gradients.norm(dim=1)).clamp(max=1)
    return (factors[:, None] * gradients).sum(0)


def sum_of_a_step(data, config):
    """The sum of clipped gradients of a step of `train_privately` without noise."""
    predictor = make_predictor()
    trained = train(config, rates=[1.0], data=data, predictor=predictor)
    return 3 * (vector(start_of(predictor)) - vector(trained.parameters))  # 3 episodes


def is_trained(predictor):
    """Which entries of the parameter vector the categorical objective trains."""
    return torch.cat(
        [
            torch.full((p.numel(),), not name.startswith("log_std"))
            for name, p in predictor.named_parameters()
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    question=st.sampled_from(DATA.trainable.tolist()),
    norm=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 999),
)
def test_one_answer_moves_the_sum_by_no_more_than_the_accountant_assumes(question, norm, seed):
    config = config_of(gradient_clipping_norm=norm, run__seed=seed)
    with_answer = sum_of_a_step(DATA, config)
    replaced = sum_of_a_step(other_answers(DATA, question, seed), config)
    slack = 1 + 1e-3
    assert (with_answer - replaced).norm() <= 2 * norm * slack
    # Without the episode that holds it: every other episode's gradient stays as it is.
    splits = disjoint_episodes(DATA, config.privacy, seed, 3)
    without = [s for s in splits if question not in s.context and question not in s.target]
    left = clipped_sum(DATA, without, norm, make_predictor())
    all_of_them = clipped_sum(DATA, splits, norm, make_predictor())
    trained = is_trained(make_predictor())
    torch.testing.assert_close(with_answer[trained], all_of_them, rtol=1e-2, atol=2e-5)
    assert (with_answer[trained] - left).norm() <= norm * slack + 1e-4


def test_clipping_is_tight_somewhere():
    """The bound above would hold for a step that does nothing."""
    config = config_of(gradient_clipping_norm=0.01)
    assert sum_of_a_step(DATA, config).norm() > 0.01


# -- Noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_deviation_that_is_accounted_for(secure):
    norm, multiplier, rate = 0.01, 3.0, 0.5
    config = config_of(
        gradient_clipping_norm=norm, noise_multiplier=multiplier, sample_rate=rate,
        secure_noise=secure,
    )  # fmt: skip
    predictor = make_predictor()
    start = vector(start_of(predictor))
    trained = is_trained(predictor)
    moves = torch.stack(
        [
            vector(train(config, rates=[1.0], ledger=Free(attempt)).parameters) - start
            for attempt in range(1, 31)
        ]
    )
    expected = multiplier * norm / (rate * 3)  # 12 trainable questions: 3 episodes
    noise = moves[:, trained] - moves[:, trained].mean(0)
    measured = noise.square().sum().div(29 * noise.shape[1]).sqrt()
    # The draws of episodes differ too: (norm / batch)^2 over all parameters, next to nothing.
    assert float(measured) == pytest.approx(expected, rel=0.03)
    assert not moves[:, ~trained].any()  # what has no gradient gets no noise either


def test_noise_is_of_seed_round_group_and_attempt():
    config = config_of(noise_multiplier=1.0, gradient_clipping_norm=0.01, sample_rate=0.5)
    sent = train(config, rates=[0.1, 0.1])
    assert same(sent.parameters, train(config, rates=[0.1, 0.1]).parameters)
    others = [
        train(config, rates=[0.1, 0.1], ledger=Free(2)),
        train(config, rates=[0.1, 0.1], server_round=4),
        train(config, rates=[0.1, 0.1], data=replace(DATA, group="B")),
        train(replace(config, run=replace(config.run, seed=1)), rates=[0.1, 0.1]),
    ]
    weight = "embedder.0.weight"
    kept = [sent.parameters[weight], *(other.parameters[weight] for other in others)]
    for i, one in enumerate(kept):
        for other in kept[i + 1 :]:
            assert (
                float((one - other).abs().min()) > 0 or float((one != other).float().mean()) > 0.9
            )


def test_steps_of_a_round_have_noise_of_their_own(monkeypatch):
    # More steps are another release, with other noise from the first step on.
    monkeypatch.setattr(private_training, "digest_request", lambda *_: "the same")
    config = config_of(noise_multiplier=1.0, gradient_clipping_norm=1e-3, sample_rate=1e-9)
    start = vector(start_of(make_predictor()))
    one = vector(train(config, rates=[1e-9]).parameters) - start
    both = vector(train(config, rates=[1e-9, 1e-9]).parameters) - start
    second = both - one
    assert abs(float(torch.nn.functional.cosine_similarity(one, second, dim=0))) < 0.2


def test_secure_noise_never_repeats_and_draws_are_secure_too(monkeypatch):
    config = config_of(
        noise_multiplier=1.0, gradient_clipping_norm=0.01, secure_noise=True, sample_rate=0.5
    )
    assert not same(train(config).parameters, train(config).parameters)
    silent = replace(config, privacy=replace(config.privacy, noise_multiplier=0.0))
    moves = {float(vector(train(silent).parameters).double().sum()) for _ in range(12)}
    assert len(moves) > 1  # other episodes every time
    asked = []
    monkeypatch.setattr(
        "task.private_training.noise_source", lambda secure, *_: asked.append(secure) or Draws()
    )
    train(config)
    assert asked == [True]


class Draws:
    def random(self, size):
        return np.zeros(size)


def test_secure_noise_is_that_of_its_source():
    class Ones:
        def standard_normal(self, size):
            return np.ones(size)

    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = SecureDPOptimizer(
        torch.optim.SGD([p], lr=1.0), noise=Ones(), noise_multiplier=5.0, max_grad_norm=0.5,
        expected_batch_size=2,
    )  # fmt: skip
    p.grad_sample = torch.tensor([[0.3, 0.0, 0.4], [0.0, 0.2, 0.0]])
    optimizer.step()
    # (4 * 1 / 2) * 5 * 0.5 = 5 of noise; the rows are within the norm; over 2
    np.testing.assert_allclose(p.detach(), [-5.3 / 2, -5.2 / 2, -5.4 / 2], rtol=1e-5)


# -- Poisson sampling ------------------------------------------------------------------------------


def test_an_empty_draw_is_a_step_of_noise_alone():
    config = config_of(sample_rate=1e-9, noise_multiplier=2.0, gradient_clipping_norm=1e-9)
    trained = train(config, rates=[0.5])
    start = vector(start_of(make_predictor()))
    moved = vector(trained.parameters) - start
    assert float(moved.std()) == pytest.approx(0.5 * 2.0 * 1e-9 / (3 * 1e-9), rel=0.15)
    without_noise = config_of(sample_rate=1e-9)
    assert torch.equal(vector(train(without_noise, rates=[0.5]).parameters), start)


def test_every_step_draws_every_episode_with_the_sample_rate(monkeypatch):
    drawn = []
    compute = EpisodeGradients.compute
    monkeypatch.setattr(
        EpisodeGradients,
        "compute",
        lambda self, chosen: drawn.append(chosen.tolist()) or compute(self, chosen),
    )
    data = make_group([2] * 40)
    config = config_of(sample_rate=0.3, questions_per_episode=2)
    train(config, rates=[0.0] * 150, data=data)
    assert len(drawn) == 150
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=20)
    assert abs(counts.sum() / (150 * 20) - 0.3) < 4 * math.sqrt(0.21 / 3000)
    assert counts.min() > 20 and counts.max() < 75
    sizes = [len(each) for each in drawn]
    assert np.var(sizes) == pytest.approx(20 * 0.21, rel=0.4)  # independent, not of fixed size


def test_the_mean_is_over_the_expected_number_of_episodes(monkeypatch):
    """Over the drawn number it would tell how many were drawn, and be worth more than assumed."""
    monkeypatch.setattr(
        "task.private_training.noise_source", lambda *_: type("First", (), {"random": first_only})
    )
    first_only_config = config_of(sample_rate=0.5)
    moved = vector(train(first_only_config, rates=[1.0]).parameters)
    splits = disjoint_episodes(DATA, first_only_config.privacy, 0, 3)
    (gradient,) = gradients_of(DATA, splits[:1], first_only_config, make_predictor())
    predictor = make_predictor()
    trained = is_trained(predictor)
    expected = vector(start_of(predictor))[trained] - gradient / (0.5 * 3)
    torch.testing.assert_close(moved[trained], expected, rtol=1e-4, atol=1e-5)


def first_only(size):
    return np.array([0.0] + [0.9] * (size - 1))


# -- The rest --------------------------------------------------------------------------------------


def test_a_gradient_that_overflows_lets_nothing_through():
    """Clipping makes inf * 0 = NaN of it, and NaN stays NaN under any noise."""
    predictor = make_predictor()
    with torch.no_grad():
        predictor.mean.weight.mul_(1e38)
        predictor.head[0].weight.mul_(1e38)
    gradients = gradients_of(DATA, [Split(np.array([0]), np.array([2, 4]))], config_of(), predictor)
    assert not gradients.any()
    trained = train(config_of(gradient_clipping_norm=1.0), rates=[1e-3], predictor=predictor)
    assert vector(trained.parameters).isfinite().all()


def test_the_loss_is_only_told_where_metrics_are_full():
    config = config_of()
    splits = disjoint_episodes(DATA, config.privacy, 0, 3)
    with torch.no_grad():
        expected = [
            float(episode_losses(make_predictor(), make_episode([(DATA, s)]), "categorical"))
            for s in splits
        ]
    assert train(config).loss == pytest.approx(np.mean(expected), rel=1e-5)
    for metrics in ("noisy", "off"):
        assert math.isnan(train(config_of(metrics=metrics)).loss)


def test_the_module_is_left_as_it_was():
    predictor = make_predictor()
    state = copy.deepcopy(predictor.state_dict())
    train(config_of(noise_multiplier=1.0), rates=[0.1, 0.1], predictor=predictor)
    assert all(torch.equal(value, state[name]) for name, value in predictor.state_dict().items())
    assert not any(hasattr(p, "grad_sample") or p.grad is not None for p in predictor.parameters())
    assert all(p.requires_grad for p in predictor.parameters())


def test_features_are_dropped_alike_whatever_is_drawn():
    plain, dropped = (
        train(config_of(train__feature_dropout=share), rates=[0.1]) for share in (0.0, 0.5)
    )
    again = train(config_of(train__feature_dropout=0.5), rates=[0.1])
    assert same(dropped.parameters, again.parameters)
    assert not same(dropped.parameters, plain.parameters)


def test_training_is_charged_for_before_any_gradient(tmp_path: Path, monkeypatch):
    config = config_of(noise_multiplier=2.0, sample_rate=0.25, gradient_clipping_norm=1.0)
    ledger = QuestionLedger(tmp_path, config.privacy)

    def killed(self, drawn):
        (release,) = QuestionLedger(tmp_path, config.privacy).load(DATA.group)
        assert (release.kind, release.server_round, release.steps) == ("train", 3, 2)
        assert (release.noise_multiplier, release.sample_rate) == (2.0, 0.25)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeGradients, "compute", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, rates=[0.1, 0.1], ledger=ledger)
    spent = ledger.epsilon(DATA.group)
    assert spent > 0
    sent = train(config, rates=[0.1, 0.1], ledger=QuestionLedger(tmp_path, config.privacy))
    assert ledger.epsilon(DATA.group) == spent  # what was killed had sent the same, if anything
    again = train(config, rates=[0.1, 0.1], ledger=QuestionLedger(tmp_path, config.privacy))
    assert same(sent.parameters, again.parameters)


def test_a_request_that_differs_in_anything_gets_other_noise_and_is_charged(tmp_path: Path):
    config = config_of(noise_multiplier=1.0, gradient_clipping_norm=1e-6)
    ledger = QuestionLedger(tmp_path, config.privacy)
    other_start, other_statistics = make_predictor(seed=1), make_predictor()
    other_statistics.feature_mean += 0.1
    answers = other_answers(DATA, 3)
    requests = [
        {},
        {"predictor": other_start},
        {"predictor": other_statistics},
        {"rates": [0.2]},
        {"mu": 0.1},
        {"data": answers},
    ]
    noises = []
    for request in requests:
        predictor = request.get("predictor", make_predictor())
        trained = train(config, ledger=ledger, **({"rates": [0.1]} | request))
        rate = request.get("rates", [0.1])[0]
        noises.append((vector(trained.parameters) - vector(start_of(predictor))) / rate)
    assert len(ledger.load(DATA.group)) == len(requests)
    cosines = torch.corrcoef(torch.stack(noises)) - torch.eye(len(noises))
    assert cosines.abs().max() < 0.3


def test_training_stops_at_the_budget(tmp_path: Path, monkeypatch):
    config = config_of(noise_multiplier=1.0, gradient_clipping_norm=1.0, max_epsilon=1.0)
    monkeypatch.setattr(EpisodeGradients, "compute", None)  # would fail if it were reached
    with pytest.raises(BudgetError, match="Northern nurses"):
        train(config, ledger=QuestionLedger(tmp_path, config.privacy))
