import json
import re

import numpy as np
import pandas as pd
import pytest

from task.config import DataConfig, RunConfig
from task.errors import SurveyError
from task.sources import load_survey
from task.sources.pairs import survey_from_pairs
from task.survey import Question
from tests.task.sources.test_files import write
from tests.task.sources.test_table import as_dict

ROWS = [
    ("North", "Tea?", "Yes.", "No."),
    ("North", "Tea?", "No.", "Yes."),
    ("North", "Tea?", "Yes.", "No."),
    ("North", "Cake?", "Always.", "Never."),
    ("South", "Tea?", "No.", "Yes."),
    ("South", "Tea?", "No.", "Perhaps."),
]
TEA = Question("Tea?", ("No.", "Yes."))
PERHAPS = Question("Tea?", ("No.", "Perhaps."))
CAKE = Question("Cake?", ("Always.", "Never."))
EXPECTED = {
    ("North", TEA): pytest.approx([1 / 3, 2 / 3]),
    ("North", CAKE): [1.0, 0.0],
    ("South", TEA): [1.0, 0.0],
    ("South", PERHAPS): [1.0, 0.0],
}


def frame(rows=ROWS, **columns):
    return pd.DataFrame(rows, columns=["group", "prompt", "chosen", "rejected"]).assign(**columns)


def survey_of(table, by_user=False):
    return survey_from_pairs(table, "pairs.csv", by_user=by_user)


def config_of(path, **data):
    return RunConfig(data=DataConfig(source="pairs", path=str(path), **data))


def said(role, content):
    return [{"role": role, "content": content}]


def conversational(table):
    return table.assign(
        prompt=[said("user", text) for text in table["prompt"]],
        **{c: [said("assistant", t) for t in table[c]] for c in ("chosen", "rejected")},
    )


def with_implicit_prompt(table):
    table = conversational(table)
    whole = {c: table["prompt"] + table[c] for c in ("chosen", "rejected")}
    return table.drop(columns="prompt").assign(**whole)


def as_json(table):
    cells = {c: table[c].map(json.dumps) for c in set(table) - {"group", "user", "weight"}}
    return table.assign(**cells)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_comparison_is_a_question_and_repeated_ones_add_up(tmp_path, suffix):
    survey = load_survey(config_of(write(frame(), tmp_path / f"pairs{suffix}")))
    assert as_dict(survey) == EXPECTED
    counts = {g: a.counts[a.starts[0] :].tolist() for g, a in survey.answers.items()}
    assert sorted(counts["North"]) == [0, 1, 1, 2]
    assert survey.dropped == {}


def test_the_place_of_a_response_does_not_tell_which_was_chosen():
    table = frame()
    swapped = table.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    assert set(survey_of(table).questions) == set(survey_of(swapped).questions)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("form", [conversational, with_implicit_prompt])
def test_trls_conversations_give_the_same_survey(tmp_path, suffix, form):
    table = form(frame())
    table = as_json(table) if suffix == ".csv" else table
    assert as_dict(load_survey(config_of(write(table, tmp_path / f"x{suffix}")))) == EXPECTED


def test_a_prompt_that_the_conversations_repeat_is_taken_once():
    table = with_implicit_prompt(frame()).assign(prompt=frame()["prompt"])
    assert as_dict(survey_of(table)) == EXPECTED


def test_a_prompt_beside_single_messages_is_taken_as_it_is():
    table = conversational(frame()).assign(prompt=frame()["prompt"])
    assert as_dict(survey_of(table)) == EXPECTED


def test_earlier_turns_are_part_of_the_prompt():
    before = said("user", "Hello") + said("assistant", "Hi!") + said("user", "Tea?")
    rows = [("A", before, said("assistant", "Yes."), said("assistant", "No."))]
    (question,) = survey_of(frame(rows)).questions
    assert question.text == "user: Hello\nassistant: Hi!\nuser: Tea?"


def test_texts_that_begin_alike_have_their_prompt_in_common():
    rows = [("A", "", "Is the sky blue? It is.", "Is the sky blue? It never is.")]
    (question,) = survey_of(frame(rows).drop(columns="prompt")).questions
    assert question == Question("Is the sky blue? It", ("is.", "never is."))


def test_weights_count_as_often():
    (tea, *_), answers = load(frame(ROWS[:2], weight=[3, 1]))
    assert tea == TEA
    assert answers.shares.tolist() == [0.25, 0.75]
    assert answers.counts.tolist() == [1, 3]


def test_weights_that_are_no_whole_numbers_give_shares_alone():
    _, answers = load(frame(ROWS[:2], weight=["1.5", "0.5"]))
    assert answers.shares.tolist() == [0.25, 0.75]
    assert answers.counts is None


def load(table):
    survey = survey_of(table)
    (answers,) = survey.answers.values()
    return survey.questions, answers


@pytest.mark.parametrize("weight", [0, -1, np.nan, np.inf, "many", "", None])
def test_a_weight_that_is_none_is_an_error_that_names_the_row(weight):
    weights = [1, 1, weight, 1, 1, 1]
    with pytest.raises(SurveyError, match=r"pairs\.csv, data row 3: weight = .* above 0"):
        survey_of(frame(weight=pd.Series(weights, dtype=object)))


def test_equal_responses_are_dropped_and_counted():
    rows = [*ROWS, ("North", "Tea?", "Yes.", "Yes."), ("South", "Tea?", "Yes. ", "Yes.")]
    survey = survey_of(frame(rows))
    assert as_dict(survey) == EXPECTED
    assert survey.dropped == {"comparisons of a response with itself": 2}


def test_nothing_but_equal_responses_is_an_error():
    with pytest.raises(SurveyError, match=r"no usable answers.*with itself': 1"):
        survey_of(frame([("North", "Tea?", "Yes.", "Yes.")]))


@pytest.mark.parametrize("column", ["group", "prompt", "chosen", "rejected"])
@pytest.mark.parametrize("value", ["", " ", None, np.nan])
def test_an_empty_text_is_an_error_that_names_row_and_column(column, value):
    table = frame().astype(object)
    table.loc[3, column] = value
    with pytest.raises(SurveyError, match=rf"data row 4: column `{column}` is empty"):
        survey_of(table)


def test_empty_responses_are_an_error_even_where_both_are():
    with pytest.raises(SurveyError, match="data row 1: column `chosen` is empty"):
        survey_of(frame([("North", "Tea?", " ", " ")]))


@pytest.mark.parametrize("empty", [[], said("assistant", " ")])
def test_an_empty_conversation_is_an_error(empty):
    rows = [("North", said("user", "Tea?"), said("assistant", "Yes."), empty)]
    with pytest.raises(SurveyError, match="data row 1: column `rejected` is empty"):
        survey_of(frame(rows))


def test_what_is_no_message_is_an_error_that_names_row_and_column():
    rows = [("North", "Tea?", [{"role": "assistant", "content": None}], "No.")]
    with pytest.raises(SurveyError, match=r"data row 1: column `chosen`: .*no text"):
        survey_of(frame(rows))


def test_no_common_prompt_is_an_error_that_names_the_row():
    with pytest.raises(SurveyError, match="data row 1: chosen and rejected begin with no common"):
        survey_of(frame().drop(columns="prompt"))


@pytest.mark.parametrize("column", ["group", "chosen", "rejected"])
def test_a_missing_column_is_an_error(column):
    with pytest.raises(SurveyError, match=rf"pairs\.csv has no column '{column}'"):
        survey_of(frame().drop(columns=column))


# -- Users -----------------------------------------------------------------------------------------


def test_users_can_be_clients(tmp_path):
    table = frame(user=[1, 1, 2, 1, 1, 2])
    path = write(table, tmp_path / "pairs.csv")
    of_users = load_survey(config_of(path, clients="users"))
    assert as_dict(of_users) == {
        ("North/1", TEA): [0.5, 0.5],
        ("North/1", CAKE): [1.0, 0.0],
        ("North/2", TEA): [0.0, 1.0],
        ("South/1", TEA): [1.0, 0.0],
        ("South/2", PERHAPS): [1.0, 0.0],
    }
    assert as_dict(load_survey(config_of(path))) == EXPECTED


def test_users_as_clients_need_a_column_user():
    with pytest.raises(SurveyError, match=r"data\.clients = 'users': pairs\.csv has no column 'us"):
        survey_of(frame(), by_user=True)


def test_a_row_without_a_user_is_an_error():
    with pytest.raises(SurveyError, match="data row 2: column `user` is empty"):
        survey_of(frame(user=["a", "", "a", "a", "a", "a"]), by_user=True)


# -- Data sets -------------------------------------------------------------------------------------


def test_a_folder_is_loaded_as_a_data_set(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(conversational(frame(ROWS[:4])), folder / "part-1.parquet")
    write(conversational(frame(ROWS[4:])), folder / "part-2.parquet")
    assert as_dict(load_survey(config_of(folder))) == EXPECTED


@pytest.mark.parametrize(("names", "ok"), [(("test",), True), (("test", "validation"), False)])
def test_the_split_is_train_or_the_only_one(tmp_path, names, ok):
    for name in names:
        (tmp_path / "d" / name).mkdir(parents=True)
        write(frame(), tmp_path / "d" / name / f"{name}.jsonl")
    if ok:
        assert as_dict(load_survey(config_of(tmp_path / "d"))) == EXPECTED
    else:
        with pytest.raises(SurveyError, match=r"has the splits .*expected 'train'"):
            load_survey(config_of(tmp_path / "d"))


def test_an_id_that_the_hub_does_not_have_is_an_error():  # offline: no data set is to be had
    with pytest.raises(SurveyError, match=r"data\.path = 'someone/preferences' cannot be loaded"):
        load_survey(config_of("someone/preferences"))


def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(SurveyError, match=re.escape(f"{tmp_path / 'x.csv'} does not exist")):
        load_survey(config_of(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("path", "absolute"),
    [("org/preferences-v1.5", False), ("pairs.jsonl", True), ("folder", True), ("", False)],
)
def test_a_hub_id_is_no_relative_path(tmp_path, path, absolute):
    (tmp_path / "folder").mkdir()
    config = RunConfig() if not path else config_of(path)
    expected = str(tmp_path / path) if absolute else path
    assert config.with_absolute_paths(tmp_path).data.path == expected
