import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from task.config import EvaluationConfig
from task.episodes import make_episode
from task.evaluation import evaluate_group, evaluation_splits, score_episode
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
