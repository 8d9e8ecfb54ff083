import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from report.exporting import export_reward_model
from server_app.cohort import simulate
from task.config import RunConfig
from task.contexts import Context
from task.errors import EncoderError, RewardError, RunDirectoryError, SurveyError
from task.evaluation import evaluation_splits
from task.features import load_group, load_roles
from task.reward import RewardModel
from task.saved_predictor import load_predictor
from task.sources import load_survey
from task.temperature import fit_temperature
from tests.server_app.in_process_grid import tiny_config
from tests.task.models import save_encoder
from tests.task.reward_examples import SURVEY

TEXTS = (["Question 1?", "Something new?"], ["yes", "no"])
AGAINST = ["no", ["yes", "no", "perhaps"]]


def exported(run: Path, folder: Path, **arguments) -> Path:
    folder.mkdir()
    export_reward_model(run, folder, name="mine", **arguments)
    return folder


def config_of(run: Path) -> RunConfig:
    return tiny_config(run__directory=str(run), data__num_held_out_groups=2)


def answers_in(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(group, question) to the shares of its options."""
    told: dict[tuple[str, str], dict[str, float]] = {}
    for line in (folder / "contexts.jsonl").read_text().splitlines():
        row = json.loads(line)
        told.setdefault((row["group"], row["question"]), {})[row["option"]] = row["share"]
    return told


def drawn(run: Path, group: str, number: int = 5) -> dict[tuple[str, str], dict[str, float]]:
    """The context of the first evaluation draw of a group, read from its data."""
    config = config_of(run)
    data, survey = load_group(config, group), load_survey(config)
    positions = evaluation_splits(data, config.evaluation, config.run.seed)[0].context
    if number != 5:
        larger = tiny_config(evaluation__num_context=number).evaluation
        positions = evaluation_splits(data, larger, config.run.seed)[0].context
    answers = survey.answers[group]
    told = {}
    for position in positions.tolist():
        question = survey.questions[answers.questions[position]]
        shares = answers.distribution(position).tolist()
        told[group, question.text] = dict(zip(question.options, shares, strict=True))
    return told


def groups_of(run: Path, role: str) -> list[str]:
    config = config_of(run)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    return [group for group, its in roles.items() if its == role]


def test_contexts_are_the_seeded_draw_of_the_groups_that_are_named(
    finished_run: Path, tmp_path: Path
) -> None:
    held_out, train = (groups_of(finished_run, role)[0] for role in ("held-out", "train"))
    folder = exported(finished_run, tmp_path / "model", groups=[held_out, train, train])
    expected = drawn(finished_run, held_out) | drawn(finished_run, train)
    told = answers_in(folder)
    assert told.keys() == expected.keys()
    assert len(told) == 10
    for key, shares in told.items():
        assert shares == pytest.approx(expected[key], abs=1e-6)


def test_all_means_every_group_and_contexts_may_be_of_another_size(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = exported(finished_run, tmp_path / "model", groups=["all"], num_context=2)
    everybody = [*groups_of(finished_run, "held-out"), *groups_of(finished_run, "train")]
    expected = [key for group in everybody for key in drawn(finished_run, group, 2)]
    assert sorted(answers_in(folder)) == sorted(expected)
    assert len(expected) == 8
    assert RewardModel.load(folder).groups == tuple(sorted(everybody))


def test_without_a_context_no_file_holds_an_answer(finished_run: Path, tmp_path: Path) -> None:
    folder = exported(finished_run, tmp_path / "model")
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "reward.json"}
    survey = load_survey(config_of(finished_run))
    texts = "".join((folder / name).read_text() for name in names - {"model.safetensors"})
    assert not [question for question in survey.questions if question.text in texts]
    loaded, trained = load_predictor(folder), load_predictor(finished_run)
    assert loaded.state_dict().keys() == trained.state_dict().keys()
    assert not [name for name in loaded.state_dict() if name.startswith("population.")]


def test_what_is_exported_scores_as_the_run_does(finished_run: Path, tmp_path: Path) -> None:
    group = groups_of(finished_run, "held-out")[0]
    for which in ("best", "final"):
        folder = exported(finished_run, tmp_path / which, groups=[group], which=which)
        loaded = RewardModel.load(folder)
        of_run = RewardModel.load(finished_run, which=which)
        assert loaded.roles == of_run.roles
        config = config_of(finished_run)
        data = load_group(config, group)
        split = evaluation_splits(data, config.evaluation, config.run.seed)[0]
        context = Context.of_data(data, split.context)
        expected = of_run.score(*TEXTS, context=context, against=AGAINST)
        ours = loaded.score(*TEXTS, group=group, against=AGAINST)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        assert f"- predictor: {which}, round" in (folder / "README.md").read_text()


def write_answers(path: Path, group: str) -> Path:
    answers = SURVEY.answers[group]
    rows = [
        {"group": group, "question": SURVEY.questions[p].text, "option": option, "share": share}
        for index, p in enumerate(answers.questions.tolist())
        for option, share in zip(
            SURVEY.questions[p].options, answers.distribution(index).tolist(), strict=True
        )
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_contexts_may_come_from_files(finished_run: Path, tmp_path: Path) -> None:
    files = [write_answers(tmp_path / f"{group}.csv", group) for group in ("B", "C")]
    one = groups_of(finished_run, "train")[0]
    folder = exported(finished_run, tmp_path / "model", groups=[one], files=files)
    loaded = RewardModel.load(folder)
    assert loaded.groups == tuple(sorted([one, "B", "C"]))
    expected = loaded.score(*TEXTS, context=SURVEY, group="C", against=AGAINST)
    torch.testing.assert_close(loaded.score(*TEXTS, group="C", against=AGAINST), expected)
    with pytest.raises(SurveyError, match="Group 'B' comes from two places"):
        exported(finished_run, tmp_path / "twice", files=[files[0], files[0]])


def test_a_group_that_took_no_part_is_an_error_that_lists_them(
    finished_run: Path, tmp_path: Path
) -> None:
    known = groups_of(finished_run, "train")[0]
    with pytest.raises(RewardError, match="'Atlantis' took no part in the run") as error:
        exported(finished_run, tmp_path / "model", groups=["Atlantis"])
    assert known in str(error.value)
    with pytest.raises(RewardError, match=f"Did you mean '{known}'"):
        exported(finished_run, tmp_path / "other", groups=[known[:-1]])


def test_more_context_than_a_group_has_answers_is_an_error(
    finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RewardError, match=r"--num-context 1000: group '.*' has \d+ questions"):
        exported(finished_run, tmp_path / "model", groups=["all"], num_context=1000)


def test_only_a_run_can_be_exported(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"predictor-best holds no config\.toml"):
        exported(finished_run / "predictor-best", tmp_path / "model")


def test_the_encoders_files_come_along_when_asked_for(session_cache: None, tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    run = tmp_path / "run"
    simulate(tiny_config(run__directory=str(run), encoder__name=str(encoder), train__num_rounds=1))
    folder = exported(run, tmp_path / "model", groups=["all"], with_encoder=True)
    before = RewardModel.load(folder, device="cpu").scores(*TEXTS, against=AGAINST)
    encoder.rename(tmp_path / "gone")
    after = RewardModel.load(folder, device="cpu").scores(*TEXTS, against=AGAINST)
    torch.testing.assert_close(after, before)
    with pytest.raises(EncoderError):
        exported(run, tmp_path / "again", with_encoder=True)


def test_an_encoder_without_files_cannot_come_along(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="'hashing', which has no files"):
        exported(finished_run, tmp_path / "model", with_encoder=True)


def test_calibration_fits_the_training_groups_held_back_questions(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = exported(finished_run, tmp_path / "calibrated", calibrate=True)
    config = config_of(finished_run)
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    train = [load_group(config, group) for group, role in roles.items() if role == "train"]
    predictor = load_predictor(finished_run, "best")
    wanted = fit_temperature(predictor, train, config.evaluation, config.run.seed)
    assert RewardModel.load(folder).temperature == pytest.approx(wanted)
    assert RewardModel.load(exported(finished_run, tmp_path / "plain")).temperature == 1.0
