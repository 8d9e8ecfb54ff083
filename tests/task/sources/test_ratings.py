import numpy as np
import pandas as pd
import pytest

from task.config import DataConfig, RunConfig
from task.errors import SurveyError
from task.sources import load_survey
from task.sources.ratings import survey_from_ratings
from task.survey import Question
from tests.task.sources.test_files import write
from tests.task.sources.test_table import as_dict

# What a user of a group gives the responses a to d.
ROWS = [
    ("North", "u1", "Tea?", "a", 5),
    ("North", "u1", "Tea?", "b", 3),
    ("North", "u1", "Tea?", "c", 3),
    ("North", "u2", "Tea?", "a", 1),
    ("North", "u2", "Tea?", "b", 2),
    ("North", "u2", "Cake?", "d", 4),
    ("South", "u1", "Tea?", "a", -1.5),
    ("South", "u1", "Tea?", "b", -2.5),
]
AB, AC, BC = (Question("Tea?", (one, other)) for one, other in ("ab", "ac", "bc"))


def frame(rows=ROWS):
    return pd.DataFrame(rows, columns=["group", "user", "prompt", "response", "score"])


def survey_of(table, by_user=False):
    return survey_from_ratings(table, "ratings.csv", by_user=by_user)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_of_two_responses_the_higher_score_is_chosen(tmp_path, suffix):
    path = write(frame(), tmp_path / f"ratings{suffix}")
    survey = load_survey(RunConfig(data=DataConfig(source="ratings", path=path)))
    assert as_dict(survey) == {
        ("North", AB): [0.5, 0.5],  # u1 prefers a, u2 prefers b
        ("North", AC): [1.0, 0.0],
        ("South", AB): [1.0, 0.0],
    }
    assert survey.dropped == {
        "pairs of responses with equal scores": 1,  # b and c of u1
        "responses that their rater compared with no other": 1,  # d of u2
    }
    assert survey.answers["South"].counts.tolist() == [1, 0]


def test_users_can_be_clients():
    assert as_dict(survey_of(frame(), by_user=True)) == {
        ("North/u1", AB): [1.0, 0.0],
        ("North/u1", AC): [1.0, 0.0],
        ("North/u2", AB): [0.0, 1.0],
        ("South/u1", AB): [1.0, 0.0],
    }


def test_without_users_a_group_is_one_rater_whose_scores_are_averaged():
    survey = survey_of(frame().drop(columns="user"))
    # North: a has (5 + 1) / 2 = 3, b has (3 + 2) / 2 = 2.5, c has 3.
    assert as_dict(survey) == {
        ("North", AB): [1.0, 0.0],
        ("North", BC): [0.0, 1.0],
        ("South", AB): [1.0, 0.0],
    }
    assert survey.dropped["pairs of responses with equal scores"] == 1  # a and c


def test_a_response_rated_again_by_the_same_rater_has_the_mean():
    rows = [("A", "u", "Tea?", r, s) for r, s in (("a", 1), ("b", 2), ("a", 5), ("b", 2.5))]
    assert as_dict(survey_of(frame(rows))) == {("A", AB): [1.0, 0.0]}


def test_conversations_are_rated_too():
    rows = [
        ("A", "u", [{"role": "user", "content": "Tea?"}], [{"role": "assistant", "content": r}], s)
        for r, s in (("a", 1), ("b", 2))
    ]
    assert as_dict(survey_of(frame(rows))) == {("A", AB): [0.0, 1.0]}


@pytest.mark.parametrize("score", [np.nan, np.inf, "good", "", None])
def test_a_score_that_is_no_number_is_an_error_that_names_the_row(score):
    table = frame().astype(object)
    table.loc[1, "score"] = score
    with pytest.raises(SurveyError, match=r"ratings\.csv, data row 2: score = .*finite number\."):
        survey_of(table)


@pytest.mark.parametrize("column", ["group", "user", "prompt", "response"])
def test_an_empty_text_is_an_error_that_names_row_and_column(column):
    table = frame()
    table.loc[1, column] = " "
    with pytest.raises(SurveyError, match=rf"data row 2: column `{column}` is empty"):
        survey_of(table)


@pytest.mark.parametrize("column", ["group", "prompt", "response", "score"])
def test_a_missing_column_is_an_error(column):
    with pytest.raises(SurveyError, match=rf"no column '{column}'"):
        survey_of(frame().drop(columns=column))


def test_users_as_clients_need_a_column_user():
    with pytest.raises(SurveyError, match=r"data\.clients = 'users'.*no column 'user'"):
        survey_of(frame().drop(columns="user"), by_user=True)
