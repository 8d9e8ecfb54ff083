"""A survey file of any kind: its columns tell which."""

import pandas as pd

from task.sources.pairs import survey_from_pairs
from task.sources.ratings import survey_from_ratings
from task.sources.table import survey_from_frame
from task.survey import Survey


def survey_by_columns(frame: pd.DataFrame, where: str) -> Survey:
    """Build the survey of a file with groups for clients.

    Columns `chosen` and `rejected` make it comparisons, `response` and `score` ratings; anything
    else is read in long form.

    Raises:
        SurveyError: it is malformed.
    """
    if {"chosen", "rejected"} <= set(frame):
        return survey_from_pairs(frame, where, by_user=False)
    if {"response", "score"} <= set(frame):
        return survey_from_ratings(frame, where, by_user=False)
    return survey_from_frame(frame, where)
