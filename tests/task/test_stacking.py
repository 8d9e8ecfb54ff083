import copy

import pytest
import torch

from task.episodes import Split, make_episode
from task.errors import ConfigError
from task.stacking import Stack
from task.training import episode_losses
from tests.task.examples import make_group, make_predictor, of_one_survey

SIZES = ([2, 3, 4, 2], [5, 2, 3, 3, 6, 2, 2], [2, 2, 2])
RAGGED = of_one_survey([make_group(lengths, seed=k) for k, lengths in enumerate(SIZES)])


def split(context, target):
    return Split(torch.tensor(context).numpy(), torch.tensor(target).numpy())


# Two episodes of each of three clients; all six differ in context, targets and options.
PARTS = [
    [split([0], [1, 2, 3]), split([3, 1], [2])],
    [split([4, 0, 1], [2]), split([6, 5, 3, 2], [4, 0, 1])],
    [split([2], [0]), split([0, 2], [1])],
]
EPISODES = [(data, each) for data, splits in zip(RAGGED, PARTS, strict=True) for each in splits]


def doubles(number):
    """Predictors of one architecture with different parameters and the same statistics."""
    first = make_predictor(seed=0)
    predictors = [first, *[make_predictor(seed=k) for k in range(1, number)]]
    for predictor in predictors:
        predictor.load_state_dict(dict(first.named_buffers()), strict=False)
    return [predictor.double() for predictor in predictors]


def stack_of(predictors):
    stack = Stack(copy.deepcopy(predictors[0]), len(predictors))
    for k, predictor in enumerate(predictors):
        stack.values_KP.data[k] = stack.layout.flatten(dict(predictor.named_parameters()))
    return stack


def test_a_stack_computes_what_its_predictors_compute_one_by_one():
    predictors = doubles(3)
    stack = stack_of(predictors)
    episode = make_episode(EPISODES)
    assert episode.context_mask_BC is not None
    log_p_BQO, log_std_BQO = stack.module.log_distributions(episode)
    assert log_p_BQO.dtype == torch.double
    for k, predictor in enumerate(predictors):
        for b in range(2):
            alone = make_episode(EPISODES[2 * k + b : 2 * k + b + 1])
            mask_QO = alone.option_mask_BQO[0]
            q, o = mask_QO.shape
            log_p, log_std = (each[0][mask_QO] for each in predictor.log_distributions(alone))
            ours = log_p_BQO[2 * k + b, :q, :o][mask_QO], log_std_BQO[2 * k + b, :q, :o][mask_QO]
            torch.testing.assert_close(ours[0], log_p, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(ours[1], log_std, rtol=1e-10, atol=1e-10)


def test_means_and_deviations_equal_those_of_the_predictors():
    predictors = doubles(2)
    random = torch.Generator().manual_seed(0)
    context_x, target_x = torch.randn(2, 6, 4, 5, generator=random, dtype=torch.double)
    context_y = torch.rand(6, 4, generator=random, dtype=torch.double)
    together = stack_of(predictors).module.predict(context_x, context_y, target_x)
    for k, predictor in enumerate(predictors):
        own = slice(3 * k, 3 * k + 3)
        alone = predictor.predict(context_x[own], context_y[own], target_x[own])
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[own], theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", ["categorical", "gaussian"])
def test_gradients_of_a_stack_are_those_of_its_predictors(objective):
    predictors = doubles(3)
    stack = stack_of(predictors)
    losses_B = episode_losses(stack.module, make_episode(EPISODES), objective)
    parameters = list(stack.module.parameters())
    together = torch.autograd.grad(losses_B.sum(), parameters, materialize_grads=True)
    for k, predictor in enumerate(predictors):
        alone = make_episode(EPISODES[2 * k : 2 * k + 2])
        loss = episode_losses(predictor, alone, objective).sum()
        expected = torch.autograd.grad(loss, list(predictor.parameters()), materialize_grads=True)
        assert sum(float(each.abs().sum()) for each in expected) > 0.1
        for ours, theirs in zip(together, expected, strict=True):
            torch.testing.assert_close(ours[k], theirs, rtol=1e-10, atol=1e-10)


def test_a_predictor_of_a_stack_does_not_depend_on_its_neighbours():
    predictors = doubles(3)
    episode = make_episode(EPISODES)
    before = stack_of(predictors).module.distributions(episode)
    others = stack_of([predictors[2], predictors[1], predictors[0]]).module.distributions(episode)
    assert torch.equal(others[2:4], before[2:4])
    assert not torch.allclose(others[:2], before[:2])


def test_parameters_keep_their_names_and_gain_a_leading_dimension():
    predictor = make_predictor()
    stacked = dict(Stack(make_predictor(), 4).module.named_parameters())
    assert list(stacked) == [name for name, _ in predictor.named_parameters()]
    for name, parameter in predictor.named_parameters():
        assert stacked[name].shape == (4, *parameter.shape)


@pytest.mark.parametrize("size", [1, 3])
def test_a_new_stack_holds_the_predictor_in_every_row(size):
    predictor = make_predictor()
    stack = Stack(copy.deepcopy(predictor), size)
    expected = stack.layout.flatten(dict(predictor.named_parameters()))
    assert stack.values_KP.shape == (size, stack.layout.size)
    assert all(torch.equal(row, expected) for row in stack.values_KP.detach())


@pytest.mark.parametrize("size", [1, 3])
def test_buffers_are_kept_and_not_stacked(size):
    predictor = make_predictor()
    predictor.mean_offset.fill_(2.5)
    stack = Stack(copy.deepcopy(predictor), size)
    buffers = dict(stack.module.named_buffers())
    for name, buffer in predictor.named_buffers():
        assert torch.equal(buffers[name], buffer)
    rows = stack.values_KP.detach()
    for name, buffer in predictor.named_buffers():
        assert name not in stack.layout.shapes, buffer
    assert rows.isfinite().all()


@pytest.mark.parametrize("size", [1, 3])
def test_the_modules_parameters_are_the_matrix(size):
    stack = Stack(make_predictor(), size)
    with torch.no_grad():
        stack.values_KP.copy_(torch.arange(stack.values_KP.numel()).view(size, -1))
    for name, parameter in stack.module.named_parameters():
        offset = stack.layout.offsets[name]
        for k in range(size):
            row = parameter[k] if size > 1 else parameter
            first = k * stack.layout.size + offset
            assert row.flatten().tolist() == list(range(first, first + row.numel()))
    with torch.no_grad():
        for parameter in stack.module.parameters():
            parameter.fill_(-1)
    used = sum(parameter.numel() for parameter in stack.module.parameters())
    assert int((stack.values_KP == -1).sum()) == used


@pytest.mark.parametrize("size", [1, 3])
def test_gradient_views_are_the_gradient_of_the_matrix(size):
    stack = Stack(make_predictor(), size)
    parameters = dict(stack.module.named_parameters())
    for number, (name, gradient) in enumerate(zip(parameters, stack.gradients, strict=True), 1):
        assert gradient.shape == parameters[name].shape
        gradient.fill_(number)
    views = stack.layout.views(stack.values_KP.grad)
    for number, name in enumerate(parameters, 1):
        assert (views[name] == number).all()


def test_loading_gives_every_predictor_the_same_parameters():
    stack = stack_of(doubles(3))
    start = stack.layout.flatten(dict(make_predictor(seed=9).double().named_parameters()))
    stack.load(start)
    assert all(torch.equal(row, start) for row in stack.values_KP.detach())
    weight = dict(make_predictor(seed=9).named_parameters())["mean.weight"].double()
    for row in dict(stack.module.named_parameters())["mean.weight"]:
        assert torch.equal(row, weight)


def test_a_stack_of_one_takes_the_predictor_over_and_computes_its_bits():
    predictor = make_predictor()
    twin = copy.deepcopy(predictor)
    stack = Stack(predictor, 1)
    assert stack.module is predictor
    episode = make_episode(EPISODES)
    for ours, theirs in zip(
        stack.module.log_distributions(episode), twin.log_distributions(episode), strict=True
    ):
        assert torch.equal(ours, theirs)
    gradients = [
        torch.autograd.grad(
            episode_losses(module, episode, "gaussian").sum(), list(module.parameters())
        )
        for module in (stack.module, twin)
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_a_stack_of_several_leaves_the_predictor_alone():
    predictor = make_predictor()
    before = {name: parameter.clone() for name, parameter in predictor.named_parameters()}
    stack = Stack(predictor, 2)
    with torch.no_grad():
        stack.values_KP.zero_()
    assert all(torch.equal(p, before[name]) for name, p in predictor.named_parameters())
    assert stack.module is not predictor


def test_a_layer_that_cannot_be_stacked_is_named():
    predictor = make_predictor()
    predictor.head[1] = torch.nn.PReLU()
    with pytest.raises(ConfigError, match=r"head\.1 is a PReLU.*engine\.stack-size = 1"):
        Stack(predictor, size=2)
