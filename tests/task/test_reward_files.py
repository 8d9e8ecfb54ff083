import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from task.encoder import saved_settings
from task.errors import EncoderError, RewardError, RunDirectoryError
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.reward_files import read_contexts, read_roles, write_contexts, write_facts
from task.survey import Question, build_survey
from tests.task.examples import make_predictor
from tests.task.models import save_encoder
from tests.task.reward_examples import GROUPS, SURVEY, TEA, make_tiny_predictor
from tests.task.test_feature_cache import CONTEXT, config_of

REPOSITORY = Path(__file__).parents[2]
ROLES = {"A": "train", "B": "held-out", "C": "train", "D": "train"}
ASKED = {TEA: [[0.1, 0.9], [0.3, 0.7]]}
TEXTS = (["Tea?", "Jam?", "Jam?"], ["yes", "a", "c"])
AGAINST = ["no", ["a", "b", "c"], ["b"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model's folder, without a model card."""
    path = tmp_path / "model"
    path.mkdir()
    make_tiny_predictor(ASKED, 0.6).save_pretrained(path)
    write_contexts(SURVEY, path)
    write_facts(ROLES, 1.0, path)
    return path


def test_a_loaded_model_scores_as_the_one_that_was_saved(folder: Path) -> None:
    loaded = RewardModel.load(folder, device="cpu")
    original = RewardModel(
        make_tiny_predictor(ASKED, 0.6), dict.fromkeys(GROUPS, SURVEY), device="cpu"
    )
    assert (loaded.groups, loaded.roles) == (GROUPS, ROLES)
    expected = original.scores(*TEXTS, against=AGAINST)
    torch.testing.assert_close(loaded.scores(*TEXTS, against=AGAINST), expected)
    with pytest.raises(RewardError, match="'D' took part in training"):
        loaded.score(*TEXTS, group="D")


IN_A_NEW_PROCESS = """
import json, sys
from task.reward import RewardModel
reward = RewardModel.load(sys.argv[1], device="cpu")
texts, against = json.loads(sys.argv[2])
print(json.dumps(reward.scores(*texts, against=against).tolist()))
foreign = {"flwr", "ray", "server_app", "client_app", "report", "cli", "tests"}
assert not foreign & set(sys.modules), foreign & set(sys.modules)
"""


def test_a_process_that_has_only_this_package_gives_the_same_scores(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    given = [str(folder), json.dumps([TEXTS, AGAINST])]
    process = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, *given],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    expected = RewardModel.load(folder, device="cpu").scores(*TEXTS, against=AGAINST)
    torch.testing.assert_close(torch.tensor(json.loads(process.stdout)), expected)


def test_contexts_come_back_as_they_were_however_odd_their_texts(tmp_path: Path) -> None:
    """Numbers, dates, missing values and quotes stay texts; equal texts stay two questions."""
    questions = [
        Question('"Wie?"\n\\ é', ("01", "1.0", "nan", "None")),
        Question("2020-01-01", ("2020-01-02", "true")),
        Question("Tea?", ("yes", "no")),
        Question("Tea?", ("yes", "no", "maybe")),
    ]
    shares = [[0.1, 0.2, 0.3, 0.4], [0.123456789, 0.876543211], [1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    rows = [("NA", position, each) for position, each in enumerate(shares)]
    survey = build_survey(questions, [*rows, ("007", 2, [0.5, 0.5])])
    write_contexts(survey, tmp_path)
    contexts = read_contexts(tmp_path)
    assert list(contexts) == ["007", "NA"]
    for group, read in contexts.items():
        answers, expected = read.answers[group], survey.answers[group]
        assert [read.questions[p] for p in answers.questions] == [
            survey.questions[p] for p in expected.questions
        ]
        assert answers.shares.tolist() == pytest.approx(expected.shares.tolist(), abs=1e-7)


def test_a_folder_without_contexts_takes_them_with_each_call(folder: Path) -> None:
    (folder / "contexts.jsonl").unlink()
    loaded = RewardModel.load(folder, device="cpu")
    assert loaded.groups == ()
    with pytest.raises(RewardError, match=r"'B' was held out .*no group's context"):
        loaded.score(*TEXTS, group="B")
    assert loaded.score(*TEXTS, context=SURVEY, group="B").isfinite().all()


def test_roles_come_from_the_folder_or_from_a_run(tmp_path: Path) -> None:
    assert read_roles(tmp_path) == {}
    table = {"group": ["Spain", "Japan"], "role": ["train", "held-out"]}
    pd.DataFrame(table).to_parquet(tmp_path / "groups.parquet")
    assert read_roles(tmp_path) == {"Spain": "train", "Japan": "held-out"}
    write_facts(ROLES, 1.0, tmp_path)
    assert read_roles(tmp_path) == ROLES


def test_the_temperature_comes_from_the_folder(folder: Path) -> None:
    before = RewardModel.load(folder, device="cpu").score(*TEXTS, group="B")
    write_facts(ROLES, 4.0, folder)
    after = RewardModel.load(folder, device="cpu").score(*TEXTS, group="B")
    torch.testing.assert_close(after, before / 4, rtol=1e-4, atol=1e-6)


def test_an_encoder_that_lies_in_the_folder_is_used(tmp_path: Path) -> None:
    trained_with = config_of(save_encoder(tmp_path / "encoder-of-training"))
    predictor = make_predictor(dimension=32, encoder=saved_settings(trained_with))
    folder = tmp_path / "model"
    predictor.save_pretrained(folder)
    expected = RewardModel(predictor, device="cpu").score(["tea?"], ["yes"], context=CONTEXT)
    (tmp_path / "encoder-of-training").rename(tmp_path / "moved")
    with pytest.raises(EncoderError, match="encoder-of-training"):
        RewardModel.load(folder)
    named = RewardModel.load(folder, encoder=str(tmp_path / "moved"), device="cpu")
    torch.testing.assert_close(named.score(["tea?"], ["yes"], context=CONTEXT), expected)
    (tmp_path / "moved").rename(folder / "encoder")
    found = RewardModel.load(folder, device="cpu")
    torch.testing.assert_close(found.score(["tea?"], ["yes"], context=CONTEXT), expected)
    save_encoder(folder / "encoder", seed=1)
    with pytest.raises(EncoderError, match="trained on features of transformers-"):
        RewardModel.load(folder)


@pytest.mark.parametrize("source", ["nobody/has-this-reward-model", "/no/such/folder", "..."])
def test_a_source_that_is_not_there_is_one_error(source: str) -> None:
    with pytest.raises(RewardError, match="no folder here, and cannot be loaded from the") as error:
        RewardModel.load(source)
    assert repr(source) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_predictor_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no predictor"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("reward.json", "{"),
        ("reward.json", "[]"),
        ("reward.json", '{"roles": 3}'),
        ("reward.json", '{"roles": {}, "temperature": 0}'),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(RewardError, match=rf"{file} is damaged"):
        RewardModel.load(folder)


def test_saving_a_loaded_predictor_again_loses_nothing(folder: Path, tmp_path: Path) -> None:
    loaded = RewardModel.load(folder, device="cpu")
    loaded.predictor.save_pretrained(tmp_path / "again")
    again = PreferencePredictor.from_pretrained(tmp_path / "again", strict=True)
    for name, tensor in loaded.predictor.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
