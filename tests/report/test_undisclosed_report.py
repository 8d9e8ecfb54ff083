"""Reports of runs that disclose noisy means over groups, or nothing."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import report.questions
from report.build import build_report
from report.files import RunFiles, read_run
from report.noisy_scores import noise_of_means
from report.numbers import NONE
from report.run_report import run_report
from server_app.cohort import simulate
from task.metrics import SCORE_RANGE
from tests.report.pages import Page, read_page
from tests.server_app.in_process_grid import tiny_config

PRIVATE = {
    "privacy__unit": "client",
    "privacy__noise_multiplier": 2.0,
    "strategy__clipping_norm": 0.5,
    "data__num_held_out_groups": 2,
}


def private_run(folder: Path, **changes: Any) -> Path:
    path = folder / "run"
    simulate(tiny_config(run__directory=str(path), **PRIVATE | changes))
    with pytest.MonkeyPatch.context() as patch:
        # Neither the page nor its figures may need an answer.
        patch.setattr(report.questions, "load_survey", None)
        build_report(path)
    return path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> Path:
    return private_run(tmp_path_factory.mktemp("noisy"), privacy__metrics="noisy")


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> Path:
    return private_run(tmp_path_factory.mktemp("off"), privacy__metrics="off")


@pytest.fixture
def run(noisy: Path) -> RunFiles:
    return read_run(noisy)


def names(page: Page) -> list[str]:
    return [a["id"] for a in page.attributes("section")]


def test_a_noisy_run_shows_its_means_and_how_noisy_they_are(noisy: Path) -> None:
    page = read_page(noisy / "report.html")
    mean = json.loads((noisy / "summary.json").read_text())["held_out"]["model"]["alignment_score"]
    row = page.row("Mean alignment score with noise", "Held-out groups")
    deviation = 5 * (SCORE_RANGE[1] - SCORE_RANGE[0]) / 2
    assert row["Noisy mean"] == f"{mean:.4f}"
    assert row["Noise (standard deviation)"] == f"{deviation:.4f}"
    assert row["Number of groups"] == "2"
    assert "There are too few held-out groups and training groups for so much noise" in page.text
    assert set(page.data["figures"]) == {"alignment-score", "epsilon"}
    assert names(page) == [
        *("results", "curves", "communication", "privacy", "settings", "words", "cite")
    ]
    assert page.data["groups"] == []
    assert "Noisy mean alignment score of" in page.text
    assert (noisy / "plots" / "run.png").is_file()


def test_a_run_without_scores_has_a_page_that_says_so(off: Path) -> None:
    page = read_page(off / "report.html")
    assert "2 rounds of FedAvg across 2 training groups. This run discloses no scores." in page.text
    assert "FedAvg on the synthetic survey, 2 rounds" in page.text
    assert set(page.data["figures"]) == {"epsilon"}
    assert names(page) == [*("results", "communication", "privacy", "settings", "words", "cite")]
    assert "What is missing" not in page.text
    assert not (off / "plots").exists()


def test_curves_have_a_band_of_the_noise(run: RunFiles) -> None:
    figure = next(f for f in run_report(run).figures() if f.name == "alignment-score")
    recorded = [e["train"]["alignment_score"] for e in run.rounds if "train" in e]
    points = [p for p in figure.datasets["points"] if p["role"] == "train"]
    half = 1.96 * 5 * (SCORE_RANGE[1] - SCORE_RANGE[0]) / 2
    assert [p["mean"] for p in points] == recorded
    assert [p["high"] - p["mean"] for p in points] == pytest.approx([half] * len(points))
    assert [p["mean"] - p["low"] for p in points] == pytest.approx([half] * len(points))


def test_noise_of_clients_is_on_the_sum_and_noise_of_questions_on_each_score(
    run: RunFiles,
) -> None:
    influence = 3.0 * (SCORE_RANGE[1] - SCORE_RANGE[0])
    settings = {
        **run.settings,
        "privacy.metrics-noise-multiplier": 3.0,
        "data.num-held-out-groups": 1,
    }
    assert noise_of_means(settings) == pytest.approx(
        {"held_out": influence, "train": influence / 3}
    )
    local = {**settings, "privacy.unit": "question"}
    assert noise_of_means(local) == pytest.approx(
        {"held_out": influence, "train": influence / math.sqrt(3)}
    )


def test_where_the_survey_is_not_here_the_noise_is_not_known(run: RunFiles) -> None:
    gone = {**run.settings, "data.source": "table", "data.path": "/nowhere/survey.csv"}
    result = run_report(replace(run, settings=gone))
    table = result.sections[0].blocks[0]
    assert [cell.text for cell in table.rows[0][2:]] == [NONE, NONE]  # type: ignore[union-attr]
    figure = next(f for f in result.figures() if f.name == "alignment-score")
    assert {p["low"] for p in figure.datasets["points"]} == {None}
    assert "tells nothing" not in result.summary


def test_a_small_noise_is_not_said_to_drown_the_mean(run: RunFiles) -> None:
    quiet = {**run.settings, "privacy.metrics-noise-multiplier": 0.01}
    assert "tell" not in run_report(replace(run, settings=quiet)).summary


def test_a_run_that_has_just_started_has_a_page(run: RunFiles) -> None:
    started = replace(run, rounds=[], summary={}, status="running")
    result = run_report(started)
    assert result.summary.startswith("No evaluation has been recorded yet")
    assert [f.name for f in result.figures()] == []
    assert "summary.json" in repr(result.notices)
    assert "groups.parquet" not in repr(result.notices)


def test_a_run_that_was_killed_shows_what_it_has(run: RunFiles) -> None:
    killed = replace(run, rounds=run.rounds[:2], summary={}, status="running")
    result = run_report(killed)
    assert result.key_figures[0].value == f"{run.rounds[1]['held_out']['alignment_score']:.3f}"
    assert "1 round of FedAvg" in result.summary
