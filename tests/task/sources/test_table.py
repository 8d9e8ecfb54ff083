import json
import random

import numpy as np
import pandas as pd
import pytest

from task.config import DataConfig, RunConfig
from task.errors import SurveyError
from task.sources import load_survey
from task.sources.table import survey_from_frame
from task.survey import Question
from tests.task.sources.test_files import write

ROWS = [
    ("A", "Tea?", "yes", 0.25),
    ("A", "Tea?", "no", 0.75),
    ("B", "Tea?", "no", 1.0),
    ("B", "Cake?", "None", 0.4),
    ("B", "Cake?", "NA", 0.6),
]


def frame(rows=ROWS, value="share"):
    return pd.DataFrame(rows, columns=["group", "question", "option", value])


def config_of(path):
    return RunConfig(data=DataConfig(source="table", path=str(path)))


def as_dict(survey):
    return {
        (group, survey.questions[position]): answers.distribution(index).tolist()
        for group, answers in survey.answers.items()
        for index, position in enumerate(answers.questions)
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_file_format_gives_the_same_survey(tmp_path, suffix):
    path = write(frame(), tmp_path / f"survey{suffix}")
    survey = load_survey(config_of(path))
    assert survey.questions == (
        Question("Tea?", ("yes", "no")),
        Question("Cake?", ("None", "NA")),
    )
    assert as_dict(survey) == {
        ("A", Question("Tea?", ("yes", "no"))): [0.25, 0.75],
        ("B", Question("Tea?", ("yes", "no"))): [0.0, 1.0],
        ("B", Question("Cake?", ("None", "NA"))): pytest.approx([0.4, 0.6]),
    }


def test_an_option_without_a_row_counts_as_chosen_by_nobody():
    survey = survey_from_frame(frame(), "x")
    (tea,) = (i for i, q in enumerate(survey.questions) if q.text == "Tea?")
    answers = survey.answers["B"]
    index = answers.questions.tolist().index(tea)
    assert answers.distribution(index).tolist() == [0.0, 1.0]


def test_one_text_with_different_options_is_told_apart_by_an_id():
    rows = [("A", "Tea?", "yes", 1.0), ("B", "Tea?", "often", 0.5), ("B", "Tea?", "never", 0.5)]
    with pytest.raises(SurveyError, match=r"'Tea\?' with different options.*question_id"):
        survey_from_frame(frame(rows), "x")
    told_apart = frame(rows).assign(question_id=["1", "2", "2"])
    survey = survey_from_frame(told_apart, "x")
    assert [len(question.options) for question in survey.questions] == [1, 2]


def test_counts_are_normalised_per_group_and_question():
    rows = [("A", "Q?", "x", 30), ("A", "Q?", "y", 10), ("B", "Q?", "y", 7), ("C", "Q?", "x", 0)]
    survey = survey_from_frame(frame(rows, "count"), "x")
    assert survey.answers["A"].shares.tolist() == [0.75, 0.25]
    assert survey.answers["B"].shares.tolist() == [0.0, 1.0]
    assert "C" not in survey.answers
    assert survey.dropped == {"all-zero distributions": 1}


def test_counts_and_their_shares_give_the_same_survey():
    counts = frame([*ROWS], "count")
    counts["count"] *= 40
    given, expected = (as_dict(survey_from_frame(f, "x")) for f in (counts, frame()))
    assert list(given) == list(expected)
    for key, shares in expected.items():
        assert given[key] == pytest.approx(shares)


def test_the_order_of_rows_does_not_change_a_groups_shares():
    rows = [(g, f"Q{q}?", f"o{o}", 1 / 3) for g in "ABC" for q in range(4) for o in range(3)]
    rows = [(g, q, o, {"o0": 0.5, "o1": 0.2, "o2": 0.3}[o]) for g, q, o, _ in rows]
    random.Random(0).shuffle(rows)
    survey = survey_from_frame(frame(rows), "x")
    for (_, question), shares in as_dict(survey).items():
        by_option = dict(zip(question.options, shares, strict=True))
        assert by_option == pytest.approx({"o0": 0.5, "o1": 0.2, "o2": 0.3})


def test_question_id_tells_apart_questions_with_the_same_text():
    table = frame([("A", "Agree?", "yes", 1.0), ("A", "Agree?", "no", 0.0)] * 2)
    table["question_id"] = [1, 1, 2, 2]
    survey = survey_from_frame(table, "x")
    assert survey.questions == (Question("Agree?", ("yes", "no")),) * 2
    assert survey.answers["A"].questions.tolist() == [0, 1]


def test_a_question_id_with_two_texts_is_an_error():
    table = frame()
    table["question_id"] = "q1"
    with pytest.raises(SurveyError, match=r"question_id 'q1' stands for 2 different"):
        survey_from_frame(table, "survey.csv")


def test_texts_are_stripped():
    survey = survey_from_frame(frame([(" A", "Q? ", " x ", 0.5), ("A ", "Q?", "y", 0.5)]), "x")
    assert as_dict(survey) == {("A", Question("Q?", ("x", "y"))): [0.5, 0.5]}


@pytest.mark.parametrize("column", ["group", "question", "option", "share"])
def test_a_missing_column_is_an_error_that_names_it(column):
    with pytest.raises(SurveyError, match=rf"survey\.csv has no column '{column}'"):
        survey_from_frame(frame().drop(columns=column), "survey.csv")


def test_both_shares_and_counts_are_an_error():
    with pytest.raises(SurveyError, match="both columns `share` and `count`"):
        survey_from_frame(frame().assign(count=1), "survey.csv")


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), "many", "", None])
@pytest.mark.parametrize("column", ["share", "count"])
def test_a_value_that_is_no_share_is_an_error_that_names_the_row(column, value):
    rows = [*ROWS, ("C", "Tea?", "yes", value)]
    with pytest.raises(
        SurveyError, match=rf"survey\.csv, data row 6: {column} = .*Expected a number"
    ):
        survey_from_frame(frame(rows, column).astype({column: object}), "survey.csv")


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("value", ["", "  ", None, np.nan])
def test_an_empty_text_is_an_error_that_names_row_and_column(position, value):
    row = ["C", "Tea?", "yes", 1.0]
    row[position] = value
    column = ["group", "question", "option"][position]
    with pytest.raises(SurveyError, match=rf"survey\.csv, data row 6: column `{column}` is empty"):
        survey_from_frame(frame([*ROWS, tuple(row)]), "survey.csv")


def test_a_repeated_row_is_an_error_that_names_it():
    with pytest.raises(
        SurveyError, match=r"data row 6: group 'A', question 'Tea\?', option 'yes' occurs twice"
    ):
        survey_from_frame(frame([*ROWS, ("A", "Tea?", " yes", 0.1)]), "survey.csv")


def test_shares_that_do_not_sum_to_one_are_an_error():
    with pytest.raises(SurveyError, match=r"Group 'A', question 'Tea\?': shares sum to 0\.25"):
        survey_from_frame(frame([("A", "Tea?", "yes", 0.25), ("A", "Tea?", "no", 0.0)]), "x")


def test_percentages_are_an_error_that_points_to_counts():
    with pytest.raises(SurveyError, match=r"sum to 100.*column `count`"):
        survey_from_frame(frame([("A", "Q?", "x", 40), ("A", "Q?", "y", 60)]), "x")


def test_a_json_line_without_a_field_is_an_error_that_names_the_row(tmp_path):
    lines = [{"group": "A", "question": "Q?", "option": o, "share": 0.5} for o in "xy"]
    del lines[1]["option"]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(SurveyError, match="row 2: column `option` is empty"):
        load_survey(config_of(tmp_path / "x.jsonl"))


def test_an_empty_table_is_an_error(tmp_path):
    (tmp_path / "x.csv").write_text("group,question,option,share\n")
    with pytest.raises(SurveyError, match="no usable answers"):
        load_survey(config_of(tmp_path / "x.csv"))


# -- Users -----------------------------------------------------------------------------------------

OF_USERS = [("A", u, "Tea?", o, n) for u, o, n in (("1", "yes", 3), ("1", "no", 1), ("2", "no", 4))]


def users_frame(rows=OF_USERS, value="count"):
    return pd.DataFrame(rows, columns=["group", "user", "question", "option", value])


def test_counts_of_a_groups_users_add_up():
    survey = survey_from_frame(users_frame(), "x")
    assert as_dict(survey) == {("A", Question("Tea?", ("yes", "no"))): [0.375, 0.625]}
    assert survey.answers["A"].counts.tolist() == [3, 5]


@pytest.mark.parametrize("value", ["count", "share"])
def test_users_can_be_clients(value):
    table = users_frame([*OF_USERS, ("A", "2", "Tea?", "yes", 0)], value)
    if value == "share":
        table["share"] /= 4
    survey = survey_from_frame(table, "x", by_user=True)
    tea = Question("Tea?", ("yes", "no"))
    assert as_dict(survey) == {("A/1", tea): [0.75, 0.25], ("A/2", tea): [0.0, 1.0]}


def test_options_that_only_other_users_of_the_group_name_are_options_too():
    rows = [("A", "1", "Tea?", "yes", 1), ("A", "2", "Tea?", "no", 1)]
    survey = survey_from_frame(users_frame(rows), "x", by_user=True)
    tea = Question("Tea?", ("yes", "no"))
    assert as_dict(survey) == {("A/1", tea): [1.0, 0.0], ("A/2", tea): [0.0, 1.0]}


def test_a_users_repeated_row_is_an_error():
    with pytest.raises(SurveyError, match=r"data row 4: group 'A'.*occurs twice"):
        survey_from_frame(users_frame([*OF_USERS, ("A", "2", "Tea?", "no", 1)]), "x")


def test_users_as_clients_need_a_column_user():
    with pytest.raises(SurveyError, match=r"data\.clients = 'users': x has no column 'user'"):
        survey_from_frame(frame(), "x", by_user=True)
