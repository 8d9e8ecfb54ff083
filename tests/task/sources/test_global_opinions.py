from pathlib import Path

import datasets
import pandas as pd
import pytest

from task.config import DataConfig
from task.errors import SurveyError
from task.sources.global_opinions import load_global_opinions
from task.survey import Question
from tests.task.sources.test_table import as_dict


def selections(**shares):
    return f"defaultdict(<class 'list'>, {shares})"


def load(tmp_path, *rows):
    file = tmp_path / "opinions.csv"
    frame = pd.DataFrame(rows, columns=["question", "selections", "options"])
    frame.assign(source="GAS").to_csv(file, index=False)
    return load_global_opinions(DataConfig(source="global-opinions", path=str(file)), 0)


GOOD = ("Tea?", selections(France=[0.25, 0.75], Japan=[1.0, 0.0]), "['yes', 'no']")


def test_selections_are_read_from_the_text_of_a_defaultdict(tmp_path):
    survey = load(tmp_path, GOOD)
    question = Question("Tea?", ("yes", "no"))
    assert as_dict(survey) == {("France", question): [0.25, 0.75], ("Japan", question): [1.0, 0.0]}
    assert not survey.dropped


def test_selections_may_be_a_plain_dictionary_with_any_country_name(tmp_path):
    plain = str({"Côte d'Ivoire": [0.5, 0.5], 'Korea, "South" (x)': [1, 0]})
    survey = load(tmp_path, ("Tea?", plain, "['yes', 'no']"))
    assert list(survey.answers) == ["Côte d'Ivoire", 'Korea, "South" (x)']


def test_scale_points_stored_as_floats_become_whole_numbers(tmp_path):
    row = ("How much?", selections(France=[0.1, 0.2, 0.3, 0.4]), "[1.0, 2.5, 3, 'None']")
    assert load(tmp_path, row).questions[0].options == ("1", "2.5", "3", "None")


def test_unusable_rows_are_dropped_and_counted_per_answer(tmp_path):
    two = selections(France=[0.5, 0.5], Japan=[0.5, 0.5])
    survey = load(
        tmp_path,
        GOOD,
        ("", two, "['yes', 'no']"),
        ("  ", two, "['yes', 'no']"),
        ("One?", selections(France=[1.0]), "['yes']"),
        ("None?", selections(France=[], Japan=[]), "[]"),
        ("Zero?", selections(France=[0.0, 0.0], Japan=[0.5, 0.5]), "['yes', 'no']"),
    )
    assert survey.dropped == {
        "answers to empty questions": 4,
        "answers to questions with fewer than two options": 3,
        "all-zero distributions": 1,
    }
    assert {group: len(answers) for group, answers in survey.answers.items()} == {
        "France": 1,
        "Japan": 2,
    }


def test_the_first_of_repeated_answers_is_kept_and_the_others_are_counted(tmp_path):
    again = ("Tea? ", selections(France=[0.9, 0.1], Spain=[0.4, 0.6]), "['yes', 'no']")
    survey = load(tmp_path, GOOD, again)
    assert survey.answers["France"].shares.tolist() == [0.25, 0.75]
    assert list(survey.answers) == ["France", "Japan", "Spain"]
    assert len(survey.questions) == 1
    assert survey.dropped == {"repeated (question, country) answers, the first is kept": 1}


def test_the_same_text_with_other_options_is_another_question(tmp_path):
    survey = load(tmp_path, GOOD, ("Tea?", selections(France=[0.9, 0.1]), "['often', 'never']"))
    assert len(survey.questions) == 2
    assert len(survey.answers["France"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{'France': 0.5}",
        "{'France': ['half', 'half']}",
        "['France']",
        "defaultdict(<class 'list'>, {'France': [0.5, 0.5]}",
        "defaultdict(<class 'list'>, {'France': [0.5, 0.5]}) + 1",
        "{'France': [0.5, nan]}",
        "{['France']: [0.5, 0.5]}",
        "{" * 500,
    ],
)
def test_malformed_selections_are_an_error_that_names_the_row(tmp_path, text):
    with pytest.raises(SurveyError, match=r"opinions\.csv, row 2: malformed `selections`"):
        load(tmp_path, GOOD, ("Cake?", text, "['yes', 'no']"))


@pytest.mark.parametrize("text", ["", "a, b", "'yes'", "[['yes'], ['no']]", "{'yes': 1}", "[yes"])
def test_malformed_options_are_an_error_that_names_the_row(tmp_path, text):
    with pytest.raises(SurveyError, match=r"opinions\.csv, row 2: malformed `options`"):
        load(tmp_path, GOOD, ("Cake?", selections(France=[0.5, 0.5]), text))


@pytest.mark.parametrize("column", ["selections", "options"])
@pytest.mark.parametrize("wrapper", ["{}", "defaultdict(<class 'list'>, {{'France': {}}})"])
def test_code_in_a_file_is_never_run(tmp_path, column, wrapper):
    witness = tmp_path / "ran"
    code = wrapper.format(f"__import__('os').system('touch {witness}')")
    row = dict(zip(("question", "selections", "options"), GOOD, strict=True)) | {column: code}
    with pytest.raises(SurveyError, match=f"malformed `{column}`"):
        load(tmp_path, tuple(row.values()))
    assert not Path(witness).exists()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.4], r"sum to 0\.9"),
        ([1.5, -0.5], "negative"),
        ([1.0], "1 shares for 2 options"),
    ],
)
def test_impossible_shares_are_an_error_that_names_country_and_question(tmp_path, shares, message):
    with pytest.raises(SurveyError, match=rf"Group 'France', question 'Tea\?': .*{message}"):
        load(tmp_path, ("Tea?", selections(France=shares), "['yes', 'no']"))


def test_a_file_without_the_columns_is_an_error(tmp_path):
    (tmp_path / "x.csv").write_text("question,options\nTea?,[]\n")
    with pytest.raises(SurveyError, match="no column 'selections'"):
        load_global_opinions(DataConfig(source="global-opinions", path=str(tmp_path / "x.csv")), 0)


def test_an_unreachable_hub_is_an_error_that_points_to_a_local_copy(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        SurveyError, match=r"Anthropic/llm_global_opinions.*no route.*local copy.*data\.path"
    ):
        load_global_opinions(DataConfig(source="global-opinions"), 0)


def test_the_hub_is_read_like_a_file(tmp_path, monkeypatch):
    table = datasets.Dataset.from_dict(
        {"question": ["Tea?", None], "selections": [GOOD[1]] * 2, "options": [GOOD[2]] * 2}
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    survey = load_global_opinions(DataConfig(source="global-opinions"), 0)
    assert as_dict(survey) == as_dict(load(tmp_path, GOOD))
    assert survey.dropped == {"answers to empty questions": 2}
