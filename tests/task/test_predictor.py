import json

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from task.episodes import Split, make_episode
from task.features import FeatureSums
from task.predictor import PreferencePredictor
from tests.task.examples import SMALL, make_group, make_predictor, of_one_survey, predict_one

WIDTH = 32


class ReferenceGPO(nn.Module):
    """GPO as published: full self-attention under an N x N mask."""

    def __init__(self, dimension, num_layers=3):
        super().__init__()
        self.embedder = nn.Sequential(
            *[nn.Linear(dimension + 1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()],
            *[nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)],
        )
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 48, dropout=0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.predictor = nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, context_x, context_y, target_x):
        num_context, num_target = context_x.shape[1], target_x.shape[1]
        y = torch.cat((context_y, torch.zeros(len(context_y), num_target)), dim=1)
        tokens = torch.cat((torch.cat((context_x, target_x), dim=1), y[..., None]), dim=2)
        forbidden = torch.ones(num_context + num_target, num_context + num_target).bool()
        forbidden[:, :num_context] = False
        hidden = self.encoder(self.embedder(tokens), mask=forbidden)
        mean, log_std = self.predictor(hidden[:, num_context:]).unbind(-1)
        return mean, log_std.exp()


@pytest.fixture
def reference():
    torch.manual_seed(0)
    model = ReferenceGPO(dimension=7)
    for parameter in model.parameters():  # so that no bias is zero and no norm the identity
        nn.init.normal_(parameter, std=0.3)
    return model


def batch(num_context=9, num_target=11, dimension=7, size=2):
    torch.manual_seed(1)
    return (
        torch.randn(size, num_context, dimension),
        torch.rand(size, num_context),
        torch.randn(size, num_target, dimension),
    )


def test_a_gpo_checkpoint_predicts_what_gpo_predicts(reference):
    predictor = PreferencePredictor.from_gpo_state_dict(reference.state_dict())
    with torch.no_grad():
        expected_mean, expected_std = reference(*batch())
        mean, std = predictor.predict(*batch())
    torch.testing.assert_close(mean, expected_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, expected_std, rtol=1e-5, atol=1e-5)


def test_the_default_predictor_has_the_papers_parameters_but_biases_that_change_nothing():
    predictor = PreferencePredictor(feature_dimension=4096)
    biases = 6 * 2 * 128 + 1  # layers, key and value, width; one that all means share
    assert sum(p.numel() for p in predictor.parameters()) == 1_188_354 - biases


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {},
        lambda state: {k: v for k, v in state.items() if k != "predictor.2.bias"},
        lambda state: {k: v for k, v in state.items() if "layers.1.norm1" not in k},
        lambda state: state | {"surplus.weight": torch.zeros(3)},
        lambda state: state | {"predictor.2.weight": torch.zeros(3, 48)},
        lambda state: state | {"embedder.0.weight": torch.zeros(5)},
        lambda state: {k: v for k, v in state.items() if "in_proj_bias" not in k},
        lambda state: state | {"encoder.layers.0.self_attn.in_proj_weight": torch.zeros(2, 32)},
        lambda state: state | {"encoder.layers.0.self_attn.in_proj_bias": torch.zeros(2)},
    ],
    ids=[
        "empty",
        "no head bias",
        "no norm",
        "surplus",
        "other head",
        "flat embedder",
        "no attention bias",
        "wrong attention weight",
        "wrong attention bias",
    ],
)
def test_a_checkpoint_that_is_not_gpos_is_an_error(reference, damage):
    with pytest.raises(ValueError, match="Not a GPO checkpoint"):
        PreferencePredictor.from_gpo_state_dict(damage(reference.state_dict()))


def test_a_padded_batch_predicts_what_its_episodes_predict_one_by_one():
    predictor = make_predictor()
    small, large = of_one_survey(
        [make_group([2, 3, 2, 5], seed=1), make_group([4, 3, 3, 2, 6, 2, 4], seed=2)]
    )
    parts = [
        (small, Split(np.array([2]), np.array([0, 1]))),
        (large, Split(np.array([6, 0, 3]), np.array([5, 4, 1, 2]))),
    ]
    with torch.no_grad():
        together = predictor.distributions(make_episode(parts))
    for row, (data, split) in zip(together, parts, strict=True):
        for position, question in enumerate(split.target):
            length = data.answers.lengths[question]
            alone, _ = predict_one(predictor, data, split.context, question)
            np.testing.assert_allclose(row[position, :length], alone, atol=1e-5)


def test_a_prediction_depends_neither_on_other_targets_nor_on_their_order():
    predictor = make_predictor(dimension=7)
    context_x, context_y, target_x = batch()
    order = torch.randperm(target_x.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, std = predictor.predict(context_x, context_y, target_x)
        shuffled, _ = predictor.predict(context_x, context_y, target_x[:, order])
        changed = torch.cat((target_x[:, :1], torch.randn_like(target_x[:, 1:])), dim=1)
        first, first_std = predictor.predict(context_x, context_y, changed)
    torch.testing.assert_close(shuffled, mean[:, order])
    torch.testing.assert_close(first[:, 0], mean[:, 0])
    torch.testing.assert_close(first_std[:, 0], std[:, 0])


def test_a_prediction_depends_on_the_contexts_answers_but_not_on_its_order():
    predictor = make_predictor(dimension=7)
    context_x, context_y, target_x = batch()
    with torch.no_grad():
        mean, _ = predictor.predict(context_x, context_y, target_x)
        flipped, _ = predictor.predict(context_x.flip(1), context_y.flip(1), target_x)
        other, _ = predictor.predict(context_x, 1 - context_y, target_x)
    torch.testing.assert_close(flipped, mean)
    assert (other - mean).abs().max() > 1e-3


def test_distributions_sum_to_one_over_the_options_that_exist():
    data, other = of_one_survey([make_group([2, 4, 3, 2]), make_group([3, 2], seed=1)])
    episode = make_episode(
        [
            (data, Split(np.array([0]), np.array([1, 2, 3]))),
            (other, Split(np.array([1]), np.array([0]))),
        ]
    )
    with torch.no_grad():
        shares = make_predictor().distributions(episode)
    torch.testing.assert_close(shares.sum(-1), torch.tensor([[1.0, 1, 1], [1, 0, 0]]))
    assert (shares[~episode.option_mask_BQO] == 0).all()
    assert (shares[episode.option_mask_BQO] > 0).all()


def test_a_saved_predictor_can_be_used_alone(tmp_path):
    settings = {"name": "hashing", "dimension": 7, "fingerprint": "hashing-7"}
    predictor = make_predictor(dimension=7, encoder=settings)
    predictor.save_pretrained(tmp_path)
    loaded = PreferencePredictor.from_pretrained(tmp_path)
    assert loaded.encoder == settings
    assert torch.equal(loaded.feature_mean, predictor.feature_mean)
    assert torch.equal(loaded.feature_std, predictor.feature_std)
    with torch.no_grad():
        for ours, theirs in zip(predictor.predict(*batch()), loaded.predict(*batch()), strict=True):
            assert torch.equal(ours, theirs)
    assert {file.name for file in tmp_path.iterdir()} >= {"model.safetensors", "config.json"}
    assert json.loads((tmp_path / "config.json").read_text())["width"] == SMALL.width


def test_features_are_standardised_with_the_sums_of_the_training_groups():
    rows = np.random.default_rng(0).normal(3, 2, (50, 7)).astype(np.float32)
    predictor = PreferencePredictor.initial(SMALL, FeatureSums.of(rows), {}, seed=0)
    raw = PreferencePredictor.initial(
        type(SMALL)(**{**vars(SMALL), "standardise_features": False}), FeatureSums.of(rows), {}, 0
    )
    context_x, context_y, target_x = batch()
    mean, std = torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0))
    with torch.no_grad():
        standardised, _ = predictor.predict(context_x, context_y, target_x)
        by_hand, _ = raw.predict((context_x - mean) / std, context_y, (target_x - mean) / std)
    torch.testing.assert_close(standardised, by_hand, rtol=1e-4, atol=1e-5)


def test_the_initial_predictor_depends_on_the_seed_alone():
    sums = FeatureSums.of(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    torch.manual_seed(1)
    first = PreferencePredictor.initial(SMALL, sums, {}, seed=5).state_dict()
    torch.manual_seed(2)
    again = PreferencePredictor.initial(SMALL, sums, {}, seed=5).state_dict()
    other = PreferencePredictor.initial(SMALL, sums, {}, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedder.0.weight"], other["embedder.0.weight"])


def test_the_initial_predictor_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    PreferencePredictor.initial(SMALL, FeatureSums.zero(4) + FeatureSums.of(np.eye(4)), {}, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_the_answer_gain_scales_the_answer_column_only():
    plain = make_predictor(settings=type(SMALL)(**{**vars(SMALL), "answer_gain": 1.0}))
    gained = make_predictor(settings=type(SMALL)(**{**vars(SMALL), "answer_gain": 20.0}))
    expected = plain.state_dict()
    expected["embedder.0.weight"][:, -1] *= 20
    for name, tensor in gained.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_stacked_predictors_run_under_vmap():
    predictors = [make_predictor(dimension=7, seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(predictors)
    context_x, context_y, target_x = batch(size=3)

    def call(parameters, buffers, context_x, context_y, target_x):
        inputs = (context_x[None], context_y[None], target_x[None])
        return functional_call(predictors[0], (parameters, buffers), inputs)[0][0]

    stacked = vmap(call)(parameters, buffers, context_x, context_y, target_x)
    for index, predictor in enumerate(predictors):
        one = slice(index, index + 1)
        mean, _ = predictor(context_x[one], context_y[one], target_x[one])
        torch.testing.assert_close(stacked[index], mean[0], rtol=1e-4, atol=1e-5)


def test_opacus_per_sample_gradients_equal_a_loop():
    predictor = make_predictor(dimension=7)
    context_x, context_y, target_x = batch(size=3)
    expected = []
    for index in range(3):
        one = slice(index, index + 1)
        predictor.zero_grad()
        mean, log_std = predictor(context_x[one], context_y[one], target_x[one])
        (mean.square() + log_std).sum().backward()
        expected.append({n: p.grad.clone() for n, p in predictor.named_parameters()})
    predictor.zero_grad()
    sampled = GradSampleModule(predictor, loss_reduction="sum")
    mean, log_std = sampled(context_x, context_y, target_x)
    (mean.square() + log_std).sum().backward()
    for name, parameter in predictor.named_parameters():
        loop = torch.stack([gradients[name] for gradients in expected])
        torch.testing.assert_close(parameter.grad_sample, loop, rtol=1e-4, atol=1e-4)


def test_set_parameters_takes_exactly_the_predictors_parameters():
    predictor = PreferencePredictor(feature_dimension=3, width=8, num_layers=1)
    parameters = {name: torch.ones_like(p) for name, p in predictor.named_parameters()}
    predictor.set_parameters(parameters)
    assert all((p == 1).all() for p in predictor.parameters())
    missing = {name: p for name, p in parameters.items() if name != "mean.weight"}
    for wrong in (missing, parameters | {"more": torch.ones(1)}):
        with pytest.raises(ValueError, match=r"mean\.weight|more"):
            predictor.set_parameters(wrong)
    with pytest.raises(ValueError, match=r"mean\.weight"):
        predictor.set_parameters(parameters | {"mean.weight": torch.ones(2)})
