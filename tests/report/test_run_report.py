import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.blocks import Report, Table
from report.build import build_report
from report.files import RunFiles, read_run
from report.numbers import NONE, number
from report.run_figures import evaluated_rounds
from report.run_report import run_report
from server_app.cohort import simulate
from tests.report.pages import Page, read_page
from tests.server_app.in_process_grid import tiny_config


@pytest.fixture
def run(finished_run: Path) -> RunFiles:
    return read_run(finished_run)


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def section(report: Report, name: str) -> list[Any]:
    return [block for each in report.sections if each.name == name for block in each.blocks]


def texts(report: Report, name: str) -> str:
    return " ".join(block.text for block in section(report, name) if block.kind == "text")


@pytest.mark.parametrize(
    ("key", "caption"), [("held_out", "Held-out groups"), ("train", "Training groups")]
)
def test_the_headline_table_is_the_summary(
    run: RunFiles, run_page: Page, key: str, caption: str
) -> None:
    for name, label in (
        ("model", "Predictor"),
        ("population_mean", "Population mean"),
        ("uniform", "Uniform"),
    ):
        scores = run.summary[key][name]
        row = run_page.row(f"{caption}: scores", label)
        values = {heading.split(" is better")[0]: cell for heading, cell in row.items()}
        shown = {heading: cell.split("★")[0] for heading, cell in values.items()}
        assert shown["Alignment scorehigher"] == number(scores["alignment_score"])
        assert shown["Worst grouphigher"] == number(scores["worst_group"])
        assert shown["CoVlower"] == number(scores["cov"], 4)
        assert shown["Fairness indexhigher"] == number(scores["fairness_index"], 4)
        top = scores["top_option_accuracy"]
        assert shown["Top optionhigher"] == number(100 * top, 1) + " %"


def test_the_best_of_a_column_carries_the_mark(run: RunFiles, run_page: Page) -> None:
    table = next(rows for name, rows in run_page.tables.items() if name.startswith("Held-out gr"))
    column = next(i for i, heading in enumerate(table[0]) if heading.startswith("Alignment score"))
    best = max(row[column].split("★")[0] for row in table[1:])
    for row in table[1:]:
        assert ("★" in row[column]) == row[column].startswith(best)


def test_the_summary_says_how_the_predictor_stands_to_the_baselines(run: RunFiles) -> None:
    scores = run.summary["held_out"]
    text = run_report(run).summary
    assert "After 2 rounds of FedAvg across 2 training groups" in text
    assert number(scores["model"]["alignment_score"]) in text
    assert scores["model"]["worst_group_name"] in text
    mine, theirs = (scores[name]["alignment_score"] for name in ("model", "uniform"))
    word = "above" if mine > theirs else "below"
    assert f"{word} the uniform baseline ({number(theirs)})" in text


@pytest.mark.parametrize(("score", "word"), [(0.9, "above"), (0.1, "below"), (0.5, "level with")])
def test_above_below_and_level_are_told_apart(run: RunFiles, score: float, word: str) -> None:
    run.summary["held_out"]["model"]["alignment_score"] = score
    run.summary["held_out"]["uniform"]["alignment_score"] = 0.5001
    assert f"{word} the uniform baseline" in run_report(run).summary


def test_curves_hold_the_recorded_rounds(run: RunFiles) -> None:
    figure = next(f for f in run_report(run).figures() if f.name == "alignment-score")
    rows = [
        point
        for point in figure.datasets["points"]
        if point["role"] == "held_out" and point["label"] == "Predictor"
    ]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert [row["mean"] for row in rows] == [e["held_out"]["alignment_score"] for e in run.rounds]
    assert [row["optimizer_steps"] for row in rows] == [0, 2, 4]
    assert rows[-1]["seconds"] == pytest.approx(sum(e["seconds"] for e in run.rounds), abs=1e-3)
    traffic = sum(e["megabytes_down"] + e["megabytes_up"] for e in run.rounds)
    assert rows[-1]["megabytes"] == pytest.approx(traffic, abs=1e-3)
    levels = {row["label"]: row["mean"] for row in figure.datasets["levels"]}
    assert levels["Uniform"] == run.summary["train"]["uniform"]["alignment_score"]


def test_what_rounds_without_evaluation_spent_counts() -> None:
    rounds = [
        {"round": 1, "seconds": 1.0, "megabytes_down": 2.0, "megabytes_up": 1.0},
        {
            "round": 2,
            "seconds": 2.0,
            "megabytes_down": 2.0,
            "megabytes_up": 1.0,
            "groups": {"a": 1},
        },
    ]
    (found,) = evaluated_rounds(rounds)
    assert (found["round"], found["elapsed_seconds"], found["megabytes"]) == (2, 3.0, 6.0)


def test_groups_are_sorted_by_score_beside_their_baselines(run: RunFiles) -> None:
    figure = next(f for f in run_report(run).figures() if f.name == "groups")
    held_out = [g for g, entry in run.groups.items() if entry["role"] == "held-out"]
    order = sorted(held_out, key=lambda g: -run.groups[g]["alignment_score"])
    rows = [[cell.text for cell in row] for row in figure.table.rows]
    assert [row[0] for row in rows[:2]] == order
    best = run.groups[order[0]]
    assert rows[0][2:5] == [
        number(best[key], 4) for key in ("alignment_score", "population_mean", "uniform")
    ]
    sort = figure.views[0].spec["layer"][-1]["encoding"]["y"]["sort"]
    assert sort == order


def test_the_best_predictor_is_shown_when_it_is_another_than_the_last(run: RunFiles) -> None:
    run.summary["best_round"] = 1
    run.summary["best"]["held_out"]["alignment_score"] = 0.4321
    table = section(run_report(run), "results")[0]
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[1]][:2] == ["Predictor of round 1", "0.432"]
    run.summary["best_round"] = run.summary["round"]
    assert len(section(run_report(run), "results")[0].rows) == 3


def test_summaries_without_the_newer_measures_are_fine(run: RunFiles) -> None:
    for role in ("held_out", "train"):
        for scores in (*run.summary[role].values(), run.summary["best"][role]):
            scores.pop("top_option_accuracy"), scores.pop("calibration_error")
    for entry in run.groups.values():
        entry.pop("top_option_accuracy"), entry.pop("calibration_error")
    table = section(run_report(run), "results")[0]
    assert "Top option" not in [column.heading for column in table.columns]


def test_a_run_without_held_out_groups_is_about_its_training_groups(
    tmp_path: Path, session_cache: None
) -> None:
    config = tiny_config(
        run__directory=str(tmp_path / "run"), data__num_held_out_groups=0, train__num_rounds=1
    )
    simulate(config)
    build_report(tmp_path / "run")
    page = read_page(tmp_path / "run" / "report.html")
    assert "mean alignment score on training groups is" in page.text
    assert not any(name.startswith("Held-out groups") for name in page.tables)


# -- half-finished runs


def half_finished(copy: Path, status: str, reason: str = "") -> Path:
    (copy / "status.json").write_text(json.dumps({"status": status, "reason": reason}))
    for name in ("summary.json", "groups.parquet"):
        (copy / name).unlink()
    shutil.rmtree(copy / "predictor-final")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:2]))
    return copy


def test_a_run_that_was_killed_gets_a_report_of_what_is_there(copy: Path) -> None:
    build_report(half_finished(copy, "running"))
    page = read_page(copy / "report.html")
    assert "has not finished, or was killed: round 1 of 2" in page.text
    assert "summary.json: final scores and baselines" in page.text
    assert "groups.parquet: scores per group" in page.text
    scores = read_run(copy).rounds[1]["held_out"]
    mean = number(scores["alignment_score"])
    assert "After 1 round of FedAvg, the predictor's" in page.text
    assert f"mean alignment score on held-out groups is {mean}" in page.text
    assert {"alignment-score", "groups-over-rounds", "traffic"} <= set(page.data["figures"])
    assert "Questions cannot be shown on this machine." in page.text
    assert "predictor-final" in page.text


def test_a_failed_run_says_why(copy: Path) -> None:
    build_report(half_finished(copy, "failed", "Too few clients in round 2."))
    assert "This run failed: Too few clients in round 2." in read_page(copy / "report.html").text


def test_a_run_that_has_just_started_gets_a_report(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"status": "running", "reason": ""}')
    build_report(tmp_path)
    page = read_page(tmp_path / "report.html")
    assert "No evaluation has been recorded yet" in page.text
    assert "config.toml: settings" in page.text


def test_groups_without_a_score_are_named(run: RunFiles) -> None:
    run.summary["missing_groups"] = ["Northern nurses"]
    notice = run_report(run).notices[-1]
    assert list(notice.items) == ["Northern nurses"]


def test_a_finished_run_has_no_notice(run: RunFiles) -> None:
    assert run_report(run).notices == []


# -- communication, privacy, settings


def test_traffic_is_added_up_and_shown_per_round(run: RunFiles) -> None:
    report = run_report(run)
    down = sum(entry["megabytes_down"] for entry in run.rounds)
    assert f"were sent {number(down, 1)} MB" in texts(report, "communication")
    figure = next(f for f in report.figures() if f.name == "traffic")
    assert [row[1].text for row in figure.table.rows] == [
        number(entry["megabytes_down"], 2) for entry in run.rounds
    ]
    assert "sent uncompressed" in texts(report, "communication")


def test_formal_privacy_is_always_spoken_of(run: RunFiles) -> None:
    report = run_report(run)
    assert "No formal (differential) privacy was applied" in texts(report, "communication")
    assert not section(report, "privacy")


def test_privacy_has_a_section_when_updates_are_clipped(run: RunFiles) -> None:
    clipped = replace(run, settings={**run.settings, "strategy.clipping-norm": 0.5})
    table = section(run_report(clipped), "privacy")[-1]
    assert [cell.text for cell in table.rows[0]][:2] == ["strategy.clipping-norm", "0.5"]
    assert "No formal" in texts(run_report(clipped), "privacy")


def test_what_left_the_clients_is_said(run: RunFiles) -> None:
    assert "Answers never left a client." in texts(run_report(run), "communication")
    disclosed = replace(run, settings={**run.settings, "predictor.population-weight": 1.0})
    text = texts(run_report(disclosed), "communication")
    assert "and the training groups' answers, as predictor.population-weight asks for" in text
    assert "Answers never left a client." not in text
    assert "Answers never left" not in texts(run_report(disclosed), "privacy")


def test_no_guarantee_is_made_up_for_privacy_settings_of_the_future(run: RunFiles) -> None:
    future = replace(run, settings={**run.settings, "privacy.noise": 1.0})
    assert "derives no formal guarantee" in texts(run_report(future), "privacy")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"compression.name": "int8"}, "compressed their updates with int8."),
        ({"compression.name": "top-k", "compression.top-k-fraction": 0.2}, "a share of 0.2"),
    ],
)
def test_compression_is_named(run: RunFiles, changes: dict[str, Any], text: str) -> None:
    changed = replace(run, settings={**run.settings, **changes})
    assert text in texts(run_report(changed), "communication")


def test_settings_that_differ_come_first(run: RunFiles, run_page: Page) -> None:
    names = [name for name in run_page.tables if name.startswith("Settings")]
    assert names == ["Settings that differ from their default", "Settings left at their default"]
    row = run_page.row(names[0], "train.num-rounds")
    assert (row["Value"], row["Default"]) == ("2", "30")
    assert run_page.row(names[1], "strategy.name")["Value"] == "fedavg"
    assert len(run_page.tables[names[0]]) + len(run_page.tables[names[1]]) - 2 == len(run.settings)


def test_environment_command_and_citations_are_there(run: RunFiles, run_page: Page) -> None:
    torch = run_page.row("Environment", "torch")
    assert torch["Value"] == run.environment["packages"]["torch"]
    for text in ("config.toml run.directory=again", "2503.09925", "2310.11523", "Apache License"):
        assert text in run_page.text


def test_what_does_not_apply_is_a_dash(run: RunFiles) -> None:
    run.summary["held_out"]["model"]["alignment_score_new_questions"] = None
    table = section(run_report(run), "results")[0]
    column = [column.heading for column in table.columns].index("New questions")
    assert table.rows[0][column].text == NONE
