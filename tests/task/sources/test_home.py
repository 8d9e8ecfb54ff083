import pandas as pd
import pytest

from task.config import NODES, RunConfig
from task.errors import SurveyError
from task.node_config import NodeConfig
from task.sources import load_survey
from task.survey import Question
from tests.task.sources.test_pairs import frame as pairs
from tests.task.sources.test_ratings import frame as ratings
from tests.task.sources.test_table import frame as table


def groups_served(frame: pd.DataFrame, path, group: str):
    frame.to_csv(path, index=False)
    node = NodeConfig(data_path=str(path), group=group)
    survey = load_survey(node.apply(RunConfig.from_flat({"data.source": NODES})))
    return {name: len(answers) for name, answers in survey.answers.items()}, survey


@pytest.mark.parametrize(
    ("frame", "group", "questions"),
    [(table(), "B", 2), (pairs(), "South", 2), (ratings(), "North", 2)],
    ids=["table", "pairs", "ratings"],
)
def test_a_nodes_file_is_what_its_columns_say(tmp_path, frame, group, questions):
    served, _ = groups_served(frame, tmp_path / "own.csv", group)
    assert served == {group: questions}


def test_a_nodes_comparisons_are_questions_of_two_options(tmp_path):
    _, survey = groups_served(pairs(), tmp_path / "own.csv", "North")
    assert Question("Cake?", ("Always.", "Never.")) in survey.questions


def test_a_file_of_no_kind_is_an_error_about_the_long_form(tmp_path):
    unknown = pairs().drop(columns="rejected")
    with pytest.raises(SurveyError, match="no column 'question'"):
        groups_served(unknown, tmp_path / "own.csv", "North")
