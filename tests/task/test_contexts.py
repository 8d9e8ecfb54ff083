import numpy as np

from task.contexts import Context
from task.encoder import HashingEncoder
from task.feature_cache import FeatureCache
from task.survey import Question
from tests.task.examples import make_group, question_tensors
from tests.task.reward_examples import CAKE, ENCODER, MILK, SURVEY, TEA


def test_a_surveys_context_is_all_that_the_group_has_answered():
    cache = FeatureCache(ENCODER)
    context = Context.of_survey(SURVEY, "C", cache)
    shares = {TEA: [0.5, 0.5], MILK: [0.6, 0.3, 0.1], CAKE: [0.4, 0.3, 0.2, 0.1]}
    order = sorted(shares, key=lambda question: question.key)
    assert context.group == "C"
    assert context.lengths_Q.tolist() == [len(question.options) for question in order]
    np.testing.assert_allclose(context.shares_C, np.concatenate([shares[q] for q in order]))
    np.testing.assert_array_equal(context.features_Cd, HashingEncoder(ENCODER).encode(order))


def test_a_groups_context_is_the_questions_that_are_named():
    data = make_group([2, 4, 3, 2])
    context = Context.of_data(data, np.array([3, 1]))
    parts = [question_tensors(data, index) for index in (3, 1)]
    assert (context.group, context.lengths_Q.tolist()) == ("A", [2, 4])
    np.testing.assert_array_equal(context.features_Cd, np.concatenate([x for x, _ in parts]))
    np.testing.assert_array_equal(context.shares_C, np.concatenate([y for _, y in parts]))


def test_questions_to_predict_follow_the_context():
    context = Context(
        "A",
        np.zeros((5, 1), np.float32),
        np.array([2, 3]),
        np.array([0.25, 0.75, 0.5, 0.3, 0.2], np.float32),
    )
    questions = [Question("Jam?", ("b", "c", "a")), Question("Tea?", ("yes", "no"))]
    features = np.arange(40, dtype=np.float32)[:, None]
    data, split = context.with_targets(questions, features, first=10, target=30)
    assert (split.context.tolist(), split.target.tolist()) == ([0, 1], [2, 3])
    assert data.features is features
    assert data.rows.tolist() == [10, 11, 12, 13, 14, 30, 31, 32, 33, 34]
    assert data.answers.lengths.tolist() == [2, 3, 3, 2]
    assert data.answers.shares[:5].tolist() == context.shares_C.tolist()
    assert not data.answers.shares[5:].any()  # what is to be predicted is not known
    assert data.question_keys[2:].tolist() == [question.key for question in questions]
    assert data.option_ranks[5:].tolist() == [1, 2, 0, 1, 0]
    assert data.role == "held-out"  # a training group's own answers would be taken out of a prior
