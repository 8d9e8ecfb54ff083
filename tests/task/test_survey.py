import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.errors import SurveyError
from task.survey import Question, build_survey, merged

TEA = Question("Tea or coffee?", ("tea", "coffee", "neither"))
PETS = Question("Cats or dogs?", ("cats", "dogs"))
MILK = Question("Milk?", ("yes", "no"))


def test_answers_are_packed_in_the_order_of_groups_and_question_keys():
    survey = build_survey(
        [TEA, PETS],
        [("B", 1, [0.25, 0.75]), ("B", 0, [0.2, 0.3, 0.5]), ("A", 1, [1, 0])],
    )
    assert list(survey.answers) == ["A", "B"]
    answers = survey.answers["B"]
    assert PETS.key < TEA.key
    assert answers.questions.tolist() == [1, 0]
    assert answers.lengths.tolist() == [2, 3]
    assert answers.starts.tolist() == [0, 2]
    assert answers.shares.tolist() == pytest.approx([0.25, 0.75, 0.2, 0.3, 0.5])
    assert answers.distribution(0).tolist() == [0.25, 0.75]
    assert answers.distribution(1).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert survey.option_offsets.tolist() == [0, 3, 5]
    assert survey.question_keys.tolist() == [TEA.key, PETS.key]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, -0.1, 0.6], "negative or missing value"),
        ([0.5, float("nan"), 0.5], "negative or missing value"),
        ([0.5, float("inf"), 0.5], "negative or missing value"),
        ([0.5, 0.5], "2 shares for 3 options"),
        ([], "0 shares for 3 options"),
        ([[0.5, 0.5, 0.0]], "3 shares for 3 options"),
        ([0.5, 0.3, 0.1], r"shares sum to 0\.9. Expected 1 within 2%"),
        ([50, 30, 20], "shares sum to 100. Expected 1 within 2%; give raw counts"),
    ],
)
def test_impossible_shares_are_an_error_that_names_group_and_question(shares, message):
    with pytest.raises(SurveyError, match=rf"Group 'A', question 'Tea or coffee\?': .*{message}"):
        build_survey([TEA], [("A", 0, shares)])


@pytest.mark.parametrize("total", [0.981, 1.0, 1.019])
def test_rounded_shares_are_normalised(total):
    survey = build_survey([PETS], [("A", 0, [0.25 * total, 0.75 * total])])
    np.testing.assert_allclose(survey.answers["A"].shares, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("total", [0.979, 1.021])
def test_shares_that_miss_one_by_more_than_two_percent_are_an_error(total):
    with pytest.raises(SurveyError, match="Expected 1 within 2%"):
        build_survey([PETS], [("A", 0, [0.25 * total, 0.75 * total])])


def test_all_zero_distributions_and_single_options_are_dropped_and_counted():
    survey = build_survey(
        [TEA, PETS, Question("Agree?", ("yes",))],
        [("A", 0, [0, 0, 0]), ("B", 0, [0, 0, 0]), ("A", 2, [1.0]), ("A", 1, [0.5, 0.5])],
        {"answers to empty questions": 2},
    )
    assert list(survey.answers) == ["A"]
    assert survey.answers["A"].questions.tolist() == [1]
    assert survey.dropped == {
        "all-zero distributions": 2,
        "answers to questions with fewer than two options": 1,
        "answers to empty questions": 2,
    }
    assert survey.summary() == (
        "1 groups, 3 questions, 1 answer distributions; dropped: 2 all-zero distributions, "
        "2 answers to empty questions, 1 answers to questions with fewer than two options"
    )


def test_a_group_that_answers_a_question_twice_is_an_error():
    with pytest.raises(SurveyError, match=r"Group 'A' answers the question 'Cats or dogs\?' twice"):
        build_survey([TEA, PETS], [("A", 1, [0, 1]), ("B", 1, [0, 1]), ("A", 1, [1, 0])])


def test_a_survey_without_usable_answers_is_an_error_that_says_what_was_dropped():
    with pytest.raises(SurveyError, match=r"no usable answers.*all-zero distributions"):
        build_survey([PETS], [("A", 0, [0, 0])])
    with pytest.raises(SurveyError, match=r"no usable answers.*nothing"):
        build_survey([PETS], [])


def test_a_questions_key_depends_on_text_and_options_in_any_order():
    assert Question("Cats or dogs?", ("cats", "dogs")).key == PETS.key
    others = [
        Question("Cats or dogs", ("cats", "dogs")),
        Question("Cats or dogs?", ("cats", "dogs", "fish")),
        Question("Cats or dogs?", ("catsdogs",)),
    ]
    assert len({PETS.key, *(question.key for question in others)}) == 4
    assert Question("Cats or dogs?", ("dogs", "cats")).key == PETS.key
    assert PETS.key == 4926135556200524382  # the same on every machine


@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=10))
def test_every_distribution_sums_to_one(weights):
    shares = np.array(weights) / sum(weights)
    question = Question("?", tuple(map(str, range(len(shares)))))
    survey = build_survey([question], [("A", 0, shares)])
    assert survey.answers["A"].shares.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(survey.answers["A"].distribution(0), shares, rtol=1e-5)


# -- Surveys put together --------------------------------------------------------------------------


def test_surveys_of_different_groups_become_one_and_share_their_questions():
    one = build_survey([TEA, PETS], [("B", 0, [0.2, 0.3, 0.5]), ("B", 1, [0.25, 0.75])])
    other = build_survey([PETS, MILK], [("C", 0, [1, 0]), ("A", 1, [0.5, 0.5]), ("A", 0, [0, 1])])
    both = merged([one, other])
    assert both.questions == (TEA, PETS, MILK)
    assert list(both.answers) == ["A", "B", "C"]
    told = {
        (group, both.questions[position]): answers.distribution(index).tolist()
        for group, answers in both.answers.items()
        for index, position in enumerate(answers.questions.tolist())
    }
    assert told == {
        ("A", MILK): [0.5, 0.5],
        ("A", PETS): [0, 1],
        ("B", TEA): pytest.approx([0.2, 0.3, 0.5]),
        ("B", PETS): [0.25, 0.75],
        ("C", PETS): [1, 0],
    }


def test_a_question_with_its_options_in_another_order_is_another_question():
    turned = Question(PETS.text, PETS.options[::-1])
    both = merged(
        [build_survey([PETS], [("A", 0, [0.1, 0.9])]), build_survey([turned], [("B", 0, [1, 0])])]
    )
    assert both.questions == (PETS, turned)
    assert both.questions[both.answers["B"].questions[0]].options == ("dogs", "cats")


def test_a_group_in_two_surveys_is_an_error():
    survey = build_survey([PETS], [("A", 0, [0.1, 0.9])])
    with pytest.raises(SurveyError, match="Group 'A' comes from two places: expected one"):
        merged([survey, survey])
