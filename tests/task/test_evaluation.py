from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from task.config import EvaluationConfig
from task.episodes import Split, make_episode
from task.evaluation import (
    FEWEST_TARGETS,
    evaluate_group,
    evaluation_splits,
    few_shot_splits,
    predict_with,
    score_episode,
    score_splits,
    true_distributions,
)
from task.metrics import GroupScores
from tests.task.examples import (
    make_group,
    make_predictor,
    of_one_survey,
    predict_one,
    question_tensors,
)

LENGTHS = [2, 3, 4, 2, 5, 3, 2, 2, 3, 4, 6, 2]
CONFIG = EvaluationConfig(num_context=4, num_draws=3)
HELD_OUT = make_group(LENGTHS, role="held-out")
TRAINING = make_group(LENGTHS, held_back=[1, 5, 10])


@pytest.mark.parametrize("data", [HELD_OUT, TRAINING], ids=["held-out", "training"])
def test_one_pass_per_group_equals_one_question_at_a_time(data):
    predictor = make_predictor()
    seen_keys = data.question_keys[::2]
    scores = evaluate_group(predictor, data, CONFIG, 3, seen_keys)
    slow = {True: [], False: []}
    for split in evaluation_splits(data, CONFIG, 3):
        for question in split.target:
            p, _ = predict_one(predictor, data, split.context, question)
            score = 1 - jensenshannon(p, question_tensors(data, question)[1].numpy())
            slow[question % 2 == 0].append(score)
    assert scores.seen.value == pytest.approx(np.mean(slow[True]), abs=1e-5)
    assert scores.new.value == pytest.approx(np.mean(slow[False]), abs=1e-5)
    assert scores.all.value == pytest.approx(np.mean(slow[True] + slow[False]), abs=1e-5)
    assert (scores.seen.weight, scores.new.weight) == (len(slow[True]), len(slow[False]))


def test_every_draw_of_a_held_out_group_targets_all_questions_but_its_context():
    splits = evaluation_splits(HELD_OUT, CONFIG, 0)
    assert len(splits) == 3
    for split in splits:
        assert len(split.context) == 4
        assert sorted([*split.context, *split.target]) == list(range(len(LENGTHS)))


def test_a_training_group_is_scored_on_its_held_back_questions_only():
    for split in evaluation_splits(TRAINING, CONFIG, 0):
        assert split.target.tolist() == [1, 5, 10]
        assert len(split.context) == 4
        assert set(split.context) <= set(TRAINING.trainable)


def test_splits_are_the_same_at_every_call_and_differ_between_draws_seeds_and_groups():
    def contexts(data, seed):
        return [sorted(split.context) for split in evaluation_splits(data, CONFIG, seed)]

    first = contexts(HELD_OUT, 0)
    assert contexts(HELD_OUT, 0) == first
    assert len({tuple(context) for context in first}) == 3
    assert contexts(HELD_OUT, 1) != first
    assert contexts(make_group(LENGTHS, role="held-out", group="B"), 0) != first


def test_more_draws_extend_the_draws_there_are():
    many = evaluation_splits(HELD_OUT, EvaluationConfig(num_context=4, num_draws=5), 0)
    few = evaluation_splits(HELD_OUT, CONFIG, 0)
    for ours, theirs in zip(few, many, strict=False):
        assert ours.context.tolist() == theirs.context.tolist()


def test_a_score_averages_over_the_draws():
    predictor = make_predictor()
    all_draws = evaluate_group(predictor, HELD_OUT, CONFIG, 0, np.array([], dtype=np.int64))
    one = EvaluationConfig(num_context=4, num_draws=1)
    first = evaluate_group(predictor, HELD_OUT, one, 0, np.array([], dtype=np.int64))
    assert all_draws.all.weight == 3 * first.all.weight == 3 * 8
    assert all_draws.all.total != pytest.approx(3 * first.all.total)
    assert all_draws.seen.weight == 0
    assert all_draws.new == all_draws.all


def test_evaluation_changes_no_parameter_and_computes_no_gradient():
    predictor = make_predictor()
    before = {name: tensor.clone() for name, tensor in predictor.state_dict().items()}
    evaluate_group(predictor, HELD_OUT, CONFIG, 0, HELD_OUT.question_keys)
    assert all(torch.equal(before[n], tensor) for n, tensor in predictor.state_dict().items())
    assert all(parameter.grad is None for parameter in predictor.parameters())


def flat(scores):
    means = (scores.all, scores.seen, scores.new)
    return [number for mean in means for number in (mean.total, mean.weight)]


RAGGED = of_one_survey(
    [
        make_group(LENGTHS, role="held-out", seed=1, group="A"),
        make_group([2, 2, 3, 2, 2, 2], held_back=[4], seed=2, group="B"),
        make_group([6, 3, 5, 2, 4, 6, 3, 3], held_back=[0, 1, 5], seed=3, group="C"),
        make_group([2, 5], role="held-out", seed=4, group="D"),
    ]
)


def test_a_batch_of_groups_scores_each_as_if_it_were_alone():
    predictor = make_predictor()
    config = EvaluationConfig(num_context=1, num_draws=3)
    keys = [RAGGED[0].question_keys[:5], RAGGED[1].question_keys, RAGGED[2].question_keys[1:2]]
    keys.append(np.array([], dtype=np.int64))
    totals = [GroupScores() for _ in RAGGED]
    for draw in range(3):
        parts = [(data, evaluation_splits(data, config, 0)[draw]) for data in RAGGED]
        with torch.inference_mode():
            scores = score_episode(predictor, make_episode(parts), parts, keys)
        totals = [total + score for total, score in zip(totals, scores, strict=True)]
    for data, seen, total in zip(RAGGED, keys, totals, strict=True):
        alone = evaluate_group(predictor, data, config, 0, seen)
        assert flat(total) == pytest.approx(flat(alone), abs=1e-5)
        assert total.seen.weight + total.new.weight == total.all.weight > 0


def test_the_groups_of_a_batch_differ_and_so_do_their_scores():
    parts = [
        (data, evaluation_splits(data, EvaluationConfig(num_context=1), 0)[0]) for data in RAGGED
    ]
    with torch.inference_mode():
        scores = score_episode(
            make_predictor(), make_episode(parts), parts, [data.question_keys for data in RAGGED]
        )
    assert len({score.all.value for score in scores}) == len(RAGGED)
    assert [score.seen for score in scores] == [score.all for score in scores]
    assert [score.all.weight for score in scores] == [11, 1, 3, 1]


def test_every_group_of_a_batch_needs_the_keys_of_its_seen_questions():
    parts = [(data, evaluation_splits(data, CONFIG, 0)[0]) for data in RAGGED[:1]]
    with pytest.raises(ValueError, match="argument"), torch.inference_mode():
        score_episode(make_predictor(), make_episode(parts), parts, [])


# -- few-shot curves -------------------------------------------------------------------------------

MANY = make_group([2, 3, 4] * 8, role="held-out")  # 24 questions
MANY_TRAINING = make_group([2, 3, 4] * 8, held_back=[3, 7, 23])
SIZES = (0, 1, 5, 14)


@pytest.mark.parametrize("data", [MANY, MANY_TRAINING], ids=["held-out", "training"])
def test_a_larger_context_of_a_few_shot_curve_adds_to_a_smaller_one(data):
    splits = few_shot_splits(data, SIZES, CONFIG, 3)
    assert list(splits) == list(SIZES)
    for draws in zip(*splits.values(), strict=True):
        contexts = [split.context.tolist() for split in draws]
        assert [len(context) for context in contexts] == list(SIZES)
        for smaller, larger in pairwise(contexts):
            assert larger[: len(smaller)] == smaller
    assert {len(draws) for draws in splits.values()} == {CONFIG.num_draws}


def test_all_sizes_of_a_few_shot_curve_have_the_targets_that_the_largest_leaves_over():
    splits = few_shot_splits(MANY, SIZES, CONFIG, 3)
    for draw in range(CONFIG.num_draws):
        largest = splits[14][draw]
        assert sorted([*largest.context, *largest.target]) == list(range(24))
        for size in SIZES:
            assert splits[size][draw].target.tolist() == largest.target.tolist()
    assert len({tuple(split.target) for split in splits[0]}) == CONFIG.num_draws


def test_a_training_groups_few_shot_targets_are_its_held_back_questions():
    for draws in few_shot_splits(MANY_TRAINING, SIZES, CONFIG, 3).values():
        for split in draws:
            assert split.target.tolist() == [3, 7, 23]
            assert set(split.context) <= set(MANY_TRAINING.trainable)


def test_few_shot_contexts_are_those_of_the_evaluation_where_sizes_agree():
    splits = few_shot_splits(MANY, (CONFIG.num_context, 14), CONFIG, 3)
    for few, usual in zip(
        splits[CONFIG.num_context], evaluation_splits(MANY, CONFIG, 3), strict=True
    ):
        assert few.context.tolist() == usual.context.tolist()


def test_groups_with_too_few_questions_have_no_few_shot_curve():
    assert FEWEST_TARGETS == 10
    assert few_shot_splits(MANY, (0, 14), CONFIG, 0) != {}
    assert few_shot_splits(MANY, (0, 15), CONFIG, 0) == {}  # nine of 24 questions would be left
    assert few_shot_splits(MANY_TRAINING, (0, 21), CONFIG, 0) != {}  # targets are the held-back
    assert few_shot_splits(MANY_TRAINING, (0, 22), CONFIG, 0) == {}


# -- no context ------------------------------------------------------------------------------------


def without_context(data):
    return Split(np.array([], dtype=np.int64), np.arange(len(data.answers)))


def test_a_predictor_without_context_gives_distributions_that_no_answer_can_change():
    predict = predict_with(make_predictor())
    split = without_context(MANY)
    first = predict(MANY, split)
    assert np.isfinite(first).all()
    assert first.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.ptp(first[:, :2].astype(float), axis=0).min() > 0  # it does depend on the question
    other = make_group([2, 3, 4] * 8, role="held-out")
    random = np.random.default_rng(9)
    other.answers.shares[:] = random.random(len(other.answers.shares))
    np.testing.assert_array_equal(predict(other, split), first)


def test_without_context_nothing_is_attended_to():
    """The slow way: context tokens that attention adds nothing of."""
    predictor = make_predictor()
    expected = make_predictor()
    for layer in expected.layers:
        layer.attention.key_value.weight.data[8:] = 0  # the values, of width 8
    context = Split(np.arange(3), np.arange(24))
    with torch.inference_mode():
        slow = expected.distributions(make_episode([(MANY, context)]))[0].numpy()
    np.testing.assert_allclose(
        predict_with(predictor)(MANY, without_context(MANY)), slow, atol=1e-6
    )


def test_no_context_scores_as_well_as_any():
    splits = few_shot_splits(MANY, (0, 5), CONFIG, 0)
    scores = {
        size: score_splits(predict_with(make_predictor()), MANY, draws, MANY.question_keys)
        for size, draws in splits.items()
    }
    assert scores[0].all.weight == scores[5].all.weight == 3 * 19
    assert scores[0].all.total != pytest.approx(scores[5].all.total, abs=1e-6)


# -- scoring anything that predicts ----------------------------------------------------------------


def test_scores_of_splits_are_those_of_what_predicts():
    splits = [Split(np.array([0]), np.array([1, 2])), Split(np.array([0]), np.array([5, 4, 3]))]

    def truth(data, split):
        return true_distributions(data, split.target)

    def uniform(data, split):
        lengths = data.answers.lengths[split.target]
        return (np.arange(lengths.max()) < lengths[:, None]) / lengths[:, None]

    keys = MANY.question_keys[[1, 4]]
    perfect = score_splits(truth, MANY, splits, keys)
    assert perfect.all.value == pytest.approx(1)
    assert (perfect.all.weight, perfect.seen.weight, perfect.new.weight) == (5, 2, 3)
    assert perfect.top_option.value == 1
    assert perfect.calibration.error == pytest.approx(0, abs=1e-7)
    slow = [
        1 - jensenshannon(np.full(n, 1 / n), MANY.answers.distribution(q))
        for q, n in ((q, MANY.answers.lengths[q]) for q in range(1, 6))
    ]
    scores = score_splits(uniform, MANY, splits, keys)
    assert scores.all.value == pytest.approx(np.mean(slow), abs=1e-6)
    assert scores.seen.value == pytest.approx(np.mean([slow[0], slow[3]]), abs=1e-6)


def test_true_distributions_are_padded_with_zeros():
    true = true_distributions(MANY, np.array([2, 0]))
    assert true.shape == (2, 4)
    assert true[0] == pytest.approx(MANY.answers.distribution(2))
    assert true[1, :2] == pytest.approx(MANY.answers.distribution(0))
    assert true[1, 2:].tolist() == [0, 0]
    assert true_distributions(MANY, np.array([], dtype=np.int64)).shape == (0, 0)
