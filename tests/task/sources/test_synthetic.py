import numpy as np
import pytest

from task.config import DataConfig
from task.errors import ConfigError
from task.sources.synthetic import VALUES, make_synthetic

SMALL = DataConfig(synthetic_groups=6, synthetic_questions=50, synthetic_answered=30)
VALUE_OF = {wording: value for value, wordings in VALUES.items() for wording in wordings}


def flat(survey):
    return {group: answers.shares.tolist() for group, answers in survey.answers.items()}


def test_the_same_seed_makes_the_same_survey():
    first, second = make_synthetic(SMALL, 0), make_synthetic(SMALL, 0)
    assert first.questions == second.questions
    assert flat(first) == flat(second)


def test_another_seed_makes_other_questions_and_answers():
    first, other = make_synthetic(SMALL, 0), make_synthetic(SMALL, 1)
    assert first.questions != other.questions
    assert flat(first) != flat(other)


def test_a_group_answers_alike_however_many_groups_there_are():
    more = make_synthetic(DataConfig(**{**vars(SMALL), "synthetic_groups": 9}), 0)
    assert flat(make_synthetic(SMALL, 0)).items() <= flat(more).items()


def test_a_survey_has_the_groups_questions_and_answers_it_is_asked_for():
    survey = make_synthetic(SMALL, 0)
    assert len(survey.answers) == 6
    assert len(set(survey.questions)) == 50
    assert {len(answers) for answers in survey.answers.values()} == {30}
    assert {len(question.options) for question in survey.questions} == {3, 4, 5}
    assert not survey.dropped


def test_every_distribution_sums_to_one():
    for answers in make_synthetic(SMALL, 0).answers.values():
        sums = np.add.reduceat(answers.shares, answers.starts)
        np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_two_thousand_groups_have_two_thousand_names():
    data = DataConfig(synthetic_groups=2000, synthetic_questions=20, synthetic_answered=10)
    survey = make_synthetic(data, 0)
    assert len(survey.answers) == 2000
    assert {len(answers) for answers in survey.answers.values()} == {10}


def test_more_questions_than_can_be_worded_are_an_error():
    make_synthetic(DataConfig(synthetic_questions=400), 0)
    with pytest.raises(ConfigError, match=r"synthetic-questions = 401: expected at most 400"):
        make_synthetic(DataConfig(synthetic_questions=401), 0)


def test_the_options_of_a_question_speak_for_different_values():
    for question in make_synthetic(SMALL, 0).questions:
        assert len({VALUE_OF[option] for option in question.options}) == len(question.options)


def test_answered_questions_reveal_how_a_group_answers_others():
    """Predict one half of a group's answers from its mean log share per value in the other."""
    survey = make_synthetic(DataConfig(synthetic_groups=20), 0)
    correlations = []
    for answers in survey.answers.values():
        context, targets = {}, []
        for index, position in enumerate(answers.questions):
            logs = np.log(answers.distribution(index) + 1e-3)
            values = [VALUE_OF[option] for option in survey.questions[position].options]
            for value, log in zip(values, logs - logs.mean(), strict=True):
                if index % 2:
                    targets.append((value, log))
                else:
                    context.setdefault(value, []).append(log)
        guesses = [np.mean(context[value]) for value, _ in targets]
        correlations.append(np.corrcoef(guesses, [log for _, log in targets])[0, 1])
    assert np.mean(correlations) > 0.7
