import numpy as np
import pandas as pd
import pytest
import torch

from task.config import EncoderConfig
from task.encoder import HashingEncoder, saved_settings
from task.errors import EncoderError, SurveyError
from task.predicting import predict_distributions, read_context, read_questions
from task.survey import Question, build_survey
from tests.task.examples import make_predictor
from tests.task.models import save_encoder
from tests.task.sources.test_files import write

ENCODER = EncoderConfig(dimension=16)
CONTEXT = [Question("Tea?", ("yes", "no")), Question("Milk?", ("some", "none", "much"))]
NEW = [Question("Cake?", ("yes", "no", "maybe")), Question("Sugar?", ("one", "two"))]
SHARES = [[0.25, 0.75], [0.2, 0.3, 0.5]]


def long_form(questions, **columns):
    rows = [(question.text, option) for question in questions for option in question.options]
    return pd.DataFrame(rows, columns=["question", "option"]).assign(**columns)


@pytest.fixture
def predictor():
    return make_predictor(dimension=16, encoder=saved_settings(ENCODER))


def test_predictions_equal_those_of_one_question_at_a_time(predictor):
    context = build_survey(CONTEXT, [("Me", i, shares) for i, shares in enumerate(SHARES)])
    predictions = predict_distributions(predictor, context, NEW)
    encode = HashingEncoder(ENCODER).encode
    context_x = torch.from_numpy(encode(CONTEXT))[None]
    context_y = torch.tensor([sum(SHARES, [])])  # noqa: RUF017 (two short lists)
    for question, shares in zip(NEW, predictions, strict=True):
        with torch.no_grad():
            target_x = torch.from_numpy(encode([question]))[None]
            mean, _ = predictor.predict(context_x, context_y, target_x)
        np.testing.assert_allclose(shares, mean[0].softmax(0).numpy(), atol=1e-6)


def test_only_answered_questions_of_a_context_count(predictor):
    asked = [NEW[0], *CONTEXT]
    answers = [("Me", 0, [0.0, 0.0, 0.0]), ("Me", 1, SHARES[0]), ("Me", 2, SHARES[1])]
    partly = predict_distributions(predictor, build_survey(asked, answers), NEW)
    context = build_survey(CONTEXT, [("Me", i, shares) for i, shares in enumerate(SHARES)])
    for ours, theirs in zip(partly, predict_distributions(predictor, context, NEW), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_context_file_may_leave_the_group_out(tmp_path):
    path = write(long_form(CONTEXT, share=[0.25, 0.75, 0.2, 0.3, 0.5]), tmp_path / "me.csv")
    survey = read_context(path)
    assert survey.questions == tuple(CONTEXT)
    assert list(survey.answers) == ["me"]
    answers = survey.answers["me"]
    by_question = {p: answers.distribution(i) for i, p in enumerate(answers.questions.tolist())}
    assert by_question[0].tolist() == pytest.approx([0.25, 0.75])
    assert by_question[1].tolist() == pytest.approx([0.2, 0.3, 0.5])


def test_a_context_of_several_groups_is_an_error(tmp_path):
    both = pd.concat([long_form(CONTEXT, group=g, count=1) for g in ("A", "B")])
    with pytest.raises(SurveyError, match=r"holds 2 groups \(A, B\)\. Expected one"):
        read_context(write(both, tmp_path / "both.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_questions_are_read_in_order_with_their_options(tmp_path, suffix):
    assert read_questions(write(long_form(NEW), tmp_path / f"new{suffix}")) == NEW


def test_a_questions_file_may_carry_columns_of_a_survey(tmp_path):
    table = long_form(NEW, group="A", count=7)
    assert read_questions(write(table, tmp_path / "new.csv")) == NEW


def test_a_questions_file_may_tell_questions_apart_by_id(tmp_path):
    twice = pd.concat([long_form(NEW[1:], question_id=i) for i in ("a", "b")])
    assert read_questions(write(twice, tmp_path / "new.csv")) == [NEW[1], NEW[1]]


def test_a_questions_file_may_have_blanks_around_texts(tmp_path):
    table = long_form(NEW)
    table.loc[0, "question"] = " Cake?"
    assert read_questions(write(table, tmp_path / "new.csv")) == NEW


def test_a_questions_file_without_options_is_an_error(tmp_path):
    path = write(long_form(NEW).drop(columns="option"), tmp_path / "new.csv")
    with pytest.raises(SurveyError, match=r"new\.csv has no column 'option'"):
        read_questions(path)


def test_another_encoder_than_the_predictors_is_an_error(tmp_path):
    folder = save_encoder(tmp_path / "model")
    settings = saved_settings(EncoderConfig(name=str(folder)))
    predictor = make_predictor(dimension=32, encoder=settings)
    context = build_survey(CONTEXT, [("Me", i, shares) for i, shares in enumerate(SHARES)])
    assert len(predict_distributions(predictor, context, NEW)) == 2
    save_encoder(folder, seed=1)
    with pytest.raises(EncoderError, match=r"trained on features of transformers-.*same model"):
        predict_distributions(predictor, context, NEW)


def test_a_predictor_without_an_encoder_is_an_error():
    context = build_survey(CONTEXT, [("Me", i, shares) for i, shares in enumerate(SHARES)])
    with pytest.raises(EncoderError):
        predict_distributions(make_predictor(dimension=16), context, NEW)
