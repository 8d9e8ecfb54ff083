"""Predicting a group's answers to new questions with a saved predictor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from task.config import EncoderConfig
from task.encoder import encode_cached, make_encoder
from task.episodes import Split
from task.errors import EncoderError, SurveyError
from task.evaluation import predict_with
from task.features import GroupData
from task.predictor import PreferencePredictor
from task.sources.files import read_frame, require_columns
from task.sources.table import survey_from_frame
from task.survey import Answers, Question, Survey


def read_context(path: str) -> Survey:
    """Read one group's answered questions; the column `group` may be left out.

    Raises:
        SurveyError: the file is malformed or holds several groups.
    """
    frame = read_frame(path)
    if "group" not in frame:
        frame["group"] = Path(path).stem
    survey = survey_from_frame(frame, where=path)
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
    settings = dict(predictor.encoder)
    trained_on = settings.pop("fingerprint", None)
    if encoder_name:
        settings["name"] = encoder_name
    config = EncoderConfig(**settings)  # type: ignore[arg-type]
    fingerprint = make_encoder(config).fingerprint
    if fingerprint != trained_on:
        raise EncoderError(
            f"The predictor was trained on features of {trained_on}, but "
            f"encoder.name = {config.name!r} here is {fingerprint}. Name the same model files "
            "with --encoder."
        )
    (answers,) = context.answers.values()
    everything = [context.questions[p] for p in answers.questions] + list(questions)
    lengths = np.array([len(question.options) for question in everything], dtype=np.int64)
    unknown = np.zeros(lengths.sum() - len(answers.shares), dtype=np.float32)
    positions = np.arange(len(everything))
    data = GroupData(
        group=next(iter(context.answers)),
        role="held-out",
        features=encode_cached(everything, config),
        rows=np.arange(lengths.sum()),
        answers=Answers(positions, lengths, np.concatenate((answers.shares, unknown))),
        question_keys=np.array([question.key for question in everything], dtype=np.int64),
        option_ranks=np.array([rank for question in everything for rank in question.ranks]),
        trainable=positions,
        held_back=positions[:0],
    )
    split = Split(positions[: len(answers)], positions[len(answers) :])
    shares_QO = predict_with(predictor, predictor.prior)(data, split)
    return [
        shares[: len(question.options)]
        for shares, question in zip(shares_QO, questions, strict=True)
    ]
