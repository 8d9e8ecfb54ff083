import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from task.config import TrainConfig
from task.episodes import Split, make_episode, sample_split
from tests.task.examples import make_group, make_predictor, of_one_survey, question_tensors


@st.composite
def ragged_batches(draw):
    parts = []
    for seed in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(st.integers(2, 6), min_size=2, max_size=9))
        order = draw(st.permutations(range(len(lengths))))
        cut = draw(st.integers(1, len(lengths) - 1))
        used = draw(st.integers(cut + 1, len(lengths)))
        data = make_group(lengths, dimension=3, seed=seed)
        parts.append((data, Split(np.array(order[:cut]), np.array(order[cut:used]))))
    groups = of_one_survey([data for data, _ in parts])
    return [(data, split) for data, (_, split) in zip(groups, parts, strict=True)]


@given(ragged_batches())
def test_an_episode_equals_a_slow_loop_over_its_questions(parts):
    episode = make_episode(parts)
    widest = max(data.answers.lengths[split.target].max() for data, split in parts)
    most = max(len(split.target) for _, split in parts)
    assert episode.option_mask_BQO.shape == (len(parts), most, widest)
    for b, (data, split) in enumerate(parts):
        context = [question_tensors(data, question) for question in split.context]
        x, y = torch.cat([x for x, _ in context]), torch.cat([y for _, y in context])
        assert torch.equal(episode.context_x_BCd[b, : len(x)], x)
        assert torch.equal(episode.context_y_BC[b, : len(y)], y)
        exists = torch.arange(episode.context_x_BCd.shape[1]) < len(x)
        if episode.context_mask_BC is None:
            assert exists.all()
        else:
            assert torch.equal(episode.context_mask_BC[b], exists)
        for q in range(most):
            x, y = question_tensors(data, split.target[q]) if q < len(split.target) else ([], [])
            exists = torch.arange(widest) < len(x)
            assert torch.equal(episode.option_mask_BQO[b, q], exists)
            assert (episode.target_y_BQO[b, q, len(x) :] == 0).all()
            for o in range(len(x)):
                token = episode.option_index_BQO[b, q, o]
                assert torch.equal(episode.target_x_BTd[b, token], x[o])
                assert episode.target_y_BQO[b, q, o] == y[o]


def test_masks_come_from_lengths_even_where_features_and_shares_are_zero():
    small, large = of_one_survey([make_group([2, 2], seed=0), make_group([3, 2], seed=1)])
    for data in (small, large):
        data.features[:] = 0
        data.answers.shares[:] = 0
    split = Split(np.array([0]), np.array([1]))
    episode = make_episode([(small, split), (large, split)])
    assert episode.context_mask_BC.tolist() == [[True, True, False], [True, True, True]]
    assert episode.option_mask_BQO.all()


def test_an_episode_is_made_on_the_device_that_is_asked_for():
    groups = of_one_survey([make_group([2, 3]), make_group([3, 3])])
    parts = [(data, Split(np.array([0]), np.array([1]))) for data in groups]
    for tensor in vars(make_episode(parts, device="meta")).values():
        assert tensor.device.type == "meta"


def test_features_that_lie_on_the_device_are_gathered_there():
    groups = of_one_survey([make_group([2, 3], seed=0), make_group([3, 3], seed=1)])
    parts = [(data, Split(np.array([0]), np.array([1]))) for data in groups]
    doubled = torch.from_numpy(groups[0].features) * 2
    plain, gathered = make_episode(parts), make_episode(parts, features=doubled)
    assert torch.equal(gathered.context_x_BCd, plain.context_x_BCd * 2)
    assert torch.equal(gathered.target_x_BTd, plain.target_x_BTd * 2)
    assert torch.equal(gathered.target_y_BQO, plain.target_y_BQO)


def test_padding_to_a_multiple_changes_no_distribution():
    groups = of_one_survey([make_group([2, 3, 4], seed=0), make_group([3, 3, 2], seed=1)])
    parts = [(data, Split(np.array([0, 2]), np.array([1]))) for data in groups]
    predictor = make_predictor()
    padded = make_episode(parts, multiple=8)
    assert padded.context_x_BCd.shape[1] == padded.target_x_BTd.shape[1] == 8
    plain = make_episode(parts)
    torch.testing.assert_close(predictor.distributions(padded), predictor.distributions(plain))


def test_groups_of_different_surveys_do_not_mix():
    parts = [(make_group([2, 3], seed=s), Split(np.array([0]), np.array([1]))) for s in (0, 1)]
    with pytest.raises(ValueError, match="share their features"):
        make_episode(parts)


def test_a_training_split_is_disjoint_and_uses_only_questions_that_may_train():
    data = make_group([2] * 40, held_back=range(0, 40, 3))
    config = TrainConfig(min_context=3, max_context=6, min_target=2, max_target=5)
    random = np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        split = sample_split(data, config, random)
        used = [*split.context, *split.target]
        assert len(set(used)) == len(used)
        assert set(used) <= set(data.trainable)
        sizes.add((len(split.context), len(split.target)))
    assert sizes == {(c, t) for c in range(3, 7) for t in range(2, 6)}


def test_every_question_becomes_context_and_target_equally_often():
    data = make_group([2] * 10)
    config = TrainConfig(min_context=4, max_context=4, min_target=3, max_target=3)
    random = np.random.default_rng(0)
    context, target = np.zeros(10), np.zeros(10)
    for _ in range(2000):
        split = sample_split(data, config, random)
        context[split.context] += 1
        target[split.target] += 1
    np.testing.assert_allclose(context / 2000, 0.4, atol=0.06)
    np.testing.assert_allclose(target / 2000, 0.3, atol=0.06)


@pytest.mark.parametrize("available", [2, 5, 11])
def test_a_small_group_keeps_at_least_one_target(available):
    data = make_group([3] * available)
    random = np.random.default_rng(0)
    for _ in range(50):
        split = sample_split(data, TrainConfig(), random)
        assert len(split.context) >= 1
        assert len(split.target) >= 1
        assert len(split.context) + len(split.target) <= available


def test_the_context_leaves_the_fewest_targets_that_are_configured():
    data = make_group([2] * 30)
    config = TrainConfig(min_context=10, max_context=100, min_target=8, max_target=8)
    random = np.random.default_rng(0)
    splits = [sample_split(data, config, random) for _ in range(50)]
    assert {len(split.target) for split in splits} == {8}
    assert max(len(split.context) for split in splits) == 22
