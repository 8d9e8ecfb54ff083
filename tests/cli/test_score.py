"""`pluralllm score`: a run's groups score a file of responses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from task.config import RunConfig
from task.contexts import Context
from task.evaluation import evaluation_splits
from task.features import load_group, load_roles
from task.reward import RewardModel
from task.saved_predictor import load_predictor
from tests.cli.command import Command, Outcome
from tests.server_app.cohort_runs import cohort_config
from tests.server_app.interruption import run

ROWS = [
    {"prompt": "A tram?", "response": "Yes.", "against": "No."},
    {"prompt": "A tram?", "response": "No.", "against": "Yes."},
    {"prompt": "Work less?", "response": "On Fridays.", "against": ["Never.", "Always."]},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A run of one round, with the cohort engine."""
    folder = tmp_path_factory.mktemp("finished") / "mine"
    config = cohort_config(train__num_rounds=1, engine__name="cohort")
    run(config, folder)
    return config, folder


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def expected_of(config: RunConfig, folder: Path, which: str) -> tuple[list[str], np.ndarray]:
    given = {}
    for group in sorted(load_roles(config.data, config.evaluation, config.run.seed)):
        data = load_group(config, group)
        draw = evaluation_splits(data, config.evaluation, config.run.seed)[0]
        given[group] = Context.of_data(data, draw.context)
    model = RewardModel(load_predictor(folder, which), given, device="cpu")
    texts: list[Any] = [[row[key] for row in ROWS] for key in ("prompt", "response", "against")]
    scores_BG = model.scores(texts[0], texts[1], against=texts[2]).numpy()
    return list(given), scores_BG


@pytest.mark.parametrize("which", ["best", "final"])
def test_scores_are_the_reward_models_and_nothing_else_is_left(
    pluralllm: Command,
    finished: tuple[RunConfig, Path],
    rollouts: Path,
    tmp_path: Path,
    which: str,
) -> None:
    config, folder = finished
    before = sorted(path.name for path in folder.iterdir())
    outcome = pluralllm(
        "score",
        str(folder),
        *("--rollouts", "rollouts.jsonl"),
        *("--to", "scores.jsonl"),
        *("--aggregation", "min"),
        *("--which", which),
    )
    assert outcome.status == 0, outcome.err
    groups, expected = expected_of(config, folder, which)
    entries = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert all(list(entry["scores"]) == groups for entry in entries)
    found = np.array([list(entry["scores"].values()) for entry in entries])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose([e["score"] for e in entries], expected.min(axis=1), atol=1e-5)
    assert f"Scores: {tmp_path / 'scores.jsonl'} (3 responses, 4 groups" in outcome.out
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not (tmp_path / "runs").exists()


def test_settings_change_the_run(
    pluralllm: Command, finished: tuple[RunConfig, Path], rollouts: Path, tmp_path: Path
) -> None:
    outcome = score(pluralllm, finished[1], "score.groups=Northern nurses", "score.batch-size=1")
    assert outcome.status == 0, outcome.err
    entries = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [list(entry["scores"]) for entry in entries] == [["Northern nurses"]] * 3


def score(
    pluralllm: Command, folder: Path, *more: str, rollouts: str = "rollouts.jsonl"
) -> Outcome:
    return pluralllm("score", str(folder), "--rollouts", rollouts, "--to", "scores.jsonl", *more)


@pytest.mark.parametrize("engine", ["flower", "cohort"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--which", "worst"], "holds no predictor"),
        (["--aggregation", "mini"], "score.aggregation = 'mini': expected one of mean, min"),
        (["score.group=x"], "Did you mean 'score.groups'?"),
        (["score.groups=Northern nurse"], "Did you mean 'Northern nurses'?"),
        (["encoder.dimension=17"], "was trained on features of hashing-16"),
        (["privacy.unit=question"], "privacy.unit = 'question': expected 'none' or 'member'"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_status_2(
    pluralllm: Command,
    finished: tuple[RunConfig, Path],
    rollouts: Path,
    tmp_path: Path,
    engine: str,
    settings: list[str],
    message: str,
) -> None:
    outcome = score(pluralllm, finished[1], f"engine.name={engine}", *settings)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "Simulation:" not in outcome.out
    assert not (tmp_path / "scores.jsonl").exists()


def test_an_empty_response_is_named_by_its_row(
    pluralllm: Command, finished: tuple[RunConfig, Path], tmp_path: Path
) -> None:
    rows = "prompt,response\nA?,Yes.\nB?,\n"
    (tmp_path / "empty.csv").write_text(rows)
    outcome = score(pluralllm, finished[1], rollouts="empty.csv")
    assert outcome.status == 2
    assert "empty.csv', row 2: response is empty" in outcome.err


def test_nothing_is_overwritten(
    pluralllm: Command, finished: tuple[RunConfig, Path], rollouts: Path, tmp_path: Path
) -> None:
    (tmp_path / "scores.jsonl").write_text("mine\n")
    outcome = score(pluralllm, finished[1])
    assert outcome.status == 2
    assert "exists already" in outcome.err
    assert (tmp_path / "scores.jsonl").read_text() == "mine\n"


def test_a_folder_without_a_run_is_named(
    pluralllm: Command, rollouts: Path, tmp_path: Path
) -> None:
    outcome = score(pluralllm, tmp_path / "gone")
    assert outcome.status == 2
    assert "gone holds no predictor" in outcome.err
