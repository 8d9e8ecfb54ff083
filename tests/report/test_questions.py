import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import report.questions
from report.blocks import Explorer
from report.files import RunFiles, read_run
from report.questions import explored_groups, question_section, ranked
from server_app.cohort import simulate
from task.baselines import seen_question_keys
from task.config import RunConfig
from task.evaluation import evaluate_group
from task.features import load_group, load_roles
from task.saved_predictor import load_predictor
from task.sources import load_survey
from tests.server_app.in_process_grid import tiny_config


@pytest.fixture
def run(finished_run: Path) -> RunFiles:
    return read_run(finished_run)


def scores(run: RunFiles) -> dict[str, float]:
    return {group: entry["alignment_score"] for group, entry in run.groups.items()}


def explored(run: RunFiles) -> list[dict[str, Any]]:
    return explored_groups(run.path, run.settings, scores(run))


def test_means_are_those_of_the_evaluation(run: RunFiles) -> None:
    config = RunConfig.from_flat(run.settings)  # with one context draw
    roles = load_roles(config.data, config.evaluation, config.run.seed)
    groups = {group: load_group(config, group) for group in roles}
    seen = seen_question_keys({g: data.question_keys for g, data in groups.items()}, roles)
    predictor = load_predictor(run.path, "final")
    entries = explored(run)
    assert [entry["name"] for entry in entries if entry["role"] == "held-out"]
    assert {entry["name"] for entry in entries} == set(roles)
    for entry in entries:
        data = groups[entry["name"]]
        expected = evaluate_group(
            predictor, data, config.evaluation, config.run.seed, seen[data.role]
        )
        assert entry["mean"] == pytest.approx(expected.all.value, abs=1e-4)
        assert entry["mean"] == pytest.approx(scores(run)[entry["name"]], abs=1e-3)
        assert entry["targets"] == expected.all.weight


def test_the_populations_answers_are_mixed_in(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    simulate(
        tiny_config(run__directory=path, train__num_rounds=1, predictor__population_weight=2.0)
    )
    run = read_run(Path(path))
    for entry in explored(run):
        assert entry["mean"] == pytest.approx(scores(run)[entry["name"]], abs=1e-3)


def test_true_shares_are_the_surveys(run: RunFiles) -> None:
    config = RunConfig.from_flat(run.settings)
    survey = load_survey(config)
    for entry in explored(run):
        answers = survey.answers[entry["name"]]
        known = {
            (survey.questions[position].text, survey.questions[position].options): index
            for index, position in enumerate(answers.questions)
        }
        for question in entry["questions"]:
            index = known[question["text"], tuple(question["options"])]
            np.testing.assert_allclose(question["true"], answers.distribution(index), atol=1e-4)
            assert sum(question["predicted"]) == pytest.approx(1, abs=1e-3)
            assert len(question["predicted"]) == len(question["options"])


def test_scores_belong_to_their_shares(run: RunFiles) -> None:
    for entry in explored(run):
        for question in entry["questions"]:
            p, q = np.array(question["predicted"]), np.array(question["true"])
            middle = (p + q) / 2
            divergence = sum(
                np.sum(a[a > 0] * np.log(a[a > 0] / middle[a > 0])) / 2 for a in (p, q)
            )
            assert question["score"] == pytest.approx(1 - np.sqrt(divergence), abs=2e-3)


def test_the_best_come_first_and_the_worst_last() -> None:
    given = ranked(np.array([0.1, 0.9, 0.5, 0.4, 0.8, 0.2, 0.3, 0.6, 0.7, 0.95, 0.05]))
    assert [index for rank, index in given if rank == "best"] == [9, 1, 4]
    assert [index for rank, index in given if rank == "median"] == [7, 2, 3]
    assert [index for rank, index in given if rank == "worst"] == [5, 0, 10]


@pytest.mark.parametrize("number", range(1, 12))
def test_no_question_is_shown_twice(number: int) -> None:
    chosen = [index for _, index in ranked(np.linspace(1, 0, number))]
    assert len(chosen) == len(set(chosen)) == min(number, 9)
    assert chosen == sorted(chosen)


def test_of_many_groups_the_worst_are_shown(run: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.questions, "MOST_GROUPS", 2)
    worst = sorted(scores(run), key=scores(run).__getitem__)[:2]
    section = question_section(run.path, run.settings, scores(run))
    (explorer,) = section.blocks
    assert isinstance(explorer, Explorer)
    assert {group["name"] for group in explorer.groups} == set(worst)
    assert "Of 4 groups, the 2 worst predicted are listed." in explorer.note


def reason(run: RunFiles, **changes: Any) -> str:
    section = question_section(run.path, {**run.settings, **changes}, scores(run))
    (block,) = section.blocks
    text: str = block.text  # type: ignore[union-attr]
    assert text.startswith("Questions cannot be shown on this machine.")
    return text


def test_a_survey_that_is_not_here_is_said(run: RunFiles) -> None:
    changes = {"data.source": "table", "data.path": "/nowhere/survey.csv"}
    assert "/nowhere/survey.csv" in reason(run, **changes)


def test_settings_of_another_version_are_said(run: RunFiles) -> None:
    assert "train.gone" in reason(run, **{"train.gone": 1})


def test_a_damaged_predictor_is_said(run: RunFiles, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    file = copy / "predictor-final" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    reason(read_run(copy))
    shutil.rmtree(copy / "predictor-final")
    assert "predictor-final" in reason(read_run(copy))
