import numpy as np
import pytest

from alignment.config import QuestionSettings
from alignment.prompts import prompt_of
from alignment.questions import (
    QuestionSplit,
    answering,
    context_survey,
    require_groups,
    true_shares,
)
from task.errors import SurveyError
from task.survey import Question, build_survey
from tests.task.examples import make_survey

SURVEY = make_survey({"A": 20, "B": 8}, num_questions=25)


def test_every_answered_question_is_on_one_side():
    split = QuestionSplit.of(SURVEY, QuestionSettings(held_out_fraction=0.25), seed=0)
    answered = {
        SURVEY.questions[position]
        for answers in SURVEY.answers.values()
        for position in answers.questions
    }
    assert set(split.train) | set(split.held_out) == answered
    assert not set(split.train) & set(split.held_out)
    assert len(split.held_out) == round(len(answered) / 4)
    other = QuestionSplit.of(SURVEY, QuestionSettings(held_out_fraction=0.25), seed=1)
    assert set(other.held_out) != set(split.held_out)


def test_fewer_questions_can_be_asked_for_and_long_ones_are_left_out():
    long = Question("Which?", tuple(f"option {i}" for i in range(27)))
    short = [Question(f"Q{i}?", ("yes", "no")) for i in range(10)]
    survey = build_survey(
        [long, *short],
        [("A", 0, np.full(27, 1 / 27)), *(("A", i + 1, [0.5, 0.5]) for i in range(10))],
    )
    settings = QuestionSettings(held_out_fraction=0.5, most_train=3, most_held_out=2)
    split = QuestionSplit.of(survey, settings, seed=0)
    assert (len(split.train), len(split.held_out), split.skipped) == (3, 2, 1)
    assert long not in {*split.train, *split.held_out}
    shorter = QuestionSettings(held_out_fraction=0.5, most_characters=len(prompt_of(short[0])) - 1)
    with pytest.raises(SurveyError, match="most-characters = 3"):
        QuestionSplit.of(survey, shorter, seed=0)
    alone = build_survey([long], [("A", 0, np.full(27, 1 / 27))])
    with pytest.raises(SurveyError, match="has 0 questions with at most 26 options"):
        QuestionSplit.of(alone, settings, seed=0)


def test_true_shares_are_the_groups_own():
    shares = true_shares(SURVEY, "B", SURVEY.questions)
    asked = SURVEY.answers["B"].questions.tolist()
    assert [index for index, p in enumerate(shares) if p is not None] == sorted(asked)
    for place, position in enumerate(asked):
        np.testing.assert_array_equal(shares[position], SURVEY.answers["B"].distribution(place))


def test_groups_without_an_answer_are_left_out():
    of_b = true_shares(SURVEY, "B", SURVEY.questions)
    only_a = [q for q, p in zip(SURVEY.questions, of_b, strict=True) if p is None]
    assert list(answering(SURVEY, ["A", "B"], only_a)) == ["A"]


def test_a_context_holds_none_but_the_given_questions():
    allowed = list(SURVEY.questions[:15])
    context = context_survey(SURVEY, "A", allowed, 5, seed=0)
    given, own = context.answers["A"], SURVEY.answers["A"]
    assert len(given) == 5
    for place, position in enumerate(given.questions.tolist()):
        assert SURVEY.questions[position] in allowed
        original = own.questions.tolist().index(position)
        np.testing.assert_array_equal(given.distribution(place), own.distribution(original))
    with pytest.raises(SurveyError, match="'B' answers none of the 0 training questions"):
        context_survey(SURVEY, "B", [], 5, seed=0)


def test_a_group_without_true_answers_is_refused():
    with pytest.raises(SurveyError, match=r"reward.path: 'C' is not among the survey's groups"):
        require_groups(SURVEY, ["A", "C"], "reward.path")
