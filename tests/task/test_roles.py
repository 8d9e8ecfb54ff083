import pytest

from task.config import DataConfig, EvaluationConfig
from task.errors import ConfigError, SurveyError
from task.roles import assign_roles, num_held_back
from tests.task.examples import make_survey

EVALUATION = EvaluationConfig(num_context=5)
SURVEY = make_survey({"Austria": 20, "Belgium": 7, "Chile": 12, "Denmark": 6, "Egypt": 30})


def roles(seed=0, evaluation=EVALUATION, **data):
    return assign_roles(SURVEY, DataConfig(**data), evaluation, seed)


def test_named_groups_get_their_roles_and_no_other_takes_part():
    given = roles(train_groups="Chile|Austria", held_out_groups="Belgium")
    assert given == {"Austria": "train", "Belgium": "held-out", "Chile": "train"}
    assert list(given) == ["Austria", "Belgium", "Chile"]


def test_training_groups_alone_leave_nobody_held_out():
    assert roles(train_groups="Chile") == {"Chile": "train"}


def test_without_training_groups_all_eligible_groups_train_that_are_not_held_out():
    given = roles(held_out_groups="Denmark")
    assert given == {
        "Austria": "train",
        "Belgium": "train",
        "Chile": "train",
        "Denmark": "held-out",
        "Egypt": "train",
    }


def test_groups_chosen_by_rule_need_the_minimum_of_questions_but_named_ones_do_not():
    given = roles(held_out_groups="Denmark", min_questions=20)
    assert given == {"Austria": "train", "Denmark": "held-out", "Egypt": "train"}


def test_a_group_too_small_to_train_is_not_chosen_by_rule():
    # 6 questions, one held back, leave 5: enough context. With num-context = 6 they do not.
    assert "Denmark" in roles(num_held_out_groups=0)
    assert "Denmark" not in roles(num_held_out_groups=0, evaluation=EvaluationConfig(num_context=6))


def test_without_names_a_seeded_draw_holds_groups_out():
    draws = [roles(seed=seed, num_held_out_groups=2) for seed in range(10)]
    assert roles(seed=3, num_held_out_groups=2) == draws[3]
    held_out = {tuple(g for g in draw if draw[g] == "held-out") for draw in draws}
    assert len(held_out) > 3
    assert all(len(groups) == 2 for groups in held_out)
    assert all(len(draw) == 5 for draw in draws)


def test_a_draw_that_leaves_no_group_to_train_is_an_error():
    with pytest.raises(ConfigError, match="5 leaves no group to train: 5 of 5 groups"):
        roles(num_held_out_groups=5)


def test_no_group_left_to_train_is_an_error():
    with pytest.raises(ConfigError, match="No group is left to train"):
        roles(held_out_groups="Egypt", min_questions=25)


@pytest.mark.parametrize("key", ["train_groups", "held_out_groups"])
def test_a_named_group_that_does_not_exist_is_an_error_that_suggests_the_closest(key):
    dashed = key.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"data\.{dashed} names 'Astria'.*5 groups.*'Austria'"):
        roles(**{key: "Chile|Astria"})


@pytest.mark.parametrize(("role", "least"), [("train", 9), ("held-out", 8)])
def test_a_named_group_with_too_few_questions_is_an_error_that_says_how_many(role, least):
    data = {"train_groups": "Egypt|Belgium"}
    if role == "held-out":
        data = {"train_groups": "Egypt", "held_out_groups": "Belgium"}
    evaluation = EvaluationConfig(num_context=7)
    with pytest.raises(
        SurveyError,
        match=rf"'Belgium' \({role}\) has 7 .* at least {least} .*num-context = 7",
    ):
        roles(evaluation=evaluation, held_back_fraction=0.2, **data)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("num_context", [1, 2, 5])
def test_every_training_group_can_be_trained_and_scored(fraction, num_context):
    survey = make_survey({f"{n:02} questions": n for n in range(1, 31)})
    data = DataConfig(num_held_out_groups=0, held_back_fraction=fraction)
    for group in assign_roles(survey, data, EvaluationConfig(num_context=num_context), 0):
        questions = len(survey.answers[group])
        fit = questions - num_held_back(questions, data)
        assert num_held_back(questions, data) >= 1
        assert fit >= num_context
        assert fit >= 2, "an episode needs a context and a target question"


@pytest.mark.parametrize(
    ("questions", "fraction", "expected"), [(100, 0.1, 10), (4, 0.1, 1), (10, 0.5, 5)]
)
def test_the_held_back_share_is_at_least_one_question(questions, fraction, expected):
    assert num_held_back(questions, DataConfig(held_back_fraction=fraction)) == expected
