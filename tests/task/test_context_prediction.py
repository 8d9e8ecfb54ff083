import numpy as np
import pytest

from task import context_prediction
from task.context_prediction import predict_contexts
from task.contexts import Context
from task.feature_cache import FeatureCache
from task.survey import Question
from tests.task.reward_examples import (
    CAKE,
    ENCODER,
    GROUPS,
    SURVEY,
    TEA,
    make_tiny_predictor,
    oracle_means,
    oracle_shares,
)

QUESTIONS = [
    Question("Jam?", ("a", "b")),
    CAKE,
    Question("Is it?", ("it is",)),
    Question("Tea?", ("no", "yes")),
    Question("How many?", tuple("1234567")),
]
ASKED = {TEA: [[0.1, 0.9]], CAKE: [[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1]]}


def predicted(predictor, questions=QUESTIONS, groups=GROUPS):
    cache = FeatureCache(ENCODER)
    contexts = [Context.of_survey(SURVEY, group, cache) for group in groups]
    return predict_contexts(predictor, cache, contexts, questions)


@pytest.mark.parametrize("most", [4096, 30, 1])
def test_predictions_are_those_of_one_question_at_a_time(monkeypatch, most):
    monkeypatch.setattr(context_prediction, "MOST_OPTIONS", most)
    predictor = make_tiny_predictor(ASKED, 0.8)
    for group, predictions in zip(GROUPS, predicted(predictor), strict=True):
        for question, prediction in zip(QUESTIONS, predictions, strict=True):
            assert prediction.logits.shape == prediction.shares.shape == (len(question.options),)
            means = oracle_means(predictor, SURVEY, group, question)
            np.testing.assert_allclose(prediction.logits, means, atol=1e-5)
            shares = oracle_shares(predictor, SURVEY, group, question, ASKED, 0.8)
            np.testing.assert_allclose(prediction.shares, shares, atol=1e-6)


def test_groups_and_questions_come_back_in_their_order():
    predictor = make_tiny_predictor()
    forwards = predicted(predictor)
    backwards = predicted(predictor, QUESTIONS[::-1], GROUPS[::-1])
    for one, other in zip(forwards, backwards[::-1], strict=True):
        for ours, theirs in zip(one, other[::-1], strict=True):
            np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
    assert abs(forwards[0][0].logits - forwards[1][0].logits).max() > 1e-3  # groups differ


@pytest.mark.parametrize(
    ("most", "portions"),
    [(4, [2, 4, 3, 7]), (6, [6, 3, 7]), (7, [7, 2, 7]), (16, [16]), (1, [2, 4, 1, 2, 7])],
)
def test_questions_are_cut_into_portions_and_never_apart(most, portions):
    cut = list(context_prediction._portions(QUESTIONS, most))
    assert [question for portion in cut for question in portion] == QUESTIONS
    assert [sum(len(question.options) for question in portion) for portion in cut] == portions


def test_no_questions_give_no_predictions():
    assert predicted(make_tiny_predictor(), []) == [[], [], []]
