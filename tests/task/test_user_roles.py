"""Roles where every client is one user of a group."""

import pytest

from task.config import DataConfig, EvaluationConfig
from task.errors import ConfigError, SurveyError
from task.roles import assign_roles
from tests.task.examples import make_survey

EVALUATION = EvaluationConfig(num_context=2)  # 3 questions to be evaluated, 3 to train (one of them
# held back)
SURVEY = make_survey(
    {"A/1": 9, "A/2": 2, "A/3": 3, "B/1": 5, "B/2": 3, "C/1": 2, "C/2": 2, "D/1": 20}
)
OF_GROUP = {"A": ["A/1", "A/3"], "B": ["B/1", "B/2"], "D": ["D/1"]}  # with enough questions


def roles(seed=0, evaluation=EVALUATION, **data):
    config = DataConfig(source="pairs", path="pairs.csv", clients="users", **data)
    return assign_roles(SURVEY, config, evaluation, seed)


def everyone(**groups):
    return {user: role for group, role in groups.items() for user in OF_GROUP[group]}


def test_a_named_group_stands_for_its_users_with_enough_questions():
    given = roles(train_groups="B | D", held_out_groups="A")
    assert given == everyone(A="held-out", B="train", D="train")
    assert list(given) == ["A/1", "A/3", "B/1", "B/2", "D/1"]


def test_without_training_groups_all_others_train():
    assert roles(held_out_groups="B") == everyone(A="train", B="held-out", D="train")


def test_the_draw_holds_out_whole_groups():
    draws = [roles(seed=seed, num_held_out_groups=1) for seed in range(12)]
    assert roles(seed=3, num_held_out_groups=1) == draws[3]
    expected = [
        everyone(**{group: "held-out" if group == held_out else "train" for group in OF_GROUP})
        for held_out in OF_GROUP
    ]
    assert all(draw in expected for draw in draws)
    assert all(draw in draws for draw in expected)


def test_users_chosen_through_their_group_need_the_minimum_of_questions():
    assert roles(train_groups="D", held_out_groups="A | B", min_questions=5) == {
        "A/1": "held-out",
        "B/1": "held-out",
        "D/1": "train",
    }


def test_a_single_user_may_have_a_role_of_its_own():
    given = roles(train_groups="A | D", held_out_groups="A/3")
    assert given == {"A/1": "train", "A/3": "held-out", "D/1": "train"}
    assert roles(train_groups="A/1", held_out_groups="A") == {"A/1": "train", "A/3": "held-out"}


def test_a_single_user_needs_no_minimum_but_a_context_and_a_target():
    assert roles(train_groups="D", held_out_groups="A/3", min_questions=5)["A/3"] == "held-out"
    with pytest.raises(SurveyError, match=r"'A/2' \(held-out\) has 2 answered questions.*least 3"):
        roles(train_groups="D", held_out_groups="A/2")


def test_a_held_out_user_needs_fewer_questions_than_one_that_trains():
    evaluation = EvaluationConfig(
        num_context=4
    )  # 5 to be evaluated; one more is held back to train
    assert roles(held_out_groups="B", evaluation=evaluation) == {
        "A/1": "train",
        "B/1": "held-out",
        "D/1": "train",
    }
    with pytest.raises(SurveyError, match=r"Group 'B' \(train\): none of its 2 users has the 6 qu"):
        roles(train_groups="B", evaluation=EvaluationConfig(num_context=5))


def test_a_group_with_nobody_large_enough_is_an_error_where_it_is_named():
    with pytest.raises(SurveyError, match=r"Group 'C' \(held-out\): none of its 2 users has the 3"):
        roles(held_out_groups="C")
    assert "C/1" not in roles(num_held_out_groups=1)


@pytest.mark.parametrize(("name", "hint"), [("E", ""), ("A/9", "Did you mean 'A/")])
def test_a_name_that_does_not_exist_is_an_error(name, hint):
    with pytest.raises(
        ConfigError, match=rf"data\.train-groups names '{name}'.*4 groups nor a user.*{hint}"
    ):
        roles(train_groups=name)


def test_a_draw_that_leaves_no_group_to_train_is_an_error():
    with pytest.raises(ConfigError, match="3 leaves no group to train: 3 of 4 groups have a user"):
        roles(num_held_out_groups=3)


def test_no_group_left_to_train_is_an_error():
    with pytest.raises(ConfigError, match="No group is left to train"):
        roles(held_out_groups="A | B | D")
