import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from task.config import DataConfig, RunConfig
from task.predicting import predict_distributions, read_context, read_questions
from task.saved_predictor import load_predictor
from task.sources import load_survey
from tests.cli.command import Command
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.test_app import run_app

GROUP = "Northern students"


def table(survey_config: DataConfig, positions: Sequence[int]) -> pd.DataFrame:
    """The group's answers to some of its questions, in long form."""
    survey = load_survey(RunConfig(data=survey_config))
    answers = survey.answers[GROUP]
    return pd.DataFrame(
        [
            {"question": question.text, "option": option, "share": float(share)}
            for index in positions
            for question in [survey.questions[answers.questions[index]]]
            for option, share in zip(question.options, answers.distribution(index), strict=True)
        ]
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, a group's context of six questions, and three new questions."""
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    config: RunConfig = tiny_config()
    run_app(config, tmp_path / "run")
    table(config.data, range(6)).to_csv(tmp_path / "context.csv", index=False)
    asked = table(config.data, range(6, 9)).drop(columns="share")
    asked.to_csv(tmp_path / "questions.csv", index=False)
    return tmp_path


ARGUMENTS = ("predict", "run", "--group-context", "context.csv", "--questions", "questions.csv")


def test_json_holds_a_distribution_for_every_question_in_order(
    files: Path, pluralllm: Command
) -> None:
    outcome = pluralllm(*ARGUMENTS, "--json")
    assert outcome.status == 0
    entries = json.loads(outcome.out)
    asked = pd.read_csv(files / "questions.csv")
    assert [entry["question"] for entry in entries] == list(dict.fromkeys(asked["question"]))
    for entry in entries:
        shares = entry["distribution"]
        options = asked.loc[asked["question"] == entry["question"], "option"]
        assert list(shares) == options.tolist()
        assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
        assert min(shares.values()) > 0


def test_the_distributions_are_the_predictors(files: Path, pluralllm: Command) -> None:
    entries = json.loads(pluralllm(*ARGUMENTS, "--json", "--which", "final").out)
    expected = predict_distributions(
        load_predictor(files / "run", "final"),
        read_context(str(files / "context.csv")),
        read_questions(str(files / "questions.csv")),
    )
    for entry, shares in zip(entries, expected, strict=True):
        np.testing.assert_allclose(list(entry["distribution"].values()), shares, atol=1e-6)


def test_the_table_shows_every_option_with_its_share(files: Path, pluralllm: Command) -> None:
    entries = json.loads(pluralllm(*ARGUMENTS, "--json").out)
    lines = [line for line in pluralllm(*ARGUMENTS).out.splitlines() if line.count("│") == 4]
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in lines]
    assert [row[1:] for row in cells] == [
        [option, f"{share:.3f}"]
        for entry in entries
        for option, share in entry["distribution"].items()
    ]
    assert [row[0] for row in cells if row[0]] == [entry["question"] for entry in entries]


def test_the_distributions_can_be_written_to_a_file(files: Path, pluralllm: Command) -> None:
    outcome = pluralllm(*ARGUMENTS, "--json", "--output", "shares.json")
    assert json.loads((files / "shares.json").read_text()) == json.loads(outcome.out)


def test_another_groups_answers_give_another_prediction(files: Path, pluralllm: Command) -> None:
    first = pluralllm(*ARGUMENTS, "--json").out
    context = pd.read_csv(files / "context.csv")
    context["share"] = context.groupby("question")["share"].transform(lambda s: s.to_numpy()[::-1])
    context.to_csv(files / "context.csv", index=False)
    assert pluralllm(*ARGUMENTS, "--json").out != first


def test_a_saved_predictors_folder_is_enough(files: Path, pluralllm: Command) -> None:
    by_run = pluralllm(*ARGUMENTS, "--json").out
    (files / "run" / "predictor-best").rename(files / "mine")
    assert pluralllm("predict", "mine", *ARGUMENTS[2:], "--json").out == by_run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: "nowhere"}, "nowhere holds no predictor"),
        ({3: "gone.csv"}, "gone.csv does not exist"),
        ({5: "context.txt"}, "expected a file ending in"),
        ({3: "questions.csv"}, "has no column"),
        ({3: "two.csv"}, "holds 2 groups"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    files: Path, pluralllm: Command, changes: dict[int, str], message: str
) -> None:
    frame = pd.read_csv(files / "context.csv")
    pd.concat([frame.assign(group="A"), frame.assign(group="B")]).to_csv(files / "two.csv")
    arguments = [changes.get(index, argument) for index, argument in enumerate(ARGUMENTS)]
    outcome = pluralllm(*arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_unknown_predictor_name_is_an_error(files: Path, pluralllm: Command) -> None:
    outcome = pluralllm(*ARGUMENTS, "--which", "latest")
    assert outcome.status == 2
    assert "predictor-latest" in outcome.err or "latest" in outcome.err


def test_an_output_that_cannot_be_written_is_one_line_and_status_2(
    files: Path, pluralllm: Command
) -> None:
    outcome = pluralllm(*ARGUMENTS, "--output", "gone/shares.json")
    assert outcome.status == 2
    assert "gone/shares.json" in outcome.err


def test_another_encoder_than_the_training_one_is_refused(files: Path, pluralllm: Command) -> None:
    config = files / "run" / "predictor-best" / "config.json"
    saved = json.loads(config.read_text())
    saved["encoder"]["fingerprint"] = "hashing-999"
    config.write_text(json.dumps(saved))
    outcome = pluralllm(*ARGUMENTS)
    assert outcome.status == 2
    assert "trained on features of hashing-999" in outcome.err
