from collections import Counter

import numpy as np
import pytest

from task.sampled_pairs import sample_pairs
from task.survey import Question, build_survey

TEA = Question("Tea?", ("yes", "no", "perhaps"))
CAKE = Question("Cake?", ("always", "never"))
SURVEY = build_survey(
    [TEA, CAKE],
    [
        ("A", 0, [0.6, 0.3, 0.1]),
        ("A", 1, [0.25, 0.75]),
        ("B", 0, [1.0, 0.0, 0.0]),
    ],
)


def drawn(survey=SURVEY, per_question=6000, users=1, seed=0):
    return list(sample_pairs(survey, per_question, users, seed))


def test_the_winner_is_drawn_by_the_two_options_shares():
    wins = Counter()
    for row in drawn():
        if row.group == "A":
            wins[row.chosen, row.rejected] += row.weight
    assert sum(wins[pair] for pair in wins if "always" not in pair) == 6000
    for one, other, expected in (
        ("yes", "no", 2 / 3),
        ("yes", "perhaps", 6 / 7),
        ("no", "perhaps", 3 / 4),
        ("always", "never", 1 / 4),
    ):
        both = wins[one, other] + wins[other, one]
        # 2000 of each pair of three, all 6000 of the pair of two; 5 standard deviations
        assert both == pytest.approx(6000 if one == "always" else 2000, abs=5 * 37)
        deviation = (expected * (1 - expected) / both) ** 0.5
        assert wins[one, other] / both == pytest.approx(expected, abs=5 * deviation)


def test_two_options_that_nobody_chose_are_not_compared():
    rows = [row for row in drawn() if row.group == "B"]
    assert {row.chosen for row in rows} == {"yes"}
    assert {row.rejected for row in rows} == {"no", "perhaps"}
    assert sum(row.weight for row in rows) == pytest.approx(4000, abs=5 * 37)


def test_options_with_the_same_text_are_not_compared():
    survey = build_survey([Question("Q?", ("x", "x"))], [("A", 0, [0.5, 0.5])])
    assert drawn(survey, per_question=5) == []


def test_a_group_has_the_same_comparisons_whoever_else_there_is():
    alone = build_survey([CAKE], [("A", 1 - 1, [0.25, 0.75])])
    with_other = build_survey([CAKE], [("A", 0, [0.25, 0.75]), ("B", 0, [0.5, 0.5])])
    of_a = [row for row in drawn(with_other, per_question=20, users=5) if row.group == "A"]
    assert drawn(alone, per_question=20, users=5) == of_a
    assert drawn(alone, per_question=20, users=5, seed=1) != of_a


def test_comparisons_are_dealt_to_users():
    rows = drawn(per_question=1000, users=10)
    of_user = Counter()
    for row in rows:
        of_user[row.group, row.user] += row.weight
    assert {user for group, user in of_user if group == "A"} == {
        f"user-{n:02}" for n in range(1, 11)
    }
    assert np.array([of_user["A", f"user-{n:02}"] for n in range(1, 11)]) == pytest.approx(
        200, abs=5 * 14
    )
