"""Predicting a group's answers to new questions with a saved predictor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from task.errors import SurveyError
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.saved_predictor import encoder_of
from task.sources.files import read_frame, require_columns
from task.sources.table import survey_from_frame
from task.survey import Question, Survey


def read_answers(path: str) -> Survey:
    """Read groups' answered questions; without a column `group` it is one, the file's name.

    Raises:
        SurveyError: the file is malformed.
    """
    frame = read_frame(path)
    if "group" not in frame:
        frame["group"] = Path(path).stem
    return survey_from_frame(frame, where=path)


def read_context(path: str) -> Survey:
    """Read one group's answered questions; the column `group` may be left out.

    Raises:
        SurveyError: the file is malformed or holds several groups.
    """
    survey = read_answers(path)
    if len(survey.answers) != 1:
        raise SurveyError(
            f"{path} holds {len(survey.answers)} groups ({', '.join(survey.answers)}). Expected "
            "one: the context of a prediction is one group's."
        )
    return survey


def read_questions(path: str) -> list[Question]:
    """Read questions without answers: columns `question` and `option`, one row per option.

    Raises:
        SurveyError: the file is malformed.
    """
    frame = read_frame(path)
    require_columns(frame, ("question", "option"), path)
    columns = [name for name in ("question_id", "question", "option") if name in frame]
    frame = frame[columns].assign(group="-", count=1)
    return list(survey_from_frame(frame, where=path).questions)


def predict_distributions(
    predictor: PreferencePredictor,
    context: Survey,
    questions: Sequence[Question],
    encoder_name: str = "",
) -> list[NDArray[np.floating]]:
    """Return one (options,) distribution per question, given one group's answers.

    Args:
        predictor: a saved predictor.
        context: one group's answered questions.
        questions: the questions to predict.
        encoder_name: hub id or folder of the predictor's encoder, if it has moved.

    Raises:
        EncoderError: the predictor's encoder is not to be had here, or is another one.
    """
    encoder = encoder_of(predictor, encoder_name)
    return RewardModel(predictor, encoder=encoder).distributions(questions, context=context)
