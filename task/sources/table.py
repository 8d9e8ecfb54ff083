"""`table`: your own survey in long form, one row per (group, question, option)."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from task.config import DataConfig
from task.errors import SurveyError
from task.sources.files import client_names, read_frame, require_columns
from task.survey import Question, Survey, build_survey


def load_table(data: DataConfig, seed: int) -> Survey:
    """Load `data.path`: columns `group, question, option` and `share` or `count`.

    An optional column `question_id` tells apart questions with the same text. An option that a
    group has no row for counts as chosen by nobody; without `question_id` some group must have rows
    for all options of a question, since it might be two questions otherwise. With a column `user`,
    rows are a user's: each is a client where clients are users, and counts add up to the group's
    otherwise.

    Raises:
        SurveyError: the file or a row is malformed.
    """
    return survey_from_frame(read_frame(data.path), where=data.path, by_user=data.by_user)


def survey_from_frame(frame: pd.DataFrame, where: str, *, by_user: bool = False) -> Survey:
    """Build a survey from a long-form frame; `where` names it in errors."""
    if "share" in frame and "count" in frame:
        raise SurveyError(f"{where} has both columns `share` and `count`. Expected one of them.")
    value = "count" if "count" in frame else "share"
    require_columns(frame, ("group", "question", "option", value), where)
    has_ids = "question_id" in frame
    if by_user:
        require_columns(frame, ("group", "user"), f"data.clients = 'users': {where}")
    frame = _clean(frame, value, where, by_user)
    if not has_ids:
        _require_one_option_list(frame, where)
    if by_user:
        frame["group"] = client_names(frame, where, by_user=True)
    questions, positions = _questions(frame)
    answers = _answers(frame, value, questions, positions)
    return build_survey(questions, answers, counts=value == "count")


def _clean(frame: pd.DataFrame, value: str, where: str, by_user: bool) -> pd.DataFrame:
    """Return text columns as stripped text and values as numbers, or say which row is wrong."""
    frame = frame.copy()
    if "question_id" not in frame:
        frame["question_id"] = frame["question"]
    for column in ("group", "question", "option", "question_id"):
        missing = frame[column].isna()
        frame[column] = frame[column].astype(str).str.strip()
        blank = frame.index[missing | (frame[column] == "")]
        if len(blank):
            raise SurveyError(
                f"{where}, data row {blank[0] + 1}: column `{column}` is empty. Expected a text."
            )
    numbers = pd.to_numeric(frame[value], errors="coerce")
    wrong = frame.index[~np.isfinite(numbers) | (numbers < 0)]
    if len(wrong):
        raise SurveyError(
            f"{where}, data row {wrong[0] + 1}: {value} = {frame[value][wrong[0]]!r}. Expected a "
            "number >= 0."
        )
    frame[value] = numbers
    told_apart = "user" in frame and (by_user or value == "count")
    respondent = ["group", "user"] if told_apart else ["group"]
    duplicated = frame.index[frame.duplicated([*respondent, "question_id", "option"])]
    if len(duplicated):
        row = frame.loc[duplicated[0]]
        raise SurveyError(
            f"{where}, data row {duplicated[0] + 1}: group {row['group']!r}, question "
            f"{row['question']!r}, option {row['option']!r} occurs twice. Expected one row each."
        )
    texts = frame.groupby("question_id", sort=False)["question"].nunique()
    if (texts > 1).any():
        raise SurveyError(
            f"{where}: question_id {texts.index[texts > 1][0]!r} stands for {texts.max()} "
            "different question texts. Expected one."
        )
    return frame


def _require_one_option_list(frame: pd.DataFrame, where: str) -> None:
    """The same text with other options is another question."""
    listed = frame.groupby(["question", "group"], sort=False)["option"].nunique()
    most = listed.groupby("question", sort=False).max()
    union = frame.groupby("question", sort=False)["option"].nunique()
    mixed = union.index[union > most]
    if len(mixed):
        raise SurveyError(
            f"{where}: groups answer the question {mixed[0]!r} with different options, "
            f"{union[mixed[0]]} in all, and no group has them all. Tell the questions apart in a "
            "column question_id, or give every group a row for every option."
        )


def _questions(frame: pd.DataFrame) -> tuple[list[Question], dict[str, int]]:
    """Options are listed in the order in which the file first names them."""
    rows = frame.drop_duplicates(["question_id", "option"])
    questions: list[Question] = []
    positions: dict[str, int] = {}
    for identifier, part in rows.groupby("question_id", sort=False):
        positions[str(identifier)] = len(questions)
        questions.append(Question(str(part["question"].iloc[0]), tuple(part["option"])))
    return questions, positions


def _answers(
    frame: pd.DataFrame, value: str, questions: list[Question], positions: dict[str, int]
) -> Iterator[tuple[str, int, list[float]]]:
    for (group, identifier), part in frame.groupby(["group", "question_id"], sort=False):
        position = positions[str(identifier)]
        given: Counter[str] = Counter()
        for option, number in zip(part["option"], part[value], strict=True):
            given[option] += number
        values = [float(given.get(option, 0.0)) for option in questions[position].options]
        yield str(group), position, values
